"""The regression gate: what alarms and what does not, the file that it reads, and both through pytest."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from suites import TOTAL, make_suite, run_here

from robustkit import Outcome
from robustkit.channels import BSC, Burst
from robustkit.images import photographs
from robustkit.judging import golden_drops, regression
from robustkit.judging.golden_drops import Drops, Picture
from robustkit.judging.golden_files import DROPS, GoldenError

IMAGES = ("ape", "cat", "dog", "emu", "owl", "yak")
MILD, HARSH = BSC(1e-5), Burst(32)


def drops(lost, *, each=10, stream="a", seed=0, quality=35.0, metric="psnr", channels=(MILD, HARSH)):
    """``lost(rng, channel)`` is what one trial loses; the same each time it is asked for."""
    rng = np.random.default_rng(1)
    losses = {c: {i: tuple(lost(rng, c) for _ in range(each)) for i in IMAGES} for c in channels}
    pictures = {i: Picture("0" * 64, stream * 64, quality) for i in IMAGES}
    return Drops("store", "cpu", metric, seed, {}, {"libstore": "1"}, pictures, losses)


def skewed(rng, channel):
    """A third arrives unharmed, one in ten gives no image, and of the others a few lose much."""
    kind, loss = rng.random(), float(rng.exponential() ** 2)
    return None if kind < 0.3 else Outcome.REFUSED if kind < 0.4 else loss


def changed(before, change, **more):
    """``change`` of every drop; refusals and unharmed streams stay."""
    losses = {
        c: {i: tuple(change(v) if isinstance(v, float) else v for v in row) for i, row in rows.items()}
        for c, rows in before.losses.items()
    }
    return replace(before, losses=losses, **more)


def alarms(before, now, **more):
    return [change.channel for change in regression.compare(before, now, **more) if change.worse]


BEFORE = drops(skewed)
#: The same pictures, and other streams of them.
OTHER = {i: replace(p, stream="b" * 64) for i, p in BEFORE.pictures.items()}


def test_the_same_decodes_differ_by_exactly_nothing():
    found = regression.compare(BEFORE, drops(skewed))
    assert [c.channel for c in found] == [str(MILD), str(HARSH), "all channels"]
    assert {(c.rise, c.moved, c.chance, c.worse, c.paired) for c in found} == {(0.0, 0, 1.0, False, True)}
    assert regression.unchanged(BEFORE, drops(skewed))


def test_a_tenth_of_a_decibel_is_found_in_pairs():
    now = changed(BEFORE, lambda v: v + 0.1)
    found = regression.compare(BEFORE, now)
    assert [c.worse for c in found] == [True, True, True]
    assert found[0].rise == pytest.approx(0.1, abs=0.02)
    assert found[0].chance == pytest.approx(1 / (1 + regression.DEALS))
    assert not regression.unchanged(BEFORE, now)


def test_what_lies_within_the_margin_is_no_regression_however_certain():
    now = changed(BEFORE, lambda v: v + 0.02)
    assert regression.unchanged(BEFORE, now)
    assert alarms(BEFORE, now) == []
    better = changed(BEFORE, lambda v: v - 1.0)
    assert alarms(BEFORE, better) == []
    assert not regression.unchanged(BEFORE, better)


def test_jitter_to_both_sides_is_no_regression():
    rng = np.random.default_rng(2)
    hits = [alarms(BEFORE, changed(BEFORE, lambda v: v + 0.2 * rng.standard_normal()), deals=199) for _ in range(40)]
    assert sum(map(bool, hits)) <= 3


def test_another_cpu_that_rounds_otherwise_is_no_regression_and_is_named():
    """A float's last bit moves a picture by next to nothing, and now and then turns a choice, for better or worse."""
    rng = np.random.default_rng(4)
    facts = {"libstore": "1", "device": "cpu (AVX2, 4 threads)"}

    def rounded(drop):
        return drop + (3.0 if rng.random() < 0.05 else 0.005) * rng.standard_normal()

    hits = [alarms(BEFORE, changed(BEFORE, rounded, facts=facts), deals=199) for _ in range(40)]
    assert sum(map(bool, hits)) <= 2
    # Where the other machine does lose more, it is named.
    worse = changed(BEFORE, lambda drop: rounded(drop) + 0.3, facts=facts)
    assert alarms(BEFORE, worse)
    said = "recorded with device unknown, now cpu (AVX2, 4 threads)"
    assert list(regression.differing(BEFORE, worse)) == [said]


def test_a_few_trials_that_lose_much_are_found_where_all_others_are_the_same():
    """One in seven loses 3 dB, and nothing else has moved."""
    count = iter(range(10**6))
    now = changed(BEFORE, lambda v: v + 3.0 * (next(count) % 7 == 0))
    assert "all channels" in alarms(BEFORE, now)


