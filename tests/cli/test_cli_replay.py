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


def stored(stream, outcome, *, spec=None, pattern=None, clean=None, message="then", **more):
    spec = spec or CodecSpec("jpeg", Target("robustkit.codecs.jpeg", "Jpeg"), {})
    damaged = stream if pattern is None else pattern.apply(stream)
    return save_replay(
        "case.replay.json",
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
