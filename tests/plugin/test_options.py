"""Options: from the command line and from pytest's own files, which wins, where paths begin, and what mistakes say."""

import re
from pathlib import Path

import pytest

from robustkit.plugin.options import OPTIONS, Options

#: What each option is called in :class:`Options`, a value in a file, one in the command line, and what is read of them.
VALUES = {
    "images": ("images", "one", "two", Path("one"), Path("two")),
    "profile": ("profile_file", "one.toml", "two.toml", Path("one.toml"), Path("two.toml")),
    "golden-dir": ("golden_dir", "one", "two", Path("one"), Path("two")),
    "report-dir": ("report_dir", "one", "two", Path("one"), Path("two")),
    "crop": ("crop", "64", "96", 64, 96),
    "trials": ("trials", "5", "6", 5, 6),
    "trial-seed": ("trial_seed", "0", "6", 0, 6),
    "unproved": ("unproved_fails", "fail", "warn", True, False),
    "max-examples": ("examples", "7", "8", 7, 8),
    "effort": ("effort", "ci", "nightly", "ci", "nightly"),
    "device": ("device", "cuda", "cpu", "cuda", "cpu"),
    "time-limit": ("seconds", "2.5", "3", 2.5, 3.0),
    "memory-limit": ("memory", "1GiB", "800MiB", 2**30, 800 * 2**20),
    "set": ("quality", "quality=30", "quality=40", 30, 40),
    "waivers": ("accepted", "codec", "two.toml", "codec", "two.toml"),
    "golden-update": ("updating", "true", None, True, True),
    "certificate": ("certificate", "one", "two", Path("one"), Path("two")),
    "withhold-reproducers": ("withholding", "true", None, True, True),
    "map": ("map", "20", "30", 20, 30),
}
INI = {
    "pytest.ini": "[pytest]\n{}\n",
    "tox.ini": "[pytest]\n{}\n",
    "setup.cfg": "[tool:pytest]\n{}\n",
    "pyproject.toml": "[tool.pytest.ini_options]\n{}\n",
}


class Read(Options):
    """The same under one roof: what is read of every option has a name."""

    @property
    def seconds(self):
        return self.limits().seconds

    @property
    def memory(self):
        return self.limits().memory

    @property
    def accepted(self):
        (file,) = self.waiver_files
        return "codec" if file is None else file.name

    @property
    def quality(self):
        return self.specs()[0].settings["quality"]


def line(file, key, value):
    """A line of such a file; TOML has types, and numbers are written as such."""
    if file != "pyproject.toml":
        return f"{key} = {value}"
    return f"{key} = {value if re.fullmatch('[0-9.]+|true|false', value) else repr(value)}"


@pytest.fixture
def read(pytester):
    """The options of a run with these arguments, in a folder with that file."""

    def read(*args, file="pytest.ini", lines="", codec="jpeg"):
        (pytester.path / file).write_text(INI[file].format(lines))
        return Read(pytester.parseconfig("--codec", codec, *args))

    return read


def test_every_option_is_tried_here():
    assert VALUES.keys() == {option.name for option in OPTIONS}


@pytest.mark.parametrize("file", INI)
@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
def test_an_option_is_read_from_a_file_and_the_command_line_wins(read, pytester, option, file):
    attribute, written, given, of_file, of_command = VALUES[option.name]

    def found(*args, lines=""):
        value = getattr(read(*args, file=file, lines=lines), attribute)
        return value.relative_to(pytester.path) if isinstance(value, Path) else value

    lines = line(file, option.key, written)
    assert found(lines=lines) == of_file
    args = [option.flag] if given is None else [f"{option.flag}={given}"]
    assert found(*args) == of_command
    assert found(*args, lines=lines) == of_command
    override = ["-o", f"{option.key}={'false' if given is None else given}"]
    assert found(*override, lines=lines) == (False if given is None else of_command)


