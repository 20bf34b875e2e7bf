"""``robustkit corrupt``: the channel's damage, counted and repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import cli

from robustkit import channels
from robustkit.codecs.jpeg import Jpeg


def corrupted(here, *arguments):
    told = cli("corrupt", *arguments, "photo.jpg", "hit.jpg").stderr
    return (here / "hit.jpg").read_bytes(), told


def flips(one, other):
    return int(np.bitwise_count(np.frombuffer(one, np.uint8) ^ np.frombuffer(other, np.uint8)).sum())


def test_corrupt_applies_the_channel_and_counts_the_flips(stream, here):
    hit, told = corrupted(here, "--channel", "bsc", "--ber", "1e-2", "--seed", "7")
    count = flips(stream, hit)
    assert 0.005 < count / (8 * len(stream)) < 0.02
    assert told == f"hit.jpg: bsc(ber=0.01), seed 7: {count} of {8 * len(stream)} bits flipped\n"
    rng = channels.generator("", "", "bsc(ber=0.01)", 0, seed=7)
    assert hit == channels.parse("bsc(ber=1e-2)").sample(8 * len(stream), rng).apply(stream)


def test_corrupt_is_decided_by_channel_and_seed(stream, here):
    once, _ = corrupted(here, "--channel", "bsc", "--ber", "0.01", "--seed", "7")
    again, _ = corrupted(here, "--channel", "bsc(ber=1e-2)", "--seed", "7")
    named, _ = corrupted(here, "--channel", "bsc(ber=1e-2)", "--seed", "7", "--codec", "jpeg")
    other, _ = corrupted(here, "--channel", "bsc(ber=1e-2)", "--seed", "8")
    assert once == again == named != other


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["gilbert-elliott", "--ber", "0.01", "--burst", "16"], "gilbert-elliott(ber=0.01, burst=16)"),
        (["burst", "--length", "32"], "burst(length=32)"),
        (["byte-erasure", "--rate", "0.05"], "byte-erasure(rate=0.05)"),
        (["truncation", "--keep", "0.5"], "truncation(keep=0.5)"),
    ],
)
def test_every_channel_has_its_options(stream, here, arguments, name):
    hit, told = corrupted(here, "--channel", *arguments)
    assert f"hit.jpg: {name}, seed 0: " in told
    assert hit != stream
    if "truncation" in name:
        assert stream.startswith(hit)
        assert f"{len(stream) - len(hit)} of {len(stream)} bytes cut off" in told


@pytest.mark.parametrize("part", ["header", "payload"])
def test_a_part_of_the_stream_needs_its_codec(stream, here, part):
    wrong = cli("corrupt", "--channel", f"{part}-bsc", "--ber", "0.01", "photo.jpg", "hit.jpg", status=2).stderr
    assert "--codec NAME" in wrong
    hit, told = corrupted(here, "--channel", f"{part}-bsc", "--ber", "0.01", "--codec", "jpeg")
    bits = np.unpackbits(np.frombuffer(stream, np.uint8) ^ np.frombuffer(hit, np.uint8))
    layout = Jpeg().layout(stream)
    assert set(np.flatnonzero(bits)) <= set(layout.bits_of(header=part == "header"))
    assert bits.any()
    assert ("scan 1 data" in told) == (part == "payload")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["bsk", "--ber", "1"], "bsc"),
        (["bsc"], "ber is missing"),
        (["bsc", "--ber", "2"], "ber"),
        (["bsc", "--ber", "x"], "is not a number"),
        (["bsc", "--length", "3"], "no parameter 'length'"),
        (["bsc(ber=0.1)", "--ber", "0.2"], "leave --ber out"),
        (["bsc(ber=0.1)", "--set", "a=1"], "--codec"),
    ],
)
def test_a_channel_that_is_wrong_exits_with_2(stream, arguments, word):
    assert word in cli("corrupt", "--channel", *arguments, "photo.jpg", "hit.jpg", status=2).stderr


def test_an_empty_file_is_left_as_it_is(here):
    (here / "photo.jpg").write_bytes(b"")
    hit, told = corrupted(here, "--channel", "bsc", "--ber", "0.5")
    assert hit == b""
    assert "0 of 0 bits flipped" in told
    for part in ("header", "payload"):
        arguments = ["--channel", f"{part}-bsc", "--ber", "0.5", "--codec", "jpeg"]
        told = cli("corrupt", *arguments, "photo.jpg", "out.jpg", status=1).stderr
        assert f"photo.jpg: it is empty and has no {part}, so {part}-bsc(ber=0.5) can't hit it" in told
        assert "promise" not in told
        assert not (here / "out.jpg").exists()


def test_a_part_that_the_codec_does_not_find_is_said(here):
    (here / "photo.jpg").write_bytes(b"no JPEG at all")
    arguments = ["--channel", "header-burst", "--length", "3", "--codec", "jpeg", "photo.jpg", "out.jpg"]
    told = cli("corrupt", *arguments, status=1).stderr
    assert "photo.jpg: jpeg finds no header in it, so header-burst(length=3) can't hit it; --channel burst can" in told


def test_a_dash_is_standard_input_and_output(stream, here):
    expected, told = corrupted(here, "--channel", "bsc", "--ber", "0.01", "--codec", "jpeg")
    piped = cli("corrupt", "--channel", "bsc", "--ber", "0.01", "--codec", "jpeg", "-", "-", stdin=stream)
    assert piped.stdout_bytes == expected
    assert piped.stderr == told.replace("hit.jpg", "standard output")
    assert not (here / "-").exists()
