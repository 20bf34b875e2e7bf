"""``robustkit statuses``: how a program ends on damaged streams, counted, with what to write into its file."""

from __future__ import annotations

import re
import sys

import pytest
from command_line import cli

# The stream is 128 zeros, a CRC of the image, and the image as PPM; the decoder has a vice for each kind of damage.
ENCODER = """
import sys, zlib
image = open(sys.argv[1], "rb").read()
open(sys.argv[2], "wb").write(bytes(128) + zlib.crc32(image).to_bytes(4, "big") + image)
"""
DECODER = """
import os, signal, sys, zlib
stream = open(sys.argv[1], "rb").read()
if len(stream) < 12433:
    sys.exit("stream 4711 is too short")
if any(stream[:64]):
    print("corrupt:", max(stream[:64]), flush=True)
    os.kill(os.getpid(), signal.SIGABRT)
if any(stream[64:128]):
    {}[stream[64:128]]
image = stream[132:]
if image[:15] != b"P6\\n64 64\\n255\\n" + image[13:15]:
    print("header?")
    sys.exit(3)
open(sys.argv[2], "wb").write(image)
if zlib.crc32(image) != int.from_bytes(stream[128:132], "big"):
    print("checksum differs")
    sys.exit(2)
"""


@pytest.fixture
def file(here):
    (here / "enc.py").write_text(ENCODER)
    (here / "dec.py").write_text(DECODER)
    (here / "codec.toml").write_text(
        f'name = "x"\nencode = "{sys.executable} enc.py {{input}} {{output}}"\n'
        f'decode = "{sys.executable} dec.py {{input}} {{output}}"\nimage = ".ppm"\ndecoded = ".ppm"\n'
    )
    return here / "codec.toml"


def test_the_table_has_every_end_with_what_it_left(file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    told = cli("statuses", "--flips", "40", file).stdout
    title, heading, *rows = told.splitlines()
    assert re.fullmatch(r".*codec\.toml: 60 damaged streams of 12433 bytes; whole, it gives 64x64 pixels", title)
    assert heading.split() == [
        *("end", "streams", "image", "other", "size", "no", "image", "counts", "as", "said", "first")
    ]
    ends = {row.split("  ")[0]: row for row in rows}
    assert re.search(r"status 2 +(\d+) +\1 +raised +checksum differs", ends["status 2"])
    assert re.search(r"status 1 +(\d+) +\1 +(raised, refused|refused, raised)", ends["status 1"])
    assert re.search(r"SIGABRT +(\d+) +\1 +crashed +corrupt: \d+$", ends["SIGABRT"].strip())
    assert "Left an image as a rule; if it came with a warning: image_statuses = [2]" in told
    assert cli("statuses", "--flips", "40", file).stdout == told


def test_the_advice_is_followed_and_gone(file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    file.write_text(file.read_text() + "image_statuses = [2]\nrefused = 'any'\n")
    told = cli("statuses", "--flips", "30", "--seed", "3", file).stdout
    assert re.search(r"status 2 +(\d+) +\1 +image +checksum differs", told)
    assert "image_statuses" not in told


def test_what_can_t_be_tried_says_why(file, here):
    (here / "other.toml").write_text('codec = "jpeg"')
    assert "no command lines" in cli("statuses", "other.toml", status=2).stderr
    (here / "dec.py").write_text("import sys; sys.exit('not today')")
    assert "the undamaged stream is refused: not today" in cli("statuses", file, status=1).stderr
    (here / "enc.py").write_text("import sys; sys.exit('never')")
    assert "encode: never" in cli("statuses", file, status=1).stderr
    (here / "enc.py").unlink()
    assert "enc.py is not there" in cli("statuses", file, status=1).stderr
