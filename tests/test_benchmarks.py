"""The benchmarks start."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustkit.judging.assess import Quantity, Rule
from robustkit.judging.effort import EFFORTS
from robustkit.judging.finding import Verdict

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


@pytest.fixture
def gate(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gate")


@pytest.mark.parametrize(("share", "limit"), [(True, 0.05), (True, 0.01), (True, 0.0), (False, 1.0), (False, 1.6)])
def test_the_gate_judges_as_the_suite_does(gate, share, limit):
    rng = np.random.default_rng(3)
    size = 20, gate.rounds("nightly"), gate.IMAGES
    each = rng.choice([0.002, 0.05, 0.2] if share else [0.5, 1.0, 2.0], (20, 1, 1))
    numbers = (rng.random(size) < each).astype(float) if share else np.clip(each * rng.exponential(1, size), -1, 12)
    numbers[rng.random(size) < 0.05] = math.nan
    least, most = (0.0, 1.0) if share else (-1.0, 12.0)
    told = gate.told(numbers, limit, least, most, gate.FINDINGS, share=share)
    said = set()
    for effort, spends in EFFORTS.items():
        rule = Rule(gate.FINDINGS, spends.trials)
        for run, rounds in enumerate(numbers[:, : gate.rounds(effort)]):
            judged = Quantity("q", "s", rounds, limit, least, most, str, "", None, None, share=share).judged(rule)
            said.add(judged.verdict)
            assert (judged.verdict is Verdict.KEPT) == told.proved(effort)[run]
            assert (judged.verdict is Verdict.BROKEN) == told.bad(effort)[run]
            assert judged.verdict.good == told.good(effort)[run]
    assert {Verdict.BROKEN, Verdict.KEPT if limit > 0 else Verdict.NOT_DISPROVED} <= said


def test_the_gate_goes_on_with_what_it_knows(gate, tmp_path, monkeypatch):
    cells, file = [("share", "0"), ("share", "0.2"), ("gain", "5", "3")], tmp_path / "known.jsonl"
    gate.Kept(file, 3).complete(cells[:2], 3, 1)
    with file.open("a") as opened:
        opened.write('{"of": "cut')
    asked, work = [], gate.work
    monkeypatch.setattr(gate, "work", lambda cell, *more: asked.append(cell) or work(cell, *more))
    kept = gate.Kept(file, 3)
    kept.complete(cells, 3, 1)
    assert asked == cells[2:]
    assert kept.found["share", "0"]["ci"]["kept"] == kept.found["share", "0"]["quick"]["kept"] == 3
    assert gate.Kept(file, 3).found == kept.found
    # Of another number of runs nothing is known.
    assert not gate.Kept(file, 4).found
    # Processes make the same figures as one does.
    monkeypatch.undo()
    parallel = gate.Kept(None, 3)
    parallel.complete(cells, 3, 2)
    assert json.dumps(parallel.found["share", "0.2"]) == json.dumps(kept.found["share", "0.2"])
