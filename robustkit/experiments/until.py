"""When a point has enough trials: an interval narrow enough, or failures enough; with bounds that hold after a stop.

A point is one codec on one channel. Trials come in rounds, one of each image, and what is estimated is the mean over
these images, as they are. The bounds are those of :mod:`robustkit.evalues`, which hold whenever one looks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustkit import evalues, quality
from robustkit.errors import RobustkitError

#: Evidence for each bound, so that both together hold at 95%: each fails with probability 1/40 at the most.
NEEDED = 40.0
#: Metrics that lie between 0 and the clean quality, but for noise above it.
BOUNDED = tuple(quality.METRICS[name].name for name in ("psnr", "psnr_y", "ssim", "ms_ssim"))
_RULE = re.compile(r"(ci|failures)\s*=\s*([0-9.]+(?:e-?[0-9]+)?)\s*(dB)?", re.IGNORECASE)


class UntilError(RobustkitError, ValueError):
    """A rule that can't be read, or can't be followed with this metric."""


@dataclass(frozen=True)
class Estimate:
    """What is known of a point.

    Attributes:
        trials: over all images.
        rounds: complete ones, that is trials of each image.
        value: the mean of the metric, no image counting as 0; or the share of trials without an image.
        low, high: bounds of it that hold together at 95%, whenever one looks.
        failures: trials without an image.
        enough: whether the rule is met.
    """

    trials: int
    rounds: int
    value: float
    low: float
    high: float
    failures: int
    enough: bool


@dataclass(frozen=True)
class Until:
    """The rule of ``--until``.

    Attributes:
        kind: "ci": half the interval of the mean of the metric is at most ``amount``; "failures": so many trials gave
            no image.
        amount: in the metric's unit, or a number of trials.
        unit: "dB" where it was written.
    """

    kind: str
    amount: float
    unit: str = ""

    @classmethod
    def parse(cls, text: str) -> Until:
        """Read ``ci=0.2dB``, ``ci=0.01`` or ``failures=50``.

        Raises:
            UntilError: it is neither.
        """
        found = _RULE.fullmatch(text.strip())
        try:
            amount = float(found[2]) if found else 0.0
        except ValueError:
            amount = 0.0
        if found is None or amount <= 0 or (found[1] == "failures" and (amount != int(amount) or found[3])):
            raise UntilError(f"until {text!r}: write ci=0.2dB, ci=0.01 (of SSIM) or failures=50")
        return cls(found[1].lower(), amount, found[3] or "")

    def __str__(self) -> str:
        return f"{self.kind}={self.amount:g}{self.unit}"

    def check(self, metric: str) -> None:
        """Raise UntilError where the rule can't be followed with ``metric``."""
        if self.kind != "ci":
            return
        if quality.canonical(metric) not in BOUNDED:
            raise UntilError(
                f"until {self}: {metric} has no known bounds, so no interval of it holds after a stop: "
                f"name {', '.join(BOUNDED)} first, or give failures=50"
            )
        if self.unit and not metric.startswith("psnr"):
            raise UntilError(f"until {self}: {metric} is not in dB")

    def estimate(self, values: Mapping[str, npt.ArrayLike], clean: float) -> Estimate:
        """What is known after the trials so far.

        Args:
            values: by image, the metric of each trial in the order of their numbers, NaN where there is no image. Only
                as many as all images have are used.
            clean: the largest clean quality of the images.
        """
        arrays = [np.asarray(found, dtype=np.float64) for found in values.values()]
        rounds = min(map(len, arrays), default=0)
        numbers = np.array([found[:rounds] for found in arrays]).T.reshape(rounds, len(arrays))
        failed = np.isnan(numbers)
        if self.kind == "failures":
            measured, most = failed.astype(np.float64), 1.0
        else:
            measured, most = np.clip(np.where(failed, 0.0, numbers), 0.0, clean), clean
        low, high = _bounds(measured, most) if rounds else (0.0, most)
        failures = int(failed.sum())
        enough = failures >= self.amount if self.kind == "failures" else rounds > 0 and (high - low) / 2 <= self.amount
        value = float(measured.mean()) if rounds else float("nan")
        return Estimate(rounds * len(arrays), rounds, value, low, high, failures, enough)


def _bounds(numbers: npt.NDArray[np.float64], most: float) -> tuple[float, float]:
    """Bounds of the mean of numbers from 0 to ``most``, rounds x images."""
    return (
        _edge(0.0, most, lambda mean: evalues.above(numbers, mean, least=0.0)[-1] >= NEEDED),
        _edge(most, 0.0, lambda mean: evalues.below(numbers, mean, most=most)[-1] >= NEEDED),
    )


def _edge(start: float, end: float, ruled_out: Callable[[float], bool]) -> float:
    """The mean up to which, from ``start`` on, all are ruled out."""
    out, kept = start, end
    for _ in range(40):
        middle = (out + kept) / 2
        if ruled_out(middle):
            out = middle
        else:
            kept = middle
    return out
