"""A folder that carries streams from one machine to another, with what each arithmetic here made of them.

Streams and images are files named by their content: ``SHA-256.bin``, and ``FINGERPRINT.png`` for the pixels. The folder
comes from somebody else's machine, so nothing in it is believed: not a name, not a digest, and never which codec to
load.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustkit.codec import Image
from robustkit.errors import RobustkitError
from robustkit.images import ImageError
from robustkit.images import read as read_image
from robustkit.isolation import Decoded, fingerprint
from robustkit.judging.crossplatform import Arithmetic, Difference, Match, apart
from robustkit.judging.golden_files import png
from robustkit.spelling import json_value

MANIFEST = "exchange.json"
VERSION = 1
#: The most of anything that a manifest may list, characters of a text in it, and bytes of a stream and of the manifest.
MOST, LONGEST, LARGEST = 256, 200, 1 << 26
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ExchangeError(RobustkitError, ValueError):
    """An exchange folder that can't be read or written; the message names the file, what is wrong, and the way out."""


@dataclass(frozen=True)
class Carried:
    """One stream of an exchange.

    Attributes:
        image: the name of the image that was encoded.
        shape: its height and width.
        stream: what the codec wrote.
    """

    image: str
    shape: tuple[int, int]
    stream: bytes = field(repr=False)


@dataclass(frozen=True)
class Made:
    """What one arithmetic made of all streams, in their order: images, or in words why there is none."""

    arithmetic: str
    images: tuple[Image | str, ...] = field(repr=False)


@dataclass(frozen=True)
class Exchange:
    """What an exchange folder holds.

    Attributes:
        codec, settings: that wrote the streams, the setting ``device`` left out.
        sources: SHA-256 of the codec's Python files there.
        facts: what the codec said of itself there.
        tolerance: grey levels at worst, and on average, that it allows between machines.
        streams: what it wrote.
        made: what each arithmetic there made of them.
    """

    codec: str
    settings: Mapping[str, Any]
    sources: str
    facts: Mapping[str, str]
    tolerance: tuple[float, float]
    streams: tuple[Carried, ...]
    made: tuple[Made, ...]


def made(arithmetic: Arithmetic | str, found: Iterable[Decoded]) -> Made:
    """What an arithmetic made of the streams."""
    images = (
        d.image if d.image is not None else _cut(f"{d.outcome}: {d.message.strip().partition(chr(10))[0]}")
        for d in found
    )
    return Made(str(arithmetic), tuple(images))


def worst(expected: Made, there: Made, tolerance: tuple[float, float]) -> Difference:
    """How far two arithmetics lie apart, in the stream where that is furthest."""
    found = [_between(a, b, tolerance) for a, b in zip(expected.images, there.images, strict=True)]
    return max(found, key=lambda d: d.rank)


def _between(expected: Image | str, there: Image | str, tolerance: tuple[float, float]) -> Difference:
    if not isinstance(expected, str) and not isinstance(there, str):
        return apart(expected, there, tolerance)
    if isinstance(expected, str) and isinstance(there, str) and expected.partition(":")[0] == there.partition(":")[0]:
        return Difference(Match.SAME)
    said = there if isinstance(there, str) else str(expected)
    slow = said.startswith(("hung", "exhausted"))
    return Difference(Match.UNDECIDED if slow else Match.DESYNCHRONISED, 255.0, 255.0, said)


