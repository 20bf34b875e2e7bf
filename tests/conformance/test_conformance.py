"""Every check of the conformance suite catches what it claims to catch: flawed codecs, each with one flaw."""

import json
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from textwrap import dedent

import pytest

CONFORMANCE = Path(__file__).parents[2] / "conformance"

#: A codec of block means with a header that has a check sum, and one flaw in each of its subclasses.
CODECS = dedent(
    '''
    import itertools
    import os
    import pathlib
    import signal
    import struct
    import zlib
    from dataclasses import replace

    import numpy as np
    from robustkit import Codec, DecodeError, Layout, Profile, Promise, Region

    HEADER = struct.Struct(">HHI")


    class Plain(Codec):
        name = "plain"
        family = "test"
        profile = Profile(
            bpp=1.6,
            quality=15.0,
            refused=0.5,
            promises=(
                Promise("bsc(ber=0.001)", mean_drop=3.0, p5_drop=12.0, corrupted=0.4),
                Promise("bsc(ber=0.01)", mean_drop=9.0, p5_drop=14.0, corrupted=0.85),
            ),
        )

        def encode(self, image):
            height, width = image.shape[:2]
            blocks = image[: height // 4 * 4, : width // 4 * 4].reshape(height // 4, 4, width // 4, 4, 3)
            size = struct.pack(">HH", height // 4, width // 4)
            return size + struct.pack(">I", zlib.crc32(size)) + blocks.mean(axis=(1, 3)).astype(np.uint8).tobytes()

        def decode(self, bitstream):
            if len(bitstream) < HEADER.size:
                raise DecodeError(f"{len(bitstream)} bytes hold no header")
            height, width, check = HEADER.unpack_from(bitstream)
            if check != zlib.crc32(bitstream[:4]):
                raise DecodeError("the header's check sum is wrong")
            payload = bitstream[HEADER.size :]
            if len(payload) < 3 * height * width:
                raise DecodeError(f"{len(payload)} bytes are too few for {height} x {width} blocks")
            blocks = np.frombuffer(payload, np.uint8, 3 * height * width).reshape(height, width, 3)
            return blocks.repeat(4, axis=0).repeat(4, axis=1)

        def layout(self, bitstream):
            bits, header = 8 * len(bitstream), min(64, 8 * len(bitstream))
            return Layout((Region("size", 0, header, header=True), Region("blocks", header, bits)), bits)


    class Blurry(Plain):
        name = "blurry"
        profile = replace(Plain.profile, quality=60.0)


    class Fat(Plain):
        name = "fat"
        profile = replace(Plain.profile, bpp=1.0)


    class Dead(Plain):
        name = "dead"

        def decode(self, bitstream):
            os.kill(os.getpid(), signal.SIGSEGV)


    class TimeDependent(Plain):
        name = "time-dependent"
        count = itertools.count()

        def encode(self, image):
            return super().encode(image) + bytes([next(self.count) % 256])


    class ProcessDependent(Plain):
        name = "process-dependent"

        def __init__(self):
            starts = pathlib.Path(__file__).parent / "starts"
            with starts.open("a") as file:
                file.write("x")
            self.salt = np.uint8(starts.stat().st_size % 16)

        def decode(self, bitstream):
            return super().decode(bitstream) ^ self.salt


    class Forgetful(Plain):
        name = "forgetful"
        count = itertools.count()

        def decode(self, bitstream):
            return super().decode(bitstream) ^ np.uint8(next(self.count) % 2)


    class Shuffled(Plain):
        name = "shuffled"

        def decode_batch(self, bitstreams):
            return super().decode_batch(bitstreams)[::-1]


    class Nameless(Plain):
        name = "nameless"

        def layout(self, bitstream):
            return replace(super().layout(bitstream), regions=super().layout(bitstream).regions[:1])


    class Touchy(Plain):
        """Raises what is no refusal when any bit of its flags is set."""

        name = "touchy"
        profile = replace(Plain.profile, bpp=1.8)

        def encode(self, image):
            stream = super().encode(image)
            return stream[: HEADER.size] + bytes(128) + stream[HEADER.size :]

        def decode(self, bitstream):
            flags = bitstream[HEADER.size : HEADER.size + 128]
            image = super().decode(bitstream[: HEADER.size] + bitstream[HEADER.size + 128 :])
            if any(flags):
                raise ZeroDivisionError("touchy")
            return image

        def layout(self, bitstream):
            bits, header = 8 * len(bitstream), min(64, 8 * len(bitstream))
            flags = min(bits, header + 1024)
            ends = Region("size", 0, header, header=True), Region("blocks", flags, bits)
            return Layout((*ends, Region("flags", header, flags)), bits)


    class Believer(Plain):
        """Believes the size in its header."""

        name = "believer"

        def decode(self, bitstream):
            if len(bitstream) < HEADER.size:
                raise DecodeError("short")
            height, width, _ = HEADER.unpack_from(bitstream)
            payload = np.frombuffer(bitstream[HEADER.size :], np.uint8)
            return np.resize(payload, (height % 512, width % 512, 3)).repeat(4, axis=0).repeat(4, axis=1)


    class Reader(Plain):
        """Reads beyond the end."""

        name = "reader"

        def decode(self, bitstream):
            if len(bitstream) >= HEADER.size:
                height, width, _ = HEADER.unpack_from(bitstream)
                bitstream[HEADER.size + 3 * min(height, 256) * min(width, 256) - 1]
            return super().decode(bitstream)


    class Strict(Plain):
        """Falls over bytes that follow the stream."""

        name = "strict"

        def decode(self, bitstream):
            image = super().decode(bitstream)
            assert HEADER.size + image.size // 16 == len(bitstream)
            return image


    class Hasty(Plain):
        """Looks at the first byte before it knows that there is one."""

        name = "hasty"

        def decode(self, bitstream):
            bitstream[0]
            return super().decode(bitstream)


    class Lossy(Plain):
        """Loses more than it declares."""

        name = "lossy"
        profile = replace(
            Plain.profile,
            promises=(Promise("bsc(ber=0.01)", mean_drop=0.5, p5_drop=0.5, corrupted=0.85),),
        )


    class Refuser(Plain):
        """Refuses whatever is damaged, more often than it declares."""

        name = "refuser"
        profile = replace(
            Plain.profile,
            refused=0.1,
            promises=(Promise("bsc(ber=0.01)", mean_drop=9.0, p5_drop=14.0, corrupted=0.1),),
        )


    class Guesser(Plain):
        """Gives the right image where the stream is badly damaged, and a worse one where it is not."""

        name = "guesser"
        profile = replace(
            Plain.profile,
            promises=(
                Promise("burst(length=8)", mean_drop=20.0, p5_drop=30.0, corrupted=0.3),
                Promise("burst(length=512)", mean_drop=20.0, p5_drop=30.0, corrupted=0.3),
            ),
        )
        store = {}

        def __init__(self):
            self.kept = pathlib.Path(__file__).parent / "kept"

        def encode(self, image):
            stream = super().encode(image)
            self.kept.mkdir(exist_ok=True)
            (self.kept / f"{len(stream)}-{stream[8:40].hex()}").write_bytes(stream)
            return stream

        def decode(self, bitstream):
            image = super().decode(bitstream)
            streams = [f.read_bytes() for f in self.kept.iterdir() if f.name.startswith(f"{len(bitstream)}-")]

            def flips(stream):
                return sum(bin(a ^ b).count("1") for a, b in zip(stream, bitstream))

            nearest = min(streams, key=flips)
            if 0 < flips(nearest) < 20:
                return (image // 2).astype(np.uint8)
            return super().decode(nearest)


    class Excused(Touchy):
        """Its defect is known, and reported; how often it shows is declared."""

        name = "excused"
        at_1e_2 = Promise("bsc(ber=0.01)", mean_drop=9.0, p5_drop=14.0, corrupted=1.0)
        profile = replace(Touchy.profile, refused=1.0, promises=(at_1e_2,))
        known_defects = {"raised": "https://example.org/1"}


    class Accused(Touchy):
        """Another defect than the one that is known."""

        name = "accused"
        known_defects = {"crashed": "https://example.org/2"}


    class Absent(Forgetful):
        """A defect that shows in a claim, not in an outcome."""

        name = "absent"
        known_defects = {
            "decoding is deterministic": "https://example.org/3",
            "decoding a batch equals decoding singly": "https://example.org/3",
        }


    class Silent(Plain):
        name = "silent"
        profile = None


    FLAWED = [value for value in list(globals().values()) if isinstance(value, type) and issubclass(value, Plain)]


    def pytest_robustkit_codecs(registry):
        for codec in FLAWED:
            registry.register(codec)
    '''
)
NAMES = (
    "plain,blurry,fat,dead,time-dependent,process-dependent,forgetful,shuffled,nameless,touchy,believer,reader,"
    "strict,hasty,lossy,refuser,guesser,excused,accused,absent,silent"
)


def make_suite(folder: Path) -> None:
    """A user's folder: the suite, and a conftest with codecs of the user's own."""
    shutil.copytree(CONFORMANCE, folder / "conformance", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "conftest.py").write_text(CODECS)


def run_suite(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "conformance", "--crop=64", "-p", "no:cacheprovider", *args],
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
    done = run_suite(folder, "--codec", NAMES, "--junitxml=junit.xml", "-q", "--time-limit=10")
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
    assert "plain: conforms: 18 of 20 claims hold (2 not checked)" in report.output


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
    assert len(others) == 19
    assert set(others.values()) == {"error"}
    assert all("blocked: the clean round trip fails" in report.messages[codec, check] for check in others)
    assert f"{codec}: does not conform: 1 of 20 claims broken, 19 of 20 blocked" in report.output


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
