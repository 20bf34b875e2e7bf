"""``robustkit replay``: the same outcome, or another one."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import BROKEN, cli, module

from robustkit.codecs.jpeg import Jpeg
from robustkit.isolation import Limits, fingerprint
from robustkit.judging.replay import Replay, save_replay
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.registry import CodecSpec, Target


def stored(stream, outcome, *, spec=None, pattern=None, clean=None, message="then", name="case", **more):
    spec = spec or CodecSpec("jpeg", Target("robustkit.codecs.jpeg", "Jpeg"), {})
    damaged = stream if pattern is None else pattern.apply(stream)
    return save_replay(
        f"{name}.replay.json",
        Replay(spec, damaged, outcome, message, shape=(64, 64), pattern=pattern, clean=clean, **more),
    )


def test_replay_shows_the_damage_and_the_same_outcome(stream, here):
    pattern = ErrorPattern(8 * len(stream), np.array([5]))
    claim = "decode.survives.header-flips"
    path = stored(stream, Outcome.REFUSED, pattern=pattern, regions=("bit 5: SOI marker",), claim=claim)
    lines = cli("replay", path).stdout.splitlines()
    assert lines[:4] == ["codec:  jpeg", f"claim:  {claim}", f"stream: {len(stream)} bytes", "  bit 5: SOI marker"]
    assert lines[4] == "then:   refused: then"
    assert lines[5].startswith("now:    refused: not a readable JPEG header")


def test_replay_of_another_outcome_exits_with_1(stream):
    result = cli("replay", stored(stream, Outcome.CRASHED, clean=fingerprint(Jpeg().decode(stream))), status=1)
    assert "now:    intact" in result.stdout
    assert "crashed then, intact now" in result.stderr


def test_replay_tells_intact_from_degraded(stream):
    clean = fingerprint(Jpeg().decode(stream))
    cli("replay", stored(stream, Outcome.INTACT, clean=clean))
    cli("replay", stored(stream, Outcome.DEGRADED, clean="0" * 64))
    cli("replay", stored(stream, Outcome.DEGRADED, clean=None))
    cli("replay", stored(stream, Outcome.INTACT, clean="0" * 64), status=1)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("import ctypes; ctypes.string_at(0)", Outcome.CRASHED),
        ("while True: pass", Outcome.HUNG),
        ("return np.zeros((2, 2, 3), np.uint8)", Outcome.MISSHAPEN),
        ("raise KeyError(bitstream[0])", Outcome.RAISED),
        ("bytearray(1 << 36)", Outcome.EXHAUSTED),
    ],
)
def test_replay_survives_what_it_replays(stream, here, body, outcome):
    module(here, "failing", BROKEN.format(encode="EncodeError('no')", decode=body))
    spec = CodecSpec("failing:Broken", Target("failing", "Broken"), {})
    limits = Limits(seconds=1, memory=2**29)
    assert f"now:    {outcome}" in cli("replay", stored(stream, outcome, spec=spec, limits=limits)).stdout


def test_replay_of_no_replay_file_exits_with_1(here):
    (here / "x.replay.json").write_text("{}")
    assert "version is missing" in cli("replay", "x.replay.json", status=1).stderr


def test_replay_of_a_codec_that_is_gone_exits_with_1(stream):
    spec = CodecSpec("gone:Codec", Target("a_module_that_is_gone", "Codec"), {})
    assert "a_module_that_is_gone" in cli("replay", stored(stream, Outcome.REFUSED, spec=spec), status=1).stderr


GONE = CodecSpec("gone:Codec", Target("a_module_that_is_gone", "Codec"), {})


def test_a_folder_of_failures_is_replayed_each_fixed_failed_or_impossible_to_run(stream, here):
    stored(stream, Outcome.CRASHED, name="all/a/mended")
    module(here, "raising", BROKEN.format(encode="EncodeError('no')", decode="raise KeyError(bitstream[0])"))
    spec = CodecSpec("raising:Broken", Target("raising", "Broken"), {})
    stored(stream, Outcome.RAISED, spec=spec, name="all/b/still")
    stored(stream, Outcome.RAISED, spec=GONE, name="all/gone")
    (here / "all" / "torn.replay.json").write_text("{")
    result = cli("replay", "all", status=1)
    lines = result.stdout.splitlines()
    assert lines[0].split(maxsplit=1)[1].startswith("a/mended.replay.json: crashed then, degraded now")
    assert [line.split("  ")[0].strip() for line in lines[:-1]] == ["fixed", "failed", "can't run", "can't run"]
    assert "raised then, raised now: KeyError" in lines[1]
    assert "a_module_that_is_gone" in lines[2]
    assert "torn.replay.json is no replay file" in lines[3]
    assert lines[-1] == "4 stored streams: 1 fixed, 1 failed, 2 can't run"


def test_a_folder_is_fine_only_when_every_failure_is_fixed(stream, here):
    stored(stream, Outcome.CRASHED, name="one/mended")
    assert cli("replay", "one").stdout.endswith("1 stored stream: 1 fixed\n")
    stored(stream, Outcome.RAISED, spec=GONE, name="one/gone")
    assert cli("replay", "one", status=3).stdout.endswith("2 stored streams: 1 fixed, 1 can't run\n")
    # Named on the command line, no file decides what is imported.
    assert cli("replay", "one", "--codec", "jpeg").stdout.endswith("2 stored streams: 2 fixed\n")


def test_a_loss_of_quality_does_not_show_in_an_outcome(stream, here):
    stored(stream, Outcome.DEGRADED, name="lost/a", claim="degradation.quality")
    assert cli("replay", "lost", status=3).stdout.endswith("1 stored stream: 1 can't tell\n")


def test_a_picture_of_the_page_is_nothing_to_fix(stream, here):
    # The page's worst trials lie among the failures, and break no claim.
    stored(stream, Outcome.CRASHED, name="all/mended", claim="decode.survives.trials")
    stored(stream, Outcome.DEGRADED, name="all/worst/a")
    result = cli("replay", "all")
    assert "no failure  worst/a.replay.json: degraded then, degraded now" in result.stdout
    assert result.stdout.endswith("2 stored streams: 1 fixed, 1 no failure\n")


def test_a_picture_of_the_page_that_fails_now_is_told(stream, here):
    module(here, "raising", BROKEN.format(encode="EncodeError('no')", decode="raise KeyError(bitstream[0])"))
    spec = CodecSpec("raising:Broken", Target("raising", "Broken"), {})
    stored(stream, Outcome.DEGRADED, spec=spec, name="all/worst/a")
    assert cli("replay", "all", status=1).stdout.endswith("1 stored stream: 1 failed\n")


def test_a_folder_without_failures_is_no_success(here):
    (here / "empty").mkdir()
    assert "nothing was replayed" in cli("replay", "empty", status=5).stderr


def test_what_lies_behind_links_is_not_replayed(stream, here):
    stored(stream, Outcome.CRASHED, name="elsewhere/a")
    (here / "links").mkdir()
    (here / "links" / "folder").symlink_to(here / "elsewhere")
    (here / "links" / "b.replay.json").symlink_to(here / "elsewhere" / "a.replay.json")
    text = (here / "elsewhere" / "a.replay.json").read_text()
    (here / "links" / "c.replay.json").write_text(text)
    (here / "links" / "a.bin").symlink_to("/dev/zero")
    result = cli("replay", "links", status=3)
    assert result.stdout.count("is a link") == 2
    assert result.stdout.endswith("2 stored streams: 2 can't run\n")


def test_what_a_file_says_steers_no_terminal(stream, here):
    spec = CodecSpec("jpeg\x1b[2J", Target("robustkit.codecs.jpeg", "Jpeg"), {})
    path = stored(stream, Outcome.CRASHED, spec=spec, message="\x1b]0;title\x07")
    assert "\x1b" not in cli("replay", path, status=1).stdout


def test_settings_without_a_codec_are_wrong_usage(stream, here):
    assert "--set needs --codec" in cli("replay", stored(stream, Outcome.REFUSED), "--set", "q=1", status=2).stderr
