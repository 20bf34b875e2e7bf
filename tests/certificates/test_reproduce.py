"""Trials that are run again: the same, within the tolerance, not comparable here, or different, and never silently."""

from __future__ import annotations

import contextlib
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_certificate
from sharing import made_once
from small_certificate import CROP, images, make

from robustkit.certificates.model import Photograph, TrialRow
from robustkit.certificates.reading import read
from robustkit.certificates.reproduce import Match, allowed, compared, matched, reproduced, sampled
from robustkit.certificates.said import State
from robustkit.channels import parse
from robustkit.images import photographs
from robustkit.isolation import Limits, fingerprint
from robustkit.judging.trial import Trial
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.quality import psnr
from robustkit.registry import CodecSpec, Target


@pytest.fixture(scope="module")
def it(tmp_path_factory):
    return made_once(tmp_path_factory, "small-certificate", {"it": make})[0]


@pytest.fixture(scope="module")
def found(it):
    return read(it / "certificate")


def again(it, found, name="Small", tmp=None, *, change=None, rows=None, **more):
    spec = CodecSpec(f"small_codec:{name}", Target("small_codec", name), more.pop("settings", {}))
    certificate = found.certificate if change is None else replace(found.certificate, **change)
    directory = Path(tmp)
    more.setdefault("sample", 6)
    with small_certificate.on_path(it / "codec"):
        given = more.pop("images", None) or images()
        return reproduced(certificate, found.rows if rows is None else rows, spec, given, directory=directory, **more)


def test_all_trials_come_again_bit_for_bit(it, found, tmp_path):
    part = again(it, found, tmp=tmp_path, sample=None)
    assert (part.state, part.said) == (State.RIGHT, "32 of 32 re-run trials come again (all 32)")


def test_a_sample_is_drawn_from_its_seed_and_says_so(it, found, tmp_path):
    part = again(it, found, tmp=tmp_path, seed=5)
    assert (part.state, part.said) == (State.RIGHT, "6 of 6 re-run trials come again (a sample of 32, seed 5)")
    assert sampled(found.rows, 6, 5) == sampled(found.rows, 6, 5) != sampled(found.rows, 6, 6)
    assert sampled(found.rows, 99, 5) == sampled(found.rows, None, 5) == list(found.rows)


def test_another_decoder_does_not_reproduce(it, found, tmp_path):
    part = again(it, found, "Faithless", tmp_path)
    assert part.state is State.WRONG
    assert "re-run trials differ" in part.said
    assert "other pixels, psnr" in part.wrong[0]


def test_what_keeps_to_the_tolerance_is_said_and_is_not_green(it, found, tmp_path):
    part = again(it, found, "Rounding", tmp_path)
    assert part.state is State.UNTOLD
    assert "within the declared tolerance" in part.said
    assert part.notes[0].startswith("within the declared tolerance: ")
    assert again(it, found, "Rounding", tmp_path, tolerated=True).state is State.RIGHT


@pytest.mark.slow
def test_a_codec_that_computes_alike_everywhere_has_no_tolerance(it, found, tmp_path):
    assert again(it, found, "Exact", tmp_path, tolerated=True).state is State.WRONG


def test_another_codec_is_named(it, found, tmp_path):
    part = again(it, found, "Other", tmp_path)
    assert (part.state, part.said) == (State.WRONG, "no: another codec, other, not small-jpeg")


def test_a_machine_that_is_too_slow_says_nothing_of_the_certificate(it, found, tmp_path):
    part = again(it, found, "Slow", tmp_path, limits=Limits(seconds=0.3))
    assert part.state is State.UNTOLD
    assert part.said.startswith("not comparable on this machine: ")
    assert "decoding the clean stream: hung" in part.said


@pytest.mark.slow
def test_other_settings_are_named_and_other_streams_not_comparable(it, found, tmp_path):
    part = again(it, found, tmp=tmp_path, settings={"quality": 40})
    assert part.state is State.UNTOLD
    assert "6 not comparable on this machine" in part.said
    assert part.wrong == ('other settings: {} there, {"quality": 40} here',)


