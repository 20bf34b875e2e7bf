"""Every check of the conformance suite catches what it claims to catch: flawed codecs, each with one flaw."""

import json
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from sharing import made_once
from suites import CONFORMANCE, NAMES, TOTAL, lean, make_suite

#: Of these codecs a few claims tell all; each that is left out saves its processes.
FEW = {
    "time-dependent": "encoding_is_deterministic",
    "process-dependent": "decoding_is_deterministic",
    "forgetful": "decoding_is_deterministic",
    "shuffled": "a_batch_equals",
    "touchy": "survives_bit_flips or bursts or mixed_damage or trials_never_crash",
    "believer": "header_flips",
    "reader": "truncation",
    "refuser": "corrupted_share or refused_share",
    "guesser": "never_better",
    "excused": "survives_bit_flips or mixed_damage or trials_never_crash",
    "accused": "survives_bit_flips or trials_never_crash",
    "absent": "layout_names",
    "padded": "odd_sizes",
    "turned": "odd_sizes",
    "several": "each_flip_of_its_header",
}
#: In how many runs the others are judged, so that xdist's workers can share them.
PARTS = 3
OUTPUT = "output.txt"


def run_suite(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", *lean("conformance", "--robustkit-crop=64", *args)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


class Report:
    """What runs said of each check of each codec, and in which folder each codec's run was."""

    def __init__(self) -> None:
        self.output = ""
        self.folders: dict[str, Path] = {}
        self.outcomes: dict[tuple[str, str], str] = {}
        self.messages: dict[tuple[str, str], str] = {}
        self.verdicts: dict[tuple[str, str], list[str]] = {}
        self.measured: dict[tuple[str, str], list[str]] = {}

    def add(self, folder: Path) -> None:
        self.output += (folder / OUTPUT).read_text()
        for case in ElementTree.parse(folder / "junit.xml").iter("testcase"):
            check, _, codec = case.attrib["name"].rstrip("]").partition("[")
            self.folders[codec] = folder
            key = codec, check.removeprefix("test_")
            found = next((c for c in case if c.tag in ("failure", "error", "skipped")), None)
            self.outcomes[key] = found.tag if found is not None else "passed"
            self.messages[key] = (found.text or "").strip() if found is not None else ""
            found = [json.loads(p.attrib["value"]) for p in case.iter("property") if p.attrib["name"] == "robustkit"]
            self.verdicts[key] = [f["verdict"] for f in found]
            self.measured[key] = [f["measured"] for f in found]

    def failed(self, codec: str) -> set[str]:
        return {check for (name, check), outcome in self.outcomes.items() if name == codec and outcome == "failure"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    whole = [codec for codec in NAMES.split(",") if codec not in FEW]
    parts = {f"part {first}": partial(judge, whole[first::PARTS]) for first in range(PARTS)}
    chosen = " or ".join(f"({codec} and ({claims}))" for codec, claims in FEW.items())
    parts["few claims"] = partial(judge, list(FEW), "-k", chosen)
    found = Report()
    for folder in made_once(tmp_path_factory, "one-flaw-each", parts):
        found.add(folder)
    return found


def judge(codecs: Sequence[str], *args: str) -> None:
    """Run the suite over some of them, in the folder that comes last."""
    *more, folder = args
    make_suite(folder)
    few = ("--junitxml=junit.xml", "-q", "--robustkit-max-examples=16")
    done = run_suite(folder, "--codec", ",".join(codecs), *few, *more)
    assert done.returncode == 1, done.stdout + done.stderr
    (folder / OUTPUT).write_text(done.stdout)


def test_a_sound_codec_passes_every_check(report):
    assert report.failed("plain") == set()
    assert {check for (name, check), o in report.outcomes.items() if name == "plain" and o == "skipped"} == {
        "golden_drops_are_not_exceeded",
        "golden_has_no_orphans",
        "golden_reconstructions_match",
        "one_ulp_does_not_desynchronise",
    }
    assert f"plain: conforms: {TOTAL - 4} of {TOTAL} claims hold (4 not checked)" in report.output


@pytest.mark.parametrize(
    ("codec", "check"),
    [
        ("blurry", "clean_round_trip_meets_the_declared_quality_and_rate"),
        ("fat", "clean_round_trip_meets_the_declared_quality_and_rate"),
        ("dead", "clean_round_trip_meets_the_declared_quality_and_rate"),
        ("time-dependent", "encoding_is_deterministic"),
        ("process-dependent", "decoding_is_deterministic"),
        ("forgetful", "decoding_is_deterministic"),
        ("shuffled", "decoding_a_batch_equals_decoding_singly"),
        ("nameless", "layout_names_every_bit"),
        ("touchy", "decode_survives_bit_flips"),
        ("touchy", "decode_survives_bursts"),
        ("touchy", "decode_survives_mixed_damage"),
        ("touchy", "trials_never_crash_the_decoder"),
        ("believer", "decode_survives_header_flips"),
        ("hasty", "decode_survives_garbage"),
        ("reader", "decode_survives_truncation"),
        ("strict", "decode_survives_appended_bytes"),
        ("hasty", "decode_survives_the_empty_stream"),
        ("lossy", "quality_degrades_within_the_declared_thresholds"),
        ("refuser", "corrupted_share_stays_within_the_declared"),
        ("refuser", "refused_share_stays_within_the_declared"),
        ("padded", "odd_sizes_come_back_as_they_were"),
        ("turned", "odd_sizes_come_back_as_they_were"),
        ("guesser", "more_damage_is_never_better"),
        ("accused", "decode_survives_bit_flips"),
        ("accused", "trials_never_crash_the_decoder"),
    ],
)
def test_a_flaw_is_caught(report, codec, check):
    assert report.outcomes[codec, check] == "failure", report.messages.get((codec, check))
    assert "broken" in report.verdicts[codec, check]
    assert f"{codec}: does not conform" in report.output


@pytest.mark.parametrize(
    ("codec", "check"),
    [
        ("nameless", "layout_names_every_bit"),
        ("strict", "decode_survives_appended_bytes"),
        ("hasty", "decode_survives_the_empty_stream"),
        ("lossy", "quality_degrades_within_the_declared_thresholds"),
    ],
)
def test_a_flaw_is_not_blamed_on_other_claims(report, codec, check):
    more = {"decode_survives_garbage", "decode_survives_mixed_damage", "decode_survives_truncation"}
    assert report.failed(codec) - more == {check}


def test_all_else_is_blocked_where_the_clean_round_trip_fails(report):
    others = {check: o for (name, check), o in report.outcomes.items() if name == "dead"}
    others.pop("clean_round_trip_meets_the_declared_quality_and_rate")
    assert len(others) == TOTAL - 1
    assert set(others.values()) == {"error"}
    assert all("blocked: the clean round trip fails" in report.messages["dead", check] for check in others)
    assert f"dead: does not conform: 1 of {TOTAL} claims broken; {TOTAL - 1} of {TOTAL} blocked" in report.output


@pytest.mark.parametrize("codec", ["blurry", "fat"])
def test_a_missed_quality_or_rate_blocks_nothing_and_names_the_way_out(report, codec):
    assert report.failed(codec) == {"clean_round_trip_meets_the_declared_quality_and_rate"}
    assert f"{codec}: does not conform: 1 of {TOTAL} claims broken (4 not checked)" in report.output
    # The suite was run with --robustkit-crop.
    message = report.messages[codec, "clean_round_trip_meets_the_declared_quality_and_rate"]
    assert f"robustkit measure --codec {codec} --crop 64 --out FILE, then --robustkit-profile FILE" in message


def test_a_size_that_is_refused_is_left_out_and_said(report):
    assert report.failed("square") == set()
    (line,) = report.measured["square", "odd_sizes_come_back_as_they_were"]
    assert line.startswith("2 crops came back; 4 left out: ")
    assert line.endswith(": the codec refuses the image: squares only")


def test_a_search_counts_its_streams_and_what_became_of_them(report):
    counts, kind = report.measured["touchy", "decode_survives_bit_flips"]
    assert re.fullmatch(r"16 streams: (\d+ \w+, )+\d+ \w+", counts)
    assert re.fullmatch(r"\d+ streams?: ZeroDivisionError: touchy.*", kind)
    (whole,) = report.measured["plain", "decode_survives_each_flip_of_its_header"]
    assert whole == "16 of 64 flips: 16 refused"


def test_without_promises_only_what_needs_none_is_checked(report):
    assert report.failed("silent") == set()
    assert report.outcomes["silent", "quality_degrades_within_the_declared_thresholds"] == "skipped"
    assert report.outcomes["silent", "decode_survives_bit_flips"] == "passed"
    assert re.search(r"^silent: no promises: nothing found in \d{2,} streams \(9 not checked\)$", report.output, re.M)


@pytest.mark.parametrize(
    ("codec", "check", "link"),
    [
        ("excused", "decode_survives_bit_flips", "https://example.org/1"),
        ("excused", "decode_survives_mixed_damage", "https://example.org/1"),
        ("excused", "trials_never_crash_the_decoder", "https://example.org/1"),
        ("absent", "layout_names_every_bit", "https://example.org/3"),
    ],
)
def test_a_known_defect_fails_and_the_message_says_how_to_accept_it(report, codec, check, link):
    assert report.outcomes[codec, check] == "failure"
    assert set(report.verdicts[codec, check]) - {"noted"} == {"broken"}
    message = report.messages[codec, check]
    assert f"the codec declares it a known defect, {link}; --robustkit-waivers codec accepts that" in message
    assert f"{codec}: does not conform" in report.output


def test_each_kind_of_failure_has_its_least_damage_and_its_command(report):
    message = report.messages["several", "decode_survives_each_flip_of_its_header"]
    assert re.search(r"raised: \d+ streams?: RuntimeError", message)
    assert re.search(r"misshapen: \d+ streams?: ", message)
    assert message.index("raised: ") < message.index("misshapen: ")
    assert re.findall(r"^ +(bit \d+): size$", message, re.MULTILINE) == ["bit 3", "bit 0"]
    commands = re.findall(r"robustkit replay (\S+)", message)
    assert len(set(commands)) == 2
    for kind, file in zip(("misshapen", "raised"), commands, strict=True):
        assert json.loads((report.folders["several"] / file).read_text())["outcome"] == kind


def test_every_failure_ends_with_a_line_that_replays_it(report):
    failures = [key for key, outcome in report.outcomes.items() if outcome == "failure"]
    assert len(failures) >= 21
    for key in failures:
        last = report.messages[key].strip().splitlines()[-1]
        assert last.startswith("robustkit replay "), (key, report.messages[key])
        assert (report.folders[key[0]] / shlex.split(last)[2]).is_file()


@pytest.mark.parametrize(
    ("codec", "check", "outcome"),
    [
        ("dead", "clean_round_trip_meets_the_declared_quality_and_rate", "crashed"),
        ("touchy", "decode_survives_bit_flips", "raised"),
        ("believer", "decode_survives_header_flips", "misshapen"),
        ("refuser", "corrupted_share_stays_within_the_declared", "refused"),
        ("lossy", "quality_degrades_within_the_declared_thresholds", "degraded"),
    ],
)
def test_the_replay_line_gives_the_same_outcome(report, codec, check, outcome):
    last = report.messages[codec, check].strip().splitlines()[-1]
    folder = report.folders[codec]
    replay = json.loads((folder / shlex.split(last)[2]).read_text())
    assert replay["outcome"] == outcome
    done = subprocess.run(
        [sys.executable, "-c", "from robustkit.cli import main; main()", *shlex.split(last)[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome in done.stdout


def test_a_search_names_the_least_flips_with_their_region(report):
    message = report.messages["touchy", "decode_survives_bit_flips"]
    assert "bit 64: flags" in message
    assert message.count("  bit ") == 1


def test_a_failing_trial_is_reduced_to_the_flips_that_matter(report):
    message = report.messages["touchy", "trials_never_crash_the_decoder"]
    assert message.count("  bit ") == 1
    assert ": flags" in message
    assert "size" in report.messages["refuser", "corrupted_share_stays_within_the_declared"]


def test_every_check_says_what_it_catches():
    import ast

    for file in CONFORMANCE.glob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert (ast.get_docstring(node) or "").startswith("Catches "), f"{file.name}: {node.name}"
