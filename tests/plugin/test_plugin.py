"""The pytest plugin as a user meets it: options, usage errors, ways to plug a codec in, the header and the table."""

import re
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest
from suites import CODECS, TOTAL, make_suite, run_here

from robustkit.judging.finding import NOT_PROVED
from robustkit.plugin.certifying import PARTS
from robustkit.plugin.options import OPTIONS
from robustkit.plugin.session import SEED, TRIAL_SEED
from robustkit.plugin.xdist import Spread

QUICK = ("conformance", "--robustkit-crop=64")
#: A check that needs no trials, so that a run takes as long as starting a worker.
ONE = ("-k", "layout")
#: For a run of the whole suite in which searches don't matter.
FEW = ("--robustkit-max-examples=4",)


@pytest.fixture
def suite(pytester):
    """Run the suite in a user's folder, which has a conftest with codecs."""
    make_suite(pytester.path)

    def run(*args):
        return run_here(pytester, *QUICK, *args)

    run.path = pytester.path
    return run


def text(result):
    return result.stdout.str() + result.stderr.str()


def test_no_codec_is_a_usage_error(suite):
    result = suite()
    assert result.ret == 4
    assert "none was chosen: give --codec NAME" in text(result)


def test_no_codec_is_a_usage_error_under_xdist(suite):
    result = suite("-n", "2")
    assert result.ret == 4
    assert "none was chosen: give --codec NAME" in text(result)


def test_no_codec_is_needed_where_nothing_examines_one(pytester):
    pytester.makepyfile("def test_other(): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == 0
    assert "robustkit:" not in text(result)


def test_a_fixture_of_the_users_own_named_codec_is_left_alone(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(params=["av1", "vp9"])
        def codec(request):
            return request.param

        def test_mine(codec):
            assert codec in ("av1", "vp9")
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--codec", "jpg"], "did you mean jpeg"),
        (["--codec", "robust-turbo-dcm"], "did you mean robust-turbo-ddcm"),
        (["--codec", "no.such.module:Codec"], "No module named 'no'"),
        (["--codec", "jpeg", "--robustkit-set", "quality"], "write KEY=VALUE"),
        (["--codec", "jpeg", "--robustkit-set", "plain:quality=3"], "'plain' is not among the codecs jpeg"),
        (["--codec", "jpeg", "--robustkit-set", "quality=300"], "quality = 300"),
        (["--codec", "jpeg", "--robustkit-set", "qualty=30"], "qualty"),
        (["--codec", "jpeg", "--robustkit-profile", "nowhere.toml"], "nowhere.toml"),
        (["--codec", "jpeg", "--robustkit-images", "nowhere"], "nowhere is not a folder"),
        (["--codec", "jpeg", "--robustkit-crop", "9999"], "9999"),
        (["--codec", "jpeg", "--robustkit-trials", "0"], "--robustkit-trials 0: give at least 1"),
        (["--codec", "jpeg", "--robustkit-max-examples", "0"], "--robustkit-max-examples 0: give at least 1"),
        (["--codec", "jpeg", "--robustkit-memory-limit", "lots"], "write a size like 4GiB"),
        (["--codec", "jpeg", "--robustkit-time-limit", "0"], "seconds = 0"),
        (["--codec", "jpeg", "--hypothesis-profile=no-such"], "no-such"),
        (["--codec", "jpeg", "--robustkit-golden-update", "-n", "2"], "leave -n out"),
    ],
)
def test_a_mistaken_option_is_a_usage_error(pytester, args, message):
    result = run_here(pytester, *args)
    assert result.ret == 4, text(result)
    assert message in text(result)


def test_two_codecs_of_one_name_are_a_usage_error(suite):
    conftest = suite.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace('name = "fat"', 'name = "blurry"'))
    result = suite("--codec", "plain")
    assert result.ret == 4
    assert "codec 'blurry' is registered by" in text(result)


def test_a_profile_that_cannot_be_read_names_its_mistake(suite):
    promise = '[[promises]]\nchannel = "bcs(ber=0.1)"\nmean_drop = 1\np5_drop = 2\n'
    (suite.path / "mine.toml").write_text(f"bpp = 2\nquality = 10\n{promise}")
    result = suite("--codec", "plain", "--robustkit-profile", "mine.toml")
    assert result.ret == 4
    assert "did you mean bsc" in text(result)