@pytest.mark.slow
def test_a_looser_profile_than_the_codecs_own_is_named_where_it_certifies(it, found, tmp_path):
    part = again(it, found, "Stricter", tmp_path, change={"certified": True, "blockers": ()})
    assert part.state is State.UNTOLD
    assert "edited profile" in part.wrong[0]
    assert "mean_drop 25 > 5" in part.wrong[0]
    assert again(it, found, "Stricter", tmp_path).state is State.RIGHT


@pytest.mark.slow
def test_another_seed_everywhere_gives_other_damage(it, found, tmp_path):
    corpus = replace(found.certificate.corpus, seed=99)
    part = again(it, found, tmp=tmp_path, change={"corpus": corpus})
    assert part.state is State.WRONG
    assert any("another damaged stream" in line for line in part.wrong)


@pytest.mark.slow
def test_better_figures_are_found_out(it, found, tmp_path):
    rows = [replace(row, quality=row.quality + 3) if row.quality else row for row in found.rows]
    part = again(it, found, tmp=tmp_path, rows=rows)
    assert part.state is State.WRONG
    assert "the same pixels, and psnr" in part.wrong[0]


@pytest.mark.slow
def test_images_that_are_not_here_are_left_out_by_name(it, found, tmp_path):
    part = again(it, found, tmp=tmp_path, images={"coffee": images()["coffee"]}, sample=None)
    assert (part.state, part.said) == (State.RIGHT, "16 of 16 re-run trials come again (all 16 of these images)")
    assert part.notes == ("not here, so their trials were left out: rocket",)


def test_without_any_image_or_trial_nothing_is_reproduced(it, found, tmp_path):
    spec = CodecSpec("x", Target("small_codec", "Small"), {})
    part = reproduced(found.certificate, found.rows, spec, {}, directory=tmp_path)
    assert (part.state, "--images" in part.said) == (State.UNTOLD, True)
    assert reproduced(found.certificate, (), spec, {}, directory=tmp_path).state is State.UNTOLD


def test_images_are_told_by_their_pixels_whole_or_cut(found):
    wanted = found.certificate.corpus.images
    whole = photographs(CROP + 20)
    assert set(matched(wanted, [("a", whole["coffee"]), ("b", images()["rocket"])])) == {"coffee", "rocket"}
    assert matched(wanted, [("coffee", whole["chelsea"]), ("tiny", whole["coffee"][:9, :9])]) == {}
    assert fingerprint(matched(wanted, whole.items())["coffee"]) == wanted[0].sha256


PHOTO = Photograph("a", "0", 64, 64, "clean", 9, 1.0, 30.0, "pixels")
ROW = TrialRow("bsc(ber=0.001)", "a", 0, 0, 1, "damaged", "degraded", None, 25.0, 5.0, "p")
TOLERANT, EXACT = (2.0, 0.05), (0.0, 0.0)


def beside(
    *, row=ROW, outcome=Outcome.DEGRADED, quality=25.0, clean="clean", stream="damaged", pixels="p", tolerance=TOLERANT
):
    metrics = {"psnr": quality} if outcome.has_image else {}
    trial = Trial("c", "a", parse(row.channel), 0, 0, ErrorPattern(8), outcome, 1.0, 0.0, metrics, {})
    return compared(
        row, PHOTO, trial, clean=clean, stream=stream, pixels=pixels, metric="psnr", tolerance=tolerance
    ).match


