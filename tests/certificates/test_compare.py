"""The regression gate: what is unchanged, worse, better, broken and undecided, on trials made up here."""

import hashlib
from dataclasses import replace
from functools import partial

import example_certificate as example
import numpy as np
import pytest

from robustkit.certificates import compare as compare_room
from robustkit.certificates import sides, trials, write
from robustkit.certificates.compare import ALARM, DROP, LEAST_PAIRS, Said, Word
from robustkit.certificates.model import CertificateError, Line, Photograph, TrialRow
from robustkit.certificates.pairing import Side

#: Dealt anew less often than a user's, which takes a seventh of the time.
compare = partial(compare_room.compare, deals=399)
IMAGES = ("ape", "cat", "dog", "emu", "owl", "yak")
MILD, HARSH = "bsc(ber=1e-05)", "burst(length=32)"


def digest(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def side(lost=None, *, label="old", stream="a", seed=0, each=24, channels=(MILD, HARSH), quality=35.0, bytes_=1000):
    """``lost(rng)`` is what one trial loses, ``None`` for a stream that arrived unharmed, or an outcome."""
    rng = np.random.default_rng(seed)
    photographs, rows = [], []
    for image in IMAGES:
        bpp = 8 * bytes_ / 64**2
        photographs.append(
            Photograph(
                image, digest(image), 64, 64, digest(stream, image), bytes_, bpp, quality, digest(image, quality)
            )
        )
    for channel in channels:
        for image in IMAGES:
            for number in range(each):
                loss = (lost or skewed)(rng)
                damaged = digest(stream, image) if loss is None else digest(stream, channel, image, number, seed)
                outcome = loss if isinstance(loss, str) else "intact" if loss is None else "degraded"
                drop = None if isinstance(loss, str) else loss or 0.0
                failure = None if outcome in ("intact", "degraded", "refused") else outcome
                pixels = None if drop is None else digest(channel, image, number, seed, drop)
                shown = None if drop is None else quality - drop
                rows.append(TrialRow(channel, image, number, seed, 1, damaged, outcome, failure, shown, drop, pixels))
    return Side(label, "store", "psnr", tuple(photographs), tuple(rows))


def skewed(rng):
    """A third arrives unharmed, one in ten is refused, and of the others a few lose much."""
    kind, loss = rng.random(), float(rng.exponential() ** 2)
    return None if kind < 0.3 else "refused" if kind < 0.4 else loss


def changed(before, change, *, where=lambda row: True):
    """``change`` of each drop; the damage is the same."""

    def one(row):
        if row.drop is None or row.outcome == "intact" or not where(row):
            return row
        loss = change(row.drop)
        if isinstance(loss, str):
            failure = None if loss == "refused" else loss
            return replace(row, outcome=loss, failure=failure, drop=None, quality=None, pixels=None)
        return replace(row, drop=loss, quality=35.0 - loss, pixels=digest(row.pixels, loss))

    return replace(before, label="new", rows=tuple(one(row) for row in before.rows))


OLD = side()


def words(found):
    return {(item.what, item.quantity): item.word for item in found.items}


def test_what_is_equal_by_digest_is_unchanged_and_no_test_is_made(monkeypatch):
    monkeypatch.setattr(compare_room.regression, "compare", None)
    found = compare(OLD, replace(OLD, label="new"))
    assert (found.said, found.status) == (Said.UNCHANGED, 0)
    assert {item.word for item in found.items} == {Word.UNCHANGED}
    assert "6 clean streams and 288 trials are the same" in found.sentence


def test_half_a_decibel_is_a_regression_in_pairs():
    found = compare(OLD, changed(OLD, lambda v: v + 0.5))
    assert (found.said, found.status) == (Said.REGRESSION, 1)
    assert words(found)[MILD, DROP] is Word.WORSE
    assert words(found)["clean quality", "mean psnr"] is Word.UNCHANGED
    (item,) = [item for item in found.items if item.what == MILD]
    assert item.way == "in pairs"
    assert item.chance <= ALARM
    assert any(line.startswith("most so in trial ") for line in item.why)


def test_within_the_margin_nothing_alarms_however_certain():
    now = changed(OLD, lambda v: v + 0.015)
    assert compare(OLD, now).said is Said.FINE
    assert compare(OLD, now, margin=0.005).said is Said.REGRESSION
    assert compare(OLD, changed(OLD, lambda v: v + 0.5), margin=1.0).said is Said.FINE


def test_what_got_better_is_said():
    found = compare(OLD, changed(OLD, lambda v: max(0.0, v - 0.5)))
    assert found.said is Said.FINE
    assert words(found)[MILD, DROP] is Word.BETTER
    assert f"better: {MILD}" in found.sentence
    smaller = words(compare(OLD, side(quality=36.0, bytes_=900, stream="b")))
    assert smaller["rate", "mean bpp"] is Word.BETTER
    assert smaller["clean quality", "mean psnr"] is Word.BETTER


def test_a_worse_clean_picture_and_a_larger_stream_are_regressions():
    found = compare(OLD, side(quality=34.9, stream="b"))
    assert (found.said, words(found)["clean quality", "mean psnr"]) == (Said.REGRESSION, Word.WORSE)
    larger = side(bytes_=1020, stream="b")
    assert words(compare(OLD, larger))["rate", "mean bpp"] is Word.WORSE
    assert compare(OLD, larger).status == 1
    assert compare(OLD, larger, rate_margin=0.05).status == 0


def test_refusals_in_place_of_pictures_alarm_and_are_named():
    found = compare(OLD, changed(OLD, lambda v: "refused", where=lambda row: row.number % 4 == 0))
    assert found.said is Said.REGRESSION
    assert any("degraded before, refused now" in line for item in found.items for line in item.why)


def test_a_failure_where_there_was_none_is_broken_without_statistics():
    now = changed(OLD, lambda v: "crashed", where=lambda row: (row.image, row.number) == ("cat", 3))
    found = compare(OLD, now)
    assert (found.said, found.status) == (Said.BROKEN, 1)
    broken = [item for item in found.items if item.word is Word.BROKEN]
    assert broken
    assert {(item.quantity, item.chance) for item in broken} == {("failures", None)}
    assert "trial 3 of cat: crashed" in broken[0].why


def test_failures_that_were_there_before_alarm_only_where_there_are_many_more():
    def some(limit):
        return changed(OLD, lambda v: "raised", where=lambda row: row.number < limit)

    assert words(compare(some(2), some(3)))[MILD, "failures"] is Word.NO_ALARM
    assert words(compare(some(2), some(12)))[MILD, "failures"] is Word.WORSE
    assert compare(some(2), OLD).said is Said.FINE


def test_other_streams_break_the_pairing_and_it_says_so():
    new = side(stream="b", seed=1)
    found = compare(OLD, new)
    assert found.said is Said.FINE
    assert {item.way for item in found.items if item.quantity == DROP} == {"unpaired"}
    assert any("can't be paired" in note for note in found.notes)
    assert compare(OLD, changed(new, lambda v: v + 2.0)).said is Said.REGRESSION


def test_another_seed_of_the_same_streams_is_not_paired_either():
    found = compare(OLD, side(seed=1))
    assert {item.way for item in found.items if item.quantity == DROP} == {"unpaired"}


def test_an_alarm_counts_only_if_fresh_seeds_alarm_too():
    worse = changed(OLD, lambda v: v + 0.5)
    fresh = side(seed=5)
    again = compare(OLD, worse, again=lambda: (fresh, changed(fresh, lambda v: v + 0.5)))
    assert (again.said, again.repeated) == (Said.REGRESSION, True)
    gone = compare(OLD, worse, again=lambda: (fresh, fresh))
    assert (gone.said, gone.status, gone.repeated) == (Said.UNDECIDED, 3, True)
    assert any("fresh seeds don't alarm" in line for item in gone.items for line in item.why)


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        (0.01, 0.05, Word.WORSE),
        (0.05, 0.01, Word.WORSE),
        (0.01, 0.06, Word.UNDECIDED),
        (0.05, 0.02, Word.NO_ALARM),
        (0.06, 0.01, Word.NO_ALARM),
    ],
)
def test_one_run_alarms_and_the_other_comes_near_to_it(monkeypatch, first, second, word):
    chances = iter((first, 1.0, second, 1.0))  # each run is asked of what got worse, and of what got better

    def found(before, now, **more):
        chance = next(chances)
        return [compare_room.Change(MILD, False, 1.0, 2.0, 100, None, chance, chance < 1, chance <= ALARM)]

    monkeypatch.setattr(compare_room.regression, "compare", found)
    new = side(stream="b", seed=1)
    done = compare(OLD, new, again=lambda: (OLD, new))
    assert words(done)[MILD, DROP] is word
    assert done.repeated == (first <= 0.05)


