"""Whoever changes a certificate and puts its form right again is found out, and what was changed is named."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import pytest
from sharing import made_once
from small_certificate import ROUNDS, SEED, make, rewrite

from robustkit import quality
from robustkit.certificates import intact as checking
from robustkit.certificates import trials
from robustkit.certificates.intact import intact
from robustkit.certificates.model import Certified, Counterexample, Line, Tolerance
from robustkit.certificates.reading import read
from robustkit.certificates.said import State
from robustkit.certificates.write import digests
from robustkit.channels import parse
from robustkit.judging.finding import CLAIMS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_once(tmp_path_factory, "small-certificate", {"it": make})[0] / "certificate"


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "certificate")


@pytest.fixture(autouse=True)
def no_simulation(request, monkeypatch):
    """Error rates are simulated where a test is of them: it takes as long as all the rest."""
    if "error_rate" not in request.node.name:
        monkeypatch.setattr(checking, "_MOST_SIMULATED", 0)


def wrong(folder):
    part = intact(read(folder))
    assert part.state is State.WRONG
    assert part.said.startswith("no: ")
    return part.wrong


def rows_of(folder):
    return list(trials.read(folder / trials.FILE))


def first(found, **changes):
    return (replace(found[0], **changes), *found[1:])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mean_drop": 0.5}, "bsc(ber=0.0005): mean_drop is 0.5, and from the trials"),
        ({"quality": 40.0}, "bsc(ber=0.0005): quality is 40.0"),
        ({"silent": 0}, "bsc(ber=0.0005): silent is 0"),
        ({"harmless": 16}, "bsc(ber=0.0005): harmless is 16"),
        ({"outcomes": {"intact": 16}}, "bsc(ber=0.0005): outcomes is {'intact': 16}"),
        ({"severity": 0.01}, "bsc(ber=0.0005): severity is 0.01, and from the trials 0.0005"),
        ({"kind": "burst"}, "bsc(ber=0.0005): kind is burst"),
    ],
)
def test_a_tampered_figure_of_a_channel_is_named(copy, changes, says):
    rewrite(copy, lambda found: replace(found, channels=first(found.channels, **changes)))
    (found,) = wrong(copy)
    assert found.startswith(says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"estimate": 0.25}, "mean_drop of bsc(ber=0.0005): estimate is 0.25"),
        ({"high": 1.0}, "mean_drop of bsc(ber=0.0005): high is 1.0"),
        ({"limit": 26.0}, "mean_drop of bsc(ber=0.0005): limit is 26.0, and from the trials 25.0"),
        ({"verdict": "broken"}, "mean_drop of bsc(ber=0.0005): verdict is broken"),
        ({"measured": "hardly any"}, "mean_drop of bsc(ber=0.0005): measured is hardly any"),
        ({"trials": 1000}, "mean_drop of bsc(ber=0.0005): trials is 1000"),
    ],
)
def test_a_tampered_assessment_is_named(copy, changes, says):
    rewrite(copy, lambda found: replace(found, assessments=first(found.assessments, **changes)))
    (found,) = wrong(copy)
    assert found.startswith(says)


def test_a_dropped_assessment_is_named(copy):
    rewrite(copy, lambda found: replace(found, assessments=found.assessments[1:]))
    assert wrong(copy) == ("the assessments are of other promises than the profile's",)


def test_an_edited_profile_is_named_by_its_digest_and_by_what_follows_from_it(copy):
    def edited(found):
        return replace(found, profile=found.profile.replace("mean_drop = 25.0", "mean_drop = 24.0"))

    rewrite(copy, edited)
    assert wrong(copy)[0] == "the profile is not the one that its digest is of: edited"
    rewrite(copy, lambda found: replace(found, profile_sha256=hashlib.sha256(found.profile.encode()).hexdigest()))
    assert any(line.startswith("mean_drop of bsc(ber=0.0005): limit is 25.0") for line in wrong(copy))


def test_a_profile_that_is_none_is_named(copy):
    rewrite(copy, lambda found: replace(found, profile="[" * 3000))
    assert any("the profile can't be read" in line for line in wrong(copy))


def test_a_missing_row_is_named(copy):
    rows = rows_of(copy)
    trials.write(copy / trials.FILE, rows[:-1])
    assert wrong(copy)[0] == "1 row missing: 31 of 32 trials are there"


def test_a_missing_row_is_named_although_root_and_count_were_made_anew(copy):
    rows = rows_of(copy)
    rewrite(copy, rows=rows[:3] + rows[4:])
    found = wrong(copy)
    assert any(line.startswith("a trial before it is missing: bsc(ber=0.0005), coffee, trial 4") for line in found)
    assert any(line.startswith("a row is missing: bsc(ber=0.0005) has fewer trials of coffee") for line in found)


def test_a_row_too_many_and_one_twice_are_named(copy):
    rows = rows_of(copy)
    trials.write(copy / trials.FILE, [*rows, rows[-1]])
    found = wrong(copy)
    assert found[0] == "1 row too many: 33 of 32 trials are there"
    assert "is there twice" in found[1]


def test_rows_in_another_order_are_named(copy):
    rows = rows_of(copy)
    rewrite(copy, rows=rows[::-1])
    assert "the rows stand in another order than a certificate's" in wrong(copy)


def test_a_row_from_another_seed_is_named(copy):
    rows = rows_of(copy)
    rows[5] = replace(rows[5], seed=99)
    rewrite(copy, rows=rows)
    assert wrong(copy) == (f"a row from another seed than {SEED}: bsc(ber=0.0005), coffee, trial 5",)


def test_rows_of_another_seed_that_say_otherwise_are_found_by_their_damage(copy):
    """Whoever likes another seed's trials better can write any seed into them, and any name."""
    rows = rows_of(copy)
    bits = {image.name: 8 * image.stream_bytes for image in read(copy).certificate.corpus.images}
    lucky = [
        len(parse(row.channel).draw(bits[row.image], codec="small-jpeg", image=row.image, trial=n, seed=99).flips)
        for row, n in ((row, row.number) for row in rows)
    ]
    rewrite(copy, rows=[replace(row, flips=flips) for row, flips in zip(rows, lucky, strict=True)])
    assert [line for line in wrong(copy) if line.startswith("a row with other damage than its seed draws: bsc(")]
    rewrite(copy, lambda found: replace(found, codec="other"), rows=rows)
    assert [line for line in wrong(copy) if line.startswith("a row with other damage than its seed draws: bsc(")]
    # Another NumPy may draw otherwise.
    older = {"numpy": "1.0"}
    rewrite(copy, lambda found: replace(found, environment={**found.environment, **older}))
    part = intact(read(copy))
    assert (part.state, part.said) == (
        State.UNTOLD,
        "made by this robustkit with another NumPy, and this one draws otherwise",
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": "lena"}, "a trial of an image that is not in the corpus"),
        ({"outcome": "fine"}, "an outcome that there is not"),
        ({"outcome": "refused"}, "a row of outcome refused with the figures of another"),
        ({"outcome": "intact"}, "a row of outcome intact whose pixels say otherwise"),
        ({"drop": 0.0}, "a row whose drop is not the clean quality less its own"),
        ({"failure": "crashed"}, "a row of outcome degraded with another's failure"),
        ({"flips": -1}, "a row with a negative or a senseless number"),
    ],
)
def test_a_row_that_contradicts_itself_is_named(copy, changes, says):
    rows = rows_of(copy)
    at = next(i for i, row in enumerate(rows) if row.outcome == "degraded" and row.image == "coffee")
    rows[at] = replace(rows[at], **changes)
    rewrite(copy, rows=rows)
    assert any(line.startswith(says) for line in wrong(copy))