def test_a_codec_that_cannot_run_here_says_what_to_install(suite):
    (suite.path / "needy.py").write_text(
        "from robustkit import Codec\n"
        "class Needy(Codec):\n"
        "    name, family = 'needy', 'test'\n"
        "    def encode(self, image): ...\n"
        "    def decode(self, bitstream): ...\n"
        "    @classmethod\n"
        "    def missing(cls): return 'pip install needyness'\n"
    )
    result = suite("--codec", "needy:Needy", *ONE)
    assert result.ret == 4
    assert "pip install needyness" in text(result)


def test_a_hook_in_a_conftest_registers_codecs(suite):
    result = suite("--codec", "plain", *ONE)
    result.assert_outcomes(passed=1, deselected=TOTAL - 1)


def test_a_decorator_and_a_dotted_path_name_codecs(suite):
    conftest = (suite.path / "conftest.py").read_text()
    (suite.path / "mine.py").write_text(
        CODECS.split("class Blurry")[0]
        + "\n\nimport robustkit\n\n@robustkit.register\nclass Mine(Plain):\n    name = 'mine'\n"
    )
    (suite.path / "conftest.py").write_text("import mine\n" + conftest)
    result = suite("--codec", "mine,mine:Plain", *ONE)
    result.assert_outcomes(passed=2, deselected=2 * TOTAL - 2)
    result.stdout.fnmatch_lines(["*codec: mine*", "*codec: mine:Plain*"])


def test_several_codecs_run_side_by_side(suite):
    result = suite("--codec", "plain,nameless", "--codec", "silent", *ONE)
    result.assert_outcomes(passed=2, failed=1, deselected=3 * TOTAL - 3)
    result.stdout.fnmatch_lines(
        [
            "plain: not certified: 1 of 1 claims hold; others were left out",
            "nameless: does not conform: 1 of 1 claims broken",
            "silent: not certified: 1 of 1 claims hold; others were left out",
        ]
    )


def test_settings_reach_one_codec_or_all(suite):
    result = suite("--codec", "jpeg,plain", "--robustkit-set", "jpeg:quality=77", *ONE)
    result.assert_outcomes(passed=2, deselected=2 * TOTAL - 2)
    result.stdout.fnmatch_lines(["codec: jpeg (*77*"])


def test_the_header_names_what_a_verdict_depends_on(suite):
    result = suite("--codec", "jpeg", "--hypothesis-seed=7", "--robustkit-effort=ci", *ONE)
    header = next(line for line in result.outlines if line.startswith("robustkit: "))
    assert "device cpu" in header
    assert "effort ci (up to 60 trials an image, searches of about 120 s)" in header
    assert "seed 7 (search), 0 (trials)" in header
    facts = next(line for line in result.outlines if line.startswith("codec: jpeg"))
    assert "pillow" in facts
    assert "libjpeg-turbo" in facts


@pytest.mark.parametrize(
    ("args", "effort"),
    [
        ([], "effort quick (up to 24 trials an image, searches of about 20 s)"),
        (["--robustkit-effort=nightly"], "effort nightly (up to 200 trials an image, searches of about 1200 s)"),
        (
            ["--robustkit-trials=3", "--robustkit-max-examples=4"],
            "effort quick (up to 3 trials an image, 4 streams a search)",
        ),
    ],
)
def test_effort_follows_the_options(suite, args, effort):
    result = suite("--codec", "plain", *args, *ONE)
    result.assert_outcomes(passed=1, deselected=TOTAL - 1)
    assert effort in text(result)


