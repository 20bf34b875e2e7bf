"""Minimising: from an error pattern that breaks a decoder to the few flips that matter, and their names.

What Hypothesis finds in tests of your own, it shrinks by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from robustkit.layout import Layout
from robustkit.patterns import ErrorPattern


class _Spent(Exception):
    """The budget is used up."""


class _Search:
    """The smallest failing pattern so far."""

    def __init__(self, pattern: ErrorPattern, still_fails: Callable[[ErrorPattern], bool], budget: int) -> None:
        self.best = pattern
        self._still_fails = still_fails
        self._left = budget
        self._seen: dict[ErrorPattern, bool] = {pattern: True}

    def accepts(self, candidate: ErrorPattern) -> bool:
        """Whether ``candidate`` fails too; then it is the best so far."""
        if candidate.harmless:
            return False
        if candidate not in self._seen:
            if not self._left:
                raise _Spent
            self._left -= 1
            self._seen[candidate] = self._still_fails(candidate)
        if self._seen[candidate]:
            self.best = candidate
        return self._seen[candidate]


def minimise(pattern: ErrorPattern, still_fails: Callable[[ErrorPattern], bool], *, budget: int) -> ErrorPattern:
    """Reduce a failing pattern to flips of which none can be spared.

    First the appended bytes and the cut are left out, or else made as short as bisection finds, and the bytes zero
    if that fails too; then all the flips, or else as many as ddmin finds (Zeller and Hildebrandt, IEEE TSE 2002). If
    the budget suffices, the result is 1-minimal: without any one of its flips it no longer fails. Deterministic if
    ``still_fails`` is.

    Args:
        pattern: the pattern that was seen to fail; it is not tried again.
        still_fails: tries a pattern; it never sees one that changes nothing, nor the same one twice.
        budget: the most calls to it. When they are used up, the smallest pattern found so far is returned.
    """
    search = _Search(pattern, still_fails, budget)
    try:
        if not search.accepts(replace(search.best, append=b"")):
            _shorten_append(search)
        if not search.accepts(replace(search.best, keep=None)):
            _shorten_cut(search)
        if not search.accepts(replace(search.best, flips=np.empty(0, dtype=np.int64))):
            _ddmin(search)
    except _Spent:
        pass
    return search.best


def _ddmin(search: _Search) -> None:
    def accepts(flips: npt.NDArray[np.int64]) -> bool:
        return search.accepts(replace(search.best, flips=flips))

    parts = 2
    while (count := len(search.best.flips)) > 1:
        parts = min(parts, count)
        chunks = np.array_split(search.best.flips, parts)
        if any(accepts(chunk) for chunk in chunks):
            parts = 2
        elif any(accepts(np.concatenate(chunks[:i] + chunks[i + 1 :])) for i in range(parts)):
            parts = max(parts - 1, 2)
        elif parts < count:
            parts *= 2
        else:
            return


def _shorten_append(search: _Search) -> None:
    extra = search.best.append
    if extra:
        least = _bisect(len(extra), lambda size: search.accepts(replace(search.best, append=extra[:size])))
        search.accepts(replace(search.best, append=bytes(least)))


def _shorten_cut(search: _Search) -> None:
    length = search.best.bits // 8
    if search.best.keep is not None and search.best.keep < length:
        _bisect(length - search.best.keep, lambda cut: search.accepts(replace(search.best, keep=length - cut)))


def _bisect(fails: int, still: Callable[[int], bool]) -> int:
    """The least number that still fails, if all above it do; ``fails`` does, and 0 does not."""
    passes = 0
    while fails - passes > 1:
        middle = (passes + fails) // 2
        if still(middle):
            fails = middle
        else:
            passes = middle
    return fails


def describe(pattern: ErrorPattern, layout: Layout, *, most: int = 20) -> list[str]:
    """What a pattern hits, line by line: ``"bit 171: SOF0 height"``, ``"bits 8-15: magic"``, "cut after …".

    Args:
        pattern: the damage.
        layout: the regions of the stream before the damage.
        most: lines about flips; the rest is counted in one more.

    Raises:
        ValueError: the layout is of another stream.
    """
    if layout.bits != pattern.bits:
        raise ValueError(f"the layout is of {layout.bits} bits, the pattern of {pattern.bits}")
    runs: list[tuple[int, int, str]] = []
    for bit in pattern.flips.tolist():
        region = _region(layout, bit)
        if runs and runs[-1][1] == bit - 1 and runs[-1][2] == region:
            runs[-1] = (runs[-1][0], bit, region)
        else:
            runs.append((bit, bit, region))
    shown = runs[:most]
    lines = [
        f"bit {first}: {region}" if first == last else f"bits {first}-{last}: {region}" for first, last, region in shown
    ]
    left = len(pattern.flips) - sum(last - first + 1 for first, last, _ in shown)
    if left:
        lines.append(f"and {left} more flips")
    length = pattern.bits // 8
    if pattern.keep is not None and pattern.keep < length:
        lines.append(f"cut after {pattern.keep} of {length} bytes: {_region(layout, 8 * pattern.keep)}")
    if pattern.append:
        dots = "…" if len(pattern.append) > 8 else ""
        lines.append(f"{len(pattern.append)} bytes appended: {pattern.append[:8].hex(' ')}{dots}")
    return lines


def _region(layout: Layout, bit: int) -> str:
    region = layout.at(bit)
    return region.name if region is not None else "in no named region"
