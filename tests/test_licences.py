"""Whoever may use robustkit may use what it installs: its dependencies' licences, as their metadata states them."""

import importlib.metadata
import re
import tomllib
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Licences under which anyone may use a package for any purpose, as SPDX names them; MPL-2.0 is Hypothesis's.
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-CMU", "MPL-2.0"),
    *("PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
}
#: What metadata older than SPDX expressions writes instead. "BSD License" leaves open which of the permissive ones.
OLDER_NAMES = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def applies(requirement, extra):
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def closure(requirements):
    """Names of all that pip installs for ``requirements``, with the metadata of what is installed, or ``None``."""
    found, pending = {}, [(requirement, "") for requirement in requirements]
    seen = set()
    while pending:
        text, extra = pending.pop()
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if not applies(requirement, extra):
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            if name == "robustkit":
                # From pyproject.toml: what is installed may be older.
                needs = PROJECT["optional-dependencies"][wanted] if wanted else PROJECT["dependencies"]
                pending += [(need, "") for need in needs]
                continue
            try:
                distribution = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
                continue
            found[name] = distribution.metadata
            pending += [(need, wanted) for need in distribution.requires or ()]
    return found


def stated(metadata):
    """What a package's metadata says of its licence: the SPDX expression, or the classifiers, or the old field."""
    if expression := metadata["License-Expression"]:
        return expression
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    older = [c for c in classifiers if c != "OSI Approved"] or [metadata["License"] or ""]
    return " AND ".join(OLDER_NAMES.get(name, name) for name in older)


def permissive(expression):
    """Whether an SPDX expression leaves a permissive choice: one of an OR, and all of an AND."""
    text = expression.strip()
    # Nested parentheses are opened from the innermost; "LicenseRef-None" is on no list.
    while inner := re.search(r"\(([^()]*)\)", text):
        text = text.replace(inner[0], "MIT" if permissive(inner[1]) else "LicenseRef-None")
    return any(all(part.strip() in PERMISSIVE for part in choice.split(" AND ")) for choice in text.split(" OR "))


def refused(packages):
    """A line for each package whose licence is not known to be permissive."""
    return [
        f"{name}: its metadata says {stated(metadata)[:200]!r}"
        for name, metadata in packages.items()
        if metadata is not None and not permissive(stated(metadata))
    ]


def test_all_that_the_core_installs_is_under_a_permissive_licence():
    packages = closure(PROJECT["dependencies"])
    for name, metadata in sorted(packages.items()):
        print(f"{name:<20} {'not installed' if metadata is None else stated(metadata)}")
    assert {"click", "hypothesis", "numpy", "pillow", "pytest", "scikit-image", "scipy"} <= set(packages)
    assert not [name for name, metadata in packages.items() if metadata is None]
    problems = refused(packages)
    assert not problems, "not known to be permissive:\n" + "\n".join(problems)


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_no_extra_brings_pyiqa_unsaid(extra):
    """PolyForm Noncommercial: "metrics" says so, and the tests' own extra compares with it."""
    packages = closure([f"robustkit[{extra}]"])
    noncommercial = [
        name for name, m in packages.items() if m is not None and re.search(r"non-?commercial", stated(m), re.I)
    ]
    if extra in ("metrics", "test"):
        assert "pyiqa" in packages
    else:
        assert "pyiqa" not in packages
        assert not noncommercial


def test_what_tests_a_jpeg_codec_brings_nothing_heavy():
    heavy = {"torch", "pyiqa", "diffusers", "transformers", "matplotlib", "pandas"}
    assert not heavy & set(closure(["robustkit"]))
    assert heavy <= set(closure(["robustkit[all,metrics]"]))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"License-Expression": "PolyForm-Noncommercial-1.0.0"}, "'PolyForm-Noncommercial-1.0.0'"),
        ({"License-Expression": "MIT AND GPL-3.0-only"}, "'MIT AND GPL-3.0-only'"),
        ({"License-Expression": "MIT AND (BSD-3-Clause OR GPL-3.0-only) AND SSPL-1.0"}, "SSPL"),
        ({"Classifier": "License :: Free for non-commercial use"}, "'Free for non-commercial use'"),
        ({"License": "ask the author"}, "'ask the author'"),
        ({}, "''"),
    ],
)
def test_an_unknown_licence_is_named_with_its_package(fields, said):
    unknown = Message()
    for name, value in fields.items():
        unknown[name] = value
    (line,) = refused({"somebody-s-package": unknown})
    assert line.startswith("somebody-s-package: its metadata says '")
    assert said in line


@pytest.mark.parametrize(
    "expression", ["MIT", "GPL-3.0-only OR MIT", "MIT AND (Zlib OR GPL-3.0-only)", "BSD-3-Clause AND 0BSD AND CC0-1.0"]
)
def test_a_permissive_choice_is_enough(expression):
    assert permissive(expression)
