"""Whose fault it is: the kit's and the machine's trouble is no word about the codec; what is accepted is said so."""

import sys
import xml.etree.ElementTree as ElementTree
from datetime import date
from textwrap import dedent

import pytest
from suites import TOTAL, lean, make_suite, run_here

from robustkit.judging.waivers import declared
from robustkit.outcome import Failure, Outcome
from robustkit.plugin.claim import Waivers

#: Trouble in pytest's own process, each kind at the first check.
TROUBLE = {
    "the disk is full": """
        write = pathlib.Path.write_bytes

        def full(self, data):
            if "robustkit-report" in str(self) and begun:
                raise OSError(errno.ENOSPC, "No space left on device", str(self))
            return write(self, data)

        pathlib.Path.write_bytes = full
        """,
    "no process can be started": """
        start = subprocess.Popen.__init__

        def popen(self, args, *more, **named):
            if "robustkit.isolation.child" in str(args) and begun:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            start(self, args, *more, **named)

        subprocess.Popen.__init__ = popen
        """,
    "few files may be open": """
        def at_first():
            resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        """,
    "the report folder is gone for good": """
        def at_first():
            here = pathlib.Path("robustkit-report").absolute()
            mkdir = os.mkdir

            def refused(path, *more, **named):
                if pathlib.Path(path).is_relative_to(here):
                    raise PermissionError(errno.EACCES, "Permission denied", str(path))
                mkdir(path, *more, **named)

            shutil.rmtree(here)
            os.mkdir = refused
        """,
    "a file in the report folder's place": """
        def at_first():
            shutil.rmtree("robustkit-report")
            pathlib.Path("robustkit-report").touch()
        """,
    "another plugin's timeout": """
        def ring(*_):
            pytest.fail("Timeout (>0.02s) from another plugin")

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_call():
            signal.signal(signal.SIGALRM, ring)
            signal.setitimer(signal.ITIMER_REAL, 0.02)

        def pytest_runtest_teardown():
            signal.setitimer(signal.ITIMER_REAL, 0)
        """,
    "a mistake in the kit": """
        def at_first():
            import robustkit.quality
            from robustkit.judging.subject import Subject

            robustkit.quality.measure = Subject.fresh_workers = lambda *_, **__: [][1]
        """,
}
BROKEN = """

import errno
import os
import resource
import shutil
import subprocess

import pytest

begun = False


def at_first():
    pass

{}

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    global begun
    if not begun:
        begun = True
        at_first()
"""


@pytest.fixture
def run(pytester):
    """Run pytest in a user's folder, which has the suite and a conftest with codecs; ``more`` is added to it."""
    make_suite(pytester.path)

    def run(*args, more="", alone=False):
        with (pytester.path / "conftest.py").open("a") as file:
            file.write(more)
        if alone:
            return pytester.runpytest_subprocess(*lean("conformance", "--robustkit-crop=64", *args))
        return run_here(pytester, "conformance", "--robustkit-crop=64", *args)

    run.path = pytester.path
    return run


def verdict(result, codec):
    (line,) = [line for line in result.outlines if line.startswith(f"{codec}: ") and "does not hold" not in line]
    return line.removeprefix(f"{codec}: ")


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_of_the_kit_or_the_machine_is_not_laid_to_the_codec(run, trouble):
    result = run(
        "--codec", "plain", "-k", "clean_round or encoding", alone=True, more=BROKEN.format(dedent(TROUBLE[trouble]))
    )
    assert result.ret == 1
    said = verdict(result, "plain")
    assert said.startswith("not certified: ")
    assert "claims could not be checked: " in said
    assert "blocked by" not in said


def test_who_ignores_the_ends_of_children_hears_of_them_all_the_same(run, pytester):
    start = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    options = ("--robustkit-crop=64", "-p", "no:cacheprovider", "--codec", "plain,dead", "-k", "layout or clean_round")
    result = pytester.run(sys.executable, "-c", start, "-m", "pytest", "conformance", *options)
    assert verdict(result, "plain").startswith("not certified: 2 of 2 claims hold")
    assert verdict(result, "dead").startswith("does not conform: 1 of 2 claims broken")
    assert "died of SIGSEGV" in result.stdout.str()


def test_what_a_worker_says_of_an_encoder_breaks_the_claim(run):
    codec = """

    class Tired(Plain):
        name = "tired"
        count = itertools.count()

        def encode(self, image):
            if next(self.count) > 12:
                raise MemoryError("tired")
            return super().encode(image)

    FLAWED.append(Tired)
    """
    hooks = "    FLAWED.append(Tired)\n"
    result = run("--codec", "tired", "-k", "clean_round or encoding", more=dedent(codec.replace(hooks, "\n" + hooks)))
    assert verdict(result, "tired").startswith("does not conform: 1 of 2 claims broken")


def test_an_encoder_with_no_bytes_to_say_is_skipped_where_there_is_nothing_to_damage(run):
    codec = """

    class Mute(Codec):
        name = "mute"
        family = "test"

        def encode(self, image):
            return b""

        def decode(self, bitstream):
            return np.zeros((64, 64, 3), np.uint8)

    FLAWED.append(Mute)
    """
    result = run("--codec", "mute", "-k", "clean or bit_flips or truncation or appended", more=dedent(codec))
    # It can't know of odd sizes, which breaks that claim.
    result.assert_outcomes(passed=7, failed=1, skipped=3, deselected=TOTAL - 11)
    assert "the streams of mute have nothing" in result.stdout.str()