def test_the_trials_have_a_seed_of_their_own(suite):
    """0, or what is given; the nightly run draws one, and names it."""
    facts = {}
    for args in (["--robustkit-trial-seed=9"], ["--robustkit-effort=nightly", "--robustkit-trials=1"]):
        result = suite("--codec", "plain", *ONE, "--junitxml=junit.xml", *args)
        result.assert_outcomes(passed=1, deselected=TOTAL - 1)
        header = next(line for line in result.outlines if line.startswith("robustkit: "))
        facts[args[0]] = re.search(r"seed (\d+) \(search\), (\d+) \(trials\)", header).groups()
        told = ElementTree.parse(suite.path / "junit.xml").find(".//property[@name='robustkit.trial-seed']")
        assert told.attrib["value"] == facts[args[0]][1]
    assert facts["--robustkit-trial-seed=9"] == ("0", "9")
    assert not {*facts["--robustkit-effort=nightly"]} & {"0", "9"}


def test_workers_of_xdist_are_told_both_seeds_and_where_to_leave_what_they_know(tmp_path):
    node = SimpleNamespace(workerinput={})
    Spread("any text", 9, tmp_path).pytest_configure_node(node)
    assert node.workerinput == {SEED: "any text", TRIAL_SEED: 9, PARTS: str(tmp_path)}


def test_the_hypothesis_profiles_of_the_users_own_tests_stay(pytester):
    pytester.makeconftest("from hypothesis import settings\nsettings.register_profile('quick', max_examples=3)\n")
    pytester.makepyfile(
        """
        from hypothesis import given, settings, strategies as st

        def test_mine():
            assert settings().max_examples == 3
        """
    )
    result = pytester.runpytest_subprocess("--hypothesis-profile=quick", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_max_examples_and_the_seed_rule_the_search(suite):
    def streams(*args):
        result = suite("--codec", "plain", "-k", "bit_flips", "--junitxml=junit.xml", *args)
        result.assert_outcomes(passed=1, deselected=TOTAL - 1)
        found = ElementTree.parse(suite.path / "junit.xml").findall(".//property[@name='robustkit']")
        return [p.attrib["value"] for p in found]

    first = streams("--robustkit-max-examples=12", "--hypothesis-seed=1")
    assert '"12 streams' in first[0]
    assert first != streams("--robustkit-max-examples=12", "--hypothesis-seed=2")


def test_a_loosened_profile_marks_the_report(suite):
    (suite.path / "loose.toml").write_text("bpp = 3.0\nquality = 10.0\n")
    result = suite("--codec", "plain", "--robustkit-profile", "loose.toml", *FEW)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "NON-CERTIFYING: loosened profile: bpp 3 > 1.6; quality 10 < 15*",
            "plain: not certified: loosened profile: bpp 3 > 1.6; quality 10 < 15*",
        ]
    )
    assert "conforms" not in text(result)


def test_a_tightened_profile_is_judged_by_and_certifies(suite):
    promises = "".join(
        f'[[promises]]\nchannel = "bsc(ber={ber})"\nmean_drop = {drop}\np5_drop = 12.0\ncorrupted = 0.4\n'
        for ber, drop in ((0.001, 3.0), (0.01, 0.01))
    )
    (suite.path / "tight.toml").write_text(f"bpp = 1.6\nquality = 15.0\nrefused = 0.5\n{promises}")
    result = suite("--codec", "plain", "--robustkit-profile", "tight.toml", "-k", "thresholds or clean_round")
    result.assert_outcomes(passed=1, failed=1, deselected=TOTAL - 2)
    assert "NON-CERTIFYING" not in text(result)
    assert "at most 0.01" in text(result)


#: With the effort quick, what is not proved is no failure, unless it is to be one; with the others it is.
FAILING = (
    (["--robustkit-effort=ci"], True),
    (["--robustkit-unproved=fail"], True),
    ([], False),
    (["--robustkit-effort=ci", "--robustkit-unproved=warn"], False),
)


@pytest.mark.parametrize(("args", "fails"), FAILING)
def test_too_few_trials_prove_nothing(suite, args, fails):
    result = suite("--codec", "plain", "--robustkit-trials=2", "-k", "thresholds", *args)
    result.assert_outcomes(failed=fails, passed=not fails, deselected=TOTAL - 1)
    assert "too few trials to tell: --robustkit-trials " in text(result)
    assert "unproved" in text(result)
    result.stdout.fnmatch_lines(["plain: not proved: 2 promises are not proved"])
    assert result.ret == (NOT_PROVED if fails else 0)


