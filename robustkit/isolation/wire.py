"""What parent and worker say to each other: framed JSON on a socket, and bytes in a memory file that both hold."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from robustkit.codec import Image

_HEAD = struct.Struct("!4sI")
_MAGIC = b"rkit"
#: No message needs more: streams, images and layouts travel in the memory file.
LARGEST = 1 << 22


class WireError(ValueError):
    """The other side sent something that is no message."""


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as one frame."""
    body = json.dumps(message).encode()
    return _HEAD.pack(_MAGIC, len(body)) + body


class Inbox:
    """Turns the bytes that arrive into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __bool__(self) -> bool:
        """Whether anything has arrived that was not taken."""
        return bool(self._bytes)

    def feed(self, data: bytes) -> None:
        self._bytes += data

    def take(self) -> dict[str, Any] | None:
        """The next whole message, or ``None``.

        Raises:
            WireError: the bytes are no message.
        """
        if len(self._bytes) < _HEAD.size:
            return None
        magic, length = _HEAD.unpack_from(self._bytes)
        if magic != _MAGIC or length > LARGEST:
            raise WireError(f"expected a message, got {bytes(self._bytes[:16])!r}")
        if len(self._bytes) < _HEAD.size + length:
            return None
        body = bytes(self._bytes[_HEAD.size : _HEAD.size + length])
        del self._bytes[: _HEAD.size + length]
        try:
            message = json.loads(body, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise WireError(f"a message is not JSON: {error}") from error
        if not isinstance(message, dict):
            raise WireError(f"a message is {type(message).__name__}, not an object")
        return message


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def memory_file() -> int:
    """A descriptor of an unnamed file in memory, gone with its last holder."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("robustkit")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write(file: int, buffers: Iterable[bytes | Image]) -> list[int]:
    """Make buffers the memory file's contents, one behind the other; returns their lengths.

    What was in it is gone: where the other side has written elsewhere, nothing old is taken for its answer.
    """
    os.ftruncate(file, 0)
    offset, lengths = 0, []
    for buffer in buffers:
        view = memoryview(buffer if isinstance(buffer, bytes) else buffer.reshape(-1).data)
        lengths.append(len(view))
        while view:
            written = os.pwrite(file, view, offset)
            view = view[written:]
            offset += written
    return lengths


def read(file: int, offset: int, length: int) -> bytes:
    """Bytes from the memory file.

    Raises:
        WireError: it is shorter than that.
    """
    return read_array(file, offset, length).tobytes()


def read_array(file: int, offset: int, length: int) -> Image:
    """The same as a new one-dimensional uint8 array. Read, not mapped: a file cut short under a mapping kills.

    Raises:
        WireError: the file is shorter than that, or a hole; checked before anything is allocated.
    """
    status = os.fstat(file)
    held = status.st_size
    if hasattr(os, "memfd_create"):
        # A size costs nothing, pages do. (Other systems' files may be written to disk later, and smaller.)
        held = min(held, 512 * status.st_blocks)
    if length < 0 or offset + length > held:
        raise WireError(f"{length} bytes announced at {offset}, the memory file holds {held}")
    array = np.empty(length, dtype=np.uint8)
    done = 0
    while done < length:
        got = os.preadv(file, [array[done:].data], offset + done)
        if not got:
            raise WireError("the memory file was cut short while it was read")
        done += got
    return array