def test_on_the_machine_that_recorded_two_trials_that_lose_much_are_an_alarm_by_themselves():
    """However many others lose less: chance explains none, because an unchanged decoder differs by nothing."""
    assert regression.ruined(BEFORE, drops(skewed))[0] == []
    looked = sum(v is not None for rows in BEFORE.losses.values() for row in rows.values() for v in row)
    assert regression.ruined(BEFORE, drops(skewed))[1] == looked
    count = iter(range(10**6))
    # As often better as worse by as much, which no test of chance calls worse.
    ups = {3: 3.5, 4: -3.5, 50: 9.0, 51: -9.0}
    now = changed(BEFORE, lambda v: v + ups.get(next(count), 0.0))
    assert alarms(BEFORE, now) == []
    (first, second), _ = regression.ruined(BEFORE, now)
    assert len({first, second}) == 2
    channel, image, number = first
    place = next(c for c in now.losses if str(c) == channel)
    assert now.losses[place][image][number] - BEFORE.losses[place][image][number] == pytest.approx(9.0)
    # Less than that is left to chance, and so is what another machine or version makes of it.
    assert regression.ruined(BEFORE, changed(BEFORE, lambda v: v + 2.9))[0] == []
    for facts in ({"libstore": "2"}, {"libstore": "1", "device": "cpu"}, {}):
        assert regression.ruined(BEFORE, replace(now, facts=facts)) == ([], 0)
    assert regression.ruined(replace(BEFORE, facts={}), replace(now, facts={})) == ([], 0)
    assert regression.ruined(BEFORE, replace(now, pictures=OTHER)) == ([], 0)


def test_a_trial_that_lost_its_image_is_ruined_and_one_that_got_one_is_not():
    before = drops(lambda rng, channel: 0.5)
    count = iter(range(10**6))
    refusing = drops(lambda rng, channel: Outcome.REFUSED if next(count) == 7 else 0.5)
    assert regression.ruined(before, refusing) == ([(str(MILD), "ape", 7)], 120)
    assert regression.ruined(refusing, before) == ([], 120)
    assert regression.ruined(refusing, refusing) == ([], 120)
    # What a better clean picture adds to a drop is no loss.
    better = replace(before, pictures={i: replace(p, quality=40.0) for i, p in before.pictures.items()})
    assert regression.ruined(before, changed(better, lambda v: v + 5.0))[0] == []
    on_unit = drops(lambda rng, channel: 0.1, metric="ssim")
    assert len(regression.ruined(on_unit, changed(on_unit, lambda v: v + 0.15))[0]) == 120
    assert regression.ruined(on_unit, changed(on_unit, lambda v: v + 0.14))[0] == []


def test_refusing_what_gave_an_image_is_a_regression_even_where_nothing_was_ever_lost():
    before = drops(lambda rng, channel: 0.0)
    count = iter(range(10**6))
    refusing = drops(lambda rng, channel: Outcome.REFUSED if next(count) % 5 == 0 else 0.0)
    assert str(MILD) in alarms(before, refusing)
    assert alarms(refusing, before) == []


def test_other_streams_are_compared_image_by_image():
    now = replace(drops(lambda rng, channel: skewed(rng, channel), each=60), pictures=OTHER)
    before = drops(skewed, each=60)
    assert regression.paired(before, now) == []
    found = regression.compare(before, now)
    assert {(c.paired, c.worse, c.moved) for c in found} == {(False, False, None)}
    assert alarms(before, changed(now, lambda v: v + 0.3)) != []
    assert alarms(before, changed(now, lambda v: v - 0.3)) == []
    assert not regression.unchanged(before, now)


def test_images_that_differ_more_than_their_trials_hide_no_loss():
    """Drops of an image lie within a decibel, those of two images ten apart, and half give no image."""

    def streams(seed, more=0.0, rescued=0.0):
        rng = np.random.default_rng(seed)

        def one(image):
            loss = 10.0 * IMAGES.index(image) + float(rng.standard_normal())
            return loss + more if rng.random() < 0.5 + rescued else Outcome.REFUSED

        return replace(
            BEFORE,
            losses={MILD: {image: tuple(one(image) for _ in range(12)) for image in IMAGES}},
            pictures={i: replace(p, stream=str(seed) * 64) for i, p in BEFORE.pictures.items()},
        )

    assert all(alarms(streams(1), streams(seed, 1.0), deals=399) for seed in (2, 3, 4))
    # Bad pictures in place of refusals make the mean of pictures worse, and the codec no worse.
    rescuing = [alarms(streams(1), streams(seed, rescued=0.4), deals=399) for seed in (5, 6, 7)]
    assert rescuing == [[], [], []]