def test_a_row_that_was_changed_alone_has_another_root(copy):
    rows = rows_of(copy)
    rows[0] = replace(rows[0], flips=rows[0].flips + 1)
    trials.write(copy / trials.FILE, rows)
    assert "another Merkle root" in wrong(copy)[0]


def test_a_number_that_json_does_not_hold_is_named(copy):
    rows = rows_of(copy)
    trials.write(copy / trials.FILE, [replace(rows[0], flips=2**60), *rows[1:]])
    assert wrong(copy)[0].startswith("a row has a number or a text that no certificate holds")


def test_better_rows_change_the_figures(copy):
    rows = [replace(row, quality=row.quality + 1, drop=row.drop - 1) if row.drop else row for row in rows_of(copy)]
    rewrite(copy, rows=rows)
    assert any("bsc(ber=0.0005): mean_drop is" in line for line in wrong(copy))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"certified": True}, "certified and blocked at once"),
        ({"certified": True, "blockers": ()}, "certified, although its claims come to 'not certified'"),
        ({"verdict": "conforms"}, "its verdict is 'conforms', and its claims come to 'not certified'"),
        ({"verdict": "does not conform"}, "its verdict is 'does not conform', and its claims come to"),
        ({"sentence": "jpeg: conforms: all is well"}, "its sentence is of another codec or verdict"),
        ({"verdict": "fine"}, "its verdict is 'fine', which is none"),
        ({"blockers": ()}, "not certified, and nothing blocks it"),
        ({"higher_is_better": False}, "the direction of psnr is turned round"),
        ({"metric_unit": "furlongs"}, "the unit of psnr is 'furlongs', not 'dB'"),
        ({"certified": True, "blockers": ()}, f"certified with {ROUNDS} trials of an image, which is less than"),
    ],
)
def test_what_it_says_of_itself_must_agree(copy, changes, says):
    rewrite(copy, lambda found: replace(found, **changes))
    assert any(line.startswith(says) for line in wrong(copy))


