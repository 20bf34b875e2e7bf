"""Large images are laid out from one picture, and what is worse than its like is found wherever it lies."""

import math

import numpy as np
import pytest

from robustkit import EncodeError
from robustkit.isolation import Decoded
from robustkit.judging import large
from robustkit.judging.large import lay_out, misplaced, tile, worst
from robustkit.judging.subject import CleanRoundTripFailed
from robustkit.outcome import Outcome

#: A picture with detail, and the noise of a codec.
PICTURE = np.random.default_rng(8).integers(0, 256, (64, 64, 3)).astype(np.uint8)
WHOLE = lay_out(PICTURE, 384)


def noisy(image, scale=5.0):
    return np.clip(image + np.random.default_rng(9).normal(0, scale, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "side", "picture", "laid"),
    [
        ((256, 256), 384, 128, 384),
        ((256, 256), 768, 256, 768),
        ((256, 256), 1024, 256, 1024),
        ((64, 64), 384, 64, 384),
        ((60, 90), 384, 60, 420),
        ((3000, 2000), 2048, 256, 2048),
    ],
)
def test_a_picture_is_laid_out_three_times_or_more(shape, side, picture, laid):
    image = np.arange(math.prod(shape) * 3, dtype=np.uint32).astype(np.uint8).reshape(*shape, 3)
    part = tile(image, side)
    assert part.shape == (picture, picture, 3)
    whole = lay_out(part, side)
    assert whole.shape == (laid, laid, 3)
    assert np.array_equal(whole[-picture:, picture : 2 * picture], part)


def test_noise_alone_is_no_loss():
    assert worst(WHOLE, noisy(WHOLE), 64, 25.0).decibels < 1.0
    assert worst(WHOLE, WHOLE, 64, 0.0).decibels == 0.0


@pytest.mark.parametrize(
    ("rows", "columns", "where"),
    [
        (slice(383, 384), slice(None), "rows 376 to 383"),
        (slice(200, 201), slice(None), "rows 200 to 207"),
        (slice(None), slice(383, 384), "columns 376 to 383"),
        (slice(None), slice(0, 1), "columns 0 to 7"),
    ],
)
def test_a_line_that_is_lost_is_found_and_named(rows, columns, where):
    image = noisy(WHOLE)
    image[rows, columns] = 0
    found = worst(WHOLE, image, 64, 25.0)
    assert found.where == where
    assert found.decibels > 10
    assert str(found) == f"{where}: {found.decibels:.1f} dB worse than their like"


@pytest.mark.parametrize("first", [8, 200, 376])
def test_a_grey_tail_is_found_however_long(first):
    image = noisy(WHOLE)
    image[first:] = 128
    assert worst(WHOLE, image, 64, 25.0).decibels > 10


def test_the_whole_may_not_be_worse_than_the_picture_alone():
    assert worst(WHOLE, noisy(WHOLE, 10.0), 64, 25.0).where == "the whole"
    assert worst(WHOLE, noisy(WHOLE, 10.0), 64, 25.0).decibels == pytest.approx(6.0, abs=0.3)


@pytest.mark.parametrize(
    ("axis", "step", "how"),
    [(0, 1, "one row down"), (0, -1, "one row up"), (1, 1, "one column right"), (1, -1, "one column left")],
)
def test_a_picture_beside_its_place_is_found(axis, step, how):
    moved = np.roll(PICTURE, step, axis)
    assert misplaced(PICTURE, moved) == how
    assert misplaced(PICTURE, noisy(moved, 20.0)) == how
    assert misplaced(PICTURE, noisy(PICTURE, 40.0)) is None


def test_a_flat_picture_lies_nowhere_else():
    flat = np.full((8, 8, 3), 7, np.uint8)
    assert misplaced(flat, flat) is None
    assert misplaced(flat, flat + 40) is None


def test_rows_that_moved_up_are_named():
    image = WHOLE.copy()
    image[300:-1] = image[301:]
    found = worst(WHOLE, image, 64, 25.0)
    assert found.where == "rows 320 to 383 lie one row up"
    assert (found.decibels, str(found)) == (math.inf, found.where)


