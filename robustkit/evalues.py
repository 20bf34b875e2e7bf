"""E-values: evidence about the mean of bounded numbers, valid whenever one looks.

Numbers come in rounds, one trial of each image in a round, and the mean is that over these images: nothing is said of
others. A bet on each trial wins where the mean lies on one side of the limit, and if it does not, the capital is 20 or
more at any time with probability 1/20 at most (Ville, 1939; Waudby-Smith and Ramdas, Estimating means of bounded
random variables by betting, JRSS B 86, 2024). So a run may stop as soon as it knows, and more trials never take back
what was known.

Images need not be alike. All trials of a round carry the same bet, and the product of 1 - b(m_i - m) over the images'
own means m_i is at most its value for equal means, by the inequality of arithmetic and geometric means.

A trial without a number, NaN, carries no bet. The mean is then that over all trials with a number, in which an image
counts as often as it gives one: the inequality is the same, with b(m_i - m) times that share.

How large a bet pays best depends on the numbers, so several run side by side with a share of the capital each. Half of
it is on the largest, which proves a share of 5% from 65 trials without an event (59 without the others), and a fifth
on one that allows an event: 142 trials with one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Bets as shares of the largest that can't lose more than everything, and how the capital is split among them.
_BELOW = np.array([[1, 0.93, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05], [0.5, 0.2, 0.08, 0.06, 0.06, 0.04, 0.03, 0.03]])
#: A share above a small limit shows by few events, so most of these are small.
_ABOVE = np.array([[1, 0.6, 0.4, 0.25, 0.15, 0.08, 0.04, 0.02], [0.125] * 8])


def below(rounds: npt.ArrayLike, limit: float, *, most: float = 1.0) -> Floats:
    """Evidence, after each round, that the mean is below ``limit``.

    If the mean is ``limit`` or above, it reaches 1/p at any time with probability p at most.

    Args:
        rounds: numbers, rounds x images, none above ``most``; NaN for a trial without one. How far below they reach
            does not matter. More axes before these are runs, each with evidence of its own.
        limit: what the mean is compared with, below ``most``.
        most: the largest number there can be.

    Returns:
        The largest capital so far, one number a round (and run); at least 1.

    Raises:
        ValueError: a number is above ``most``, or ``limit`` is not below it.
    """
    numbers = _rounds(rounds)
    if not limit < most:
        raise ValueError(f"limit = {limit!r}: give one below most = {most!r}")
    if (numbers > most).any():
        raise ValueError(f"a number is above most = {most!r}: clip them")
    return _capital((limit - numbers) / (most - limit), _BELOW)


def above(rounds: npt.ArrayLike, limit: float, *, least: float = 0.0) -> Floats:
    """Evidence, after each round, that the mean is above ``limit``; as :func:`below`, the other way round.

    With ``limit == least`` a single number above it is proof: the evidence is infinite.

    Args:
        rounds: numbers, rounds x images, none below ``least``.
        limit: what the mean is compared with.
        least: the smallest number there can be.

    Raises:
        ValueError: a number is below ``least``, or ``limit`` is.
    """
    numbers = _rounds(rounds)
    if not least <= limit:
        raise ValueError(f"limit = {limit!r}: give at least least = {least!r}")
    if (numbers < least).any():
        raise ValueError(f"a number is below least = {least!r}: clip them")
    if limit == least:
        return np.where(np.maximum.accumulate((numbers > least).any(axis=-1), axis=-1), math.inf, 1.0)
    return _capital((numbers - limit) / (limit - least), _ABOVE)


def bounds(
    rounds: npt.ArrayLike, *, least: float = 0.0, most: float = 1.0, kept: float = 20.0, broken: float = 20.0
) -> tuple[float, float]:
    """Lower and upper confidence bound of the mean, valid whenever the run was stopped.

    A limit above the upper one is kept, and one below the lower one broken, by the same evidence.

    Args:
        rounds: as :func:`below` takes them, from ``least`` to ``most``.
        least, most: what numbers there can be.
        kept: evidence for the upper bound; its confidence is 1 - 1/kept, so 20 for 95%.
        broken: evidence for the lower bound.
    """
    numbers = _rounds(rounds)
    if not len(numbers):
        return least, most
    return (
        _edge(least, most, lambda m: above(numbers, m, least=least)[-1] >= broken),
        _edge(most, least, lambda m: below(numbers, m, most=most)[-1] >= kept),
    )


def trials_to_prove(limit: float, *, needed: float = 20.0) -> int:
    """The fewest trials that prove, if none shows the event, that its share is below ``limit``, between 0 and 1."""
    bets, split = _BELOW
    few, many = 0, 1
    logs = np.log1p(bets * limit / (1 - limit))

    def proved(trials: int) -> bool:
        return bool(np.logaddexp.reduce(np.log(split) + trials * logs) >= math.log(needed))

    while not proved(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if proved(middle) else (middle, many)
    return many


def growth(rounds: npt.ArrayLike, limit: float, *, most: float = 1.0) -> float:
    """By how much the logarithm of the evidence below ``limit`` grows with each trial, by the bet that pays best."""
    wins = (limit - _rounds(rounds)) / (most - limit)
    with np.errstate(divide="ignore"):
        means = np.log1p(_BELOW[0][:, None] * np.nan_to_num(wins).ravel()).mean(axis=1)
    return float(means.max())


def _edge(start: float, end: float, ruled_out: Callable[[float], bool]) -> float:
    """From ``start`` on means are ruled out, up to here; ``start`` itself where none is."""
    out, kept = start, end
    for _ in range(60):
        middle = (out + kept) / 2
        if middle in (out, kept):
            break
        if ruled_out(middle):
            out = middle
        else:
            kept = middle
    return out


def _capital(wins: Floats, bets: Floats) -> Floats:
    """The largest capital so far after each round, from what a bet of 1 wins at each trial."""
    won, capital = np.nan_to_num(wins), 0.0
    with np.errstate(divide="ignore", over="ignore"):
        for bet, part in bets.T:
            capital = capital + part * np.exp(np.log1p(bet * won).sum(axis=-1).cumsum(axis=-1))
    return np.maximum.accumulate(np.maximum(capital, 1.0), axis=-1)


def _rounds(rounds: npt.ArrayLike) -> Floats:
    numbers = np.asarray(rounds, dtype=np.float64)
    if numbers.ndim < 2:
        raise ValueError(f"rounds have {numbers.ndim} dimensions: give rounds x images")
    return numbers
