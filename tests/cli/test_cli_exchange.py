"""``robustkit exchange``: streams carried to another machine, and who agrees with whom."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from command_line import BROKEN, cli, module

from robustkit.judging import exchange


def test_streams_are_made_and_checked(here):
    made = cli("exchange", "make", "x", "--codec", "jpeg", "--crop", "32")
    assert made.stdout.startswith("x: 2 streams of jpeg; facts: ")
    rows = [line.split() for line in made.stdout.splitlines()[2:]]
    assert rows == [["as", "it", "is", "same"], ["default", "same"]]
    checked = cli("exchange", "check", "x", "--codec", "jpeg")
    assert [line.split() for line in checked.stdout.splitlines()[3:]] == rows
    assert checked.stdout.startswith("there: ")


def test_who_disagrees_is_told_from_who_agrees(here):
    cli("exchange", "make", "x", "--codec", "jpeg", "--crop", "32")
    bundle = exchange.read(here / "x")
    first, second = bundle.made
    near = tuple(image - (image > 100).astype(np.uint8) for image in second.images)
    other = exchange.Made("avx2, 1 thread", (near[0], "crashed: SIGSEGV"))
    there = replace(bundle, made=(first, replace(second, images=near), other), sources="0" * 64, tolerance=(1.0, 1.0))
    exchange.write(here / "x", there)
    checked = cli("exchange", "check", "x", "--codec", "jpeg")
    assert "source files there were others than here" in checked.stdout
    row = checked.stdout.splitlines()[-4]
    assert row.split()[:2] == ["default", "same"]
    assert "1/0." in row
    assert "desynchronised: crashed" in row
    assert checked.stdout.splitlines()[-3:] == ["1: as it is", "2: default", "3: avx2, 1 thread"]
    # The process that wrote the streams comes first, and decides.
    exchange.write(here / "x", replace(there, made=there.made[1:], tolerance=(0.0, 0.0)))
    assert "desynchronised 1/" in cli("exchange", "check", "x", "--codec", "jpeg", status=1).stdout


def test_another_codec_or_setting_is_refused(here):
    cli("exchange", "make", "x", "--codec", "jpeg", "--crop", "32", "--set", "quality=30")
    said = cli("exchange", "check", "x", "--codec", "png", status=2).stderr
    assert "streams of 'jpeg', not of 'png'" in said
    said = cli("exchange", "check", "x", "--codec", "jpeg", status=2).stderr
    assert "were written with quality = 30: give --set as `make` had it" in " ".join(said.split())
    cli("exchange", "check", "x", "--codec", "jpeg", "--set", "quality=30")


def test_the_codec_that_the_folder_names_is_never_loaded(here):
    cli("exchange", "make", "x", "--codec", "jpeg", "--crop", "32")
    data = json.loads((here / "x/exchange.json").read_text())
    module(here, "evil", "import pathlib\npathlib.Path('ran').touch()")
    data["codec"] = "evil:Codec\x1b[31m"
    (here / "x/exchange.json").write_text(json.dumps(data))
    said = cli("exchange", "check", "x", "--codec", "jpeg", status=2).stderr
    assert "\x1b" not in said
    assert not (here / "ran").exists()


def test_mistakes_have_a_message(here):
    (here / "empty").mkdir()
    assert "exchange.json is missing" in cli("exchange", "check", "empty", "--codec", "jpeg", status=1).stderr
    cli("exchange", "make", "x", "--codec", "jpeg", "--crop", "5000", status=2)
    module(here, "broken", BROKEN.format(encode="EncodeError('no')", decode="pass"))
    said = cli("exchange", "make", "y", "--codec", "broken:Broken", status=1).stderr
    assert "astronaut: no" in said
    assert not (here / "y").exists()
