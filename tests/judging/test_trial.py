"""Trials and the codec under test: what is run, how often, and how outcomes and losses are judged."""

from collections import Counter

import numpy as np
import pytest

from robustkit import Codec, DecodeError, EncodeError, ErrorPattern, Layout, Outcome, Profile, Promise, Region
from robustkit.isolation import Decoded, Limits
from robustkit.registry import CodecSpec, Target
from robustkit.strategies import bit_flips, garbage
from robustkit.trial import CleanRoundTripFailed, CodecUnderTest, SearchEffort, Trial

PROFILE = Profile(bpp=24.1, quality=99.0, promises=(Promise("bsc(ber=0.01)", mean_drop=60.0, p5_drop=80.0),))


class Store(Codec):
    """Stores the pixels of images 8 wide after a byte that must stay zero; refuses small images."""

    name = "store"
    family = "test"
    profile = PROFILE

    def encode(self, image):
        if image.shape[0] < 4:
            raise EncodeError("too small")
        return b"\0" + image[:, :8].tobytes()

    def decode(self, bitstream):
        if bitstream[:1] != b"\0":
            raise DecodeError("the first byte is not zero")
        if len(bitstream) % 24 != 1:
            raise ZeroDivisionError("odd length")
        return np.frombuffer(bitstream[1:], np.uint8).reshape(-1, 8, 3)

    def layout(self, bitstream):
        bits = 8 * len(bitstream)
        start = min(8, bits)
        return Layout((Region("guard", 0, start, header=True), Region("pixels", start, bits)), bits)


class Brittle(Store):
    """Raises when the highest bit of any sample in the first row is set; that of the first sample is bit 8."""

    name = "brittle"

    def decode(self, bitstream):
        image = super().decode(bitstream)
        if (image[0] & 128).any():
            raise RuntimeError("brittle")
        return image


class LongLayout(Store):
    name = "long-layout"

    def layout(self, bitstream):
        return Layout((), 8 * len(bitstream) + 8)


IMAGES = {name: np.full((4, 8, 3), level, dtype=np.uint8) for name, level in (("dark", 10), ("light", 100))}


@pytest.fixture
def under_test(tmp_path):
    made = []

    def make(codec=Store, **more):
        more.setdefault("effort", SearchEffort(examples=60))
        spec = CodecSpec(codec.name, Target(codec.__module__, codec.__qualname__, __file__))
        made.append(CodecUnderTest(spec, images=more.pop("images", IMAGES), directory=tmp_path, **more))
        return made[-1]

    yield make
    for subject in made:
        subject.close()


def test_the_clean_round_trip_is_measured(under_test):
    subject = under_test()
    assert list(subject.clean) == ["dark", "light"]
    assert subject.clean_quality == 100.0
    assert subject.clean_bpp == pytest.approx(8 * 97 / 32)
    assert subject.clean["dark"].shape == (4, 8)
    assert subject.profile == PROFILE


def test_what_is_unsound_says_why(under_test):
    assert "clean rate is 24.25" in under_test().unsound
    assert under_test(profile=Profile(bpp=25.0, quality=99.0)).unsound is None
    assert "clean psnr is 100.000, declared 101" in under_test(profile=Profile(bpp=25.0, quality=101.0)).unsound
    small = under_test(images={"strip": np.zeros((2, 8, 3), np.uint8)})
    assert small.unsound == "strip: the codec refuses the image: too small"
    assert "layout speaks of 784 bits, the stream has 776" in under_test(LongLayout).unsound
    wide = under_test(images={"wide": np.zeros((4, 9, 3), np.uint8)})
    assert "misshapen" in wide.unsound
    with pytest.raises(CleanRoundTripFailed) as failed:
        _ = wide.clean
    assert failed.value.clean.image == "wide"


def test_trials_are_seeded_and_run_once(under_test):
    first, second = under_test(trials=3), under_test(trials=5)
    trials = first.trials("bsc(ber=0.01)")
    assert first.trials("bsc(ber=0.01)") is trials
    assert Counter(t.image for t in trials) == {"dark": 3, "light": 3}
    more = {(t.image, t.number): t for t in second.trials("bsc(ber=1e-2)")}
    for trial in trials:
        same = more[trial.image, trial.number]
        assert (same.pattern, same.outcome, same.drop) == (trial.pattern, trial.outcome, trial.drop)
    assert under_test(trials=3, seed=1).trials("bsc(ber=0.01)")[0].pattern != trials[0].pattern


