"""Regression: whether a codec loses more under damage than when its golden drops were recorded.

Where image, stream and seed are the same, so is the damage of each trial, and trials are compared in pairs: of a
decoder that has not changed every difference is exactly 0. Other streams are compared image by image, the trials before
with those now.

Both are randomisation tests, exact at any distribution of drops (Pitman, 1937; Lehmann and Romano, Testing Statistical
Hypotheses, 2005, section 15.2). If nothing got worse by more than the margin, then "before" and "now" are no more than
names: of a pair they are swapped, of an image's trials dealt anew. How often a deal looks as bad as what was seen, in
the worst of all statistics of all channels, is the chance that is held against :data:`ALARM`: that of a false alarm in
a whole run (Westfall and Young, Resampling-Based Multiple Testing, 1993).

Chance explains that some trials lose much and as many gain it. On the machine that recorded nothing is left to chance,
so there trials that are :func:`ruined` need no test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from robustkit.channels import generator
from robustkit.judging.golden_drops import Drops, Loss, Picture
from robustkit.outcome import Outcome
from robustkit.quality import METRICS

Floats = npt.NDArray[np.float64]

#: What a codec may lose more without an alarm, in dB and on scales of 0 to 1.
MARGIN, UNIT_MARGIN = 0.02, 0.001
#: Probability of a false alarm in a run, all channels together.
ALARM = 0.01
#: A trial that loses so much more is ruined, in dB and on scales of 0 to 1; and so many are an alarm.
RUIN, UNIT_RUIN = 3.0, 0.15
RUINED = 2
#: How often "before" and "now" are dealt anew.
DEALS = 2999
#: What a trial without an image counts as at least, in dB and on scales of 0 to 1; more where more was seen.
_NO_IMAGE = (10.0, 0.5)
#: At these shares of the drops the two distributions are compared.
_LEVELS = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9])
#: A mean so many standard deviations lower than before is no regression, whatever else has moved.
_BETTER = -1.645
EVERYWHERE = "all channels"


@dataclass(frozen=True)
class Change:
    """How one channel's drops have changed.

    Attributes:
        channel: its name, or :data:`EVERYWHERE`.
        paired: whether trial by trial, and not image by image.
        before, now: mean drop over the trials that were hit; one without an image counts as the worst seen.
        trials: how many were compared, those whose stream arrived unharmed not counted.
        moved: how many of the pairs differ by more than the margin, one way or the other; ``None`` without pairs.
        chance: that a codec as good as before looks so bad somewhere, at any channel of the run.
        rose: whether a loss shows at all, beyond the margin, likely or not.
        worse: whether that is an alarm.
        worst: channel, image and number of the trial that lost most beyond what it lost before; of pairs alone.
    """

    channel: str
    paired: bool
    before: float
    now: float
    trials: int
    moved: int | None
    chance: float
    rose: bool
    worse: bool
    worst: tuple[str, str, int] | None = None

    @property
    def rise(self) -> float:
        """By how much the mean drop is larger."""
        return self.now - self.before


@dataclass
class _Part:
    """One channel's trials of one kind: statistics as seen (first row) and as dealt, and what they are of."""

    channel: str
    paired: bool
    rows: Floats
    before: Floats
    now: Floats
    margin: float
    numbers: Sequence[tuple[str, str, int]] = field(default=())

    @property
    def rise(self) -> float:
        return float(self.now.mean() - self.before.mean())

    @property
    def standard(self) -> Floats:
        """Statistics with a standard deviation of 1 over the deals; one that never differs stays 0."""
        spread = self.rows[1:].std(axis=0)
        still = spread < 1e-9 * np.maximum(1.0, np.abs(self.rows).max(axis=0))
        return np.asarray(np.where(still, 0.0, self.rows / np.where(still, 1.0, spread)))


def margin(metric: str) -> float:
    """What a codec may lose more, in ``metric``'s unit, without an alarm."""
    return MARGIN if METRICS[metric].unit == "dB" else UNIT_MARGIN


def common(before: Drops, now: Drops) -> list[str]:
    """The images whose pixels are the same in both, by name."""
    return [
        name
        for name, picture in now.pictures.items()
        if name in before.pictures and before.pictures[name].image == picture.image
    ]


def paired(before: Drops, now: Drops) -> list[str]:
    """Those of :func:`common` whose trials are the same, damage and all, so that they can be compared in pairs."""
    same = before.seed == now.seed and before.codec == now.codec
    return [i for i in common(before, now) if same and before.pictures[i].stream == now.pictures[i].stream]


def unchanged(before: Drops, now: Drops) -> bool:
    """Whether every trial is paired, and none differs by more than the margin, so that more would tell nothing new."""
    if set(paired(before, now)) != set(now.pictures):
        return False
    allowed = margin(now.metric)
    for channel in now.losses.keys() & before.losses.keys():
        for image, row in now.losses[channel].items():
            for old, new in zip(before.losses[channel].get(image, ()), row, strict=False):
                if isinstance(old, float) and isinstance(new, float):
                    if abs(old - new) > allowed + 1e-9:
                        return False
                elif old != new:
                    return False
    return True


