"""Who is asked, how often, and whose word counts: with processes that say what they are told to."""

import numpy as np
import pytest

from robustkit import Outcome
from robustkit.isolation import Decoded
from robustkit.judging.opinion import (
    BATCH_TOLERANCE,
    BELIEVED,
    FAST,
    HERE,
    HISTORY,
    KEPT,
    SHARE,
    Asked,
    Group,
    LeftBehind,
    Opinions,
    difference,
    elsewhere,
    sampled,
)
from robustkit.judging.work import Cost, Work

SHAPE = (2, 2)
GREY, LIGHT = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 200, np.uint8)
CRASH = Decoded(None, Outcome.CRASHED, "died of SIGSEGV")
HANG = Decoded(None, Outcome.HUNG, "not done")
REFUSED = Decoded(None, Outcome.REFUSED, "no")


def image(pixels=GREY, **more):
    return Decoded(pixels.copy(), None, **more)


class Pool:
    """Answers by a function of the stream, and of what its process has decoded before."""

    def __init__(self, says=lambda stream, before: image(), *, batched=False, dies=()):
        self.says, self.batched, self.dies = says, batched, dies
        self.before, self.asked, self.fresh, self.pids = [], [], 0, (100,)
        self.replaced = {}

    def restart(self):
        self.before, self.fresh, self.pids = [], self.fresh + 1, (self.pids[0] + 1,)

    def decode(self, stream, *, shape=None):
        self.asked.append(stream)
        found = self.says(stream, tuple(self.before))
        self.before.append(stream)
        if found.outcome in self.dies:
            self.restart()
        return found

    def decode_groups(self, groups):
        return [[self.decode(stream, shape=shape) for stream in streams] for streams, shape in groups]


def asked(says, **more):
    pool, left = Pool(says, **more), []
    return Asked(pool, left), pool, left


# -- crashes, hangs and exhausted memory ------------------------------------------------------------------------


@pytest.mark.parametrize("found", [CRASH, HANG, Decoded(None, Outcome.EXHAUSTED, "too much")])
def test_what_kills_a_process_is_tried_again_alone(found):
    here, pool, left = asked(lambda stream, before: found if stream == b"bad" else image())
    assert here.decode(b"good", SHAPE).image is not None
    assert here.decode(b"bad", SHAPE) is found
    assert (pool.asked, pool.fresh, left) == ([b"good", b"bad", b"bad"], 1, [])


@pytest.mark.parametrize("found", [REFUSED, Decoded(None, Outcome.RAISED, "x"), Decoded(None, Outcome.MISSHAPEN, "x")])
def test_what_ends_by_itself_is_believed_at_once(found):
    here, pool, _ = asked(lambda stream, before: found)
    assert here.decode(b"bad", SHAPE) is found
    assert (pool.asked, pool.fresh) == ([b"bad"], 0)


def test_a_process_that_died_is_fresh_already():
    here, pool, _ = asked(lambda stream, before: CRASH, dies=(Outcome.CRASHED,))
    here.decode(b"bad", SHAPE)
    assert (pool.asked, pool.fresh) == ([b"bad"] * 2, 2)


def test_a_kind_that_came_again_twice_is_believed():
    here, pool, _ = asked(lambda stream, before: CRASH)
    for number in range(BELIEVED + 2):
        assert here.decode(bytes([number]), SHAPE) is CRASH
    assert len(pool.asked) == 2 * BELIEVED + 2


def test_a_kind_that_did_not_come_again_once_is_tried_each_time():
    here, pool, left = asked(
        lambda stream, before: image() if stream == b"\0" and not before else CRASH, dies=(Outcome.CRASHED,)
    )
    pool.before.append(b"other")
    assert here.decode(b"\0", SHAPE).image is not None
    assert len(left) == 1
    for number in range(1, BELIEVED + 3):
        here.decode(bytes([number]), SHAPE)
    assert pool.asked.count(bytes([BELIEVED + 2])) == 2


