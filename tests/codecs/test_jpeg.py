"""The JPEG codec: its settings, what it refuses, and how it names the fields of a stream."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL import ImageFile

import robustkit
from robustkit import DecodeError, EncodeError, ErrorPattern
from robustkit.codecs.jpeg import Jpeg
from robustkit.images import photographs
from robustkit.quality import measure


@pytest.fixture(scope="module")
def astronaut():
    return photographs(crop=128)["astronaut"]


@pytest.fixture(scope="module")
def stream(astronaut):
    return Jpeg().encode(astronaut)


def written(image, mode="RGB", **options):
    buffer = io.BytesIO()
    PillowImage.fromarray(image).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def at(layout, name):
    return next(region for region in layout if region.name == name)


def patched(stream, name, value):
    """``stream`` with the bytes of the field ``name`` replaced."""
    region = at(Jpeg().layout(stream), name)
    assert region.stop - region.start == 8 * len(value)
    return stream[: region.start // 8] + value + stream[region.stop // 8 :]


def test_the_clean_round_trip_keeps_its_promise():
    codec = Jpeg()
    rates, scores = [], []
    for image in photographs().values():
        stream = codec.encode(image)
        rates.append(8 * len(stream) / (image.shape[0] * image.shape[1]))
        scores.append(measure("psnr", image, codec.decode(stream)))
    assert Jpeg.promises.bpp - 0.1 < np.mean(rates) <= Jpeg.promises.bpp
    assert Jpeg.promises.quality <= np.mean(scores) < Jpeg.promises.quality + 0.5


def test_it_is_in_the_registry():
    codec = robustkit.load_codec("jpeg", quality=80)
    assert (codec.name, codec.family, codec.quality) == ("jpeg", "classical", 80)


def test_only_the_default_settings_carry_the_measured_profile():
    assert Jpeg().profile is Jpeg.promises
    for other in ({"quality": 80}, {"bpp": 1.0}, {"truncated": "tolerate"}, {"check_size": False}):
        assert Jpeg(**other).profile is None


def test_any_jpeg_reader_reads_its_streams(stream, astronaut):
    with PillowImage.open(io.BytesIO(stream)) as opened:
        assert opened.info["comment"].startswith(b"128x128 crc32=")
        np.testing.assert_array_equal(np.array(opened), Jpeg().decode(stream))


@pytest.mark.parametrize("target", [0.6, 1.0, 2.5])
def test_bpp_gives_the_closest_quality(astronaut, target):
    pixels = astronaut.shape[0] * astronaut.shape[1]
    found = abs(8 * len(Jpeg(bpp=target).encode(astronaut)) / pixels - target)
    every = [abs(8 * len(Jpeg(quality=q).encode(astronaut)) / pixels - target) for q in range(1, 101)]
    assert found == min(every)


@pytest.mark.parametrize(("target", "quality"), [(1e-6, 1), (99.0, 100)])
def test_bpp_out_of_reach_gives_the_nearest_end(astronaut, target, quality):
    assert Jpeg(bpp=target).encode(astronaut) == Jpeg(quality=quality).encode(astronaut)


def test_subsampling_reaches_the_stream(astronaut):
    sampling = {}
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        codec = Jpeg(subsampling=subsampling)
        stream = codec.encode(astronaut)
        first = at(codec.layout(stream), "SOF0 component 1 horizontal sampling").start // 8
        sampling[subsampling] = stream[first]
    assert sampling == {"4:4:4": 0x11, "4:2:2": 0x21, "4:2:0": 0x22}


@pytest.mark.parametrize(
    "wrong",
    [
        {"quality": 0},
        {"quality": 101},
        {"quality": 50.5},
        {"quality": True},
        {"bpp": 0},
        {"bpp": float("nan")},
        {"bpp": float("inf")},
        {"bpp": "1"},
        {"quality": 50, "bpp": 1.0},
        {"subsampling": "4:1:1"},
        {"truncated": "yes"},
        {"colours": "yes"},
        {"check_size": 1},
        {"max_pixels": 0},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Jpeg(**wrong)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((8, 8, 3)), "float64"),
        (np.zeros((8, 8), np.uint8), "8 x 8"),
        (np.zeros((8, 8, 4), np.uint8), "8 x 8 x 4"),
        (np.zeros((0, 8, 3), np.uint8), "8x0"),
        (np.zeros((1, Jpeg.max_side + 1, 3), np.uint8), "65501x1"),
        ([[1, 2, 3]], "list"),
    ],
)
def test_encode_refuses_what_is_no_image(image, reason):
    with pytest.raises(EncodeError, match=reason):
        Jpeg().encode(image)


def test_encode_takes_the_longest_side():
    image = np.zeros((1, Jpeg.max_side, 3), np.uint8)
    assert Jpeg().decode(Jpeg().encode(image)).shape == image.shape


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (16, 17)])
def test_small_and_odd_sizes(shape):
    image = np.full((*shape, 3), 128, np.uint8)
    np.testing.assert_array_equal(Jpeg().decode(Jpeg().encode(image)), image)


def test_max_pixels_bounds_both_ways(astronaut, stream):
    small = Jpeg(max_pixels=128 * 128 - 1)
    with pytest.raises(EncodeError, match="max_pixels"):
        small.encode(astronaut)
    with pytest.raises(DecodeError, match="max_pixels"):
        small.decode(stream)
    assert Jpeg(max_pixels=128 * 128).decode(stream).shape == (128, 128, 3)


def test_a_huge_size_is_refused_before_any_pixel_exists(stream, monkeypatch):
    huge = patched(patched(stream, "SOF0 height", b"\xff\xdc"), "SOF0 width", b"\xff\xdc")
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", lambda self: pytest.fail("pixels were allocated"))
    for check_size in (True, False):
        with pytest.raises(DecodeError, match="65500x65500"):
            Jpeg(check_size=check_size, truncated="tolerate").decode(huge)


@pytest.mark.parametrize("field", ["SOF0 height", "SOF0 width"])
def test_a_flip_in_the_size_is_refused_with_the_check_and_misshapen_without(stream, field):
    for bit in range(at(Jpeg().layout(stream), field).start, at(Jpeg().layout(stream), field).stop):
        damaged = ErrorPattern(8 * len(stream), np.array([bit])).apply(stream)
        with pytest.raises(DecodeError):
            Jpeg().decode(damaged)
    longer = patched(stream, field, b"\x00\x82")
    assert Jpeg(check_size=False).decode(longer).shape != (128, 128, 3)


def test_every_flip_in_the_comment_is_refused(stream):
    comment = at(Jpeg().layout(stream), "COM text")
    for bit in range(comment.start, comment.stop):
        with pytest.raises(DecodeError, match="check_size=false"):
            Jpeg().decode(ErrorPattern(8 * len(stream), np.array([bit])).apply(stream))


def test_a_foreign_file_needs_check_size_off(astronaut):
    foreign = written(astronaut, quality=90)
    with pytest.raises(DecodeError, match="check_size=false decodes it"):
        Jpeg().decode(foreign)
    assert Jpeg(check_size=False).decode(foreign).shape == astronaut.shape


@pytest.mark.parametrize(("mode", "components"), [("L", 1), ("CMYK", 4)])
def test_other_colour_models_are_refused(astronaut, mode, components):
    with pytest.raises(DecodeError, match=f"{components} components"):
        Jpeg(check_size=False).decode(written(astronaut, mode))


def other_format(astronaut, kind):
    buffer = io.BytesIO()
    PillowImage.fromarray(astronaut).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_no_other_decoder_opens_a_stream(astronaut, kind):
    for truncated in ("refuse", "tolerate"):
        with pytest.raises(DecodeError, match="not a readable JPEG header"):
            Jpeg(truncated=truncated, check_size=False).decode(other_format(astronaut, kind))


@pytest.mark.parametrize("switch", [False, True])
@pytest.mark.parametrize("truncated", ["refuse", "tolerate"])
def test_truncation_follows_the_setting_not_the_process(stream, monkeypatch, switch, truncated):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switch)
    codec, cut = Jpeg(truncated=truncated), stream[: len(stream) * 3 // 4]
    if truncated == "refuse":
        with pytest.raises(DecodeError, match="truncated"):
            codec.decode(cut)
    else:
        image, whole = codec.decode(cut), codec.decode(stream)
        np.testing.assert_array_equal(image[:32], whole[:32])
        assert not np.array_equal(image[-16:], whole[-16:])
        np.testing.assert_array_equal(codec.decode(cut), image)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is switch


def test_the_setting_comes_back_after_a_defect(stream, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Jpeg(truncated="tolerate").decode(stream)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_the_empty_stream_is_refused():
    with pytest.raises(DecodeError):
        Jpeg().decode(b"")


CODECS = [
    Jpeg(),
    Jpeg(check_size=False, max_pixels=2**18),
    Jpeg(check_size=False, max_pixels=2**18, truncated="tolerate"),
]


def survives(stream):
    for codec in CODECS:
        try:
            image = codec.decode(stream)
        except DecodeError:
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        np.testing.assert_array_equal(codec.decode(stream), image)


def covers(stream):
    """Every bit lies in exactly one region, in order."""
    layout = Jpeg().layout(stream)
    assert layout.bits == 8 * len(stream)
    ends = [0, *(region.stop for region in layout)]
    assert [region.start for region in layout] == ends[:-1]
    assert ends[-1] == layout.bits


@functools.cache
def sources():
    image = photographs(crop=40)["rocket"]
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x1a"  # ends within its first entry
    return [
        Jpeg().encode(image),
        written(image, progressive=True),
        written(image, restart_marker_rows=1, exif=exif),
    ]


@st.composite
def damaged(draw):
    whole = draw(st.sampled_from(sources()))
    stream = bytearray(whole)
    headers = Jpeg().layout(whole).bits_of(header=True)
    for bit in draw(st.lists(st.sampled_from(headers.tolist()) | st.integers(0, 8 * len(whole) - 1), max_size=12)):
        stream[bit // 8] ^= 128 >> bit % 8
    cut = draw(st.integers(0, len(whole)) | st.just(len(whole)))
    return bytes(stream[:cut]) + draw(st.binary(max_size=8))


@settings(deadline=None, max_examples=300)
@given(damaged())
def test_damage_is_refused_or_decoded_and_laid_out(stream):
    survives(stream)
    covers(stream)


markers = st.sampled_from([b"\xff\xd8", b"\xff\xd9", b"\xff\xd0", b"\xff\x01", b"\xff\xff", b"\xff\x00", b"\xff"])
segments = st.builds(
    lambda code, length, body: bytes([0xFF, code]) + length.to_bytes(2, "big") + body,
    st.integers(0xC0, 0xFE),
    st.integers(0, 80) | st.integers(0, 65535),
    st.binary(max_size=80),
)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | st.lists(markers | segments | st.binary(max_size=9)).map(b"".join))
def test_garbage_is_refused_or_decoded_and_laid_out(stream):
    survives(b"\xff\xd8\xff" + stream)
    survives(stream)
    covers(b"\xff\xd8" + stream)
    covers(stream)


def test_the_layout_names_the_fields(stream):
    layout = Jpeg().layout(stream)
    fields = {r.name: stream[r.start // 8 : r.stop // 8] for r in layout if r.start % 8 == 0 == r.stop % 8}
    assert fields["SOI marker"] == b"\xff\xd8"
    assert fields["APP0 identifier"] == b"JFIF\0"
    assert fields["SOF0 precision"] == b"\x08"
    assert fields["SOF0 height"] == fields["SOF0 width"] == (128).to_bytes(2, "big")
    assert fields["SOF0 component count"] == b"\x03"
    assert fields["DQT 0 values"][0] == 16  # Annex K's first luminance step, unscaled at quality 50
    assert sum(fields["DHT DC 0 counts"]) == len(fields["DHT DC 0 symbols"]) == 12
    assert sum(fields["DHT AC 1 counts"]) == len(fields["DHT AC 1 symbols"]) == 162
    assert fields["SOS last coefficient"] == b"\x3f"
    assert fields["EOI marker"] == stream[-2:] == b"\xff\xd9"
    assert layout.at(at(layout, "SOF0 height").start).name == "SOF0 height"


def test_all_but_the_scan_is_header(stream):
    layout = Jpeg().layout(stream)
    assert [r.name for r in layout if not r.header] == ["scan 1 data"]
    scan = at(layout, "scan 1 data")
    np.testing.assert_array_equal(layout.bits_of(header=False), np.arange(scan.start, scan.stop))


def test_scans_and_restart_intervals_are_told_apart(astronaut):
    restarts = [r.name for r in Jpeg().layout(written(astronaut, restart_marker_rows=2)) if not r.header]
    assert restarts[:3] == ["scan 1 interval 0", "scan 1 RST0 marker", "scan 1 interval 1"]
    assert restarts[-1] == "scan 1 interval 3"
    progressive = Jpeg().layout(written(astronaut, progressive=True))
    assert "SOF2 height" in {r.name for r in progressive}
    assert sum(r.name.endswith(" data") and not r.header for r in progressive) == 10


def test_what_follows_the_end_has_a_name(stream):
    assert list(Jpeg().layout(stream + b"\xff\xd8abc"))[-1].name == "bytes after EOI"


def test_describe_names_versions_and_settings():
    facts = Jpeg(bpp=1.5, truncated="tolerate").describe()
    assert facts["pillow"].split(".")[0].isdigit()
    assert any(key.startswith("libjpeg") and value[0].isdigit() for key, value in facts.items())
    assert facts["settings"] == "bpp=1.5 subsampling=4:2:0 truncated=tolerate check_size=true"


def test_a_pillow_without_jpeg_says_what_to_install(monkeypatch):
    monkeypatch.setattr("robustkit.codecs.jpeg.features.check_codec", lambda name: False)
    with pytest.raises(robustkit.CodecUnavailable, match="pip install"):
        robustkit.load_codec("jpeg")


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_converted_where_that_is_set(astronaut, mode):
    file = io.BytesIO()
    PillowImage.fromarray(astronaut).convert(mode).save(file, "JPEG")
    stream = file.getvalue()
    components = len(mode)
    with pytest.raises(DecodeError, match=f"the frame header declares {components} components, a colour image has 3"):
        Jpeg(check_size=False).decode(stream)
    codec = Jpeg(check_size=False, colours="convert")
    assert np.array_equal(codec.decode(stream), np.asarray(PillowImage.open(file).convert("RGB")))
    assert codec.describe()["settings"].endswith(" check_size=false colours=convert")
    own = codec.encode(astronaut)
    assert np.array_equal(codec.decode(own), Jpeg(check_size=False).decode(own))
