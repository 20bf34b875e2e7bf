"""What a decoder must leave as it found it: undone after each decode, or reported so that the worker is replaced."""

from __future__ import annotations

import ctypes
import gc
import locale
import os
import resource
import signal
import sys
import sysconfig
import threading
from collections.abc import Iterable
from typing import Any

# A decoder that leaks a file a decode is left alone until it endangers the worker's own limit.
_LEAK = 64
#: faulthandler has these, in C; Python's own list knows nothing of it, so that nothing could be put back.
_FAULTS = (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGUSR1)
_HANDLERS = tuple(sorted(signal.valid_signals() - {*_FAULTS, signal.SIGKILL, signal.SIGSTOP}))
_LIMITS = tuple(sorted(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")))
# Room for the largest fenv_t that there is.
_FLOATS = 512
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
        self._handlers = {s: signal.getsignal(s) for s in _HANDLERS}
        self._faults = {s: signal.getsignal(s) for s in _FAULTS}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._collecting = gc.isenabled()
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
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
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
        if any(signal.getsignal(number) is not handler for number, handler in self._faults.items()):
            return "took the signals of faulthandler"
        if any(_identity(d) != was for d, was in self._files.items()):
            return "closed or replaced its process's file descriptors"
        if _lowest_free() > self._free + _LEAK:
            return f"left more than {_LEAK} files open"
        if signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            return "blocked signals"
        return self._running_thread()

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
                return f"left the thread {thread.name!r} running"
        return None


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
