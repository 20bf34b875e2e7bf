"""What others named is shown letter by letter in Markdown and LaTeX; numbers are printed as published."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess

import pytest

from robustkit.experiments import text
from robustkit.experiments.text import Table
from robustkit.statistics import Bound

HOSTILE = r"a|b_c*d<script>`e`\input{/etc/passwd}$x^2$%&#~[l](u)" + "\nf\x1b[31m\u202e"


def table(cell):
    return Table("t", cell, [cell, "x"], [[cell, "1"]], [{"name": cell, "x": 1.5}], (cell,), [("", 1), (cell, 1)])


def test_hostile_names_are_text_in_markdown():
    made = table(HOSTILE).markdown()
    assert "\x1b" not in made
    assert "\u202e" not in made
    unescaped = re.sub(r"\\.", "", made)
    for character in "`*_<[$#~!":
        if character != "*":
            assert character not in unescaped, character
    # Title in bold, and nothing else.
    assert unescaped.count("*") == 4
    rows = [line for line in made.splitlines() if line.startswith("|")]
    assert [len(re.split(r"(?<!\\)\|", line)) for line in rows] == [4, 4, 4]


def test_hostile_names_are_text_in_latex():
    made = table(HOSTILE).latex()
    assert r"\input" not in made
    assert "\x1b" not in made
    body = made.replace(r"% \usepackage{booktabs}", "")
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert not re.search(r"\^(?!\{\})", re.sub(r"\\textasciicircum\{\}", "", body))
    assert body.count(r"\$x\textasciicircum{}2\$") == 5


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_takes_the_table(tmp_path):
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n%s\\end{document}\n"
    tmp_path.joinpath("t.tex").write_text(document % table(HOSTILE).latex(), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_csv_reads_back_equal():
    made = text.as_csv([{"name": HOSTILE, "x": 0.1 + 0.2}, {"name": None, "x": math.nan, "y": math.inf}])
    rows = list(csv.DictReader(io.StringIO(made)))
    assert rows[0]["name"] == HOSTILE
    assert float(rows[0]["x"]) == 0.1 + 0.2
    assert rows[1] == {"name": "", "x": "", "y": "inf"}


def test_json_has_no_numbers_that_json_lacks():
    made = Table("t", "t", [], [], [{"a": math.nan, "b": math.inf, "c": 1.5, "d": "x"}])
    assert made.plain() == [{"a": None, "b": None, "c": 1.5, "d": "x"}]


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(22.567, 2, "22.57"), (-0.001, 2, "0.00"), (-0.006, 2, "-0.01"), (math.nan, 2, "n/a"), (-math.inf, 1, "-∞")],
)
def test_numbers(value, digits, shown):
    assert text.number(value, digits) == shown


def test_an_interval_that_the_data_do_not_give_is_none():
    assert text.interval(Bound(1.0, 0.5, 1.5), 1) == "[0.5, 1.5]"
    assert text.interval(Bound(1.0, -math.inf, math.inf), 1) == "n/a"
