"""The layers hold, no module escapes them, and what must be light to import is."""

import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import robustkit

ROOT = Path(__file__).parents[1]
CONTRACT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0]
#: No more than a way in.
OUTSIDE = {"robustkit.__main__"}
HEAVY = ("torch", "diffusers", "transformers", "skimage", "PIL", "pyiqa", "matplotlib", "scipy", "robustkit.codecs")


def run(program, *arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def lint(folder):
    """Run import-linter on the package in ``folder`` under the project's contract."""
    program = (
        "import sys\n"
        "from importlinter.cli import lint_imports\n"
        "sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))\n"
    )
    return run(program, str(ROOT / "pyproject.toml"), cwd=folder)


def test_modules_import_only_from_layers_below():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_the_contract_notices_an_import_from_a_layer_above(tmp_path):
    for layer in CONTRACT["layers"]:
        for module in layer.split(" | "):
            folder = tmp_path.joinpath(*module.split("."))
            folder.mkdir(parents=True)
            folder.joinpath("__init__.py").touch()
    tmp_path.joinpath("robustkit", "__init__.py").touch()
    tmp_path.joinpath("robustkit", "codecs", "__init__.py").write_text("import robustkit.isolation\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "robustkit.codecs is not allowed to import robustkit.isolation" in done.stdout


def test_every_module_is_in_a_layer():
    layered = {module for layer in CONTRACT["layers"] for module in layer.split(" | ")}
    found = {module.name for module in pkgutil.iter_modules(robustkit.__path__, "robustkit.")}
    assert found - OUTSIDE == layered


@pytest.mark.parametrize(
    "program",
    [
        "import robustkit, robustkit.pytest_plugin, robustkit.cli",
        "import robustkit; [robustkit.registry.get(e.name).spec() for e in robustkit.registry]",
    ],
    ids=["imports", "choosing a codec"],
)
def test_nothing_heavy_is_imported(program):
    done = run(f"{program}\nimport sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "robustkit" in loaded
    assert not [name for name in loaded for heavy in HEAVY if name == heavy or name.startswith(f"{heavy}.")]


def test_judging_a_codec_needs_no_torch():
    rooms = ", ".join(f"robustkit.judging.{room}" for room in ("search", "evidence", "golden_files"))
    done = run(f"import {rooms}, sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "robustkit.isolation" in loaded
    assert not [n for n in loaded if n in ("torch", "pyiqa") or n.startswith("robustkit.codecs")]