def test_a_crash_of_another_streams_making_is_left_behind_with_the_streams_before_it():
    here, pool, left = asked(lambda stream, before: CRASH if b"spoils" in before else image())
    here.decode(b"spoils", SHAPE)
    assert here.decode(b"innocent", SHAPE).image is not None
    (found,) = left
    assert found.said == "crashed: died of SIGSEGV; decoded in a fresh process: an image"
    assert (found.outcome, found.stream, found.before) == (Outcome.CRASHED, b"innocent", (b"spoils",))
    assert found.again
    assert found.proved
    # Alone; then after the one before it, in a fresh process; and that is fresh again.
    assert pool.asked == [b"spoils", b"innocent", b"innocent", b"spoils", b"innocent"]
    assert (pool.before, pool.fresh) == ([], 3)
    # What is long is not printed.
    assert "spoils" not in repr(found)
    assert "innocent" not in repr(found)


def test_what_a_dead_process_had_decoded_is_in_no_later_history():
    here, _, left = asked(
        lambda stream, before: CRASH if stream == b"dies" or b"spoils" in before else image(), dies=(Outcome.CRASHED,)
    )
    for stream in (b"old", b"dies", b"spoils", b"innocent"):
        here.decode(stream, SHAPE)
    assert [found.before for found in left] == [(b"spoils",)]


def test_what_came_once_did_not_come_again():
    seen = []

    def once(stream, before):
        seen.append(stream)
        return HANG if seen == [b"a", b"b"] else image()

    here, _, left = asked(once)
    here.decode(b"a", SHAPE)
    here.decode(b"b", SHAPE)
    (found,) = left
    assert (found.again, found.proved) == (False, False)


def test_without_a_history_nothing_can_come_again():
    told = iter([CRASH, REFUSED])
    here, pool, left = asked(lambda stream, before: next(told))
    assert here.decode(b"a", SHAPE) is REFUSED
    assert (pool.asked, left[0].again, left[0].before) == ([b"a", b"a"], False, ())
    assert left[0].said.endswith("in a fresh process: refused")


def test_no_more_than_a_few_are_looked_into():
    here, _, left = asked(lambda stream, before: CRASH if before else image())
    for number in range(KEPT + 2):
        here.decode(bytes([number]), SHAPE)
        here.decode(bytes([number, number]), SHAPE)
    assert [found.again for found in left].count(True) == KEPT
    assert len(left) > KEPT


def test_the_last_streams_before_are_known():
    here, _, left = asked(lambda stream, before: CRASH if stream == b"bad" and before else image())
    for number in range(HISTORY + 3):
        here.decode(bytes([number]), SHAPE)
    here.decode(b"bad", SHAPE)
    assert left[0].before == tuple(bytes([number]) for number in range(3, HISTORY + 3))
    here.held(b"large", 7 * 2**20)
    assert left[1].said == "held 7 MiB more than once it had loaded its codec; a fresh process does not"
    assert (left[1].outcome, left[1].proved, left[1].again, left[1].stream) == (None, True, False, b"large")


def test_each_stream_of_a_batch_has_its_own_streams_before_it():
    here, _, left = asked(lambda stream, before: CRASH if stream in (b"x", b"y") and before else image())
    here.decode(b"0", SHAPE)
    results = here.decode_many([b"1", b"x", b"2", b"y"], SHAPE)
    assert all(found.image is not None for found in results)
    assert [found.before for found in left] == [(b"0", b"1"), (b"0", b"1", b"x", b"2")]
    assert [found.stream for found in left] == [b"x", b"y"]


def test_streams_of_a_batch_come_before_what_follows_and_a_fresh_process_has_none():
    here, _, left = asked(lambda stream, before: CRASH if stream == b"bad" and before else image())
    here.decode_many([b"0", b"1"], SHAPE)
    here.decode(b"bad", SHAPE)
    here.fresh()
    here.decode(b"2", SHAPE)
    here.decode(b"bad", SHAPE)
    assert [found.before for found in left] == [(b"0", b"1"), (b"2",)]


def test_a_long_batch_has_the_last_streams_before_each():
    here, _, left = asked(lambda stream, before: CRASH if stream == b"bad" and before else image())
    for number in range(3):
        here.decode(bytes([number]), SHAPE)
    here.decode_many([bytes([100 + number]) for number in range(10)] + [b"bad"], SHAPE)
    assert left[0].before == tuple(bytes([100 + number]) for number in range(10 - HISTORY, 10))


