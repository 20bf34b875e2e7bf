"""The codec under test: which trials are run, how often, and how outcomes and losses are judged."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import subject_codecs
from subject_codecs import (
    PROFILE,
    Brittle,
    Confused,
    Exact,
    Lax,
    LongLayout,
    Mending,
    OldFashioned,
    Store,
    Together,
    Wide,
)

from robustkit import ErrorPattern, Outcome, Profile, Promise, quality
from robustkit.channels import BSC, Burst
from robustkit.isolation import Decoded, Limits
from robustkit.judging.assess import Rule
from robustkit.judging.effort import EFFORTS, FIRST
from robustkit.judging.finding import ClaimError, Verdict
from robustkit.judging.golden_files import distance
from robustkit.judging.opinion import elsewhere
from robustkit.judging.subject import CleanRoundTripFailed, Job, Subject
from robustkit.judging.trial import Trial
from robustkit.registry import CodecSpec, Target

IMAGES = {name: np.full((4, 8, 3), level, dtype=np.uint8) for name, level in (("dark", 10), ("light", 100))}

#: Spelt twice: one channel.
NOISE, SAME = BSC(0.01), BSC(1e-2)


@pytest.fixture
def under_test(tmp_path):
    made = []

    def make(codec=Store, **more):
        more.setdefault("trials", 5)
        spec = CodecSpec(codec.name, Target(codec.__module__, codec.__qualname__, subject_codecs.__file__))
        made.append(Subject(spec, images=more.pop("images", IMAGES), directory=tmp_path, **more))
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
    # A missed rate or quality breaks a promise, and leaves all else to be said.
    for profile in (None, Profile(bpp=25.0, quality=99.0), Profile(bpp=20.0, quality=101.0)):
        assert under_test(profile=profile).unsound is None
    small = under_test(images={"strip": np.zeros((2, 8, 3), np.uint8)})
    assert small.unsound == "strip: the codec refuses the image: too small"
    assert "layout speaks of 784 bits, the stream has 776" in under_test(LongLayout).unsound
    wide = under_test(images={"wide": np.zeros((4, 9, 3), np.uint8)})
    assert "misshapen" in wide.unsound
    with pytest.raises(CleanRoundTripFailed) as failed:
        _ = wide.clean
    assert failed.value.clean.image == "wide"


def test_trials_stop_where_they_decide_and_are_the_same_with_any_effort(under_test):
    promise = Promise(NOISE, mean_drop=79.0, p5_drop=80.0, corrupted=0.9)
    loose = Profile(24.1, 99.0, 0.9, (promise,))
    quick, nightly = (
        under_test(profile=loose, trials=None, effort=EFFORTS[effort]).promised_trials[NOISE]
        for effort in ("quick", "nightly")
    )
    assert Counter(t.number for t in quick) == dict.fromkeys(range(FIRST // 2), 2)
    assert [replace(t, seconds=0.0) for t in quick] == [replace(t, seconds=0.0) for t in nightly]
    # A share refused that lies near its limit takes more of them.
    near = under_test(profile=replace(loose, refused=0.09), trials=None)
    assert len(near.trials(NOISE)) == FIRST
    assert len(near.promised_trials[NOISE]) == EFFORTS["quick"].trials
    assert {a.quantity: a.verdict for a in near.assessments}["refused"] is Verdict.UNPROVED


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("robustkit.judging.processes.own_cores", lambda: 2)
    monkeypatch.setattr("robustkit.judging.subject.CROWDED", -1.0)


@pytest.mark.usefixtures("two_cores")
def test_where_decoding_is_slow_several_processes_share_it_with_the_same_results(under_test, monkeypatch):
    subject = under_test(Together, spread=True)
    alone = under_test(Store)
    found = [[replace(t, seconds=0.0, memory=0) for t in s.trials(NOISE)] for s in (subject, alone)]
    assert [len(s.workers.pids) for s in (subject, alone)] == [2, 1]
    assert found[0] == found[1]
    assert list(subject.clean) == list(alone.clean)
    # With other images it stays so.
    pids = subject.workers.pids
    subject.take(IMAGES)
    assert subject.clean_quality == 100.0
    assert subject.workers.pids == pids


@pytest.mark.usefixtures("two_cores")
def test_as_many_give_second_opinions_and_they_differ_as_one_does(under_test):
    subject, alone = under_test(Together, spread=True), under_test(Store)
    assert subject.clean
    assert len(subject.elsewhere.pids) == 2
    found = [[replace(t, seconds=0.0, memory=0) for t in s.trials(NOISE)] for s in (subject, alone)]
    assert found[0] == found[1]
    assert subject.opinions.asked == alone.opinions.asked > 0
    assert [len(s.elsewhere.pids) for s in (subject, alone)] == [2, 1]
    variables, folders = [], set()
    for pid in (*subject.workers.pids, *subject.elsewhere.pids, *alone.elsewhere.pids):
        pairs = (entry.partition("=") for entry in Path(f"/proc/{pid}/environ").read_text().split("\0"))
        variables.append({name: value for name, _, value in pairs})
        folders.add(os.readlink(f"/proc/{pid}/cwd"))
    assert [v["MALLOC_PERTURB_"] for v in variables] == ["0", "0", "165", "165", "165"]
    # The one that is alone has what the machine has, or its share under pytest-xdist.
    assert [v.get("OMP_NUM_THREADS") for v in variables[:4]] == ["1"] * 4
    for name, value in elsewhere().items():
        assert {v[name] for v in variables[2:]} == {value}
        assert value not in {v.get(name) for v in variables[:2]}
    # Here, and a folder of each of the two.
    assert len(folders) == 3


@pytest.mark.usefixtures("two_cores")
def test_one_gives_second_opinions_where_there_is_no_room_for_more(under_test, monkeypatch):
    subject = under_test(Together, spread=True)
    assert subject.clean
    monkeypatch.setattr("robustkit.judging.processes.available", lambda: 1)
    assert subject.trials(NOISE)
    assert subject.opinions.asked
    assert [len(pool.pids) for pool in (subject.workers, subject.elsewhere)] == [2, 1]


@pytest.mark.usefixtures("two_cores")
def test_one_process_goes_on_where_others_know_it_already(under_test):
    subject = under_test(Together, spread=True)
    assert subject.opinions
    pids = subject.workers.pids
    assert subject.clean_quality == 100.0
    assert subject.workers.pids == pids


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(("variable", "cores", "room"), [("1", 2, 0), (None, 1, 0), (None, 2, 1)])
def test_one_process_goes_on_where_threads_are_chosen_or_there_is_no_room(
    under_test, monkeypatch, variable, cores, room
):
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr("robustkit.judging.processes.own_cores", lambda: cores)
    monkeypatch.setattr("robustkit.judging.processes.available", lambda: room)
    subject = under_test(Together, spread=True)
    assert subject.clean_quality == 100.0
    assert len(subject.workers.pids) == 1


@pytest.mark.usefixtures("two_cores")
def test_one_process_goes_on_where_decoding_is_fast(under_test, monkeypatch):
    monkeypatch.setattr("robustkit.judging.subject.CROWDED", 60.0)
    subject = under_test(Together, spread=True)
    assert subject.clean_quality == 100.0
    assert len(subject.workers.pids) == 1


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(("codec", "spread"), [(Together, False), (Store, True)])
def test_one_process_goes_on_where_nobody_asked_for_more_or_nothing_is_batched(under_test, codec, spread):
    subject = under_test(codec, spread=spread)
    assert subject.clean_quality == 100.0
    assert len(subject.workers.pids) == 1


def test_a_run_shares_its_error_among_all_that_is_promised(under_test):
    subject = under_test()
    # Five trials of each of two images are fewer than the effort has.
    assert subject.rule == Rule.of(PROFILE, EFFORTS["quick"].trials)
    assert subject.rule.findings > len(PROFILE.promises)


def test_trials_are_seeded_and_run_once(under_test):
    first, second = under_test(trials=3), under_test(trials=5)
    trials = first.trials(NOISE)
    assert first.trials(NOISE) is trials
    assert Counter(t.image for t in trials) == {"dark": 3, "light": 3}
    more = {(t.image, t.number): t for t in second.trials(SAME)}
    for trial in trials:
        same = more[trial.image, trial.number]
        assert replace(same, seconds=trial.seconds) == trial
    assert under_test(trials=3, seed=1).trials(NOISE)[0].pattern != trials[0].pattern


def test_trials_are_judged(under_test):
    trials = under_test(trials=40).trials(NOISE)
    assert {t.outcome for t in trials} == {Outcome.DEGRADED, Outcome.REFUSED, Outcome.INTACT} - (
        set() if any(t.pattern.harmless for t in trials) else {Outcome.INTACT}
    )
    for trial in trials:
        if trial.outcome is Outcome.REFUSED:
            assert (trial.metrics, trial.drops, trial.drop("psnr")) == ({}, {}, None)
            assert trial.message == "the first byte is not zero"
            assert trial.pattern.flips[0] < 8
        elif trial.outcome is Outcome.DEGRADED:
            assert trial.drop("psnr") == pytest.approx(100 - trial.metrics["psnr"])
            assert trial.drop("psnr") > 0
        else:
            assert (trial.metrics, trial.drops) == ({"psnr": 100.0}, {"psnr": 0.0})


@pytest.fixture
def toy_metric(monkeypatch):
    """A metric of which less is better: the mean difference."""
    toy = replace(quality.METRICS["psnr"], name="toy", higher_is_better=False)
    monkeypatch.setattr(quality, "METRICS", {"psnr": quality.METRICS["psnr"], "toy": toy})
    monkeypatch.setattr(quality, "measure", lambda name, one, two: float(np.abs(one.astype(float) - two).mean()))
    return "toy"


@pytest.mark.parametrize(("clean", "damaged"), [(30.0, 25.0), (25.0, 30.0), (30.0, 30.0), (0.0, -1.0)])
def test_a_drop_is_positive_where_it_got_worse_and_negative_where_better(toy_metric, under_test, clean, damaged):
    assert under_test(metric="psnr").drop(clean, damaged) == clean - damaged
    assert under_test(metric=toy_metric).drop(clean, damaged) == damaged - clean


def better_than_clean(subject):
    """The trial of :class:`Mending` that gives back the original."""
    clean = subject.clean["light"]
    pattern = ErrorPattern(clean.bits, np.array([15]))
    trial = Trial("mending", "light", NOISE, 0, 0, pattern, Outcome.DEGRADED, clean.bpp, 0.0, {}, {})
    return subject.smallest(trial, lambda t: True)


def test_a_picture_that_damage_makes_better_has_a_negative_drop(under_test):
    found = better_than_clean(under_test(Mending))
    assert found.metrics == {"psnr": 100.0}
    assert found.drop("psnr") == pytest.approx(20 * np.log10(255 / 50) - 100)


def test_so_it_has_where_less_is_better(toy_metric, under_test):
    found = better_than_clean(under_test(Mending, metric=toy_metric))
    assert (found.metrics, found.drops) == ({"toy": 0.0}, {"toy": -50.0})


def test_no_trial_is_drawn_twice(under_test):
    """Each has a number of its own, and each number damage of its own."""
    subject = under_test(trials=300)
    jobs = subject.jobs(NOISE)
    assert [(job.image, job.number) for job in jobs] == [(name, n) for name in IMAGES for n in range(300)]
    assert {job.channel for job in jobs} == {NOISE}
    patterns = {tuple(subject.pattern(job).flips) for job in jobs if not subject.pattern(job).harmless}
    assert len(patterns) == sum(not subject.pattern(job).harmless for job in jobs) > 590
    assert [t.number for t in under_test(trials=3).trials(NOISE)] == [0, 1, 2, 0, 1, 2]


def test_images_of_different_shapes_keep_their_results(under_test):
    images = {"tall": np.full((9, 8, 3), 3, np.uint8), **IMAGES, "tall too": np.full((9, 8, 3), 60, np.uint8)}
    subject = under_test(images=images, trials=4)
    for trial in subject.trials(Burst(8, region="payload")):
        assert trial.outcome is Outcome.DEGRADED
        # A burst of 8 bits reaches two samples at most.
        assert trial.metrics["psnr"] > 20


def test_small_crops_serve_the_searches_where_the_codec_takes_them(under_test):
    wide = under_test(Wide, images={"large": np.zeros((90, 150, 3), np.uint8)})
    assert list(wide.crops) == ["large 64x64", "large 43x61", "large 130x7", "large 64x1", "large 1x64"]
    assert {label: c.shape for label, c in wide.small.items()} == {
        "large 64x64": (64, 64),
        "large 43x61": (61, 43),
        "large 130x7": (7, 130),
    }
    assert wide.crops["large 64x1"].refused
    assert not wide.crops["large 1x64"].refused
    narrow = under_test(images={"narrow": np.zeros((90, 8, 3), np.uint8)})
    assert [c.shape for c in narrow.small.values()] == [(64, 8), (61, 8), (7, 8)]
    none = under_test(images={"low": np.zeros((5, 9, 3), np.uint8)}, profile=Profile(bpp=99.0, quality=1.0))
    with pytest.raises(CleanRoundTripFailed):
        _ = none.small


def test_a_trial_is_reduced_to_its_cause(under_test):
    subject = under_test(Brittle, trials=1)
    clean = subject.clean["dark"]
    pattern = ErrorPattern(clean.bits, np.array([24, 41, 300, 301, 500]))
    failing = Trial("brittle", "dark", NOISE, 0, 0, pattern, Outcome.RAISED, clean.bpp, 0.0, {}, {})
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


def test_any_list_of_jobs_gives_the_trials_that_a_whole_run_has(under_test):
    subject = under_test(trials=30)
    whole = {(t.image, t.number): t for t in subject.trials(NOISE)}
    jobs = [Job("light", SAME, 29), Job("dark", NOISE, 3), Job("light", NOISE, 0), Job("dark", NOISE, 29)]
    found = list(under_test(workers=2).run(iter(jobs)))
    assert [(t.image, t.number) for t in found] == [(job.image, job.number) for job in jobs]
    for trial in found:
        assert replace(trial, seconds=0.0) == replace(whole[trial.image, trial.number], seconds=0.0)


def test_images_are_kept_only_where_somebody_asks(under_test):
    subject, kept = under_test(), []
    trials = list(subject.run(subject.jobs(NOISE), keep=lambda trial, image: kept.append((trial, image))))
    assert [t for t, _ in kept] == [t for t in trials if t.outcome.has_image]
    assert all(image.shape == (4, 8, 3) for _, image in kept)
    assert not any(isinstance(value, np.ndarray) for trial in trials for value in vars(trial).values())


@pytest.mark.parametrize(("codec", "usual", "most"), [(Store, True, (2, 0.05)), (Exact, True, (1, 0.02)),
                                                      (Lax, False, (2, 0.05))])  # fmt: skip
def test_pixels_within_the_codecs_tolerance_may_be_rounding(under_test, codec, usual, most):
    """No codec makes all its pictures right by saying so."""
    subject, pictures = under_test(codec, trials=60), {}
    assert subject.rounds_as_usual is usual
    jobs = subject.jobs(BSC(0.001))
    trials = list(subject.run(jobs, keep=lambda trial, image: pictures.setdefault((trial.image, trial.number), image)))
    degraded = [trial for trial in trials if trial.outcome is Outcome.DEGRADED]
    for trial in degraded:
        maximum, mean = distance(subject.clean[trial.image].decoded.image, pictures[trial.image, trial.number])
        assert trial.tolerated is (maximum <= most[0] and mean <= most[1])
    assert {trial.tolerated for trial in degraded} == {False, True}
    assert not any(trial.tolerated for trial in trials if trial.outcome is not Outcome.DEGRADED)


def test_a_trial_names_all_that_it_was_drawn_from_and_cost(under_test):
    trial = under_test(seed=7).trials(NOISE)[0]
    assert (trial.codec, trial.image, trial.channel, trial.number, trial.seed) == ("store", "dark", NOISE, 0, 7)
    assert trial.bpp == pytest.approx(8 * 97 / 32)
    assert trial.seconds > 0
    assert trial.to_row()["channel"] == "bsc(ber=0.01)"


def test_known_defects_name_outcomes_or_claims(under_test):
    """D7: nothing would ever have matched a typo, or a claim's title."""
    with pytest.raises(ClaimError, match="'crash': did you mean crashed"):
        _ = under_test(Confused).known_defects
    with pytest.raises(ClaimError, match=r"its id is 'decode.deterministic'"):
        _ = under_test(OldFashioned).known_defects


def test_the_device_is_what_the_worker_sees(under_test):
    assert under_test().device == "cpu"
