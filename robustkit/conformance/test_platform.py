"""Other platforms: streams decoded where floats are rounded otherwise, on this machine."""

import shlex

import pytest

from robustkit.judging.crossplatform import Match, cross_platform
from robustkit.judging.finding import Verdict
from robustkit.judging.jitter import LOST, shake
from robustkit.judging.subject import Subject
from robustkit.plugin.claim import Claim


def levels(tolerance: tuple[float, float]) -> str:
    """A tolerance in words."""
    return f"up to {tolerance[0]:g} grey levels, {tolerance[1]:g} on average" if any(tolerance) else "the same pixels"


@pytest.mark.robustkit_claim("decode.cross-platform")
def test_another_platform_decodes_the_same(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that reads rubbish where another processor or library rounds floats otherwise."""
    declared = levels(sound_codec.tolerance)
    every = f"robustkit exchange make exchange --codec {shlex.quote(sound_codec.name)}"
    for row in cross_platform(sound_codec):
        found, severity = row.difference, str(row.arithmetic)
        numbers = {"streams": float(row.streams), "max_difference": found.maximum, "mean_difference": found.mean}
        if found.match is Match.DESYNCHRONISED:
            claim.broken(
                f"{row.clean.image}: {found}",
                declared,
                severity=severity,
                why=[f"with other settings give them too: {every}"],
                last=claim.replay_clean(row.clean),
                numbers=numbers,
            )
        elif found.match is Match.UNDECIDED:
            claim.note(Verdict.NOTED, f"{row.clean.image}: {found}", declared, severity=severity)
        else:
            streams = "1 stream" if row.streams == 1 else f"{row.streams} streams"
            claim.kept(f"{streams}: {found}", declared, severity=severity, numbers=numbers)


@pytest.mark.robustkit_claim("decode.jitter")
def test_one_ulp_does_not_desynchronise(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that loses its way when each float is off by one unit in the last place."""
    declared = levels(sound_codec.tolerance)
    found = shake(sound_codec)
    if not found.torch:
        pytest.skip("its process has no torch, whose results are what is jittered")
    if (worst := found.worst) is None:
        pytest.skip(f"nothing could be jittered: {found.undecided}")
    if worst.difference.match is not Match.DESYNCHRONISED and not found.operations:
        pytest.skip("no result of torch's is a float, and no other library's floats can be jittered")
    numbers = {
        "decodes": float(len(found.least)),
        "operations": float(found.operations),
        "max_difference": worst.difference.maximum,
        "mean_difference": worst.difference.mean,
        "loss": worst.loss,
    }
    if worst.difference.match is Match.DESYNCHRONISED:
        claim.broken(
            f"{worst.clean.image}: {worst}",
            declared,
            severity=str(worst.amount),
            why=[f"each float result off by one unit in the last place at most, seed {worst.seed}"],
            last=claim.replay_clean(worst.clean),
            numbers=numbers,
        )
        return
    claim.kept(
        f"{len(found.least)} decode{'s' * (len(found.least) != 1)}: {worst}",
        declared,
        severity=str(worst.amount),
        numbers=numbers,
    )
    for shaken, what in ((found.beyond, "strays"), (found.lost, "loses its way")):
        if shaken is not None and (what == "loses its way" or not shaken.lost):
            claim.note(
                Verdict.NOTED,
                f"{what}: {shaken}",
                f"less than {LOST:g} dB" if shaken.lost else declared,
                severity=str(shaken.amount),
                numbers={"ulps": float(shaken.amount.ulps), "relative": shaken.amount.relative, "loss": shaken.loss},
            )
    if found.beyond is None and found.most is not None:
        claim.note(Verdict.NOTED, f"keeps in step: {found.most}", severity=str(found.most.amount))
    if found.undecided:
        claim.note(Verdict.NOTED, found.undecided)
