"""Named sets and folders of images: found by digests, read when asked for, downloaded only when allowed."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from robustkit.images import ImageError, photographs, sets
from robustkit.images.sets import Files, ImageSet, open_images


def png(seed: int, height: int = 24, width: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = {f"kodim{number:02d}.png": png(number) for number in (1, 2, 3)}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def served(monkeypatch, tmp_path):
    """Two small sets of this machine, served over loopback: one of files, one of an archive; and what was asked for."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("__MACOSX/valid/._10.png", b"no image")
        opened.writestr("valid/readme.txt", b"text")
        for name, data in zip(("10.png", "2.png", "1.png"), FILES.values(), strict=True):
            opened.writestr(f"valid/{name}", data)
    there = {**{f"/{name}": data for name, data in FILES.items()}, "/set.zip": archive.getvalue()}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path in there else 404)
            self.end_headers()
            self.wfile.write(there.get(self.path, b""))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}/"
    known = {
        "files": ImageSet("files", "three", 3, 1, "free", place, None, {n: sha256(d) for n, d in FILES.items()}),
        "archive": ImageSet("archive", "three", 3, 1, "free", f"{place}set.zip", sha256(archive.getvalue()), {}),
        "changed": ImageSet("changed", "three", 3, 1, "free", f"{place}set.zip", sha256(b"another"), {}),
    }
    monkeypatch.setattr(sets, "sets", lambda: known)
    monkeypatch.setenv(sets.CACHE, str(tmp_path / "cache"))
    yield there, asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_published_sets_have_digests_of_all_their_files() -> None:
    known = sets.sets()
    assert list(known) == ["kodak24", "div2k-valid", "clic2020"]
    assert len(known["kodak24"].files) == 24
    for one in known.values():
        for digest in one.files.values() if one.files else [one.sha256]:
            assert digest is not None
            assert len(bytes.fromhex(digest)) == 32


