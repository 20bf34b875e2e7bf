"""A third party's installed package: robustkit finds its codecs through entry points alone, the broken ones too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment in which ``robustkit-example`` is installed, as pip installs it, but in a folder of its own."""
    folder = tmp_path_factory.mktemp("site-packages")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            *offline,
            "--target",
            folder,
            ROOT / "tests" / "plugin" / "plugin_package",
        ],
        check=True,
        timeout=300,
    )
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(environment, *arguments, status=0, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_the_command_line_lists_its_codecs(environment):
    listed = run(environment, "robustkit", "codecs", "--json").stdout
    rows = {row["name"]: row for row in json.loads(listed)}
    assert {"jpeg", "turbo-ddcm", "robust-turbo-ddcm"} <= set(rows)
    assert rows["block-mean"] == {
        "name": "block-mean",
        "family": "example",
        "origin": "robustkit-example",
        "bpp": 0.377,
        "differs": None,
        "available": True,
        "reason": None,
    }
    reasons = {
        "example-crashes": "SIGSEGV",
        "example-missing": "pip install example-native-decoder",
        "example-renamed": "has no attribute 'NoSuchClass'",
    }
    for name, reason in reasons.items():
        assert not rows[name]["available"]
        assert rows[name]["origin"] == "robustkit-example"
        assert reason in rows[name]["reason"]


def test_listing_names_imports_no_codec(environment):
    program = (
        "import sys, robustkit\n"
        "assert 'block-mean' in [entry.name for entry in robustkit.registry]\n"
        "assert not [m for m in sys.modules if m.startswith(('robustkit_example', 'robustkit.codecs', 'torch'))]\n"
        "codec = robustkit.load_codec('block-mean', block=4)\n"
        "assert (codec.block, codec.profile) == (4, None)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], env=environment, check=True)


def test_its_codec_passes_the_conformance_suite(environment, tmp_path):
    report = tmp_path / "report"
    done = run(environment, "pytest", "conformance", "--codec", "block-mean", "--robustkit-report-dir", report,
               "-p", "no:cacheprovider", "-q")  # fmt: skip
    assert re.search(r"\b\d+ passed", done.stdout)
    assert "block-mean" in done.stdout


def test_its_broken_codec_is_a_usage_error(environment, tmp_path):
    for name, reason in (("example-missing", "pip install example-native-decoder"), ("example-crashes", "SIGSEGV")):
        done = run(environment, "pytest", "conformance", "--codec", name, "--robustkit-report-dir", tmp_path, status=4)
        assert reason in done.stdout + done.stderr


def test_without_the_package_its_name_is_unknown(tmp_path):
    options = ("--codec", "block-mean", "--robustkit-report-dir", tmp_path)
    done = run(dict(os.environ), "pytest", "conformance", *options, status=4)
    assert "no codec named 'block-mean'" in done.stdout + done.stderr
