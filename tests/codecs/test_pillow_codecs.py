"""What holds for every codec of Pillow's formats; test_jpeg.py has what is JPEG's own."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL import ImageFile
from pillow_heif import register_heif_opener

import robustkit
from robustkit import DecodeError, EncodeError, ErrorPattern, Layout
from robustkit.codecs.avif import Avif
from robustkit.codecs.heic import Heic
from robustkit.codecs.jpeg import Jpeg, JpegRestart
from robustkit.codecs.jpeg2000 import Jpeg2000
from robustkit.codecs.jpegxl import JpegXl, declared_size
from robustkit.codecs.pillow import PillowCodec
from robustkit.codecs.png import Png
from robustkit.codecs.webp import WebP
from robustkit.images import photographs
from robustkit.quality import measure

KINDS: list[type[PillowCodec]] = [Avif, Heic, Jpeg, JpegRestart, Jpeg2000, JpegXl, Png, WebP]
EXTRAS = [Heic, JpegXl]
LOSSY = [kind for kind in KINDS if kind is not Png]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
lossy = pytest.mark.parametrize("kind", LOSSY, ids=lambda kind: kind.name)


@functools.cache
def codec_of(kind: type[PillowCodec]) -> PillowCodec:
    return kind()


@functools.cache
def astronaut() -> robustkit.Image:
    return photographs(crop=96)["astronaut"]


@functools.cache
def stream_of(kind: type[PillowCodec]) -> bytes:
    return codec_of(kind).encode(astronaut())


def flipped(stream: bytes, *bits: int) -> bytes:
    return ErrorPattern(8 * len(stream), np.array(bits)).apply(stream)


def covers(layout: Layout, stream: bytes) -> None:
    """Every bit lies in exactly one region, in order."""
    assert layout.bits == 8 * len(stream)
    ends = [0, *(region.stop for region in layout)]
    assert [region.start for region in layout] == ends[:-1]
    assert ends[-1] == layout.bits


@kinds
def test_the_registry_has_it_under_its_name(kind: type[PillowCodec]) -> None:
    found = robustkit.load_codec(kind.name)
    assert type(found) is kind
    assert found.family == "classical"
    assert found.profile is kind.promises is not None


@kinds
def test_the_clean_round_trip_keeps_its_promise(kind: type[PillowCodec]) -> None:
    codec, profile = codec_of(kind), kind.promises
    assert profile is not None
    rates, scores = [], []
    for image in photographs().values():
        stream = codec.encode(image)
        rates.append(8 * len(stream) / image[..., 0].size)
        scores.append(measure("psnr", image, codec.decode(stream)))
    assert 0.97 * profile.bpp < np.mean(rates) <= profile.bpp
    assert profile.quality <= np.mean(scores) < profile.quality + 0.2


def test_png_loses_nothing() -> None:
    np.testing.assert_array_equal(codec_of(Png).decode(stream_of(Png)), astronaut())


@kinds
def test_any_reader_reads_its_streams(kind: type[PillowCodec]) -> None:
    register_heif_opener()
    with PillowImage.open(io.BytesIO(stream_of(kind))) as opened:
        np.testing.assert_array_equal(np.array(opened.convert("RGB")), codec_of(kind).decode(stream_of(kind)))


@kinds
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (7, 9), (33, 17)])
def test_small_and_odd_sizes(kind: type[PillowCodec], shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 128, np.uint8)
    decoded = codec_of(kind).decode(codec_of(kind).encode(image))
    assert decoded.shape == image.shape
    assert np.abs(decoded.astype(int) - image).max() <= 2


@lossy
def test_quality_and_rate_rise_together(kind: type[PillowCodec]) -> None:
    low, high = (kind(quality=q) for q in (kind.default_quality - 10, kind.default_quality + 10))  # type: ignore[call-arg]
    streams = [codec.encode(astronaut()) for codec in (low, high)]
    qualities = [measure("psnr", astronaut(), low.decode(stream)) for stream in streams]
    assert len(streams[0]) < len(streams[1])
    assert qualities[0] < qualities[1]


@lossy
def test_bpp_comes_close(kind: type[PillowCodec]) -> None:
    image = photographs()["astronaut"]
    for target in (0.6, 1.5):
        rate = 8 * len(kind(bpp=target).encode(image)) / 256**2  # type: ignore[call-arg]
        assert rate == pytest.approx(target, rel=0.06)


@lossy
def test_only_the_default_settings_carry_the_measured_profile(kind: type[PillowCodec]) -> None:
    for other in ({"quality": kind.default_quality + 1}, {"bpp": 1.0}, {"check_size": False}):
        assert kind(**other).profile is None  # type: ignore[arg-type]
    assert Png(compression=9).profile is None


@lossy
@pytest.mark.parametrize(
    "wrong", [{"quality": 1000}, {"quality": 1.5}, {"bpp": 0}, {"check_size": 1}, {"max_pixels": 0}]
)
def test_wrong_settings_are_named(kind: type[PillowCodec], wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)  # type: ignore[arg-type]


def test_wrong_settings_of_png_are_named() -> None:
    with pytest.raises(ValueError, match="compression = 10"):
        Png(compression=10)
    with pytest.raises(ValueError, match="truncated"):
        Png(truncated="yes")  # type: ignore[arg-type]


@kinds
def test_encode_refuses_what_is_no_image(kind: type[PillowCodec]) -> None:
    codec = codec_of(kind)
    for image, reason in [
        (np.zeros((8, 8, 3)), "float64"),
        (np.zeros((8, 8), np.uint8), "8 x 8"),
        (np.zeros((8, 8, 4), np.uint8), "8 x 8 x 4"),
        (np.zeros((0, 8, 3), np.uint8), "8x0"),
        (np.zeros((8, 8, 3), np.uint16), "uint16"),
    ]:
        with pytest.raises(EncodeError, match=reason):
            codec.encode(image)
    if kind.max_side < 2**20:
        with pytest.raises(EncodeError, match=f"1 to {kind.max_side} pixels"):
            codec.encode(np.zeros((1, kind.max_side + 1, 3), np.uint8))


@kinds
def test_max_pixels_bounds_both_ways(kind: type[PillowCodec]) -> None:
    small = kind(max_pixels=96 * 96 - 1)  # type: ignore[call-arg]
    with pytest.raises(EncodeError, match="max_pixels"):
        small.encode(astronaut())
    with pytest.raises(DecodeError, match=r"max_pixels|exceeds limit"):
        small.decode(stream_of(kind))
    assert kind(max_pixels=96 * 96).decode(stream_of(kind)).shape == (96, 96, 3)  # type: ignore[call-arg]


@kinds
def test_no_other_decoder_opens_a_stream(kind: type[PillowCodec]) -> None:
    for other in KINDS:
        if not issubclass(other, kind) and not issubclass(kind, other):
            with pytest.raises(DecodeError, match=kind.format):
                codec_of(kind).decode(stream_of(other))


@lossy
def test_a_foreign_file_needs_check_size_off(kind: type[PillowCodec]) -> None:
    foreign = kind(check_size=False).encode(astronaut())  # type: ignore[call-arg]
    with pytest.raises(DecodeError, match="check_size=false decodes it"):
        codec_of(kind).decode(foreign)
    assert kind(check_size=False).decode(foreign).shape == (96, 96, 3)  # type: ignore[call-arg]


@kinds
def test_no_flip_in_a_header_gives_an_image_of_another_size(kind: type[PillowCodec]) -> None:
    codec, stream = codec_of(kind), stream_of(kind)
    for bit in codec.layout(stream).bits_of(header=True):
        try:
            assert codec.decode(flipped(stream, int(bit))).shape == (96, 96, 3)
        except DecodeError:
            continue


@st.composite
def damaged(draw: st.DrawFn, kind: type[PillowCodec]) -> bytes:
    whole = stream_of(kind)
    headers = codec_of(kind).layout(whole).bits_of(header=True).tolist()
    bits = draw(st.sets(st.sampled_from(headers) | st.integers(0, 8 * len(whole) - 1), max_size=12))
    cut = draw(st.integers(0, len(whole)) | st.just(len(whole)))
    return flipped(whole, *bits)[:cut] + draw(st.binary(max_size=8))


@kinds
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damage_is_refused_or_decoded_and_laid_out(kind: type[PillowCodec], data: st.DataObject) -> None:
    stream = data.draw(damaged(kind))
    codec = codec_of(kind)
    covers(codec.layout(stream), stream)
    try:
        image = codec.decode(stream)
    except DecodeError:
        return
    assert (image.dtype, image.shape) == (np.uint8, (96, 96, 3))
    np.testing.assert_array_equal(codec.decode(stream), image)


@kinds
@settings(deadline=None, max_examples=150)
@given(garbage=st.binary(max_size=300), kept=st.integers(0, 60))
def test_garbage_is_refused_or_decoded_and_laid_out(kind: type[PillowCodec], garbage: bytes, kept: int) -> None:
    stream = stream_of(kind)[:kept] + garbage
    covers(codec_of(kind).layout(stream), stream)
    try:
        codec_of(kind).decode(stream)
    except DecodeError:
        return


@pytest.mark.parametrize("kind", [Jpeg, JpegRestart, Jpeg2000, Png], ids=lambda kind: kind.name)
@pytest.mark.parametrize("switch", [False, True])
def test_truncation_follows_the_setting_not_the_process(
    kind: type[PillowCodec], switch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switch)
    before = PillowImage.MAX_IMAGE_PIXELS
    cut = stream_of(kind)[: len(stream_of(kind)) * 3 // 4]
    with pytest.raises(DecodeError):
        codec_of(kind).decode(cut)
    if kind is not Jpeg2000:  # OpenJPEG takes none
        assert kind(truncated="tolerate").decode(cut).shape == (96, 96, 3)  # type: ignore[call-arg]
    assert (switch, before) == (ImageFile.LOAD_TRUNCATED_IMAGES, PillowImage.MAX_IMAGE_PIXELS)


def boxed(mode: str = "RGB") -> bytes:
    """What other programs write by default: JPEG 2000 in the boxes of a .jp2 file."""
    file = io.BytesIO()
    PillowImage.fromarray(astronaut()).convert(mode).save(file, "JPEG2000")
    return file.getvalue()


def test_a_jp2_file_of_another_program_needs_check_size_off() -> None:
    codec, file = Jpeg2000(check_size=False), boxed()
    assert file[4:8] == b"jP  "
    with pytest.raises(DecodeError, match="no SOC and SIZ markers"):
        codec_of(Jpeg2000).decode(file)
    np.testing.assert_array_equal(codec.decode(file), np.asarray(PillowImage.open(io.BytesIO(file))))
    covers(codec.layout(file), file)
    # A box with a length of 64 bits, and one that goes to the end of the file.
    place = file.index(b"jp2c") - 4
    start = place + 8
    large = file[:place] + b"\0\0\0\1jp2c" + (len(file) - start + 16).to_bytes(8, "big") + file[start:]
    for other in (large, file[:place] + b"\0\0\0\0jp2c" + file[start:]):
        np.testing.assert_array_equal(codec.decode(other), codec.decode(file))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"jp2c", b"free", "a JP2 file without a codestream"),
        (b"colr\x01\0\0\0\0\0\x10", b"colr\x01\0\0\0\0\0\x12", "another colour space than sRGB"),
        (b"colr", b"pclr", "a palette or an alpha channel"),
        (b"ihdr", b"cdef", "a palette or an alpha channel"),
    ],
)
def test_what_a_jp2_file_holds_beside_rgb_is_refused(old: bytes, new: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        Jpeg2000(check_size=False).decode(boxed().replace(old, new, 1))
    with pytest.raises(DecodeError):
        Jpeg2000(check_size=False).decode(boxed("L"))


def test_damaged_boxes_are_refused_or_passed_over() -> None:
    file = boxed()
    for bit in range(8 * (file.index(b"jp2c") + 4)):
        try:
            Jpeg2000(check_size=False).decode(flipped(file, bit))
        except DecodeError:
            continue
    for length in range(0, 100, 7):
        with pytest.raises(DecodeError):
            Jpeg2000(check_size=False).decode(file[:length])


@pytest.mark.parametrize(
    ("kind", "fields", "payload"),
    [
        (WebP, {"RIFF tag": b"RIFF", "WEBP tag": b"WEBP", "VP8X canvas width": b"\x5f\0\0", "VP8 height": b"\x60\0"},
         {"VP8 first partition", "VP8 coefficients"}),
        (Png, {"IHDR width": b"\0\0\0\x60", "IHDR bit depth": b"\x08", "IEND CRC": b"\xae\x42\x60\x82"}, {"IDAT data"}),
        (Avif, {"meta/iprp/ipco/ispe width": b"\0\0\0\x60", "meta/pitm item": b"\0\x01", "mdat type": b"mdat"},
         {"mdat data"}),
        (Heic, {"mdat type": b"mdat", "meta/iprp/ipco/ispe height": b"\0\0\0\x60"}, {"mdat data"}),
        (JpegXl, {"ftyp type": b"ftyp", "Exif type": b"Exif"}, {"jxlp data"}),
        (Jpeg2000, {"SOC marker": b"\xff\x4f", "SIZ width": b"\0\0\0\x60", "COD decompositions": b"\x05"}, None),
    ],
    ids=lambda value: value.name if isinstance(value, type) else "",
)  # fmt: skip
def test_the_layout_names_the_fields(
    kind: type[PillowCodec], fields: dict[str, bytes], payload: set[str] | None
) -> None:
    stream = stream_of(kind)
    layout = codec_of(kind).layout(stream)
    found = {r.name: stream[r.start // 8 : r.stop // 8] for r in layout}
    assert {name: found[name] for name in fields} == fields
    if payload is not None:
        assert {region.name for region in layout if not region.header} == payload
    covers(layout, stream)


def test_the_layout_of_jpeg_2000_names_its_packets() -> None:
    # Six resolutions of three components, one layer: T.800, B.12.
    payload = [region.name for region in codec_of(Jpeg2000).layout(stream_of(Jpeg2000)) if not region.header]
    assert payload == [f"tile 0 packet {number}" for number in range(18)]
    bare = Jpeg2000(packet_lengths=False)
    stream = bare.encode(astronaut())
    assert bare.profile is None
    assert [region.name for region in bare.layout(stream) if not region.header] == ["tile 0 packets"]
    np.testing.assert_array_equal(bare.decode(stream), codec_of(Jpeg2000).decode(stream_of(Jpeg2000)))


def test_boxes_that_nest_without_end_are_laid_out() -> None:
    stream = b"".join((8 + 12 * left).to_bytes(4, "big") + b"meta\0\0\0\0" for left in range(3000, 0, -1))
    covers(codec_of(Avif).layout(stream), stream)


@kinds
def test_describe_names_versions_and_settings(kind: type[PillowCodec]) -> None:
    facts = codec_of(kind).describe()
    assert facts["pillow"].split(".")[0].isdigit()
    if kind is not JpegXl:  # whose plug-in does not say
        assert facts[kind.library[0]][0].isdigit()
    assert str(kind.default_quality) in facts["settings"]
    assert "None" not in facts["settings"]


@pytest.mark.parametrize("shape", [(8, 8), (256, 256), (13, 700), (100, 150), (1080, 1920), (1, 3000)])
@pytest.mark.parametrize("check_size", [True, False])
def test_the_size_of_a_jpeg_xl_stream_is_read_before_it_is_decoded(shape: tuple[int, int], check_size: bool) -> None:
    stream = JpegXl(check_size=check_size).encode(np.zeros((*shape, 3), np.uint8))
    assert declared_size(stream) == shape[::-1]


def test_avif_names_its_av1_codecs() -> None:
    facts = codec_of(Avif).describe()
    assert facts["aom"][0].isdigit()
    assert facts["dav1d"][0].isdigit()


def test_heic_names_its_hevc_codecs() -> None:
    facts = codec_of(Heic).describe()
    assert facts["x265"][0].isdigit()
    assert facts["libde265"][0].isdigit()


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in EXTRAS], ids=lambda kind: kind.name)
def test_a_pillow_without_the_format_says_what_to_install(
    kind: type[PillowCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustkit.codecs.pillow.features.check", lambda name: False)
    monkeypatch.setattr("robustkit.codecs.jpeg.features.check_codec", lambda name: False)
    with pytest.raises(robustkit.CodecUnavailable, match=rf"without {kind.format}: pip install"):
        robustkit.load_codec(kind.name)


@pytest.mark.parametrize("kind", EXTRAS, ids=lambda kind: kind.name)
def test_without_its_extra_a_codec_says_what_to_install(
    kind: type[PillowCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(robustkit.CodecUnavailable, match=rf"pip install 'robustkit\[{kind.name}\]'"):
        robustkit.load_codec(kind.name)


# Not the two that nearly always refuse: six photographs leave the bound on a share of refusals far wider than a fifth.