@pytest.mark.parametrize("changes", [{"bpp": 0.5}, {"stream_bytes": 7}, {"height": 999}])
def test_a_rate_that_is_not_its_streams_is_named(copy, changes):
    def changed(found):
        return replace(found, corpus=replace(found.corpus, images=first(found.corpus.images, **changes)))

    rewrite(copy, changed)
    assert any(line.startswith("coffee: bpp is ") for line in wrong(copy))


@pytest.mark.parametrize(
    ("severity", "numbers", "verdict", "says"),
    [
        ("rate", {"bpp": 0.01}, "kept", "claim clean.round-trip: its mean bpp is 0.01, and that of the images "),
        ("psnr", {}, "kept", "claim clean.round-trip: its mean quality is None, and that of the images "),
        ("rate", None, "broken", "claim clean.round-trip, rate: broken, and the images' mean is "),
    ],
)
def test_the_clean_claim_is_what_the_images_come_to(copy, severity, numbers, verdict, says):
    images = read(copy).certificate.corpus.images
    true = {name: sum(getattr(i, name) for i in images) / len(images) for name in ("quality", "bpp")}
    claim = "clean.round-trip"
    line = Line(claim, CLAIMS[claim], severity, "", "", verdict, true if numbers is None else numbers)
    rewrite(copy, lambda found: replace(found, lines=(*found.lines, line)))
    assert any(text.startswith(says) for text in wrong(copy))
    rewrite(copy, lambda found: replace(found, lines=(*found.lines[:-1], replace(line, numbers=true, verdict="kept"))))
    assert intact(read(copy)).state is State.RIGHT


def test_a_claim_under_another_title_is_named(copy):
    rewrite(copy, lambda found: replace(found, lines=first(found.lines, title="nothing ever fails")))
    assert wrong(copy)[0].startswith("claim decode.deterministic is called nothing ever fails, and is decoding is")


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        (("bsc(ber=2)", "burst(length=32)"), "channel 'bsc(ber=2)' of the corpus"),
        (("bsc(ber=5e-4)", "burst(length=32)"), "is spelt bsc(ber=0.0005)"),
        (("burst(length=32)",), "bsc(ber=0.0005) is promised, and the corpus does not have it"),
    ],
)
def test_channels_that_make_no_sense_are_named(copy, channels, says):
    rewrite(copy, lambda found: replace(found, corpus=replace(found.corpus, channels=channels)))
    assert any(says in line for line in wrong(copy))


