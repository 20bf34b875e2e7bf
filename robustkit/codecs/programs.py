"""Runs programs, and lets nothing that they start outlive them, whatever becomes of the process that asked.

Between that process and the programs stands a small one of its own, the keeper: this file, run as a script. It adopts
what the programs leave behind, ends all of it after each run, and does so too when the asking process is killed. Hence
nothing but the standard library, and little of it, is imported here, and `robustkit.patience` by its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import IO, Any, NamedTuple

#: What is kept of a program's output, in bytes: of its beginning and of its end.
_HEAD, _TAIL = 2000, 1 << 15
#: How long the keeper tries to end what a program left, in seconds. A process that the kernel holds can't be ended.
_PATIENCE = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class ProgramError(RuntimeError):
    """A program could not be run at all; the message says why."""


class Ended(NamedTuple):
    """How a program ended.

    Attributes:
        status: exit status, or minus the signal; ``None`` where it took too long.
        peak: its largest resident set, in bytes.
        head, tail: what it wrote to its standard output and error, the first and the last of it.
        left: processes that it left behind, which are ended by now.
    """

    status: int | None
    peak: int
    head: str
    tail: str
    left: int


class Programs:
    """Runs programs one after another; several threads may do so at once."""

    def __init__(self) -> None:
        self._keepers: list[_Keeper] = []
        self._pid = os.getpid()
        self._close = weakref.finalize(self, _close_all, self._keepers)

    def run(self, words: Sequence[str], folder: str, *, seconds: float, memory: int = 0, largest: int) -> Ended:
        """Run a program to its end, in the folder ``work`` of ``folder``, and end what it leaves.

        Args:
            words: program and arguments.
            folder: removed, with all in it, should this process be killed meanwhile.
            seconds: longest that it may run. Waiting for a processor that other programs have does not count.
            memory: largest address space in bytes, 0 for no limit of its own.
            largest: most bytes in a file that it writes.

        Raises:
            ProgramError: it could not be started.
        """
        if self._pid != os.getpid():  # a fork must not share its parent's pipes
            self._pid, self._keepers[:] = os.getpid(), []
        try:
            keeper = self._keepers.pop()
        except IndexError:
            keeper = _Keeper()
        order = {"words": list(words), "folder": folder, "seconds": seconds, "memory": memory, "largest": largest}
        try:
            answer = keeper.ask(order)
        except BaseException:  # Ctrl-C: the answer must not be taken for the next one's
            keeper.close()
            raise
        self._keepers.append(keeper)
        if "error" in answer:
            raise ProgramError(answer["error"])
        head, tail = (answer[part].encode("latin-1").decode(errors="replace") for part in ("head", "tail"))
        return Ended(answer["status"], answer["peak"], head, tail, answer["left"])


class _Keeper:
    """The asking process's end of a keeper."""

    def __init__(self) -> None:
        from robustkit.codec import KEPT, MARK

        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            # It ends its programs by itself, and removes their files; a killed one could not.
            env={name: value for name, value in os.environ.items() if name != MARK},
        )
        KEPT.add(self._process.pid)

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        _, told = self._pipes()
        with contextlib.suppress(BrokenPipeError):
            self._send(json.dumps(order).encode() + b"\n")
        line = told.readline()
        if not line.endswith(b"\n"):
            raise ProgramError("the process that runs the programs was ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it, which ends its programs. Harmless the second time."""
        from robustkit.codec import KEPT

        KEPT.discard(self._process.pid)
        for pipe in self._pipes():
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(2 * _PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, line: bytes) -> None:
        pipe, _ = self._pipes()
        pipe.write(line)
        pipe.flush()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def _close_all(keepers: list[_Keeper]) -> None:
    while keepers:
        keepers.pop().close()


# -- the keeper --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Do what standard input asks, a line of JSON each, until it ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    os.chdir("/")
    folder = ""
    try:
        for line in _lines(0):
            order = json.loads(line)
            folder = order["folder"]
            try:
                answer = _run(order)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                answer = {"error": str(error)}
            os.write(1, json.dumps(answer).encode() + b"\n")
    finally:
        _end_all()
        if folder:
            # Whoever asked has removed it, if it could.
            import shutil

            shutil.rmtree(folder, ignore_errors=True)


def _leave(number: int, frame: object) -> None:
    sys.exit(1)


def _lines(descriptor: int) -> Iterator[bytes]:
    held = b""
    while data := os.read(descriptor, 1 << 16):
        *lines, held = (held + data).split(b"\n")
        yield from lines


def _run(order: dict[str, Any]) -> dict[str, Any]:
    with open(os.path.join(order["folder"], "said"), "w+b") as said:
        process = subprocess.Popen(
            order["words"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=os.path.join(order["folder"], "work"),
            start_new_session=True,
            preexec_fn=_limits(order["memory"], order["largest"]),
        )
        try:
            status, peak = _wait(process.pid, order["seconds"])
        finally:
            process.returncode = 0  # reaped, or about to be
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            left = _end_all()
        end = said.seek(0, os.SEEK_END)
        said.seek(0)
        head = said.read(_HEAD)
        said.seek(max(0, end - _TAIL))
        words = {"head": head.decode("latin-1"), "tail": said.read().decode("latin-1")}
    return {"status": status, "peak": peak, "left": left, **words}


def _limits(memory: int, largest: int) -> Callable[[], None]:
    """What a program may use; runs in its process before it starts."""

    def limit() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for kind, most in ((resource.RLIMIT_FSIZE, largest), (resource.RLIMIT_AS, memory)):
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            if most:
                resource.setrlimit(kind, (most, most))

    return limit


def _wait(pid: int, seconds: float) -> tuple[int | None, int]:
    """Exit status (minus the signal) and peak resident set; status ``None`` after ``seconds``, and a kill."""
    watch = select.poll()
    watch.register(0, 0)  # no reading: only its end, with whoever asked
    pidfd = -1
    with contextlib.suppress(AttributeError, OSError):
        pidfd = os.pidfd_open(pid)
        watch.register(pidfd, select.POLLIN)
    patience = _patience()
    deadline, pause, hung = patience.Deadline(seconds, _below, patience.Spent(0.0, 0.0)), 0.0005, False
    try:
        while True:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                break
            if not hung and deadline.reached(pid):
                hung = True
                os.kill(pid, signal.SIGKILL)
            wait = pause if pidfd < 0 or hung else min(deadline.at - time.monotonic(), 1000.0)
            pause = min(2 * pause, 0.01)
            if any(found == 0 for found, _ in watch.poll(max(1, 1000 * wait))):
                sys.exit(0)
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None if hung else os.waitstatus_to_exitcode(status), peak


@functools.cache
def _patience() -> ModuleType:
    """The package that it belongs to would import much."""
    file = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "patience.py")
    spec = importlib.util.spec_from_file_location("patience", file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def _end_all() -> int:
    """End every process below this one; returns how many there were.

    Those that left their group, or whose parent ended, are below this one too: it adopts orphans (Linux).
    """
    found: set[int] = set()
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            break
        living = _below(os.getpid())
        for pid in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        found.update(living)
        time.sleep(0.001)
    return len(found)


def _below(root: int) -> list[int]:
    """The living descendants of a process; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    dead = set()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                    # The program's name, in parentheses, may hold anything.
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                    children.setdefault(int(parent), []).append(int(name))
                    if state in (b"Z", b"X"):
                        dead.add(int(name))
    found, queue = [], [root]
    while queue:
        more = children.get(queue.pop(), [])
        queue += more
        found += [pid for pid in more if pid not in dead]
    return found


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _prctl(option: int, value: int) -> None:
    if _LIBC is not None:
        _LIBC.prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