def comparable(before: Drops, now: Drops) -> bool:
    """Whether the codec says of itself just what it said when the drops were recorded, and says anything.

    Then a decoder that has not changed gives the same pictures, so any that differs is its doing. Versions of libraries
    and the CPU's capability are among what codecs say.
    """
    return bool(before.facts) and dict(before.facts) == dict(now.facts)


def ruined(before: Drops, now: Drops) -> tuple[list[tuple[str, str, int]], int]:
    """Trials of the same streams that lose :data:`RUIN` more than before, or give no image any more.

    Args:
        before, now: of one metric.

    Returns:
        Channel, image and number of each, the one that loses most first, and how many trials were looked at. None are,
        where they are not :func:`comparable`.
    """
    found: list[tuple[float, tuple[str, str, int]]] = []
    looked = 0
    for image in paired(before, now) if comparable(before, now) else ():
        better = _improvement(before.pictures[image], now.pictures[image], now.metric)
        for channel in now.losses.keys() & before.losses.keys():
            old = _values(before.losses[channel].get(image, ()), math.inf)
            new = _values(now.losses[channel].get(image, ()), math.inf, better)
            both = min(len(old), len(new))
            looked += int((~np.isnan(old[:both])).sum())
            with np.errstate(invalid="ignore"):
                lost = new[:both] - old[:both]
            worse = np.flatnonzero(lost >= ruin(now.metric) - 1e-9)
            found += [(float(lost[number]), (str(channel), image, int(number))) for number in worse]
    return [where for _, where in sorted(found, key=lambda one: (-one[0], one[1]))], looked


def ruin(metric: str) -> float:
    """By how much more a trial loses, in ``metric``'s unit, that is :func:`ruined`."""
    return RUIN if METRICS[metric].unit == "dB" else UNIT_RUIN


def compare(before: Drops, now: Drops, *, deals: int = DEALS, allowed: float | None = None) -> list[Change]:
    """How the drops of each channel have changed, and those of all together; empty where nothing can be compared.

    A better clean picture makes every drop larger. What it adds is not counted: a regression has both a larger drop and
    a worse picture under damage.

    Args:
        before, now: of one metric; the channels and images of both are compared.
        deals: how often "before" and "now" are dealt anew.
        allowed: what may be lost more, in the metric's unit; by default :func:`margin`.

    Raises:
        ValueError: the metrics differ.
    """
    if before.metric != now.metric:
        raise ValueError(f"drops in {before.metric} can't be compared with drops in {now.metric}")
    rng = generator(now.codec, "", "regression", 0)
    allowed = margin(now.metric) if allowed is None else allowed
    pairs = set(paired(before, now))
    parts: list[_Part] = []
    for channel in [channel for channel in now.losses if channel in before.losses]:
        old, new = before.losses[channel], now.losses[channel]
        images = [i for i in common(before, now) if i in old and i in new]
        charge = _charge([*(old[i] for i in images), *(new[i] for i in images)], now.metric)
        found: dict[bool, list[tuple[str, Floats, Floats]]] = {True: [], False: []}
        for image in images:
            better = _improvement(before.pictures[image], now.pictures[image], now.metric)
            values = _values(old[image], charge), _values(new[image], charge, better)
            found[image in pairs].append((image, *values))
        for kind, part in ((True, _pairs), (False, partial(_deals, charge=charge))):
            if any(np.isfinite(a).any() and np.isfinite(b).any() for _, a, b in found[kind]):
                parts.append(part(str(channel), found[kind], allowed=allowed, rng=rng, deals=deals))
    together = [pool for kind in (True, False) if (pool := _pooled([p for p in parts if p.paired is kind])) is not None]
    return _judged([*parts, *together])


def _judged(parts: Sequence[_Part]) -> list[Change]:
    if not parts:
        return []
    worst = np.max([part.standard.max(axis=1) for part in parts], axis=0)
    return [_change(part, worst) for part in parts]


def _change(part: _Part, worst: Floats) -> Change:
    seen = part.standard[0]
    # A deal that is as bad counts; floats that were added up in another order are as bad.
    chance = (1 + int((worst[1:] >= seen.max() - 1e-9).sum())) / len(worst)
    # The mean is the last statistic of each part.
    regressed = part.rise > part.margin if part.paired else seen[-1] > _BETTER
    rose = bool(regressed) and float(seen.max()) > 0
    where = None
    if part.numbers:
        where = part.numbers[int(np.argmax(part.now - part.before))]
    return Change(
        part.channel,
        part.paired,
        float(part.before.mean()),
        float(part.now.mean()),
        len(part.now),
        int((np.abs(part.now - part.before) > part.margin + 1e-9).sum()) if part.paired else None,
        chance,
        rose,
        chance <= ALARM and rose,
        where,
    )


