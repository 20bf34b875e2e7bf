"""Matched rates: for each image the setting of a codec that comes closest to a rate, and how far apart rates are.

Encodes run in worker processes. A table of what was found is stored as TOML or CSV, and says what later runs are built
with.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean

from robustkit import spelling
from robustkit.codec import EncodeError, Image
from robustkit.codecs.ladder import Search
from robustkit.errors import RobustkitError
from robustkit.experiments import TOLERANCE
from robustkit.isolation import CodecWorkers, Limits, WorkerError
from robustkit.registry import CodecSpec, Target


class MatchError(RobustkitError, ValueError):
    """Rates can't be searched, or a table of them can't be read."""


class NotMatched(RobustkitError, ValueError):
    """Rates that are too far apart to be compared as if they were the same."""


@dataclass(frozen=True)
class Matched:
    """The setting found for one codec and image.

    Attributes:
        codec: the codec's name.
        image: the image's name.
        target_bpp: wanted rate, bits per pixel.
        knob, value: the setting that decides the rate, and its closest value.
        bytes: of the stream with it.
        bpp: its rate, bits per pixel.
        encodes: values that were tried.
        search: how, "bisection" or "secant".
        sha256: of the stream.
    """

    codec: str
    image: str
    target_bpp: float
    knob: str
    value: float
    bytes: int
    bpp: float
    encodes: int
    search: str
    sha256: str

    @property
    def off(self) -> float:
        """How far the rate is from the wanted one, as a share of it, with its sign."""
        return self.bpp / self.target_bpp - 1


def targets(text: str) -> dict[str, float]:
    """``jpeg=1.0,bpg=0.5``: codec -> bits per pixel.

    Raises:
        MatchError: a part has another form, a rate is no positive number, or a codec comes twice.
    """
    found: dict[str, float] = {}
    for part in spelling.names(text):
        name, _, rate = part.rpartition("=")
        value = math.nan
        with suppress(ValueError):
            value = float(rate)
        if not name.strip() or not 0 < value < math.inf:
            raise MatchError(f"{part!r}: write CODEC=BPP, such as jpeg=1.0, several with commas")
        if name.strip() in found:
            raise MatchError(f"{name.strip()} is given two rates")
        found[name.strip()] = value
    if not found:
        raise MatchError("no rate is given: write CODEC=BPP, such as jpeg=1.0")
    return found


def ladder(
    spec: CodecSpec,
    bpp: float,
    *,
    knob: tuple[str, float, float] | None = None,
    search: Search | None = None,
) -> CodecSpec:
    """What a worker runs to search ``spec``'s settings: see :class:`robustkit.codecs.ladder.Ladder`."""
    settings = {
        "codec": spec.name,
        "target": [spec.target.module, spec.target.attribute, spec.target.file],
        "settings": dict(spec.settings),
        "bpp": bpp,
        "knob": None if knob is None else list(knob),
        "search": search,
    }
    return CodecSpec(spec.name, Target("robustkit.codecs.ladder", "Ladder"), settings, spec.python)


def match(
    spec: CodecSpec,
    images: Mapping[str, Image],
    bpp: float,
    *,
    directory: str | Path,
    knob: tuple[str, float, float] | None = None,
    search: Search | None = None,
    workers: int = 1,
    limits: Limits | None = None,
    tell: Callable[[Matched], None] | None = None,
) -> list[Matched]:
    """Search the setting of a codec that comes closest to a rate, for each image on its own.

    Args:
        spec: the codec, without the setting that is searched.
        images: name -> uint8, H x W x 3; each is read once, when its turn comes.
        bpp: wanted rate, bits per pixel.
        directory: where workers write.
        knob: name, value of the lowest and of the highest rate of the setting; by default ``quality`` or ``bpp``.
        search: how; "bisection" by default over whole qualities of a classical codec, "secant" otherwise.
        workers: encoding processes.
        limits: time and memory of one image's whole search.
        tell: told each result as it comes, from any thread.

    Returns:
        in the order of ``images``, whatever ``workers`` is.

    Raises:
        CodecUnavailable: the codec can't be loaded, or has no such setting.
        MatchError: an image can't be encoded.
    """
    if not 0 < bpp < math.inf:
        raise MatchError(f"{bpp} bits per pixel: give a positive rate")

    def one(name: str) -> Matched:
        image = images[name]
        try:
            found = json.loads(pool.encode(image))
        except (EncodeError, WorkerError) as error:
            raise MatchError(f"{spec.name}, {name}: {error}") from error
        rate = 8 * found["bytes"] / (image.shape[0] * image.shape[1])
        row = Matched(codec=spec.name, image=name, target_bpp=bpp, bpp=rate, **found)
        if tell is not None:
            tell(row)
        return row

    with CodecWorkers(
        ladder(spec, bpp, knob=knob, search=search), workers=workers, limits=limits, directory=directory
    ) as pool:
        if workers == 1:
            return [one(name) for name in images]
        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(one, images))


