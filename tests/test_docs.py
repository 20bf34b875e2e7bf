"""What the documents say is so: examples work, tables list what there is, links lead somewhere, options exist."""

import argparse
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from suites import lean

from robustkit import Layout, Profile, channels, cli, registry
from robustkit.codecs.rcc.container import HEADER_BYTES, header_fields
from robustkit.judging.finding import NOT_PROVED

RCC_CODECS = ("turbo-ddcm", "robust-turbo-ddcm", "robust-turbo-ddcm-uep", "ddcm", "diffc", "psc")
ROOT = Path(__file__).parents[1]
PAGES = sorted([*(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")), "docs/results/README.md"])
DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "CHANGELOG.md",
    *PAGES,
    "golden/README.md",
    "benchmarks/README.md",
]
#: Those that speak of what there is now.
CURRENT = [document for document in DOCUMENTS if document != "CHANGELOG.md"]
#: A title that is no question begins with one of these.
TASKS = {"Choose", "Damage", "Install", "Judge", "Measure", "Read", "Record", "Run", "Test", "Use", "Write"}
#: Options of other programs that the documents name.
FOREIGN = {
    *("--junitxml", "--pyargs", "--hypothesis-seed", "--hypothesis-profile"),
    *("--no-deps", "--index-url", "--runxfail"),
    # The GitHub CLI's, which checks an attestation.
    *("--repo", "--signer-workflow", "--source-ref", "--deny-self-hosted-runners", "--predicate-type"),
    # As an example of an old name.
    "--trials",
}
#: Modules whose options are asked for by ``--help``, as the documents run them.
PROGRAMS = ("robustkit.priors.train", "robustkit.priors.train_hyperprior")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of a document in one language, without their indent."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text_of(document), re.MULTILINE | re.DOTALL)
    return ["".join(line.removeprefix(indent) for line in code.splitlines(keepends=True)) for indent, code in found]


def block(document: str, language: str, holding: str) -> str:
    """The one code block that holds the text ``holding``."""
    (found,) = [code for code in blocks(document, language) if holding in code]
    return found


def prose(document: str) -> str:
    """A document without its code blocks."""
    return re.sub(r"^( *)```.*?^ *```$", "", text_of(document), flags=re.MULTILINE | re.DOTALL)


def table(document: str, heading: str) -> list[list[str]]:
    """The rows below a table's first heading ``heading``, cell by cell."""
    lines = text_of(document).splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(f"| {heading} |")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def plugin_options() -> tuple[list[str], list[str]]:
    """The plugin's options, but for old names that are hidden, and its keys for pytest's own file."""
    from robustkit import pytest_plugin

    class Recorder:
        def __init__(self) -> None:
            self.options: list[str] = []
            self.keys: list[str] = []

        def getgroup(self, *_: object, **__: object) -> "Recorder":
            return self

        def addoption(self, *names: str, **more: object) -> None:
            if more.get("help") != argparse.SUPPRESS:
                self.options += names

        def addini(self, name: str, *_: object, **__: object) -> None:
            self.keys.append(name)

    recorder = Recorder()
    pytest_plugin.pytest_addoption(recorder)
    return recorder.options, recorder.keys


def command_options() -> dict[str, set[str]]:
    """The options of each command of ``robustkit``."""
    with click.Context(cli.main) as context:
        commands = {name: cli.main.get_command(context, name) for name in cli.main.list_commands(context)}
    # A command may have commands itself.
    return {
        name: {"--help"}.union(
            *(p.opts for c in (command, *getattr(command, "commands", {}).values()) for p in c.params)
        )
        for name, command in commands.items()
        if command is not None
    }


def commands_of(document: str) -> Iterator[list[str]]:
    """Each command of the document's ``sh`` blocks, word by word."""
    for code in blocks(document, "sh"):
        for line in code.splitlines():
            for command in line.split(" && "):
                yield shlex.split(command)


@pytest.fixture
def example(tmp_path):
    """A user's folder with the page's codec; returns what runs the suite there."""
    codec = block("docs/own-codec.md", "python", "class BlockMeans")
    tmp_path.joinpath("my_codec.py").write_text(codec, encoding="utf-8")

    def suite(*options, ours=(str(ROOT / "conformance"),)):
        return subprocess.run(
            [sys.executable, "-m", "pytest", *ours, ".", f"--rootdir={tmp_path}", *options,
             "--robustkit-max-examples=3", *lean()],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    suite.path = tmp_path
    return suite


# -- the examples work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("document", "codec"), [("README.md", "Deflate"), ("docs/own-codec.md", "BlockMeans")])
def test_the_example_codec_conforms_as_the_page_says(example, document, codec):
    code = block(document, "python", f"class {codec}")
    example.path.joinpath("my_codec.py").write_text(code, encoding="utf-8")
    done = example("--codec", f"my_codec:{codec}")
    assert done.returncode == 0, done.stdout + done.stderr
    (verdict,) = re.findall(rf"^my_codec:{codec}: .*$", done.stdout, re.MULTILINE)
    # Searched here with less effort than the page's command has.
    without_count = re.compile(r"\d+(?= streams)")
    assert without_count.sub("N", verdict) in without_count.sub("N", text_of(document))


def test_the_layout_of_the_example_names_every_bit():
    names: dict = {}
    for holding in ("class BlockMeans", "def layout"):
        exec(compile(block("docs/own-codec.md", "python", holding), "own-codec.md", "exec"), names)
    codec = names["BlockMeans"]()
    type(codec).layout = names["layout"]
    stream = codec.encode(np.zeros((20, 30, 3), np.uint8))
    for part in (stream, stream[:3], b""):
        layout = codec.layout(part)
        assert isinstance(layout, Layout)
        assert all(layout.at(bit) is not None for bit in range(8 * len(part)))
    assert list(codec.layout(stream).bits_of(header=True)) == list(range(64))


def test_the_unproved_promise_reads_as_the_page_shows(example):
    hook = block("docs/own-codec.md", "python", "def pytest_robustkit_codecs")
    example.path.joinpath("conftest.py").write_text(hook, encoding="utf-8")
    promises = block("docs/promises.md", "toml", "[[promises]]").replace("mean_drop = 0.5 ", "mean_drop = 0.3 ")
    example.path.joinpath("my_profile.toml").write_text(promises, encoding="utf-8")
    options = ("--robustkit-profile", "my_profile.toml", "--robustkit-unproved", "fail")
    done = example("--codec", "block-means", "-k", "degrades", *options)
    assert done.returncode == NOT_PROVED, done.stdout + done.stderr
    shown = block("docs/verdict.md", "text", "is not proved")
    assert shown in done.stdout
    command = block("docs/replay.md", "sh", "robustkit-report/replay/block-means")
    assert shown.endswith(command)
    replayed = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=example.path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def test_the_check_of_ones_own_runs(example):
    imports, check = blocks("docs/own-checks.md", "python")
    example.path.joinpath("conftest.py").write_text(imports, encoding="utf-8")
    example.path.joinpath("test_size.py").write_text(check, encoding="utf-8")
    done = example("--codec", "my_codec:BlockMeans", ours=())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "streams are smaller than the pixels" in " ".join(done.stdout.split())


def test_the_example_profiles_are_read(tmp_path):
    file = tmp_path / "promises.toml"
    file.write_text(block("docs/promises.md", "toml", "[[promises]]"), encoding="utf-8")
    profile = Profile.from_toml(file)
    assert len(profile.promises) == 2
    names: dict = {}
    exec(compile(block("docs/promises.md", "python", "Profile("), "promises.md", "exec"), names)
    assert names["profile"].promises[0] == profile.promises[0]
    entry_points = tomllib.loads(block("docs/own-codec.md", "toml", "entry-points"))["project"]["entry-points"]
    assert entry_points["robustkit.codecs"] == {"block-means": "my_codec:BlockMeans"}


def test_the_rate_of_the_python_example_is_what_it_asks_for():
    program = block("docs/rcc.md", "python", 'load_codec("robust-turbo-ddcm", bpp=')
    names: dict = {}
    exec(compile(program.replace("photographs()", "photographs(64)").replace("256", "64"), "rcc.md", "exec"), names)
    assert names["decoded"].shape == (64, 64, 3)
    assert names["decoded"].dtype == np.uint8
    assert 0.2 < 8 * len(names["stream"]) / 64**2 <= 0.3


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_can_be_parsed(document):
    for code in blocks(document, "toml"):
        tomllib.loads(code)
    for code in blocks(document, "python"):
        compile(code, document, "exec")


def test_the_codec_file_is_one_with_every_key(tmp_path):
    from robustkit import codec_file

    file = tmp_path / "cwebp.toml"
    file.write_text(block("docs/command-line-codec.md", "toml", "cwebp"), encoding="utf-8")
    assert codec_file.read(file).commands["name"] == "cwebp"
    known = set(codec_file.Commands.__dataclass_fields__) | {"[profile]", "python"}
    listed = [key for cells in table("docs/command-line-codec.md", "key") for key in re.findall(r"`([^`]+)`", cells[0])]
    assert sorted(listed) == sorted(known)


# -- commands and options exist -------------------------------------------------------------------------------


@pytest.mark.parametrize("document", CURRENT)
def test_commands_have_the_options_they_are_given(document):
    options, _ = plugin_options()
    commands = command_options()
    for words in commands_of(document):
        program = words[0].removeprefix(".venv/bin/")
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        if program == "pytest":
            assert given <= {*options, *FOREIGN} - {"--trials", "--hypothesis-profile"}, words
        elif program == "robustkit":
            assert words[1] in commands, words
            assert given <= commands[words[1]], words
        else:
            assert program in ("export", "gh", "git", "pip", "python", "python3"), words


@pytest.mark.parametrize("document", CURRENT)
def test_the_options_that_prose_names_exist(document):
    known = {*plugin_options()[0], *FOREIGN}.union(*command_options().values())
    for program in PROGRAMS:
        if f"python -m {program}" in text_of(document):
            known |= set(re.findall(r'"(--[a-z-]+)"', text_of(f"{program.replace('.', '/')}.py")))
    for script in set(re.findall(r"python (benchmarks/\w+\.py)", text_of(document))):
        assert (ROOT / script).is_file(), script
        known |= set(re.findall(r'"(--[a-z-]+)"', text_of(script)))
    for code in re.findall(r"`([^`\n]+)`", prose(document)):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code):
            assert option in known or option == "--robustkit-", f"{option} in {code}"


def test_the_extras_that_the_documents_name_exist():
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    listed = [name.strip("`") for name, *_ in table("docs/install.md", "extra")]
    assert sorted(listed) == sorted(set(extras) - {"test"})
    for document in DOCUMENTS:
        for names in re.findall(r"(?:robustkit|\.)\[([a-z,-]+)\]", text_of(document)):
            assert set(names.split(",")) <= set(extras), f"{document}: {names}"


# -- tables list what there is --------------------------------------------------------------------------------


def test_the_table_of_codecs_is_what_the_command_prints():
    made = CliRunner().invoke(cli.main, ["codecs", "--markdown"], catch_exceptions=False).output
    assert made in text_of("docs/codecs.md"), f"put this into docs/codecs.md:\n{made}"


def test_the_table_lists_the_options():
    options, keys = plugin_options()
    listed = [re.match(r"`(--[a-z-]+)", option)[1] for option, _ in table("docs/options.md", "option")]
    assert listed == options
    assert listed[0] == "--codec"
    assert all(option.startswith("--robustkit-") for option in listed[1:])
    assert set(keys) == {option.removeprefix("--").replace("-", "_") for option in listed[1:]}


def test_the_table_lists_the_efforts():
    from robustkit.judging.effort import EFFORTS

    listed = [(re.match(r"`(\w+)`", n)[1], *map(int, more)) for n, *more in table("docs/options.md", "effort")]
    assert listed == [
        (name, effort.trials, effort.seconds, effort.sized(0.002).each, effort.sized(0.1).each)
        for name, effort in EFFORTS.items()
    ]


def test_the_table_lists_the_options_of_measure():
    listed = [re.match(r"`(--[a-z-]+)", option)[1] for option, *_ in table("docs/promises.md", "option")]
    assert sorted(listed) == sorted(command_options()["measure"] - {"--help"})


def test_what_the_page_says_of_measure_in_numbers_is_so():
    from robustkit.cli.measure import CHANNELS, command
    from robustkit.judging.propose import HOLDS, RUNS, TIGHTER, least_trials

    text = text_of("docs/promises.md")
    defaults = {parameter.name: parameter.default for parameter in command.params}
    rows = {option: default for option, _, default in table("docs/promises.md", "option")}
    assert rows["`--trials N`"] == str(defaults["trials"])
    assert float(rows["`--time-limit SECONDS`"]) == defaults["time_limit"]
    assert rows["`--seed N`"] == str(defaults["seed"])
    assert rows["`--channel CHANNEL`"].startswith("eight kinds")
    assert len(CHANNELS) == 8
    assert f"{defaults['trials']} for each image and channel" in text
    assert f"({least_trials(6)} of each of six images)" in text
    assert f"{RUNS} resampled quick runs" in text
    assert f"in {HOLDS:.0%}".replace("%", " of 100") in text
    assert f"{1 - TIGHTER:.0%} tighter" in text


def test_the_tables_list_the_claims_and_the_verdicts():
    from robustkit.judging.finding import CLAIMS, Said, Verdict

    assert {claim.strip("`"): title for claim, title, _ in table("docs/verdict.md", "claim")} == dict(CLAIMS)
    assert {word.strip("*") for word, _ in table("docs/verdict.md", "word")} == set(Verdict)
    assert {word.strip("*") for word, *_ in table("docs/verdict.md", "verdict")} == set(Said)


def test_the_waivers_of_the_example_are_read(tmp_path):
    from robustkit.judging import waivers

    file = tmp_path / "waivers.toml"
    file.write_text(block("docs/verdict.md", "toml", "[[waivers]]"), encoding="utf-8")
    assert len(waivers.read(file)) == 2
    names: dict = {}
    exec(compile(block("docs/verdict.md", "python", "known_defects"), "verdict.md", "exec"), names)
    keys = [key for cells in table("docs/verdict.md", "key") for key in re.findall(r'`"([^"]+)"`', cells[0])]
    assert len(waivers.declared("mine", {**names["known_defects"], **dict.fromkeys(keys, "link")})) >= len(keys)


def test_the_id_of_a_check_of_ones_own_is_as_the_page_says():
    from robustkit.judging.finding import own_claim

    (function,) = re.findall(r"def (test_\w+)", blocks("docs/own-checks.md", "python")[1])
    assert f"`{own_claim(function)[0]}`" in text_of("docs/own-checks.md")


def test_the_table_lists_the_outcomes():
    from robustkit import Outcome

    rows = [(outcome.strip("`"), bool(failure)) for outcome, _, _, failure in table("docs/verdict.md", "outcome")]
    assert rows == [(outcome.value, outcome.failure) for outcome in Outcome]


def test_the_table_lists_the_channels():
    rows = table("docs/damage.md", "channel")
    listed = {name for cells in rows for name in re.findall(r"`([a-z-]+)(?:\([a-z, ]*\))?`", cells[0])}
    kinds = set(channels.CHANNELS)
    assert listed == kinds | {f"{part}-{kind}" for part in ("header", "payload") for kind in ("bsc", "burst")}


def test_the_table_lists_the_default_qualities():
    for names, _, default in table("docs/codecs.md", "codec | `quality`"):
        for name in re.findall(r"`([^`]+)`", names):
            codec = registry.get(name).target.resolve()
            own = codec.default_quality if hasattr(codec, "default_quality") else codec.commands_["quality"]
            assert own == int(default), name


def test_the_tables_list_the_headers_fields():
    fields = [(name, int(bits)) for name, bits, _ in table("docs/formats.md", "field")]
    codecs = [registry.get(name).target.resolve() for name in RCC_CODECS]
    methods = {number: method for codec in codecs for number, method in codec.methods.items()}
    documented = {
        int(number): settings
        for numbers, settings in table("docs/formats.md", "protocols")
        for number in numbers.split(",")
    }
    assert documented == {n: ", ".join(f"{name} {bits}" for name, bits in m.fields) for n, m in methods.items()}
    for method in methods.values():
        in_header = list(header_fields(method))
        own = in_header.index(("width", 16)) + 1
        assert fields[:own] == in_header[:own]
        assert fields[own] == ("method's settings", 48)
        assert fields[own + 1 :] == in_header[in_header.index(("seed", 32)) :]
    assert sum(bits for _, bits in fields) == 8 * HEADER_BYTES


# -- the documents themselves ---------------------------------------------------------------------------------


def test_the_first_screen_has_the_two_commands():
    readme = text_of("README.md")
    first = block("README.md", "sh", "-m venv")
    lines = first.splitlines()
    assert len(lines) == 2
    assert re.findall(r"^python3 -m venv .*$", readme, re.MULTILINE) == lines
    assert lines[0].endswith("pytest conformance --codec robust-turbo-ddcm")
    assert "[rcc]" in lines[0]
    assert lines[1].endswith("/pytest -n auto")
    assert "[test]" in lines[1]
    assert readme[: readme.index(first)].count("\n") < 25
    assert readme.count("\n") <= 150


@pytest.mark.parametrize("page", PAGES)
def test_a_pages_title_is_a_question_or_a_task(page):
    (title,) = re.findall(r"\A# (.+)$", text_of(page), re.MULTILINE)
    assert title.endswith("?") or title.split()[0] in TASKS, title
    assert len(re.findall(r"^# ", prose(page), re.MULTILINE)) == 1


def test_the_readme_leads_to_every_page_by_its_question():
    listed = re.findall(r"^\| (.+) \| \[.*\]\((docs/.+)\) \|$", text_of("README.md"), re.MULTILINE)
    titles = [(text_of(page).partition("\n")[0].removeprefix("# "), page) for page in PAGES]
    assert sorted(listed) == sorted(titles)


@pytest.mark.parametrize("page", PAGES)
def test_a_line_holds_one_sentence(page):
    for line in prose(page).splitlines():
        if not line.startswith("|"):
            assert not re.search(r"[a-z`)\"]{2}[.?!]\*{0,2} +[A-Z`]", line), line


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document):
    file = ROOT / document
    for target in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (file.parent / path).resolve() if path else file
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), target
