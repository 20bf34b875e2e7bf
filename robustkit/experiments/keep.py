"""Pictures of trials: the worst and the median ones of each codec, image and channel, decoded once more and kept.

Which trials these are follows from the rows alone, so it is settled when they are there. Ties go to the lower number.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PillowImage

from robustkit import quality
from robustkit.codec import Image
from robustkit.experiments import rows, store
from robustkit.experiments.identity import Experiment
from robustkit.experiments.plan import Plan
from robustkit.experiments.rows import CLEAN
from robustkit.experiments.run import Bench
from robustkit.judging.subject import Job, slug
from robustkit.judging.trial import Trial

KEPT = "kept"


class Kept(NamedTuple):
    """A trial that is kept.

    Attributes:
        why: "worst 1" or "median 1", the rank after the word; "clean" for the clean decode.
        row: its row; settings, digests and timings left out.
        stream: path of the damaged stream.
        picture: path of what it decodes to, a PNG; ``None`` where there is no image.
    """

    why: tuple[str, ...]
    row: Mapping[str, Any]
    stream: Path
    picture: Path | None


def chosen(found: Iterable[Mapping[str, Any]], metric: str, wanted: Iterable[tuple[str, int]]) -> dict[int, list[str]]:
    """Which trials of one codec, image and channel are kept, and why.

    Trials without an image are the worst of all. The median ones are those around the middle of all, in order of
    quality; of an even number, the worse of the two middle ones comes first.

    Args:
        found: their rows.
        metric: what orders them.
        wanted: "worst" or "median", and how many.
    """
    sign = 1.0 if quality.METRICS[metric].higher_is_better else -1.0
    ordered = sorted(found, key=lambda r: (-math.inf if r[metric] is None else sign * r[metric], r["trial"]))
    numbers = [row["trial"] for row in ordered]
    why: dict[int, list[str]] = {}
    for word, count in wanted:
        middle = (len(numbers) - 1) / 2
        near = sorted(range(len(numbers)), key=lambda place: (abs(place - middle), place))
        places = range(len(numbers)) if word == "worst" else near
        for rank, place in enumerate(list(places)[:count], start=1):
            why.setdefault(numbers[place], []).append(f"{word} {rank}")
    return why


def keep(folder: Path, experiment: Experiment, plan: Plan, *, tell: Callable[[str], None] = lambda _: None) -> None:
    """Decode the trials that a plan keeps, and write streams and pictures; those that are there already are left.

    Raises:
        RowsError: they can't be written.
    """
    points: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in store.read(folder).to_pylist():
        points[row["entry"], row["image"], row["channel"]].append(row)
    labels = {entry.label for entry in plan.entries}
    metric, bench = plan.metrics[0], Bench(folder)
    try:
        for (label, image, channel), found in sorted(points.items()):
            if label not in labels or channel not in (*plan.channels, CLEAN):
                continue
            why = {-1: [CLEAN]} if channel == CLEAN else chosen(found, metric, plan.kept)
            by_number = {row["trial"]: row for row in found}
            for number, reasons in sorted(why.items()):
                place = _place(folder, label, image, channel, number)
                if _written(place) != reasons:
                    tell(f"keeping {label}")
                    stream, picture = _again(bench, label, image, channel, number)
                    _write(place, by_number[number], reasons, stream, picture)
    finally:
        bench.close()


def read(folder: Path) -> Iterator[Kept]:
    """What is kept in a folder, in a fixed order."""
    for path in sorted((folder / KEPT).glob("**/*.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        picture = path.with_suffix(".png")
        yield Kept(tuple(said["why"]), said["row"], path.with_suffix(".bin"), picture if picture.exists() else None)


def _place(folder: Path, label: str, image: str, channel: str, number: int) -> Path:
    # Slugs alone could meet.
    tail = hashlib.sha256(json.dumps([label, image, channel]).encode()).hexdigest()[:8]
    name = "clean" if number < 0 else f"trial-{number}"
    return folder / KEPT / slug(label) / slug(image) / f"{slug(channel)}-{tail}" / name


def _written(place: Path) -> list[str] | None:
    try:
        found: list[str] = json.loads(place.with_name(f"{place.name}.json").read_text(encoding="utf-8"))["why"]
        return found
    except (OSError, ValueError, KeyError):
        return None


def _again(bench: Bench, label: str, image: str, channel: str, number: int) -> tuple[bytes, Image | None]:
    clean = bench.take(label, image)
    if channel == CLEAN:
        return clean.bitstream, clean.decoded.image
    pictures: list[Image] = []

    def hold(_: Trial, found: Image) -> None:
        pictures.append(found)

    job = Job(image, bench.channel(label, channel), number)
    (trial,) = bench.subject(label, image).run([job], keep=hold)
    return trial.pattern.apply(clean.bitstream), pictures[0] if pictures else None


def _write(place: Path, row: Mapping[str, Any], why: list[str], stream: bytes, picture: Image | None) -> None:
    import io

    store.write_bytes(place.with_name(f"{place.name}.bin"), stream)
    if picture is not None:
        buffer = io.BytesIO()
        PillowImage.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
        store.write_bytes(place.with_name(f"{place.name}.png"), buffer.getvalue())
    left_out = ("settings", "codec_digest", "image_digest", "stream_digest", *rows.TIMINGS)
    said = {"why": why, "row": {name: value for name, value in row.items() if name not in left_out}}
    # Last: where it is, the others are whole.
    store.write_bytes(place.with_name(f"{place.name}.json"), json.dumps(said, indent=1).encode())
