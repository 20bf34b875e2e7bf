"""``robustkit codecs``: every codec is a row, whatever it does when it is imported."""

from __future__ import annotations

import json
import re

import pytest
from command_line import cli, module, without

from robustkit.codecs.jpeg import Jpeg
from robustkit.registry import Registry, Target


@pytest.fixture
def registered(monkeypatch):
    found = Registry(entry_points=False)
    found.add("jpeg", Target("robustkit.codecs.jpeg", "Jpeg"), "robustkit")
    monkeypatch.setattr("robustkit.cli.codecs.registry", found)
    return found


def test_codecs_lists_every_key(registered):
    rows = json.loads(cli("codecs", "--json").stdout)
    assert rows == [
        {"name": "jpeg", "family": "classical", "origin": "robustkit", "bpp": Jpeg().profile.bpp, "available": True,
         "differs": None, "reason": None}
    ]  # fmt: skip
    assert re.search(r"jpeg +classical +robustkit +1\.05 +yes", cli("codecs").stdout)


def test_a_broken_codec_is_a_row_with_a_reason(registered, here):
    cases = {
        "raises": "raise RuntimeError('no [bold] licence')",
        "exits": "import sys; sys.exit(0)",
        "crashes": "import ctypes; ctypes.string_at(0)",
        "prints": "print('hello'); import os; os.write(1, b'more'); raise OSError('disk on fire')",
        "imports": "import a_library_nobody_has",
        "empty": "",
    }
    for name, body in cases.items():
        module(here, name, body)
        registered.add(name, Target(name, "Codec1"), "somebody")
    rows = {row["name"]: row for row in json.loads(cli("codecs", "--json").stdout)}
    assert rows.pop("jpeg")["available"]
    assert {name for name, row in rows.items() if not row["available"]} == set(cases)
    wanted = {
        "raises": "no [bold] licence",
        "exits": "SystemExit",
        "crashes": "SIGSEGV",
        "prints": "disk on fire",
        "imports": "a_library_nobody_has",
        "empty": "has no attribute 'Codec1'",
    }
    for name, reason in wanted.items():
        assert reason in rows[name]["reason"]
    plain = cli("codecs").stdout
    assert "no [bold] licence" in plain
    assert "Traceback" not in plain


def test_without_torch_the_codecs_that_need_it_are_rows_with_a_reason():
    done = without(["torch"], "codecs", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["jpeg"]["available"]
    for name in ("robust-turbo-ddcm", "psc", "mbt2018", "hific"):
        assert not rows[name]["available"]
        assert "torch" in rows[name]["reason"]


def test_without_torch_the_readme_s_table_says_what_it_needs():
    done = without(["torch"], "codecs", "--markdown")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Error: " in done.stderr
    assert "pip install 'robustkit[all]'" in done.stderr


def test_a_codec_of_robustkit_s_own_that_imports_when_it_is_built_is_a_row(registered, here):
    module(here, "late", "class Late:\n    family = 'test'\n    def __init__(self):\n        import nobody_has_this\n")
    registered.add("late", Target("late", "Late"), "robustkit")
    row = json.loads(cli("codecs", "--json").stdout)[1]
    assert (row["available"], row["family"]) == (False, "test")
    assert "nobody_has_this" in row["reason"]


def test_each_rcc_codec_says_in_one_sentence_what_differs_from_its_paper():
    shown = cli("codecs").stdout
    said = dict(re.findall(r"^(\S+): (Unlike its paper's.*)$", shown, re.MULTILINE))
    assert set(said) == set(re.findall(r"^(\S+) +rcc ", shown, re.MULTILINE))
    for sentence in said.values():
        assert re.fullmatch(r"Unlike its paper's[^.]*(?:\d\.\d[^.]*)*\.", sentence)
    assert "Reed-Solomon" not in said["robust-turbo-ddcm"]
    assert "parity" in said["robust-turbo-ddcm-uep"]
