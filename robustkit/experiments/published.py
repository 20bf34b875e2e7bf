"""The published values of arXiv 2604.05743, shipped as data, and beside them what was measured here, cell by cell."""

from __future__ import annotations

import csv
import importlib.resources
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from robustkit.experiments import intervals, text
from robustkit.experiments.rates import rates
from robustkit.experiments.results import CLEAN, Measure, Point, Results, ResultsError, parameter
from robustkit.experiments.tables import set_summary
from robustkit.experiments.text import NO_VALUE, Table
from robustkit.spelling import nearest

#: By data set, how many images the published runs had.
IMAGES: Mapping[str, int] = {"kodak24": 24, "div2k": 100}
#: DiffC's run left one image out.
_FEWER = {("kodak24", "diffc"): 23}
#: Codecs here that have a prior to choose; the published runs gave them Stable Diffusion 2.1-base.
WITH_PRIOR = frozenset({"ddcm", "diffc", "psc", "turbo-ddcm", "robust-turbo-ddcm"})
_PUBLISHED_PRIOR = "stable-diffusion-2-1-base"
#: Channels that are the published one but for their draws.
_KINDS = ("bsc", "published-bsc")
#: Kinds of cells whose figures are the published ones.
_EXACT = ("table", "clean")
#: The FID that can be compared with the published one.
_FID = "fid-published"


@dataclass(frozen=True)
class Value:
    """A published mean with its standard deviation, digits as published.

    Attributes:
        mean, sd: as text; the deviation may be empty.
        units: what the mean's standard error is taken over: images, or trials for FID.
        exact: whether it is the published figure, and no estimate from a part of its rows.
    """

    mean: str
    sd: str
    units: int
    exact: bool

    @property
    def error(self) -> float:
        """Standard error of the mean, as if all that varies varied between images: rather too large than too small."""
        return float(self.sd) / math.sqrt(self.units) if self.sd and self.units else math.nan

    def __str__(self) -> str:
        return f"{self.mean} ± {self.sd}" if self.sd else self.mean


@dataclass(frozen=True)
class Cell:
    """One codec at one bit error rate on one data set, as published.

    Attributes:
        set: "kodak24" or "div2k".
        codec: as robustkit calls it.
        ber: 0 if clean.
        kind: how well it is known, see the head of ``published.csv``.
        bpp: mean rate; only where clean.
        values: by metric: "psnr", "lpips", "fid".
        no_image, trials: of how many rows how many had no image; ``None`` where nobody read it.
    """

    set: str
    codec: str
    ber: float
    kind: str
    bpp: float | None
    values: Mapping[str, Value]
    no_image: int | None
    trials: int | None


def _lines(name: str) -> Iterator[dict[str, str]]:
    data = importlib.resources.files("robustkit.experiments").joinpath(name).read_text(encoding="utf-8")
    yield from csv.DictReader(line for line in data.splitlines() if not line.startswith("#"))


@cache
def cells() -> tuple[Cell, ...]:
    """All published cells."""
    found = []
    for row in _lines("published.csv"):
        images = _FEWER.get((row["set"], row["codec"]), IMAGES[row["set"]])
        exact = row["kind"] in _EXACT
        values = {
            metric: Value(row[f"{metric}_mean"], row[f"{metric}_sd"], images, exact)
            for metric in ("psnr", "lpips")
            if row[f"{metric}_mean"]
        }
        if row["fid_mean"]:
            values["fid"] = Value(row["fid_mean"], row["fid_sd"], int(row["fid_trials"] or 0), exact)
        found.append(
            Cell(
                row["set"],
                row["codec"],
                float(row["ber"]),
                row["kind"],
                float(row["bpp"]) if row["bpp"] else None,
                values,
                int(row["no_image"]) if row["no_image"] else None,
                int(row["trials"]) if row["trials"] else None,
            )
        )
    return tuple(found)


def autoencoder(which: str) -> dict[str, float]:
    """PSNR, LPIPS and FID of the autoencoder alone on a data set: the dashed line of the published figure 2."""
    (row,) = (row for row in _lines("autoencoder.csv") if row["set"] == which)
    return {metric: float(row[metric]) for metric in ("psnr", "lpips", "fid")}


def cell(which: str, codec: str, ber: float) -> Cell | None:
    """What was published of a codec at a bit error rate, or ``None``."""
    for found in cells():
        if (found.set, found.codec) == (which, codec) and math.isclose(found.ber, ber, rel_tol=1e-9):
            return found
    return None


def which_set(results: Results, asked: str | None = None) -> str:
    """The published data set that an experiment is compared with: the one asked for, or that of as many images.

    Raises:
        ResultsError: there is no such set.
    """
    if asked is not None:
        if asked not in IMAGES:
            raise ResultsError(f"nothing was published of {asked!r}: {nearest(asked, IMAGES)}")
        return asked
    return next((name for name, images in IMAGES.items() if images == len(results.images)), "kodak24")


def prior(results: Results, entry: str) -> str:
    """Which prior an entry's rows ran with: "published prior", "embedded prior", "another prior", "no choice"."""
    codec, settings = results.codecs[entry], results.settings[entry]
    if codec not in WITH_PRIOR:
        return "no choice"
    named = settings.get("prior")
    if named is None:
        return "published prior" if settings.get("preset") == "paper" else "embedded prior"
    if str(named).rstrip("/").endswith(_PUBLISHED_PRIOR):
        return "published prior"
    return "embedded prior" if named == "embedded" else "another prior"


