"""What the trials of one point say: means as published, and beside them intervals with images as clusters.

The published tables pool all decoded rows, images times trials, and give the mean and the standard deviation with
n - 1. That deviation is mostly the spread between images, and says little of how well the mean is known. So a 95%
interval stands beside it, from :func:`robustkit.statistics.mean_bound`, with images as clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robustkit import statistics
from robustkit.experiments.results import Floats, Measure, Point
from robustkit.statistics import CONFIDENCE, Bound


@dataclass(frozen=True)
class Summary:
    """The values of one metric at one point.

    Attributes:
        trials: all, those without an image too.
        counted: values that the mean stands on.
        identical: values left out because the image equals the original and the metric has no number for that.
        unmeasured: trials with an image that the metric gave no value for.
        mean: pooled over the values counted, images times trials; NaN where there are none.
        sd: their standard deviation with n - 1; NaN below two values.
        bound: the mean over images of the mean over trials, and its two-sided interval.
    """

    trials: int
    counted: int
    identical: int
    unmeasured: int
    mean: float
    sd: float
    bound: Bound

    @property
    def half(self) -> float:
        """Half the interval's length, a standard error times about two; NaN where there is none."""
        return (self.bound.high - self.bound.low) / 2 if math.isfinite(self.bound.high - self.bound.low) else math.nan


@dataclass(frozen=True)
class Share:
    """How many of a point's trials show an event, and the exact interval around that share.

    Where none of n shows it, or all do, the interval is one-sided, at the same confidence.

    Attributes:
        events: how many do.
        trials: of how many.
        bound: of the share, 0 to 1.
    """

    events: int
    trials: int
    bound: Bound

    @property
    def share(self) -> float:
        """0 to 1; NaN of no trials."""
        return self.events / self.trials if self.trials else math.nan

    @property
    def none(self) -> bool:
        """Whether nothing but an upper bound is known."""
        return self.events == 0


@dataclass(frozen=True)
class Difference:
    """One codec against another on the same images.

    Attributes:
        images: those that both have values for.
        left_out: those that only one has.
        bound: the mean difference and its two-sided interval, in the metric's unit; positive where the first is larger.
    """

    images: int
    left_out: int
    bound: Bound

    @property
    def told_apart(self) -> bool:
        """Whether the interval is one and leaves out 0."""
        return math.isfinite(self.bound.low) and (self.bound.low > 0 or self.bound.high < 0)


def left_out(point: Point, measure: Measure, *, confidence: float = CONFIDENCE) -> Summary:
    """Trials without an image left out, as published."""
    key = ("left out", measure.name, confidence)
    if key not in point.known:
        values = point.metrics[measure.name]
        point.known[key] = _summary(point, values, measure, _unmeasured(point, values), confidence)
    found: Summary = point.known[key]
    return found


def charged(
    point: Point, measure: Measure, grey: Mapping[str, float], *, confidence: float = CONFIDENCE
) -> Summary | None:
    """Trials without an image charged what a mid-grey image scores against the original.

    Args:
        grey: that score, by image.

    Returns:
        ``None`` where a trial without an image is of a picture that nobody knows the score for.
    """
    scores = tuple(grey.get(image) for image in dict.fromkeys(point.images))
    key = ("charged", measure.name, confidence, scores)
    if key not in point.known:
        values = charged_values(point, measure, grey)
        point.known[key] = (
            None if values is None else _summary(point, values, measure, _unmeasured(point, values), confidence)
        )
    found: Summary | None = point.known[key]
    return found


def _unmeasured(point: Point, values: Floats) -> int:
    return int((point.has_image & np.isnan(values)).sum())


def charged_values(point: Point, measure: Measure, grey: Mapping[str, float]) -> Floats | None:
    """Of each row the value, or the mid-grey image's where there is no image; see :func:`charged`."""
    values = point.metrics[measure.name].copy()
    for i in np.flatnonzero(~point.has_image):
        if point.images[i] not in grey:
            return None
        values[i] = grey[point.images[i]]
    return values


def _summary(point: Point, values: Floats, measure: Measure, unmeasured: int, confidence: float) -> Summary:
    there = ~np.isnan(values)
    identical = there & measure.identical(values)
    counted = there & ~identical
    pooled = values[counted]
    return Summary(
        len(values),
        len(pooled),
        int(identical.sum()),
        unmeasured,
        float(pooled.mean()) if len(pooled) else math.nan,
        float(pooled.std(ddof=1)) if len(pooled) > 1 else math.nan,
        statistics.mean_bound(point.by_image(values, counted), confidence=confidence, two_sided=True),
    )


def corrupted(point: Point, *, confidence: float = CONFIDENCE) -> Share:
    """The share of trials without a usable image: Clopper and Pearson, allowing for images as clusters."""
    events = ~point.has_image
    count = int(events.sum())
    one_sided = count in (0, len(events))
    bound = statistics.share_bound(point.by_image(events), confidence=confidence, two_sided=not one_sided)
    if one_sided and len(events):
        # Of a one-sided interval the other end is the share itself.
        low, high = (0.0, bound.high) if count == 0 else (bound.low, 1.0)
        bound = Bound(bound.estimate, low, high, confidence, two_sided=False)
    return Share(count, len(events), bound)


def loss(point: Point, clean: Point, measure: Measure, *, confidence: float = CONFIDENCE) -> Bound:
    """What damage costs: the mean loss against the clean decode of the same image, over the trials with an image.

    Args:
        point: of a channel.
        clean: of the same entry. Images that decode to their original have no number to lose from, and are left out.

    Returns:
        The mean over images of the mean over trials and its two-sided interval, in the metric's unit; above 0 the
        trials are worse.
    """
    key = ("loss", measure.name, confidence)
    if key not in point.known:
        known = clean.metrics[measure.name]
        there = ~np.isnan(known) & ~measure.identical(known)
        best = {image: float(value) for image, value, take in zip(clean.images, known, there, strict=True) if take}
        sign = 1.0 if measure.higher_is_better else -1.0
        values = point.metrics[measure.name]
        lost = np.array([best.get(image, math.nan) for image in point.images]) - values
        point.known[key] = statistics.mean_bound(
            point.by_image(sign * lost, ~np.isnan(lost)), confidence=confidence, two_sided=True
        )
    found: Bound = point.known[key]
    return found


def paired(
    one: Point,
    other: Point,
    measure: Measure,
    *,
    grey: Mapping[str, float] | None = None,
    confidence: float = CONFIDENCE,
) -> Difference:
    """``one`` minus ``other`` in one metric, image by image: what they share of an image's difficulty falls out.

    Args:
        grey: charge trials without an image with these, by image; by default they are left out.
        confidence: of the two-sided interval. Who compares many pairs raises it.
    """
    sides = []
    for point in (one, other):
        values = point.metrics[measure.name] if grey is None else charged_values(point, measure, grey)
        if values is None:
            return Difference(0, len(set(one.images) | set(other.images)), Bound(math.nan, -math.inf, math.inf))
        counted = ~np.isnan(values) & ~measure.identical(values)
        sides.append({image: v.mean() for image, v in point.by_image(values, counted).items() if len(v)})
    both = [image for image in sides[0] if image in sides[1]]
    bound = statistics.mean_bound(
        {image: [float(sides[0][image] - sides[1][image])] for image in both}, confidence=confidence, two_sided=True
    )
    return Difference(len(both), len(set(one.images) | set(other.images)) - len(both), bound)
