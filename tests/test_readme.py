"""What the documents say is so: the example codec works, tables list what there is, links lead somewhere."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from robustkit import Profile, channels, cli, pytest_plugin, registry
from robustkit.codecs.rcc.container import HEADER_BYTES, header_fields

RCC_CODECS = ("turbo-ddcm", "robust-turbo-ddcm", "ddcm", "diffc", "psc")
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "golden/README.md", "benchmarks/README.md")


def blocks(language):
    """The code blocks of the README in one language."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    return ["".join(line.removeprefix(indent) for line in code.splitlines(keepends=True)) for indent, code in found]


def block(language, holding):
    """The one code block that holds the text ``holding``."""
    (found,) = [code for code in blocks(language) if holding in code]
    return found


def table(document, heading):
    """The rows below a table's first heading ``heading``, cell by cell."""
    lines = document.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(f"| {heading} |")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


@pytest.fixture
def example(tmp_path):
    """A user's folder with the README's codec; returns what runs the suite there."""
    tmp_path.joinpath("my_codec.py").write_text(block("python", "class BlockMeans"), encoding="utf-8")

    def suite(*options):
        return subprocess.run(
            [sys.executable, "-m", "pytest", str(ROOT / "conformance"), ".", f"--rootdir={tmp_path}", *options,
             "--max-examples=3", "-p", "no:cacheprovider"],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    suite.path = tmp_path
    return suite


def test_the_example_codec_conforms_as_the_readme_says(example):
    done = example("--codec", "my_codec:BlockMeans")
    assert done.returncode == 0, done.stdout + done.stderr
    (verdict,) = re.findall(r"^my_codec:BlockMeans: .*$", done.stdout, re.MULTILINE)
    assert verdict in README


def test_the_unproved_promise_reads_as_the_readme_shows(example):
    example.path.joinpath("conftest.py").write_text(block("python", "def pytest_robustkit_codecs"), encoding="utf-8")
    promises = block("toml", "[[promises]]").replace("mean_drop = 0.5 ", "mean_drop = 0.3 ")
    example.path.joinpath("my_profile.toml").write_text(promises, encoding="utf-8")
    done = example("--codec", "block-means", "--profile", "my_profile.toml", "-k", "degrades")
    assert done.returncode == 1, done.stdout + done.stderr
    assert block("text", "does not hold") in done.stdout
    command = block("sh", "robustkit replay").split()
    replayed = subprocess.run(
        [sys.executable, "-m", *command], cwd=example.path, capture_output=True, text=True, timeout=300, check=False
    )
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def test_the_example_profile_is_read(tmp_path):
    file = tmp_path / "promises.toml"
    file.write_text(block("toml", "[[promises]]"), encoding="utf-8")
    profile = Profile.from_toml(file)
    assert [channels.parse(p.channel).name for p in profile.promises] == [p.channel for p in profile.promises]
    assert tomllib.loads(block("toml", "entry-points"))["project"]["entry-points"]["robustkit.codecs"]


def test_the_table_of_codecs_is_what_the_command_prints():
    made = CliRunner().invoke(cli.main, ["codecs", "--markdown"], catch_exceptions=False).output
    assert made in README, f"put this into README.md:\n{made}"


def test_the_rate_of_the_python_example_is_what_it_asks_for():
    program = block("python", 'load_codec("robust-turbo-ddcm", bpp=')
    names = {}
    exec(compile(program.replace("photographs()", "photographs(64)").replace("256", "64"), "README.md", "exec"), names)
    assert names["decoded"].shape == (64, 64, 3)
    assert names["decoded"].dtype == np.uint8
    assert 0.2 < 8 * len(names["stream"]) / 64**2 <= 0.3


def test_the_table_lists_the_options():
    class Recorder:
        def __init__(self):
            self.options = {}

        def getgroup(self, *_):
            return self

        def addoption(self, name, **more):
            self.options[name] = more

    recorder = Recorder()
    pytest_plugin.pytest_addoption(recorder)
    listed = [re.match(r"`(--[a-z-]+)", option)[1] for option, _ in table(README, "option")]
    assert listed == list(recorder.options)
    efforts = [(re.match(r"`(\w+)`", n)[1], int(t), int(e)) for n, t, e in table(README, "profile")]
    assert efforts == [(name, e.trials, e.examples) for name, e in pytest_plugin.EFFORTS.items()]


def test_the_first_screen_has_the_two_commands():
    first = block("sh", "-m venv")
    lines = first.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("pytest conformance --codec robust-turbo-ddcm")
    assert lines[1].endswith("/pytest -n auto")
    assert "[test]" in lines[1]
    assert README[: README.index(first)].count("\n") < 25


def test_the_tables_list_the_headers_fields():
    document = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    fields = [(name, int(bits)) for name, bits, _ in table(document, "field")]
    codecs = [registry.get(name).target.resolve() for name in RCC_CODECS]
    methods = {number: method for codec in codecs for number, method in codec.methods.items()}
    documented = {
        int(number): settings for numbers, settings in table(document, "protocols") for number in numbers.split(",")
    }
    assert documented == {n: ", ".join(f"{name} {bits}" for name, bits in m.fields) for n, m in methods.items()}
    for method in methods.values():
        in_header = list(header_fields(method))
        own = in_header.index(("width", 16)) + 1
        assert fields[:own] == in_header[:own]
        assert fields[own] == ("method's settings", 48)
        assert fields[own + 1 :] == in_header[in_header.index(("seed", 32)) :]
    assert sum(bits for _, bits in fields) == 8 * HEADER_BYTES


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document):
    file = ROOT / document
    text = file.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not re.match(r"[a-z]+:", target):
            assert (file.parent / target).exists(), target