class Staged:
    """What a subject does with large images, decided here: its round trips fail with ``error`` from ``side`` on."""

    def __init__(self, side, error=None, *, bytes_a_pixel=0.1, seconds=30.0):
        self.images = {"cat": np.tile(PICTURE, (4, 4, 1))}
        self.side, self.error, self.rate, self.asked = side, error, bytes_a_pixel, []
        self.limits = type("Limits", (), {"seconds": seconds})
        self.workers = type("Workers", (), {"processor": 0.0})

    def round_trip(self, name, image, *, measure):
        assert not measure
        self.asked.append(image.shape[0])
        if image.shape[0] >= self.side and self.error is not None:
            raise self.error
        clean = type("Clean", (), {})()
        clean.decoded, clean.shape = Decoded(noisy(image), None), image.shape[:2]
        clean.bitstream = bytes(int(self.rate * image.shape[0] * image.shape[1]))
        return clean


def failure(cause, text="cat: encoding failed: x", clean=None):
    made = CleanRoundTripFailed(text, clean)
    made.__cause__ = cause
    return made


def test_images_grow_until_the_stream_is_long():
    assert [found.shape[0] for found in large.large_round_trips(Staged(9999))] == [384, 768, 1024]
    assert [found.shape[0] for found in large.large_round_trips(Staged(9999, bytes_a_pixel=1.0))] == [384, 768]
    lean = [found.shape[0] for found in large.large_round_trips(Staged(9999, bytes_a_pixel=0.01))]
    assert lean == [384, 768, 1024, 2048]


@pytest.mark.parametrize(("share", "allowed"), [(1.0, large.WORSE), (0.6, large.WORSE), (0.4, large.MUCH_WORSE)])
def test_less_rate_may_cost_quality(share, allowed):
    subject = Staged(9999)
    trip = subject.round_trip

    def round_trip(name, image, *, measure):
        clean = trip(name, image, measure=measure)
        if image.shape[0] >= 384:
            clean.bitstream = clean.bitstream[: int(share * len(clean.bitstream))]
        return clean

    subject.round_trip = round_trip
    assert {found.allowed for found in large.large_round_trips(subject)} == {allowed}


@pytest.mark.parametrize(
    "error",
    [
        failure(EncodeError("too large"), "cat: the codec refuses the image: too large"),
        failure(RuntimeError(), f"cat: encoding failed: encode of codec 'x' {Outcome.HUNG}: not done after 30 s"),
    ],
)
def test_they_end_where_the_codec_refuses_or_is_slow(error):
    assert [found.failed for found in large.large_round_trips(Staged(768, error))] == [None]
    assert list(large.large_round_trips(Staged(300, error))) == []


def test_a_failure_is_told_with_the_stream_if_there_is_one():
    clean = object()
    *_, last = large.large_round_trips(Staged(768, failure(RuntimeError(), "cat: decoding: crashed", clean)))
    assert (last.shape, last.clean, last.failed) == ((768, 768), clean, "cat: decoding: crashed")
    *_, last = large.large_round_trips(Staged(768, failure(RuntimeError())))
    assert (last.clean, last.failed) == (None, "cat: encoding failed: x")


def test_no_image_is_tried_that_would_take_too_long(monkeypatch):
    subject = Staged(9999)
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(large.time, "monotonic", lambda: float(next(clock)))
    # The picture takes two seconds, and an image of nine too long.
    assert list(large.large_round_trips(subject)) == []
    assert subject.asked == [128]
    clock = iter(np.arange(0, 1000, 0.8))
    assert [found.shape[0] for found in large.large_round_trips(subject)] == [384, 768]
    # At most 12 seconds, and half of a decode's limit where that is less.
    for limit, step, sizes in [(60.0, 1.33, [384, 768]), (60.0, 1.34, []), (20.0, 1.11, [384, 768]), (20.0, 1.12, [])]:
        clock = iter(np.arange(0, 1000, step))
        assert [found.shape[0] for found in large.large_round_trips(Staged(9999, seconds=limit))] == sizes


def test_a_busy_machine_tries_the_same_large_images(monkeypatch):
    subject = Staged(9999)
    trip = subject.round_trip

    def round_trip(name, image, *, measure):
        subject.workers.processor += 0.8
        return trip(name, image, measure=measure)

    subject.round_trip = round_trip
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(large.time, "monotonic", lambda: float(next(clock)))
    assert [found.shape[0] for found in large.large_round_trips(subject)] == [384, 768]