def test_a_metric_that_is_not_known_here_is_told_from_one_that_is_not_installed(copy, monkeypatch):
    monkeypatch.setattr(quality, "_has_pyiqa", lambda: False)
    rewrite(copy, lambda found: replace(found, metric="psnrr"))
    assert "metric 'psnrr' is unknown to this robustkit" in wrong(copy)
    rewrite(copy, lambda found: replace(found, metric="lpips"))
    part = intact(read(copy))
    assert part.state is State.UNTOLD
    assert part.said.startswith("not all can be told here: metric 'lpips'")


def of(assessment, claim="degradation.quality", **changes):
    """The line that the suite makes of an assessment."""
    return Line(
        **{
            "claim": claim,
            "title": CLAIMS[claim],
            "severity": assessment.severity,
            "measured": assessment.measured,
            "declared": assessment.declared,
            "verdict": assessment.verdict,
            **changes,
        }
    )


def quality_lines(found):
    return [of(one) for one in found.assessments if one.quantity in ("mean_drop", "p5_drop")]


def test_a_claim_that_follows_from_its_assessments_is_intact(copy):
    rewrite(copy, lambda found: replace(found, lines=(*found.lines, *quality_lines(found))))
    assert intact(read(copy)).state is State.RIGHT


def test_a_claim_that_does_not_follow_from_its_assessments_is_named(copy):
    def better(found):
        lines = quality_lines(found)
        return replace(found, lines=(*found.lines, replace(lines[0], measured="mean drop 0.01"), *lines[1:]))

    rewrite(copy, better)
    found = wrong(copy)
    assert "claim degradation.quality, bsc(ber=0.0005): " in found[0]
    assert found[0].endswith("mean drop 0.01: no assessment says so")
    assert "no line has its assessment" in found[1]


def test_a_line_that_was_left_out_is_named(copy):
    rewrite(copy, lambda found: replace(found, lines=(*found.lines, *quality_lines(found)[1:])))
    assert len(wrong(copy)) == 1


def test_a_failing_trial_breaks_a_claim(copy):
    rows = rows_of(copy)
    at = next(i for i, row in enumerate(rows) if row.outcome == "refused")
    rows[at] = replace(rows[at], outcome="crashed", failure="crashed: died of SIGSEGV")
    kept = Line("decode.survives.trials", "trials", "", "0 of 32 trials", "no failure", "kept")
    rewrite(copy, lambda found: replace(found, lines=(*found.lines, kept)), rows=rows)
    assert "claim decode.survives.trials is kept, and 1 trials failed" in wrong(copy)


def test_an_edited_corpus_is_named(copy):
    rewrite(copy, lambda found: replace(found, corpus=replace(found.corpus, rounds=9)))
    assert wrong(copy)[0] == "the corpus is not the one that its digest is of: edited"


def test_a_better_certified_severity_is_named(copy):
    better = Certified("bsc", "BER", 0.5, "bsc(ber=0.5)", None)
    rewrite(copy, lambda found: replace(found, certified_severities=(better, *found.certified_severities[1:])))
    assert any(
        line.startswith("certified severity of bsc: highest is 0.5, and from the trials") for line in wrong(copy)
    )


def test_a_better_error_rate_is_named(copy):
    rewrite(copy, lambda found: replace(found, error_rates=first(found.error_rates, rate=0.0)))
    assert any(
        line.startswith("error rate, a codec exactly at its limits is called broken: rate is 0") for line in wrong(copy)
    )


def test_a_page_that_was_changed_or_taken_away_is_named(copy):
    page = copy / "certificate.html"
    was = page.read_bytes()
    assert intact(read(copy)).notes[0].startswith("not checked: what certificate.html shows; it is the file")
    page.write_bytes(was.replace(b"</h1>", b"</h1>Certified!"))
    assert wrong(copy) == ("certificate.html is not the file that the certificate names: changed",)
    assert not [note for note in intact(read(copy)).notes if "certificate.html" in note]
    page.unlink()
    assert wrong(copy) == ("certificate.html is missing: a file of the certificate",)
    page.write_bytes(was)
    assert intact(read(copy)).state is State.RIGHT


