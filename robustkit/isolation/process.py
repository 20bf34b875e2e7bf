"""One worker process seen from its parent: start it, ask it, see it die, say of what, start the next."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import robustkit
from robustkit.codec import TIME_LIMIT, Image
from robustkit.errors import RobustkitError
from robustkit.isolation import wire
from robustkit.isolation.child import LOST_CONNECTION
from robustkit.isolation.environment import clean
from robustkit.isolation.limits import Limits, kernel_kills, peak_bytes, resident, says_out_of_memory
from robustkit.outcome import Outcome
from robustkit.registry import CodecSpec, CodecUnavailable

#: Set in a worker's environment.
INSIDE = "ROBUSTKIT_WORKER"

# glibc gives the pages of a freed image back to the kernel, and faulting them in again for the next one costs half as
# much as decoding a JPEG. (Where buffers lie does not change: from the first freed one on, glibc has them in its heap.)
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20)}

# OpenMP's threads wait for one another by spinning. Where something else wants the same cores, a decode of one second
# then takes ten and looks hung. Put to sleep at once they would take half as long again on idle cores; so they spin for
# some ten microseconds, then sleep.
_PATIENCE = {"GOMP_SPINCOUNT": "10000"}

_TICK = 0.02
_TAIL = 4000
_KEPT_MEMORY_FILE = 64 * 2**20
_LAST_WORDS = 1.0


class WorkerError(RobustkitError, RuntimeError):
    """A codec failed where nothing but success or a refusal is allowed, or a worker can't be used at all."""


class WorkerDied(Exception):
    """The worker is gone, and with it the answer; ``outcome`` says which of crashed, hung and exhausted it was."""

    def __init__(self, outcome: Outcome, message: str, seconds: float) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message
        self.seconds = seconds


@dataclass(frozen=True)
class Answer:
    """What the worker says to one request. ``failure`` is (outcome, message), or ``None`` where ``value`` holds."""

    value: Any
    lengths: list[int]
    failure: tuple[Outcome, str] | None
    seconds: float
    warnings: tuple[str, ...]
    spoilt: str | None


