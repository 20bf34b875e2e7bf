"""Side by side with others: plugins, conftests and Hypothesis profiles that know nothing of robustkit."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from textwrap import dedent

import pytest
from suites import TOTAL, make_suite, run_here

from robustkit.plugin.options import OPTIONS

#: Plugins that own names which robustkit once took: --profile, the fixture golden, --device; and what they need.
PLUGINS = (
    ("pytest-profiling", "six"),
    ("pytest-golden", "ruamel-yaml", "testfixtures"),
    ("pytest-playwright", "python-slugify", "text-unidecode"),
)
#: In place of a browser driver of 100 MB, which pytest-playwright imports names from.
NO_BROWSER = "class Error(Exception):\n    pass\n\n\ndef __getattr__(name):\n    return Error\n"
#: A check that needs no trials.
ONE = ("-k", "layout", "-p", "no:cacheprovider")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder with the plugins, as pip installs them, but without what they need only to do their work."""
    folder = tmp_path_factory.mktemp("neighbours")
    wanted = [name for names in PLUGINS for name in names]
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--target", folder, *wanted], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.skip(f"the plugins can't be installed here: {done.stderr.strip().splitlines()[-1]}")
    (folder / "playwright").mkdir()
    (folder / "playwright" / "__init__.py").touch()
    (folder / "playwright" / "sync_api.py").write_text(NO_BROWSER)
    return folder


@pytest.fixture
def beside(site, pytester, monkeypatch):
    """Run pytest where all of them are installed."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")])))
    return lambda *args: pytester.runpytest_subprocess("-p", "no:cacheprovider", *args)


@pytest.fixture
def plain(pytester):
    """Run pytest in a folder that no plugin but robustkit's knows of."""
    return lambda *args: run_here(pytester, *args, plugins=True)


def text(result):
    return result.stdout.str() + result.stderr.str()


def test_a_run_that_has_nothing_to_do_with_any_of_them(beside, pytester):
    pytester.makepyfile("def test_other(): pass")
    result = beside()
    result.assert_outcomes(passed=1)
    plugins = next(line for line in result.outlines if line.startswith("plugins: "))
    assert all(name in plugins for name in ("robustkit", "profiling", "golden", "playwright"))
    assert "robustkit: " not in text(result)


def test_their_options_and_fixtures_stay_theirs(beside, pytester):
    (pytester.path / "three.yml").write_text("input: 3\noutput: 9\n")
    pytester.makepyfile(
        """
        import pytest

        def test_device(device):
            assert device == "iPhone 13"

        @pytest.mark.golden_test("three.yml")
        def test_golden(golden):
            assert golden["input"] ** 2 == golden.out["output"]
        """
    )
    result = beside("--profile", "--device", "iPhone 13")
    result.assert_outcomes(passed=2)
    assert (pytester.path / "prof" / "combined.prof").is_file()


def test_the_suite_runs_beside_them(beside, pytester):
    result = beside("--pyargs", "robustkit.conformance", "--codec", "jpeg", "--profile", "--device", "iPhone 13", *ONE)
    result.assert_outcomes(passed=1, deselected=TOTAL - 1)
    result.stdout.fnmatch_lines(["jpeg: not certified: 1 of 1 claims hold*"])
    assert (pytester.path / "prof" / "combined.prof").is_file()


def test_the_suite_runs_beside_them_over_processes(beside):
    result = beside("--pyargs", "robustkit.conformance", "--codec", "jpeg,webp", "--profile", "-n", "2", *ONE)
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
def test_an_old_name_that_nobody_has_names_the_new_one(pytester, option):
    value = [] if not option.metavar and not option.choices else ["3"]
    with pytest.raises(pytest.UsageError, match=f"{option.old} is called {option.flag} now"):
        pytester.parseconfig(option.old, *value)
    with pytest.raises(pytest.UsageError, match=f"{option.old} is called {option.flag} now"):
        pytester.parseconfig("--codec", "jpeg", f"{option.old}=3")


def test_an_old_name_that_nobody_has_ends_the_run(plain, pytester):
    pytester.makepyfile("def test_other(): pass")
    result = plain("--trials", "3")
    assert result.ret == 4
    assert "--trials is called --robustkit-trials now" in text(result)


def test_one_old_name_is_a_plugins_and_another_is_nobodys(beside):
    result = beside("--profile", "--crop", "3")
    assert result.ret == 4
    assert "--crop is called --robustkit-crop now" in text(result)


#: The names of a project of one's own that compares pictures.
OWNER = """
    import pytest

    def pytest_addoption(parser):
        parser.addoption("--images", action="store_true")
        parser.addoption("--set", choices=["small", "large"])
        parser.addoption("--crop", type=int)
        parser.addoption("--trials", nargs=2)
        parser.addoption("--hypothesis-max-examples", "--max-examples", type=int)

    @pytest.fixture(params=["av1", "vp9"])
    def codec(request):
        return request.param

    @pytest.fixture
    def golden(tmp_path):
        return tmp_path

    @pytest.fixture
    def claim():
        return "a claim"
    """
OWNED = """
    import pytest

    def test_options(pytestconfig):
        names = ("--images", "--set", "--crop", "--trials", "--max-examples")
        assert [pytestconfig.getoption(name) for name in names] == [True, "large", 64, ["3", "4"], 7]

    def test_fixtures(codec, golden, claim):
        assert codec in ("av1", "vp9")
        assert golden.is_dir()
        assert claim == "a claim"

    @pytest.mark.parametrize("codec", ["h264", "h265"])
    def test_parameters(codec):
        assert codec.startswith("h26")
    """


