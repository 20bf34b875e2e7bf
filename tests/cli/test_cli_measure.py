"""``robustkit measure``: a profile that the suite proves, a run that goes on, what is wrong said before it begins."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import cli, module
from PIL import Image as PillowImage
from suites import lean

from robustkit import Profile, Promise
from robustkit.cli.measure import CHANNELS

ROOT = Path(__file__).parents[2]
BSC, CUT, HEAD = "bsc(ber=0.01)", "truncation(keep=0.5)", "header-bsc(ber=0.5)"
SMALL = ("--crop", "32", "--trials", "12", "--workers", "1")

#: Stores every fourth pixel behind four bytes that must arrive, and leaves a mark for each decode.
BODY = """
import time
from pathlib import Path

HERE = Path(__file__).parent


class Counted(Codec):
    name = "counted"
    family = "test"

    def __init__(self, *, level=0):
        self.level = level

    def encode(self, image):
        return b"HEAD" + image[::2, ::2].tobytes()

    def decode(self, bitstream):
        with (HERE / "decodes").open("a") as file:
            file.write("x")
        if (HERE / "slow").exists():
            time.sleep(0.05)
        if bitstream[:4] != b"HEAD":
            raise DecodeError("no header")
        if len(bitstream) % 12 != 4:
            raise DecodeError("cut")
        side = int((len(bitstream) / 3) ** 0.5)
        if 3 * side * side + 4 != len(bitstream):
            raise DecodeError("cut")
        return np.frombuffer(bitstream[4:], np.uint8).reshape(side, side, 3).repeat(2, 0).repeat(2, 1)

    def layout(self, bitstream):
        bits = 8 * len(bitstream)
        return Layout((Region("magic", 0, 32, header=True), Region("pixels", 32, bits)), bits)


class Headless(Counted):
    name = "headless"
    layout = Codec.layout
