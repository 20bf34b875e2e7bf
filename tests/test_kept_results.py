"""Tables of the documents are those of the rows that are kept, and these are of the experiments that they name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import kept_results as results
import pytest
from click.testing import CliRunner
from PIL import Image

from robustkit import cli
from robustkit.experiments import plan as plans
from robustkit.experiments import rows
from robustkit.experiments.rows import CLEAN

NAMES = sorted(path.parent.name for path in results.KEPT.glob("*/rows.parquet"))


@pytest.mark.parametrize("document", results.DOCUMENTS, ids=lambda path: str(path.relative_to(results.ROOT)))
def test_the_tables_of_a_document_are_those_of_the_rows(document):
    text = document.read_text(encoding="utf-8")
    assert text.count("<!-- results: ") == len(results._BLOCK.findall(text))
    assert results.renewed(text) == text, "python tests/kept_results.py write"


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_are_those_of_the_experiment(name):
    plan = plans.make(plans.loaded(results.ROOT / "experiments" / f"{name}.toml"))
    found = results.table_of(name)
    images = set(found["image"].to_pylist())
    seen = Counter((entry, channel) for entry, _, channel, _ in rows.keys(found))
    wanted = {(entry.label, CLEAN): len(images) for entry in plan.entries}
    for entry in plan.entries:
        for channel in plan.channels:
            wanted[entry.label, channel] = len(images) * plan.trials_of(entry.label)
    # Flags may have left codecs out, and the command says so.
    there = {entry for entry, _ in seen}
    words = shlex.split(results.made(name)["command"])
    assert all(there == {label for label, _ in wanted} or entry in words for entry in there)
    assert seen == {key: count for key, count in wanted.items() if key[0] in there}
    settings = dict(zip(found["entry"].to_pylist(), found["settings"].to_pylist(), strict=True))
    asked = {entry.label: dict(entry.settings) for entry in plan.entries}
    assert {entry: json.loads(text) for entry, text in settings.items()} == {entry: asked[entry] for entry in there}
    assert set(found["seed"].to_pylist()) == {plan.seed}
    assert plan.metrics[0] in rows.metrics_of(found)
    said = results.made(name)
    assert words[:3] == ["robustkit", "sweep", f"experiments/{name}.toml"]
    assert said["commit"]
    assert said["date"]


def test_choose_says_of_the_kept_rows_what_the_page_shows(tmp_path):
    page = (results.ROOT / "docs" / "protection.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^robustkit (choose docs/results/protected .*)$", page, re.MULTILINE)
    (said,) = re.findall(r"^```text\n(bsc\(ber=0\.01\), 0\.4 bpp: .*)\n```$", page, re.MULTILINE)
    # Nothing is written into the folder that is kept.
    kept = shutil.copytree(results.KEPT / "protected", tmp_path / "protected")
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    words = [str(kept) if word == "docs/results/protected" else word for word in shlex.split(command)]
    done = CliRunner().invoke(cli.main, words)
    assert done.exit_code == 0, done.output
    assert " ".join(said.split()) in " ".join(done.output.split())
    assert "0 of 12: ≤ 22.09%" in done.output
    # Whole names: they are copied into commands.
    assert all(entry in done.output for entry in set(results.table_of("protected")["entry"].to_pylist()))
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == before


def test_a_table_says_where_it_comes_from_and_keeps_the_order_that_is_asked_for():
    text = results.rendered("classical", "losses", entries="webp,jpeg", channels="bsc(ber=1e-05);burst(length=32)")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| webp", "| jpeg"]
    assert lines[0].count("no image") == 2
    assert "experiments/classical.toml" in text
    assert results.made("classical")["commit"] in text


@pytest.mark.parametrize(
    "path", sorted(results.KEPT.glob("*/*.png")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_a_figure_names_a_command_that_others_can_run(path):
    with Image.open(path) as figure:
        words = shlex.split(json.loads(figure.info["robustkit"])["command"])
    assert words[:2] == ["robustkit", "figures"]
    assert Path(words[2]).name == path.parent.name
    assert not [word for word in words if Path(word).is_absolute()]
