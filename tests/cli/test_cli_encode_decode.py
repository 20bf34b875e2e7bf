"""``robustkit encode`` and ``decode``: the codec's own results, what is refused, and with which exit status."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from command_line import BROKEN, cli, module
from PIL import Image as PillowImage

from robustkit.codecs.jpeg import Jpeg


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
        (["--codec", "jpeg", "--set", "quality=1", "--set", "jpeg:quality=2"], "given twice"),
        (["--codec", "jpeg", "--set", "webp:quality=1"], "'webp' is not among the codecs jpeg"),
        (["--codec", "jpeg", "--set", "quality=" + "[" * 2000], "nested too deeply"),
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
    for name in ("out.psd", "out.hdf", "out.xbm", "out"):
        told = cli("decode", "--codec", "jpeg", "photo.jpg", name, status=2).stderr
        assert f"OUT is {name}: Pillow writes no such format, end it in .png, or .apng, " in told
        assert ".psd" not in told.partition("end it in")[2]
    assert "can't be written" in cli("encode", "--codec", "jpeg", "photo.png", "no/where.jpg", status=1).stderr
    assert "can't be written" in cli("decode", "--codec", "jpeg", "photo.jpg", "no/where.png", status=1).stderr
    assert "can't be read" in cli("encode", "--codec", "jpeg", __file__, "out.jpg", status=1).stderr


def test_a_codec_that_is_not_there_exits_with_1(photo):
    told = cli("encode", "--codec", "no_such_module:Codec", "photo.png", "out.bin", status=1).stderr
    assert "No module named 'no_such_module'" in told


# --- standard input and output


def test_a_dash_is_standard_input_and_output(photo, stream, here):
    source = (here / "photo.png").read_bytes()
    made = cli("encode", "--codec", "jpeg", "-", "-", stdin=source)
    assert made.stdout_bytes == stream
    assert made.stderr.startswith(f"standard output: {len(stream)} bytes for 64x64")
    shown = cli("decode", "--codec", "jpeg", "-", "-", stdin=stream)
    with PillowImage.open(io.BytesIO(shown.stdout_bytes)) as opened:
        assert opened.format == "PNG"
        np.testing.assert_array_equal(np.array(opened), Jpeg().decode(stream))
    assert shown.stderr.startswith("standard output: 64x64")
    assert not (here / "-").exists()


def test_a_file_called_dash_is_named_with_its_folder(stream, here):
    cli("encode", "--codec", "jpeg", "photo.png", "./-")
    assert (here / "-").read_bytes() == stream
    assert cli("decode", "--codec", "jpeg", "./-", "out.png").stdout == ""


def test_what_comes_from_standard_input_may_be_wrong(here):
    told = cli("encode", "--codec", "jpeg", "-", "out.jpg", stdin=b"no image", status=1).stderr
    assert told.startswith("Error: standard input can't be read as an image")
    told = cli("decode", "--codec", "jpeg", "-", "out.png", stdin=b"", status=1).stderr
    assert told.startswith("Error: standard input: refused: ")


def test_a_codec_that_prints_leaves_standard_output_to_the_stream(photo, here):
    module(here, "chatty", BROKEN.format(encode="EncodeError('no')", decode="pass"))
    text = (here / "chatty.py").read_text()
    (here / "chatty.py").write_text(text.replace("raise EncodeError('no')", "print('hello'); return b'stream'"))
    program = [sys.executable, "-m", "robustkit", "encode", "--codec", "chatty:Broken", "photo.png", "-"]
    assert subprocess.run(program, capture_output=True, timeout=60, check=True).stdout == b"stream"


def test_commands_may_be_piped(stream, here):
    me = f"{shlex.quote(sys.executable)} -m robustkit"
    line = f"{me} corrupt --channel 'bsc(ber=0)' - - | {me} decode --codec jpeg - -"
    done = subprocess.run(line, shell=True, input=stream, capture_output=True, timeout=60, check=True)
    assert done.stdout.startswith(b"\x89PNG")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_more_than_a_pipe_holds_arrives_whole_or_ends_quietly(unbuffered):
    command = f"{shlex.quote(sys.executable)} -m robustkit corrupt --channel 'bsc(ber=0)' - -"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for reader, arrived, told in [("(sleep 1; wc -c)", b"1048576", b"bits flipped"), ("head -c 1", b"x", b"")]:
        done = subprocess.run(
            f"{command} | {reader}", shell=True, input=b"x" * 2**20, env=environment, capture_output=True, timeout=60
        )
        assert done.stdout.strip() == arrived
        assert told in done.stderr
        assert b"Broken pipe" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals to open here")
def test_a_terminal_gets_no_bitstream(photo):
    terminal, inside = os.openpty()
    try:
        program = [sys.executable, "-m", "robustkit", "encode", "--codec", "jpeg", "photo.png", "-"]
        done = subprocess.run(program, stdout=inside, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(terminal)
        os.close(inside)
    assert done.returncode == 2
    assert b"standard output is a terminal" in done.stderr