class Worker:
    """A place for one process at a time. Not thread-safe: whoever borrows it has it alone.

    Args:
        spec: the codec; its settings must be JSON (and paths).
        limits: time and memory.
        environment: variables for the process on top of this one's, of which it does not get the secrets.
    """

    def __init__(self, spec: CodecSpec, limits: Limits, *, environment: Mapping[str, str] | None = None) -> None:
        if INSIDE in os.environ:
            raise WorkerError(
                "a codec's module starts workers while a worker imports it: put that under if __name__ == '__main__'"
            )
        self._limits = limits
        self._environment = {**_ALLOCATOR, **_PATIENCE, **clean(os.environ), **(environment or {}), INSIDE: "1"}
        self._environment[TIME_LIMIT] = repr(limits.seconds)
        self._order = _order(spec, limits.memory)
        self._name = spec.name
        self._python = spec.python
        if self._python is not None:
            for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
                self._environment.pop(name, None)
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._loaded: dict[str, Any] | None = None
        self._number = 0
        _mind_children()
        self._start()

    @property
    def pid(self) -> int | None:
        """The process's id, which is its group's and session's too."""
        return None if self._process is None else self._process.pid

    def about(self) -> dict[str, Any]:
        """What the worker says of its codec: name, family, profile, batched.

        Raises:
            CodecUnavailable: it could not load it; the message says why.
            WorkerError: closed.
        """
        self._clear()
        if self._closed:
            raise WorkerError(f"the workers of codec {self._name!r} are closed")
        if self._process is None:
            self._start()
        if self._loaded is None:
            try:
                answer = self._answer(self._limits.start_seconds, watch=False)
            except WorkerDied as death:
                raise CodecUnavailable(f"codec {self._name!r} can't be loaded in a worker: {death.message}") from None
            if answer.failure is None and not _tells_of_a_codec(answer.value):
                self.kill()
                raise CodecUnavailable(f"codec {self._name!r} can't be loaded: it wrote its worker's answer")
            if answer.failure is not None:
                self.kill()
                outcome, message = answer.failure
                if outcome is not Outcome.REFUSED:
                    message = f"codec {self._name!r} can't be loaded: {message}"
                raise CodecUnavailable(message)
            self._loaded = answer.value
            self._tail = b""
        return self._loaded

    def ask(
        self, operation: str, buffers: Sequence[bytes | Image] = (), *, seconds: float | None = None, **more: Any
    ) -> Answer:
        """Have the worker do one thing with ``buffers``, which it finds in the memory file.

        Raises:
            WorkerDied: it did not live to answer; the next request gets a new process.
            CodecUnavailable, WorkerError: as :meth:`about`.
        """
        self.about()
        self._number += 1
        lengths = wire.write(self._file, buffers)
        request = {"operation": operation, "id": self._number, "lengths": lengths, **more}
        try:
            self._socket.sendall(wire.pack(request))
        except OSError:
            self._cut = True
        return self._answer(self._limits.seconds if seconds is None else seconds, watch=True)

    def images(self, answer: Answer, sizes: Sequence[tuple[int, int]]) -> list[Image]:
        """The images that ``answer`` announces, as arrays of their own.

        Raises:
            WorkerDied: it announced something else than it sent.
        """
        images, offset = [], 0
        try:
            self._limit(answer)
            if [3 * h * w for h, w in sizes] != answer.lengths:
                raise wire.WireError(f"images of {sizes} announced, {answer.lengths} bytes sent")
            for (height, width), length in zip(sizes, answer.lengths, strict=True):
                images.append(wire.read_array(self._file, offset, length).reshape(height, width, 3))
                offset += length
        except wire.WireError as error:
            raise self.garbled(error) from None
        return images

    def payload(self, answer: Answer) -> bytes:
        """The one buffer that ``answer`` announces.

        Raises:
            WorkerDied: there is none.
        """
        try:
            if len(answer.lengths) != 1:
                raise wire.WireError(f"one buffer expected, {len(answer.lengths)} sent")
            self._limit(answer)
            return wire.read(self._file, 0, answer.lengths[0])
        except wire.WireError as error:
            raise self.garbled(error) from None

    def _limit(self, answer: Answer) -> None:
        """No answer is larger than the process that gave it may be."""
        size, loaded = sum(answer.lengths), self._loaded or {"resident": 0}
        if self._limits.memory and size > self._limits.memory + loaded["resident"]:
            raise wire.WireError(f"{size} bytes announced, the limit is {_mib(self._limits.memory)}")

    def done(self, answer: Answer) -> None:
        """Nothing more is read from ``answer``: make the worker fit for the next request."""
        if answer.spoilt is not None:
            self.restart()
        elif os.fstat(self._file).st_size > _KEPT_MEMORY_FILE:
            os.ftruncate(self._file, 0)

    def restart(self) -> None:
        """A new process in place of this one; it loads while the parent goes on."""
        self.kill()
        if not self._closed:
            self._start()

    def _replace(self) -> None:
        # A process that can't even load its codec is not started over and over.
        loaded = self._loaded is not None
        self.kill()
        if loaded and not self._closed:
            self._start()

    def close(self) -> None:
        """End the process, and everything that it started, for good."""
        self._closed = True
        self.kill()

    def kill(self) -> None:
        """End the process now. Harmless where there is none."""
        process, self._process = self._process, None
        if process is not None:
            self._reap(process)
            self._release(process)

    def _start(self) -> None:
        born = time.monotonic()
        ours, theirs = socket.socketpair()
        self._file = wire.memory_file()
        code = (
            (_our_path() if self._python is None else _ours_alone())
            + "from robustkit.isolation.child import main\n"
            + f"main({theirs.fileno()}, {self._file}, {os.getpid()})"
        )
        try:
            process = (
                _launcher()
                .submit(
                    subprocess.Popen,
                    [self._python or sys.executable, "-c", code],
                    bufsize=0,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(theirs.fileno(), self._file),
                    start_new_session=True,
                    env=self._environment,
                )
                .result()
            )
        except BaseException:
            ours.close()
            os.close(self._file)
            raise
        finally:
            theirs.close()
        self._process = process
        self._born = born
        self._socket = ours
        self._socket.setblocking(False)
        self._inbox = wire.Inbox()
        self._tail = b""
        self._cut = False
        self._loaded = None
        self._peak = 0
        self._kernel_kills = kernel_kills()
        assert process.stderr is not None
        self._errors = process.stderr.fileno()
        os.set_blocking(self._errors, False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._errors, select.POLLIN)
        # Its end shows here even when a grandchild still holds the socket and the pipe.
        try:
            self._pidfd = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else -1
        except OSError:
            self._pidfd = -1
        if self._pidfd >= 0:
            self._poll.register(self._pidfd, select.POLLIN)
        self._number = 0
        self._socket.sendall(self._order)

    def _clear(self) -> None:
        """Notice, between two requests, that the process has died or has spoken unasked; start with empty ears."""
        if self._process is None or self._loaded is None:
            return
        if self._inbox:
            self.restart()
            return
        for descriptor, _ in self._poll.poll(0):
            if descriptor == self._errors:
                self._hear()
            else:
                self.restart()
                return
        self._tail = b""

    def _answer(self, seconds: float, *, watch: bool) -> Answer:
        started = time.monotonic()
        deadline, check = started + seconds, started + _TICK
        try:
            while True:
                if (message := self._inbox.take()) is not None:
                    return self._parse(message, time.monotonic() - started)
                now = time.monotonic()
                if now >= deadline:
                    raise self._hung(seconds)
                if now >= check:
                    check = now + _TICK
                    if watch:
                        self._watch(now - started)
                ended = False
                for descriptor, _ in self._poll.poll(1000 * max(0.0, min(check, deadline) - now)):
                    if descriptor == self._errors:
                        self._hear()
                    elif descriptor == self._pidfd:
                        ended = True
                    else:
                        self._receive()
                if ended or (self._pidfd < 0 and self._process is not None and self._process.poll() is not None):
                    while self._receive():
                        pass
                    if (message := self._inbox.take()) is not None:
                        return self._parse(message, time.monotonic() - started)
                    raise self._died(time.monotonic() - started)
        except wire.WireError as error:
            raise self.garbled(error) from None
        except WorkerDied:
            raise
        except BaseException:
            # Ctrl-C in the parent: the answer to this request must never be taken for the next one's.
            self.kill()
            raise

    def _parse(self, message: dict[str, Any], elapsed: float) -> Answer:
        if self._inbox:
            raise wire.WireError("more than one answer to a request")
        if self._loaded is None:
            # It has loaded while the parent was busy with something else.
            elapsed = time.monotonic() - self._born
        try:
            if type(message["id"]) is not int or message["id"] != self._number:
                raise wire.WireError(f"answer {message['id']!r:.99} to request {self._number}")
            lengths, seconds, spoilt = message["lengths"], message["seconds"], message["spoilt"]
            failure, words = message["failure"], message["warnings"]
            if type(lengths) is not list or any(type(n) is not int or n < 0 for n in lengths):
                raise wire.WireError(f"not lengths: {lengths!r:.99}")
            # Both ends read one clock. (The comparison is false for what is no finite number.)
            if type(seconds) not in (int, float) or not 0 <= seconds <= elapsed + 1:
                raise wire.WireError(f"not a time within {elapsed:.3f} s: {seconds!r:.99}")
            if type(words) is not list or not all(isinstance(w, str) for w in [*words, spoilt or ""]):
                raise wire.WireError("warnings that are no text")
            return Answer(
                value=message["value"],
                lengths=lengths,
                failure=None if failure is None else (failed(failure["outcome"]), str(failure["message"])),
                seconds=float(seconds),
                warnings=tuple(words),
                spoilt=spoilt,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise wire.WireError(f"not an answer: {error}") from error

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            if not self._cut:
                self._cut = True
                # Its end, or the time limit, is what decides now.
                with contextlib.suppress(KeyError):
                    self._poll.unregister(self._socket)
            return False
        self._inbox.feed(data)
        return True

    def _hear(self) -> None:
        """Take what the worker has written to its standard error, and keep the end of it."""
        try:
            data = os.read(self._errors, 1 << 16)
        except BlockingIOError:
            return
        if data:
            self._tail = (self._tail + data)[-_TAIL:]
        else:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._errors)

    def _watch(self, elapsed: float) -> None:
        if not self._limits.memory or self._loaded is None or self.pid is None:
            return
        grown = resident(self.pid) - self._loaded["resident"]
        self._peak = max(self._peak, grown)
        if grown > self._limits.memory:
            self.restart()
            said = f"took more than the limit of {_mib(self._limits.memory)}: {_mib(grown)}"
            raise WorkerDied(Outcome.EXHAUSTED, said, elapsed)

    def _hung(self, seconds: float) -> WorkerDied:
        process = self._process
        assert process is not None
        self._tail = b""
        # faulthandler answers this signal from C, so it says where even a loop that holds the lock is.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGUSR1)
        until = time.monotonic() + _LAST_WORDS
        while (left := until - time.monotonic()) > 0 and not self._tail.endswith(b" in <module>\n"):
            if self._errors not in [d for d, _ in self._poll.poll(1000 * left)]:
                break
            self._hear()
        where = self._tail
        self._replace()
        return WorkerDied(Outcome.HUNG, _with(f"not done after {seconds:g} s", where), seconds)

    def garbled(self, error: Exception) -> WorkerDied:
        """The death of a worker that said what no worker says."""
        self._replace()
        return WorkerDied(Outcome.CRASHED, f"wrote to its worker's own connection: {error}", 0.0)

    def _died(self, elapsed: float) -> WorkerDied:
        process, self._process = self._process, None
        assert process is not None
        status, peak = self._reap(process)
        for _ in range(64):
            before = self._tail
            self._hear()
            if self._tail == before:
                break
        self._release(process)
        loaded, self._loaded = self._loaded, None
        grown = max(self._peak, peak - loaded["peak"]) if loaded else 0
        words = self._tail
        outcome = Outcome.CRASHED
        if status < 0:
            said = f"died of {_signal_name(-status)}"
        elif status == LOST_CONNECTION:
            said = "broke its worker's connection"
        else:
            said = f"ended its process with exit status {status}"
        if self._limits.memory and grown > 0.75 * self._limits.memory:
            outcome, said = Outcome.EXHAUSTED, f"{said} after it had taken {_mib(grown)}"
        elif -status == signal.SIGKILL and kernel_kills() > self._kernel_kills:
            outcome, said = Outcome.EXHAUSTED, "was killed by the kernel: the machine's memory ran out"
        elif says_out_of_memory(words.decode(errors="replace")):
            outcome = Outcome.EXHAUSTED
        if loaded is not None and not self._closed:
            self._start()
        return WorkerDied(outcome, _with(said, words), elapsed)

    def _reap(self, process: subprocess.Popen[bytes]) -> tuple[int, int]:
        """Kill the process and its group, and take its exit status and peak resident set."""
        # Not through Popen, whose kill() first polls, which would take the exit status away from wait4.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode is not None:
            return process.returncode, 0
        os.kill(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, peak_bytes(usage)

    def _release(self, process: subprocess.Popen[bytes]) -> None:
        self._socket.close()
        if process.stderr is not None:
            process.stderr.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        os.close(self._file)


def failed(name: str) -> Outcome:
    """The outcome of that name.

    Raises:
        ValueError: there is none, or it takes an image.
    """
    outcome = Outcome(name)
    if outcome.has_image:
        raise ValueError(f"{outcome} without an image")
    return outcome


def _tells_of_a_codec(value: object) -> bool:
    """Whether the answer to "load" has what the parent reads in it."""
    kinds = {"name": str, "family": str, "known_defects": dict, "device": str, "sources": str, "batched": bool}
    kinds |= {"resident": int, "peak": int}
    if not isinstance(value, dict) or not isinstance(value.get("profile", ""), dict | None):
        return False
    return all(type(value.get(key)) is kind for key, kind in kinds.items())


def _our_path() -> str:
    """Python code that makes a worker import what this process would."""
    path = [entry or os.getcwd() for entry in sys.path]
    return f"import sys\nsys.path[:] = {path!r}\n"


def _ours_alone() -> str:
    """Python code that gives another interpreter this robustkit, and nothing else that is installed beside it."""
    folder = os.path.dirname(os.path.abspath(robustkit.__file__))
    return (
        "import sys\n"
        "if sys.version_info < (3, 11): sys.exit('robustkit needs Python 3.11 or newer, this is ' + sys.version)\n"
        "from importlib import util\n"
        f"spec = util.spec_from_file_location('robustkit', {os.path.join(folder, '__init__.py')!r},"
        f" submodule_search_locations=[{folder!r}])\n"
        "sys.modules['robustkit'] = module = util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
    )


def _mind_children() -> None:
    """Whoever ignores SIGCHLD, as whoever started this process may have asked of it, never learns how a child ended."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


_launchers: dict[int, ThreadPoolExecutor] = {}


def _launcher() -> ThreadPoolExecutor:
    """The thread that starts every worker: Linux kills a worker when the *thread* that started it ends."""
    if os.getpid() not in _launchers:
        _launchers.clear()
        _launchers[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix="robustkit-launcher")
    return _launchers[os.getpid()]


def _order(spec: CodecSpec, memory: int) -> bytes:
    try:
        settings = json.loads(json.dumps(dict(spec.settings), default=os.fspath))
    except TypeError as error:
        raise WorkerError(
            f"codec {spec.name!r} has a setting that is no number, string, list or path: {error}"
        ) from error
    return wire.pack(
        {
            "operation": "load",
            "id": 0,
            "name": spec.name,
            "module": spec.target.module,
            "attribute": spec.target.attribute,
            "file": spec.target.file,
            "settings": settings,
            "memory": memory,
        }
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def _with(said: str, words: bytes) -> str:
    text = words.decode(errors="replace").strip()
    return f"{said}\n{text}" if text else said
