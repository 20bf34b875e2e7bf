"""Effort: how many trials, and how many damaged streams, a run spends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """What a run spends.

    Attributes:
        trials: for each severity of a promise, over all images. Fewer than 59 prove no 5th percentile.
        examples: damaged streams for each claim that Hypothesis searches.
        shrink_seconds: for making one counterexample smaller.
    """

    trials: int
    examples: int
    shrink_seconds: float


#: The efforts by name.
EFFORTS: Mapping[str, Effort] = {
    "quick": Effort(trials=60, examples=25, shrink_seconds=30),
    "ci": Effort(trials=120, examples=100, shrink_seconds=120),
    "nightly": Effort(trials=600, examples=2000, shrink_seconds=600),
}
