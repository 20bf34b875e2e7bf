"""Effort: how many streams are tried, by what a decode costs."""

from dataclasses import replace

import pytest

from robustkit.images import photographs
from robustkit.isolation import Decoded
from robustkit.judging.effort import CLEAR, EFFORTS, FIRST, LEAST, STEP, Sizes, cost, cost_of


@pytest.mark.parametrize("name", EFFORTS)
@pytest.mark.parametrize(
    ("decode", "least", "most"), [(0.0002, 2000, 20_000), (0.002, 2000, 8000), (0.1, 120, 250), (9.0, 120, 150)]
)
def test_effort_is_counted_in_decodes(name, decode, least, most):
    quick, sizes = EFFORTS["quick"].sized(decode), EFFORTS[name].sized(decode)
    assert least <= 7 * quick.each + min(quick.header, 2048) <= most
    assert quick.each >= 16
    assert sizes.each >= quick.each
    assert sizes.header >= quick.header
    for size in sizes:
        assert size & (size - 1) == 0


def test_decodes_of_about_the_same_time_make_searches_of_the_same_size():
    assert len({EFFORTS["quick"].sized(ms / 1000) for ms in (1.6, 1.8, 2.0, 2.2, 2.4)}) == 1


def test_work_costs_what_it_keeps_processors_busy_unless_it_waits_for_something_else():
    assert cost(0.1, 0.1) == cost(0.1, 1.6) == 0.1
    # A device, or a clock: no load makes work take so much longer.
    assert cost(0.1, 2.0) == 2.0
    assert cost(0.0, 0.05) == 0.0
    assert cost(0.0, 0.1) == 0.1
    loaded = [Decoded(None, None, seconds=s, processor=p) for s, p in ((0.9, 0.02), (0.3, 0.03), (0.4, 0.05))]
    assert cost_of(loaded) == 0.02


def test_half_of_the_seconds_are_for_second_opinions_and_one_search_in_sixteen_gets_a_share():
    effort = replace(EFFORTS["quick"], seconds=64.0, most=100)
    # 2 ** 8 streams of 0.125 s, less half a millisecond beside each, are half of the seconds.
    assert effort.sized(0.1245) == Sizes(16, 128)
    assert effort.sized(0.0307) == Sizes(64, 512)
    assert effort.sized(0.0001) == Sizes(100, 2**15)
    assert effort.sized(1e9) == Sizes(LEAST, LEAST)
    assert replace(effort, examples=7).sized(0.1) == Sizes(7, 7)


@pytest.mark.parametrize(("factor", "header"), [(1.0, 128), (0.72, 128), (0.70, 256), (1.40, 128), (1.42, 64)])
def test_streams_are_rounded_in_the_geometric_middle(factor, header):
    assert replace(EFFORTS["quick"], seconds=64.0).sized(0.125 * factor - 0.0005).header == header


def test_what_each_effort_spends():
    spent = {name: (e.trials, e.seconds, e.most, e.cap, e.shrinks, e.shrink_seconds) for name, e in EFFORTS.items()}
    assert spent == {
        "quick": (144, 20, 256, 60, 256, 60),
        "ci": (360, 120, 1024, 240, 512, 240),
        "nightly": (1200, 1200, 8192, 1200, 2048, 1200),
    }
    assert all(effort.examples is None for effort in EFFORTS.values())


def test_a_wait_is_sixteen_times_the_work_and_a_twentieth_of_a_second():
    assert cost(0.01, 0.2) == 0.01
    assert cost(0.01, 0.22) == 0.22


def test_a_promise_is_asked_after_whole_rounds_of_the_usual_images():
    """A round is a trial of each."""
    asked = {FIRST, CLEAR, STEP, *(effort.trials for effort in EFFORTS.values())}
    assert {number % len(photographs()) for number in asked} == {0}
