"""Searches for a rate, over made-up sizes and over a real codec."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit.codec import DecodeError, EncodeError
from robustkit.codecs.jpeg import Jpeg
from robustkit.codecs.ladder import Knob, Ladder, bisection, secant
from robustkit.images import photographs

JPEG = ["robustkit.codecs.jpeg", "Jpeg", None]
QUALITY = Knob("quality", 1, 100)
Size = Callable[[float], int]


def counted(size: Size) -> tuple[Size, list[float]]:
    asked: list[float] = []

    def ask(value: float) -> int:
        asked.append(value)
        return size(value)

    return ask, asked


def grows(value: float) -> int:
    """Bytes of something like JPEG: the logarithm bends at the top."""
    return round(2000 * math.exp(0.03 * value + (value / 60) ** 4 / 8))


def test_bisection_sees_the_middles_and_keeps_the_closest() -> None:
    size, asked = counted(lambda value: int(10 * value))
    found = bisection(size, 333, QUALITY)
    assert asked == [50, 25, 37, 31, 34, 32, 33]
    assert (found.value, found.size, found.tried) == (33, 330, 7)


@given(st.integers(0, 2000), st.integers(1, 60))
def test_bisection_of_a_rising_size_finds_the_closest_of_all(target: int, slope: int) -> None:
    found = bisection(lambda value: slope * int(value), target, QUALITY)
    closest = min(range(1, 101), key=lambda value: abs(slope * value - target))
    assert abs(found.size - target) == abs(slope * closest - target)


@given(st.integers(0, 2000))
def test_bisection_of_a_falling_knob_is_that_of_a_rising_one(target: int) -> None:
    falling = bisection(lambda value: 40 * (51 - int(value)), target, Knob("quality", 51, 0))
    closest = min(abs(40 * level - target) for level in range(52))
    assert abs(falling.size - target) == closest


def test_bisection_stops_where_it_is_told_to() -> None:
    size, asked = counted(lambda value: int(10 * value))
    assert bisection(size, 333, QUALITY, steps=3).value == 37
    assert len(asked) == 3


def test_sizes_that_jump_back_keep_the_closest_seen() -> None:
    sizes = {50: 1200, 25: 900, 37: 980, 43: 700, 46: 1100, 44: 1010, 45: 1300}
    found = bisection(lambda value: sizes[int(value)], 1000, QUALITY)
    # 1200, 900, 980, 700, 1100, 1010: the last is closer than what lies beside the jump.
    assert (found.value, found.size, found.tried) == (44, 1010, 6)


@pytest.mark.parametrize("target", [2100, 3000, 5000, 9000, 20_000, 60_000])
def test_secant_needs_few_encodes(target: int) -> None:
    size, asked = counted(grows)
    found = secant(size, target, QUALITY)
    best = min(abs(grows(value) - target) for value in range(1, 101))
    assert abs(found.size - target) <= max(best, 0.01 * target)
    assert len(asked) == found.tried <= 6


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 500), min_size=100, max_size=100),
    st.integers(1, 60_000),
    st.booleans(),
)
def test_secant_of_any_rising_size_ends_and_keeps_the_closest_seen(rises, target, falling) -> None:
    sizes = np.cumsum(np.array(rises) + 1)
    knob = Knob("quality", 100, 1) if falling else QUALITY
    seen: dict[float, int] = {}

    def size(value: float) -> int:
        assert 1 <= value <= 100
        assert value not in seen
        assert isinstance(value, int)
        seen[value] = int(sizes[(100 - value if falling else value - 1)])
        return seen[value]

    found = secant(size, target, knob)
    assert found.tried == len(seen) <= 8
    assert abs(found.size - target) == min(abs(n - target) for n in seen.values())


def test_secant_of_a_rate_is_straight_over_its_logarithm() -> None:
    size, asked = counted(lambda bpp: round(30_000 * bpp * 1.2 + 100))
    found = secant(size, 30_000, Knob("bpp", 0.125, 8.0, whole=False))
    assert asked[0] == pytest.approx(1.0)
    assert abs(found.size / 30_000 - 1) <= 0.01
    assert len(asked) <= 4


def test_a_target_that_no_value_reaches_ends_at_the_end() -> None:
    for search in (bisection, secant):
        assert search(grows, 10**9, QUALITY).value == 100
        assert search(grows, 1, QUALITY).value == 1


def test_the_worker_s_codec_finds_a_quality_and_has_no_images() -> None:
    image = photographs(96)["coffee"]
    ladder = Ladder(codec="jpeg", target=JPEG, settings={"check_size": False}, bpp=1.0)
    found = json.loads(ladder.encode(image))
    stream = Jpeg(quality=found["value"], check_size=False).encode(image)
    assert (found["bytes"], found["knob"], found["search"]) == (len(stream), "quality", "bisection")
    assert all(
        abs(len(Jpeg(quality=quality, check_size=False).encode(image)) - 1152) >= abs(len(stream) - 1152)
        for quality in range(1, 101)
    )
    with pytest.raises(DecodeError, match="no images"):
        ladder.decode(b"")


def test_protection_counts_and_its_codec_has_the_knob() -> None:
    image = photographs(96)["coffee"]
    pytest.importorskip("reedsolo")
    inner = {"codec": "jpeg", "target": JPEG, "n": 255, "k": 127}
    target = ["robustkit.codecs.protected", "Protected", None]
    bare = json.loads(Ladder(codec="jpeg", target=JPEG, settings={}, bpp=2.0).encode(image))
    found = json.loads(Ladder(codec="jpeg+rs(255,127)", target=target, settings=inner, bpp=2.0).encode(image))
    assert found["bytes"] == pytest.approx(bare["bytes"], rel=0.1)
    assert found["value"] < bare["value"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"search": "guess"}, "search = 'guess': give bisection or secant"),
        ({"target": ["builtins", "object", None]}, "neither qualities nor a setting bpp"),
        ({"knob": ["quality", 0.5, 3.5], "search": "bisection"}, "no whole number"),
    ],
)
def test_what_has_no_search_is_refused(given, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ladder(**{"codec": "jpeg", "target": JPEG, "settings": {}, "bpp": 1.0, **given})


def test_a_value_that_the_codec_refuses_is_named() -> None:
    ladder = Ladder(codec="jpeg", target=JPEG, settings={}, bpp=99.0, knob=["quality", 1, 300])
    with pytest.raises(EncodeError, match="jpeg with quality = 150: quality = 150: give a whole number"):
        ladder.encode(photographs(32)["coffee"])
