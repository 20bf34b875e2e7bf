"""``robustkit match-rate``: the table, what is stored, and its exit statuses."""

from __future__ import annotations

import pytest
from command_line import cli

from robustkit.experiments import matchrate


def test_rates_are_matched_printed_and_stored(tmp_path) -> None:
    out = tmp_path / "rates.toml"
    done = cli(
        "match-rate", "--target-bpp", "jpeg=1.5,webp=1.5", "--set", "jpeg:check_size=false", "--crop", 64, "--out", out
    )
    rows = matchrate.read(out)
    assert len(rows) == 12
    assert {row.codec for row in rows} == {"jpeg", "webp"}
    assert "jpeg: 1.5" in done.stdout or "jpeg: 1.4" in done.stdout
    assert "% apart" in done.stdout
    assert f"12 settings written to {out}" in done.stdout


def test_a_rate_that_is_out_of_reach_is_said() -> None:
    done = cli("match-rate", "--target-bpp", "jpeg=0.01", "--crop", 32, "--search", "secant", status=1)
    assert "further than 5% from the wanted rate: jpeg of astronaut" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--target-bpp", "jpeg"], "write CODEC=BPP"),
        (["--target-bpp", "jpge=1"], "did you mean jpeg"),
        (["--target-bpp", "jpeg=1", "--out", "rates.txt"], "give a .toml or a .csv file"),
        (["--target-bpp", "jpeg=1", "--knob", "quality"], "write NAME=LOW:HIGH"),
        (["--target-bpp", "jpeg=1", "--set", "webp:quality=3"], "not among the codecs"),
        (["--target-bpp", "jpeg=1", "--images", "/nowhere"], "not a folder"),
    ],
)
def test_wrong_usage_says_what_is_right(args, message) -> None:
    done = cli("match-rate", *args, status=2)
    assert message in done.stderr
