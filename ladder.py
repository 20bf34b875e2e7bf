"""Codecs over a ladder of rates, and how far one is from another: Bjontegaard differences from a kept library.

G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001; Akima interpolation as in
C. Herglotz et al., "The Bjontegaard Bible", IEEE TIP 33, 2024, whose package computes it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustkit.experiments import intervals, text
from robustkit.experiments.drawing import needed
from robustkit.experiments.intervals import Summary
from robustkit.experiments.rates import rates
from robustkit.experiments.results import CLEAN, Measure, Results, method
from robustkit.experiments.text import NO_VALUE, Table

#: Rates that a curve must have.
LEAST = 4


@dataclass(frozen=True)
class Rung:
    """One codec at one rate.

    Attributes:
        entry: its label.
        bpp: mean rate over images.
        quality: its values at one channel; ``None`` where that convention can't be had.
    """

    entry: str
    bpp: float
    quality: Summary | None

    @property
    def mean(self) -> float:
        """Quality over images; NaN where there is none, or an image equals the original."""
        if self.quality is None or self.quality.identical:
            return math.nan
        return self.quality.bound.estimate


@dataclass(frozen=True)
class Delta:
    """One curve against another.

    Attributes:
        rate: how much more rate the codec needs for the same quality, in per cent, on average; ``None`` if unknown.
        quality: how much better it is at the same rate, on average, in the metric's unit; ``None`` if unknown.
        overlap: the part of the rates of both that both cover, 0 to 1, on a log scale.
        why: why something is unknown, or to be taken with care; empty otherwise.
    """

    rate: float | None
    quality: float | None
    overlap: float
    why: str = ""


def ladders(results: Results) -> dict[str, list[str]]:
    """Entries of one method at several rates, by method, from the lowest rate."""
    means = rates(results).means
    found: dict[str, list[str]] = {}
    for entry in results.entries:
        found.setdefault(method(entry), []).append(entry)
    return {name: sorted(some, key=lambda e: (means[e], e)) for name, some in found.items() if len(some) > 1}


def rungs(
    results: Results, entries: Sequence[str], measure: Measure, channel: str = CLEAN, *, charged: bool = False
) -> list[Rung]:
    """Entries with their rates and qualities at a channel, from the lowest rate.

    Args:
        charged: whether trials without an image count as a mid-grey one; otherwise they are left out.
    """
    means = rates(results).means
    found = []
    for entry in sorted(entries, key=lambda entry: (means[entry], entry)):
        point = results.point(entry, channel)
        if point is None:
            continue
        if charged:
            quality = intervals.charged(point, measure, results.grey.get(measure.name, {}))
        else:
            quality = intervals.left_out(point, measure)
        found.append(Rung(entry, means[entry], quality))
    return found


def delta(anchor: Sequence[Rung], other: Sequence[Rung], measure: Measure) -> Delta:
    """Bjontegaard differences of ``other`` against ``anchor``.

    Raises:
        FigureError: the package bjontegaard is missing.
    """
    needed("bjontegaard")
    sides = []
    for name, side in (("the anchor", anchor), ("the codec", other)):
        if len(side) < LEAST:
            return Delta(None, None, 0.0, f"{name} has {len(side)} rates, {LEAST} are needed")
        if any(math.isnan(rung.mean) for rung in side):
            return Delta(None, None, 0.0, f"{name} has a rate without a finite quality")
        sign = 1 if measure.higher_is_better else -1
        rate, quality = np.array([r.bpp for r in side]), sign * np.array([r.mean for r in side])
        if not (np.diff(rate) > 0).all():
            return Delta(None, None, 0.0, f"{name} has two entries of equal rate")
        sides.append((rate, quality))
    (rate_1, quality_1), (rate_2, quality_2) = sides
    overlap = _overlap(np.log10(rate_1), np.log10(rate_2))
    if overlap == 0:
        return Delta(None, None, 0.0, "the two have no rate in common")
    with warnings.catch_warnings():
        # What it warns of is said by the overlap; and it loads pyplot.
        warnings.simplefilter("ignore")
        import bjontegaard as bd

        options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
        gain = float(bd.bd_psnr(rate_1, quality_1, rate_2, quality_2, **options))
        if not ((np.diff(quality_1) > 0).all() and (np.diff(quality_2) > 0).all()):
            return Delta(None, gain, overlap, "quality does not rise with rate, so there is no rate for a quality")
        if _overlap(quality_1, quality_2) == 0:
            return Delta(None, gain, overlap, "the two have no quality in common")
        cost = float(bd.bd_rate(rate_1, quality_1, rate_2, quality_2, **options))
    return Delta(cost, gain, overlap, "" if overlap >= 0.75 else "the rates overlap by less than three quarters")


def _overlap(one: np.typing.NDArray[np.float64], two: np.typing.NDArray[np.float64]) -> float:
    whole = max(one.max(), two.max()) - min(one.min(), two.min())
    common = min(one.max(), two.max()) - max(one.min(), two.min())
    return float(max(0.0, common) / whole)


def table(results: Results, measures: Sequence[Measure], *, anchor: str | None = None, channel: str = CLEAN) -> Table:
    """Bjontegaard differences of every ladder against one, by metric.

    Args:
        anchor: a method, or an entry of it; by default the first.
    """
    found = ladders(results)
    first = next(iter(found), "") if anchor is None or method(anchor) not in found else method(anchor)
    lines, figures = [], []
    for name, entries in found.items():
        if name == first:
            continue
        for measure in measures:
            made = delta(
                rungs(results, found[first], measure, channel), rungs(results, entries, measure, channel), measure
            )
            rate = NO_VALUE if made.rate is None else f"{made.rate:+.1f}%"
            gain = NO_VALUE if made.quality is None else f"{made.quality:+.{measure.digits}f}"
            lines.append([name, measure.label, rate, gain, f"{made.overlap:.0%}", made.why])
            figures.append({"codec": name, "anchor": first, "channel": channel, "metric": measure.name,
                            "rate_percent": made.rate, "quality": made.quality, "overlap": made.overlap,
                            "why": made.why})  # fmt: skip
    return Table(
        "bjontegaard" if channel == CLEAN else f"bjontegaard-{channel}",
        f"Bjontegaard differences against {first}, {channel}.",
        ["codec", "metric", "rate for the same quality", "quality at the same rate", "overlap of rates", "remarks"],
        lines,
        figures,
        (
            "Rate: below 0 the codec needs less. Quality: above 0 it is better, in the metric's unit, for metrics "
            "where less is better, too. Akima interpolation over the logarithm of the rate; means over images, trials "
            f"without an image left out. {text.number(LEAST, 0)} rates of each are needed.",
        ),
    )
