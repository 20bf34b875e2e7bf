"""How far apart the rates of codecs are: a comparison is called matched only where they are near enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robustkit.experiments import TOLERANCE
from robustkit.experiments.results import Results


@dataclass(frozen=True)
class Rates:
    """The mean rates of several entries.

    Attributes:
        means: bits per pixel, by entry.
        ranges: the least and the most of an image, by entry.
        tolerance: by how much the largest mean may exceed the smallest.
    """

    means: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]
    tolerance: float = TOLERANCE

    @property
    def apart(self) -> float:
        """By how much the largest mean rate exceeds the smallest: 0.05 is 5%; 0 of fewer than two."""
        return max(self.means.values()) / min(self.means.values()) - 1 if len(self.means) > 1 else 0.0

    @property
    def matched(self) -> bool:
        """Whether these entries may be called of one rate."""
        return self.apart <= self.tolerance

    def __str__(self) -> str:
        if len(self.means) < 2:
            return "One codec: nothing is compared."
        low, high = min(self.means, key=self.means.__getitem__), max(self.means, key=self.means.__getitem__)
        ends = f"{self.means[low]:.4g} ({low}) to {self.means[high]:.4g} bpp ({high})"
        if self.matched:
            return f"Rates are matched within {self.tolerance:.0%}: {ends}, {self.apart:.1%} apart."
        return f"Rates are NOT matched: {ends}, {self.apart:.1%} apart, more than {self.tolerance:.0%}."


def rates(results: Results, entries: Sequence[str] = (), *, tolerance: float = TOLERANCE) -> Rates:
    """The mean rates of some entries, by default of all, each image with the same weight."""
    of = {entry: list(results.rate(entry).values()) for entry in entries or results.entries}
    return Rates(
        {entry: float(np.mean(found)) for entry, found in of.items() if found},
        {entry: (min(found), max(found)) for entry, found in of.items() if found},
        tolerance,
    )


def groups(found: Rates) -> list[list[str]]:
    """Entries of one rate, from the lowest rate: each group is as far apart as is allowed, at the most."""
    made: list[list[str]] = []
    for entry in sorted(found.means, key=lambda entry: (found.means[entry], entry)):
        if made and found.means[entry] <= found.means[made[-1][0]] * (1 + found.tolerance):
            made[-1].append(entry)
        else:
            made.append([entry])
    return made
