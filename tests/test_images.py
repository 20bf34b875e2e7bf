"""Where images come from, and which are refused rather than converted behind one's back."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import sys

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from robustkit import images
from robustkit.images import ImageError, centre_crop, from_folder, photographs, read

PIXELS = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def saved(path, pixels=PIXELS, mode=None, **options):
    image = PillowImage.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def test_the_photographs_are_scikit_image_s_own():
    found = photographs(crop=300)
    assert list(found) == ["astronaut", "chelsea", "coffee", "immunohistochemistry", "motorcycle", "rocket"]
    for name in ("astronaut", "chelsea", "coffee", "immunohistochemistry", "rocket"):
        whole = getattr(skimage.data, name)()
        top, left = (whole.shape[0] - 300) // 2, (whole.shape[1] - 300) // 2
        np.testing.assert_array_equal(found[name], whole[top : top + 300, left : left + 300])
    for image in found.values():
        assert image.dtype == np.uint8
        assert image.shape == (300, 300, 3)
        assert image.flags.c_contiguous


def test_the_photographs_need_no_network_and_no_import(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *a, **k: pytest.fail("opened a socket"))
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert photographs(64)["motorcycle"].std() > 10


@pytest.mark.parametrize("crop", [301, 0, -1])
def test_a_crop_that_does_not_fit_names_the_image(crop):
    with pytest.raises(ImageError, match=f"451x300: a crop of {crop} does not fit, give 1 to 300"):
        centre_crop(np.zeros((300, 451, 3), np.uint8), crop, "chelsea")
    with pytest.raises(ImageError, match=f"a crop of {crop} does not fit"):
        photographs(crop)


def test_no_scikit_image_says_what_to_install(monkeypatch):
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match="pip install scikit-image"):
        photographs()


def test_a_folder_gives_its_images_in_order(tmp_path):
    saved(tmp_path / "b.PNG")
    saved(tmp_path / "a.bmp", PIXELS[:, :7])
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    assert {name: image.shape for name, image in from_folder(tmp_path).items()} == {
        "a.bmp": (6, 7, 3),
        "b.PNG": (6, 8, 3),
    }
    cropped = from_folder(str(tmp_path), crop=4)
    np.testing.assert_array_equal(cropped["b.PNG"], PIXELS[1:5, 2:6])


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ImageError, match="is not a folder"):
        from_folder(tmp_path / "nowhere")


def test_a_folder_without_images_lists_the_endings(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ImageError, match=r"no image in .*\.png"):
        from_folder(tmp_path)


def test_a_folder_with_a_small_image_names_it(tmp_path):
    saved(tmp_path / "tiny.png")
    with pytest.raises(ImageError, match=r"tiny\.png is 8x6: a crop of 7 does not fit"):
        from_folder(tmp_path, crop=7)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"hello"])
def test_an_unreadable_file_is_named(tmp_path, data):
    (tmp_path / "broken.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"broken\.png can't be read as an image"):
        from_folder(tmp_path)


def test_a_truncated_file_is_refused(tmp_path):
    path = saved(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ImageError, match="truncated"):
        read(path)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "png"), ("P", "png"), ("RGB", "tif"), ("RGB", "jpg"), ("L", "ppm")]
)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(mode, suffix, data):
    out = io.BytesIO()
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    name = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    PillowImage.fromarray(PIXELS).convert(mode).save(out, name, **({} if suffix == "ppm" else {"exif": exif}))
    damaged = bytearray(out.getvalue())
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    ):
        damaged[place] = value
    kept = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    with contextlib.suppress(ImageError):
        assert read(f"damaged.{suffix}", data=bytes(damaged[:kept])).dtype == np.uint8


@pytest.mark.parametrize("wrong", [struct.error("x"), TypeError("x"), MemoryError(), OverflowError("x"), IndexError()])
def test_whatever_pillow_raises_is_an_unreadable_image(tmp_path, monkeypatch, wrong):
    def fails(*_):
        raise wrong

    monkeypatch.setattr(images.ImageOps, "exif_transpose", fails)
    with pytest.raises(ImageError, match=f"can't be read as an image: {str(wrong) or type(wrong).__name__}"):
        read(saved(tmp_path / "a.png"))


def test_more_pixels_than_are_read_are_not_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path / "large.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 48)
    assert read(path).shape == (6, 8, 3)
    monkeypatch.setattr(images, "MOST_PIXELS", 47)
    monkeypatch.setattr(images.ImageOps, "exif_transpose", lambda _: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"8x6 pixels and at most 47 are read: .* magick IN"):
        read(path)


def test_rgb_comes_without_a_note(tmp_path):
    np.testing.assert_array_equal(read(saved(tmp_path / "a.png"), note=lambda text: pytest.fail(text)), PIXELS)


def noted(path):
    notes = []
    return read(path, note=notes.append), notes


def test_an_image_s_bytes_are_read_under_a_name(tmp_path):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    PillowImage.fromarray(image).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read("a pipe", data=(tmp_path / "x.png").read_bytes()), image)
    with pytest.raises(ImageError, match=r"^a pipe can't be read as an image: Pillow knows no such image format$"):
        read("a pipe", data=b"")


@pytest.mark.parametrize(("mode", "word"), [("L", "grey"), ("1", "grey"), ("P", "palette")])
def test_grey_and_palette_become_rgb_with_a_note(tmp_path, mode, word):
    path = saved(tmp_path / "a.png", mode=mode)
    image, notes = noted(path)
    with PillowImage.open(path) as opened:
        np.testing.assert_array_equal(image, np.array(opened.convert("RGB")))
    assert notes == [f"{path}: {word} image converted to RGB"]


def test_an_opaque_alpha_channel_is_left_off_with_a_note(tmp_path):
    image, notes = noted(saved(tmp_path / "a.png", mode="RGBA"))
    np.testing.assert_array_equal(image, PIXELS)
    assert len(notes) == 1
    assert "alpha channel is opaque" in notes[0]


def transparent(mode):
    image = PillowImage.fromarray(PIXELS).convert("RGBA")
    image.putpixel((3, 2), (1, 2, 3, 254))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_refused_with_the_way_out(tmp_path, mode):
    transparent(mode).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"transparent.*-alpha remove"):
        read(tmp_path / "a.png")


def test_a_transparent_palette_or_colour_key_is_refused(tmp_path):
    saved(tmp_path / "p.png", mode="P", transparency=PillowImage.fromarray(PIXELS).convert("P").getpixel((0, 0)))
    saved(tmp_path / "key.png", transparency=tuple(PIXELS[0, 0].tolist()))
    for name in ("p.png", "key.png"):
        with pytest.raises(ImageError, match="transparent"):
            read(tmp_path / name)


def sixteen_bit_rgb(path):
    """A 1x1 PNG of 16-bit RGB, which Pillow would quietly read as 8-bit."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" + b"\x12\x34" * 3))
        + chunk(b"IEND", b"")
    )


def test_more_than_8_bits_is_refused_with_the_way_out(tmp_path):
    sixteen_bit_rgb(tmp_path / "rgb16.png")
    PillowImage.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "grey16.png")
    PillowImage.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    for name in ("rgb16.png", "grey16.png", "float.tif"):
        with pytest.raises(ImageError, match=f"{name} has more than 8 bits.*-depth 8"):
            read(tmp_path / name)


def test_cmyk_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ImageError, match=r"CMYK.*-colorspace sRGB"):
        read(saved(tmp_path / "a.jpg", mode="CMYK"))


def test_an_exif_orientation_is_applied_with_a_note(tmp_path):
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # the camera was turned: show the stored pixels a quarter turn clockwise
    image, notes = noted(saved(tmp_path / "a.png", exif=exif))
    np.testing.assert_array_equal(image, np.rot90(PIXELS, -1))
    assert len(notes) == 1
    assert "orientation" in notes[0]
