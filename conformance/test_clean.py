"""Without damage: rate, quality and determinism. If the first check fails, all others are blocked."""

import numpy as np
import pytest

from robustkit import ErrorPattern, channels
from robustkit.trial import CleanRoundTripFailed

#: Grey levels by which a pixel may differ between a batch and a single decode, at worst and on average: kernels may
#: add up in another order for another batch size.
BATCH_TOLERANCE = (2, 0.02)


def test_clean_round_trip_meets_the_declared_quality_and_rate(codec, claim):
    """Catches a codec that fails without any damage, or whose quality or rate is not what it declares."""
    try:
        clean = codec.clean
    except CleanRoundTripFailed as failed:
        last = claim.replay_clean(failed.clean) if failed.clean is not None else None
        claim.broken(str(failed), "an image for an image", last=last)
        return
    profile = codec.profile
    mean_quality, mean_bpp = codec.clean_quality, codec.clean_bpp
    worst = max(clean.values(), key=lambda c: codec.drop(mean_quality, c.quality))
    measured = f"{mean_quality:.2f} mean ({worst.image} {worst.quality:.2f})"
    if profile is None:
        claim.note("noted", measured, severity=codec.metric, numbers={"quality": mean_quality})
        claim.note("noted", f"{mean_bpp:.4f} bpp", severity="rate", numbers={"bpp": mean_bpp})
        return
    largest = max(clean.values(), key=lambda c: c.bpp)
    checks = [
        (codec.metric, measured, f"{profile.quality:g}", codec.drop(profile.quality, mean_quality) <= 0, worst),
        (
            "rate",
            f"{mean_bpp:.4f} bpp mean ({largest.image} {largest.bpp:.4f})",
            f"at most {profile.bpp:g} bpp",
            mean_bpp <= profile.bpp,
            largest,
        ),
    ]
    for severity, text, declared, good, shown in checks:
        numbers = {"quality": mean_quality, "bpp": mean_bpp}
        if good:
            claim.kept(text, declared, severity=severity, numbers=numbers)
        else:
            claim.broken(text, declared, severity=severity, numbers=numbers, last=claim.replay_clean(shown))


def test_encoding_is_deterministic(sound_codec, claim):
    """Catches an encoder that depends on the time, on its process, or on what it encoded before."""
    with sound_codec.fresh_workers() as others:
        for clean in sound_codec.small.values():
            for where, workers in [("the same process", sound_codec.workers), ("another process", others)]:
                again = workers.encode(clean.original)
                if again != clean.bitstream:
                    claim.broken(
                        f"{clean.image} encoded again in {where}: other bits",
                        "the same bits",
                        last=claim.replay_clean(clean),
                    )
                    return
    claim.kept(f"{len(sound_codec.small)} images, 2 processes", "the same bits")


def test_decoding_is_deterministic(sound_codec, claim):
    """Catches a decoder that gives another image the second time, or in another process than the encoder's."""
    streams = 0
    with sound_codec.fresh_workers() as others:
        for clean in sound_codec.small.values():
            rng = channels.generator(sound_codec.own_name, clean.image, "bsc(ber=0.001)", 0, seed=1)
            damaged = channels.BSC(1e-3).sample(clean.bits, rng, clean.layout)
            for pattern in [ErrorPattern(clean.bits), damaged]:
                stream = pattern.apply(clean.bitstream)
                first = sound_codec.workers.decode(stream, shape=clean.shape)
                for where, workers in [("the same process", sound_codec.workers), ("another process", others)]:
                    again = workers.decode(stream, shape=clean.shape)
                    same = (first.image is None) == (again.image is None) and first.outcome == again.outcome
                    if same and first.image is not None:
                        same = np.array_equal(first.image, again.image)
                    if not same:
                        claim.broken(
                            f"{clean.image} decoded again in {where}: another result",
                            "the same pixels",
                            last=claim.replay_clean(clean, pattern),
                        )
                        return
                streams += 1
    claim.kept(f"{streams} streams, 2 processes", "the same pixels")


def test_decoding_a_batch_equals_decoding_singly(sound_codec, claim):
    """Catches a batched decoder whose images depend on their neighbours, come in another order, or lose refusals."""
    worst = (0.0, 0.0)
    streams = 0
    for clean in sound_codec.small.values():
        patterns = [ErrorPattern(clean.bits)]
        for number in range(5):
            rng = channels.generator(sound_codec.own_name, clean.image, "bsc(ber=0.01)", number, seed=2)
            patterns.append(channels.BSC(1e-2).sample(clean.bits, rng, clean.layout))
        batch = sound_codec.workers.decode_many([p.apply(clean.bitstream) for p in patterns], shape=clean.shape)
        for pattern, batched in zip(patterns, batch, strict=True):
            single = sound_codec.workers.decode(pattern.apply(clean.bitstream), shape=clean.shape)
            streams += 1
            if (single.image is None) != (batched.image is None) or single.outcome != batched.outcome:
                claim.broken(
                    f"{clean.image}: {batched.outcome or 'an image'} in a batch, {single.outcome or 'an image'} singly",
                    "the same",
                    last=claim.replay_clean(clean, pattern),
                )
                return
            if single.image is None:
                continue
            difference = np.abs(single.image.astype(int) - batched.image.astype(int))
            worst = max(worst[0], float(difference.max())), max(worst[1], float(difference.mean()))
            if worst[0] > BATCH_TOLERANCE[0] or worst[1] > BATCH_TOLERANCE[1]:
                claim.broken(
                    f"{clean.image}: pixels differ by up to {worst[0]:g}, {worst[1]:.3g} on average",
                    f"up to {BATCH_TOLERANCE[0]}, {BATCH_TOLERANCE[1]:g} on average",
                    last=claim.replay_clean(clean, pattern),
                )
                return
    claim.kept(
        f"{streams} streams: pixels differ by up to {worst[0]:g}",
        f"up to {BATCH_TOLERANCE[0]}",
        numbers={"max_difference": worst[0], "mean_difference": worst[1]},
    )


def test_layout_names_every_bit(sound_codec, claim):
    """Catches a layout that leaves bits of the codec's own streams without a name, so that no report can place them."""
    for clean in sound_codec.small.values():
        covered = np.zeros(clean.bits, dtype=bool)
        for region in clean.layout:
            covered[region.start : region.stop] = True
        if not covered.all():
            bare = int(np.flatnonzero(~covered)[0])
            claim.broken(
                f"{clean.image}: {int((~covered).sum())} bits in no region, the first is bit {bare}",
                "every bit in a region",
                last=claim.replay_clean(clean),
            )
            return
    regions = {region.name for clean in sound_codec.small.values() for region in clean.layout}
    if not regions:
        pytest.skip("the codec's streams are empty")
    claim.kept(f"{len(regions)} regions", "every bit in a region", numbers={"regions": float(len(regions))})
