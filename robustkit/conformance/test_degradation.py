"""Quality degrades no further than declared: seeded trials for every promise, run until they decide."""

import pytest

from robustkit.judging.finding import Verdict
from robustkit.judging.silent import silently_wrong
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Trial
from robustkit.plugin.claim import Claim


def every_trial(promised: Subject) -> list[Trial]:
    """The trials of all promises."""
    return [trial for trials in promised.promised_trials.values() for trial in trials]


def judge(promised: Subject, claim: Claim, *quantities: str) -> None:
    """Put what the trials say of these quantities into the claim."""
    for assessment in promised.assessments:
        if assessment.quantity in quantities:
            claim.judge(assessment)


@pytest.mark.robustkit_claim("degradation.quality")
def test_quality_degrades_within_the_declared_thresholds(promised: Subject, claim: Claim) -> None:
    """Catches a codec that loses more quality under damage than it declares, on average or in the worst trials."""
    judge(promised, claim, "mean_drop", "p5_drop", "catastrophes")


@pytest.mark.robustkit_claim("degradation.corrupted")
def test_corrupted_share_stays_within_the_declared(promised: Subject, claim: Claim) -> None:
    """Catches a codec that gives no usable image more often than it declares."""
    judge(promised, claim, "corrupted")


@pytest.mark.robustkit_claim("degradation.refused")
def test_refused_share_stays_within_the_declared(promised: Subject, claim: Claim) -> None:
    """Catches a codec that saves its quality figures by refusing whatever is damaged."""
    judge(promised, claim, "refused")
    for silent in silently_wrong(every_trial(promised)):
        claim.note(Verdict.NOTED, f"{silent}", severity=f"{silent.channel}", numbers=silent.numbers)


@pytest.mark.robustkit_claim("decode.survives.trials")
def test_trials_never_crash_the_decoder(promised: Subject, claim: Claim) -> None:
    """Catches a decoder that crashes, hangs or raises under the very damage that its profile speaks of."""
    claim.trials_survive(every_trial(promised))


@pytest.mark.robustkit_claim("degradation.monotone")
def test_more_damage_is_never_better(promised: Subject, claim: Claim) -> None:
    """Catches a decoder that stops listening to its input once it looks damaged, or figures that can't be right."""
    judge(promised, claim, "gain")
