"""BPG: files that Bellard's programs read, and programs' files that we read; damage to every field."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustkit import CodecUnavailable, DecodeError, EncodeError, load_codec
from robustkit.codecs.bpg_syntax import Walk, _ue7
from robustkit.images import photographs


@pytest.fixture(scope="module")
def photograph():
    return photographs()["chelsea"][:97, :131]


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


def at(layout, name):
    (region,) = [r for r in layout if r.name == name]
    return region


@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
def test_an_odd_size_comes_back(photograph, chroma):
    codec = load_codec("bpg", chroma=chroma)
    stream = codec.encode(photograph)
    decoded = codec.decode(stream)
    assert decoded.shape == photograph.shape
    assert psnr(decoded, photograph) > 34
    assert codec.encode(photograph) == stream


def test_what_the_header_says(photograph):
    codec = load_codec("bpg")
    stream = codec.encode(photograph)
    layout = codec.layout(stream)
    assert stream[:4].hex() == "425047fb"
    assert stream[4] >> 5 == 1
    width = at(layout, "width")
    assert stream[width.start // 8 : width.stop // 8] == bytes([0x81, 131 & 0x7F])
    assert [r.name for r in layout][-1] == "slice"
    # Neither a VPS nor an SPS is in a BPG file.
    kinds = [r.name for r in layout if r.name.startswith("NAL unit header")]
    assert kinds == ["NAL unit header, type 34", "NAL unit header, type 20"]


def test_the_quality_sets_rate_and_quality(photograph):
    sizes, qualities = [], []
    for quality in (10, 20, 30, 40):
        codec = load_codec("bpg", quality=quality)
        stream = codec.encode(photograph)
        sizes.append(len(stream))
        qualities.append(psnr(codec.decode(stream), photograph))
    assert sizes == sorted(sizes, reverse=True)
    assert qualities == sorted(qualities, reverse=True)


def test_a_rate_is_come_closest_to(photograph):
    stream = load_codec("bpg", bpp=0.7).encode(photograph)
    assert 8 * len(stream) / photograph[..., 0].size == pytest.approx(0.7, abs=0.05)


@settings(max_examples=15, deadline=None)
@given(st.integers(9, 40), st.integers(9, 40), st.sampled_from(["4:2:0", "4:4:4"]))
def test_any_size_comes_back(height, width, chroma):
    image = np.full((height, width, 3), (200, 90, 30), np.uint8)
    codec = load_codec("bpg", chroma=chroma, quality=5)
    decoded = codec.decode(codec.encode(image))
    assert decoded.shape == image.shape
    assert np.abs(decoded.astype(int) - image).max() <= 4


@given(st.integers(0, 2**32 - 1))
def test_numbers_take_the_fewest_bytes(value):
    written = _ue7(value)
    assert len(written) == max(1, -(-value.bit_length() // 7))
    read = 0
    for byte in written:
        read = read << 7 | byte & 0x7F
    assert read == value
    assert [byte >> 7 for byte in written] == [1] * (len(written) - 1) + [0]


def test_the_specifications_examples():
    assert (_ue7(8), _ue7(542), _ue7(728855)) == (b"\x08", b"\x84\x1e", b"\xac\xbe\x17")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("magic", 0, "no BPG magic"),
        ("pixel format", 0, "only 8-bit YCbCr"),
        ("alpha flag", 1, "only 8-bit YCbCr"),
        ("bit depth", 2, "only 8-bit YCbCr"),
        ("animation flag", 1, "only 8-bit YCbCr"),
        ("width", 0, "a side of 0 pixels|fewest bytes"),
        ("height", 96, "fails its check"),
        ("data length", 0x8101, "bytes of data are announced"),
        ("extension length", 0x7F, "longer than|announced|no room|no end"),
        ("XMP", 0, "fails its check"),
        ("HEVC header length", 0, "cut short|does not fit"),
        ("min coding block", 0, "block sizes|too large|does not fit|PCM"),
        ("PCM flag", 1, "with PCM"),
        ("SPS extension flag", 1, "with PCM or an SPS extension"),
    ],
)
def test_a_damaged_field_is_refused(photograph, field, value, message):
    codec = load_codec("bpg")
    stream = codec.encode(photograph)
    region = at(codec.layout(stream), field)
    bits, size = int.from_bytes(stream, "big"), 8 * len(stream)
    length, shift = region.stop - region.start, size - region.stop
    patched = bits & ~(((1 << length) - 1) << shift) | value << shift
    with pytest.raises(DecodeError, match=message):
        codec.decode(patched.to_bytes(len(stream), "big"))


def test_start_codes_are_walked_once(photograph):
    # Walked from each one on, they would take a quarter of an hour.
    file = Walk(load_codec("bpg").encode(photograph)).file()
    layout = load_codec("bpg").layout(replace(file, units=b"\2\1" + b"\0\0\1\2\1" * 100_000).pack())
    names = [region.name for region in layout]
    assert names.count("NAL unit header, type 1") == 100_001
    assert names.count("start code") == 100_000


def test_a_huge_size_is_refused_before_anything_is_allocated(photograph):
    stream = load_codec("bpg").encode(photograph)
    huge = stream[:6] + _ue7(2**32 - 1) * 2 + stream[9:]
    with pytest.raises(DecodeError, match="above max_pixels"):
        load_codec("bpg", check_size=False).decode(huge)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_have_a_layout(data):
    codec = load_codec("bpg")
    stream = data.draw(st.binary(max_size=80) | st.binary(max_size=60).map(lambda b: b"BPG\xfb\x20\x08" + b))
    layout = codec.layout(stream)
    assert [r.start for r in layout][1:] == [r.stop for r in layout][:-1]
    assert sum(r.stop - r.start for r in layout) == 8 * len(stream)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), "height x width x 3"),
        (np.zeros((8, 8, 4), np.uint8), "height x width x 3"),
        (np.zeros((8, 8, 3), np.uint16), "uint16"),
        (np.zeros((0, 8, 3), np.uint8), "1 to 65535"),
        (np.zeros((8, 90, 3), np.uint8), "sides of 9 pixels or more"),
        (np.zeros((5000, 5000, 3), np.uint8), "max_pixels"),
    ],
)
def test_an_image_that_is_refused(image, message):
    with pytest.raises(EncodeError, match=message):
        load_codec("bpg").encode(image)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"quality": 52}, "0 \\(best\\) to 51"),
        ({"quality": 20, "bpp": 1.0}, "exclude each other"),
        ({"bpp": -1}, "positive number"),
        ({"chroma": "4:1:1"}, "one of 4:2:0, 4:4:4"),
        ({"max_pixels": 0}, "positive whole number"),
    ],
)
def test_settings_out_of_range(given_settings, message):
    with pytest.raises(ValueError, match=message):
        load_codec("bpg", **given_settings)


# -- Bellard's programs ----------------------------------------------------------------------------------------

reference = pytest.mark.skipif(
    shutil.which("bpgenc") is None or shutil.which("bpgdec") is None,
    reason="bpgenc and bpgdec are not on the PATH: build libbpg from https://bellard.org/bpg/",
)


def test_the_reference_says_what_it_lacks():
    if shutil.which("bpgenc") and shutil.which("bpgdec"):
        pytest.skip("bpgenc and bpgdec are on the PATH: nothing is missing")
    with pytest.raises(CodecUnavailable, match="not on the PATH: build libbpg"):
        load_codec("bpg-reference")


@reference
@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
def test_bpgdec_reads_our_files(photograph, chroma, tmp_path):
    codec = load_codec("bpg", chroma=chroma)
    (tmp_path / "ours.bpg").write_bytes(codec.encode(photograph))
    subprocess.run(["bpgdec", "-o", tmp_path / "theirs.png", tmp_path / "ours.bpg"], check=True)
    theirs = np.array(Image.open(tmp_path / "theirs.png").convert("RGB"))
    ours = codec.decode((tmp_path / "ours.bpg").read_bytes())
    # Chroma is interpolated with other filters.
    assert np.abs(ours.astype(int) - theirs).max() <= (0 if chroma == "4:4:4" else 16)
    assert psnr(theirs, photograph) > 34


@reference
@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
def test_we_read_bpgencs_files(photograph, chroma, tmp_path):
    Image.fromarray(photograph).save(tmp_path / "in.png")
    command = ["bpgenc", "-q", "26", "-f", chroma.replace(":", ""), "-o", tmp_path / "theirs.bpg", tmp_path / "in.png"]
    subprocess.run(command, check=True)
    stream = (tmp_path / "theirs.bpg").read_bytes()
    assert psnr(load_codec("bpg", check_size=False).decode(stream), photograph) > 34
    with pytest.raises(DecodeError, match="fails its check"):
        load_codec("bpg").decode(stream)


@reference
def test_the_reference_is_a_codec(photograph):
    codec = load_codec("bpg-reference", quality=26)
    stream = codec.encode(photograph)
    assert psnr(codec.decode(stream), photograph) > 34
    assert at(codec.layout(stream), "width").header
    with pytest.raises(DecodeError):
        codec.decode(stream[:20])
