"""The layers hold, no module escapes them, and what must be light to import is."""

import ast
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
#: What extras bring, by the name it is imported by.
EXTRAS = {
    *("av", "compressai", "constriction", "dask", "diffusers", "distributed", "gmpy2", "matplotlib", "pillow_heif"),
    *("pillow_jxl", "pyarrow", "pyiqa", "reedsolo", "safetensors", "torch", "transformers"),
}
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "skimage",
    "PIL",
    "pyiqa",
    "matplotlib",
    "scipy",
    "pyarrow",
    "robustkit.codecs",
)


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
    assert "2 kept, 0 broken" in done.stdout


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


def test_each_module_is_one_room():
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in ROOT.glob("robustkit/**/*.py")}
    assert {file.name: count for file, count in lines.items() if count > 600} == {}
    assert lines[ROOT / "robustkit" / "pytest_plugin.py"] < 150


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


def test_the_plugin_adds_little_to_the_start_of_pytest():
    """Whoever has robustkit installed loads its plugin with every run of pytest, also of tests about something else.

    What it loads is printed with its time, but no time is asserted: a loaded machine would fail it.
    """
    program = "import pytest, robustkit.pytest_plugin"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    # import time: self [us] | cumulative | imported package, indented by two for each import that asked for it
    timed = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    lines = [line.removeprefix("import time:").split("|") for line in timed]
    times = {name.strip(): (int(own), int(total)) for own, total, name in lines if own.strip().isdigit()}
    own = {name: time for name, (time, _) in times.items() if name.partition(".")[0] == "robustkit"}
    print(f"robustkit.pytest_plugin: {times['robustkit.pytest_plugin'][1] / 1000:.1f} ms, of these its own modules:")
    for name, time in sorted(own.items(), key=lambda item: -item[1]):
        print(f"{time / 1000:8.1f} ms  {name}")
    packages = {name.partition(".")[0] for name in times.keys() - own.keys()} - sys.stdlib_module_names
    print("packages, pytest's among them:", ", ".join(sorted(packages)))
    assert "robustkit.registry" in own
    assert not packages & {*HEAVY, "click", "hypothesis", "jinja2", "rich"}
    assert not [name for name in own if name.startswith("robustkit.codecs")]


def test_judging_a_codec_needs_no_torch():
    rooms = ", ".join(f"robustkit.judging.{room}" for room in ("search", "evidence", "golden_files"))
    done = run(f"import {rooms}, sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "robustkit.isolation" in loaded
    assert not [n for n in loaded if n in ("torch", "pyiqa") or n.startswith("robustkit.codecs")]


def imported_at_the_top(file):
    """Top-level packages that importing the module ``file`` imports at once."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_what_extras_bring_is_imported_only_where_it_is_used():
    """Without the extras all can be imported but codecs, priors and experiments; there they stand at a module's top."""
    eager = {}
    for folder in ("robustkit", "conformance"):
        for file in sorted(ROOT.joinpath(folder).rglob("*.py")):
            eager[file.relative_to(ROOT)] = EXTRAS & set(imported_at_the_top(file))
    # What moves torch's results is imported by a worker that has torch, and by nobody else.
    eager.pop(Path("robustkit/isolation/jittered.py"))
    where = {"codecs", "priors", "experiments"}
    own = {file: names for file, names in eager.items() if names and not where & set(file.parts)}
    assert not own
    assert any("torch" in names for names in eager.values())