def test_nothing_is_run_again_without_an_alarm_of_chance():
    def never():
        raise AssertionError

    assert compare(OLD, OLD, again=never).status == 0
    assert compare(OLD, changed(OLD, lambda v: v - 0.1), again=never).status == 0
    assert compare(OLD, side(quality=34.0, stream="b"), again=never).status == 1


def test_too_few_pairs_that_differ_are_undecided():
    now = changed(OLD, lambda v: v + 20.0, where=lambda row: row.number == 0 and row.channel == MILD)
    moved = sum(a != b for a, b in zip(OLD.rows, now.rows, strict=True))
    assert 0 < moved < LEAST_PAIRS
    found = compare(OLD, now)
    assert (found.said, found.status) == (Said.UNDECIDED, 3)


def test_what_is_not_tried_any_more_is_undecided_however_equal_the_rest():
    fewer = side(channels=(MILD,))
    found = compare(OLD, replace(fewer, rows=tuple(r for r in OLD.rows if r.channel == MILD)))
    assert (found.said, found.status) == (Said.UNDECIDED, 3)
    assert f"{HARSH} was tried before, and is not now" in found.sentence
    without = replace(OLD, photographs=OLD.photographs[1:], rows=tuple(r for r in OLD.rows if r.image != "ape"))
    assert compare(OLD, without).status == 3
    assert compare(without, OLD).status == 0


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (replace(OLD, rows=()), "no trials under damage"),
        (replace(OLD, photographs=tuple(replace(p, sha256="0" * 64) for p in OLD.photographs)), "no image in common"),
        (side(channels=("bsc(ber=0.1)",)), "no channel in common"),
    ],
)
def test_nothing_measured_is_never_fine(new, said):
    found = compare(OLD, new)
    assert (found.said, found.status) == (Said.NOTHING, 5)
    assert said in found.sentence


