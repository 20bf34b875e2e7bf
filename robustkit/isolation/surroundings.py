"""What a decoder must leave as it found it: undone after each decode, or reported so that the worker is replaced."""

from __future__ import annotations

import ctypes
import gc
import itertools
import locale
import os
import re
import resource
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from robustkit.codec import KEPT
from robustkit.isolation import tree
from robustkit.isolation.guard import read
from robustkit.isolation.limits import resident

# A decoder that leaks a file a decode is left alone until it endangers the worker's own limit.
_LEAK = 64
#: faulthandler has these, in C; Python's own list knows nothing of it, so that nothing could be put back.
_FAULTS = (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGUSR1)
_HANDLERS = tuple(sorted(signal.valid_signals() - {*_FAULTS, signal.SIGKILL, signal.SIGSTOP}))
_LIMITS = tuple(sorted(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")))
#: Python's own function makes an enumeration's member of each answer, which for all signals takes a decode's time.
_handler: Callable[[int], Any] = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)
# Room for the largest fenv_t that there is.
_FLOATS = 512
#: A library's pool has a process for each core, and a few to look after them.
_POOL = 4 + (os.cpu_count() or 1)
#: How often a process that is about to end is looked at, and the seconds between.
_LOOKS, _PAUSE = 10, 0.005
_CLOCKS = "/proc/self/timers"
_POINTER = ctypes.sizeof(ctypes.c_void_p)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class Surroundings:
    """The state of this process, taken when the codec has been loaded.

    Args:
        descriptors: the file descriptors that the worker itself lives by.
    """

    def __init__(self, descriptors: Iterable[int]) -> None:
        self._pid = os.getpid()
        self._directory = os.getcwd()
        self._files = {d: _identity(d) for d in descriptors}
        # Kept open, since that costs half as much as all the rest together.
        self._clock_file = os.open(_CLOCKS, os.O_RDONLY | os.O_CLOEXEC) if os.path.exists(_CLOCKS) else -1
        self._free = _lowest_free()
        self._threads = set(threading.enumerate())
        self._recursion = sys.getrecursionlimit()
        self._limits = {number: resource.getrlimit(number) for number in _LIMITS}
        self._umask = _umask()
        self._locale = locale.setlocale(locale.LC_ALL)
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._policy = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else 0
        # Rounding, flushing of denormals and traps.
        self._c: Any = ctypes.CDLL(None)
        self._floats = ctypes.create_string_buffer(_FLOATS) if hasattr(self._c, "fegetenv") else None
        if self._floats is not None:
            self._c.fegetenv(self._floats)
        self._handlers = {s: _handler(s) for s in _HANDLERS}
        self._faults = {s: _handler(s) for s in _FAULTS}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._collecting = gc.isenabled()
        self._environment = dict(os.environ)
        self._entries = self._c_environment()
        self._clocks = read(_CLOCKS)
        self._children = set(tree.children(self._pid)) if tree.has_children() else set()
        self._library = sysconfig.get_path("stdlib") + os.sep

    @property
    def forked(self) -> bool:
        """Whether this process is a copy that the decoder made and let return."""
        return os.getpid() != self._pid

    def restore(self) -> str | None:
        """Undo what can be undone; returns what can't, or ``None``."""
        if self._floats is not None:
            self._c.fesetenv(self._floats)
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        if self._entries:
            changed = self._c_environment(len(self._entries) // _POINTER - 1) != self._entries
        else:
            changed = os.environ != self._environment
        if changed:
            self._restore_environment()
        for number, handler in self._handlers.items():
            if handler is not None and _handler(number) is not handler:
                signal.signal(number, handler)
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)
        if self._collecting and not gc.isenabled():
            gc.enable()
        try:
            if os.getcwd() != self._directory:
                os.chdir(self._directory)
            self._restore_rights()
        except (OSError, ValueError, locale.Error) as error:
            return f"changed its process for good: {error}"
        if any(_handler(number) is not handler for number, handler in self._faults.items()):
            return "took the signals of faulthandler"
        if any(_identity(d) != was for d, was in self._files.items()):
            return "closed or replaced its process's file descriptors"
        if _lowest_free() > self._free + _LEAK:
            return f"left more than {_LEAK} files open"
        if signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            return "blocked signals"
        if self._clock_file >= 0 and self._running_clocks() != self._clocks and read(_CLOCKS) != self._clocks:
            return "left a timer running"
        return self._running_thread() or self._living_process()

    def _running_clocks(self) -> bytes:
        try:
            return os.pread(self._clock_file, 1 << 12, 0)
        except OSError:
            return b"?"

    def _c_environment(self, count: int | None = None) -> bytes:
        """Where the C library's variables lie: another place for each that was set since, whoever has set it.

        Args:
            count: how many there were.
        """
        try:
            entries = ctypes.POINTER(ctypes.c_void_p).in_dll(self._c, "environ")
        except ValueError:
            return b""
        if not entries:
            return b""
        if count is None:
            count = next(n for n in itertools.count() if not entries[n])
        return ctypes.string_at(entries, (count + 1) * _POINTER)

    def _restore_environment(self) -> None:
        os.environ.clear()
        if hasattr(self._c, "clearenv"):
            self._c.clearenv()
        os.environ.update(self._environment)
        self._entries = self._c_environment()

    def _restore_rights(self) -> None:
        for number, limit in self._limits.items():
            if resource.getrlimit(number) != limit:
                resource.setrlimit(number, limit)
        os.umask(self._umask)
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        if os.getpriority(os.PRIO_PROCESS, 0) != self._nice:
            os.setpriority(os.PRIO_PROCESS, 0, self._nice)
        if self._cores and os.sched_getaffinity(0) != self._cores:
            os.sched_setaffinity(0, self._cores)
        if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != self._policy:
            raise OSError("its scheduling policy is another")

    def _running_thread(self) -> str | None:
        if threading.active_count() <= len(self._threads):
            return None
        frames = sys._current_frames()
        for thread in set(threading.enumerate()) - self._threads:
            frame = frames.get(thread.ident or 0)
            if frame is None:
                continue
            # Parked in the standard library's locks and queues: the idle pool or monitor of a library.
            where = frame.f_code.co_filename
            if not where.startswith(self._library) or "site-packages" in where:
                # Python numbers threads that nobody names.
                return f"left the thread {re.sub(r'-?[0-9]+', '', thread.name)!r} running"
        return None

    def _living_process(self) -> str | None:
        if not tree.has_children():
            return None
        for look in range(_LOOKS):
            living = set(tree.children(self._pid)) - self._children - KEPT
            pool = living & _pool()
            if len(pool) <= _POOL:
                living -= pool
            if not living:
                return None
            if look < _LOOKS - 1:
                time.sleep(_PAUSE)
        return "left a process behind" if len(living) == 1 else "left processes behind"


class Growth:
    """Whether a process grows from decode to decode, until an innocent stream meets the limit.

    Args:
        most: bytes that it may grow by after its first decodes, which fill caches; 0 for any number.
    """

    #: Decodes that fill caches.
    _FIRST = 3

    def __init__(self, most: int) -> None:
        self._most = most
        self._settled = self._decodes = 0
        self._c: Any = ctypes.CDLL(None)

    def after(self, decodes: int, held: int) -> str | None:
        """What is wrong after so many more decodes, with so many bytes held; or ``None``."""
        if not self._most:
            return None
        if self._decodes < self._FIRST:
            self._decodes += decodes
            self._settled = max(self._settled, held)
            return None
        self._decodes += decodes
        grown = held - self._settled
        if grown <= self._most:
            return None
        # What waits to be collected, and what malloc keeps for the next time, is no leak.
        before = resident()
        gc.collect()
        if hasattr(self._c, "malloc_trim"):
            self._c.malloc_trim(0)
        grown -= before - resident()
        if grown <= self._most:
            return None
        each = f"{grown / (self._decodes - self._FIRST) / 2**20:.1g}"
        return f"its memory grew by about {float(each):g} MiB a decode"


def _pool() -> set[int]:
    """The processes that multiprocessing, or a library built on it, keeps and will end."""
    found: set[Any] = set()
    for name, module in list(sys.modules.items()):
        if name == "multiprocessing.process":
            found |= {getattr(getattr(p, "_popen", None), "pid", None) for p in set(getattr(module, "_children", ()))}
        elif name.endswith(".resource_tracker"):
            found.add(getattr(getattr(module, "_resource_tracker", None), "_pid", None))
        elif name == "multiprocessing.forkserver":
            found.add(getattr(getattr(module, "_forkserver", None), "_forkserver_pid", None))
    return {pid for pid in found if isinstance(pid, int)}


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lowest_free() -> int:
    """The number that the next opened file gets; rises with each file that is left open."""
    try:
        free = os.dup(0)
    except OSError:
        return 1 << 30
    os.close(free)
    return free