def test_a_replay_file_that_was_changed_added_or_taken_away_is_named(copy):
    replay = copy / "replay" / "a.replay.json"
    replay.parent.mkdir()
    replay.write_text("{}")
    assert wrong(copy) == ("replay/a.replay.json is not among the certificate's files: added",)
    rewrite(copy, lambda found: replace(found, files=digests(copy)))
    assert intact(read(copy)).state is State.RIGHT
    replay.write_text('{"codec": "another"}')
    assert wrong(copy) == ("replay/a.replay.json is not the file that the certificate names: changed",)
    replay.unlink()
    assert wrong(copy) == ("replay/a.replay.json is missing: a file of the certificate",)


def test_wrong_pictures_can_not_be_called_rounding(copy):
    """The count of silently wrong trials follows from the rows, and what the rows say is held against their quality."""
    rows = rows_of(copy)
    at = next(i for i, row in enumerate(rows) if row.outcome == "degraded" and row.drop > 1)
    rows[at] = replace(rows[at], tolerated=True)
    rewrite(copy, rows=rows)
    (found,) = wrong(copy)
    assert found.startswith("a row within the tolerance whose quality is beyond it: bsc(ber=0.0005), coffee, trial ")
    refused = next(i for i, row in enumerate(rows) if row.outcome == "refused")
    rows[refused] = replace(rows[refused], tolerated=True)
    rewrite(copy, rows=rows)
    assert wrong(copy)[0].startswith("a row of outcome refused whose pixels are said to be within the tolerance")


@pytest.mark.parametrize(("maximum", "mean"), [(-1.0, 0.0), (1.0, 2.0), (256.0, 1.0)])
def test_a_tolerance_that_is_none_is_named(copy, maximum, mean):
    rewrite(copy, lambda found: replace(found, tolerance=Tolerance(maximum, mean)))
    assert wrong(copy) == (f"the tolerance is {maximum:g} at worst and {mean:g} on average, which is none",)


@pytest.mark.parametrize("name", ["summary.md", "badge.svg", "badge.json"])
def test_a_file_for_people_that_says_something_else_is_named(copy, name):
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    assert wrong(copy) == (f"{name} is not what the certificate says: changed",)
    rewrite(copy, lambda found: replace(found, kit_sha256="0" * 64))
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    part = intact(read(copy))
    assert part.state is State.RIGHT
    assert f"not checked: {name}, which another robustkit made, or somebody changed" in part.notes


def test_what_another_robustkit_judged_otherwise_is_told_from_what_was_changed(copy):
    def other(found):
        return replace(found, kit_sha256="0" * 64, assessments=first(found.assessments, measured="in other words"))

    rewrite(copy, other)
    part = intact(read(copy))
    assert part.state is State.UNTOLD
    assert part.said.startswith("made by another robustkit, ")
    assert any(": measured is in other words" in line for line in part.wrong)


def test_a_counterexamples_stream_is_the_one_that_is_named(copy):
    stream = b"damaged"
    shows = Counterexample(
        "decode.survives.bursts", "crashed", "", hashlib.sha256(stream).hexdigest(), (), "replay/a.replay.json", ""
    )
    (copy / "replay").mkdir()
    (copy / "replay" / "a.replay.json").write_text("{}")
    (copy / "replay" / "a.bin").write_bytes(stream)
    rewrite(copy, lambda found: replace(found, counterexamples=(shows,), files=digests(copy)))
    assert intact(read(copy)).state is State.RIGHT
    (copy / "replay" / "a.bin").write_bytes(b"another")
    assert "replay/a.bin is another stream than the counterexample's" in wrong(copy)
    (copy / "replay" / "a.bin").unlink()
    assert "replay/a.bin is missing: the stream of a counterexample" in wrong(copy)


def test_without_trials_nothing_is_certified_and_nothing_measured(copy):
    bare = {"channels": (), "assessments": (), "error_rates": (), "certified_severities": ()}
    rewrite(copy, rows=[])
    assert wrong(copy) == (
        "the channels' results are of other channels than the trials",
        "figures of trials, and there are no trials",
    )
    rewrite(copy, lambda found: replace(found, **bare))
    assert intact(read(copy)).state is State.RIGHT
    rewrite(copy, lambda found: replace(found, certified=True, blockers=()))
    assert "certified, and there are no trials" in wrong(copy)
