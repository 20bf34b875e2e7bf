"""Where images come from, and which are refused rather than converted behind one's back."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL import ImageCms

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


def deep_files(folder):
    """One file of each format that has more than 8 bits a sample and that Pillow reads as 8 without a word."""
    wide = np.full((4, 4, 3), 0x1234, ">u2")
    (folder / "a.ppm").write_bytes(b"P6 4 4 65535\n" + wide.tobytes())
    (folder / "ten.ppm").write_bytes(b"P6 4 4 1023\n" + (wide % 1024).tobytes())
    (folder / "text.ppm").write_bytes(b"P3 1 1 256 1 2 3\n")
    (folder / "a.pgm").write_bytes(b"P5 4 4 65535\n" + wide[..., 0].tobytes())
    sixteen_bit_rgb(folder / "a.png")
    sgi = bytearray(512)
    sgi[:12] = bytes([1, 218, 0, 2, 0, 3, 0, 4, 0, 4, 0, 3])
    (folder / "a.sgi").write_bytes(bytes(sgi) + wide.tobytes())
    tags = [(256, 4), (257, 4), (258, None), (259, 1), (262, 2), (273, 8), (277, 3), (278, 4), (279, 96)]
    start = 8 + 96
    entries = b"".join(
        struct.pack("<HHII", tag, 3, 3, start + 2 + 12 * len(tags) + 4)
        if value is None
        else struct.pack("<HHIHH", tag, 3, 1, value, 0)
        for tag, value in tags
    )
    tiff = struct.pack("<2sHI", b"II", 42, start) + wide.astype("<u2").tobytes() + struct.pack("<H", len(tags))
    (folder / "a.tif").write_bytes(tiff + entries + bytes(4) + struct.pack("<HHH", 16, 16, 16))
    # Eight bits in truth: the one field that says so is another.
    jp2 = saved(folder / "a.jp2").read_bytes()
    at = jp2.index(b"\xff\x4f\xff\x51") + 42
    (folder / "a.jp2").write_bytes(jp2[:at] + bytes([11, 1, 1]) * 3 + jp2[at + 9 :])
    return sorted(folder.iterdir())


def test_more_than_8_bits_of_every_format_is_refused(tmp_path):
    files = deep_files(tmp_path)
    assert len(files) == 8
    for file in files:
        with pytest.raises(ImageError, match=rf"{file.name} has more than 8 bits|{file.name} can't be read"):
            read(file)
        if file.suffix != ".jp2":
            with pytest.raises(ImageError, match="has more than 8 bits"):
                read(file)


def test_more_than_8_bits_of_jpeg_2000_and_avif_are_seen_in_the_head(tmp_path):
    deep_files(tmp_path)
    with PillowImage.open(tmp_path / "a.jp2") as opened:
        assert images._is_deep(opened)
    for suffix in ("jp2", "j2k", "avif"):
        with PillowImage.open(saved(tmp_path / f"shallow.{suffix}")) as opened:
            assert not images._is_deep(opened)
            assert np.array(opened).shape == PIXELS.shape
    # Nothing here writes ten bits.
    head = bytearray((tmp_path / "shallow.avif").read_bytes())
    head[head.index(b"av1C") + 6] |= 0x40
    assert images._is_deep(SimpleNamespace(format="AVIF", fp=io.BytesIO(head), tile=[], info={}))


def test_few_grey_levels_are_not_many_bits(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 1 1 100\n" + bytes([0, 50, 100]))
    assert read(tmp_path / "a.ppm").tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif"])
def test_an_animation_is_used_by_its_first_frame_with_a_note(tmp_path, suffix):
    first, second = (PillowImage.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second, first])
    image, notes = noted(tmp_path / f"a.{suffix}")
    assert image[0, 0, 0] > 200
    assert image[0, 0, 2] < 50
    assert f"{tmp_path / f'a.{suffix}'}: the first of 3 frames or pages is used" in notes


def test_a_colour_profile_is_noted_unless_it_is_srgb(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert noted(saved(tmp_path / "a.png", icc_profile=srgb))[1] == []
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for suffix in ("png", "jpg", "webp", "tif"):
        _, notes = noted(saved(tmp_path / f"b.{suffix}", icc_profile=lab))
        assert len(notes) == 1
        assert "its colour profile (Lab" in notes[0]
    _, notes = noted(saved(tmp_path / "c.png", icc_profile=b"no profile"))
    assert "(one that can't be read)" in notes[0]


def test_a_folder_says_what_it_used_and_what_not(tmp_path):
    for name in ("a.png", "a.bmp", "a.PNG", "b.gif", "c.tga", "d.jp2", "e.avif", "f.qoi"):
        saved(tmp_path / name)
    saved(tmp_path / "g.PGM", mode="L")
    saved(tmp_path / "h.pgm", mode="L")
    (tmp_path / "more").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("1.txt", "2.txt", "3.eps", "4"):
        (tmp_path / name).write_text("x")
    notes = []
    found = from_folder(tmp_path, note=notes.append)
    assert list(found) == ["a.PNG", "a.bmp", "a.png", "b.gif", "c.tga", "d.jp2", "e.avif", "f.qoi", "g.PGM", "h.pgm"]
    assert notes == [
        f"10 images in {tmp_path}; left aside: files that don't end as an image that Pillow reads here "
        "(1.txt, 2.txt, 3.eps and 1 more), broken links (gone.png), folders (more)",
        "palette image converted to RGB: b.gif",
        "grey image converted to RGB: g.PGM, h.pgm",
    ]


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
