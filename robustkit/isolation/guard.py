"""Ends what workers have left: processes that bear their mark, wherever they have gone.

What a decoder starts inherits its worker's environment, and with it a mark. A new session, a new group and a parent's
death change nothing about that. This file is also run as a script, the guard: a small process that outlives whoever has
started the workers, be it killed, by as long as it takes to end what bears its marks. Hence nothing but the standard
library, and little of it, is imported here.

A process that was given an environment of its own, or lives on another machine, is not found; nor is any without /proc.
"""

from __future__ import annotations

import os
import signal
import sys
import time

_ROUNDS = 200
_PAUSE = 0.005


def marked(needle: bytes) -> list[int]:
    """The living processes whose environment begins an entry with ``needle``, this one left aside."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    found = []
    for name in names:
        if name.isdecimal() and int(name) != os.getpid():
            # A dead process's environment is empty.
            environment = read(f"/proc/{name}/environ")
            if environment.startswith(needle) or b"\0" + needle in environment:
                found.append(int(name))
    return found


def end_marked(needle: bytes) -> int:
    """Kill those processes, and what they start meanwhile; returns how many there were."""
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        living = marked(needle)
        if not living:
            break
        seen.update(living)
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(_PAUSE)
    return len(seen)


def read(path: str) -> bytes:
    """A whole file of /proc; nothing where it can't be read."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(file, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(file)


def remove(beginning: str) -> None:
    """Remove the folders whose paths begin so."""
    import shutil

    folder, name = os.path.split(beginning)
    try:
        found = [entry for entry in os.listdir(folder) if entry.startswith(name)]
    except OSError:
        return
    for entry in found:
        shutil.rmtree(os.path.join(folder, entry), ignore_errors=True)


def main(needle: bytes, beginning: str) -> None:
    """Wait until standard input ends, which is when whoever holds the other end has; then end what is marked.

    Args:
        needle: the mark.
        beginning: of the paths of folders that are removed then.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    while os.read(0, 1 << 10):
        pass
    # A worker dies of its parent's death as soon as the kernel gets to it, and may start something until then.
    for _ in range(2):
        end_marked(needle)
        time.sleep(0.1)
    end_marked(needle)
    remove(beginning)


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]), sys.argv[2])