def test_damage_that_hits_nothing_measures_nothing():
    def unharmed(rng):
        return None

    spared = side(unharmed)
    found = compare(spared, side(unharmed, stream="b"))
    assert (found.said, found.status) == (Said.NOTHING, 5)
    assert "no stream of store" in found.sentence
    # Old streams of which none was hit tell nothing of new ones that were.
    assert compare(spared, side(stream="b")).status == 5
    assert compare(spared, side(unharmed, stream="b", quality=34.0)).status == 1
    # Equal by digest is unchanged all the same.
    assert compare(spared, replace(spared, label="new")).status == 0

    def mildly(lost, **more):
        mild, harsh = side(lost, channels=(MILD,), **more), side(channels=(HARSH,), **more)
        return replace(mild, rows=(*mild.rows, *harsh.rows))

    for lost, when in ((unharmed, "before or now"), (skewed, "before")):
        found = compare(mildly(unharmed), mildly(lost, stream="b", seed=1))
        assert (found.status, words(found)[MILD, DROP]) == (0, Word.NO_ALARM)
        (item,) = [item for item in found.items if item.what == MILD and item.quantity == DROP]
        assert item.why[0].startswith(f"no stream was hit {when}, so nothing is said")


def test_a_claim_that_held_and_is_broken_now_is_broken():
    line = Line("decode.survives.garbage", "decode survives garbage", "", "64 streams", "no failure", "kept")
    held = replace(OLD, lines=(line,), searched="the same")
    broken = replace(held, lines=(replace(line, verdict="broken", measured="1 crashed"),))
    found = compare(held, broken)
    assert (found.said, found.status) == (Said.BROKEN, 1)
    assert found.sentence == "store: broken: decode survives garbage (decode.survives.garbage)"
    # Another search may find what was there all along.
    assert compare(held, replace(broken, searched="another seed")).said is Said.UNCHANGED
    assert compare(broken, held).said is Said.UNCHANGED