def test_images_of_ones_own(suite):
    from PIL import Image

    folder = suite.path / "photos"
    folder.mkdir()
    Image.linear_gradient("L").convert("RGB").save(folder / "ramp.png")
    result = suite("--codec", "plain", "--robustkit-images", "photos", "-k", "clean_round")
    result.assert_outcomes(passed=1, deselected=TOTAL - 1)
    assert "ramp.png" in text(result)


def test_images_of_ones_own_are_counted_and_differ_by_their_ending(suite):
    from PIL import Image

    folder = suite.path / "photos"
    folder.mkdir()
    for name in ("ramp.png", "ramp.BMP", "ramp.ppm"):
        Image.linear_gradient("L").convert("RGB").save(folder / name)
    Image.linear_gradient("L").save(folder / "grey.pgm")
    (folder / "more").mkdir()
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "notes.txt").touch()
    result = suite(
        "--codec", "lossy", "--robustkit-images", "photos", "--robustkit-trials", "10", "-k", "quality_degrades"
    )
    shown = text(result)
    assert (
        f"images: 4 images in {folder}; left aside: broken links (gone.png), folders (more), "
        "files that don't end as an image that Pillow reads here (notes.txt)"
    ) in shown.replace("\n", "")
    assert "images: grey image converted to RGB: grey.pgm" in shown
    kept = {file.name for file in (suite.path / "robustkit-report" / "replay" / "lossy").glob("*.replay.json")}
    assert any(any(f"-{name}-" in file for name in ("ramp.png", "ramp.BMP", "ramp.ppm", "grey.pgm")) for file in kept)


def test_the_suite_runs_under_xdist(suite):
    result = suite("--codec", "plain,lossy", "-n", "2", "--junitxml=junit.xml", *FEW)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            f"plain: conforms: {TOTAL - 4} of {TOTAL} claims hold (4 not checked)",
            f"lossy: does not conform: 1 of {TOTAL} claims broken*",
        ]
    )
    assert "robustkit replay " in text(result)
    cases = ElementTree.parse(suite.path / "junit.xml").findall(".//testcase")
    assert len(cases) == 2 * TOTAL


def test_the_table_shows_what_was_measured_and_declared(suite):
    result = suite("--codec", "plain", "-k", "clean_round or refused")
    result.stdout.fnmatch_lines(
        [
            "claim *severity *measured *declared *verdict*",
            "*23.58 mean*15*kept*",
            "*of 108 trials*share at most 0.5*kept*",
        ]
    )


def test_a_check_of_the_users_own_is_a_claim(suite):
    conftest = suite.path / "conftest.py"
    conftest.write_text("from robustkit.plugin.fixtures import *\n" + conftest.read_text())
    (suite.path / "test_mine.py").write_text(
        "def test_two_is_enough(sound_codec, claim):\n    claim.kept('2', 'at most 2')\n"
        "def test_forgets_to_measure(sound_codec, claim):\n    pass\n"
    )
    result = suite("test_mine.py", "--codec", "plain", "-k", "two or forgets")
    result.assert_outcomes(passed=1, failed=1, deselected=TOTAL)
    result.stdout.fnmatch_lines(["two is enough *2 *at most 2 *kept*"])
    assert "the check measured nothing" in text(result)


def test_without_a_gpu_everything_is_skipped_with_the_command_for_one(suite):
    result = suite("--codec", "robust-turbo-ddcm", "--robustkit-device", "cuda", "-rs")
    if "no CUDA device here" not in text(result):
        pytest.skip("there is a CUDA device here")
    result.assert_outcomes(skipped=TOTAL)
    assert (
        "pytest conformance --codec robust-turbo-ddcm -k golden --robustkit-golden-update --robustkit-device cuda"
        in text(result)
    )
    assert "robust-turbo-ddcm: not certified: nothing was checked" in text(result)


def test_the_options_are_explained(pytester):
    result = pytester.runpytest_subprocess("--help")
    for option in OPTIONS:
        assert option.flag in text(result)
        assert f"{option.key} (" in text(result)