@pytest.mark.parametrize("file", INI)
def test_nothing_given_is_the_default(read, pytester, file):
    options = read(file=file)
    assert (options.images, options.profile_file, options.golden_dir, options.crop) == (None, None, None, None)
    assert (options.trials, options.examples, options.effort, options.device) == (None, None, "quick", "cpu")
    assert options.trial_seed is None
    assert (options.seconds, options.memory, options.updating) == (30, 4 * 2**30, False)
    assert options.report_dir == pytester.path / "robustkit-report"
    assert not options.effort_is_given


def test_an_empty_line_in_a_file_is_nothing(read):
    keys = [option.key for option in OPTIONS if option.metavar or option.choices]
    options = read(lines="\n".join(f"{key} =" for key in keys))
    assert (options.images, options.crop, options.effort, options.seconds) == (None, None, "quick", 30)


@pytest.mark.parametrize("written", ["true", "True", "1", "yes", "on"])
def test_a_flag_in_a_file(read, written):
    assert read(lines=f"robustkit_golden_update = {written}").updating


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("pytest.ini", "robustkit_set =\n    quality=30\n    jpeg:subsampling=4:4:4\n    webp:quality=60"),
        ("pyproject.toml", "robustkit_set = ['quality=30', 'jpeg:subsampling=4:4:4', 'webp:quality=60']"),
    ],
)
def test_settings_in_a_file_are_a_list_and_may_be_of_other_codecs(read, file, lines):
    settings = read(file=file, lines=lines).specs()[0].settings
    assert settings == {"quality": 30, "subsampling": "4:4:4"}
    lines = lines.replace("quality=30", "device=cpu", 1)
    assert [spec.settings for spec in read(file=file, lines=lines, codec="jpeg,webp").specs()] == [
        {"device": "cpu", "subsampling": "4:4:4"},
        {"device": "cpu", "quality": 60},
    ]


def test_settings_in_the_command_line_take_the_place_of_those_in_a_file(read):
    lines = "robustkit_set =\n    quality=30\n    subsampling=4:4:4"
    assert read("--robustkit-set", "quality=40", lines=lines).specs()[0].settings == {"quality": 40}


def test_paths_begin_at_the_file_or_where_pytest_was_started(pytester, monkeypatch):
    pytester.makeini("[pytest]\nrobustkit_images = photographs\nrobustkit_report_dir = /elsewhere/report\n")
    inner = pytester.mkdir("inner")
    monkeypatch.chdir(inner)
    options = Options(pytester.parseconfig("--codec", "jpeg", "--robustkit-profile", "mine.toml"))
    assert options.images == pytester.path / "photographs"
    assert options.report_dir == Path("/elsewhere/report")
    assert options.profile_file == inner / "mine.toml"
    assert Options(pytester.parseconfig("--codec", "jpeg", "--robustkit-images", "x")).images == inner / "x"


def test_paths_stay_where_a_test_changes_the_directory(read, pytester, monkeypatch):
    options = read("--robustkit-images", "x")
    monkeypatch.chdir(pytester.mkdir("inner"))
    assert options.images == pytester.path / "x"
    assert options.report_dir == pytester.path / "robustkit-report"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("robustkit_crop = wide", "robustkit_crop = wide: give an integer"),
        ("robustkit_trials = 0", "robustkit_trials = 0: give at least 1"),
        ("robustkit_max_examples = -3", "robustkit_max_examples = -3: give at least 1"),
        ("robustkit_trial_seed = -1", "robustkit_trial_seed = -1: give at least 0"),
        ("robustkit_effort = nihgtly", "robustkit_effort = nihgtly: did you mean nightly?"),
        ("robustkit_device = gpu", "robustkit_device = gpu: did you mean cpu"),
        ("robustkit_time_limit = soon", "robustkit_time_limit = soon: give seconds"),
        ("robustkit_time_limit = -1", "robustkit_time_limit: seconds = -1.0: give a time above 0"),
        ("robustkit_memory_limit = lots", "robustkit_memory_limit: 'lots': write a size like 4GiB"),
        ("robustkit_golden_update = maybe", "robustkit_golden_update: .*'maybe'.*: give true or false"),
        ("robustkit_profile = nowhere.toml", "robustkit_profile: .*nowhere.toml.*No such file"),
        ("robustkit_waivers = nowhere.toml", "robustkit_waivers: .*nowhere.toml.*No such file"),
        ("robustkit_set = quality", "robustkit_set quality: write KEY=VALUE"),
        ("robustkit_set = qualty=3\n    qualty=4", "robustkit_set qualty=4: qualty is given twice for jpeg"),
        ("robustkit_set = no-such-codec:quality=3", "'no-such-codec' is not among the codecs jpeg"),
    ],
)
def test_a_mistake_in_a_file_names_the_key_and_the_way_out(read, written, message):
    def everything(options):
        _ = options.device, options.effort, options.crop, options.trials, options.examples, options.updating
        _ = options.trial_seed
        _ = options.specs(), options.limits(), options.profile(), options.waivers()

    options = read(lines=written)
    with pytest.raises(pytest.UsageError, match=message):
        everything(options)
    flag = f"--{written.partition(' ')[0].replace('_', '-')}"
    # The same mistake in the command line names the option; where there are choices, argparse does.
    value = written.partition(" = ")[2].split("\n")
    if flag not in ("--robustkit-golden-update", "--robustkit-effort", "--robustkit-device"):
        options = read(*(f"{flag}={v.strip()}" for v in value))
        with pytest.raises(pytest.UsageError, match=flag):
            everything(options)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.metavar and not o.repeats], ids=lambda o: o.name)
