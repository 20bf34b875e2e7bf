"""A vulnerability map: which parts of a codec's streams cost how much when one bit of them flips.

Single flips, drawn so that every named part of the stream is hit: a small header would else be missed. Within a part
they lie evenly, one at a random place of each of as many equal pieces. What is said of the whole stream, and of a piece
of its length, weighs each flip by the bits that it stands for.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from robustkit import quality
from robustkit.certificates import model
from robustkit.certificates.model import CertificateError
from robustkit.channels import generator
from robustkit.judging.subject import CHUNK, Subject
from robustkit.judging.trial import Clean
from robustkit.layout import Layout
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern

#: Pieces of a stream's length that the map has.
BINS = 64
#: Parts with more names than that are taken together where their names differ in numbers alone.
NAMES = 60
#: What the layout doesn't name.
UNNAMED = "in no named region"
#: The least share of the flips that the parts get alike, whatever their length.
_ALIKE = 4
#: Bytes of a scan's file that are read.
_LARGEST = 8 << 20

Bits = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """What single flips of one part of the stream did.

    Attributes:
        name: of the layout's region; of a piece of the length, empty.
        header: whether the decoder can do nothing useful without it.
        first: where it begins, as a share of the stream's length, 0 to 1; on average over the images.
        bits: how many it has, in the streams of all images.
        tried: how many of them were flipped.
        outcomes: how many flips ended so, by outcome.
        refused, failed: shares of the flips, 0 to 1: refused by the codec; no usable picture and no refusal.
        mean_drop: quality lost, in the metric's unit, over flips with a picture; ``None`` without any.
        worst_drop: the most that one cost; likewise.
        worst_image, worst_bit: where that one was; the first that gave no picture, where there is one.
    """

    name: str
    header: bool
    first: float
    bits: int
    tried: int
    outcomes: Mapping[str, int]
    refused: float
    failed: float
    mean_drop: float | None
    worst_drop: float | None
    worst_image: str | None
    worst_bit: int | None


@dataclass(frozen=True)
class Scan:
    """The map of one codec.

    Attributes:
        codec: its own name.
        metric, metric_unit: of the losses.
        images: whose streams were hit.
        seed: of the flips.
        flips: how many.
        bits: of all those streams.
        whole: one flip anywhere, each bit as likely as any other.
        regions: by the layout's names, in the order of the stream.
        bins: pieces of equal length, in order, each a :data:`BINS` th.
    """

    codec: str
    metric: str
    metric_unit: str
    images: tuple[str, ...]
    seed: int
    flips: int
    bits: int
    whole: Part
    regions: tuple[Part, ...]
    bins: tuple[Part, ...]


class _Flip(NamedTuple):
    image: str
    bit: int
    place: float
    region: str
    weight: float
    outcome: Outcome
    drop: float | None


class _Stratum(NamedTuple):
    """Bits of one name, in one stream."""

    image: str
    bits: Bits


def run(subject: Subject, n: int) -> Scan:
    """Flip ``n`` single bits of the clean streams of a codec's images, one at a time, and decode each.

    The same flips for the same codec, images, ``n`` and the subject's seed. Nothing of it enters a verdict, nor what
    the subject says of its decodes' cost.

    Args:
        subject: the codec, with images that it can encode.
        n: how many flips, over all images; with fewer than there are names, small parts go without.

    Raises:
        ValueError: ``n`` is less than 1.
        CleanRoundTripFailed: an image could not be encoded.
    """
    if n < 1:
        raise ValueError(f"{n} flips make no map: give at least 1")
    strata = _strata(subject.clean)
    flips = list(_flipped(subject, _drawn(subject, strata, n)))
    total = sum(clean.bits for clean in subject.clean.values())
    by_name: dict[str, list[_Flip]] = {}
    for flip in flips:
        by_name.setdefault(flip.region, []).append(flip)
    headers = {name for name, (header, _) in strata.items() if header}
    regions = []
    for name, (_, where) in strata.items():
        first = float(np.mean([s.bits[0] / subject.clean[s.image].bits for s in where]))
        size = sum(len(s.bits) for s in where)
        regions.append(_part(by_name.get(name, []), name, name in headers, first, size))
    bins = []
    for index in range(BINS):
        inside = [flip for flip in flips if int(flip.place * BINS) == index]
        bins.append(_part(inside, "", False, index / BINS, total // BINS))
    return Scan(
        subject.own_name,
        subject.metric,
        quality.METRICS[subject.metric].unit,
        tuple(subject.clean),
        subject.seed,
        len(flips),
        total,
        _part(flips, "the whole stream", False, 0.0, total),
        tuple(sorted(regions, key=lambda part: part.first)),
        tuple(bins),
    )


def to_json(scan: Scan) -> Any:
    """A scan in JSON's own types."""
    return model.to_json(scan)