def test_how_a_trial_compares_with_its_row():
    refused = replace(ROW, outcome="refused", quality=None, drop=None, pixels=None)
    hung = replace(refused, outcome="hung", failure="hung")
    assert beside() is Match.SAME
    assert beside(tolerance=EXACT) is Match.SAME
    assert beside(quality=25.001) is Match.DIFFERENT
    assert beside(row=replace(ROW, tolerated=True)) is Match.DIFFERENT
    assert beside(row=refused, outcome=Outcome.REFUSED, pixels=None) is Match.SAME
    assert beside(row=refused) is Match.DIFFERENT
    assert beside(outcome=Outcome.RAISED, pixels=None) is Match.DIFFERENT
    assert beside(row=hung) is Match.INCOMPARABLE
    assert beside(outcome=Outcome.EXHAUSTED, pixels=None) is Match.INCOMPARABLE
    assert beside(clean="other") is Match.INCOMPARABLE
    assert beside(clean="other", tolerance=EXACT) is Match.DIFFERENT
    assert beside(stream="other") is Match.DIFFERENT
    assert beside(pixels="q", quality=25.01) is Match.TOLERATED
    assert beside(pixels="q", quality=26) is Match.DIFFERENT
    assert beside(pixels="q", quality=25, tolerance=EXACT) is Match.DIFFERENT
    assert beside(outcome=Outcome.INTACT, pixels="pixels", quality=25.1) is Match.TOLERATED
    assert beside(outcome=Outcome.INTACT, pixels="pixels", tolerance=EXACT) is Match.DIFFERENT


def test_the_allowed_psnr_holds_for_any_pixels_within_the_tolerance():
    rng = np.random.default_rng(0)
    original = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for spread in (1, 4, 30):
        image = np.clip(original + rng.integers(-spread, spread + 1, original.shape), 0, 255).astype(np.uint8)
        moved = image.astype(int)
        few = rng.random(moved.shape) < 0.02
        moved = np.clip(moved + few * rng.choice([-2, 2], moved.shape), 0, 255).astype(np.uint8)
        assert np.abs(moved.astype(int) - image).mean() <= 0.05
        least, most = allowed("psnr", psnr(original, image), (2.0, 0.05))
        assert least <= psnr(original, moved) <= most
    assert allowed("psnr", 100.0, (2.0, 0.05))[1] == math.inf
    assert allowed("ssim", 0.9, (2.0, 0.05)) == (0.899, 0.901)


@pytest.mark.slow
def test_a_codec_that_can_not_encode_here_is_told(it, found, tmp_path):
    folder = shutil.copytree(it / "codec", tmp_path / "codec")
    module = folder / "small_codec.py"
    module.write_text(module.read_text() + "\n    def encode(self, image):\n        raise ValueError('no')\n")
    spec = CodecSpec("small_codec:Stricter", Target("small_codec", "Stricter"), {})
    with contextlib.chdir(folder), small_certificate.on_path(folder):
        part = reproduced(found.certificate, found.rows, spec, images(), directory=tmp_path / "d", sample=2)
    assert part.state is State.WRONG
    assert "encoding failed" in part.said


def test_another_version_and_another_prior_are_named(it, found, tmp_path):
    package = next(part for part in found.certificate.subject if part.kind == "package")
    other = tuple(replace(part, sha256="0" * 64) if part is package else part for part in found.certificate.subject)
    part = again(it, found, tmp=tmp_path, change={"subject": other, "prior": "big"}, sample=2)
    assert part.state is State.UNTOLD
    assert part.said.endswith("but not of the certified codec")
    assert part.wrong[0] == "another prior: big there, none here"
    assert part.wrong[1].startswith("another version of the codec: ")
    assert part.wrong[1].endswith(", package, has other content")
    part = again(it, found, tmp=tmp_path, change={"subject": other}, sample=2, any_version=True)
    assert part.state is State.RIGHT
    assert any(line.startswith("another version of the codec: ") for line in part.notes)


@pytest.mark.slow
def test_damage_that_this_codec_can_not_have_is_no_reproduction(it, found, tmp_path):
    rows = [replace(row, channel="header-bsc(ber=0.001)") for row in found.rows]
    part = again(it, found, "Headless", tmp_path, rows=rows, sample=2)
    assert part.state is State.WRONG
    assert part.said.startswith("no: ")
