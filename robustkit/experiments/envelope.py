"""Which codec and protection is best for a total rate and a channel, by how much, and how surely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from robustkit.experiments import TOLERANCE, intervals, text
from robustkit.experiments.intervals import Difference, Share, Summary
from robustkit.experiments.rates import rates
from robustkit.experiments.results import Measure, Results, ResultsError, method
from robustkit.experiments.text import Table
from robustkit.spelling import nearest
from robustkit.statistics import CONFIDENCE


@dataclass(frozen=True)
class Candidate:
    """An entry that fits a rate.

    Attributes:
        entry: its label.
        method: what it shares with the same codec at other rates.
        bpp: mean total rate, protection and containers included.
        quality: trials without an image charged as a mid-grey one.
        no_image: the share of those.
    """

    entry: str
    method: str
    bpp: float
    quality: Summary
    no_image: Share


@dataclass(frozen=True)
class Choice:
    """What is best at one channel within a total rate.

    Attributes:
        channel: of the trials.
        bpp: the rate that nobody may exceed by more than the tolerance.
        measure: by which metric.
        candidates: the best entry of each method, the best first.
        margins: of the best against each other candidate, in their order: paired, on the same images, positive where
            the best is the better. Their intervals hold together, not each alone (Bonferroni).
        aside: entries that were not considered, and why.
    """

    channel: str
    bpp: float
    measure: Measure
    candidates: Sequence[Candidate]
    margins: Sequence[Difference]
    aside: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Candidate | None:
        """The first; ``None`` where nobody fits."""
        return self.candidates[0] if self.candidates else None

    @property
    def alike(self) -> list[Candidate]:
        """Those that the trials can't tell apart from the best."""
        return [c for c, margin in zip(self.candidates[1:], self.margins, strict=True) if not margin.told_apart]

    @property
    def sure(self) -> bool:
        """Whether the best is told apart from all others."""
        return len(self.candidates) > 1 and not self.alike

    def __str__(self) -> str:
        if self.best is None:
            return f"{self.channel}: no codec fits {self.bpp:g} bpp."
        best = self.best
        unit = f" {self.measure.unit}" if self.measure.unit else ""
        mean = text.number(best.quality.bound.estimate, self.measure.digits)
        said = f"{self.channel}, {self.bpp:g} bpp: {best.entry}, {mean}{unit}"
        if not self.margins:
            return f"{said}; nothing to compare it with."
        second, margin = self.candidates[1], self.margins[0]
        said += (
            f", {text.number(margin.bound.estimate, self.measure.digits)}{unit} "
            f"{text.interval(margin.bound, self.measure.digits)} better than {second.entry}"
        )
        if self.alike:
            return f"{said}. Not told apart: {', '.join(c.entry for c in self.alike)}."
        return f"{said}. Told apart from all others."


def choose(
    results: Results,
    channel: str,
    bpp: float,
    measure: Measure,
    *,
    tolerance: float = TOLERANCE,
    most_without_image: float = 1.0,
) -> Choice:
    """The best entry of each method within a rate, and the best of them.

    Args:
        channel: one that has trials, or "clean".
        bpp: bits per pixel, all included.
        tolerance: by how much of it an entry's mean rate may be above.
        most_without_image: leave out entries with a larger share of trials without an image.

    Raises:
        ResultsError: nobody ran this channel.
    """
    if not any(point.channel == channel for point in results.points.values()):
        raise ResultsError(f"no trial went through {channel!r}: {nearest(channel, results.channels)}")
    if not (math.isfinite(bpp) and bpp > 0):
        raise ResultsError(f"bpp = {bpp!r}: give a rate above 0")
    found, aside = _candidates(results, channel, bpp, measure, tolerance, most_without_image)
    sign = 1 if measure.higher_is_better else -1
    best_of: dict[str, Candidate] = {}
    for candidate in found:
        before = best_of.get(candidate.method)
        if before is None or sign * candidate.quality.bound.estimate > sign * before.quality.bound.estimate:
            best_of[candidate.method] = candidate
    ranked = sorted(best_of.values(), key=lambda c: (-sign * c.quality.bound.estimate, c.bpp, c.entry))
    return Choice(channel, bpp, measure, ranked, _margins(results, channel, measure, ranked, sign), aside)


