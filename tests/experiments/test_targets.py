"""Sweeps of codecs that are matched to a rate, each image with a setting of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image as PillowImage

from robustkit.cli import main
from robustkit.experiments import identity, matchrate, merge, plan, store
from robustkit.images import photographs

CODECS = ("--codec", "jpeg", "--codec", "png", "--set", "jpeg:check_size=false")
FLAGS = (*CODECS, "--ber", "1e-3", "--trials", "3", "--target-bpp", "jpeg=1.5")


def cli(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, image in list(photographs(96).items())[:2]:
        PillowImage.fromarray(image).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def swept(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swept") / "rows"
    cli("sweep", *FLAGS, "--images", images, "--out", out)
    return out


def test_each_image_runs_with_the_setting_that_was_found_for_it(swept: Path, images: Path) -> None:
    table = matchrate.read(swept / identity.RATES)
    assert {row.image for row in table} == {path.name for path in images.iterdir()}
    assert {(row.codec, row.target_bpp, row.knob) for row in table} == {("jpeg@1.5bpp", 1.5, "quality")}
    assert len({row.value for row in table}) > 1
    rows = store.read(swept).to_pylist()
    assert len(rows) == 2 * 2 * (1 + 3)
    for row in (row for row in rows if row["entry"] == "jpeg@1.5bpp"):
        (found,) = (one for one in table if one.image == row["image"])
        assert json.loads(row["settings"]) == {"check_size": False, "quality": found.value}
        assert (row["stream_digest"], row["stream_bytes"], row["bpp"]) == (found.sha256, found.bytes, found.bpp)
    assert {row["settings"] for row in rows if row["entry"] == "png"} == {"{}"}


def test_rows_don_t_depend_on_who_ran_them(swept: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    cli("sweep", *FLAGS, "--images", images, "--jobs", "2", "--keep", "worst:1", "--out", out)
    for number, folder in enumerate((swept, out)):
        merge.merge([folder], tmp_path / str(number))
    first, second = ((tmp_path / str(number) / store.ROWS).read_bytes() for number in range(2))
    assert first == second
    assert (out / identity.RATES).read_bytes() == (tmp_path / "1" / identity.RATES).read_bytes()
    assert len(list((out / "kept").glob("jpeg*/*/*/trial-*.bin"))) == 2


def test_a_later_run_takes_the_settings_that_are_there(
    swept: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise matchrate.MatchError("it was asked again")

    monkeypatch.setattr(matchrate, "match", fails)
    before = (swept / identity.RATES).read_bytes()
    cli("sweep", "--out", swept)
    cli("sweep", *FLAGS, "--images", images, "--out", swept)
    assert (swept / identity.RATES).read_bytes() == before
    # Other settings beside the matched one: they are matched anew.
    done = cli("sweep", *FLAGS, "--set", "jpeg:max_pixels=9999", "--images", images, "--out", swept)
    assert "jpeg@1.5bpp is left out, it can't run here: it was asked again" in done.output
    # What the rows depend on is not forgotten.
    assert (swept / identity.RATES).read_bytes() == before


def test_matched_settings_are_part_of_what_rows_depend_on(swept: Path) -> None:
    there = identity.Experiment.read(swept)
    jpeg = there.entry("jpeg@1.5bpp")
    assert jpeg.parts["target bpp"] == 1.5
    other = {**jpeg.parts, "matched settings": {"a.png": {"quality": 3}}}
    changed = identity.Resolved(**{**vars(jpeg), "parts": other, "digest": identity.digest_of(other)})
    entries = tuple(changed if found is jpeg else found for found in there.entries)
    with pytest.raises(identity.ExperimentError, match=r"jpeg@1.5bpp: matched settings"):
        identity.Experiment(**{**vars(there), "entries": entries}).follow(there)
    with pytest.raises(identity.ExperimentError, match="has no setting for elsewhere"):
        jpeg.settings("elsewhere.png")


def test_rates_out_of_reach_and_codecs_without_a_rate_are_said(images: Path) -> None:
    flags = ("--codec", "jpeg", "--codec", "png", "--ber", "1e-3", "--images", images, "--dry-run")
    text = " ".join(cli("sweep", *flags, "--target-bpp", "jpeg=0.01,png=1").output.split())
    assert "jpeg@0.01bpp: 1 of 1 images are further than 5% from the wanted rate: " in text
    assert "png has neither qualities nor a setting bpp" in text
    assert "alone here, the smallest image; a sweep matches each image" in text


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ("jpeg", "write CODEC=BPP"),
        ("jpeg=-1", "write CODEC=BPP"),
        ("jpge=1", "no codec of the experiment has that name: did you mean jpeg"),
        ("jpeg=1,jpeg=2", "jpeg is given two rates"),
    ],
)
def test_what_is_no_rate_is_said(rates: str, said: str, tmp_path: Path) -> None:
    done = cli("sweep", "--codec", "jpeg", "--ber", "1e-3", "--target-bpp", rates, "--out", tmp_path / "o", code=2)
    assert said in done.output


def test_a_file_may_name_a_codec_s_rate(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = 'channels = ["bsc(ber=1e-3)"]\n[[codecs]]\ncodec = "jpeg"\ntarget_bpp = %s\n'
    file.write_text(text % "1")
    made = plan.make(plan.loaded(file))
    assert made.entries == (plan.Entry("jpeg@1bpp", "jpeg", {}, 1),)
    assert plan.Plan.from_json(made.to_json()) == made
    for wrong in ("0", '"1"', "true"):
        file.write_text(text % wrong)
        with pytest.raises(plan.PlanError, match="target_bpp = "):
            plan.make(plan.loaded(file))