def _pairs(
    channel: str,
    images: Sequence[tuple[str, Floats, Floats]],
    *,
    allowed: float,
    rng: np.random.Generator,
    deals: int,
) -> _Part:
    """Differences of trials, none of which counts within the margin; their signs are dealt."""
    befores: list[Floats] = []
    nows: list[Floats] = []
    numbers: list[tuple[str, str, int]] = []
    for image, old, new in images:
        both = min(len(old), len(new))
        hit = np.flatnonzero(np.isfinite(old[:both]) & np.isfinite(new[:both]))
        befores.append(old[hit])
        nows.append(new[hit])
        numbers += [(channel, image, int(number)) for number in hit]
    before, now = np.concatenate(befores), np.concatenate(nows)
    difference = now - before
    difference = np.where(np.abs(difference) > allowed + 1e-9, difference, 0.0)
    # The sign of a difference that does not count changes nothing.
    moved = difference[difference != 0]
    signs = rng.integers(0, 2, (deals, len(moved)), dtype=np.int8) * 2.0 - 1
    dealt = np.concatenate([np.ones((1, len(moved))), signs])
    rows = dealt @ np.column_stack([np.sign(moved), moved])
    return _Part(channel, True, rows, before, now, allowed, numbers)


def _deals(
    channel: str,
    images: Sequence[tuple[str, Floats, Floats]],
    *,
    charge: float,
    allowed: float,
    rng: np.random.Generator,
    deals: int,
) -> _Part:
    """Shares of trials beyond each of several drops, and their mean; the trials of each image are dealt anew.

    The drops are quantiles over all images, and each image's own: where images differ more than their trials do, few of
    an image lie about the former. The latter are those of trials with an image, which a loss moves, and of all trials
    it is asked how many lie beyond, so a picture in a refusal's place never looks worse.

    The margin is taken off the drops now, so that only what goes beyond it can be seen.
    """
    usable = []
    for _, old, new in images:
        old, new = old[np.isfinite(old)], new[np.isfinite(new)]
        if len(old) and len(new):
            usable.append((old, new, np.where(new >= charge, new, new - allowed)))
    levels = np.quantile(np.concatenate([np.concatenate([old, less]) for old, _, less in usable]), _LEVELS)
    rows = np.zeros((deals + 1, 2 * len(levels) + 2))
    for old, _, less in usable:
        values = np.concatenate([old, less])
        shown = values[values < charge]
        own = np.quantile(shown, _LEVELS) if len(shown) else levels
        table = np.column_stack([values[:, None] > levels, values[:, None] > own, values >= charge, values])
        table = table.astype(np.float64)
        table -= table.mean(axis=0)
        now = np.zeros((deals + 1, len(values)))
        now[0, len(old) :] = 1
        order = np.argpartition(rng.random((deals, len(values)), dtype=np.float32), len(less) - 1, axis=1)
        np.put_along_axis(now[1:], order[:, : len(less)], 1, axis=1)
        rows += now @ table
    before, after = (np.concatenate([found[side] for found in usable]) for side in (0, 1))
    return _Part(channel, False, rows, before, after, allowed)


def _pooled(parts: Sequence[_Part]) -> _Part | None:
    """All channels together, each statistic at its own scale; ``None`` for fewer than two channels."""
    if len(parts) < 2:
        return None
    before, now = (np.concatenate([getattr(p, side) for p in parts]) for side in ("before", "now"))
    rows = np.sum([part.standard for part in parts], axis=0)
    numbers = [n for part in parts for n in part.numbers]
    return _Part(EVERYWHERE, parts[0].paired, rows, before, now, parts[0].margin, numbers)


def _charge(rows: Sequence[Sequence[Loss]], metric: str) -> float:
    """What a trial without an image counts as: the worst that was seen on the channel, or a total loss."""
    seen = max((v for row in rows for v in row if isinstance(v, float)), default=0.0)
    return max(seen, _NO_IMAGE[METRICS[metric].unit != "dB"]) + margin(metric)


def _values(row: Sequence[Loss], charge: float, better: float = 0.0) -> Floats:
    """Drops by trial, less ``better``; NaN for a stream that arrived unharmed, which says nothing of a decoder."""
    return np.array([math.nan if v is None else charge if isinstance(v, Outcome) else v - better for v in row])


def mean(rows: Sequence[Sequence[Loss]], metric: str) -> float:
    """Mean drop of trials as :func:`compare` counts them: of those that were hit, one without an image as the worst.

    NaN where none was hit.
    """
    values = np.concatenate([_values(row, _charge(rows, metric)) for row in rows]) if rows else np.empty(0)
    hit = values[np.isfinite(values)]
    return float(hit.mean()) if len(hit) else math.nan


def _improvement(before: Picture, now: Picture, metric: str) -> float:
    """By how much the clean picture is better than before; 0 where it is not."""
    gain = now.quality - before.quality
    return max(0.0, gain if METRICS[metric].higher_is_better else -gain)


def differing(before: Drops, now: Drops) -> Iterator[str]:
    """What the codec says of itself now, and did not when the drops were recorded, a line each."""
    for key in sorted(before.facts.keys() | now.facts.keys()):
        then, here = (_said(side.facts, key) for side in (before, now))
        if then != here:
            yield f"recorded with {key} {then}, now {here}"


def _said(facts: Mapping[str, str], key: str) -> str:
    return facts.get(key, "unknown")
