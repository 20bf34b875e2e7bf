"""Bitstreams on disk: while they are decoded, and after a failure."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
from pathlib import Path

#: Most failing streams that are kept of one codec in one folder; the oldest go first.
MOST_KEPT = 500

_DECODING = re.compile(r".+-(\d+)-\d+\.decoding")
#: One row of numbers for all pools of a process, which may share a folder.
_numbers = itertools.count()


class Streams:
    """A folder of bitstreams of one codec.

    Nothing in it is relied on: a decoder has the rights to remove any of it, and the folder too.

    Args:
        directory: made if it isn't there. What processes that are dead by now were decoding is removed.
        codec: the codec's name.

    Raises:
        OSError: it can't be made.
    """

    def __init__(self, directory: str | os.PathLike[str], codec: str) -> None:
        self._directory = Path(directory).absolute()
        self._prefix = re.sub(r"[^\w.-]", "_", codec)
        self._ours = re.compile(re.escape(self._prefix) + r"-[0-9a-f]{16}\.bin")
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            if (found := _DECODING.fullmatch(path.name)) and not _lives(int(found[1])):
                _remove(path)

    def hold(self, stream: bytes) -> Path:
        """Write a stream that is about to be decoded; :meth:`release` it afterwards.

        Raises:
            OSError: it can't be written; the message names the folder and why.
        """
        path = self._directory / f"{self._prefix}-{os.getpid()}-{next(_numbers)}.decoding"
        self._write(path, stream)
        return path

    def keep(self, stream: bytes) -> Path:
        """Write a stream whose decode failed, named by its content, and remove the oldest where there are too many.

        Raises:
            OSError: as :meth:`hold`.
        """
        path = self._directory / f"{self._prefix}-{digest(stream)}.bin"
        self._write(path, stream)
        kept = [p for p in self._directory.iterdir() if self._ours.fullmatch(p.name)]
        if len(kept) > MOST_KEPT:
            for old in sorted(kept, key=_age)[: len(kept) - MOST_KEPT]:
                if old != path:
                    _remove(old)
        return path

    def release(self, path: Path) -> None:
        """Remove what was held. Harmless where there is nothing any more."""
        _remove(path)

    def _write(self, path: Path, stream: bytes) -> None:
        try:
            try:
                path.write_bytes(stream)
            except OSError:
                self._clear(path)
                path.write_bytes(stream)
        except OSError as error:
            why = f"bitstreams can't be written to {self._directory}: {error.strerror}"
            raise OSError(error.errno, why) from error

    def _clear(self, path: Path) -> None:
        """Make room for a file where a decoder has removed the folder, or put something else in a file's place."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        if self._directory.is_symlink() or not self._directory.is_dir():
            self._directory.unlink(missing_ok=True)
        self._directory.mkdir(parents=True, exist_ok=True)


def digest(stream: bytes) -> str:
    """The name of a stream: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(stream).hexdigest()[:16]


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