def test_another_seed_leaves_nothing_to_pair():
    now = replace(BEFORE, seed=1)
    assert regression.paired(BEFORE, now) == []
    assert {c.paired for c in regression.compare(BEFORE, now)} == {False}


def test_false_alarms_with_other_streams_are_rare():
    """Trials before and now from one distribution, with much between images; the benchmark counts many more."""
    found = 0
    for number in range(60):
        rng = np.random.default_rng(number)
        means = dict(zip(IMAGES, rng.exponential(2, 6), strict=True))

        def some(each, rng=rng, means=means):
            losses = {c: {i: tuple(rng.exponential(means[i], each)) for i in IMAGES} for c in (MILD, HARSH)}
            return replace(BEFORE, losses=losses)

        found += bool(alarms(some(40), replace(some(10), pictures=OTHER), deals=199))
    assert found <= 3


def test_a_better_clean_picture_is_no_regression():
    """All drops are larger by what the clean picture gained: under damage the picture is what it was."""
    pictures = {i: replace(p, quality=36.0) for i, p in OTHER.items()}
    now = changed(drops(skewed), lambda v: v + 1.0, pictures=pictures)
    assert alarms(BEFORE, now) == []
    assert alarms(BEFORE, changed(now, lambda v: v, pictures=OTHER)) != []


def test_on_a_scale_of_0_to_1_the_margin_is_smaller():
    before = drops(lambda rng, channel: round(rng.random() / 10, 4), metric="ssim")
    assert alarms(before, changed(before, lambda v: v + 0.0009)) == []
    assert len(alarms(before, changed(before, lambda v: v + 0.005))) == 3
    with pytest.raises(ValueError, match="psnr can't be compared with drops in ssim"):
        regression.compare(BEFORE, before)


def test_images_of_other_pixels_are_left_out():
    pictures = {**BEFORE.pictures, "cat": Picture("1" * 64, "a" * 64, 35.0)}
    now = changed(BEFORE, lambda v: v, pictures=pictures)
    assert regression.common(BEFORE, now) == [i for i in IMAGES if i != "cat"]
    strangers = {i: Picture("1" * 64, "a" * 64, 35.0) for i in IMAGES}
    assert regression.compare(BEFORE, replace(now, pictures=strangers)) == []


def test_an_alarm_names_the_trial_that_lost_most():
    losses = {c: {i: list(row) for i, row in rows.items()} for c, rows in BEFORE.losses.items()}
    place = next(n for n, v in enumerate(losses[HARSH]["dog"]) if isinstance(v, float))
    now = changed(BEFORE, lambda v: v + 0.1)
    now.losses[HARSH]["dog"] = tuple(v + 9.0 if n == place else v for n, v in enumerate(now.losses[HARSH]["dog"]))
    found = {c.channel: c.worst for c in regression.compare(BEFORE, now)}
    assert found[str(HARSH)] == found["all channels"] == (str(HARSH), "dog", place)


# The file.


def test_the_file_holds_what_was_measured_and_is_canonical(tmp_path):
    path = golden_drops.write(tmp_path, BEFORE)
    assert golden_drops.read(tmp_path) == BEFORE
    first = path.read_bytes()
    assert path.name == DROPS
    backwards = replace(
        BEFORE,
        losses={c: dict(reversed(rows.items())) for c, rows in reversed(BEFORE.losses.items())},
        pictures=dict(reversed(BEFORE.pictures.items())),
    )
    golden_drops.write(tmp_path, backwards)
    assert path.read_bytes() == first
    # A row of trials is one line, so that people can review what changed.
    assert len(first.splitlines()) < 70


