"""What decoding costs, and what it leaves behind: judged last, by all that the searches and trials have decoded."""

import pytest

from robustkit.judging.finding import Verdict
from robustkit.judging.history import few_decodes, kept_streams, trouble_left
from robustkit.judging.shrink import Counterexample
from robustkit.judging.subject import Subject
from robustkit.judging.work import SPARE_MEMORY, SPARE_SECONDS
from robustkit.plugin.claim import Claim

MIB = 2**20


@pytest.mark.robustkit_claim("decode.bounded-work")
def test_damage_makes_no_decode_much_slower_or_larger(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that a damaged stream of a few bytes can keep busy, or make take the machine's memory."""
    few_decodes(sound_codec)
    work = sound_codec.work
    allowed = f"at most {work.slowdown:g} times the clean decode's + {SPARE_SECONDS:g} s"
    room = f"at most {work.memory_growth:g} times the clean decode's + {SPARE_MEMORY // MIB} MiB"
    for said, most, unit, scale, declared in [
        ("slowest", work.slowest, "s", 1.0, allowed),
        ("largest", work.largest, "MiB", float(MIB), room),
    ]:
        if most is None:
            continue
        taken, clean = most.taken / scale, most.clean / scale
        ended = most.decoded.outcome or "an image"
        measured = f"{taken:.3g} {unit} ({ended}), a clean one {clean:.3g} {unit}; {work.decodes} decodes"
        numbers = {"taken": taken, "clean": clean, "limit": most.limit / scale, "decodes": float(work.decodes)}
        if most.beyond:
            last = claim.replay_counterexample(Counterexample(None, None, most.stream, most.decoded), said)
            claim.broken(measured, declared, severity=said, numbers=numbers, last=last)
        else:
            claim.kept(measured, declared, severity=said, numbers=numbers)


@pytest.mark.robustkit_claim("decode.leaves-nothing-behind")
def test_decoding_leaves_no_damage_behind(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that ruins its process for the streams that come next."""
    few_decodes(sound_codec)
    work, opinions = sound_codec.work, sound_codec.opinions
    trouble = trouble_left(sound_codec)
    numbers = {
        "decodes": float(work.decodes),
        "images": float(opinions.images),
        "second_opinions": float(opinions.asked),
        "left_behind": float(len(opinions.left)),
    }
    for found in trouble:
        if found.proved:
            claim.broken(found.said, "no damage", why=kept_streams(sound_codec, found), numbers=numbers)
        else:
            claim.note(Verdict.NOTED, found.said)
    if not any(found.proved for found in trouble):
        claim.kept(
            f"{work.decodes} decodes; {opinions.asked} of {opinions.images} images decoded in a second process too",
            "no damage",
            numbers=numbers,
        )
