"""Experiments as people write them: files, presets, flags, and what is wrong with them."""

import re
from pathlib import Path

import numpy as np
import pytest

from robustkit.channels import ChannelError
from robustkit.experiments import plan as plans
from robustkit.experiments import until
from robustkit.experiments.draws import PublishedBSC
from robustkit.experiments.plan import Entry, Plan, PlanError
from robustkit.experiments.rows import METRIC_FIELDS, SCHEMA
from robustkit.quality import METRICS

#: Experiments of robustkit's own.
NAMED = Path(__file__).parents[2] / "experiments"
SAID = {"codecs": ["jpeg"], "channels": ["bsc"], "bers": [1e-4, 1e-3]}


def test_channels_without_a_bit_error_rate_stand_for_one_at_each():
    texts = ["bsc", "header-bsc", "gilbert-elliott(burst=8)", "truncation(keep=0.5)", "published-bsc", "bsc(ber=1e-1)"]
    assert plans.make({**SAID, "channels": texts, "bers": [1e-2]}).channels == (
        "bsc(ber=0.01)",
        "header-bsc(ber=0.01)",
        "gilbert-elliott(ber=0.01, burst=8)",
        "truncation(keep=0.5)",
        "published-bsc(ber=0.01)",
        "bsc(ber=0.1)",
    )


def test_the_published_channel_is_read_by_its_name():
    assert plans.channel_of("published-bsc(ber=1e-3)") == PublishedBSC(1e-3)
    assert str(PublishedBSC(1e-3)) == "published-bsc(ber=0.001)"
    with pytest.raises(ChannelError, match="for a whole run at once"):
        PublishedBSC(1e-3).draw(8, codec="jpeg", image="a", trial=0)


@pytest.mark.parametrize("name", plans.presets())
def test_a_preset_is_a_plan(name):
    plan = plans.make(plans.preset(name))
    assert plan == Plan.from_json(plan.to_json())
    # Their codecs are known ones, whatever is installed.
    from robustkit.experiments.identity import spec_of

    assert [spec_of(entry).name for entry in plan.entries] == [entry.codec for entry in plan.entries]


@pytest.mark.parametrize("file", sorted(NAMED.glob("*.toml")), ids=lambda file: file.stem)
def test_a_named_experiment_is_a_plan(file):
    plan = plans.make(plans.loaded(file))
    assert (plan.images, plan.crop) in {("skimage", 256), ("kodak24", 512)}
    assert len(plan.entries) > 1
    assert plan.channels


def test_the_presets_are_those_that_are_documented():
    assert plans.presets() == ["gilbert-elliott", "headers", "paper", "protected"]


def test_the_paper_s_preset_is_the_published_grid():
    plan = plans.make(plans.preset("paper"))
    assert plan.channels == tuple(f"published-bsc(ber={ber})" for ber in ("1e-06", "1e-05", 0.0001, 0.001, 0.01, 0.1))
    assert plan.trials == 10
    assert dict(plan.entries[0].settings) == {
        "bpp": 1.0,
        "truncated": "tolerate",
        "colours": "convert",
        "check_size": False,
    }
    assert dict(plan.entries[1].settings) == {"bpp": 1.0, "check_size": False}


def test_a_metric_has_one_name_however_it_is_spelt():
    plan = plans.make({**SAID, "metrics": ["psnr-y", "ms-ssim", "ms_ssim", "lpips-vgg?", "psnr_y"]})
    assert plan.metrics == ("psnr_y", "ms_ssim", "lpips-vgg?")
    assert [METRICS[name].name for name in plan.metrics[:2]] == ["psnr_y", "ms_ssim"]
    assert METRIC_FIELDS["ms_ssim"].name == "ms_ssim"
    assert plans.make({**SAID, "metrics": ["ms-ssim"], "until": "ci=0.01"}).rule


def test_a_folder_that_is_called_like_a_set_is_given_with_its_place(tmp_path):
    (tmp_path / "kodak24").mkdir()
    file = tmp_path / "mine.toml"
    text = 'codecs = ["png"]\nchannels = ["bsc(ber=1e-3)"]\nimages = "%s"\n'
    file.write_text(text % "kodak24")
    assert plans.make(plans.loaded(file)).images == "kodak24"
    file.write_text(text % "./kodak24")
    assert plans.make(plans.loaded(file)).images == str(tmp_path / "kodak24")