"""


@pytest.fixture(autouse=True)
def few_runs(monkeypatch):
    """Most of the time would go into runs that are played through; tests/judging/test_propose.py has them all."""
    monkeypatch.setattr("robustkit.judging.propose.RUNS", 60)


@pytest.fixture
def codec(here):
    module(here, "counting", BODY)
    return here


def decodes(folder):
    marks = folder / "decodes"
    return marks.stat().st_size if marks.exists() else 0


def measure(*arguments, codec="counting:Counted", channels=(BSC,), small=SMALL, status=0):
    chosen = [word for channel in channels for word in ("--channel", channel)]
    return cli("measure", "--codec", codec, *small, *chosen, *arguments, status=status)


def pasted(output):
    """The Python at the end of the output."""
    text = output[output.rindex("\nprofile = Profile(") :]
    names = {"Profile": Profile, "Promise": Promise}
    exec(text, names)
    assert text.endswith("\n)\n")
    return names["profile"]


# -- a profile


def test_the_profile_is_written_shown_and_ends_the_output_as_python(codec):
    done = measure("--out", "p.toml", channels=(BSC, CUT))
    profile = Profile.from_toml(codec / "p.toml")
    (promise,), (beside,) = profile.promises, pasted(begins(done)).promises
    # The limit that losses are clipped at was slackened after the first mean was taken.
    assert beside.expected_mean_drop == pytest.approx(promise.expected_mean_drop, rel=0.05)
    assert replace(beside, expected_mean_drop=promise.expected_mean_drop) == promise
    (promise,) = profile.promises
    assert str(promise.channel) == BSC
    assert promise.mean_drop > 0
    assert promise.corrupted > 0
    assert profile.metric == "psnr"
    assert profile.bpp == pytest.approx(6.032, abs=0.01)
    assert f"{CUT}: fewer than one trial in ten gave an image, so nothing is promised there" in done.stdout
    assert "counting:Counted: clean psnr " in done.stdout
    assert "6 images, 12 trials of each on 2 channels" in done.stdout
    assert "profile written to p.toml\n" in done.stdout
    assert done.stderr == ""
    measured, proposed = re.split(r"^proposed; .*$", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^truncation\(keep=0\.5\) +72 +1\.000 \[", measured, re.MULTILINE)
    assert re.search(rf"^bsc\(ber=0\.01\) +mean_drop +{promise.mean_drop:g} ", proposed, re.MULTILINE)
    assert re.search(rf"^all promises +refused +{profile.refused:g} ", proposed, re.MULTILINE)


def test_the_file_has_the_codecs_own_name_unless_told(codec):
    assert "profile written to counted.profile.toml" in measure().stdout
    assert {f.name for f in codec.iterdir()} >= {"counted.profile.toml", "counted.profile.toml.trials.jsonl"}


def test_another_metric_and_images_of_ones_own(codec):
    (codec / "images").mkdir()
    rng = np.random.default_rng(0)
    for name, side in (("one", 40), ("other", 48)):
        pixels = np.kron(rng.integers(0, 256, (side // 4, side // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        PillowImage.fromarray(pixels).save(codec / "images" / f"{name}.png")
    (codec / "images" / "notes.txt").touch()
    small = ("--images", "images", "--trials", "36", "--workers", "1")
    done = measure("--metric", "ssim", "--out", "p.toml", small=small)
    profile = pasted(done.stdout)
    assert profile == Profile.from_toml(codec / "p.toml")
    assert (profile.metric, profile.quality) == ("ssim", 0.999)
    assert 'metric="ssim"' in done.stdout
    assert "clean ssim 1 at " in done.stdout
    assert "2 images, 36 trials of each" in done.stdout
    assert "2 images in images; 1 other file left aside" in done.stderr
    # Another crop has other pixels: none of the trials is taken for it.
    done = measure("--metric", "ssim", "--out", "p.toml", "--crop", "24", small=small)
    assert (
        "of other pixels, streams or clean decodes of one.png, other.png: kept as p.toml.trials.jsonl.old"
        in done.stderr
    )
    assert "trials are in" not in done.stderr


def test_one_and_two_processes_propose_the_same(codec):
    one = measure("--out", "one.toml").stdout
    two = measure("--out", "two.toml", small=(*SMALL[:-1], "2")).stdout
    assert pasted(one) == pasted(two)
    assert (codec / "one.toml").read_text() == (codec / "two.toml").read_text()


def test_channels_that_a_codec_has_no_part_for_are_left_out_unless_asked_for(codec):
    whole = measure(channels=()).stdout
    assert all(channel in whole for channel in CHANNELS)
    part = measure(channels=(), codec="counting:Headless").stdout
    assert [c for c in CHANNELS if f"\n{c} " in part] == [c for c in CHANNELS if "header" not in c]
    before = decodes(codec)
    told = measure(channels=(BSC, HEAD), codec="counting:Headless", status=2).stderr
    assert f"--channel {HEAD}: the layout of counting:Headless names no such bits" in told
    # The clean round trips, and no trial.
    assert decodes(codec) == before + 6


# -- going on


def test_a_second_run_decodes_nothing_but_the_clean_streams(codec):
    first = measure("--out", "p.toml").stdout
    kept = codec / "p.toml.trials.jsonl"
    before, count = (kept.read_bytes(), kept.stat().st_mtime_ns), decodes(codec)
    assert count > 72
    done = measure("--out", "p.toml")
    assert decodes(codec) == count + 6
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == before
    assert "72 of 72 trials are in p.toml.trials.jsonl already" in done.stderr

    def same(text):
        return re.sub(r"; \d+ s; ", "", text)

    assert same(done.stdout) == same(first)
    # More trials, and another channel: those alone.
    done = measure("--out", "p.toml", channels=(BSC, HEAD), small=(*SMALL, "--trials", "13"))
    assert "72 of 156 trials are in" in done.stderr
    # A second process is asked of what gave an image.
    assert count + 12 < decodes(codec) <= count + 12 + 2 * 84
    # Of other settings they are not this codec's.
    done = measure("--out", "p.toml", "--set", "level=1")
    assert "p.toml.trials.jsonl has trials of other settings: kept as p.toml.trials.jsonl.old" in done.stderr
    assert "already" not in done.stderr


def test_a_run_that_is_stopped_goes_on(codec):
    (codec / "slow").touch()
    arguments = ["measure", "--codec", "counting:Counted", *SMALL, "--channel", BSC, "--out", "p.toml"]
    kept = codec / "p.toml.trials.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}

    def stopped(by, beyond):
        with subprocess.Popen(
            [sys.executable, "-m", "robustkit", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:
            patience = time.monotonic() + 60
            while not kept.exists() or kept.read_bytes().count(b"\n") <= beyond:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < patience
                time.sleep(0.02)
            process.send_signal(by)
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    status, out, err = stopped(signal.SIGINT, beyond=10)
    first = kept.read_bytes().count(b"\n") - 1
    assert (status, out) == (130, "")
    assert f"stopped: {first} trials are kept in p.toml.trials.jsonl, the same command goes on" in err
    assert "Traceback" not in err
    assert 10 <= first < 72
    assert not (codec / "p.toml").exists()
    # A kill costs the batch that is under way.
    status, _, err = stopped(signal.SIGKILL, beyond=first + 1)
    second = kept.read_bytes().count(b"\n") - 1
    assert status == -signal.SIGKILL
    assert f"{first} of 72 trials are in" in err
    assert first < second < 72
    (codec / "slow").unlink()
    before = decodes(codec)
    gone_on = cli(*arguments)
    assert f"{second} of 72 trials are in" in gone_on.stderr
    assert decodes(codec) <= before + 6 + 2 * (72 - second)
    whole = measure("--out", "undisturbed.toml")
    assert pasted(gone_on.stdout) == pasted(whole.stdout)


def test_a_log_says_now_and_then_how_far_it_is(codec, monkeypatch):
    monkeypatch.setattr("robustkit.cli.measure._LINE_SECONDS", 0)
    lines = measure().stderr.splitlines()
    assert len(lines) == 72
    assert lines[29] == f"{BSC}: 30 of 72 trials, about 0 min left"


# -- what is declared


def declare(folder, profile, name="counting"):
    """A codec with these promises, under the same name."""
    from robustkit.judging.propose import as_python

    lines = "".join(f"    {line}\n" for line in as_python(profile).splitlines())
    module(folder, name, f"{BODY}\n\nclass Promising(Counted):\n    name = 'promising'\n{lines}")


def begins(result):
    """The Python that the output begins with."""
    return "\n" + result.stdout[: result.stdout.index("\n)\n") + 3]


def last(result):
    return result.stdout.splitlines()[-1]


def test_what_was_measured_can_be_pasted_and_checked(codec):
    profile = pasted(measure().stdout)
    declare(codec, profile, "pasted")
    done = measure("--check", codec="pasted:Promising", channels=())
    assert re.match(r"pasted:Promising: ([45]) of \1 limits hold; ", last(done))
    assert re.search(r"^bsc\(ber=0\.01\) +mean_drop +[\d.]+ +kept +(98|99|100)\.\d% ", done.stdout, re.MULTILINE)
    (promise,), (beside,) = profile.promises, pasted(begins(done)).promises
    # The limit that losses are clipped at was slackened after the first mean was taken.
    assert beside.expected_mean_drop == pytest.approx(promise.expected_mean_drop, rel=0.05)
    assert replace(beside, expected_mean_drop=promise.expected_mean_drop) == promise
    assert not (codec / "promising.profile.toml").exists()
    # Its trials serve the next run.
    assert "72 of 72" in measure("--check", codec="pasted:Promising", channels=(BSC,)).stderr
    assert re.search(r"^bsc\(ber=0\.01\): 99% of runs with --robustkit-effort ci catch [\d.]+ dB more in every trial$",
                     done.stdout, re.MULTILINE)  # fmt: skip
    half = replace(promise, mean_drop=0.3 * promise.mean_drop, expected_mean_drop=None)
    declare(codec, replace(profile, promises=(half,)), "tighter")
    done = measure("--check", codec="tighter:Promising", channels=(), status=1)
    assert re.match(r"tighter:Promising: (3 of 4|4 of 5) limits hold; ", last(done))
    assert re.search(r"mean_drop +[\d.]+ +broken ", done.stdout)
    double = Promise(BSC, 2 * promise.mean_drop, 2 * promise.p5_drop, corrupted=1.0)
    declare(codec, replace(profile, refused=1.0, promises=(double,)), "looser")
    done = measure("--check", codec="looser:Promising", channels=())
    assert last(done) == "looser:Promising: 4 of 4 limits hold; 4 could be 20% tighter"
    # What was measured stands beside any limits.
    (loose,) = pasted(begins(done)).promises
    assert (loose.mean_drop, loose.p5_drop) == (double.mean_drop, double.p5_drop)
    assert promise.expected_mean_drop <= loose.expected_mean_drop < promise.mean_drop


def test_a_clean_quality_or_rate_that_is_not_kept_is_said(codec):
    profile = Profile(bpp=6.0, quality=90.0, refused=1.0, promises=(Promise(BSC, 90.0, 90.0, 1.0),))
    declare(codec, profile)
    done = measure("--check", codec="counting:Promising", channels=(), status=1)
    assert last(done).endswith("; clean quality is worse than declared; the clean rate is above the declared")


def test_a_promise_under_which_nothing_gives_an_image_holds_as_in_the_suite(codec):
    promises = (Promise(CUT, mean_drop=1.0, p5_drop=1.0, corrupted=1.0), Promise(BSC, 90.0, 90.0, 1.0))
    declare(codec, Profile(bpp=7.0, quality=9.0, refused=1.0, promises=promises))
    done = measure("--check", codec="counting:Promising", channels=())
    assert "6 of 7 limits hold; 1 can't be judged, because no trial gave an image;" in last(done)
    # The refused share is of all promises together: of one of them it is not known.
    assert "2 of 3 limits hold;" in last(measure("--check", codec="counting:Promising", channels=(CUT,)))


def test_what_can_not_be_checked_is_wrong_usage(codec):
    assert "declares no promises" in measure("--check", channels=(), status=2).stderr
    declare(codec, Profile(bpp=7.0, quality=9.0, promises=(Promise(CUT, 1.0, 1.0),)))
    told = measure("--check", codec="counting:Promising", status=2).stderr
    assert f"--channel {BSC}: counting:Promising promises nothing there" in told
    told = measure("--check", "--metric", "ssim", codec="counting:Promising", channels=(), status=2).stderr
    assert "--metric ssim: counting:Promising declares its promises in psnr" in told


# -- what is wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codec", "jpag"], "did you mean jpeg, "),
        (["--channel", "bsk(ber=0.1)"], "no channel is named 'bsk': did you mean bsc"),
        (["--channel", "bsc(ber=2)"], "ber"),
        (["--metric", "psnrr"], "psnr"),
        (["--metric", "ssim", "--crop", "8"], "ssim can't measure images of shape (8, 8, 3)"),
        (["--images", "nowhere"], "nowhere is not a folder: give a folder of image files, or one of skimage, kodak24"),
        (["--crop", "999"], "a crop of 999 does not fit"),
        (["--set", "level"], "KEY=VALUE"),
        (["--set", "nothing=1"], "nothing"),
        (
            ["--trials", "9"],
            "--trials 9: fewer than 11 trials of each of 6 images on a channel decide nothing, give 11",
        ),
        (["--seed", "0"], "--seed 0 is the suite's own: give another"),
    ],
)
def test_wrong_usage_exits_with_2_before_anything_is_decoded(codec, arguments, message):
    done = measure(*arguments, status=2)
    assert message in done.stderr
    assert done.stdout == ""
    assert decodes(codec) == 0
    assert not list(codec.glob("*.jsonl"))


def test_what_goes_wrong_later_is_a_message(codec):
    assert "No module named 'nowhere'" in measure(codec="nowhere:Codec", status=1).stderr
    (codec / "odd.toml.trials.jsonl").write_text("hello\n")
    told = measure("--out", "odd.toml", status=1).stderr
    assert "odd.toml.trials.jsonl is no file of trials: remove the file" in told
    (codec / "file").touch()
    assert "can't be" in measure("--out", "file/p.toml", status=1).stderr
    module(codec, "failing", BODY.replace('raise DecodeError("no header")', "...").replace('b"HEAD" +', "b'' +"))
    told = measure(codec="failing:Counted", status=1).stderr
    assert re.search(r"^Error: failing:Counted: astronaut: decoding the clean stream: ", told, re.MULTILINE)


# -- the suite


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Runs Python in a folder where the codec is that loses 3 dB after any damage."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = [str(ROOT), str(ROOT / "tests" / "quality"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def run(*arguments):
        program = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            program, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return run


@pytest.mark.slow
def test_the_suite_proves_the_profile_and_breaks_a_tighter_one(hostile, tmp_path):
    file, channels = tmp_path / "profile.toml", ("--channel", "bsc(ber=0.001)", "--channel", "truncation(keep=0.99)")
    small = ("--crop", "64", "--trials", "30", "--workers", "1", "--out", file)
    done = hostile("-m", "robustkit", "measure", "--codec", "hostile:Degrades", *small, *channels)
    assert done.returncode == 0, done.stdout + done.stderr
    profile = Profile.from_toml(file)
    assert [str(p.channel) for p in profile.promises] == ["bsc(ber=0.001)", "truncation(keep=0.99)"]
    assert 3.0 < profile.promises[0].mean_drop < 3.5
    tighter = tmp_path / "tighter.toml"
    tightened = [Promise(p.channel, 0.8 * p.mean_drop, 0.8 * p.p5_drop, p.corrupted) for p in profile.promises]
    tighter.write_text(replace(profile, promises=tuple(tightened)).to_toml(), encoding="utf-8")
    suite = ["-m", "pytest", ROOT / "conformance", *lean(), "--codec", "hostile:Degrades"]
    done = hostile(*suite, "--robustkit-crop=64", "--robustkit-profile", file)
    assert done.returncode == 0, done.stdout + done.stderr
    done = hostile(*suite, "--robustkit-crop=64", "--robustkit-profile", tighter, "-k", "quality_degrades")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "broken" in done.stdout
