"""The rows of an experiment as its figures and tables ask for them: all trials of one codec under one channel."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustkit.errors import RobustkitError
from robustkit.outcome import Outcome
from robustkit.quality import PSNR_CAP, canonical
from robustkit.spelling import nearest

if TYPE_CHECKING:
    import pyarrow as pa

Floats = npt.NDArray[np.float64]

#: The channel of a clean decode.
CLEAN = "clean"
#: What every table of trials must have.
NEEDED = (
    *("entry", "codec", "settings", "image", "image_digest", "bpp", "channel", "kind", "severity", "trial"),
    *("outcome", "flips"),
)
#: What depends on the machine and the hour, and so is no part of the data's digest.
_PASSING = ("seconds", "memory")
#: Whether more is better, where the rows don't say so.
_BETTER: Mapping[str, bool] = {
    **dict.fromkeys(("psnr", "psnr_y", "ssim", "ms_ssim", "ssimulacra2"), True),
    **dict.fromkeys(("lpips", "lpips_vgg", "dists", "niqe"), False),
}
#: Columns that are numbers and no metric.
_NO_METRIC = {"bpp", "severity", *_PASSING}


class ResultsError(RobustkitError, ValueError):
    """Rows that no figure or table can be made of; the message says what is missing, and the way out."""


@dataclass(frozen=True)
class Measure:
    """A metric as the rows have it.

    Attributes:
        name: of its column.
        higher_is_better: its direction.
        unit: "dB", or nothing.
        said: package, weights and version, as stored with the rows.
    """

    name: str
    higher_is_better: bool
    unit: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digits(self) -> int:
        """Decimals that are printed."""
        return 2 if self.name.startswith(("psnr", "fid", "ssimulacra2", "niqe")) else 4

    @property
    def label(self) -> str:
        """As an axis has it: "PSNR, dB"."""
        shown = {"ssimulacra2": "SSIMULACRA 2", "fid-published": "FID (as published)", "psnr-y": "PSNR of luma"}
        name = shown.get(self.name.replace("_", "-"), self.name.upper().replace("_", "-"))
        return f"{name}, {self.unit}" if self.unit else name

    def identical(self, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Where a value stands for "the same image" and is no number to average: PSNR without end, or at its cap."""
        given = np.asarray(values, dtype=np.float64)
        return np.isinf(given) | ((given >= PSNR_CAP) if self.name.startswith("psnr") else np.zeros(given.shape, bool))


@dataclass(frozen=True)
class Point:
    """The trials of one entry under one channel, row by row.

    Attributes:
        entry: the codec's label in the experiment.
        channel: canonical spelling, or "clean".
        kind: of the channel.
        severity: the channel's own; 0 if clean.
        images: of each row, the image's name.
        has_image: of each row, whether the decoder gave a usable image.
        bpp: of each row, bits per pixel of the clean stream.
        metrics: of each row, the value; NaN without an image.
    """

    entry: str
    channel: str
    kind: str
    severity: float
    images: tuple[str, ...]
    has_image: npt.NDArray[np.bool_] = field(repr=False)
    bpp: Floats = field(repr=False)
    metrics: Mapping[str, Floats] = field(repr=False)
    #: What was computed of these trials already: bootstraps take their time, and every figure asks again.
    known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def lost(self) -> set[str]:
        """Images of which a trial gave none."""
        return {image for image, there in zip(self.images, self.has_image, strict=True) if not there}

    def by_image(self, values: npt.ArrayLike, where: npt.NDArray[np.bool_] | None = None) -> dict[str, Floats]:
        """``values``, one a row, grouped by image; only the rows ``where`` says so."""
        given = np.asarray(values, dtype=np.float64)
        chosen = np.ones(len(self.images), bool) if where is None else where
        found: dict[str, list[float]] = {name: [] for name in dict.fromkeys(self.images)}
        for name, value, take in zip(self.images, given, chosen, strict=True):
            if take:
                found[name].append(float(value))
        return {name: np.asarray(values) for name, values in found.items()}


