"""Sessions of all sorts: parts of the suite, checks of one's own, other people's tests, and what is said in the end."""

import json
import xml.etree.ElementTree as ElementTree
from textwrap import dedent

import pytest
from suites import TOTAL, lean, make_suite, run_here

#: Codecs of :mod:`suites`, and two whose words or results are hard to report.
MORE = dedent(
    '''

    class Painter(Plain):
        """Its words paint a verdict, and can't be encoded."""

        name = "painter"

        def decode(self, bitstream):
            try:
                return super().decode(bitstream)
            except DecodeError:
                raise ValueError("\\ud800\\x1b[32m\\0") from None

        def describe(self):
            return {"fact": "\\ud800\\x1b[32m\\npainter: conforms"}


    class Sealed(Plain):
        """Refuses whatever is damaged, as it says."""

        name = "sealed"
        profile = replace(
            Plain.profile,
            refused=1.0,
            promises=(Promise("burst(length=8)", mean_drop=9.0, p5_drop=14.0, corrupted=1.0),),
        )

        def encode(self, image):
            stream = super().encode(image)
            return stream + struct.pack(">I", zlib.crc32(stream))

        def decode(self, bitstream):
            if struct.pack(">I", zlib.crc32(bitstream[:-4])) != bitstream[-4:]:
                raise DecodeError("damaged")
            return super().decode(bitstream[:-4])


    FLAWED += [Painter, Sealed]
    '''
)


@pytest.fixture
def run(pytester):
    """Run pytest in a user's folder, which has the suite, a conftest with codecs, and its own checks."""
    make_suite(pytester.path)
    with (pytester.path / "conftest.py").open("a") as file:
        file.write(MORE)

    def run(*args):
        return run_here(pytester, "--robustkit-crop=64", *args)

    run.path = pytester.path
    return run


def write(folder, **modules):
    """Checks of the user's own, with the fixtures in a conftest beside them."""
    checks = folder / "checks"
    checks.mkdir()
    (checks / "conftest.py").write_text("from robustkit.plugin.fixtures import *\n")
    for name, text in modules.items():
        (checks / f"test_{name}.py").write_text("import pytest\n" + dedent(text))


def text(result):
    return result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    ("args", "passed"),
    [
        (["conformance/test_clean.py"], 8),
        (["conformance/test_clean.py::test_layout_names_every_bit"], 1),
        (["conformance/test_clean.py::test_layout_names_every_bit[plain]", "--import-mode=importlib"], 1),
        (["conformance", "--ignore=conformance/test_survival.py", "--ignore=conformance/test_degradation.py"], 12),
        (["conformance", "-k", "layout or garbage", "-n", "2"], 2),
        (["conformance", "conformance", "-k", "layout"], 1),
        (["--pyargs", "robustkit.conformance", "--import-mode=importlib", "-k", "layout"], 1),
    ],
)
def test_a_part_of_the_suite_does_not_certify(run, args, passed):
    result = run("--codec", "plain", *args)
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] == passed
    assert f"plain: not certified: {passed} of {passed} claims hold; others were left out" in text(result)
    assert "conforms" not in text(result)


def test_the_whole_suite_certifies_though_other_tests_are_left_out_or_fail(run):
    (run.path / "test_other.py").write_text("def test_left_out(): pass\ndef test_bad(): assert 0\n")
    few = "--robustkit-max-examples=4"
    result = run("--codec", "plain", "conformance", "test_other.py", "--deselect", "test_other.py::test_left_out", few)
    result.assert_outcomes(passed=TOTAL - 4, skipped=4, failed=1, deselected=1)
    result.stdout.fnmatch_lines([f"plain: conforms: {TOTAL - 4} of {TOTAL} claims hold (4 not checked)"])


def test_a_suite_that_did_not_all_collect_certifies_nothing(run):
    (run.path / "conformance" / "test_survival.py").write_text("import no_such_module\n")
    result = run("--codec", "plain", "conformance", "--continue-on-collection-errors", "-k", "layout")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["plain: not certified: the run did not end well (exit status 1)*"])


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=["one process", "two"])
def test_a_codec_that_nothing_examines_is_not_checked(run, more):
    (run.path / "test_other.py").write_text("def test_other(): pass\n")
    result = run("--codec", "plain", "test_other.py", *more)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["plain: not checked: no test examined it"])


def test_collecting_needs_no_codec_and_judges_none(run):
    result = run("--co", "-q", "conformance")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["conformance/test_clean.py::test_layout_names_every_bit?none?"])
    result = run("--co", "-q", "conformance", "--codec", "plain")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["conformance/test_clean.py::test_layout_names_every_bit?plain?"])
    assert "not checked" not in text(result)


@pytest.mark.parametrize(
    "plugin",
    [
        "terminal",
        *(pytest.param(p, marks=pytest.mark.slow) for p in ("hypothesispytest", "junitxml", "capture", "xdist")),
    ],
)
def test_the_suite_needs_none_of_pytests_plugins(run, plugin):
    result = run("--codec", "plain", "conformance", "-k", "layout", "-p", f"no:{plugin}")
    assert result.ret == 0
    result = run("--codec", "nameless", "conformance", "-k", "layout", "-p", f"no:{plugin}")
    assert result.ret == 1


