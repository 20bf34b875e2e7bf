"""One worker process seen from its parent: start it, ask it, see it die, say of what, start the next."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from robustkit.codec import Image
from robustkit.isolation import tree, wire
from robustkit.isolation.answer import Answer, NotLoaded, alike, parse, says_machine, tells_of_a_codec
from robustkit.isolation.child import LOST_CONNECTION
from robustkit.isolation.hook import Hook
from robustkit.isolation.limits import Limits, kernel_kills, resident, says_out_of_memory
from robustkit.isolation.start import INSIDE, WorkerError, order, start, variables
from robustkit.isolation.streams import Desk
from robustkit.outcome import Outcome
from robustkit.patience import Deadline
from robustkit.registry import CodecSpec

_TICK = 0.02
_TAIL = 4000
_KEPT_MEMORY_FILE = 64 * 2**20
_LAST_WORDS = 1.0
#: A tick in so many looks at all that the process has started; each look reads a few files of /proc.
_TREE = 5 if tree.LISTED else 25
_BEFORE = 8
_DECODES = frozenset({"decode", "decode_batch"})
_MOST_REASONS = 50
_LONGEST_REASON = 200


class WorkerDied(Exception):
    """The worker is gone, and with it the answer; ``outcome`` says which of crashed, hung and exhausted it was."""

    def __init__(self, outcome: Outcome, message: str, seconds: float, memory: int = 0) -> None:
        super().__init__(message)
        self.before: tuple[bytes, ...] = ()
        self.outcome = outcome
        self.message = message
        self.seconds = seconds
        self.memory = memory


class Worker:
    """A place for one process at a time. Not thread-safe: whoever borrows it has it alone.

    Args:
        spec: the codec; its settings must be JSON (and paths).
        limits: time and memory.
        desk: its folder, for temporary files too.
        environment: variables for the process on top of this one's, of which it does not get the secrets.
        directory: where it works; here if not given.
        hook: what it runs around each decode.

    Attributes:
        replaced: why a process was replaced though it had answered all that it was asked, and how often.
        processor: seconds of all answers so far, as ``Decoded.processor``.
        has_loaded: whether a process has loaded the codec, this one or another.
        suspects: for each of these reasons the streams that the first such process had decoded before, the last ones.
    """

    def __init__(
        self,
        spec: CodecSpec,
        limits: Limits,
        desk: Desk,
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
        hook: Hook | None = None,
    ) -> None:
        self.replaced: Counter[str] = Counter()
        self.processor = 0.0
        self.has_loaded = False
        self.suspects: dict[str, tuple[bytes, ...]] = {}
        if INSIDE in os.environ:
            raise WorkerError(
                "a codec's module starts workers while a worker imports it: put that under if __name__ == '__main__'"
            )
        self._limits = limits
        self._python = spec.python
        self.desk = desk
        self._environment = variables(
            {"TMPDIR": str(desk.temporary), **(environment or {})},
            seconds=limits.seconds,
            inherits_python=self._python is None,
            source=os.environ,
        )
        self._order = order(spec, limits.memory, hook)
        self._name = spec.name
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = self._asked = False
        self._loaded: dict[str, Any] | None = None
        self._before: tuple[bytes, ...] = ()
        self._random = random.Random(os.urandom(32))
        _mind_children()
        try:
            self._start()
        except BaseException:
            desk.remove()
            raise

    @property
    def pid(self) -> int | None:
        """The process's id, which is its group's and session's too."""
        return None if self._process is None else self._process.pid

    def about(self) -> dict[str, Any]:
        """What the worker says of its codec: name, family, profile, batched.

        Raises:
            CodecUnavailable: it could not load it; the message says why.
            WorkerError: closed; or the codec, loaded before, fails in the same way in two more processes.
        """
        self._clear()
        if self._closed:
            raise WorkerError(f"the workers of codec {self._name!r} are closed")
        if self._process is None:
            self._start()
        if self._loaded is None:
            self._loaded = self._load()
            self.has_loaded = True
            self._held = self._hold()
            self._tail = b""
        return self._loaded

    def _load(self) -> dict[str, Any]:
        """Hear what the process has loaded; where one has done so before, it counts if two more fail alike."""
        try:
            return self._heard()
        except NotLoaded as first:
            if not self.has_loaded or first.machine:
                raise
            self._start()
            try:
                return self._heard()
            except NotLoaded as second:
                if alike(str(first), str(second)):
                    said = f"codec {self._name!r} was loaded by a process before, and by no more: {second}"
                    raise WorkerError(said) from None
                raise

    def _heard(self) -> dict[str, Any]:
        try:
            answer = self._answer(self._limits.start_seconds, watch=False)
        except WorkerDied as death:
            # Loading starts no process in this one's place.
            self.kill()
            what, line, where = death.message.partition("\n")
            if death.outcome is Outcome.HUNG:
                what += "; loading may take as long as one decode, which --robustkit-time-limit or --time-limit sets"
            said = f"codec {self._name!r} can't be loaded in a worker: {what}{line}{where}"
            # Whoever kills processes that take too much uses this signal, too.
            machine = death.outcome is not Outcome.CRASHED or "SIGKILL" in death.message
            raise NotLoaded(said, machine=machine) from None
        if answer.failure is None and tells_of_a_codec(answer.value):
            found: dict[str, Any] = answer.value
            return found
        self.kill()
        if answer.failure is None:
            raise NotLoaded(f"codec {self._name!r} can't be loaded: it wrote its worker's answer")
        outcome, message = answer.failure
        machine = outcome is Outcome.EXHAUSTED or says_machine(message)
        raise NotLoaded(
            message if outcome is Outcome.REFUSED else f"codec {self._name!r} can't be loaded: {message}",
            machine=machine,
        )

    def ask(
        self, operation: str, buffers: Sequence[bytes | Image] = (), *, seconds: float | None = None, **more: Any
    ) -> Answer:
        """Have the worker do one thing with ``buffers``, which it finds in the memory file.

        Raises:
            WorkerDied: it did not live to answer; the next request gets a new process.
            CodecUnavailable, WorkerError: as :meth:`about`.
        """
        self.about()
        self.desk.ready()
        decoded = self._decoded
        self._before = tuple(decoded)
        self._asked = True
        # Nothing that an earlier decode has left running can know it beforehand.
        self._id = f"{self._random.getrandbits(64):x}"
        lengths = wire.write(self._file, buffers)
        request = {"operation": operation, "id": self._id, "lengths": lengths, **more}
        self._since = time.monotonic()
        try:
            self._socket.sendall(wire.pack(request))
        except OSError:
            self._cut = True
        self._peak = 0
        try:
            return self._answer(self._limits.seconds if seconds is None else seconds, watch=True)
        except WorkerDied as death:
            death.before = self._before
            raise
        finally:
            self._asked = False
            if operation in _DECODES:
                decoded.extend(bytes(b) for b in buffers[-_BEFORE:])

    def hook(self, settings: Mapping[str, Any] | None) -> Answer:
        """Give the hook settings, which a process in place of this one gets too, and ask what it has to say.

        Raises:
            WorkerDied, CodecUnavailable, WorkerError: as :meth:`ask`.
        """
        if settings is not None:
            self._order["hook"]["settings"] = dict(settings)
        return self.ask("hook", settings=None if settings is None else dict(settings))

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
            self._blame(answer.spoilt)
            self.restart()
        elif os.fstat(self._file).st_size > _KEPT_MEMORY_FILE:
            os.ftruncate(self._file, 0)

    def restart(self) -> None:
        """A new process in place of this one; it loads while the parent goes on."""
        self.kill()
        if not self._closed:
            self._start()

    def _blame(self, reason: str) -> None:
        """Count why a process is replaced that has answered all that it was asked."""
        reason = reason[:_LONGEST_REASON]
        if reason not in self.replaced and len(self.replaced) >= _MOST_REASONS:
            reason = "other reasons"
        self.suspects.setdefault(reason, tuple(self._decoded))
        self.replaced[reason] += 1

    def _replace(self) -> None:
        # A process that can't even load its codec is not started over and over.
        loaded = self._loaded is not None
        self.kill()
        if loaded and not self._closed:
            self._start()

    def close(self) -> None:
        """End the process, and everything that it started, for good."""
        self._closed = True
        process, self._process = self._process, None
        if process is not None:
            idle = not self._asked and self._loaded is not None
            # Not by poll(), which another thread may be in, whose request ends by this.
            died = idle and self._pidfd >= 0 and tree.readable(self._pidfd, 0.0)
            ended = self._end(process)
            if died:
                self._blame(f"{_manner(ended.status)} between two decodes")
        self.desk.remove()

    def kill(self) -> None:
        """End the process now. Harmless where there is none."""
        process, self._process = self._process, None
        if process is not None:
            self._end(process)

    def _start(self) -> None:
        since = time.monotonic()
        self.desk.clear()
        self.desk.ready()
        ours, theirs = socket.socketpair()
        self._file = wire.memory_file()
        try:
            process, self._mark = start(
                self._python,
                (theirs.fileno(), self._file),
                environment=self._environment,
                directory=self._directory,
            )
        except BaseException:
            ours.close()
            os.close(self._file)
            raise
        finally:
            theirs.close()
        self._process = process
        # It loads its codec from now on, whenever the answer is asked for.
        self._since = since
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
        self._decoded: deque[bytes] = deque(maxlen=_BEFORE)
        self._id = f"{self._random.getrandbits(64):x}"
        # Whoever can't read its order is dead, and will be found so.
        with contextlib.suppress(OSError):
            self._socket.sendall(wire.pack({**self._order, "id": self._id}))

    def _clear(self) -> None:
        """Notice, between two requests, that the process has died or has spoken unasked; start with empty ears."""
        if self._process is None or self._loaded is None:
            return
        if lost := self._lost():
            self._blame(lost)
            self.restart()
        self._tail = b""

    def _lost(self) -> str | None:
        """Whether the process that nobody has asked for anything is lost, and how."""
        process = self._process
        if process is None:
            return None
        if self._inbox:
            return "spoke between two decodes"
        found = [descriptor for descriptor, _ in self._poll.poll(0)]
        if self._errors in found:
            self._hear()
            found.remove(self._errors)
        if not found:
            return None
        if self._pidfd in found or not self._receive():
            # Its connection ends before itself does.
            ended = self._pidfd < 0 or tree.readable(self._pidfd, _LAST_WORDS)
            self._process = None
            said = _manner(self._end(process).status)
            return f"{said if ended else 'broke its connection'} between two decodes"
        return "spoke between two decodes"

    def _answer(self, seconds: float, *, watch: bool) -> Answer:
        started = time.monotonic()
        deadline, check, ticks = Deadline(seconds, tree.descendants), started + _TICK, 0
        try:
            while True:
                if (message := self._inbox.take()) is not None:
                    return self._parse(message)
                now = time.monotonic()
                if now >= deadline.at and (self.pid is None or deadline.reached(self.pid)):
                    raise self._hung(seconds)
                if now >= check:
                    check = now + _TICK
                    ticks += 1
                    if ticks == 1 and self.pid is not None:
                        deadline.note(self.pid)
                    if watch:
                        self._watch(now - started, ticks)
                ended = False
                for descriptor, _ in self._poll.poll(1000 * max(0.0, min(check, deadline.at) - now)):
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
                        return self._parse(message)
                    raise self._died(time.monotonic() - started)
        except wire.WireError as error:
            raise self.garbled(error) from None
        except WorkerDied:
            raise
        except BaseException:
            # Ctrl-C in the parent: the answer to this request must never be taken for the next one's.
            self.kill()
            raise

    def _parse(self, message: dict[str, Any]) -> Answer:
        if self._inbox:
            raise wire.WireError("more than one answer to a request")
        answer = parse(message, self._id, time.monotonic() - self._since)
        self.processor += answer.processor
        return replace(answer, memory=max(answer.memory, self._peak))

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

    def _hold(self) -> int:
        """Bytes that the process and all that it has started hold, beside the memory file."""
        assert self._process is not None
        status = os.fstat(self._file)
        return tree.held(self._process.pid, aside=[(status.st_dev, status.st_ino)])

    def _watch(self, elapsed: float, ticks: int) -> None:
        if self._loaded is None or self.pid is None:
            return
        grown = resident(self.pid) - self._loaded["resident"]
        if ticks % _TREE == 0:
            grown = max(grown, self._hold() - self._held)
        self._peak = max(self._peak, grown)
        if self._limits.memory and grown > self._limits.memory:
            self.restart()
            said = f"took more than the limit of {_mib(self._limits.memory)}: {_mib(grown)}"
            raise WorkerDied(Outcome.EXHAUSTED, said, elapsed, grown)

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
        where, memory = self._tail, self._peak
        self._replace()
        return WorkerDied(Outcome.HUNG, _with(f"not done after {seconds:g} s", where), seconds, memory)

    def garbled(self, error: Exception) -> WorkerDied:
        """The death of a worker that said what no worker says."""
        self._replace()
        death = WorkerDied(Outcome.CRASHED, f"wrote to its worker's own connection: {error}", 0.0)
        death.before = self._before
        return death

    def _died(self, elapsed: float) -> WorkerDied:
        process, self._process = self._process, None
        assert process is not None
        status, peak, _ = self._end(process)
        loaded, self._loaded = self._loaded, None
        grown = max(self._peak, peak - loaded["peak"]) if loaded else 0
        words = self._tail
        outcome = Outcome.CRASHED
        said = _manner(status)
        if self._limits.memory and grown > 0.75 * self._limits.memory:
            outcome, said = Outcome.EXHAUSTED, f"{said} after it had taken {_mib(grown)}"
        elif status == -signal.SIGKILL and kernel_kills() > self._kernel_kills:
            outcome, said = Outcome.EXHAUSTED, "was killed by the kernel: the machine's memory ran out"
        elif says_out_of_memory(words.decode(errors="replace")):
            outcome = Outcome.EXHAUSTED
        if loaded is not None and not self._closed:
            self._start()
        return WorkerDied(outcome, _with(said, words), elapsed, max(0, grown))

    def _end(self, process: subprocess.Popen[bytes]) -> tree.Ended:
        """End the process and all that it has started, keep its last words, and let go of what joins us to it."""
        ended = tree.end(process, pidfd=self._pidfd, mark=self._mark)
        for _ in range(64):
            before = self._tail
            self._hear()
            if self._tail == before:
                break
        self._socket.close()
        if process.stderr is not None:
            process.stderr.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        os.close(self._file)
        if ended.given_up:
            tree.warn_of(process.pid)
        return ended


def _manner(status: int | None) -> str:
    """How a process ended."""
    if status is None:
        return "ended, and how can't be known"
    if status < 0:
        return f"died of {_signal_name(-status)}"
    if status == LOST_CONNECTION:
        return "broke its worker's connection"
    return f"ended its process with exit status {status}"


def _mind_children() -> None:
    """Whoever ignores SIGCHLD, as whoever started this process may have asked of it, never learns how a child ended."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


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
