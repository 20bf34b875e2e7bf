"""The published JPEG experiment run again, on Kodak's photographs where they are on this machine."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean, stdev

import pytest

from robustkit.experiments.publisheddraws import BERS, flips, pattern
from robustkit.images import ImageError
from robustkit.images.sets import open_images
from robustkit.isolation import CodecWorkers
from robustkit.pixels import psnr
from robustkit.registry import registry

DATA = Path(__file__).with_name("data")


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.mark.slow
def test_every_published_row_and_both_tables_come_out(tmp_path) -> None:
    try:
        images = list(open_images("kodak24", crop=512).values())
    except ImageError as error:
        pytest.skip(str(error))
    published = {(float(r["ber"]), int(r["trial"]), int(r["image"])): r for r in rows("published_jpeg_rows.csv")}
    jpeg = registry.get("jpeg")
    rates = rows("published_jpeg_rates.csv")
    streams = [
        jpeg.spec(quality=int(rate["quality"]), check_size=False).load().encode(image)
        for image, rate in zip(images, rates, strict=True)
    ]
    assert [len(stream) for stream in streams] == [int(rate["bytes"]) for rate in rates]

    wanted = []
    for level, trial, at, draws in flips([len(stream) for stream in streams]):
        key = BERS[level], trial, at + 1
        if key in published:
            assert len(draws) == int(published[key]["flips"])
        if key in published or BERS[level] in (1e-4, 1e-3):
            wanted.append((key, pattern(draws, 8 * len(streams[at])).apply(streams[at])))
    # As published: whatever Pillow makes of a truncated file, and of one in other colours.
    spec = jpeg.spec(truncated="tolerate", check_size=False, colours="convert")
    with CodecWorkers(spec, directory=tmp_path, workers=2) as pool:
        decoded = pool.decode_many([stream for _, stream in wanted], shape=(512, 512))
    values: dict[tuple[float, int, int], float | None] = {
        key: None if one.image is None else psnr(images[key[2] - 1], one.image)
        for (key, _), one in zip(wanted, decoded, strict=True)
    }
    assert len(published) == 382
    for key, row in published.items():
        assert values[key] == (pytest.approx(float(row["psnr"]), abs=1e-5) if row["psnr"] else None)
    for ber, mean, deviation, corrupted in [(1e-4, 9.15, 2.54, 2), (1e-3, 7.84, 2.14, 50)]:
        at_level = [value for key, value in values.items() if key[0] == ber]
        shown = [value for value in at_level if value is not None]
        assert len(at_level) - len(shown) == corrupted
        assert (round(fmean(shown), 2), round(stdev(shown), 2)) == (mean, deviation)
