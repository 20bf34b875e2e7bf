"""Without damage: rate, quality and determinism. Where an image comes to grief, all other checks are blocked."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from robustkit import EncodeError, ErrorPattern, Outcome, channels
from robustkit.isolation import CodecWorkers, WorkerError
from robustkit.judging.finding import Verdict
from robustkit.judging.history import bare_decodes, histories
from robustkit.judging.large import misplaced
from robustkit.judging.opinion import BATCH_TOLERANCE
from robustkit.judging.subject import CleanRoundTripFailed, Subject
from robustkit.judging.trial import Clean
from robustkit.plugin.claim import Claim

#: Streams in a batch, as many as a worker is given at once.
BATCH = 16


@pytest.mark.robustkit_claim("clean.round-trip")
def test_clean_round_trip_meets_the_declared_quality_and_rate(codec: Subject, claim: Claim) -> None:
    """Catches a codec that fails without any damage, or whose quality or rate is not what it declares."""
    try:
        clean = codec.clean
    except CleanRoundTripFailed as failed:
        last = claim.replay_clean(failed.clean) if failed.clean is not None else None
        claim.broken(str(failed), "an image for an image", last=last)
        return
    profile = codec.profile
    mean_quality, mean_bpp = codec.clean_quality, codec.clean_bpp
    worst = max(clean.values(), key=lambda c: codec.drop(mean_quality, c.metrics[codec.metric]))
    measured = f"{mean_quality:.2f} mean ({worst.image} {worst.metrics[codec.metric]:.2f})"
    if profile is None:
        claim.note(Verdict.NOTED, measured, severity=codec.metric, numbers={"quality": mean_quality})
        claim.note(Verdict.NOTED, f"{mean_bpp:.4f} bpp", severity="rate", numbers={"bpp": mean_bpp})
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
            last = claim.replay_clean(shown)
            claim.broken(text, declared, severity=severity, why=claim.ways_out, last=last, numbers=numbers)


@pytest.mark.robustkit_claim("encode.deterministic")
def test_encoding_is_deterministic(sound_codec: Subject, claim: Claim) -> None:
    """Catches an encoder that depends on the time, on its process, or on what it encoded before."""
    small = sound_codec.small
    first = time.monotonic()
    # Another process loads the codec meanwhile.
    with ThreadPoolExecutor(1) as loading:
        others = loading.submit(lambda: sound_codec.elsewhere)
        said = [encoded_again(sound_codec.workers, clean, "the same process") for clean in small.values()]
        there = others.result()
    if not any(said):
        # A clock in whole seconds must have gone on.
        time.sleep(max(0.0, first + 1.0 - time.monotonic()))
        with ThreadPoolExecutor(len(there.pids)) as executor:
            said = list(executor.map(lambda clean: encoded_again(there, clean, "another process"), small.values()))
    for clean, different in zip(small.values(), said, strict=True):
        if different is not None:
            claim.broken(different, "the same bits", last=claim.replay_clean(clean))
            return
    images = len(small)
    claim.kept(f"{images} images, 2 processes", "the same bits", numbers={"images": float(images), "processes": 2.0})


def encoded_again(workers: CodecWorkers, clean: Clean, where: str) -> str | None:
    """What encoding an image again gave that its stream is not, in words; ``None`` if nothing."""
    try:
        again = workers.encode(clean.original)
    except (EncodeError, WorkerError) as error:
        return f"{clean.image} encoded again in {where}: {error}"
    return None if again == clean.bitstream else f"{clean.image} encoded again in {where}: other bits"


@pytest.mark.robustkit_claim("decode.deterministic")
def test_decoding_is_deterministic(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder whose image depends on its process, or on what it decoded or refused before."""
    found = histories(sound_codec)
    if (different := found.different) is not None:
        claim.broken(
            f"{different.clean.image} decoded again {different.said}",
            "the same pixels",
            last=claim.replay_clean(different.clean, different.pattern),
        )
        return
    numbers = {"streams": float(found.streams), "decodes": float(found.decodes), "processes": 2.0}
    claim.kept(f"{found.streams} streams, {found.decodes} decodes, 2 processes", "the same pixels", numbers=numbers)


@pytest.mark.robustkit_claim("decode.needs-only-the-stream")
def test_decoding_needs_nothing_but_the_stream(sound_codec: Subject, claim: Claim) -> None:
    """Catches a decoder that finds the picture in its encoder's memory or files, and not in the stream."""
    found = bare_decodes(sound_codec)
    if not found.streams:
        pytest.skip(f"{sound_codec.name} encodes no image a second time")
    if (different := found.different) is not None:
        claim.broken(
            f"{different.clean.image} decoded {different.said}",
            "the same pixels",
            last=claim.replay_clean(different.clean, different.pattern),
        )
        return
    claim.kept(
        f"{found.streams} streams, in a process that encoded nothing",
        "the same pixels",
        numbers={"streams": float(found.streams)},
    )