def test_how_much_is_looked_into():
    assert (HISTORY, BELIEVED, KEPT, FAST, SHARE, BATCH_TOLERANCE) == (8, 2, 5, 0.02, 4, (2, 0.02))


@pytest.mark.parametrize(
    ("here", "locale"),
    [
        ({}, "C.UTF-8"),
        ({"LC_ALL": "POSIX"}, "C.UTF-8"),
        ({"LC_CTYPE": "C", "LANG": "de_DE.UTF-8"}, "C.UTF-8"),
        ({"LC_ALL": "", "LANG": "de_DE.UTF-8"}, "C"),
    ],
)
def test_the_locale_elsewhere_is_another(here, locale):
    assert elsewhere(here)["LC_ALL"] == locale


def test_the_hash_seed_and_the_memory_elsewhere_are_others():
    assert [elsewhere({"PYTHONHASHSEED": seed})["PYTHONHASHSEED"] for seed in ("0", "1", "random")] == ["1", "2", "1"]
    found = elsewhere({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})
    assert found["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0"
    assert elsewhere({})["GLIBC_TUNABLES"] == "glibc.malloc.tcache_count=0"
    assert (found["MALLOC_PERTURB_"], found["TZ"], dict(HERE)) == ("165", "RBK-11:30", {"MALLOC_PERTURB_": "0"})


def test_what_another_process_says_otherwise_is_told_in_a_line():
    other = GREY.copy()
    other[0, 0, 1], other[1, 1, 0] = 90, 255
    assert difference(image(), image()) is None
    assert difference(image(), image(other)) == "2 of 4 pixels differ, by up to 155"
    assert difference(image(), image(GREY[:1])) == "an image of 1 x 2 instead"
    assert difference(image(), Decoded(None, Outcome.REFUSED, " no\nmore ")) == "refused instead: no"
    assert difference(image(), Decoded(None, Outcome.HUNG)) == "hung instead"
    assert difference(REFUSED, image()) == "an image instead"
    assert difference(REFUSED, Decoded(None, Outcome.REFUSED, "other words")) is None


@pytest.mark.parametrize(
    ("outcome", "again", "harmless", "proved"),
    [
        (Outcome.CRASHED, False, False, True),
        (Outcome.HUNG, False, False, False),
        (Outcome.HUNG, True, False, True),
        (None, False, False, True),
        (None, False, True, False),
        (Outcome.CRASHED, True, True, False),
    ],
)
def test_what_is_proved(outcome, again, harmless, proved):
    assert not LeftBehind("x", outcome, None, ()).again
    assert LeftBehind("x", outcome, None, (), again, harmless).proved is proved


# -- second opinions ----------------------------------------------------------------------------------------------


def opinions(first, second, *, effort=0.0, limit=30.0, whole=b"0123456789"):
    work = Work(None)
    work._clean[SHAPE] = Cost(effort, 0.0, effort)
    work._streams[SHAPE] = whole
    made = []

    def make():
        made.append(second)
        return second

    found = Opinions(first, make, work, limit)
    return found, made


def test_two_processes_that_agree_are_believed():
    first, second = Pool(), Pool()
    found, made = opinions(first, second)
    assert made == []
    for stream in (b"a" * 10, b"b" * 10):
        assert found.decode(stream, shape=SHAPE).outcome is None
    assert (found.images, found.asked, len(made), second.asked) == (2, 2, 1, [b"a" * 10, b"b" * 10])
    assert found.work.decodes == 2


def test_two_that_do_not_are_unstable():
    said = "decoded again in another process: 4 of 4 pixels differ, by up to 100"
    first = Pool(lambda stream, before: image(seconds=2.0, memory=7, warnings=("w",)))
    found, _ = opinions(first, Pool(lambda stream, before: image(LIGHT)))
    decoded = found.decode(b"a" * 10, shape=SHAPE)
    assert (decoded.outcome, decoded.message, decoded.image) == (Outcome.UNSTABLE, said, None)
    assert (decoded.seconds, decoded.memory, decoded.warnings) == (2.0, 7, ("w",))


def test_what_gives_no_image_is_asked_of_one_process():
    first, second = Pool(lambda stream, before: REFUSED), Pool()
    found, made = opinions(first, second)
    assert found.decode(b"a", shape=SHAPE) is REFUSED
    assert (found.images, found.asked, made) == (0, 0, [])


@pytest.mark.parametrize(("seconds", "unstable"), [(2.0, True), (7.5, True), (7.6, False)])
def test_a_hang_elsewhere_counts_where_the_first_was_far_from_its_limit(seconds, unstable):
    found, _ = opinions(
        Pool(lambda stream, before: image(seconds=seconds)), Pool(lambda stream, before: HANG), limit=30.0
    )
    assert (found.decode(b"a", shape=SHAPE).outcome is Outcome.UNSTABLE) is unstable


def test_exhausted_memory_elsewhere_does_not_count():
    full = Decoded(None, Outcome.EXHAUSTED, "full")
    found, _ = opinions(Pool(), Pool(lambda stream, before: full))
    assert found.decode(b"a", shape=SHAPE).outcome is None
    assert found.asked == 1


def test_a_slow_decoder_is_asked_again_of_what_was_cut_and_of_a_quarter():
    first, second = Pool(), Pool()
    found, _ = opinions(first, second, effort=0.02)
    streams = [number.to_bytes(10, "big") for number in range(200)]
    for stream in streams:
        found.decode(stream, shape=SHAPE)
    assert 30 <= found.asked <= 70
    asked_before = found.asked
    found.decode(b"cut", shape=SHAPE)
    assert found.asked == asked_before + 1
    found.decode(streams[0], shape=SHAPE, certain=True)
    assert found.asked == asked_before + 2


def test_after_one_that_is_unstable_every_image_is_asked_for_again():
    second = Pool(lambda stream, before: image(LIGHT if stream == b"cut" else GREY))
    found, _ = opinions(Pool(), second, effort=0.02)
    assert found.decode(b"cut", shape=SHAPE).outcome is Outcome.UNSTABLE
    for number in range(20):
        found.decode(number.to_bytes(10, "big"), shape=SHAPE)
    assert found.asked == 21


def test_now_and_then_the_second_process_decodes_what_was_refused():
    first, second = Pool(lambda stream, before: REFUSED if stream == b"no" else image()), Pool()
    found, _ = opinions(first, second)
    found.decode(b"no", shape=SHAPE)
    for number in range(8):
        found.decode(bytes([number]), shape=SHAPE)
    assert second.asked.count(b"no") == 2
    assert second.asked[:2] == [b"no", b"\0"]


def test_what_was_refused_among_trials_is_decoded_by_the_second_process_too():
    first, second = Pool(lambda stream, before: REFUSED if stream == b"no" else image()), Pool()
    found, _ = opinions(first, second)
    found.decode_many([b"no", b"yes"], shape=SHAPE, sample=[False, False], known=[GREY, GREY])
    found.decode_many([], shape=SHAPE, sample=[])
    second.asked.clear()
    found.asked = 0
    found.decode(b"then", shape=SHAPE)
    assert second.asked == [b"no", b"then"]


def test_trials_are_asked_again_in_another_order_but_not_what_came_intact():
    first = Pool(lambda stream, before: REFUSED if stream == b"r" * 10 else image(LIGHT if stream[0] < 5 else GREY))
    second = Pool(first.says)
    found, _ = opinions(first, second, effort=0.02)
    streams = [bytes([number]) * 10 for number in range(8)] + [b"r" * 10]
    sample = [True, False, True, False, False, True, False, False, True]
    results = found.decode_many(streams, shape=SHAPE, sample=sample, known=[GREY] * 9)
    assert [r.outcome for r in results] == [None] * 8 + [Outcome.REFUSED]
    # Streams 5 to 7 give their own picture, which tells little; the last one gave none.
    assert second.asked == [streams[2], streams[0]]
    assert (found.images, found.asked, found.work.decodes) == (8, 2, 9)


@pytest.mark.parametrize(
    ("away", "alone", "unstable"),
    [(2, 2, False), (3, 0, False), (3, 3, True)],
    ids=["close", "a batch adds up in another order", "other pixels alone too"],
)
def test_a_batch_may_differ_by_little_and_what_differs_by_more_is_asked_alone(away, alone, unstable):
    wide = np.full((20, 40, 3), 100, np.uint8)
    there = wide.copy()

    def first(stream, before):
        return image(wide)

    def second(stream, before):
        there[0, 0] = 100 + (alone if before else away)
        return image(there)

    found, _ = opinions(Pool(first, batched=True), Pool(second))
    (result,) = found.decode_many([b"a"], shape=(20, 40), sample=[True])
    assert (result.outcome is Outcome.UNSTABLE) is unstable


def test_a_single_decode_is_held_to_the_pixel_though_the_codec_has_batches():
    here = np.full((20, 40, 3), 100, np.uint8)
    there = here.copy()
    there[0, 0] += 1
    found, _ = opinions(Pool(lambda stream, before: image(here), batched=True), Pool(lambda s, b: image(there)))
    assert found.decode(b"a", shape=(20, 40)).outcome is Outcome.UNSTABLE


def test_groups_without_an_image_keep_nobody_from_asking_about_the_others():
    first = Pool(lambda stream, before: REFUSED if stream == b"no" else image())
    found, _ = opinions(first, Pool(lambda stream, before: image(LIGHT)))
    groups = [Group([b"no"], SHAPE, [True]), Group([b"yes"], SHAPE, [True])]
    assert [d.outcome for group in found.decode_groups(groups) for d in group] == [Outcome.REFUSED, Outcome.UNSTABLE]


@pytest.mark.parametrize(("pixels", "unstable"), [(2, False), (3, True)])
def test_a_batch_may_differ_by_a_fiftieth_of_a_level_on_average(pixels, unstable):
    here = np.full((10, 10, 3), 100, np.uint8)
    there = here.copy()
    there[0, :pixels] += 1
    found, _ = opinions(Pool(lambda stream, before: image(here), batched=True), Pool(lambda s, b: image(there)))
    (result,) = found.decode_many([b"a"], shape=(10, 10), sample=[True])
    assert (result.outcome is Outcome.UNSTABLE) is unstable


def test_without_batches_any_difference_counts():
    here = np.full((20, 40, 3), 100, np.uint8)
    there = here.copy()
    there[0, 0] += 1
    found, _ = opinions(Pool(lambda stream, before: image(here)), Pool(lambda stream, before: image(there)))
    (result,) = found.decode_many([b"a"], shape=(20, 40), sample=[True])
    assert result.outcome is Outcome.UNSTABLE


def test_a_decode_beyond_its_limit_is_repeated_in_fresh_processes_after_a_clean_one():
    first = Pool(lambda stream, before: image(seconds=0.5 if stream == b"0123456789" else 9.0))
    found, _ = opinions(first, Pool(), effort=0.02)
    found.decode(b"slow" * 3, shape=SHAPE)
    assert found.work.slowest.beyond
    assert first.asked == [b"slow" * 3] + [b"0123456789", b"slow" * 3] * 3
    assert first.fresh == 3


def test_what_a_fresh_process_does_not_hold_is_left_behind():
    first = Pool(
        lambda stream, before: image(memory=0 if stream == b"0123456789" or b"0123456789" in before else 2**30)
    )
    found, _ = opinions(first, Pool(), effort=0.02)
    found.decode(b"large" * 2, shape=SHAPE)
    assert not found.work.largest.beyond
    assert [left.stream for left in found.left] == [b"large" * 2]
    assert "held 1024 MiB" in found.left[0].said


def test_why_processes_were_replaced_is_counted_over_both_pools():
    first, second = Pool(), Pool()
    found, _ = opinions(first, second)
    first.replaced, second.replaced = {"a": 1}, {"a": 2, "b": 1}
    assert found.replaced() == {"a": 1}
    found.decode(b"x", shape=SHAPE)
    assert found.replaced() == {"a": 3, "b": 1}


def test_the_sample():
    assert [sampled(n, 8) for n in range(3)] == [True, True, True]
    assert [n for n in range(33) if sampled(n, 60)] == [0, 7, 14, 21, 28]
    assert [n for n in range(33) if sampled(n, 600)] == [0, 8, 16, 24, 32]