def test_a_strict_project_with_warnings_as_errors(run, pytester):
    strict = lean("--robustkit-crop=64", "--strict-markers", "--strict-config", "-W", "error")
    # A process of its own: what is imported may warn, too.
    result = pytester.runpytest_subprocess("--codec", "plain", "conformance", "-k", "layout", *strict)
    result.assert_outcomes(passed=1, deselected=TOTAL - 1)


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=["one process", "two"])
def test_a_marker_that_names_no_claim_is_a_usage_error(run, more):
    check = """
        @pytest.mark.robustkit_claim("decode.survives.bit-flip")
        def test_mine(codec, claim): claim.kept("1")
        """
    write(run.path, mine=check)
    result = run("--codec", "plain", "checks", *more)
    assert result.ret == 4
    assert "test_mine[plain]: no claim has the id 'decode.survives.bit-flip'" in text(result)
    assert "did you mean decode.survives.bit-flips" in text(result)


def test_a_check_of_ones_own_fails_by_its_findings(run):
    checks = """
        from robustkit.judging.finding import Verdict

        def test_noted(codec, claim):
            claim.note(Verdict.BROKEN, "three")

        def test_fetched(codec, request):
            request.getfixturevalue("claim").broken("four")

        def test_nothing(codec, claim):
            pass

        @pytest.mark.parametrize("number", [1, 2, 3])
        def test_several(codec, claim, number):
            if number == 2:
                pytest.skip("even")
            claim.broken("one") if number == 1 else claim.kept("three")

        @pytest.mark.parametrize("number", [1, 2])
        def test_sometimes(codec, claim, number):
            if number == 1:
                pytest.skip("odd")
            claim.kept("two")
        """
    write(run.path, mine=checks)
    result = run("--codec", "plain", "checks")
    result.assert_outcomes(failed=4, passed=2, skipped=2)
    result.stdout.fnmatch_lines(
        ["plain: does not conform: 3 of 5 claims broken; 1 of 5 claims could not be checked: *measured nothing*"]
    )


def test_fixtures_without_the_hook_that_parametrizes_them_say_so(run):
    write(run.path, mine="def test_mine(codec, claim): claim.kept('1')")
    (run.path / "checks" / "conftest.py").write_text("from robustkit.plugin.fixtures import claim, codec\n")
    for more in ([], ["--codec", "plain"]):
        result = run("checks", *more)
        result.assert_outcomes(errors=1)
        assert "import pytest_generate_tests from robustkit.plugin.fixtures beside it" in text(result)


def test_the_replay_command_works_though_a_check_changes_the_directory(run):
    checks = """
        def test_mine(sound_codec, claim, monkeypatch, tmp_path):
            monkeypatch.chdir(tmp_path)
            clean = next(iter(sound_codec.clean.values()))
            claim.broken("moved", last=claim.replay_clean(clean))
        """
    write(run.path, mine=checks)
    result = run("--codec", "plain", "checks")
    result.assert_outcomes(failed=1)
    file = run.path / "robustkit-report" / "replay" / "plain" / "mine.replay.json"
    assert file.is_file()
    assert f"robustkit replay {file}" in text(result)


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=["one process", "two"])
def test_words_that_no_terminal_and_no_file_can_take(run, more):
    result = run("--codec", "painter", "conformance", "-k", "header_flips or layout", "--junitxml=junit.xml", *more)
    result.assert_outcomes(failed=1, passed=1, **({} if more else {"deselected": TOTAL - 2}))
    assert "\x1b" not in text(result)
    assert "INTERNALERROR" not in text(result)
    result.stdout.fnmatch_lines([r"codec: painter (fact \\ud800\\x1b?32m\\npainter: conforms)".replace("\\\\", "\\")])
    result.stdout.fnmatch_lines(["painter: does not conform: 1 of 2 claims broken"])
    assert "\npainter: conforms" not in text(result)
    assert len(ElementTree.parse(run.path / "junit.xml").findall(".//testcase")) == 2


def test_junit_has_strict_json_where_nothing_could_be_estimated(run):
    run("--codec", "sealed", "conformance", "-k", "thresholds or corrupted", "--junitxml=junit.xml")

    def refuse(constant):
        raise ValueError(constant)

    found = ElementTree.parse(run.path / "junit.xml").findall(".//property[@name='robustkit']")
    findings = [json.loads(p.attrib["value"], parse_constant=refuse) for p in found]
    assert {f["claim"] for f in findings} == {"degradation.quality", "degradation.corrupted"}
    assert any(None in f["numbers"].values() for f in findings)


def test_two_codecs_over_two_processes(run):
    result = run("--codec", "plain,nameless", "conformance", "-n", "2", "-k", "layout or garbage")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "plain: not certified: 2 of 2 claims hold; others were left out",
            "nameless: does not conform: 1 of 2 claims broken*",
        ]
    )
