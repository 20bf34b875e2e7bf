"""Confidence bounds about images in general, from trials clustered by image.

The suite's verdicts speak of the images of a run, by :mod:`robustkit.evalues`; these bounds speak of others, too.
Trials of one image resemble one another, so images are the units: k images with n trials each say much less about
images in general than k*n independent trials would. Every function takes ``values[image]``, the trials of each image
as a one-dimensional array, gives every image the same weight, and is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from robustkit.channels import generator

Floats = npt.NDArray[np.float64]

#: Confidence of a bound unless told otherwise.
CONFIDENCE = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True)
class Bound:
    """An estimate and the interval around it.

    Attributes:
        estimate: the point estimate, NaN where there is no value at all.
        low: lower confidence bound, ``-inf`` where the data give none.
        high: upper confidence bound, ``inf`` where the data give none.
        confidence: of ``low`` and of ``high``, each taken alone; of both together if ``two_sided``.
        two_sided: see there.
    """

    estimate: float
    low: float
    high: float
    confidence: float = CONFIDENCE
    two_sided: bool = False


def mean_bound(
    values: Mapping[str, npt.ArrayLike], *, confidence: float = CONFIDENCE, two_sided: bool = False
) -> Bound:
    """The mean over images of the mean over trials, with the wider end of two intervals on either side.

    One is Student's t on the image means with k - 1 degrees of freedom, the choice for few clusters (Cameron and
    Miller, J. Human Resources 50, 2015, section VI; Donner and Klar, Cluster Randomization Trials, 2000). The other
    is a two-stage percentile bootstrap, images first and then trials within each (Davison and Hinkley, Bootstrap
    Methods, 1997, section 3.8), which follows a skew that t does not; alone it is far too narrow for six images.

    Where all values are equal, as from a deterministic decoder, the interval is that one value. A mean without
    bound on the values can't be bounded against catastrophes that no trial met: that is the share's task.
    With a single image its trials are the units, and the bound speaks of that image alone.

    Args:
        values: finite numbers. Images without any, because no trial gave an image, are left out.
        confidence: see :class:`Bound`.
        two_sided: see :class:`Bound`.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    _check(confidence)
    groups = _groups(values)
    if any(not np.isfinite(group).all() for group in groups):
        raise ValueError("a mean needs finite values: leave out the trials that gave no image")
    plain = _plain(groups, confidence, two_sided)
    if plain is not None:
        return plain
    if len(groups) == 1:
        groups = [np.array([value]) for value in groups[0]]
    tail = _tail(confidence, two_sided)
    means = np.array([group.mean() for group in groups])
    estimate = float(means.mean())
    reach = float(special.stdtrit(len(means) - 1, 1 - tail) * means.std(ddof=1) / math.sqrt(len(means)))
    low, high = np.quantile(_resampled_means(groups), [tail, 1 - tail])
    return Bound(
        estimate,
        min(estimate - reach, float(low)),
        max(estimate + reach, float(high)),
        confidence,
        two_sided,
    )


def share_bound(
    events: Mapping[str, npt.ArrayLike], *, confidence: float = CONFIDENCE, two_sided: bool = False
) -> Bound:
    """The share of trials that show an event, with an exact interval that allows for clustering.

    Clopper and Pearson (Biometrika 1934) at the effective number of trials: the number divided by the design effect,
    never taken below 1, and reduced for the few images that it is estimated from (Korn and Graubard, Survey
    Methodology 24, 1998). When no trial or every trial shows the event there is nothing to estimate a design
    effect from, and the number of trials itself is used: the bound then speaks of these images.

    Args:
        events: booleans, whether each trial shows the event.
        confidence: see :class:`Bound`.
        two_sided: see :class:`Bound`.
    """
    _check(confidence)
    groups = _groups(events)
    if any(not np.isin(group, (0, 1)).all() for group in groups):
        raise ValueError("events are booleans, one a trial: whether it shows the event")
    if not groups:
        return Bound(math.nan, 0.0, 1.0, confidence, two_sided)
    shares = np.array([[group.mean() for group in groups]])
    low, high = _share_ends(shares, sum(map(len, groups)), _tail(confidence, two_sided))
    return Bound(float(shares.mean()), float(low[0]), float(high[0]), confidence, two_sided)


def _check(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence = {confidence!r} is out of range: give 0.5 to below 1")


def _tail(confidence: float, two_sided: bool) -> float:
    return (1 - confidence) / (2 if two_sided else 1)


def _groups(values: Mapping[str, npt.ArrayLike]) -> list[Floats]:
    groups = [np.asarray(trials, dtype=np.float64) for trials in values.values()]
    for image, group in zip(values, groups, strict=True):
        if group.ndim != 1:
            raise ValueError(f"the values of image {image!r} have {group.ndim} dimensions: give one value a trial")
    return [group for group in groups if len(group)]


def _plain(groups: list[Floats], confidence: float, two_sided: bool) -> Bound | None:
    """The bound where there is nothing to compute: no value, one, or all the same."""
    pooled = np.concatenate([np.empty(0), *groups])
    if len(pooled) < 2:
        estimate = float(pooled[0]) if len(pooled) else math.nan
        return Bound(estimate, -math.inf, math.inf, confidence, two_sided)
    if (pooled == pooled[0]).all():
        return Bound(float(pooled[0]), float(pooled[0]), float(pooled[0]), confidence, two_sided)
    return None


def _resampled_means(groups: list[Floats]) -> Floats:
    """Two-stage bootstrap of the mean of image means: images with replacement, then trials of each."""
    rng = generator("", "", "bootstrap", 0)
    picks = rng.integers(0, len(groups), size=(_RESAMPLES, len(groups)))
    means = np.empty(picks.shape)
    for image, group in enumerate(groups):
        here = picks == image
        draws = rng.integers(0, len(group), size=(int(here.sum()), len(group)))
        means[here] = group[draws].mean(axis=1)
    resampled: Floats = means.mean(axis=1)
    return resampled


def _share_ends(shares: Floats, trials: int, tail: float) -> tuple[Floats, Floats]:
    """Korn and Graubard's interval for each row of ``shares``, levels x images."""
    share = shares.mean(axis=1)
    images = shares.shape[1]
    effective = np.full(len(share), float(trials))
    mixed = (share > 0) & (share < 1)
    if images > 1 and mixed.any():
        clustered = shares[mixed].var(axis=1, ddof=1) / images
        independent = share[mixed] * (1 - share[mixed]) / trials
        few = (special.stdtrit(trials - 1, 1 - tail) / special.stdtrit(images - 1, 1 - tail)) ** 2
        effective[mixed] = trials / np.maximum(clustered / independent, 1) * few
    events = share * effective
    # Beta quantiles have no limit in scipy where a count is 0.
    low = np.where(share > 0, special.betaincinv(events, np.maximum(effective - events, 0) + 1, tail), 0.0)
    high = np.where(share < 1, special.betaincinv(events + 1, effective - events, 1 - tail), 1.0)
    return low, high