def test_trials_are_judged(under_test):
    trials = under_test(trials=40).trials("bsc(ber=0.01)")
    assert {t.outcome for t in trials} == {Outcome.DEGRADED, Outcome.REFUSED, Outcome.INTACT} - (
        set() if any(t.pattern.harmless for t in trials) else {Outcome.INTACT}
    )
    for trial in trials:
        if trial.outcome is Outcome.REFUSED:
            assert (trial.quality, trial.drop) == (None, None)
            assert trial.message == "the first byte is not zero"
            assert trial.pattern.flips[0] < 8
        elif trial.outcome is Outcome.DEGRADED:
            assert trial.drop == pytest.approx(100 - trial.quality)
            assert trial.drop > 0
        else:
            assert (trial.quality, trial.drop) == (100.0, 0.0)


def test_images_of_different_shapes_keep_their_results(under_test):
    images = {"tall": np.full((9, 8, 3), 3, np.uint8), **IMAGES, "tall too": np.full((9, 8, 3), 60, np.uint8)}
    subject = under_test(images=images, trials=4)
    for trial in subject.trials("payload-burst(length=8)"):
        assert trial.outcome is Outcome.DEGRADED
        # A burst of 8 bits reaches two samples at most.
        assert trial.quality > 20


def test_a_search_finds_the_least_damage(under_test):
    result = under_test(Brittle, effort=SearchEffort(examples=100)).search(bit_flips)
    found = result.counterexample
    assert found.pattern.flips.tolist() == [8]
    assert found.decoded.outcome is Outcome.RAISED
    assert found.stream == found.pattern.apply(found.clean.bitstream)
    assert result.outcomes[Outcome.RAISED] > 0


def test_a_search_without_a_find_counts_what_it_saw(under_test):
    result = under_test().search(bit_flips)
    assert result.counterexample is None
    assert set(result.outcomes) == {Outcome.DEGRADED, Outcome.REFUSED}
    assert 0 < result.streams <= 60


def test_a_search_through_garbage(under_test):
    found = under_test().search_garbage(garbage(max_bytes=40)).counterexample
    assert (found.clean, found.pattern) == (None, None)
    # A stream of no pixels.
    assert found.stream == b"\0"
    assert found.decoded.outcome is Outcome.MISSHAPEN


def test_shrinking_stops_in_time_with_what_was_found(under_test):
    subject = under_test(Brittle, effort=SearchEffort(examples=100, shrink_seconds=0.0))
    found = subject.search(bit_flips).counterexample
    assert any(flip in range(8, 200, 8) for flip in found.pattern.flips)
    assert found.decoded.outcome is Outcome.RAISED


def test_one_seed_tries_the_same_streams(under_test):
    def seen(seed):
        return under_test(effort=SearchEffort(examples=40, seed=seed)).search(bit_flips).outcomes

    assert seen(3) == seen(3)


def test_small_crops_serve_the_search_where_the_codec_takes_them(under_test):
    large = np.zeros((90, 8, 3), np.uint8)
    assert under_test(images={"large": large}).small["large"].shape == (64, 8)


def test_a_trial_is_reduced_to_its_cause(under_test):
    subject = under_test(Brittle, trials=1)
    clean = subject.clean["dark"]
    pattern = ErrorPattern(clean.bits, np.array([24, 41, 300, 301, 500]))
    failing = Trial("brittle", "dark", "bsc(ber=0.01)", 0, pattern, Outcome.RAISED, None, None)
    least = subject.smallest(failing, lambda t: t.outcome is Outcome.RAISED)
    assert least.pattern.flips.tolist() == [24]
    assert "brittle" in least.message


def test_judging_compares_pixels(under_test):
    clean = under_test().clean["dark"]
    assert clean.judge(Decoded(clean.decoded.image.copy(), None)) is Outcome.INTACT
    assert clean.judge(Decoded(clean.decoded.image + 1, None)) is Outcome.DEGRADED
    assert clean.judge(Decoded(None, Outcome.HUNG)) is Outcome.HUNG


def test_the_given_profile_rules_and_what_it_loosens_is_known(under_test):
    loose = under_test(profile=Profile(bpp=30.0, quality=99.0, promises=PROFILE.promises))
    assert loose.profile.bpp == 30.0
    assert loose.loosened == ["bpp 30 > 24.1"]
    assert under_test().loosened == []


def test_limits_reach_the_workers(under_test):
    assert under_test(limits=Limits(seconds=3)).limits.seconds == 3
    assert under_test().limits == Limits()


def test_closing_ends_every_process(under_test):
    import os

    subject = under_test()
    pids = [*subject.workers.pids, *subject.fresh_workers().pids]
    assert len(pids) == 2
    subject.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