def test_a_known_defect_breaks_its_claim(run):
    result = run("--codec", "excused", "-k", "bit_flips or never_crash", "--runxfail")
    assert result.ret == 1
    assert verdict(result, "excused").startswith("does not conform: 2 of 2 claims broken")


def test_a_known_defect_that_the_tester_accepts_fails_nothing_and_certifies_nothing(run):
    result = run("--codec", "excused", "-k", "bit_flips or never_crash", "--robustkit-waivers=codec", "-n", "2")
    assert result.ret == 0
    said = "not certified: 2 of 2 claims waived (raised, https://example.org/1); 0 of 2"
    assert verdict(result, "excused").startswith(said)


@pytest.mark.parametrize(("today", "fails"), [(date(2030, 12, 31), False), (date(2031, 1, 1), True)])
def test_a_codecs_own_known_defect_is_an_excuse_until_its_day(today, fails):
    own = declared("mine", {"crashed": "https://example.org/1 until 2030-12-31"})
    found, said = Waivers(own, own, today).find(
        "decode.survives.bursts", Failure(Outcome.CRASHED, "died of SIGSEGV"), ""
    )
    assert (found is None) is fails
    assert said == (["the waiver for it held until 2030-12-31: crashed, https://example.org/1"] if fails else [])


WAIVERS = """
[[waivers]]
outcome = "raised"
detail = "{}"
reason = "our ticket 1"
until = {}

[[waivers]]
outcome = "hung"
reason = "our ticket 2"
codec = "another"
"""


@pytest.mark.parametrize(
    ("detail", "until", "accepted"),
    [("ZeroDivisionError", "2999-12-31", True), ("IndexError", "2999-12-31", False), ("touchy", "2020-01-01", False)],
)
def test_a_file_of_waivers_accepts_what_it_names_while_it_holds(run, detail, until, accepted):
    (run.path / "mine.toml").write_text(WAIVERS.format(detail, until))
    result = run("--codec", "touchy", "-k", "bit_flips", "--robustkit-waivers", "mine.toml")
    assert result.ret == (0 if accepted else 1)
    assert verdict(result, "touchy").startswith(
        "not certified: 1 of 1 claims waived (raised: ZeroDivisionError, our ticket 1)"
        if accepted
        else "does not conform"
    )
    assert ("waiver out of date since 2020-01-01: raised: touchy, our ticket 1" in result.outlines) == (
        "20" < until < "21"
    )


def test_waivers_that_nothing_needed_are_named_after_a_whole_run(run):
    (run.path / "mine.toml").write_text(WAIVERS.format("IndexError", "2999-12-31"))
    result = run("--codec", "silent", "--robustkit-waivers", "mine.toml", "--robustkit-max-examples=3")
    assert "waiver not needed: raised: IndexError, our ticket 1" in result.outlines
    assert "waiver not needed: hung, our ticket 2" in result.outlines
    assert verdict(result, "silent").startswith("no promises: nothing found in ")
    assert result.ret == 0


def test_a_mistake_in_a_file_of_waivers_is_a_usage_error(run):
    (run.path / "mine.toml").write_text('[[waivers]]\noutcme = "hung"\nreason = "x"\n')
    result = run("--codec", "plain", "--robustkit-waivers", "mine.toml")
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["*--robustkit-waivers: *mine.toml: waiver 1: unknown key 'outcme': did you mean outcome?"]
    )


def test_junit_says_what_the_verdicts_depend_on(run):
    run("--codec", "plain,nameless", "-k", "layout", "--junitxml=junit.xml", "--hypothesis-seed=7")
    suite = ElementTree.parse(run.path / "junit.xml").find(".//testsuite/properties")
    found = {p.attrib["name"].removeprefix("robustkit."): p.attrib["value"] for p in suite}
    assert (found["seed"], found["effort"], found["device"]) == ("7", "quick", "cpu")
    assert {"version", "python", "numpy", "platform", "codec.plain", "images", "promises"} <= found.keys()
    assert found["verdict.plain"].startswith("plain: not certified: 1 of 1 claims hold")
    assert found["verdict.nameless"].startswith("nameless: does not conform: 1 of 1")


@pytest.mark.parametrize(
    ("more", "args", "status"),
    [
        ("def pytest_runtest_logfinish(nodeid):\n    if 'layout' in nodeid:\n        raise KeyboardInterrupt\n", [], 2),
        ("", ["-x"], 1),
    ],
    ids=["Ctrl-C", "-x"],
)
def test_a_run_that_is_cut_short_has_its_table_and_certifies_nothing(run, more, args, status):
    codec = "nameless" if args else "plain"
    result = run("--codec", codec, "-k", "layout or bit_flips", *args, alone=True, more=f"\n\n{more}")
    assert result.ret == status
    assert "the run was cut short" in verdict(result, codec)
    result.stdout.fnmatch_lines(["layout names every bit*"])


def test_what_had_to_be_run_again_certifies_nothing(run):
    again = """

    from _pytest.runner import runtestprotocol

    def pytest_runtest_protocol(item, nextitem):
        # As pytest-rerunfailures does it.
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if any(report.failed for report in reports):
            for report in reports:
                if report.failed:
                    report.outcome = "rerun"
                item.ihook.pytest_runtest_logreport(report=report)
                if report.outcome == "rerun":
                    break
            item._initrequest()
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        return True
    """
    result = run("--codec", "nameless", "-k", "layout", more=dedent(again))
    assert verdict(result, "nameless").startswith("does not conform: 1 of 1 claims broken; run again after a failure: ")
    assert sum(line.startswith("layout names every bit") for line in result.outlines) == 1
