"""A large image: what a codec loses beyond some number of pixels or bytes shows in no small one."""

import pytest

from robustkit.judging.large import large_round_trips
from robustkit.judging.subject import Subject
from robustkit.plugin.claim import Claim


@pytest.mark.robustkit_claim("clean.large-image")
def test_a_large_image_comes_back_as_it_was(sound_codec: Subject, claim: Claim) -> None:
    """Catches a codec that loses rows, columns, the end of a long stream or its life where images are large."""
    done = 0
    for large in large_round_trips(sound_codec):
        height, width = large.shape
        declared = f"no part more than {large.allowed:g} dB worse than its like"
        size = len(large.clean.bitstream) if large.clean is not None else 0
        severity, numbers = f"{height}x{width}", {"pixels": float(height * width), "bytes": float(size)}
        done += 1
        if large.failed is not None or large.loss.decibels > large.allowed:
            claim.broken(
                f"{large.failed or large.loss}, {size} bytes",
                declared,
                severity=severity,
                last=claim.replay_clean(large.clean) if large.clean is not None else None,
                numbers=numbers,
            )
            return
        numbers["worse"] = large.loss.decibels
        claim.kept(f"up to {large.loss.decibels:.1f} dB, {size} bytes", declared, severity=severity, numbers=numbers)
    if not done:
        pytest.skip(f"{sound_codec.name} takes no larger image, or takes too long for one")