def alike(found: Sequence[Made]) -> list[list[Made]]:
    """Arithmetics that made the same of every stream, side by side, in the order of the first of each."""
    groups: list[list[Made]] = []
    for one in found:
        for group in groups:
            if worst(group[0], one, (0, 0)).match is Match.SAME:
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def write(path: Path, exchange: Exchange) -> None:
    """Write an exchange into the folder ``path``, which is made; the manifest last.

    Raises:
        ExchangeError: it holds something else already, can't be written, or a setting is nothing that JSON has.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()) and not (path / MANIFEST).is_file():
            raise ExchangeError(f"{path} holds something else: name a new folder")
        for file in path.iterdir():
            if file.name == MANIFEST or _ours(file.name):
                file.unlink()
        streams = []
        for carried in exchange.streams:
            name = f"{hashlib.sha256(carried.stream).hexdigest()}.bin"
            (path / name).write_bytes(carried.stream)
            streams.append({"image": carried.image, "shape": list(carried.shape), "file": name})
        rows = []
        for one in exchange.made:
            results = []
            for image in one.images:
                if isinstance(image, str):
                    results.append({"said": image})
                    continue
                name = f"{fingerprint(image)}.png"
                if not (path / name).exists():
                    (path / name).write_bytes(png(image))
                results.append({"file": name})
            rows.append({"arithmetic": one.arithmetic, "results": results})
        data = {
            "version": VERSION,
            "codec": exchange.codec,
            "settings": dict(exchange.settings),
            "sources": exchange.sources,
            "facts": dict(exchange.facts),
            "tolerance": list(exchange.tolerance),
            "streams": streams,
            "made": rows,
        }
        text = json.dumps(data, indent=1, sort_keys=True, allow_nan=False, default=os.fspath) + "\n"
        (path / MANIFEST).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExchangeError(f"{path} can't be written: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, ExchangeError):
            raise
        raise ExchangeError(f"codec {exchange.codec!r} has a setting that JSON can't hold: {error}") from error


def read(path: Path) -> Exchange:
    """Read the exchange in the folder ``path``; each file is checked against the digest that names it.

    Raises:
        ExchangeError: it is none, or damaged.
    """
    file = path / MANIFEST
    try:
        data = json_value(_bytes(file).decode("utf-8"))
    except ValueError as error:
        if isinstance(error, ExchangeError):
            raise
        raise ExchangeError(f"{file} can't be read: {error}") from error
    if not isinstance(data, dict) or data.get("version") != VERSION or isinstance(data.get("version"), bool):
        raise ExchangeError(f"{file} is not an exchange of version {VERSION}: make it anew")
    try:
        streams = tuple(_carried(path, row) for row in _rows(data["streams"]))
        rows = _rows(data["made"])
        maximum, mean = (float(part) for part in data["tolerance"])
        if not streams or not rows or not 0 <= mean <= maximum <= 255:
            raise ValueError("no stream, no result, or no tolerance")
        return Exchange(
            _text(data["codec"]),
            dict(data["settings"]),
            _text(data["sources"]),
            {_text(k): _cut(str(v)) for k, v in dict(data["facts"]).items()},
            (maximum, mean),
            streams,
            tuple(_made(path, row, streams) for row in rows),
        )
    except ExchangeError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ExchangeError(f"{file} is damaged ({type(error).__name__}: {error}): make it anew") from error


def _carried(path: Path, row: Any) -> Carried:
    height, width = row["shape"]
    if type(height) is not int or type(width) is not int or not 0 < height < 1 << 16 or not 0 < width < 1 << 16:
        raise ValueError(f"shape = {row['shape']!r:.99}")
    name = _file(row["file"], ".bin")
    stream = _bytes(path / name)
    if hashlib.sha256(stream).hexdigest() != name.removesuffix(".bin"):
        raise ExchangeError(f"{path / name} is not the stream that its name says: make it anew")
    return Carried(_text(row["image"]), (height, width), stream)


def _made(path: Path, row: Any, streams: Sequence[Carried]) -> Made:
    results = _rows(row["results"])
    if len(results) != len(streams):
        raise ValueError(f"{len(results)} results of {len(streams)} streams")
    found: list[Image | str] = []
    for result, carried in zip(results, streams, strict=True):
        if "said" in result:
            found.append(_text(result["said"]))
            continue
        name = _file(result["file"], ".png")
        try:
            image = read_image(path / name, data=_bytes(path / name))
        except ImageError as error:
            raise ExchangeError(f"{error}: make it anew") from error
        if fingerprint(image) != name.removesuffix(".png") or image.shape[:2] != carried.shape:
            raise ExchangeError(f"{path / name} is not the image that its name says: make it anew")
        found.append(image)
    return Made(_text(row["arithmetic"]), tuple(found))


def _bytes(file: Path) -> bytes:
    """What a file holds, no larger than any that :func:`write` makes of sensible images."""
    try:
        # Neither a device nor a pipe, which never end, nor a way out of the folder.
        if file.is_symlink() or not file.is_file():
            raise ExchangeError(f"{file} is missing, or no plain file")
        with file.open("rb") as opened:
            data = opened.read(LARGEST + 1)
    except OSError as error:
        raise ExchangeError(f"{file} can't be read: {error.strerror}") from error
    if len(data) > LARGEST:
        raise ExchangeError(f"{file} is larger than {LARGEST >> 20} MiB")
    return data


def _rows(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST or not all(isinstance(row, dict) for row in value):
        raise ValueError(f"not a list of up to {MOST} tables")
    return value


def _file(value: Any, ending: str) -> str:
    if not isinstance(value, str) or not value.endswith(ending) or not _DIGEST.fullmatch(value.removesuffix(ending)):
        raise ValueError(f"{value!r:.99} is no digest with {ending} behind it")
    return value


def _ours(name: str) -> bool:
    return bool(re.fullmatch(rf"{_DIGEST.pattern}\.(bin|png)", name))


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ValueError(f"{value!r:.99} is no text of up to {LONGEST} characters")
    return value


def _cut(text: str) -> str:
    return text[:LONGEST]
