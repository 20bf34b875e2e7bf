"""A process and all that it has started: who lives, how much memory they hold, and how they end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
import warnings
from collections.abc import Iterable
from typing import NamedTuple

from robustkit.isolation.guard import end_marked, read
from robustkit.isolation.limits import peak_bytes

#: How long a killed process may take to end, in seconds.
PATIENCE = 5.0

#: Whether children are listed by their parent (Linux, in most kernels), and not only parents by their children.
LISTED = os.path.exists(f"/proc/self/task/{os.getpid()}/children")

_SHARED = "/dev/shm/"
_WALL = 0x40000000


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        status: its exit status, or minus the signal; ``None`` where that can't be known.
        peak: its largest resident set, in bytes; 0 where that can't be known.
        given_up: it can't be made to end.
    """

    status: int | None
    peak: int
    given_up: bool = False


def has_children() -> bool:
    """Whether this process has any child, ended ones that nobody has waited for included. Costs a microsecond."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return False
    except (AttributeError, OSError):
        return LISTED
    return True


def children(pid: int) -> list[int]:
    """The living children of a process, orphans that it has adopted included; none where there is no /proc."""
    if LISTED:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            return []
        found = [int(n) for t in threads for n in read(f"/proc/{pid}/task/{t}/children").split()]
        return [n for n in found if _state(n) not in (b"", b"Z", b"X")]
    try:
        names = [int(n) for n in os.listdir("/proc") if n.isdecimal()]
    except OSError:
        return []
    return [n for n in names if _parent(n) == pid and _state(n) not in (b"", b"Z", b"X")]


def descendants(pid: int) -> list[int]:
    """The living children of a process, theirs, and so on."""
    found, queue = [], [pid]
    while queue:
        more = [n for n in children(queue.pop()) if n not in found]
        found += more
        queue += more
    return found


def held(pid: int, *, aside: Iterable[tuple[int, int]] = ()) -> int:
    """Bytes of memory that only a process and its descendants hold, in pages of their own and in files in memory.

    A page that several of them share, as after a fork, counts once. What they have mapped from disk does not count.

    Args:
        pid: the process.
        aside: device and inode of files that are not counted.
    """
    below = descendants(pid)
    anonymous = shared = 0
    for process in (pid, *below):
        # Proportions are known to the kernel only after a walk over all pages: a few milliseconds for a large process.
        name = "smaps_rollup" if below else "status"
        words = _table(f"/proc/{process}/{name}")
        anonymous += words.get(b"Pss_Anon" if below else b"RssAnon", 0)
        shared += words.get(b"Pss_Shmem" if below else b"RssShmem", 0)
    # A file in memory that is mapped too would count twice.
    return anonymous + max(shared, _files((pid, *below), set(aside)))


def _files(pids: Iterable[int], aside: set[tuple[int, int]]) -> int:
    """Bytes of the files in memory that processes have open."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.readlink(f"{folder}/{name}").startswith(("/memfd:", _SHARED)):
                        status = os.stat(f"{folder}/{name}")
                        sizes[status.st_dev, status.st_ino] = 512 * status.st_blocks
    return sum(size for file, size in sizes.items() if file not in aside)


def end(process: subprocess.Popen[bytes], *, pidfd: int = -1, mark: bytes = b"") -> Ended:
    """Kill a process with its group and whatever bears ``mark``, and wait for its end, though not for ever.

    Args:
        process: a child that leads its group. Its ``returncode`` is set.
        pidfd: readable when it has ended, if there is one.
        mark: see :mod:`robustkit.isolation.guard`.
    """
    _collect()
    # Not through Popen, whose kill() first polls, which would take the exit status away from wait4.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    ended = Ended(process.returncode, 0)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        ended = _wait(process.pid, pidfd)
        process.returncode = ended.status if ended.status is not None else -signal.SIGKILL
    if mark:
        end_marked(mark)
    return ended


def readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read within so many seconds; of a process's descriptor, whether it has ended."""
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    return bool(watch.poll(1000 * seconds))


def _wait(pid: int, pidfd: int) -> Ended:
    deadline, pause = time.monotonic() + PATIENCE, 0.0002
    if pidfd >= 0:
        readable(pidfd, PATIENCE)
    while True:
        try:
            found, status, usage = os.wait4(pid, os.WNOHANG)
        except ChildProcessError:
            # Whoever started this process has it ignore SIGCHLD, or somebody waits for all children.
            return Ended(None, 0)
        if found:
            return Ended(os.waitstatus_to_exitcode(status), peak_bytes(usage))
        if time.monotonic() > deadline:
            _given_up.add(pid)
            return Ended(None, 0, given_up=True)
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


#: Processes that were killed and did not end: traced by another process, or in the hands of the kernel.
_given_up: set[int] = set()


def _collect() -> None:
    """Take the exit status of those that have ended after all."""
    for pid in list(_given_up):
        with contextlib.suppress(ChildProcessError):
            if not os.wait4(pid, os.WNOHANG)[0]:
                continue
        _given_up.discard(pid)


def warn_of(pid: int) -> None:
    """Say that a process was given up."""
    warnings.warn(
        f"process {pid} was killed and does not end: another process traces it, or the kernel holds it. It is left "
        "behind; a new worker takes its place",
        RuntimeWarning,
        stacklevel=2,
    )


def _state(pid: int) -> bytes:
    return (_stat(pid) or [b""])[0]


def _parent(pid: int) -> int:
    words = _stat(pid)
    return int(words[1]) if len(words) > 1 else 0


def _stat(pid: int) -> list[bytes]:
    # The program's name, in parentheses, may hold anything.
    return read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:2]


def _table(path: str) -> dict[bytes, int]:
    """Bytes by name, of a file of /proc with lines such as ``RssAnon: 12 kB``."""
    rows = (line.split() for line in read(path).splitlines())
    return {row[0].rstrip(b":"): 1024 * int(row[1]) for row in rows if len(row) == 3 and row[2] == b"kB"}
