"""What one decode may take, in seconds and bytes, and how to tell that it took more memory than that."""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# A native thread reserves address space that it may never touch: its stack, and an arena of glibc's malloc.
_THREAD_RESERVE = 8 * 2**20 + 64 * 2**20

_NO_MEMORY = re.compile(
    r"bad_alloc|MemoryError|out of memory|(cannot|can't|could not|failed to|unable to) allocate"
    r"|memory allocation .{0,40}failed",
    re.IGNORECASE,
)


#: Seconds in which any codec may load.
_LOADING = 120.0


@dataclass(frozen=True)
class Limits:
    """What a worker process may take.

    Attributes:
        seconds: time of one decode, one batch, or one encode: wall-clock time, less what other programs kept its
            threads waiting for a processor (Linux), and ten times this at the most.
        memory: bytes on top of what the process holds once its codec is loaded; 0 for no limit.
        start_seconds: time to start the process and load the codec, counted alike; by default, 0, as much as one
            decode may take, and 120 s at the least.
    """

    seconds: float = 30.0
    memory: int = 4 * 2**30
    start_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.start_seconds:
            object.__setattr__(self, "start_seconds", max(_LOADING, self.seconds))
        for name, value in (("seconds", self.seconds), ("start_seconds", self.start_seconds)):
            if not value > 0:
                raise ValueError(f"{name} = {value!r}: give a time above 0")
        if self.memory < 0:
            raise ValueError(f"memory = {self.memory!r}: give bytes, or 0 for no limit")


def resident(pid: int | None = None) -> int:
    """Bytes of a process's resident set; 0 where that can't be read (no /proc, or the process is gone)."""
    return _statm(pid, 1)


def available() -> int:
    """Bytes of memory that new processes can have without swapping; 0 where that can't be read (no /proc)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return 0


def reset_peak() -> bool:
    """Forget this process's largest resident set so far; whether the system lets it (Linux)."""
    try:
        file = os.open("/proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        return False
    try:
        return os.write(file, b"5") == 1
    except OSError:
        return False
    finally:
        os.close(file)


class Usage:
    """This process's resident set, during one stretch of work after another.

    To ask the kernel takes longer than a small decode does. So it is asked only where pages were added to the process
    in so many steps that more than a few MiB may have come.
    """

    _STEPS = 4

    def __init__(self) -> None:
        self._fresh = self._known = False
        self._now = self._steps = 0

    def begin(self) -> None:
        """A stretch begins."""
        if not self._fresh:
            self._fresh = self._known = reset_peak()
        self._steps = resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def end(self) -> tuple[int, int]:
        """It ends: the largest resident set since it began, and that of now, in bytes; 0 where not known."""
        if not self._known:
            return 0, 0
        if not self._now or resource.getrusage(resource.RUSAGE_SELF).ru_minflt - self._steps > self._STEPS:
            self._fresh = False
            found = _own_status()
            self._now = found.get(b"VmRSS", 0)
            return found.get(b"VmHWM", 0), self._now
        return self._now, self._now


class Busy:
    """How long a stretch of work would take with all cores to itself, whatever else they have to do.

    It begins when this is made, in the thread that works.
    """

    def __init__(self) -> None:
        self._before = self._now()

    def seconds(self) -> float:
        """What this thread has spent, or an even share of what all threads have; and what was started and has ended."""
        thread, process, ended = (now - then for now, then in zip(self._now(), self._before, strict=True))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(0.0, thread, process / max(1, cores)) + max(0.0, ended)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.thread_time(), time.process_time(), ended.ru_utime + ended.ru_stime


def _own_status() -> dict[bytes, int]:
    try:
        with open("/proc/self/status", "rb", buffering=0) as file:
            rows = [line.split() for line in file.read(1 << 13).splitlines()]
    except OSError:
        return {}
    return {row[0].rstrip(b":"): 1024 * int(row[1]) for row in rows if len(row) == 3 and row[2] == b"kB"}


def cap_address_space(memory: int) -> int:
    """Let this process map ``memory`` bytes more than it has now; returns the cap, 0 where there is none.

    The threads that a numerical library starts at its first operation come on top: what they reserve is not used,
    and the resident-set watchdog in the parent holds the exact limit.
    """
    size = _statm(None, 0)
    if not size:
        return 0
    cap = size + memory + _THREAD_RESERVE * (os.cpu_count() or 1)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        cap = min(cap, hard)
    resource.setrlimit(resource.RLIMIT_AS, (cap, hard))
    return cap


def is_out_of_memory(error: BaseException, text: str) -> bool:
    """Whether an exception with that text says that memory ran out; torch and CUDA do so in a RuntimeError."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and says_out_of_memory(text)


def says_out_of_memory(text: str) -> bool:
    """Whether a native library's last words are those of a failed allocation."""
    return _NO_MEMORY.search(text) is not None


def kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def peak_bytes(usage: resource.struct_rusage) -> int:
    """The largest resident set in a process's accounts (kilobytes on Linux, bytes on macOS)."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _statm(pid: int | None, column: int) -> int:
    try:
        with open(f"/proc/{pid or 'self'}/statm", "rb") as file:
            return int(file.read().split()[column]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0