@pytest.mark.parametrize("name", ["kodak24", "div2k-valid", "clic2020"])
def test_a_set_that_is_not_here_says_what_to_give_and_nothing_is_downloaded(name, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(sets.CACHE, str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("opened a connection"))
    with pytest.raises(ImageError, match=rf"^{name} is not in {tmp_path}.*--images DIR, or --allow-downloads \(\d+ MB"):
        open_images(name)


def test_the_cache_is_the_users(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(sets.CACHE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sets.cache() == tmp_path / "robustkit" / "images"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sets.cache() == tmp_path / ".cache" / "robustkit" / "images"


def test_the_default_are_the_photographs() -> None:
    images = open_images(crop=64)
    assert {name: image.shape for name, image in images.items()} == dict.fromkeys(photographs(64), (64, 64, 3))


@pytest.mark.parametrize(
    ("name", "order"),
    [("files", ["kodim01.png", "kodim02.png", "kodim03.png"]), ("archive", ["1.png", "2.png", "10.png"])],
)
def test_a_set_is_downloaded_once_if_that_is_allowed(served, name, order) -> None:
    pytest.importorskip("pooch")
    _, asked = served
    with pytest.raises(ImageError, match="--allow-downloads"):
        open_images(name)
    assert asked == []
    said: list[str] = []
    images = open_images(name, allow_downloads=True, crop=16, note=said.append)
    assert list(images) == order
    assert [image.shape for image in images.values()] == [(16, 16, 3)] * 3
    assert said[0].startswith(f"downloading {name}, 1 MB, to ")
    before = len(asked)
    again = open_images(name, allow_downloads=True, crop=16)
    assert len(asked) == before
    assert all(np.array_equal(again[image], images[image]) for image in order)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_download_with_another_digest_is_refused(served) -> None:
    pytest.importorskip("pooch")
    there, _ = served
    with pytest.raises(ImageError, match=r"changed could not be downloaded: .*hash"):
        open_images("changed", allow_downloads=True)
    there["/kodim02.png"] = png(9)
    with pytest.raises(ImageError, match=r"files could not be downloaded: .*hash"):
        open_images("files", allow_downloads=True)


def test_a_file_of_the_cache_that_was_changed_is_refused(served, tmp_path) -> None:
    pytest.importorskip("pooch")
    open_images("archive", allow_downloads=True)
    (tmp_path / "cache" / "archive" / "2.png").write_bytes(png(9))
    with pytest.raises(ImageError, match=r"2\.png has another SHA-256"):
        open_images("archive")
    (tmp_path / "cache" / "archive" / "digests.json").write_text('{"../2.png": "00"}')
    with pytest.raises(ImageError, match=r"digests\.json is not what was written there"):
        open_images("archive")


def test_without_pooch_the_extra_is_named(served, monkeypatch) -> None:
    monkeypatch.setattr(sets, "missing", lambda *_: "pooch is missing: pip install 'robustkit[images]'")
    with pytest.raises(ImageError, match=r"files can't be downloaded: pooch is missing: pip install"):
        open_images("files", allow_downloads=True)


def test_a_folder_that_holds_a_set_is_recognised_under_any_names(served, tmp_path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, data in zip(("c.png", "b.png", "a.png"), FILES.values(), strict=True):
        (folder / name).write_bytes(data)
    said: list[str] = []
    images = open_images(str(folder), note=said.append)
    assert said == [f"{folder} holds files: three"]
    assert list(images) == list(FILES)
    assert np.array_equal(images["kodim01.png"], np.asarray(PillowImage.open(io.BytesIO(FILES["kodim01.png"]))))
    (folder / "b.png").write_bytes(png(9))
    assert list(open_images(str(folder))) == ["a.png", "b.png", "c.png"]


def test_folders_below_mixed_sizes_and_numbers_by_value(tmp_path) -> None:
    for name, size in {
        "10.png": (20, 30),
        "2.png": (40, 20),
        "below/x1.png": (16, 16),
        ".hidden/y.png": (9, 9),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1, *size))
    (tmp_path / "notes.txt").write_text("text")
    said: list[str] = []
    images = open_images(str(tmp_path), note=said.append)
    assert [(name, image.shape[:2]) for name, image in images.items()] == [
        ("2.png", (40, 20)),
        ("10.png", (20, 30)),
        ("below/x1.png", (16, 16)),
    ]
    assert said == [f"3 images in {tmp_path}; 1 other file left aside"]
    assert "2.png" in images
    assert "3.png" not in images
    with pytest.raises(KeyError):
        images["3.png"]


@pytest.mark.parametrize(
    ("files", "crop", "message"),
    [
        ({}, None, "no image in"),
        ({"broken.png": b"no image"}, None, r"broken\.png can't be read as an image"),
        ({"small.png": png(0, 8, 40), "large.png": png(0, 40, 40)}, 16, r"small\.png is 40x8: a crop of 16"),
    ],
)
def test_what_cant_be_used_is_known_before_anything_is_read(tmp_path, files, crop, message) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=message):
        open_images(str(tmp_path), crop=crop)
    with pytest.raises(ImageError, match="is not a folder: give a folder of image files, or one of skimage, kodak24"):
        open_images(str(tmp_path / "nowhere"))


def test_images_are_read_when_asked_for_and_few_are_kept(tmp_path, monkeypatch) -> None:
    side = 512
    paths = {}
    for number in range(8):
        paths[str(number)] = tmp_path / f"{number}.png"
        paths[str(number)].write_bytes(png(number, side, side))
    one = side * side * 3
    monkeypatch.setattr(sets, "_KEPT", 2 * one)
    reads: list[Path] = []
    monkeypatch.setattr(sets, "read", lambda path, real=sets.read: (reads.append(path), real(path))[1])
    images = open_images(str(tmp_path))
    assert reads == []
    tracemalloc.start()
    total = sum(int(image[0, 0, 0]) for image in images.values())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 0
    assert len(reads) == 8
    assert peak < 6 * one
    # The newest two are there still.
    assert images["7.png"] is images["7.png"]
    assert np.array_equal(images["6.png"], Files(paths)["6"])
    assert len([path for path in reads if path.name == "7.png"]) == 1
