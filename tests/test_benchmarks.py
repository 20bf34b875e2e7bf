"""The benchmarks start."""

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
