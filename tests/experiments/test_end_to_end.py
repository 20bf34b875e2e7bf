"""From codecs and a folder of photographs to figures, tables and a choice, by commands alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from click.testing import CliRunner
from PIL import Image as PillowImage

from robustkit.cli import main
from robustkit.experiments import rows, store
from robustkit.images import photographs

EXPERIMENT = """
images = "photographs"
channels = ["bsc", "gilbert-elliott(burst=8)"]
bers = [1e-4, 1e-3]
trials = 3
metrics = ["psnr", "psnr-y"]

[[codecs]]
codec = "jpeg"
target_bpp = 2

[[codecs]]
codec = "webp"
settings = { bpp = 2.0 }
"""
CHANNELS = (
    *("bsc(ber=0.0001)", "bsc(ber=0.001)"),
    *("gilbert-elliott(ber=0.0001, burst=8)", "gilbert-elliott(ber=0.001, burst=8)"),
)
ENTRIES = ("jpeg@2bpp", "webp")


def cli(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_experiment_in_shares_becomes_figures_and_a_choice(tmp_path: Path) -> None:
    (tmp_path / "photographs" / "more").mkdir(parents=True)
    for name, at in (("coffee", "photographs/coffee.png"), ("rocket", "photographs/more/rocket.png")):
        PillowImage.fromarray(photographs(96)[name]).save(tmp_path / at)
    file, whole = tmp_path / "mine.toml", tmp_path / "whole"
    file.write_text(EXPERIMENT)
    shares = [tmp_path / f"share-{share}" for share in (1, 2)]
    for share, folder in enumerate(shares, start=1):
        cli("sweep", file, "--shard", f"{share}/2", "--out", folder)
    everything = 2 * 2 * (1 + len(CHANNELS) * 3)
    assert f"{everything} rows" in cli("merge", *shares, "--out", whole)
    assert "complete" in cli("status", whole)
    # Pictures are of trials that are there: no row is new.
    assert f"{everything} rows in {whole}, 0 of them new" in cli(
        "sweep", file, "--keep", "median:1", "--out", whole
    ).replace("\n", " ")

    said = cli("figures", whole, "--metric", "psnr", "--metric", "psnr-y", "--format", "png")
    assert "Rates are matched within 5%" in said
    made = whole / "figures"
    drawn = {path.stem for path in made.glob("*.png")}
    assert {"damage-bsc", "damage-gilbert-elliott-burst-8", "pictures-coffee-bsc", "pictures-rocket-bsc"} <= drawn
    table = store.read(whole)
    assert set(table["entry"].to_pylist()) == set(ENTRIES)
    by_key = {tuple(row[name] for name in rows.KEY): row for row in table.to_pylist()}
    shown = read(made / "pictures-coffee-bsc.csv")
    assert {(row["entry"], row["channel"]) for row in shown} == {
        (entry, channel) for entry in ENTRIES for channel in ("clean", *CHANNELS[:2])
    }
    for row in shown:
        trial = by_key[row["entry"], "coffee.png", row["channel"], int(row["trial"])]
        for metric in ("psnr", "psnr_y"):
            assert row[metric] == ("" if trial[metric] is None else str(trial[metric]))
    assert {row["quantity"] for row in read(made / "damage-bsc.csv")} == {"psnr", "psnr_y", "no image"}

    chosen = json.loads(cli("choose", whole, "--bpp", "2", "--metric", "psnr-y", "--json"))
    assert {row["channel"] for row in chosen} == {"clean", *CHANNELS}
    assert {row["entry"] for row in chosen} == set(ENTRIES)
