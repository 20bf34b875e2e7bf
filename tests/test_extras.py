"""What is missing is said with the extra that brings it: by codecs, by priors and by the command line."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from robustkit.extras import _OF_CODECS, EXTRAS, missing, way_out

ROOT = Path(__file__).parents[1]
#: As where only the core is installed.
EVERYTHING = sorted({package for packages in EXTRAS.values() for package in packages})
#: Nothing of these packages can be imported, as if they were not installed.
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""
RCC = ("ddcm", "diffc", "psc", "robust-turbo-ddcm", "robust-turbo-ddcm-uep", "turbo-ddcm")
LEARNED = ("cheng2020-anchor", "elic2022", "hyperprior-small", "hyperprior-small-hardened", "mbt2018")
OFFICIAL = ("cdc", "hific", "ms-illm", "perco", "psc-official", "stablecodec")


def without(packages: list[str], program: str, *arguments: str) -> Any:
    """What ``program`` prints, as JSON, where ``packages`` are not installed."""
    command = [sys.executable, "-c", BLOCKED + program, ",".join(packages), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


#: What loading each codec with the same settings ends in: the message, or "" where it is built.
LOADING = """
import json, robustkit

found = {}
for name in sys.argv[3:]:
    try:
        robustkit.load_codec(name, **json.loads(sys.argv[2]))
        found[name] = ""
    except robustkit.CodecUnavailable as error:
        found[name] = str(error)
print(json.dumps(found))
"""


def lacking(name: str, package: str, extra: str) -> str:
    return f"codec {name!r} can't run here: {package} is missing: pip install 'robustkit[{extra}]'"


def test_a_codec_that_an_extra_brings_names_it_on_a_core_installation() -> None:
    names = [*RCC, *LEARNED, *OFFICIAL, "bpg", "heic", "jpeg", "jpeg-xl", "png", "jpeg+rs(255,223)"]
    found = without(EVERYTHING, LOADING, "{}", *names)
    assert found == {
        **{name: lacking(name, "torch", "rcc") for name in RCC},
        **{name: lacking(name, "torch", "learned") for name in OFFICIAL},
        **{name: lacking(name, "safetensors", "learned") for name in LEARNED},
        "bpg": lacking("bpg", "av", "bpg"),
        "heic": lacking("heic", "pillow_heif", "heic"),
        "jpeg-xl": lacking("jpeg-xl", "pillow_jxl", "jpeg-xl"),
        "jpeg+rs(255,223)": lacking("jpeg+rs(255,223)", "reedsolo", "protection"),
        "jpeg": "",
        "png": "",
    }


#: What loading each codec ends in where the package before it, alone, is not installed.
ONE_BY_ONE = """
import json, robustkit

found = []
for package, name in zip(sys.argv[3::2], sys.argv[4::2]):
    sys.argv[1] = package
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == package]:
        del sys.modules[loaded]
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("robustkit.codecs")]:
        del sys.modules[loaded]
    try:
        robustkit.load_codec(name, **json.loads(sys.argv[2]))
        found.append("")
    except robustkit.CodecUnavailable as error:
        found.append(str(error))
print(json.dumps(found))
"""


def test_one_package_that_is_missing_is_named() -> None:
    lacks = {"diffc": "constriction", "turbo-ddcm": "gmpy2", "psc": "reedsolo", "hyperprior-small": "compressai"}
    given = [word for name, package in lacks.items() for word in (package, name)]
    assert without([""], ONE_BY_ONE, "{}", *given) == [
        lacking(name, package, "learned" if name == "hyperprior-small" else "rcc") for name, package in lacks.items()
    ]


def test_the_codec_under_protection_is_named_where_it_is_what_lacks_something() -> None:
    names = ["robust-turbo-ddcm+rs(255,223)", "hyperprior-small+rs(255,223)"]
    assert without(["torch"], LOADING, "{}", *names) == {
        names[0]: lacking("robust-turbo-ddcm", "torch", "rcc"),
        names[1]: lacking("hyperprior-small", "torch", "learned"),
    }


def test_a_pipeline_names_diffusers_and_the_embedded_prior_does_without(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    settings, lacks = json.dumps({"prior": str(tmp_path)}), ("diffusers", "transformers")
    given = [word for package in lacks for word in (package, "turbo-ddcm")]
    assert without([""], ONE_BY_ONE, settings, *given) == [
        lacking("turbo-ddcm", package, "diffusers") for package in lacks
    ]
    assert without(["diffusers", "transformers"], LOADING, "{}", "turbo-ddcm") == {"turbo-ddcm": ""}


def test_a_prior_of_its_own_says_so_too(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    program = """
import json
from robustkit.priors import load_prior
from robustkit.priors.errors import PriorError

try:
    load_prior(sys.argv[2])
except PriorError as error:
    print(json.dumps(str(error)))
"""
    for absent, package, extra in ((["torch"], "torch", "rcc"), (["diffusers"], "diffusers", "diffusers")):
        said = f"prior {str(tmp_path)!r}: {package} is missing: pip install 'robustkit[{extra}]'"
        assert without(absent, program, str(tmp_path)) == said


#: A command, its status and what it prints.
COMMAND = """
import json
from click.testing import CliRunner
from robustkit.cli import main

done = CliRunner().invoke(main, sys.argv[2:], catch_exceptions=False)
print(json.dumps([done.exit_code, done.output]))
"""


def test_the_list_of_codecs_gives_the_reason_on_a_core_installation() -> None:
    status, output = without(EVERYTHING, COMMAND, "codecs", "--json")
    assert status == 0
    rows = {row["name"]: row for row in json.loads(output) if row["origin"] == "robustkit"}
    assert rows["jpeg"]["available"]
    for name in RCC:
        assert not rows[name]["available"]
        assert rows[name]["reason"] == lacking(name, "torch", "rcc")


def test_calibrating_a_prior_gives_the_reason_on_a_core_installation(tmp_path: Path) -> None:
    status, output = without(EVERYTHING, COMMAND, "calibrate-prior", str(tmp_path))
    assert (status, output) == (1, "Error: torch is missing: pip install 'robustkit[rcc]'\n")


def test_somebody_else_s_codec_is_not_told_of_our_extras(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("import torch\n")
    program = f"sys.path.insert(0, {str(tmp_path)!r})\n{LOADING}"
    found = without(["torch"], program, "{}", "theirs:Codec")
    assert found == {"theirs:Codec": "codec 'theirs:Codec' (theirs:Codec) can't be imported: No module named 'torch'"}


def test_a_package_that_several_extras_bring() -> None:
    assert way_out("torch") == "torch is missing: pip install 'robustkit[rcc]'"
    assert way_out("torch", "robustkit.codecs.learned") == "torch is missing: pip install 'robustkit[learned]'"
    assert way_out("reedsolo", "robustkit.codecs.rcc.turbo") == "reedsolo is missing: pip install 'robustkit[rcc]'"
    assert way_out("numpy") is way_out("torch.nn") is way_out(None) is None
    assert missing("numpy", "reedsolo") is None


def test_the_table_holds_every_extra_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) - {"all", "test"} == set(EXTRAS)


def test_the_codecs_of_an_extra_are_where_the_table_says() -> None:
    assert all(importlib.util.find_spec(codecs) for codecs in _OF_CODECS)
    assert set(_OF_CODECS.values()) <= set(EXTRAS)
