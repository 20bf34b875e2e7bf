"""The command line: what it prints, what it refuses and with which exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage

from robustkit import channels
from robustkit.cli import main
from robustkit.codecs.jpeg import Jpeg
from robustkit.images import photographs
from robustkit.isolation import Limits, fingerprint
from robustkit.judging.replay import Replay, save_replay
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.registry import CodecSpec, Registry, Target


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def photo(here):
    PillowImage.fromarray(photographs(crop=64)["coffee"]).save("photo.png")
    return photographs(crop=64)["coffee"]


@pytest.fixture
def stream(photo, here):
    data = Jpeg().encode(photo)
    (here / "photo.jpg").write_bytes(data)
    return data


def cli(*arguments, status=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    if result.exception is not None:
        assert isinstance(result.exception, SystemExit), result.exc_info
    return result


def module(folder, name, body):
    text = "from robustkit import *\nimport numpy as np\n" + textwrap.dedent(body)
    (folder / f"{name}.py").write_text(text)


BROKEN = """
class Broken(Codec):
    name = "broken"
    family = "test"
    def encode(self, image):
        raise {encode}
    def decode(self, bitstream):
        {decode}
"""


@pytest.mark.parametrize("command", ["codecs", "encode", "decode", "corrupt", "replay", "calibrate-prior"])
def test_help_teaches_by_example(command):
    text = cli(command, "--help").stdout
    assert re.search(rf"Examples:\n +robustkit {command}\b", text)
    assert command in cli("-h").stdout


def test_importing_the_command_line_is_light():
    program = "import sys, robustkit.cli; assert not {'torch', 'PIL', 'pyiqa', 'skimage'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# --- codecs


@pytest.fixture
def registered(monkeypatch):
    found = Registry(entry_points=False)
    found.add("jpeg", Target("robustkit.codecs.jpeg", "Jpeg"), "robustkit")
    monkeypatch.setattr("robustkit.cli.registry", found)
    return found


def test_codecs_lists_every_key(registered):
    rows = json.loads(cli("codecs", "--json").stdout)
    assert rows == [
        {"name": "jpeg", "family": "classical", "origin": "robustkit", "bpp": Jpeg().profile.bpp, "available": True,
         "reason": None}
    ]  # fmt: skip
    assert re.search(r"jpeg +classical +robustkit +1\.05 +yes", cli("codecs").stdout)


def test_a_broken_codec_is_a_row_with_a_reason(registered, here):
    cases = {
        "raises": "raise RuntimeError('no [bold] licence')",
        "exits": "import sys; sys.exit(0)",
        "crashes": "import ctypes; ctypes.string_at(0)",
        "prints": "print('hello'); import os; os.write(1, b'more'); raise OSError('disk on fire')",
        "imports": "import a_library_nobody_has",
        "empty": "",
    }
    for name, body in cases.items():
        module(here, name, body)
        registered.add(name, Target(name, "Codec1"), "somebody")
    rows = {row["name"]: row for row in json.loads(cli("codecs", "--json").stdout)}
    assert rows.pop("jpeg")["available"]
    assert {name for name, row in rows.items() if not row["available"]} == set(cases)
    wanted = {
        "raises": "no [bold] licence",
        "exits": "SystemExit",
        "crashes": "SIGSEGV",
        "prints": "disk on fire",
        "imports": "a_library_nobody_has",
        "empty": "has no attribute 'Codec1'",
    }
    for name, reason in wanted.items():
        assert reason in rows[name]["reason"]
    plain = cli("codecs").stdout
    assert "no [bold] licence" in plain
    assert "Traceback" not in plain


# --- encode and decode


def test_encode_and_decode_are_the_codec_s(photo, here):
    told = cli("encode", "--codec", "jpeg", "--set", "quality=80", "photo.png", "out.jpg").stderr
    data = (here / "out.jpg").read_bytes()
    assert data == Jpeg(quality=80).encode(photo)
    assert f"out.jpg: {len(data)} bytes for 64x64, {8 * len(data) / 64**2:.4f} bpp" in told
    assert "out.png: 64x64" in cli("decode", "--codec", "jpeg", "out.jpg", "out.png").stderr
    with PillowImage.open("out.png") as opened:
        np.testing.assert_array_equal(np.array(opened), Jpeg().decode(data))


def test_settings_are_toml_values_or_else_text(photo, here):
    settings = ["--set", "bpp=2.5", "--set", "check_size=false", "--set", "subsampling=4:4:4"]
    cli("encode", "--codec", "jpeg", *settings, "photo.png", "out.jpg")
    expected = Jpeg(bpp=2.5, check_size=False, subsampling="4:4:4").encode(photo)
    assert (here / "out.jpg").read_bytes() == expected


def test_a_grey_image_is_encoded_with_a_note(here):
    PillowImage.new("L", (16, 16), 200).save("grey.png")
    assert "grey.png: grey image converted to RGB" in cli("encode", "--codec", "jpeg", "grey.png", "o.jpg").stderr


@pytest.mark.parametrize(("mode", "hint"), [("I;16", "-depth 8"), ("RGBA", "-alpha remove")])
def test_other_images_are_refused_with_the_way_out(here, mode, hint):
    PillowImage.new(mode, (16, 16)).save("odd.png")
    assert hint in cli("encode", "--codec", "jpeg", "odd.png", "out.jpg", status=1).stderr
    assert not (here / "out.jpg").exists()


def test_a_damaged_stream_is_an_error_message(stream, here):
    (here / "cut.jpg").write_bytes(stream[:-100])
    told = cli("decode", "--codec", "jpeg", "cut.jpg", "out.png", status=1).stderr
    assert told.startswith("Error: cut.jpg: refused: ")
    assert not (here / "out.png").exists()
    cli("decode", "--codec", "jpeg", "--set", "truncated=tolerate", "cut.jpg", "out.png")


def test_an_encode_error_is_an_error_message(photo):
    told = cli("encode", "--codec", "jpeg", "--set", "max_pixels=100", "photo.png", "out.jpg", status=1).stderr
    assert told.startswith("Error: jpeg refuses photo.png: 64x64 is 4096 pixels, above max_pixels = 100")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("import ctypes; ctypes.string_at(0)", "crashed"),
        ("import os; os._exit(0)", "crashed"),
        ("while True: pass", "hung"),
        ("return np.zeros((2, 2))", "misshapen"),
        ("raise KeyError('lost')", "raised"),
        ("raise SystemExit(0)", "raised"),
    ],
)
def test_a_decoder_that_fails_is_an_error_message(stream, here, body, word):
    module(here, "failing", BROKEN.format(encode="EncodeError('no')", decode=body))
    told = cli("decode", "--codec", "failing:Broken", "--time-limit", "1", "photo.jpg", "out.png", status=1).stderr
    assert told.startswith(f"Error: photo.jpg: {word}")
    assert not (here / "out.png").exists()


WEIGHTED = """
class Weighted(Codec):
    name = "weighted"
    family = "test"
    def encode(self, image, weights=None):
        if weights is None or weights.shape != image.shape[:2]:
            raise EncodeError("give weights of the image's size")
        return image[:1].tobytes() + weights.tobytes()
    def decode(self, bitstream):
        raise DecodeError("no")
