"""The benchmarks start, and the one that makes a table makes it."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(name, *arguments):
    program = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", sorted(file.name for file in BENCHMARKS.glob("*.py")))
def test_a_benchmark_says_what_it_does(name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Usage: " in done.stdout
    assert f"python benchmarks/{name}" in (BENCHMARKS / "README.md").read_text(encoding="utf-8")


def test_codecs_are_set_side_by_side(tmp_path):
    out = tmp_path / "table.md"
    codecs = ("--codec", "jpeg,webp", "--bpp", "2", "--set", "jpeg:subsampling=4:4:4")
    arguments = (*codecs, "--trials", "1", "--crop", "48", "--channel", "burst(length=8)", "--out", out)
    done = run("compare.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[-4:-2] == [
        "| codec | bpp | clean, dB | burst(length=8): loss, dB | no image |",
        "|---|---|---|---|---|",
    ]
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| `jpeg`", "| `webp`"]
    kept = {file.name: file.read_bytes() for file in tmp_path.glob("*.jsonl")}
    assert {name: data.count(b"\n") for name, data in kept.items()} == {
        f"table.md.{codec}.trials.jsonl": 1 + 6 for codec in ("jpeg", "webp")
    }
    # A second run makes the same of what is kept.
    assert run("compare.py", *arguments).returncode == 0
    assert out.read_text(encoding="utf-8").splitlines() == lines
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.jsonl")} == kept


def test_what_is_wrong_is_a_message(tmp_path):
    def told(*arguments):
        done = run("compare.py", *arguments, "--trials", "1", "--crop", "48", "--out", tmp_path / "table.md")
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    assert told("--codec", "jpag")[0] == 2
    assert told("--codec", "jpeg", "--channel", "bsk")[0] == 2
    # It has no rate to set.
    status, said = told("--codec", "png", "--channel", "burst(length=8)")
    assert (status, "'bpp'" in said) == (1, True)
