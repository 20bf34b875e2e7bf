"""Quality degrades no further than declared: seeded trials, and bounds clustered by image, for every promise."""

import pytest

from robustkit.judging.assess import assess_corrupted, assess_monotone, assess_quality, assess_refused
from robustkit.judging.finding import Verdict
from robustkit.judging.silent import silently_wrong
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Trial
from robustkit.plugin.claim import Claim
from robustkit.profile import Profile


def profile_of(promised: Subject) -> Profile:
    """The promises that the fixture ``promised`` has made sure of."""
    assert promised.profile is not None
    return promised.profile


def every_trial(promised: Subject) -> list[Trial]:
    """The trials of all promises."""
    return [trial for promise in profile_of(promised).promises for trial in promised.trials(promise.channel)]


@pytest.mark.robustkit_claim("degradation.quality")
def test_quality_degrades_within_the_declared_thresholds(promised: Subject, claim: Claim) -> None:
    """Catches a codec that loses more quality under damage than it declares, on average or in the worst trials."""
    for promise in profile_of(promised).promises:
        for assessment in assess_quality(promise, promised.trials(promise.channel), promised.metric):
            claim.judge(assessment)


@pytest.mark.robustkit_claim("degradation.corrupted")
def test_corrupted_share_stays_within_the_declared(promised: Subject, claim: Claim) -> None:
    """Catches a codec that gives no usable image more often than it declares."""
    for promise in profile_of(promised).promises:
        claim.judge(assess_corrupted(promise, promised.trials(promise.channel)))


@pytest.mark.robustkit_claim("degradation.refused")
def test_refused_share_stays_within_the_declared(promised: Subject, claim: Claim) -> None:
    """Catches a codec that saves its quality figures by refusing whatever is damaged."""
    trials = every_trial(promised)
    claim.judge(assess_refused(profile_of(promised), trials))
    for silent in silently_wrong(trials):
        claim.note(Verdict.NOTED, f"{silent}", severity=f"{silent.channel}", numbers=silent.numbers)


@pytest.mark.robustkit_claim("decode.survives.trials")
def test_trials_never_crash_the_decoder(promised: Subject, claim: Claim) -> None:
    """Catches a decoder that crashes, hangs or raises under the very damage that its profile speaks of."""
    claim.trials_survive(every_trial(promised))


@pytest.mark.robustkit_claim("degradation.monotone")
def test_more_damage_is_never_better(promised: Subject, claim: Claim) -> None:
    """Catches a decoder that stops listening to its input once it looks damaged, or figures that can't be right."""
    trials = {promise.channel: promised.trials(promise.channel) for promise in profile_of(promised).promises}
    for assessment in assess_monotone(trials, promised.clean, promised.metric):
        claim.judge(assessment)