class Results:
    """An experiment's rows, by entry and channel.

    Args:
        table: columns as :mod:`robustkit.experiments.rows` has them. Its schema's metadata may name the metrics, under
            ``robustkit.metrics``.
        entries: which entries, in the order of figures and tables; by default all, by name.
        sets: metrics of whole sets of images, such as FID: entry, channel, metric, and a value a trial.
        grey: what a mid-grey image scores against the original, by metric and image, where that is known.

    Raises:
        ResultsError: no rows, a column is missing, an entry that is not there, two codecs under one label, two images
            under one name, or an outcome that there is not.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        entries: Sequence[str] = (),
        sets: Mapping[tuple[str, str, str], Sequence[float]] | None = None,
        grey: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        missing = [name for name in NEEDED if name not in table.column_names]
        if missing:
            raise ResultsError(f"the rows have no column {', '.join(missing)}: this is no folder of `robustkit sweep`")
        if not table.num_rows:
            raise ResultsError("no trial is done yet: `robustkit status` says what is waiting")
        self.measures = _measures(table)
        self.digest = digest(table)
        self.sets = {key: tuple(values) for key, values in (sets or {}).items()}
        if self.sets:
            both = json.dumps([self.digest, sorted([*key, *values] for key, values in self.sets.items())])
            self.digest = hashlib.sha256(both.encode()).hexdigest()
        rows = table.to_pydict()
        self._check(rows)
        there = sorted(set(rows["entry"]), key=_by_rate)
        for wanted in entries:
            if wanted not in there:
                raise ResultsError(f"no entry is called {wanted!r}: {nearest(wanted, there)}")
        self.entries: tuple[str, ...] = tuple(dict.fromkeys(entries)) or tuple(there)
        self.codecs: dict[str, str] = {}
        self.settings: dict[str, Mapping[str, Any]] = {}
        for entry, codec, settings in zip(rows["entry"], rows["codec"], rows["settings"], strict=True):
            if entry not in self.codecs:
                self.codecs[entry] = codec
                self.settings[entry] = _settings(settings, entry)
        self.points: dict[tuple[str, str], Point] = _points(rows, list(self.measures))
        self.grey: Mapping[str, Mapping[str, float]] = grey or {}
        self.images = tuple(dict.fromkeys(image for point in self.points.values() for image in point.images))

    def _check(self, rows: Mapping[str, Sequence[Any]]) -> None:
        for first, second, said in (
            ("image", "image_digest", "two images are called"),
            ("entry", "codec", "two codecs are called"),
        ):
            known: dict[str, str] = {}
            for name, value in zip(rows[first], rows[second], strict=True):
                if known.setdefault(name, value) != value:
                    raise ResultsError(f"{said} {name!r}: these are rows of several experiments")
        known_outcomes = {outcome.value for outcome in Outcome}
        if unknown := set(rows["outcome"]) - known_outcomes:
            raise ResultsError(f"no outcome is called {sorted(map(str, unknown))[0]!r}: another version wrote this")

    @property
    def channels(self) -> list[str]:
        """All channels but the clean one, by family and severity."""
        found = {
            point.channel: (_natural(family(point.channel)), point.severity)
            for point in self.points.values()
            if point.channel != CLEAN
        }
        return sorted(found, key=lambda channel: found[channel])

    def families(self) -> dict[str, list[str]]:
        """Channels that differ in severity alone, by what they share, from the least damage to the most."""
        found: dict[str, list[str]] = {}
        for channel in self.channels:
            found.setdefault(family(channel), []).append(channel)
        return found

    def point(self, entry: str, channel: str) -> Point | None:
        """The trials of one entry under one channel, if there are any."""
        return self.points.get((entry, channel))

    def severity(self, channel: str) -> float:
        """Of a channel that has rows."""
        return next(point.severity for point in self.points.values() if point.channel == channel)

    def rate(self, entry: str) -> dict[str, float]:
        """Bits per pixel of the clean stream, by image."""
        found: dict[str, float] = {}
        for channel in (CLEAN, *self.channels):
            if (point := self.points.get((entry, channel))) is not None:
                for image, bpp in zip(point.images, point.bpp, strict=True):
                    found.setdefault(image, float(bpp))
        return found

    def metric(self, name: str) -> Measure:
        """A metric of the rows by its name, however it is spelt.

        Raises:
            ResultsError: no row has it.
        """
        name = name if name in self.measures else canonical(name)
        if name not in self.measures:
            raise ResultsError(f"no trial was measured by {name!r}: {nearest(name, self.measures)}")
        return self.measures[name]

    def perceptual(self) -> Measure | None:
        """The perceptual metric that is drawn unless another is asked for: the first there is of a fixed list."""
        for name in ("ssimulacra2", "lpips", "lpips-vgg", "dists", "ms-ssim", "ms_ssim", "ssim"):
            if name in self.measures:
                return self.measures[name]
        return None


def family(channel: str) -> str:
    """What channels of one ladder share: ``"bsc"``, ``"gilbert-elliott(burst=16)"``.

    The graded parameter stands first in every canonical spelling.
    """
    found = re.fullmatch(r"([\w-]+)\(([^()]*)\)", channel)
    if found is None:
        return channel
    others = [part.strip() for part in found[2].split(",")[1:]]
    return f"{found[1]}({', '.join(others)})" if others else found[1]


def graded(channel: str) -> str:
    """The name of the parameter that grades a channel: ``"ber"``, ``"length"``, ``"keep"``."""
    found = re.fullmatch(r"[\w-]+\(\s*([\w]+)\s*=.*\)", channel)
    return found[1] if found else "severity"


def parameter(channel: str, name: str) -> float | None:
    """A parameter of a channel as its canonical spelling has it."""
    found = re.search(rf"[(,]\s*{re.escape(name)}=([^,)]+)", channel)
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None


def method(entry: str) -> str:
    """What entries at several rates share: the label in front of the last ``@``."""
    return entry.rpartition("@")[0] or entry


def digest(table: pa.Table) -> str:
    """SHA-256 of the rows, whatever their order, without the times and sizes of processes."""
    names = sorted(name for name in table.column_names if name not in _PASSING)
    columns = [table.column(name).to_pylist() for name in names]
    lines = sorted(json.dumps(row, default=str) for row in zip(*columns, strict=True))
    found = hashlib.sha256(json.dumps(names).encode())
    for line in lines:
        found.update(line.encode())
    return found.hexdigest()


def _measures(table: pa.Table) -> dict[str, Measure]:
    import pyarrow as pa

    stored = (table.schema.metadata or {}).get(b"robustkit.metrics")
    said: Any = {}
    if stored is not None:
        try:
            said = json.loads(stored)
        except ValueError as error:
            raise ResultsError(f"what the rows say of their metrics can't be read: {error}") from error
    if not isinstance(said, dict):
        raise ResultsError("what the rows say of their metrics is no table of metrics")
    found = {}
    for field_ in table.schema:
        name = field_.name
        if not pa.types.is_floating(field_.type) or name in _NO_METRIC:
            continue
        # Where no trial gave an image, a metric that was asked for is still one.
        if name not in said and table.column(name).null_count == len(table):
            continue
        about = said.get(name, {})
        about = about if isinstance(about, dict) else {"said": about}
        found[name] = Measure(name, _direction(name, about), _unit(name, about), about)
    return found


def _unit(name: str, about: Mapping[str, Any]) -> str:
    said = about.get("unit")
    return said if isinstance(said, str) else "dB" if name.startswith("psnr") else ""


def _direction(name: str, about: Mapping[str, Any]) -> bool:
    """Whether more is better, as the rows say, or as the metric's own place does."""
    if isinstance(about.get("higher_is_better"), bool):
        return bool(about["higher_is_better"])
    if isinstance(about.get("direction"), str):
        return bool(about["direction"].lower().startswith(("higher", "up", "max", "more")))
    # Not asked of quality.METRICS, which would load torch for a name that it does not know.
    known = name.replace("-", "_")
    if known in _BETTER:
        return _BETTER[known]
    raise ResultsError(f"nobody says whether more {name} is better or worse: the rows' metadata must")


