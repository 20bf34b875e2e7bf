"""Every check of the conformance suite catches what it claims to catch: flawed codecs, each with one flaw."""

import json
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from suites import CONFORMANCE, NAMES, TOTAL, make_suite


def run_suite(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "conformance", "--robustkit-crop=64", "-p", "no:cacheprovider", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


class Report:
    """What one run said of each check of each codec."""

    def __init__(self, junit: Path, output: str) -> None:
        self.output = output
        self.outcomes: dict[tuple[str, str], str] = {}
        self.messages: dict[tuple[str, str], str] = {}
        self.verdicts: dict[tuple[str, str], list[str]] = {}
        for case in ElementTree.parse(junit).iter("testcase"):
            check, _, codec = case.attrib["name"].rstrip("]").partition("[")
            key = codec, check.removeprefix("test_")
            found = next((c for c in case if c.tag in ("failure", "error", "skipped")), None)
            self.outcomes[key] = found.tag if found is not None else "passed"
            self.messages[key] = (found.text or "").strip() if found is not None else ""
            self.verdicts[key] = [
                json.loads(p.attrib["value"])["verdict"]
                for p in case.iter("property")
                if p.attrib["name"] == "robustkit"
            ]

    def failed(self, codec: str) -> set[str]:
        return {check for (name, check), outcome in self.outcomes.items() if name == codec and outcome == "failure"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flawed")
    make_suite(folder)
    done = run_suite(folder, "--codec", NAMES, "--junitxml=junit.xml", "-q", "--robustkit-time-limit=10")
    assert done.returncode == 1, done.stdout + done.stderr
    found = Report(folder / "junit.xml", done.stdout)
    found.folder = folder
    return found


def test_a_sound_codec_passes_every_check(report):
    assert report.failed("plain") == set()
    assert {check for (name, check), o in report.outcomes.items() if name == "plain" and o == "skipped"} == {
        "golden_reconstructions_match",
        "golden_has_no_orphans",
    }
    assert f"plain: conforms: {TOTAL - 2} of {TOTAL} claims hold (2 not checked)" in report.output


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


@pytest.mark.parametrize("codec", ["blurry", "fat", "dead"])
def test_all_else_is_blocked_where_the_clean_round_trip_fails(report, codec):
    others = {check: o for (name, check), o in report.outcomes.items() if name == codec}
    others.pop("clean_round_trip_meets_the_declared_quality_and_rate")
    assert len(others) == TOTAL - 1
    assert set(others.values()) == {"error"}
    assert all("blocked: the clean round trip fails" in report.messages[codec, check] for check in others)
    assert f"{codec}: does not conform: 1 of {TOTAL} claims broken, {TOTAL - 1} of {TOTAL} blocked" in report.output


def test_without_promises_only_what_needs_none_is_checked(report):
    assert report.failed("silent") == set()
    assert report.outcomes["silent", "quality_degrades_within_the_declared_thresholds"] == "skipped"
    assert report.outcomes["silent", "decode_survives_bit_flips"] == "passed"


@pytest.mark.parametrize(
    ("codec", "check", "link"),
    [
        ("excused", "decode_survives_bit_flips", "https://example.org/1"),
        ("excused", "decode_survives_mixed_damage", "https://example.org/1"),
        ("excused", "trials_never_crash_the_decoder", "https://example.org/1"),
        ("absent", "decoding_is_deterministic", "https://example.org/3"),
    ],
)
def test_a_known_defect_fails_as_expected_and_is_not_hidden(report, codec, check, link):
    assert report.outcomes[codec, check] == "skipped"
    assert report.failed(codec) == set()
    assert set(report.verdicts[codec, check]) <= {"known defect", "broken"}
    line = next(line for line in report.output.splitlines() if line.startswith(f"{codec}: does not conform"))
    assert "broken by known defects" in line
    assert link in line


def test_every_failure_ends_with_a_line_that_replays_it(report):
    failures = [key for key, outcome in report.outcomes.items() if outcome == "failure"]
    assert len(failures) >= 21
    for key in failures:
        last = report.messages[key].strip().splitlines()[-1]
        assert last.startswith("robustkit replay "), (key, report.messages[key])
        assert (report.folder / shlex.split(last)[2]).is_file()


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
    replay = json.loads((report.folder / shlex.split(last)[2]).read_text())
    assert replay["outcome"] == outcome
    done = subprocess.run(
        [sys.executable, "-c", "from robustkit.cli import main; main()", *shlex.split(last)[1:]],
        cwd=report.folder,
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