def _candidates(
    results: Results, channel: str, bpp: float, measure: Measure, tolerance: float, most_without_image: float
) -> tuple[list[Candidate], dict[str, str]]:
    found, aside = [], {}
    means = rates(results).means
    for entry in results.entries:
        point = results.point(entry, channel)
        if point is None:
            aside[entry] = "no trial of it went through this channel"
            continue
        if means[entry] > bpp * (1 + tolerance):
            aside[entry] = f"{means[entry]:.4g} bpp is above the rate"
            continue
        share = intervals.corrupted(point)
        quality = intervals.charged(point, measure, results.grey.get(measure.name, {}))
        if share.share > most_without_image:
            aside[entry] = f"{text.counted(share)} of the trials gave no image"
        elif quality is None:
            aside[entry] = f"{text.counted(share)} without an image, and nobody measured what a mid-grey one scores"
        elif quality.identical:
            aside[entry] = (
                f"{quality.identical} of {quality.trials} images are the original itself, where {measure.name} has no "
                "number: choose by another metric"
            )
        elif not quality.counted:
            aside[entry] = f"no trial was measured by {measure.name}"
        else:
            found.append(Candidate(entry, method(entry), means[entry], quality, share))
    return found, aside


def _margins(
    results: Results, channel: str, measure: Measure, ranked: Sequence[Candidate], sign: int
) -> list[Difference]:
    if len(ranked) < 2:
        return []
    confidence = 1 - (1 - CONFIDENCE) / (len(ranked) - 1)
    best = results.points[ranked[0].entry, channel]
    margins = []
    for candidate in ranked[1:]:
        other = results.points[candidate.entry, channel]
        # The better side first, so that a margin is positive for either direction of the metric.
        sides = (best, other) if sign > 0 else (other, best)
        grey = results.grey.get(measure.name, {})
        margins.append(intervals.paired(*sides, measure, grey=grey, confidence=confidence))
    return margins


def table(choices: Sequence[Choice]) -> Table:
    """What was chosen, a line for each channel and candidate, as text and figures."""
    lines, figures = [], []
    for choice in choices:
        margins: list[Difference | None] = [None, *choice.margins]
        for place, (candidate, margin) in enumerate(zip(choice.candidates, margins, strict=False), start=1):
            digits = choice.measure.digits
            apart = "the best" if margin is None else "yes" if margin.told_apart else "no"
            behind = "" if margin is None else f"{text.number(-margin.bound.estimate, digits)} "
            if margin is not None:
                low, high = -margin.bound.high, -margin.bound.low
                if not choice.measure.higher_is_better:
                    low, high, behind = -high, -low, f"{text.number(margin.bound.estimate, digits)} "
                behind += f"[{text.number(low, digits)}, {text.number(high, digits)}]"
            lines.append([choice.channel, f"{choice.bpp:.4g}", candidate.entry, f"{candidate.bpp:.4f}",
                          text.number(candidate.quality.bound.estimate, digits),
                          text.interval(candidate.quality.bound, digits), text.counted(candidate.no_image), behind,
                          apart])  # fmt: skip
            figures.append(_figures(choice, place, candidate, margin))
    measure = choices[0].measure.label if choices else ""
    return Table(
        "envelope",
        f"Which codec and protection is best for a total rate, by {measure}.",
        ["channel", "at most bpp", "codec", "bpp", "charged mean", "95%", "no image", "against the best", "told apart"],
        lines,
        figures,
        (
            "Trials without an image are charged as a mid-grey one. Of a codec at several rates the best that fits.",
            "Differences are paired, on the same images; their 95% intervals hold together for all codecs of a channel "
            "(Bonferroni).",
        ),
    )


def _figures(choice: Choice, place: int, candidate: Candidate, margin: Difference | None) -> dict[str, Any]:
    quality = candidate.quality
    return {
        "channel": choice.channel,
        "at_most_bpp": choice.bpp,
        "metric": choice.measure.name,
        "place": place,
        "entry": candidate.entry,
        "bpp": candidate.bpp,
        "mean": quality.bound.estimate,
        "low": quality.bound.low,
        "high": quality.bound.high,
        "no_image": candidate.no_image.events,
        "trials": candidate.no_image.trials,
        "best_is_better_by": None if margin is None else margin.bound.estimate,
        "margin_low": None if margin is None else margin.bound.low,
        "margin_high": None if margin is None else margin.bound.high,
        "told_apart": None if margin is None else margin.told_apart,
    }


def budgets(results: Results, *, tolerance: float = TOLERANCE) -> list[float]:
    """Rates that a comparison makes sense at: the upper end of each group of at least two methods at one rate."""
    from robustkit.experiments.rates import groups

    found = rates(results, tolerance=tolerance)
    made: list[float] = []
    for group in groups(found):
        most = max(found.means[entry] for entry in group)
        if len({method(entry) for entry in group}) > 1:
            # Two that are as near to each other as matched rates are one question.
            if made and most <= made[-1] * (1 + tolerance):
                made.pop()
            made.append(most)
    return made
