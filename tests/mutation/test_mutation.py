"""The kit's own tests see the kit's mistakes: a sample of mutants of what judges, each of which they must notice."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMAND = HERE / "mutate.py"
#: The modules that the command knows, without importing it: it loads what its children share.
MODULES = re.findall(r'^    "([\w/]+\.py)": Module\(', COMMAND.read_text(encoding="utf-8"), re.MULTILINE)
LISTED = tomllib.loads((HERE / "survivors.toml").read_text(encoding="utf-8")).get("survivor", [])


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_a_sample_of_mutants_is_noticed(module):
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--sample", module], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"survivors that are not listed:\n{done.stdout}{done.stderr}"
    assert re.search(rf"# {module}: \d+ mutants", done.stdout)


def test_every_module_and_its_tests_are_there():
    assert len(MODULES) > 5
    for module in MODULES:
        assert (ROOT / "robustkit" / module).is_file()


@pytest.mark.slow
def test_every_survivor_is_a_mutant_that_can_still_be_made_and_has_a_reason():
    done = subprocess.run([sys.executable, str(COMMAND), "--list"], capture_output=True, text=True, check=True)
    mutants = set(done.stdout.splitlines())
    for entry in LISTED:
        assert entry["reason"].endswith("."), entry
        assert "{module} {function}: {before}  ->  {after}".format(**entry) in mutants, entry


def test_no_mutant_is_the_module_as_it_is():
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--list", "judging/trial.py"], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) > 10
    for line in lines:
        before, _, after = line.partition(": ")[2].partition("  ->  ")
        assert before != after
