"""`robustkit figures` and `robustkit choose` say what to install where something is missing, and what is no sweep."""

from __future__ import annotations

import pytest
from command_line import cli, without


@pytest.mark.parametrize("package", ["pyarrow", "matplotlib", "bjontegaard"])
def test_a_missing_package_is_named_with_its_extra(package, tmp_path):
    done = without([package], "figures", tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"Error: {package} is missing: pip install 'robustkit[experiments]'\n"


def test_choosing_needs_no_drawing(tmp_path):
    done = without(["matplotlib", "bjontegaard", "torch"], "choose", tmp_path, "--bpp", "1")
    assert done.returncode == 1
    assert "has no rows yet" in done.stderr


def test_drawing_brings_no_torch():
    """Figures are drawn where nothing is decoded."""
    program = "import sys, robustkit.experiments.figures; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "False False\n"


def test_help_names_every_option():
    said = cli("figures", "--help").output
    for option in ("--entry", "--metric", "--format", "--width", "--anchor", "--bpp", "--compare", "--without-image"):
        assert option in said
    assert "--most-without-image" in cli("choose", "--help").output