def from_json(value: Any) -> Scan:
    """The scan that :func:`to_json` wrote.

    Raises:
        CertificateError: it is none; the message names the field.
    """
    return model.from_json(Scan, value, "scan")


def write(path: Path, scan: Scan) -> None:
    """Put a scan into a file, for whoever makes the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_json(scan), allow_nan=False), encoding="utf-8")


def read(path: Path) -> Scan:
    """The scan in a file.

    Raises:
        CertificateError: there is none, or no such.
    """
    return from_json(read_json(path, _LARGEST))


def read_json(path: Path, largest: int) -> Any:
    """What JSON a file holds.

    Raises:
        CertificateError: it can't be read, is larger than ``largest`` bytes, or is no JSON.
    """
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
        if len(data) > largest:
            raise CertificateError(f"{path} is larger than {largest} bytes")
        return json.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CertificateError):
            raise
        raise CertificateError(f"{path} can't be read: {str(error)[:200]}") from error


def owners(layout: Layout) -> npt.NDArray[np.int32]:
    """Index of the innermost region that holds each bit, as :meth:`Layout.at` finds it; -1 for none."""
    found = np.full(layout.bits, -1, dtype=np.int32)
    # The sort is stable: of equals, the last named is painted last.
    for index, region in sorted(enumerate(layout.regions), key=lambda pair: pair[1].start - pair[1].stop):
        found[region.start : region.stop] = index
    return found


def _strata(clean: Mapping[str, Clean]) -> dict[str, tuple[bool, list[_Stratum]]]:
    """The bits of each name, over all streams, and whether it is of the header."""
    names = {region.name for one in clean.values() for region in one.layout.regions}
    together = len(names) > NAMES
    found: dict[str, tuple[bool, list[_Stratum]]] = {}
    for image, one in clean.items():
        owner = owners(one.layout)
        # Of each region its bits, without a look at all the others for each.
        order = np.argsort(owner, kind="stable")
        indices, starts = np.unique(owner[order], return_index=True)
        bits_of: dict[tuple[str, bool], list[Bits]] = {}
        for index, bits in zip(indices.tolist(), np.split(order, starts[1:]), strict=True):
            region = one.layout.regions[index] if index >= 0 else None
            name = UNNAMED if region is None else _family(region.name) if together else region.name
            bits_of.setdefault((name, region is not None and region.header), []).append(bits.astype(np.int64))
        for (name, header), parts in bits_of.items():
            before, where = found.setdefault(name, (header, []))
            found[name] = (before or header, where)
            where.append(_Stratum(image, np.sort(np.concatenate(parts))))
    return found


def _family(name: str) -> str:
    """A name that differs from others in its numbers alone, without them."""
    return re.sub(r"\b\d+\b", "N", name)


def _shares(sizes: Sequence[int], n: int) -> list[int]:
    """How many of ``n`` flips each part gets: some alike, the rest by its bits, none more than it has bits."""
    n = min(n, sum(sizes))
    by_size = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    alike = n // (_ALIKE * max(1, len(sizes)))
    found = [min(size, max(1, alike)) for size in sizes]
    while sum(found) > n:
        # Fewer flips than names: the smallest parts go without.
        found[next(i for i in reversed(by_size) if found[i])] = 0
    while left := n - sum(found):
        open_ = [i for i in by_size if found[i] < sizes[i]]
        room = sum(sizes[i] - found[i] for i in open_)
        before = sum(found)
        for i in open_:
            found[i] += min(sizes[i] - found[i], left * (sizes[i] - found[i]) // room)
        if sum(found) == before:
            for i in open_[:left]:
                found[i] += 1
    return found


def _drawn(
    subject: Subject, strata: Mapping[str, tuple[bool, list[_Stratum]]], n: int
) -> list[tuple[str, int, str, float]]:
    """Image, bit, name and weight of each flip, streams of equal shape side by side."""
    sizes = [sum(len(s.bits) for s in where) for _, where in strata.values()]
    generators = {
        image: generator(subject.own_name, image, "single flips", 0, seed=subject.seed) for image in subject.clean
    }
    found = []
    for (name, (_, where)), size, tries in zip(strata.items(), sizes, _shares(sizes, n), strict=True):
        for stratum, few in zip(where, _shares([len(s.bits) for s in where], tries), strict=True):
            edges = (np.arange(few + 1) * len(stratum.bits)) // max(1, few)
            inside = generators[stratum.image].random(few)
            places = edges[:-1] + np.floor(inside * (edges[1:] - edges[:-1])).astype(np.int64)
            found += [(stratum.image, int(bit), name, size / tries) for bit in stratum.bits[places]]
    return sorted(found, key=lambda flip: (subject.clean[flip[0]].shape, flip[0], flip[1]))


def _flipped(subject: Subject, drawn: Sequence[tuple[str, int, str, float]]) -> Iterator[_Flip]:
    """What each flip did."""
    waiting, done = iter(drawn), 0
    while chunk := list(islice(waiting, CHUNK)):
        for shape in sorted({subject.clean[image].shape for image, *_ in chunk}):
            here = [flip for flip in chunk if subject.clean[flip[0]].shape == shape]
            streams = [
                ErrorPattern(subject.clean[image].bits, np.array([bit])).apply(subject.clean[image].bitstream)
                for image, bit, *_ in here
            ]
            found = subject.once.decode_many(streams, shape=shape)
            for (image, bit, name, weight), decoded in zip(here, found, strict=True):
                clean = subject.clean[image]
                outcome, drop = clean.judge(decoded), None
                if outcome is Outcome.INTACT:
                    drop = 0.0
                elif decoded.image is not None:
                    measured = quality.measure(subject.metric, clean.original, decoded.image)
                    drop = subject.drop(clean.metrics[subject.metric], measured)
                yield _Flip(image, bit, bit / clean.bits, name, weight, outcome, drop)
        done += len(chunk)
        subject.progress(f"vulnerability map: {done} of {len(drawn)} flips")


def _part(flips: Sequence[_Flip], name: str, header: bool, first: float, bits: int) -> Part:
    weight = math.fsum(flip.weight for flip in flips)

    def shared(chosen: Sequence[_Flip]) -> float:
        return min(1.0, math.fsum(flip.weight for flip in chosen) / weight) if weight else 0.0

    pictured = [(flip.drop, flip.weight) for flip in flips if flip.drop is not None and math.isfinite(flip.drop)]
    worst = max(
        flips,
        key=lambda flip: (flip.outcome.failure, flip.outcome.corrupted, flip.drop or 0.0),
        default=None,
    )
    return Part(
        name,
        header,
        first,
        bits,
        len(flips),
        dict(Counter(flip.outcome.value for flip in flips)),
        shared([flip for flip in flips if flip.outcome is Outcome.REFUSED]),
        shared([flip for flip in flips if flip.outcome.failure]),
        math.fsum(drop * w for drop, w in pictured) / math.fsum(w for _, w in pictured) if pictured else None,
        max((drop for drop, _ in pictured), default=None),
        None if worst is None else worst.image,
        None if worst is None else worst.bit,
    )