def test_other_metrics_and_rows_that_are_none_are_refused(monkeypatch):
    monkeypatch.setattr("robustkit.quality._has_pyiqa", lambda: False)
    with pytest.raises(CertificateError, match="measure both in one metric"):
        compare(OLD, replace(OLD, metric="ssim"))
    with pytest.raises(CertificateError, match="psrn"):
        compare(replace(OLD, metric="psrn"), replace(OLD, metric="psrn"))
    odd = replace(OLD, rows=(replace(OLD.rows[0], outcome="exploded", stream="0" * 64), *OLD.rows[1:]))
    with pytest.raises(CertificateError, match="no outcome 'exploded'"):
        compare(OLD, odd)
    odd = replace(OLD, rows=tuple(replace(row, channel="bsk") for row in OLD.rows))
    with pytest.raises(CertificateError, match="channel can't be read"):
        compare(odd, changed(odd, lambda v: v + 1))


def test_holm_adjusts_from_the_least_and_never_falls():
    assert compare_room._holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert compare_room._holm([]) == []


# -- what lies on disk


def test_a_certificate_is_read_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "certificate"
    write.write(example.certificate(), example.rows(), folder)
    found = sides.load(folder)
    assert (found.codec, found.metric, found.rows) == ("example", "psnr", example.rows())
    assert found == replace(sides.load(folder / write.STATEMENTS), label=found.label)
    same = compare(found, found)
    assert (same.said, same.status) == (Said.UNCHANGED, 0)
    broken = tmp_path / "broken"
    write.write(example.broken(), example.rows(), broken)
    turned = compare(found, sides.load(broken))
    assert (turned.said, turned.status) == (Said.BROKEN, 1)
    assert "decode.survives.bit-flips" in turned.sentence
    # One row less, and one of another seed.
    trials.write(folder / trials.FILE, example.rows()[1:])
    with pytest.raises(CertificateError, match="other rows than the certificate speaks of"):
        sides.load(folder)
    trials.write(folder / trials.FILE, (*example.rows()[1:], example.rows(seed=1)[0]))
    with pytest.raises(CertificateError, match="other rows"):
        sides.load(folder)
    (folder / write.STATEMENTS).write_bytes(b'{"_type": 1}\n' * 2)
    with pytest.raises(CertificateError, match="certificate"):
        sides.load(folder)


def test_a_baseline_gives_back_the_side_that_was_proposed(tmp_path):
    file = tmp_path / "baseline.jsonl"
    sides.propose(file, OLD)
    found = sides.load(file)
    assert sorted(found.rows, key=repr) == sorted(OLD.rows, key=repr)
    assert replace(found, label=OLD.label, rows=OLD.rows) == OLD
    data = file.read_bytes()
    sides.propose(file, found)
    assert file.read_bytes().splitlines()[1:] == data.splitlines()[1:]
    assert [path.name for path in tmp_path.iterdir()] == ["baseline.jsonl"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-1], "cut off"),
        (lambda data: data[: data.rindex(b"\n", 0, -1) + 1], "speaks of 288"),
        (lambda data: data.replace(b'"version":1', b'"version":9', 1), "of version 9"),
        (lambda data: data.replace(b'"robustkit baseline"', b'"a song"', 1), "neither a certificate nor a baseline"),
        (lambda data: data.replace(b'"number":0', b'"number":"0"', 1), "number"),
        (lambda data: data.replace(b'"seed":0', b'"seed":NaN', 1), "no JSON"),
        (lambda data: b"\xff\n" + data, "no JSON"),
        (lambda data: b"\n", "no JSON"),
    ],
)
def test_a_baseline_that_was_changed_is_refused_by_name(tmp_path, change, said):
    file = tmp_path / "baseline.jsonl"
    sides.propose(file, OLD)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(CertificateError, match=f"baseline.jsonl: .*{said}"):
        sides.load(file)
