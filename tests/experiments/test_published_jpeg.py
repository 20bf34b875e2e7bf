"""The preset's JPEG run as published, on Kodak's photographs where they are on this machine."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner

from robustkit.cli import main
from robustkit.experiments import identity, pictures, plan, store, sweep
from robustkit.images import ImageError

DATA = Path(__file__).with_name("data")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.mark.slow
def test_every_published_row_and_both_tables_come_out(tmp_path) -> None:
    said = plan.preset("paper")
    # SSIMULACRA 2 would take five times as long as all else.
    said |= {"codecs": said["codecs"][:1], "images": "kodak24", "crop": 512, "metrics": ["psnr"]}
    wanted = plan.make(said)
    try:
        found = pictures.find(wanted.images, wanted.crop)
    except ImageError as error:
        pytest.skip(str(error))
    experiment, _ = identity.examine(wanted, found)
    folder = tmp_path / "rows"
    ended = sweep.sweep(folder, sweep.begin(folder, experiment), wanted, jobs=2)
    assert (ended.done, ended.failed) == (24 * (1 + 6 * 10), {})

    numbers = {picture.name: number for number, picture in enumerate(experiment.pictures, start=1)}
    table = store.read(folder).to_pylist()
    sizes = {numbers[row["image"]]: row["stream_bytes"] for row in table}
    assert sizes == {int(row["image"]): int(row["bytes"]) for row in rows(DATA / "published_jpeg_rates.csv")}
    measured = {(row["severity"], row["trial"], numbers[row["image"]]): row for row in table}
    published = rows(DATA / "published_jpeg_rows.csv")
    assert len(published) == 382
    for row in published:
        ours = measured[float(row["ber"]), int(row["trial"]), int(row["image"])]
        assert ours["flips"] == int(row["flips"])
        assert ours["psnr"] == (pytest.approx(float(row["psnr"]), abs=1e-5) if row["psnr"] else None)

    figures = ["figures", str(folder), "--out", str(tmp_path / "figures"), "--format", "svg", "--compare", "published"]
    done = CliRunner().invoke(main, figures)
    assert done.exit_code == 0, done.output
    compared = rows(tmp_path / "figures" / "compare-published.csv")
    exact = [row for row in compared if row["known"] in ("table", "clean")]
    assert len(exact) == 3 + 2 * 2
    assert all(row["same_digits"] == "True" for row in exact)
    page = (tmp_path / "figures" / "compare-published.md").read_text(encoding="utf-8")
    for value in ("9.15 ± 2.54", "7.84 ± 2.14", "2 of 240", "50 of 240"):
        assert page.count(value) == 2, value