def ber_of(channel: str) -> float | None:
    """The bit error rate of a channel that the published experiment had, or one like it; ``None`` for all others."""
    if channel == CLEAN:
        return 0.0
    return parameter(channel, "ber") if channel.partition("(")[0] in _KINDS else None


def pairs(results: Results, which: str) -> Iterator[tuple[Point, Cell]]:
    """What was measured beside what was published, wherever there are both."""
    for entry in results.entries:
        for channel in (CLEAN, *results.channels):
            ber, point = ber_of(channel), results.point(entry, channel)
            if ber is None or point is None:
                continue
            if (published := cell(which, results.codecs[entry], ber)) is not None:
                yield point, published


def comparison(results: Results, measures: Sequence[Measure], which: str) -> Table:
    """Measured and published values side by side, with the difference in standard errors.

    Args:
        measures: those that the rows have; PSNR and LPIPS are compared, and ``fid-published``.
        which: data set.
    """
    heads = ["codec", "prior", "BER", "quantity", "measured", "published", "difference, SE", "same digits"]
    lines, figures = [], []
    for point, published in pairs(results, which):
        who = [point.entry, prior(results, point.entry), f"{published.ber:g}"]
        for said in _quantities(results, point, published, measures):
            same = {True: "yes", False: "no", None: ""}[said["same_digits"]]
            off = said["standard_errors"]
            lines.append([*who, said["quantity"], said.pop("shown"), said.pop("shown_published"),
                          text.number(off, 1) if off is not None else NO_VALUE, same])  # fmt: skip
            figures.append({"entry": who[0], "prior": who[1], "ber": published.ber, "channel": point.channel,
                            "known": published.kind, **said})  # fmt: skip
    notes = [
        f"Published: arXiv 2604.05743 on {which}, {IMAGES[which]} images; measured here: {len(results.images)} images. "
        "Other images, another prior or another rate are part of the difference.",
        "Standard errors: measured, over image means; published, the deviation by the root of the number of images (of "
        "trials for FID). Shares: pooled. ~ marks published values that are estimated from a sample of their rows.",
        "Rows marked as of the embedded prior did not run with the published one, Stable Diffusion 2.1-base, and can't "
        "be expected to agree.",
    ]
    return Table("compare-published", f"Measured beside published values ({which}).", heads, lines, figures, notes)


def _quantities(
    results: Results, point: Point, published: Cell, measures: Sequence[Measure]
) -> Iterator[dict[str, Any]]:
    if published.bpp is not None:
        rate = rates(results, (point.entry,)).means[point.entry]
        yield {
            "quantity": "bpp",
            "shown": f"{rate:.4f}",
            "shown_published": f"{published.bpp:.4f}",
            "measured": rate,
            "published": published.bpp,
            "standard_errors": None,
            "same_digits": f"{rate:.4f}" == f"{published.bpp:.4f}",
        }
    for measure in measures:
        if measure.name not in published.values or measure.name == "fid":
            continue
        value = published.values[measure.name]
        summary = intervals.left_out(point, measure)
        values = point.metrics[measure.name]
        there = ~np.isnan(values) & ~measure.identical(values)
        means = [float(group.mean()) for group in point.by_image(values, there).values() if len(group)]
        error = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.nan
        yield _set_beside(measure.label, value, summary.mean, summary.sd, error, text.spread(summary, measure))
    if "fid" in published.values and (values_of := results.sets.get((point.entry, point.channel, _FID))):
        mean, sd = set_summary(np.array(values_of))
        error = sd / math.sqrt(len(values_of)) if len(values_of) > 1 else math.nan
        yield _set_beside("FID", published.values["fid"], mean, sd, error, f"{mean:.2f} ± {text.number(sd, 2)}")
    if published.no_image is not None and published.trials:
        share = _share(point, published.no_image, published.trials)
        yield share if published.kind in _EXACT else {**share, "same_digits": None}


def _set_beside(name: str, published: Value, mean: float, sd: float, error: float, shown: str) -> dict[str, Any]:
    apart = math.hypot(error, published.error)
    off = (mean - float(published.mean)) / apart if apart > 0 and not math.isnan(mean) else None
    digits = len(published.mean.partition(".")[2])
    same = text.number(mean, digits) == published.mean and (not published.sd or text.number(sd, digits) == published.sd)
    return {
        "quantity": name,
        "shown": shown,
        "shown_published": ("" if published.exact else "~ ") + str(published),
        "measured": mean,
        "measured_sd": sd,
        "published": float(published.mean),
        "published_sd": float(published.sd) if published.sd else None,
        "standard_errors": off,
        "same_digits": same if published.exact else None,
    }


def _share(point: Point, no_image: int, trials: int) -> dict[str, Any]:
    share = intervals.corrupted(point)
    pooled = (share.events + no_image) / (share.trials + trials)
    error = math.sqrt(pooled * (1 - pooled) * (1 / share.trials + 1 / trials))
    theirs = no_image / trials
    return {
        "quantity": "no image",
        "shown": text.counted(share),
        "shown_published": f"{no_image} of {trials}: {text.percent(theirs)}",
        "measured": share.share,
        "published": theirs,
        "standard_errors": (share.share - theirs) / error if error > 0 else None,
        "same_digits": (share.events, share.trials) == (no_image, trials),
    }
