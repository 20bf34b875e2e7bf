"""Files of workers: bitstreams while they are decoded and after a failure, and what a codec puts aside."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

#: Most failing streams that are kept of one codec in one folder; the oldest go first.
MOST_KEPT = 500

#: Folders of workers by the process that they serve.
_WORKER = re.compile(r".+-(\d+)-\d+\.worker")
#: Longest path of a folder for temporary files: sockets lie there too, and no path of one may have more than 100 bytes.
_LONGEST_PATH = 64
#: One row of numbers for all pools of a process, which may share a folder.
_numbers = itertools.count()


class Desk:
    """A worker's own folder: the bitstream that it decodes, and its temporary files.

    No other worker looks into it, and nothing in it is relied on: a decoder has the rights to remove all of it. What is
    gone is made again before the next request.

    Args:
        path: of the folder, which is not there yet.
        directory: which it lies in, for messages.
    """

    def __init__(self, path: Path, directory: Path) -> None:
        self._path, self._directory = path, directory
        self._numbers = itertools.count()
        self._temporary = path / "tmp"
        self._aside = len(os.fsencode(self._temporary)) > _LONGEST_PATH
        if self._aside:
            self._temporary = Path(aside() + secrets.token_hex(4))
        self.ready()

    @property
    def temporary(self) -> Path:
        """The folder for temporary files; a folder of the system's where this one's path is too long."""
        return self._temporary

    def ready(self) -> None:
        """Make what is not there. Where that can't be done, :meth:`hold` says why."""
        with contextlib.suppress(OSError):
            self._temporary.mkdir(0o700, exist_ok=True)
            return
        with contextlib.suppress(OSError):
            _clear(self._temporary, self._path, self._directory)
            self._temporary.mkdir(0o700, exist_ok=True)

    def hold(self, stream: bytes) -> Path:
        """Write a stream that is about to be decoded; :meth:`release` it afterwards.

        Raises:
            OSError: it can't be written; the message names the folder and why.
        """
        path = self._path / f"{next(self._numbers)}.decoding"
        _write(path, stream, self._path, self._directory)
        return path

    def release(self, path: Path) -> None:
        """Remove what was held. Harmless where there is nothing any more."""
        _remove(path)

    def clear(self) -> None:
        """Remove what a worker's process has put aside, so that the next one finds nothing of it."""
        _remove(self._temporary)

    def remove(self) -> None:
        """Remove the folder. Harmless the second time."""
        self.clear()
        _remove(self._path)


class Streams:
    """A folder of bitstreams of one codec.

    Nothing in it is relied on: a decoder has the rights to remove any of it, and the folder too.

    Args:
        directory: made if it isn't there. Folders of workers whose parents are dead by now are removed.
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
            if (found := _WORKER.fullmatch(path.name)) and not _lives(int(found[1])):
                _remove(path)

    def desk(self) -> Desk:
        """A folder for one more worker."""
        return Desk(self._directory / f"{self._prefix}-{os.getpid()}-{next(_numbers)}.worker", self._directory)

    def keep(self, stream: bytes) -> Path:
        """Write a stream whose decode failed, named by its content, and remove the oldest where there are too many.

        Raises:
            OSError: as :meth:`Desk.hold`.
        """
        path = self._directory / f"{self._prefix}-{digest(stream)}.bin"
        _write(path, stream, self._directory)
        kept = [p for p in self._directory.iterdir() if self._ours.fullmatch(p.name)]
        if len(kept) > MOST_KEPT:
            for old in sorted(kept, key=_age)[: len(kept) - MOST_KEPT]:
                if old != path:
                    _remove(old)
        return path


def _write(path: Path, stream: bytes, *folders: Path) -> None:
    """Write a file into the first of ``folders``, each of which lies in the next."""
    try:
        try:
            path.write_bytes(stream)
        except OSError:
            _clear(path, *folders)
            path.write_bytes(stream)
    except OSError as error:
        why = f"bitstreams can't be written to {folders[-1]}: {error.strerror}"
        raise OSError(error.errno, why) from error


def _clear(path: Path, *folders: Path) -> None:
    """Make room where a decoder has removed a folder, or put something else in its place or in a file's."""
    for folder in reversed(folders):
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def aside() -> str:
    """How the paths of this process's folders begin that lie among the system's temporary ones."""
    return os.path.join(tempfile.gettempdir(), f"robustkit-{os.getpid()}-")


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