@pytest.mark.robustkit_claim("decode.batch-equals-single")
def test_decoding_a_batch_equals_decoding_singly(sound_codec: Subject, claim: Claim) -> None:
    """Catches a batched decoder whose images depend on their neighbours, come in another order, or lose refusals.

    A codec without a ``decode_batch`` decodes them in a row, and must not mind what came before.
    """
    streams = mixed_batch(sound_codec)
    damaged = [pattern.apply(clean.bitstream) for clean, pattern in streams]
    shape = streams[0][0].shape
    batch = sound_codec.workers.decode_many(damaged, shape=shape)
    worst = (0.0, 0.0)
    every = list(zip(streams, damaged, batch, strict=True))
    # As many as one batch, from each process's, of each image.
    some = [each for i, each in enumerate(every) if (i + i // BATCH) % len(sound_codec.workers.pids) == 0]
    # The last one first: each has other neighbours in time, too.
    some.reverse()
    with ThreadPoolExecutor(len(sound_codec.workers.pids)) as executor:
        alone = list(executor.map(lambda each: sound_codec.workers.decode(each[1], shape=shape), some))
    for ((clean, pattern), _, batched), single in zip(some, alone, strict=True):
        if (single.image is None) != (batched.image is None) or single.outcome != batched.outcome:
            claim.broken(
                f"{clean.image}: {batched.outcome or 'an image'} in a batch, {single.outcome or 'an image'} singly",
                "the same",
                last=claim.replay_clean(clean, pattern),
            )
            return
        if single.image is None or batched.image is None:
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
        f"{len(some)} streams: pixels differ by up to {worst[0]:g}",
        f"up to {BATCH_TOLERANCE[0]}",
        numbers={"streams": float(len(some)), "max_difference": worst[0], "mean_difference": worst[1]},
    )


def mixed_batch(codec: Subject) -> list[tuple[Clean, ErrorPattern]]:
    """Streams of one shape for a full batch in each process: image by image in turn, intact, damaged and cut short."""
    by_shape: dict[tuple[int, int], list[Clean]] = {}
    for clean in codec.small.values():
        by_shape.setdefault(clean.shape, []).append(clean)
    alike = max(by_shape.values(), key=len)
    damage: list[channels.Channel | None] = [None, channels.BSC(1e-2), channels.BSC(1e-3), channels.Truncation(0.5)]
    batch = []
    for number in range(BATCH * len(codec.workers.pids)):
        clean, channel = alike[number % len(alike)], damage[number // len(alike) % len(damage)]
        pattern = ErrorPattern(clean.bits)
        if channel is not None and clean.bits:
            pattern = channel.draw(
                clean.bits, clean.layout, codec=codec.own_name, image=clean.image, trial=number, seed=2
            )
        batch.append((clean, pattern))
    return batch


@pytest.mark.robustkit_claim("layout.names-every-bit")
def test_layout_names_every_bit(sound_codec: Subject, claim: Claim) -> None:
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


@pytest.mark.robustkit_claim("clean.odd-sizes")
def test_odd_sizes_come_back_as_they_were(sound_codec: Subject, claim: Claim) -> None:
    """Catches a codec that swaps height and width, returns whole blocks, moves the picture, or dies."""
    done, refused = [], []
    for label, crop in sound_codec.crops.items():
        size = label.rpartition(" ")[2]
        if not isinstance(crop, CleanRoundTripFailed):
            # Of a thinner one so little may be left that a pixel more or less makes no difference.
            image = crop.decoded.image if min(crop.shape) >= 32 else None
            where = misplaced(crop.original, image) if image is not None else None
            if where is None:
                done.append(label)
            else:
                text = f"{label}: it would fit better {where}"
                claim.broken(text, "in its place", severity=size, last=claim.replay_clean(crop))
        elif crop.refused:
            refused.append(str(crop))
        else:
            last = claim.replay_clean(crop.clean) if crop.clean is not None else None
            claim.broken(str(crop), "the same size, or a refusal", severity=size, last=last)
    if not done and not refused:
        return
    said = [f"{len(done)} crops came back"] if done else []
    said += [f"{len(refused)} left out: {'; '.join(refused)}"] if refused else []
    claim.note(
        Verdict.KEPT if done else Verdict.NOTED,
        "; ".join(said),
        "the same size, or a refusal",
        numbers={"crops": float(len(done)), "refused": float(len(refused))},
    )


@pytest.mark.robustkit_claim("layout.payload-matters")
def test_payload_bits_change_the_picture(sound_codec: Subject, claim: Claim) -> None:
    """Catches a layout that calls everything header, or payload what the picture does not depend on."""
    changed = 0
    for clean in sound_codec.small.values():
        if not clean.bits:
            continue
        if not len(clean.layout.bits_of(header=False)):
            claim.broken(
                f"{clean.image}: every one of {clean.bits} bits is in a header region",
                "bits outside the header",
                last=claim.replay_clean(clean),
            )
            return
        # Random bits in place of all of them: a few flips may be repaired.
        pattern = channels.BSC(0.5, region="payload").draw(
            clean.bits, clean.layout, codec=sound_codec.own_name, image=clean.image, trial=0, seed=3
        )
        if clean.judge(sound_codec.workers.decode(pattern.apply(clean.bitstream), shape=clean.shape)) is Outcome.INTACT:
            claim.broken(
                f"{clean.image}: random bits outside the header regions change nothing",
                "another picture, or none",
                last=claim.replay_clean(clean, pattern),
            )
            return
        changed += 1
    if not changed:
        pytest.skip("the codec's streams are empty")
    claim.kept(f"{changed} streams", "the picture depends on it", numbers={"streams": float(changed)})