def test_without_a_file_there_is_nothing(tmp_path):
    assert golden_drops.read(tmp_path) is None


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ((), [], "no file of golden drops of version 1"),
        (("version",), 2, "no file of golden drops of version 1"),
        (("seed",), "0", "is no seed"),
        (("seed",), True, "is no seed"),
        (("codec",), 7, "is no text"),
        (("images", "cat", "stream"), "../cat.bin", "no SHA-256"),
        (("images", "cat", "quality"), 10**400, "can't be read|damaged"),
        (("images",), [], "damaged"),
        (("drops", "bsc(ber=2)"), {}, "damaged.*out of range"),
        (("drops", "burst(length=32)", "unicorn"), [], "'unicorn', which is none of the images"),
        (("drops", "burst(length=32)", "cat"), ["intact"], "has an image"),
        (("drops", "burst(length=32)", "cat"), ["eaten"], "damaged"),
        (("drops", "burst(length=32)", "cat"), [True], "no drop or quality"),
        (("drops", "burst(length=32)", "cat"), [[1.0]], "no drop or quality"),
        (("drops", "burst(length=32)", "cat"), 7, "damaged"),
    ],
)
def test_a_hostile_file_is_refused_by_name(tmp_path, where, value, message):
    path = golden_drops.write(tmp_path, BEFORE)
    data = json.loads(path.read_text())
    inside = data
    for key in where[:-1]:
        inside = inside[key]
    if where:
        inside[where[-1]] = value
    else:
        data = value
    path.write_text(json.dumps(data))
    with pytest.raises(GoldenError, match=message) as caught:
        golden_drops.read(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[" * 5000, b'{"version": 1, "seed": NaN}', b" " * (1 << 23)])
def test_what_is_no_json_or_too_large_is_refused(tmp_path, raw):
    (tmp_path / DROPS).write_bytes(raw)
    with pytest.raises(GoldenError, match=r"can't be read|larger than"):
        golden_drops.read(tmp_path)


def test_the_trials_of_the_promises_are_compared_and_no_others_run():
    class Asked:
        clean, seed, lacking = dict.fromkeys(IMAGES), 7, 0

        def trials(self, channel):
            return [SimpleNamespace(image=i, number=n, channel=channel) for n in range(12) for i in IMAGES]

        def run(self, jobs):
            assert len(jobs) == self.lacking
            return [SimpleNamespace(image=j.image, number=j.number, channel=j.channel, seed=j.seed) for j in jobs]

    assert golden_drops.at_first(250, 24) == 10
    found = golden_drops.trials_of(Asked(), MILD, 10)
    assert [(t.image, t.number) for t in found] == [(i, n) for i in IMAGES for n in range(12)]
    # By the seed that was recorded, if the run has another.
    asked = Asked()
    asked.lacking = 5 * len(IMAGES)
    found = golden_drops.trials_of(asked, MILD, 5, seed=3)
    assert [(t.image, t.number, t.seed) for t in found] == [(i, n, 3) for i in IMAGES for n in range(5)]


@pytest.mark.parametrize(("recorded", "rounds", "first"), [(250, 24, 10), (250, 60, 25), (250, 200, 83), (12, 200, 12),
                                                           (250, 1, 10)])  # fmt: skip
def test_a_comparison_begins_with_not_quite_half_of_the_effort(recorded, rounds, first):
    assert golden_drops.at_first(recorded, rounds) == first


# Through pytest.


def test_drops_are_recorded_compared_and_a_loss_is_found(pytester):
    make_suite(pytester.path)
    pictures = pytester.mkdir("pictures")
    for name in ("chelsea", "rocket"):
        Image.fromarray(photographs(64)[name]).save(pictures / f"{name}.png")
    options = ("--codec", "plain", "--robustkit-golden-dir", "mine", "--robustkit-images", "pictures")

    def suite(*more):
        result = run_here(pytester, "conformance", "-k", "golden_drops", "-rs", *options, *more)
        return result, result.stdout.str()

    result, text = suite()
    result.assert_outcomes(skipped=1, deselected=TOTAL - 1)
    assert "no golden drops of plain; record them: pytest conformance --codec plain -k golden" in text
    result, text = suite("--robustkit-golden-update")
    result.assert_outcomes(failed=1, deselected=TOTAL - 1)
    file = pytester.path / "mine" / "plain" / "cpu" / DROPS
    assert "golden drops rewritten in mine/plain/cpu/drops.json: review and run again" in text
    recorded = file.read_bytes()
    before = golden_drops.read(file.parent)
    assert (before.codec, before.seed, before.each, len(before.losses)) == ("plain", 0, 250, 2)

    result, text = suite()
    result.assert_outcomes(passed=1, deselected=TOTAL - 1)
    assert "pairs, none" in text
    # A run with other trials, as each nightly one, meets the damage that was recorded.
    result, text = suite("--robustkit-trial-seed=7")
    result.assert_outcomes(passed=1, deselected=TOTAL - 1)
    assert "seed 0 (search), 7 (trials)" in text
    assert "pairs, none" in text

    # A sharp edge takes its neighbour along. The promises would allow that by far.
    conftest = pytester.path / "conftest.py"
    loss = "blocks = np.frombuffer(payload, np.uint8, 3 * across * down).reshape(down, across, 3)"
    spread = """
        jump = np.abs(np.diff(blocks.astype(int), axis=1, prepend=blocks[:, :1].astype(int))) > 90
        blocks = np.where(jump | np.roll(jump, 1, axis=1), np.uint8(0), blocks)"""
    assert loss in conftest.read_text()
    conftest.write_text(conftest.read_text().replace(loss, loss + spread, 1))
    result, text = suite()
    result.assert_outcomes(failed=1, deselected=TOTAL - 1)
    assert "golden drops are not exceeded: does not hold" in text
    assert "all channels: mean drop" in text
    assert "robustkit replay robustkit-report/replay/plain/golden-drops-are-not-exceeded" in text
    # Comparing never writes.
    assert file.read_bytes() == recorded
