"""What is left of an experiment: each trial once, in groups that never change, in any number of shares."""

from dataclasses import replace

import pytest

from robustkit.experiments import tasks
from robustkit.experiments.identity import Experiment, Resolved
from robustkit.experiments.pictures import Picture
from robustkit.experiments.plan import Entry, Plan
from robustkit.experiments.scheduler import Scheduler
from robustkit.experiments.tasks import Chunk, Report

IMAGES = ("a", "b", "c")


def experiment(**more):
    entries = (Entry("one", "jpeg"), Entry("two", "png"))
    plan = Plan(entries, channels=("bsc(ber=0.1)", "bsc(ber=0.2)"), **{"trials": 25, **more})
    pictures = tuple(Picture(name, name, 8, 8, "", 8) for name in IMAGES)
    return Experiment(plan, pictures, tuple(Resolved(entry, "", entry.codec, "d") for entry in entries), {})


def everything(plan):
    trials = {("bsc(ber=0.1)", n) for n in range(plan.trials)} | {("bsc(ber=0.2)", n) for n in range(plan.trials)}
    trials.add(("clean", -1))
    return {(label, image, channel, n) for label in ("one", "two") for image in IMAGES for channel, n in trials}


def drain(todo, places=1, value=lambda key: (30.0, "degraded")):
    chunks = []
    while (chunk := todo.next(places)) is not None:
        chunks.append(chunk)
        found = tuple((key, *value(key)) for key in chunk.keys)
        todo.finished(chunk, Report(len(found), 0.01 * chunk.decodes, {}, found, decoded=len(found)))
    return chunks


@pytest.mark.parametrize("places", [1, 7])
def test_each_trial_is_in_one_chunk(places):
    found = experiment()
    chunks = drain(Scheduler(found, found.plan, {}), places)
    keys = [key for chunk in chunks for key in chunk.keys]
    assert len(keys) == len(set(keys))
    assert set(keys) == everything(found.plan)
    assert all(len({group.entry for group in chunk.groups}) == 1 for chunk in chunks)
    assert [Chunk.from_json(chunk.to_json()) for chunk in chunks] == chunks


@pytest.mark.parametrize("shares", [2, 5, 400])
def test_shares_are_disjoint_and_together_all_of_it(shares):
    found, keys = experiment(), []
    for share in range(1, shares + 1):
        todo = Scheduler(found, found.plan, {}, shard=(share, shares))
        planned = todo.planned
        mine = [key for chunk in drain(todo) for key in chunk.keys]
        assert len(mine) == planned
        keys += mine
    assert len(keys) == len(set(keys))
    assert set(keys) == everything(found.plan)


def test_what_has_a_row_is_not_run_again_and_groups_stay_whole():
    found = experiment()
    done = {("one", "a", "bsc(ber=0.1)", n): (30.0, "degraded") for n in range(13)}
    todo = Scheduler(found, found.plan, done)
    chunks = drain(todo)
    keys = [key for chunk in chunks for key in chunk.keys]
    assert set(keys) == everything(found.plan) - set(done)
    assert len(keys) == len(set(keys)) == todo.planned - len(done)
    groups = {group for chunk in chunks for group in chunk.groups}
    # Trials 10 to 12 are decoded once more, with those that they share a batch with, and not written.
    assert tasks.Group("one", "a", "bsc(ber=0.1)", 10, 20) in groups
    assert tasks.Group("one", "a", "bsc(ber=0.1)", 0, 10) not in groups


def test_a_codec_may_have_fewer_trials_than_the_others():
    found = experiment()
    plan = replace(found.plan, entries=(Entry("one", "jpeg", trials=3), Entry("two", "png")))
    todo = Scheduler(replace(found, plan=plan), plan, {})
    keys = [key for chunk in drain(todo) for key in chunk.keys]
    assert len(keys) == todo.planned
    assert set(keys) == {key for key in everything(plan) if key[0] == "two" or key[3] < 3}


def test_streams_that_stayed_as_they_are_say_nothing_of_a_codecs_speed():
    found = experiment()
    todo = Scheduler(found, found.plan, {})
    first = todo.next(1)
    todo.finished(first, Report(len(first.keys), 0.01, {}, decoded=0))
    assert todo.seconds_left() is None
    second = todo.next(1)
    assert second.decodes <= 20
    todo.finished(second, Report(len(second.keys), 4.0, {}, decoded=2))
    third = todo.next(1)
    assert third.decodes <= 10
    # Nor do those that are refused at once.
    todo.finished(third, Report(len(third.keys), 0.001, {}, decoded=len(third.keys)))
    assert todo.next(1).decodes <= 20


def test_an_image_that_fails_takes_its_own_trials_along():
    found = experiment()
    todo = Scheduler(found, found.plan, {})
    first = todo.next(1)
    todo.finished(first, Report(failed={"a": "refused"}))
    keys = {key for chunk in drain(todo) for key in chunk.keys}
    assert {key[1] for key in keys if key[0] == "one"} == {"b", "c"}
    assert {key[1] for key in keys if key[0] == "two"} == set(IMAGES)


def test_a_codec_that_fails_leaves_the_others():
    found = experiment()
    todo = Scheduler(found, found.plan, {})
    todo.finished(todo.next(1), Report(error="it can't be loaded any more"))
    assert {key[0] for chunk in drain(todo) for key in chunk.keys} == {"two"}
    assert todo.codecs[0].given_up == "it can't be loaded any more"


def test_rounds_come_until_there_is_enough_and_no_more():
    found = experiment(trials=10, until="failures=6", max_trials=35)

    def value(key):
        # Of each ten trials one fails on the second channel, and none on the first.
        return (None, "refused") if key[2] == "bsc(ber=0.2)" and key[3] % 10 == 0 else (30.0, "degraded")

    todo = Scheduler(found, found.plan, {})
    keys = {key for chunk in drain(todo, value=value) for key in chunk.keys}
    per_point = {(key[0], key[2]): 0 for key in keys if key[3] >= 0}
    for key in keys:
        if key[3] >= 0:
            per_point[key[0], key[2]] += 1
    assert per_point == {
        **{(label, "bsc(ber=0.1)"): 35 * 3 for label in ("one", "two")},
        **{(label, "bsc(ber=0.2)"): 20 * 3 for label in ("one", "two")},
    }
    # The same from rows that are there, whatever of them is missing.
    done = {key: value(key) for key in sorted(keys)[::2]}
    again = {key for chunk in drain(Scheduler(found, found.plan, done), value=value) for key in chunk.keys}
    assert again | set(done) == keys
    assert not again & set(done)


def test_a_published_run_waits_for_all_streams():
    found = experiment()
    plan = Plan(found.plan.entries, channels=("published-bsc(ber=0.1)",), trials=10)
    todo = Scheduler(found, plan, {}, encoded={("one", "a"): True})
    first, second = todo.next(2), todo.next(2)
    assert [(c.groups[0].image, c.groups[0].channel) for c in (first, second)] == [("b", "encode"), ("c", "encode")]
    todo.finished(first, Report())
    # The other codec needs no waiting for this one.
    assert todo.next(2).entry == "two"
    todo.finished(second, Report())
    assert todo.next(2).entry == "one"