@pytest.mark.parametrize("more", [[], ["--codec", "jpeg"]], ids=["without", "with --codec"])
def test_options_and_fixtures_of_a_conftest_stay_its_own(plain, pytester, more):
    pytester.makeconftest(OWNER)
    pytester.makepyfile(OWNED)
    result = plain("--images", "--set", "large", "--crop=64", "--trials", "3", "4", "--max-examples", "7", *more)
    result.assert_outcomes(passed=5)
    if more:
        result.stdout.fnmatch_lines(["jpeg: not checked: no test examined it"])


def test_the_suite_runs_beside_such_a_conftest(plain, pytester):
    pytester.makeconftest(OWNER)
    pytester.makepyfile(OWNED)
    owned = ("--images", "--set", "large", "--crop=64", "--trials", "3", "4", "--max-examples", "7")
    arguments = (pytester.path, "--pyargs", "robustkit.conformance", "--codec", "jpeg", *owned)
    result = plain(*arguments, "-k", "layout or options or fixtures or parameters")
    result.assert_outcomes(passed=6, deselected=TOTAL - 1)
    result.stdout.fnmatch_lines(["jpeg: not certified: 1 of 1 claims hold*"])


@pytest.mark.parametrize("more", [[], ["--codec", "jpeg"]], ids=["without", "with --codec"])
def test_a_stray_argument_is_pytests_business(plain, pytester, more):
    pytester.makepyfile("def test_stray(codec): pass\ndef test_other(): pass")
    result = plain(*more)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'codec' not found"])


def test_tests_with_a_codec_of_their_own_lie_beside_checks(plain, pytester):
    pytester.makeconftest("from robustkit.plugin.fixtures import *")
    pytester.makepyfile(
        test_check="def test_check(codec, claim): claim.kept(codec.name)",
        test_own="""
            import pytest

            @pytest.fixture(params=["av1", "vp9"])
            def codec(request):
                return request.param

            def test_fixture(codec):
                assert codec in ("av1", "vp9")
            """,
        test_marked="""
            import pytest

            @pytest.mark.parametrize(("codec", "rate"), [("h264", 1), ("h265", 2)])
            def test_parameters(codec, rate):
                assert codec.startswith("h26")

            @pytest.mark.parametrize("codec", ["h264"])
            def test_parameter(codec):
                assert codec == "h264"
            """,
        test_wrapped="""
            import pytest

            @pytest.fixture
            def codec(codec):
                return codec.name

            def test_wrapped(codec):
                assert codec == "jpeg"
            """,
    )
    result = plain("--codec", "jpeg")
    result.assert_outcomes(passed=7)
    result = plain("test_own.py", "test_marked.py")
    result.assert_outcomes(passed=5)


def test_an_option_of_another_name_may_keep_its_value_as_codec(plain, pytester):
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--video', dest='codec', default='av1')")
    pytester.makepyfile("def test_mine(pytestconfig): assert pytestconfig.option.codec == 'av1'")
    plain().assert_outcomes(passed=1)


def test_a_conftests_own_codec_option_is_named_as_what_is_in_the_way(plain, pytester):
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--codec', dest='mine', default='av1')")
    pytester.makepyfile("def test_mine(pytestconfig): assert pytestconfig.option.mine == 'av1'")
    result = plain()
    assert result.ret != 0
    assert "--codec" in text(result)
    plain("-p", "no:robustkit").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("import pytest; pytest.importorskip('no_such_module')", "Skipped: could not import 'no_such_module'"),
    ],
)
def test_a_hook_that_fails_disturbs_no_run_without_a_codec(pytester, plain, body, named):
    pytester.makeconftest(f"def pytest_robustkit_codecs(registry): {body}")
    pytester.makepyfile("def test_other(): pass")
    plain().assert_outcomes(passed=1)
    result = plain("--codec", "jpeg")
    assert result.ret == 4
    assert f"pytest_robustkit_codecs: {named}" in text(result)
    assert "INTERNALERROR" not in text(result)


@pytest.mark.slow
def test_a_hypothesis_profile_of_the_users_changes_nothing_in_the_searches(pytester, plain):
    make_suite(pytester.path)
    conftest = (pytester.path / "conftest.py").read_text()
    profile = dedent(
        """
        from hypothesis import Phase, settings
        settings.register_profile("explicit", phases=[Phase.explicit])
        settings.register_profile("one", max_examples=1, derandomize=True)
        """
    )

    def searched(load, *args):
        (pytester.path / "conftest.py").write_text(conftest + profile + load)
        result = plain("conformance", "--codec", "plain", "--robustkit-crop=64", "-k", "bursts or garbage",
                       "--junitxml=junit.xml", *args)  # fmt: skip
        result.assert_outcomes(passed=2, deselected=TOTAL - 2)
        found = ElementTree.parse(pytester.path / "junit.xml").findall(".//property[@name='robustkit']")
        return [json.loads(p.attrib["value"])["numbers"] for p in found]

    usual = searched("")
    assert [sum(numbers.values()) > 20 for numbers in usual] == [True, True]
    assert searched("settings.load_profile('explicit')\n") == usual
    assert searched("settings.load_profile('one')\n") == usual
    assert searched("", "--hypothesis-profile=explicit") == usual
