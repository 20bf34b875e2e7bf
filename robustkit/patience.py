"""How long a process is waited for: its limit, and what other programs have kept it from its processors.

The keeper of `robustkit.codecs.programs` loads this file too. Hence nothing but the standard library is imported here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

#: A process is waited for no longer than so many times its limit, however busy the machine is.
MOST = 10.0
#: So many seconds are waited at the least before it is looked at again.
_LEAST = 0.02


class Spent(NamedTuple):
    """What threads have had of their processors and have not, in seconds.

    Attributes:
        processor: they ran.
        waited: they could have run, and no processor was free for them.
    """

    processor: float
    waited: float


def spent(processes: Iterable[int]) -> Spent:
    """What the living threads of some processes have spent; zeros without Linux's /proc."""
    processor = waited = 0
    for process in processes:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{process}/task"):
                # It may end meanwhile.
                with suppress(OSError), open(f"/proc/{process}/task/{thread}/schedstat", "rb") as file:
                    fields = file.read().split()
                    if len(fields) == 3:
                        processor += int(fields[0])
                        waited += int(fields[1])
    return Spent(processor / 1e9, waited / 1e9)


def own(seconds: float, since: Spent, now: Spent, cores: int) -> float:
    """How much of some wall-clock time is a process's own.

    Its threads may wait one after the other, so all their waiting may have delayed it, and none of that is its own. But
    where it has more threads than processors it keeps itself waiting: what these could have done in no less time is its
    own as well.

    Args:
        seconds: of wall-clock time.
        since: spent when that time began.
        now: spent when it ended.
        cores: processors that it may use.
    """
    waited, processor = now.waited - since.waited, now.processor - since.processor
    return min(seconds, max(seconds - max(0.0, waited), processor / cores))


class Deadline:
    """When a process has had its time.

    Args:
        seconds: its limit. On a machine with nothing else to do that is wall-clock time.
        descendants: finds the living processes that one has started, whose time is its own.
        since: what it has spent before; nothing, where it begins now, and :meth:`note` need not look.
    """

    def __init__(self, seconds: float, descendants: Callable[[int], Iterable[int]], since: Spent | None = None) -> None:
        self._seconds = seconds
        self._descendants = descendants
        self._started = time.monotonic()
        self._since = since
        #: When to look whether it is reached, as ``time.monotonic`` counts.
        self.at = self._started + seconds

    def note(self, pid: int) -> None:
        """Note what the process has spent before; to be called soon after its work has begun."""
        self._since = self._spent(pid)

    def reached(self, pid: int) -> bool:
        """Whether that is so now; otherwise ``at`` is later."""
        now = time.monotonic()
        if now < self.at:
            return False
        elapsed = now - self._started
        had = elapsed if self._since is None else own(elapsed, self._since, self._spent(pid), cores(pid))
        if had >= self._seconds or elapsed >= MOST * self._seconds:
            return True
        self.at = min(now + max(self._seconds - had, _LEAST), self._started + MOST * self._seconds)
        return False

    def _spent(self, pid: int) -> Spent:
        return spent((pid, *self._descendants(pid)))


def cores(pid: int) -> int:
    """Processors that a process may use."""
    try:
        return len(os.sched_getaffinity(pid))
    except (AttributeError, OSError):
        return os.cpu_count() or 1
