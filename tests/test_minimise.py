"""Minimising leaves what a failure needs, within its budget, and describes it by region."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import ErrorPattern, Layout, Region
from robustkit.minimise import describe, minimise

BITS = 1600


def pattern_of(flips, **more) -> ErrorPattern:
    return ErrorPattern(BITS, np.array(sorted(flips), dtype=np.int64), **more)


class Oracle:
    """Fails when every culprit is there, and records what it was asked."""

    def __init__(self, condition):
        self.condition = condition
        self.asked = []

    def __call__(self, pattern):
        assert not pattern.harmless
        assert pattern not in self.asked
        self.asked.append(pattern)
        return self.condition(pattern)


@given(st.data())
def test_the_culprits_alone_are_left(data):
    flips = data.draw(st.sets(st.integers(0, BITS - 1), min_size=1, max_size=60))
    culprits = data.draw(st.sets(st.sampled_from(sorted(flips)), min_size=1, max_size=4))
    oracle = Oracle(lambda p: culprits <= set(p.flips.tolist()))
    assert minimise(pattern_of(flips), oracle, budget=10_000) == pattern_of(culprits)


@given(st.sets(st.integers(0, BITS - 1), min_size=7, max_size=40))
def test_a_failure_without_single_culprits_ends_one_minimal(flips):
    found = minimise(pattern_of(flips), Oracle(lambda p: len(p.flips) >= 4 and sum(p.flips) > 99), budget=10_000)
    for spared in found.flips:
        rest = set(found.flips.tolist()) - {int(spared)}
        assert not (len(rest) >= 4 and sum(rest) > 99)


@given(st.sets(st.integers(0, BITS - 1), min_size=2, max_size=60), st.integers(0, 40))
def test_the_budget_holds_and_what_is_found_fails(flips, budget):
    two = set(sorted(flips)[::3][:2])
    oracle = Oracle(lambda p: two <= set(p.flips.tolist()))
    found = minimise(pattern_of(flips), oracle, budget=budget)
    assert len(oracle.asked) <= budget
    assert oracle.condition(found)


def test_one_culprit_costs_about_a_bisection():
    oracle = Oracle(lambda p: 777 in p.flips)
    assert minimise(pattern_of({*range(0, 1024, 2), 777}), oracle, budget=64) == pattern_of([777])
    assert len(oracle.asked) < 30


def test_the_same_search_is_made_each_time():
    asked = []
    for _ in range(2):
        oracle = Oracle(lambda p: len(p.flips) > 5)
        minimise(pattern_of(range(0, 300, 3), keep=150, append=b"abc"), oracle, budget=100)
        asked.append(oracle.asked)
    assert asked[0] == asked[1]


def test_a_cut_and_appended_bytes_go_where_flips_suffice():
    found = minimise(pattern_of([3, 5], keep=9, append=b"abc"), lambda p: 5 in p.flips, budget=100)
    assert found == pattern_of([5])


def test_flips_go_where_a_cut_suffices_and_the_cut_is_shortened():
    found = minimise(
        pattern_of([3, 5], keep=9, append=b"abcd"), lambda p: p.keep is not None and p.keep < 120, budget=100
    )
    assert not len(found.flips)
    assert not found.append
    assert found.keep == 119


def test_appended_bytes_are_shortened_where_they_matter():
    found = minimise(pattern_of([3], append=b"abcdefgh"), lambda p: len(p.append) >= 2, budget=100)
    assert found == pattern_of([], append=bytes(2))


def test_appended_bytes_stay_where_zeros_would_not_do():
    found = minimise(pattern_of([3], append=b"abcdefgh"), lambda p: p.append[:3] == b"abc", budget=100)
    assert found == pattern_of([], append=b"abc")


def test_a_failure_that_does_not_come_back_keeps_its_pattern():
    pattern = pattern_of([3, 5, 9], keep=9)
    assert minimise(pattern, lambda p: False, budget=100) == pattern
    assert minimise(pattern, lambda p: True, budget=0) == pattern


LAYOUT = Layout(
    (
        Region("magic", 0, 16, header=True),
        Region("SOF0", 160, 200, header=True),
        Region("SOF0 height", 168, 184, header=True),
        Region("scan", 200, 1592),
    ),
    BITS,
)


def test_flips_are_named_by_their_innermost_region():
    lines = describe(pattern_of([171, 14, 15, 16, 198, 199, 200, 1599]), LAYOUT)
    assert lines == [
        "bits 14-15: magic",
        "bit 16: in no named region",
        "bit 171: SOF0 height",
        "bits 198-199: SOF0",
        "bit 200: scan",
        "bit 1599: in no named region",
    ]


def test_cut_and_appended_bytes_are_described():
    assert describe(pattern_of([], keep=30, append=bytes(range(10))), LAYOUT) == [
        "cut after 30 of 200 bytes: scan",
        "10 bytes appended: 00 01 02 03 04 05 06 07…",
    ]
    assert describe(pattern_of([], keep=200), LAYOUT) == []


def test_a_long_description_ends_in_a_count():
    assert describe(pattern_of([0, 1, *range(300, 700, 2)]), LAYOUT, most=3) == [
        "bits 0-1: magic",
        "bit 300: scan",
        "bit 302: scan",
        "and 198 more flips",
    ]


def test_a_layout_of_another_stream_is_refused():
    with pytest.raises(ValueError, match="layout is of 8 bits, the pattern of 1600"):
        describe(pattern_of([3]), Layout((), 8))
