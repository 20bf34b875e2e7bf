"""The suite finds each flaw of :mod:`flawed` by the claim that is there for it, and none in the codecs without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from sharing import made_once
from suites import lean

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # the suite over 24 codecs
#: The claim that finds each.
FLAWS = {
    "SwappedInLargeBatches": "decode.batch-equals-single",
    "LosesRefusals": "decode.batch-equals-single",
    "FourLevelsOff": "decode.batch-equals-single",
    "StalePicture": "decode.batch-equals-single",
    "ShiftsOddSizes": "clean.odd-sizes",
    "LosesARow": "clean.large-image",
    "LosesTheLastColumn": "clean.large-image",
    "DiesAbove64KiB": "clean.large-image",
    "GreyTail": "clean.large-image",
    "EncoderFailsAbove": "clean.large-image",
    "AllHeader": "layout.payload-matters",
    "HeaderAndPadding": "layout.payload-matters",
    "CheckSumUnread": "decode.survives.header-flips",
    "SometimesRedAndBlue": "degradation.quality",
    "ShortOfItsPromise": "degradation.quality",
}
#: What else is true of them: a picture in a refusal's place is of the wrong size, too, and a loss.
ALSO = {
    "StalePicture": {"decode.survives.header-flips", "degradation.quality"},
    "LosesRefusals": {"degradation.quality"},
    # Trials are decoded in batches too.
    "SwappedInLargeBatches": {"degradation.quality"},
}
SOUND = ("Means", "Budget", "Batched", "OtherKernels", "TakesNoLargeImage")
#: What is run of the suite: those claims, and what they need.
CHECKS = "round_trip or odd_sizes or large_image or batch_equals or payload_bits or header_flips or degrades"


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[dict[str, str]]]:
    """What was found of each codec by each claim."""
    codecs = (*SOUND, *FLAWS)
    parts = {f"codecs {first}": partial(judge, codecs[first : first + 5]) for first in range(0, len(codecs), 5)}
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for folder in made_once(tmp_path_factory, "flawed", parts):
        report = ElementTree.parse(folder / "junit.xml")
        for case in report.iter("testcase"):
            for skipped in case.iter("skipped"):
                found[case.attrib["name"], "skipped"] = [{"verdict": "skipped", "measured": skipped.attrib["message"]}]
        for item in report.iter("property"):
            if item.attrib["name"] == "robustkit":
                finding = json.loads(item.attrib["value"])
                found.setdefault((finding["codec"].removeprefix("flawed:"), finding["claim"]), []).append(finding)
    return found


def judge(codecs: Sequence[str], folder: Path) -> None:
    """Run the suite over some of them."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(ROOT / "conformance"), f"--rootdir={ROOT}", *lean()),
            *("-q", "--codec", ",".join(f"flawed:{name}" for name in codecs), "-k", CHECKS, "--robustkit-crop=64"),
            *("--robustkit-memory-limit=256M", "--robustkit-max-examples=32", "--junitxml=junit.xml"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "quality")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == int(any(name in FLAWS for name in codecs)), done.stdout + done.stderr


@pytest.mark.parametrize(("flaw", "claim"), FLAWS.items())
def test_a_flaw_is_found_by_its_claim(verdicts, flaw, claim):
    lines = verdicts[flaw, claim]
    assert {line["verdict"] for line in lines} & {"broken", "unproved"}, lines


@pytest.mark.parametrize("codec", SOUND)
def test_a_sound_codec_is_not_blamed(verdicts, codec):
    said = {line["verdict"] for (name, _), lines in verdicts.items() if name == codec for line in lines}
    assert said <= {"kept", "noted", "skipped"}, [lines for (name, _), lines in verdicts.items() if name == codec]


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_laid_to_no_other_claim(verdicts, flaw):
    blamed = {claim for (name, claim), lines in verdicts.items() if name == flaw for line in lines if is_bad(line)}
    assert blamed - ALSO.get(flaw, set()) == {FLAWS[flaw]}


def is_bad(line):
    return line["verdict"] not in ("kept", "noted", "skipped")


def test_a_row_that_is_lost_is_seen_by_those_that_moved(verdicts):
    (row,) = [line for line in verdicts["LosesARow", "clean.large-image"] if is_bad(line)]
    assert "one row up" in row["measured"]


def test_the_message_says_where_a_large_image_is_worst(verdicts):
    (row,) = [line for line in verdicts["LosesTheLastColumn", "clean.large-image"] if is_bad(line)]
    assert row["measured"].startswith("columns 376 to 383: ")
    (dead,) = [line for line in verdicts["DiesAbove64KiB", "clean.large-image"] if is_bad(line)]
    assert "crashed: died of SIGSEGV" in dead["measured"]
    assert dead["severity"] == "768x768"


def test_a_codec_that_takes_no_large_image_is_skipped_with_the_reason(verdicts):
    (line,) = verdicts["test_a_large_image_comes_back_as_it_was[flawed:TakesNoLargeImage]", "skipped"]
    assert "takes no larger image, or takes too long for one" in line["measured"]
