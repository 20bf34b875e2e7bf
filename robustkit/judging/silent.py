"""Silently wrong: a damaged stream gave another picture than the clean one, and was not refused.

Pixels no further off than the codec's tolerance, and 2 grey levels at worst and 0.05 on average, are no other picture:
a codec that computes in floats may round so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from robustkit import statistics
from robustkit.channels import Channel
from robustkit.judging.assess import by_image, interval, is_refused
from robustkit.judging.trial import Trial
from robustkit.outcome import Outcome
from robustkit.statistics import Bound


class Silent(NamedTuple):
    """How often a channel's trials were silently wrong; nobody promises anything of it.

    Attributes:
        channel: which.
        trials: how many.
        refused: of how many the codec said that the stream is damaged.
        wrong: how many gave another picture instead.
        share: of the trials that were, with one-sided 95% bounds.
    """

    channel: Channel
    trials: int
    refused: int
    wrong: int
    share: Bound

    def __str__(self) -> str:
        return f"silently wrong {self.wrong} of {self.trials}, {interval(self.share, 3)}; {self.refused} refused"

    @property
    def numbers(self) -> dict[str, float]:
        """For machines."""
        return {
            "trials": float(self.trials),
            "refused": float(self.refused),
            "silently_wrong": float(self.wrong),
            "estimate": self.share.estimate,
            "low": self.share.low,
            "high": self.share.high,
        }


def is_silent(trial: Trial) -> bool:
    """Whether a trial gave another picture than the clean decode, further off than the codec's tolerance."""
    return trial.outcome is Outcome.DEGRADED and not trial.tolerated


def silently_wrong(trials: Sequence[Trial]) -> Iterator[Silent]:
    """The shares, channel by channel."""
    for channel in dict.fromkeys(trial.channel for trial in trials):
        found = [trial for trial in trials if trial.channel == channel]
        share = statistics.share_bound(by_image(found, is_silent))
        yield Silent(channel, len(found), sum(map(is_refused, found)), sum(map(is_silent, found)), share)