def test_an_empty_value_in_the_command_line_is_a_mistake(read, option):
    options = read(f"{option.flag}=")
    with pytest.raises(pytest.UsageError, match=f"{option.flag}: give a value, {option.metavar}"):
        getattr(options, VALUES[option.name][0])


@pytest.mark.parametrize("name", ["", ",", " , "])
def test_no_name_is_no_codec(pytester, name):
    result = pytester.runpytest_inprocess("--codec", name, "-p", "no:cacheprovider")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--codec: give the NAME of a codec*"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("robustkit_images = nowhere", "robustkit_images: *nowhere is not a folder*"),
        ("robustkit_crop = 9999", "robustkit_crop: *a crop of 9999 does not fit*"),
        ("robustkit_report_dir = tox.ini", "robustkit_report_dir: can't write into tox.ini*"),
        ("robustkit_effort = cy", "robustkit_effort = cy: did you mean ci?"),
    ],
)
def test_a_mistake_in_a_file_ends_the_run_before_any_test(pytester, lines, message):
    pytester.makeini(f"[pytest]\n{lines}\n")
    pytester.makepyfile("def test_other(): pass")
    result = pytester.runpytest_subprocess("--codec", "jpeg", "-p", "no:cacheprovider")
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*{message}"])


def test_a_mistake_in_a_file_is_nothing_to_a_run_without_a_codec(pytester):
    pytester.makeini("[pytest]\nrobustkit_crop = wide\nrobustkit_golden_update = maybe\n")
    pytester.makepyfile("def test_other(): pass")
    result = pytester.runpytest_inprocess("--strict-config", "--strict-markers", "-p", "no:cacheprovider")
    assert result.ret == 0


@pytest.mark.parametrize("effort", ["quick", "ci", "nightly"])
def test_a_hypothesis_profile_does_not_set_the_effort(pytester, effort):
    pytester.makepyfile("def test_other(): pass")
    given = ("--codec", "jpeg", "-p", "no:cacheprovider", f"--hypothesis-profile={effort}")
    result = pytester.runpytest_inprocess(*given)
    assert result.ret == 4
    result.stderr.fnmatch_lines([f"*--hypothesis-profile {effort}: *is --robustkit-effort {effort} now*"])


def test_both_may_be_given(pytester):
    pytester.makeconftest("from hypothesis import settings\nsettings.register_profile('ci', max_examples=3)")
    pytester.makeini("[pytest]\nrobustkit_effort = quick\n")
    pytester.makepyfile("from hypothesis import settings\ndef test_mine(): assert settings().max_examples == 3")
    result = pytester.runpytest_subprocess("--hypothesis-profile=ci", "--codec", "jpeg", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["robustkit: *effort quick*"])