def settings_of(rows: Iterable[Matched], codec: str, image: str) -> dict[str, float]:
    """The setting that a table has for a codec and an image.

    Raises:
        MatchError: it has none.
    """
    for row in rows:
        if (row.codec, row.image) == (codec, image):
            return {row.knob: row.value}
    raise MatchError(f"the table of rates has no {codec} of {image}: match its rate first")


def far(rows: Sequence[Matched], limit: float = TOLERANCE) -> str:
    """Which images are further than a share from the wanted rate, as a line; empty where none is."""
    off = [f"{row.image} ({100 * row.off:+.1f}%)" for row in rows if abs(row.off) > limit]
    if not off:
        return ""
    named = ", ".join(off[:3]) + (" ..." if len(off) > 3 else "")
    return f"{len(off)} of {len(rows)} images are further than {100 * limit:g}% from the wanted rate: {named}"


# -- how far apart ---------------------------------------------------------------------------------------------------


def mean_rates(rows: Iterable[Matched]) -> dict[str, float]:
    """Codec -> mean bits per pixel of its images."""
    by_codec: dict[str, list[float]] = {}
    for row in rows:
        by_codec.setdefault(row.codec, []).append(row.bpp)
    return {codec: fmean(rates) for codec, rates in by_codec.items()}


def spread(rates: Mapping[str, float]) -> float:
    """How far apart rates are: the highest over the lowest, less 1.

    Raises:
        MatchError: there is none, or one is no positive number.
    """
    if not rates or not all(0 < rate < math.inf for rate in rates.values()):
        raise MatchError(f"rates {dict(rates)}: give at least one, all positive")
    return max(rates.values()) / min(rates.values()) - 1


def said(rates: Mapping[str, float]) -> str:
    """How far apart rates are, as a table that compares codecs says it."""
    if len(rates) == 1:
        return "one codec: there is nothing to match"
    low, high = min(rates, key=lambda name: rates[name]), max(rates, key=lambda name: rates[name])
    return (
        f"rates from {rates[low]:.4f} bpp ({low}) to {rates[high]:.4f} bpp ({high}), {100 * spread(rates):.1f}% apart"
    )


def require_matched(rates: Mapping[str, float], limit: float = TOLERANCE) -> None:
    """Refuse to call a comparison matched.

    Args:
        rates: what is compared -> mean bits per pixel.
        limit: how far apart they may be, as a share.

    Raises:
        NotMatched: they are further apart.
        MatchError: there is none, or one is no positive number.
    """
    if spread(rates) > limit:
        raise NotMatched(
            f"{said(rates)}, more than {100 * limit:g}%: not matched. Match the rates first "
            "(robustkit match-rate), or compare at unequal rates and say so"
        )


# -- tables ----------------------------------------------------------------------------------------------------------

_COLUMNS = tuple(field.name for field in fields(Matched))
_HEAD = "# Settings found by robustkit match-rate: the closest to a rate, for each codec and image."


def to_csv(rows: Sequence[Matched]) -> str:
    """The table as CSV, a row a codec and image."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def to_toml(rows: Sequence[Matched]) -> str:
    """The table as TOML, a ``[[match]]`` a codec and image."""
    parts = [_HEAD]
    for row in rows:
        values = (f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in asdict(row).items())
        parts.append("\n".join(["[[match]]", *values]))
    return "\n\n".join(parts) + "\n"


def write(rows: Sequence[Matched], path: Path) -> None:
    """Store a table, as the file's ending says: ``.toml`` or ``.csv``.

    Raises:
        MatchError: another ending, or the file can't be written.
    """
    try:
        path.write_text({".toml": to_toml, ".csv": to_csv}[path.suffix](rows), encoding="utf-8")
    except KeyError as error:
        raise MatchError(f"{path}: a table of rates is a .toml or a .csv file") from error
    except OSError as error:
        raise MatchError(f"{path} can't be written: {error}") from error


def read(path: Path) -> list[Matched]:
    """A table that :func:`write` stored.

    Raises:
        MatchError: the file can't be read, or holds no such table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text)["match"] if path.suffix == ".toml" else list(csv.DictReader(io.StringIO(text)))
        return [_row(row) for row in found]
    except OSError as error:
        raise MatchError(f"{path} can't be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MatchError(f"{path} is no table of rates: {error}") from error


def _row(row: Mapping[str, object]) -> Matched:
    if set(row) != set(_COLUMNS):
        raise ValueError(f"a row has {', '.join(map(str, row))}, and should have {', '.join(_COLUMNS)}")
    text = {name: str(value) for name, value in row.items()}
    value = float(text["value"])
    return Matched(
        codec=text["codec"],
        image=text["image"],
        target_bpp=float(text["target_bpp"]),
        knob=text["knob"],
        # A setting that takes whole numbers takes no 33.0.
        value=int(value) if value.is_integer() and "." not in text["value"] else value,
        bytes=int(text["bytes"]),
        bpp=float(text["bpp"]),
        encodes=int(text["encodes"]),
        search=text["search"],
        sha256=text["sha256"],
    )