def _settings(text: str, entry: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise ResultsError(f"the settings of {entry!r} can't be read: {error}") from error
    return found if isinstance(found, dict) else {"settings": found}


def _points(rows: Mapping[str, Sequence[Any]], metrics: Iterable[str]) -> dict[tuple[str, str], Point]:
    places: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(rows["entry"], rows["channel"], strict=True)):
        places.setdefault(key, []).append(i)
    usable = {outcome.value for outcome in Outcome if outcome.has_image}
    columns = {
        name: np.array([math.nan if v is None else v for v in rows[name]], dtype=np.float64)
        for name in (*metrics, "bpp")
    }
    found = {}
    for (entry, channel), unsorted in places.items():
        # Rows may come in any order, and sums of floats depend on theirs.
        here = sorted(unsorted, key=lambda i: (_natural(rows["image"][i]), rows["trial"][i]))
        first = here[0]
        found[entry, channel] = Point(
            entry,
            channel,
            str(rows["kind"][first]),
            float(rows["severity"][first]),
            tuple(rows["image"][i] for i in here),
            np.array([rows["outcome"][i] in usable for i in here], dtype=bool),
            columns["bpp"][here],
            {name: columns[name][here] for name in columns if name != "bpp"},
        )
    return found


def _natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """Orders "image 2" before "image 10"."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"([0-9]+)", str(text)))


def _by_rate(entry: str) -> tuple[Any, ...]:
    """Orders "webp@0.25" before "webp@0.4": what follows the last ``@`` is a fraction, not two numbers."""
    number = re.match(r"[0-9]+(?:\.[0-9]+)?", entry.rpartition("@")[2]) if "@" in entry else None
    return _natural(method(entry)), float(number[0]) if number else math.inf, _natural(entry)