"""


def test_weights_are_the_grey_levels_of_a_map(photo, here):
    module(here, "weighted", WEIGHTED)
    grey = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    PillowImage.fromarray(grey).save("map.png")
    cli("encode", "--codec", "weighted:Weighted", "--weights", "map.png", "photo.png", "out.bin")
    assert (here / "out.bin").read_bytes() == photo[:1].tobytes() + grey.tobytes()


def test_weights_that_are_wrong(photo, here):
    module(here, "weighted", WEIGHTED)
    PillowImage.new("L", (64, 32), 9).save("low.png")
    PillowImage.new("RGB", (64, 64), (9, 9, 8)).save("red.png")
    for codec, weights, word in [
        ("weighted:Weighted", "low.png", "weighted:Weighted refuses photo.png: give weights of the image's size"),
        ("weighted:Weighted", "red.png", "red.png is coloured and a map is grey: convert it first"),
        ("jpeg", "low.png", "jpeg refuses photo.png: this codec takes no weights"),
    ]:
        assert word in cli("encode", "--codec", codec, "--weights", weights, "photo.png", "out.bin", status=1).stderr
        assert not (here / "out.bin").exists()
    assert (
        "nowhere.png" in cli("encode", "--codec", "jpeg", "--weights", "nowhere.png", "photo.png", "o", status=2).stderr
    )


def test_an_encoder_that_fails_is_an_error_message(photo, here):
    module(here, "failing", BROKEN.format(encode="ZeroDivisionError('oops')", decode="pass"))
    assert "oops" in cli("encode", "--codec", "failing:Broken", "photo.png", "out.bin", status=1).stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--codec", "jpag"], "did you mean jpeg, "),
        (["--codec", "jpeg", "--set", "quality"], "KEY=VALUE"),
        (["--codec", "jpeg", "--set", "quality=0"], "from 1 to 100"),
        (["--codec", "jpeg", "--set", "qualify=9"], "qualify"),
        (["--codec", "jpeg", "--set", "quality=1", "--set", "quality=2"], "given twice"),
        ([], "--codec"),
    ],
)
@pytest.mark.parametrize("command", ["encode", "decode"])
def test_wrong_usage_exits_with_2(stream, command, arguments, word):
    files = ("photo.png", "out.jpg") if command == "encode" else ("photo.jpg", "out.png")
    assert word in cli(command, *arguments, *files, status=2).stderr


def test_files_that_are_wrong(stream):
    assert "nowhere.png" in cli("encode", "--codec", "jpeg", "nowhere.png", "out.jpg", status=2).stderr
    assert "end it in .png" in cli("decode", "--codec", "jpeg", "photo.jpg", "out.xyz", status=2).stderr
    assert "can't be written" in cli("encode", "--codec", "jpeg", "photo.png", "no/where.jpg", status=1).stderr
    assert "can't be written" in cli("decode", "--codec", "jpeg", "photo.jpg", "no/where.png", status=1).stderr
    assert "can't be read" in cli("encode", "--codec", "jpeg", __file__, "out.jpg", status=1).stderr


def test_a_codec_that_is_not_there_exits_with_1(photo):
    told = cli("encode", "--codec", "no_such_module:Codec", "photo.png", "out.bin", status=1).stderr
    assert "No module named 'no_such_module'" in told


# --- corrupt


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


# --- replay


def stored(stream, outcome, *, spec=None, pattern=None, clean=None, message="then", **more):
    spec = spec or CodecSpec("jpeg", Target("robustkit.codecs.jpeg", "Jpeg"), {})
    damaged = stream if pattern is None else pattern.apply(stream)
    return save_replay(
        "case.replay.json",
        Replay(spec, damaged, outcome, message, shape=(64, 64), pattern=pattern, clean=clean, **more),
    )


def test_replay_shows_the_damage_and_the_same_outcome(stream, here):
    pattern = ErrorPattern(8 * len(stream), np.array([5]))
    path = stored(stream, Outcome.REFUSED, pattern=pattern, regions=("bit 5: SOI marker",), claim="header flips")
    lines = cli("replay", path).stdout.splitlines()
    assert lines[:4] == ["codec:  jpeg", "claim:  header flips", f"stream: {len(stream)} bytes", "  bit 5: SOI marker"]
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
