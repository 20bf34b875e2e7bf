"""Matched rates through real workers: tables, how far apart rates are, and the published qualities."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from robustkit.experiments import matchrate
from robustkit.experiments.matchrate import Matched, MatchError, NotMatched, match, require_matched, targets
from robustkit.images import photographs
from robustkit.images.sets import ImageError, open_images
from robustkit.registry import CodecUnavailable, Target, registry

PUBLISHED = Path(__file__).with_name("data") / "published_jpeg_rates.csv"


def row(codec: str = "jpeg", image: str = "a.png", **changed: object) -> Matched:
    given: dict[str, object] = {
        "codec": codec,
        "image": image,
        "target_bpp": 1.0,
        "knob": "quality",
        "value": 33,
        "bytes": 32716,
        "bpp": 0.9984130859375,
        "encodes": 7,
        "search": "bisection",
        "sha256": "00ff",
    }
    return Matched(**{**given, **changed})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def images():
    return dict(list(photographs(64).items())[:3])


def test_each_image_has_its_own_setting_whatever_the_number_of_workers(images, tmp_path) -> None:
    spec = registry.get("jpeg").spec(check_size=False)
    told: list[Matched] = []
    rows = match(spec, images, 1.5, directory=tmp_path, tell=told.append)
    assert [one.image for one in rows] == list(images)
    assert rows == told == match(spec, images, 1.5, directory=tmp_path, workers=2)
    assert len({one.value for one in rows}) > 1
    for one in rows:
        assert one.bpp == 8 * one.bytes / 64**2
        assert abs(one.off) < 0.05
        assert matchrate.settings_of(rows, "jpeg", one.image) == {"quality": one.value}
    few = match(spec, images, 1.5, directory=tmp_path, search="secant")
    assert sum(one.encodes for one in few) < sum(one.encodes for one in rows)
    with pytest.raises(MatchError, match="has no jpeg of nowhere"):
        matchrate.settings_of(rows, "jpeg", "nowhere")


def test_failures_name_codec_and_image(images, tmp_path) -> None:
    with pytest.raises(MatchError, match=r"jpeg, astronaut: .*above max_pixels = 5"):
        match(registry.get("jpeg").spec(max_pixels=5), images, 1.0, directory=tmp_path)
    with pytest.raises(MatchError, match="give a positive rate"):
        match(registry.get("jpeg").spec(), images, float("nan"), directory=tmp_path)
    with pytest.raises(CodecUnavailable, match="neither qualities nor a setting bpp"):
        match(registry.get("png").spec(), images, 1.0, directory=tmp_path)


def test_a_codec_that_dies_takes_nothing_with_it(images, tmp_path) -> None:
    (tmp_path / "dying.py").write_text(
        "import os\n"
        "class Dying:\n"
        "    name, family, qualities = 'dying', 'classical', range(1, 9)\n"
        "    def __init__(self, *, quality=1): self.quality = quality\n"
        "    def encode(self, image): os._exit(3)\n"
        "    def decode(self, bitstream): return None\n"
    )
    spec = registry.get("jpeg").spec()
    dying = type(spec)("dying", Target("dying", "Dying", str(tmp_path / "dying.py")), {}, None)
    with pytest.raises(MatchError, match="dying, astronaut: "):
        match(dying, images, 1.0, directory=tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".toml"])
def test_a_table_comes_back_as_it_was_stored(tmp_path, suffix: str) -> None:
    rows = [
        row(),
        row(codec="robust-turbo-ddcm", image='od"d\n, name.png', knob="bpp", value=0.4375, search="secant"),
        row(codec="jpeg+rs(255,191)", value=2.0),
    ]
    path = tmp_path / f"rates{suffix}"
    matchrate.write(rows, path)
    back = matchrate.read(path)
    assert back == rows
    # A setting that takes whole numbers takes no 33.0.
    assert [type(one.value) for one in back] == [int, float, float]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "codec,image\njpeg,a.png\n", "a row has codec, image, and should have codec, image, target_bpp"),
        ("a.toml", "match = 3", "no table of rates"),
        ("b.toml", "[[match]]\ncodec = 1\n", "no table of rates"),
        ("c.toml", "= = =", "no table of rates"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MatchError, match=message):
        matchrate.read(tmp_path / name)
    with pytest.raises(MatchError, match="can't be read"):
        matchrate.read(tmp_path / "nowhere.toml")
    with pytest.raises(MatchError, match=r"is a \.toml or a \.csv file"):
        matchrate.write([row()], tmp_path / "rates.txt")


def test_targets_are_read_as_people_write_them() -> None:
    assert targets("jpeg=1.0, bpg=0.5") == {"jpeg": 1.0, "bpg": 0.5}
    assert targets("jpeg+rs(255,223)=1") == {"jpeg+rs(255,223)": 1.0}
    for wrong in (
        "jpeg",
        "jpeg=",
        "=1",
        "jpeg=x",
        "jpeg=0",
        "jpeg=-1",
        "jpeg=inf",
        "jpeg=nan",
        "jpeg=1,jpeg=2",
        "",
        ",",
    ):
        with pytest.raises(MatchError):
            targets(wrong)


def test_rates_further_apart_than_5_percent_are_not_called_matched() -> None:
    rates = matchrate.mean_rates([row(bpp=0.9), row(bpp=1.1), row("bpg", bpp=1.04)])
    assert rates == {"jpeg": 1.0, "bpg": 1.04}
    require_matched(rates)
    assert matchrate.said(rates) == "rates from 1.0000 bpp (jpeg) to 1.0400 bpp (bpg), 4.0% apart"
    with pytest.raises(
        NotMatched, match=r"from 0\.5000 bpp \(bpg\) to 1\.0000 bpp \(jpeg\), 100\.0% apart, more than 5%"
    ):
        require_matched({"jpeg": 1.0, "bpg": 0.5})
    require_matched({"jpeg": 1.0, "bpg": 0.5}, limit=1.5)
    require_matched({"jpeg": 1.0})
    for wrong in ({}, {"jpeg": 0.0}, {"jpeg": float("nan")}, {"jpeg": float("inf")}):
        with pytest.raises(MatchError, match="all positive"):
            require_matched(wrong)


def test_the_published_jpeg_qualities_of_kodak24_are_found(tmp_path) -> None:
    """24 of 24 qualities and file sizes, where Kodak's photographs are on this machine."""
    try:
        images = open_images("kodak24", crop=512)
    except ImageError as error:
        pytest.skip(str(error))
    rows = match(registry.get("jpeg").spec(check_size=False), images, 1.0, directory=tmp_path, workers=2)
    with PUBLISHED.open() as file:
        published = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert [(one.value, one.bytes) for one in rows] == [(int(p["quality"]), int(p["bytes"])) for p in published]