def test_a_file_may_change_a_preset(tmp_path):
    (tmp_path / "pictures").mkdir()
    file = tmp_path / "mine.toml"
    file.write_text('preset = "headers"\ntrials = 3\nimages = "pictures"\n[[codecs]]\ncodec = "png"\nlabel = "mine"\n')
    plan = plans.make(plans.loaded(file))
    assert (plan.trials, plan.entries) == (3, (Entry("mine", "png"),))
    assert plan.images == str(tmp_path / "pictures")
    assert "truncation(keep=0.5)" in plan.channels


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trails = 3", "has no key 'trails': did you mean trials"),
        ('trials = "3"', "trials = '3' is no int"),
        ("trials = true", "trials = True is no int"),
        ("trials =", "can't be read"),
        ('preset = "papers"', "no preset is named 'papers': did you mean paper"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, said):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(PlanError) as caught:
        plans.loaded(file)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codecs": []}, "no codec"),
        ({"codecs": ["jpeg", "jpeg"]}, "two codecs are called 'jpeg'"),
        ({"codecs": [{"label": "x"}]}, "give a name, or a table"),
        ({"codecs": [{"codec": "jpeg", "setting": {}}]}, "did you mean settings?"),
        ({"channels": []}, "no channel"),
        ({"bers": []}, "has no bit error rate"),
        ({"bers": ["1e-3"]}, "is no bit error rate"),
        ({"bers": [2]}, "ber = 2.0 is out of range"),
        ({"channels": ["bsk(ber=1e-3)"]}, "did you mean bsc"),
        ({"trials": 0}, "give 1 or more"),
        ({"codecs": [{"codec": "jpeg", "trials": 0}]}, "jpeg: trials = 0: give 1 or more"),
        ({"codecs": [{"codec": "jpeg", "trials": 11}], "trials": 10}, "jpeg: trials = 11: the experiment has 10"),
        ({"codecs": [{"codec": "jpeg", "trials": "3"}]}, "is no whole number"),
        ({"codecs": [{"codec": "jpeg", "trials": 3}], "until": "failures=3"}, "leave them out where until is given"),
        ({"metrics": ["psnr?"]}, "the first one may not be left out"),
        ({"keep": ["best:3"]}, "write worst:3 or median:1"),
        ({"until": "ci=0.2"}, None),
        ({"until": "ci"}, "write ci=0.2dB"),
        ({"until": "failures=2.5"}, "write ci=0.2dB"),
        ({"until": "ci=0.2dB", "metrics": ["ssim"]}, "ssim is not in dB"),
        ({"until": "ci=0.2", "metrics": ["lpips"]}, "lpips has no known bounds"),
        ({"until": "failures=3", "channels": ["published-bsc"]}, "draws for a whole run"),
    ],
)
def test_what_can_t_be_is_said(change, said):
    if said is None:
        assert plans.make({**SAID, **change}).rule == until.Until("ci", 0.2)
        return
    with pytest.raises((PlanError, ChannelError, until.UntilError)) as caught:
        plans.make({**SAID, **change})
    assert said in str(caught.value)


def test_rates_label_the_codecs_that_they_are_set_on():
    plan = plans.make({**SAID, "codecs": [{"codec": "jpeg", "settings": {"quality": 3}}, "png"]})
    assert plans.with_targets(plan, {"jpeg": 1.0}).entries == (
        Entry("jpeg@1bpp", "jpeg", {}, 1.0),
        Entry("png", "png"),
    )
    with pytest.raises(PlanError, match="no codec of the experiment has that name: did you mean jpeg"):
        plans.with_targets(plan, {"jpegs": 1.0})


def test_a_point_has_enough_when_its_interval_is_narrow_and_no_sooner():
    rule = until.Until.parse("ci=2dB")
    rng = np.random.default_rng(0)
    few, many = ({name: 30 - rng.random(n) for name in "abc"} for n in (4, 400))
    assert not rule.estimate(few, 30.0).enough
    found = rule.estimate(many, 30.0)
    assert found.enough
    assert found.low < 29.5 < found.high
    assert (found.high - found.low) / 2 <= 2
    assert (found.trials, found.rounds, found.failures) == (1200, 400, 0)


def test_failures_are_counted_over_complete_rounds():
    rule = until.Until.parse("failures=3")
    values = {"a": [np.nan, 30.0, np.nan], "b": [np.nan, 30.0]}
    found = rule.estimate(values, 30.0)
    assert (found.rounds, found.failures, found.enough, found.value) == (2, 2, False, 0.5)
    assert found.low < 0.5 < found.high
    assert rule.estimate({"a": [np.nan] * 3}, 30.0).enough


def test_the_bounds_hold_whenever_one_looks():
    rule, outside = until.Until.parse("ci=0.1"), 0
    rng = np.random.default_rng(1)
    for _ in range(60):
        values = {name: (rng.random(60) < 0.3) * 1.0 for name in "ab"}
        looks = [rule.estimate({k: v[:n] for k, v in values.items()}, 1.0) for n in (5, 20, 40, 60)]
        outside += any(not look.low <= 0.3 <= look.high for look in looks)
    # 5% at the most; 9 of 60 would come by chance in one of a thousand runs.
    assert outside <= 8


PAGE = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")


def test_the_page_s_file_is_a_plan_and_its_tables_are_whole(tmp_path):
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "experiment.toml").write_text(text)
    plan = plans.make(plans.loaded(tmp_path / "experiment.toml"))
    assert [entry.label for entry in plan.entries] == ["jpeg at 1 bpp", "webp+rs(255,223)"]
    assert len(plan.channels) == 2 * 2 + 1
    (other,) = re.findall(r"^Other keys are (.*?);", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", other + text)) | set(re.findall(r"^(\w+) =", text, re.MULTILINE)) >= set(
        plans._KEYS
    ) - {"title", "codecs"}
    rows_of = dict(re.findall(r"^\| (`.+`) \| (.+) \|$", PAGE, re.MULTILINE))
    cells = {name for cell in rows_of for name in re.findall(r"`([^`]+)`", cell)}
    assert cells >= {*SCHEMA.names, *plans.presets()}
