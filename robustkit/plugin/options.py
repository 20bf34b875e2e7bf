"""The plugin's options: their names, in command lines and ini files, and their values, read once."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from robustkit import spelling
from robustkit.errors import RobustkitError
from robustkit.judging.effort import EFFORTS
from robustkit.profile import Profile
from robustkit.registry import CodecSpec, registry

if TYPE_CHECKING:
    from robustkit.isolation import Limits
    from robustkit.judging.waivers import Waiver

T = TypeVar("T")

#: Before every option but ``--codec``; ini keys have underscores instead.
PREFIX = "--robustkit-"
REPORT_DIR = "robustkit-report"
#: In place of a file of waivers: what the codec declares itself.
OF_CODEC = "codec"


@dataclass(frozen=True)
class Option:
    """One option of the plugin.

    Attributes:
        name: behind the prefix; ``old`` is what it was called before there was one.
        help: for ``--help``.
        metavar: of its value; empty for a flag.
        choices: what it may be.
        repeats: whether it may be given several times.
    """

    name: str
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    repeats: bool = False

    @property
    def flag(self) -> str:
        """As a command line has it."""
        return PREFIX + self.name

    @property
    def old(self) -> str:
        """What it was called before every name had a prefix."""
        return f"--{self.name}"

    @property
    def key(self) -> str:
        """As an ini file has it, and where pytest keeps it."""
        return self.flag.removeprefix("--").replace("-", "_")


def _by_effort(field: str) -> str:
    return ", ".join(f"{name} {getattr(effort, field)}" for name, effort in EFFORTS.items())


OPTIONS = (
    Option(
        "set",
        "a setting of the codec, or of the one called NAME; the value as TOML writes it",
        "[NAME:]KEY=VALUE",
        repeats=True,
    ),
    Option(
        "profile",
        "TOML file of promises to judge by, in place of the codec's own; a looser one can't certify",
        "FILE",
    ),
    Option("images", "folder of images to use in place of scikit-image's photographs", "DIR"),
    Option("crop", "centre-crop images to N x N pixels (photographs: 256)", "N"),
    Option("effort", "how many trials and damaged streams are spent (default: quick)", choices=tuple(EFFORTS)),
    Option(
        "trials",
        "the most trials for each image and severity; fewer where they decide "
        f"(by effort, over all images: {_by_effort('trials')})",
        "N",
    ),
    Option("trial-seed", "seed of the trials (default: 0, and with the effort nightly a new one each time)", "N"),
    Option(
        "unproved",
        "whether a promise that the trials don't prove fails the run (default: warn with the effort quick, else fail)",
        choices=("fail", "warn"),
    ),
    Option(
        "max-examples",
        "damaged streams that each search tries (by default as many as the decoder's speed lets all of them try in "
        f"the effort's seconds: {_by_effort('seconds')})",
        "N",
    ),
    Option("device", "where the codec computes (default: cpu)", choices=("cpu", "cuda")),
    Option("time-limit", "for one decode (default: 30), and for loading, 120 at least", "SECONDS"),
    Option("memory-limit", "of a decoding process, such as 4GiB (the default) or 800MiB; 0 for none", "SIZE"),
    Option(
        "waivers",
        "TOML file of failures that you accept; the word codec accepts the known defects that the codec declares",
        "FILE|codec",
        repeats=True,
    ),
    Option(
        "golden-update",
        "record the golden reconstructions and drops anew, and fail once so that somebody looks at them",
    ),
    Option("golden-dir", "where golden reconstructions live", "DIR"),
    Option(
        "certificate",
        "write a certificate there at the run's end; of several codecs, a folder each. Needs robustkit[certificates]",
        "DIR",
    ),
    Option("withhold-reproducers", "leave crashing streams out of the certificate, and only their digests in it"),
    Option(
        "map", "flip N single bits of each codec's clean streams for the certificate's map of what costs how much", "N"
    ),
    Option("report-dir", f"where streams to replay and pictures are written (default: {REPORT_DIR})", "DIR"),
)


def add_options(parser: pytest.Parser) -> None:
    """Add the options, each with an ini key of its name."""
    group = parser.getgroup("robustkit", "robustkit: what happens to a codec when bits flip?")
    group.addoption(
        "--codec",
        dest="robustkit_codec",
        action="append",
        default=[],
        metavar="NAME",
        help="codec to examine; several with commas or by repeating; package.module:attribute, "
        "codec.toml and NAME+rs(255,223) work too",
    )
    for option in OPTIONS:
        more: dict[str, Any] = {"dest": option.key, "help": option.help, "default": None}
        if option.repeats:
            more |= {"action": "append", "metavar": option.metavar}
        elif option.choices:
            more |= {"choices": option.choices}
        elif option.metavar:
            more |= {"metavar": option.metavar}
        else:
            more |= {"action": "store_true"}
        group.addoption(option.flag, **more)
        kind: Any = "linelist" if option.repeats else "string" if option.metavar or option.choices else "bool"
        parser.addini(option.key, f"as {option.flag}", type=kind, default=None)


def refuse_old_names(parser: pytest.Parser, args: Sequence[str]) -> None:
    """A usage error that names the new option, for an old name that no other plugin and no conftest has taken."""
    old = {option.old: option.flag for option in OPTIONS}
    for given in args:
        if given == "--":
            return
        name = given.partition("=")[0]
        if name in old and _unknown(parser, name):
            raise pytest.UsageError(f"{name} is called {old[name]} now: every option but --codec begins with {PREFIX}")


def _unknown(parser: pytest.Parser, name: str) -> bool:
    try:
        return name in parser.parse_known_and_unknown_args([name])[1]
    except (pytest.UsageError, SystemExit):
        return False  # somebody's, who wants a value with it


def refuse_effort_by_hypothesis(config: pytest.Config) -> None:
    """A usage error for ``--hypothesis-profile ci`` and the like, which set the effort before it had an option."""
    name = config.getoption("--hypothesis-profile", None)
    if name is None or Options(config).effort_is_given:
        return
    if name in EFFORTS:
        raise pytest.UsageError(
            f"--hypothesis-profile {name}: how much the suite tries is {PREFIX}effort {name} now "
            "(give both if your own tests want that profile)"
        )
    from hypothesis import errors, settings

    try:
        settings.get_profile(name)
    except errors.InvalidArgument as error:
        raise pytest.UsageError(f"--hypothesis-profile {name}: {error}") from error


@dataclass(frozen=True)
class Given:
    """What the user gave for one option.

    Attributes:
        option: which.
        value: as it came.
        in_file: whether it is from the ini file, where a relative path is relative to that file's folder.
    """

    option: Option
    value: Any
    in_file: bool

    @property
    def name(self) -> str:
        """What a message calls the option: as the user wrote it."""
        return self.option.key if self.in_file else self.option.flag

    def __str__(self) -> str:
        return f"{self.option.key} = {self.value}" if self.in_file else f"{self.option.flag} {self.value}"


class Options:
    """The options' values in one run, each read from the command line or else from the ini file.

    Raises:
        pytest.UsageError: a value can't be used; the message names the option, the value and the way out.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._limits: Limits | None = None
        self.codecs = list(dict.fromkeys(n for given in config.getoption("--codec") for n in spelling.names(given)))
        if not self.codecs:
            raise pytest.UsageError("--codec: give the NAME of a codec (`robustkit codecs` lists them)")

    @property
    def device(self) -> str:
        """ "cpu" or "cuda": what the codec is asked to compute on."""
        return self._choice("device", "cpu")

    @property
    def updating(self) -> bool:
        """Whether golden files are to be recorded anew."""
        return self._given("golden-update") is not None

    @property
    def golden_dir(self) -> Path | None:
        """Where golden files live, if the user said so."""
        return self._path("golden-dir")

    @property
    def report_dir(self) -> Path:
        """Where streams to replay and pictures are written."""
        return self._path("report-dir") or self._config.invocation_params.dir / REPORT_DIR

    @property
    def certificate(self) -> Path | None:
        """Where certificates are written, if the user wants any."""
        return self._path("certificate")

    @property
    def withholding(self) -> bool:
        """Whether a certificate goes without the streams that show its failures."""
        return self._given("withhold-reproducers") is not None

    @property
    def map(self) -> int | None:
        """Single flips for the map of what costs how much, if the user wants one."""
        return self._whole("map")

    @property
    def images(self) -> Path | None:
        """A folder of images."""
        return self._path("images")

    @property
    def crop(self) -> int | None:
        """Side of the centre crops."""
        return self._whole("crop")

    def is_given(self, name: str) -> bool:
        """Whether the user gave the option of that name."""
        return self._given(name) is not None

    @property
    def effort_is_given(self) -> bool:
        """Whether the user said how much to spend."""
        return self._given("effort") is not None

    @property
    def effort(self) -> str:
        """Name of the effort."""
        return self._choice("effort", "quick")

    @property
    def trials(self) -> int | None:
        """Trials for each image and severity, if the user said so."""
        return self._whole("trials")

    @property
    def trial_seed(self) -> int | None:
        """Seed of the trials, if the user said so."""
        return self._whole("trial-seed", least=0)

    @property
    def unproved_fails(self) -> bool:
        """Whether a promise that is not proved fails the run."""
        return self._choice("unproved", "warn" if self.effort == "quick" else "fail") == "fail"

    @property
    def examples(self) -> int | None:
        """Damaged streams for each search, if the user said so."""
        return self._whole("max-examples")

    @property
    def profile_file(self) -> Path | None:
        """The file that promises are read from."""
        return self._path("profile")

    def profile(self) -> Profile | None:
        """The promises to judge by in place of the codec's own."""
        file = self.profile_file
        return None if file is None else _read(self.named("profile"), lambda: Profile.from_toml(file))

    @property
    def waiver_files(self) -> list[Path | None]:
        """Files of waivers; ``None`` stands for what the codec declares."""
        given = self._given("waivers")
        if given is None:
            return []
        texts = [str(text).strip() for text in given.value]
        if "" in texts:
            raise pytest.UsageError(f"{given.name}: give a value, {given.option.metavar}")
        return [None if text == OF_CODEC else self._folder(given) / text for text in dict.fromkeys(texts)]

    def waivers(self) -> list[Waiver]:
        """The waivers of all files."""
        from robustkit.judging import waivers

        files = [file for file in self.waiver_files if file is not None]
        return [w for file in files for w in _read(self.named("waivers"), functools.partial(waivers.read, file))]

    def limits(self) -> Limits:
        """Time and memory of one decode."""
        if self._limits is None:
            from robustkit.isolation import Limits

            found: dict[str, Any] = {}
            if (seconds := self._given("time-limit")) is not None:
                found["seconds"] = _read(f"{seconds}: give seconds", lambda: float(seconds.value), plain=True)
            if (memory := self._given("memory-limit")) is not None:
                found["memory"] = _read(memory.name, lambda: spelling.size(str(memory.value)))
            self._limits = _read(self.named("time-limit"), lambda: Limits(**found))
        return self._limits

    def specs(self) -> list[CodecSpec]:
        """The chosen codecs with their settings."""
        common: dict[str, Any] = {"device": "cuda"} if self.device == "cuda" else {}
        try:
            settings = self._settings()
            return [registry.get(name).spec(**{**common, **settings[name]}) for name in self.codecs]
        except RobustkitError as error:
            raise pytest.UsageError(str(error.args[0])) from error

    def named(self, name: str) -> str:
        """What a message calls an option: as the user wrote it, in the command line or in the ini file."""
        given = self._given(name)
        return given.name if given is not None else _option(name).flag

    def _settings(self) -> dict[str, dict[str, Any]]:
        given = self._given("set")
        if given is None:
            return spelling.settings([], self.codecs)
        pairs = [pair for pair in given.value if not (given.in_file and self._is_of_another(pair))]
        return spelling.settings(pairs, self.codecs, option=given.name)

    def _is_of_another(self, pair: str) -> bool:
        """Whether a setting is for a codec that there is, and that this run does not examine: files serve many runs."""
        owner = spelling.owner(pair, [*self.codecs, *(entry.name for entry in registry)])
        if not owner or owner in self.codecs:
            return False
        try:
            registry.get(owner)
        except RobustkitError:
            return False
        return True

    def _given(self, name: str) -> Given | None:
        option = _option(name)
        given = self._config.getoption(option.key)
        if given is not None:
            if given == "":
                raise pytest.UsageError(f"{option.flag}: give a value, {option.metavar}")
            return Given(option, given, in_file=False)
        try:
            found = self._config.getini(option.key)
        except (pytest.UsageError, TypeError, ValueError) as error:
            way_out = "" if option.metavar or option.choices else ": give true or false"
            raise pytest.UsageError(f"{option.key}: {error}{way_out}") from error
        # An empty line is nothing, and neither is a flag that is false.
        return Given(option, found, in_file=True) if found else None

    def _path(self, name: str) -> Path | None:
        given = self._given(name)
        if given is None:
            return None
        return self._folder(given) / str(given.value)

    def _folder(self, given: Given) -> Path:
        """Where a relative path begins: as pytest reads the paths in its own files."""
        ini = self._config.inipath if given.in_file else None
        return ini.parent if ini is not None else self._config.invocation_params.dir

    def _whole(self, name: str, *, least: int = 1) -> int | None:
        given = self._given(name)
        if given is None:
            return None
        value = _read(f"{given}: give an integer", lambda: int(given.value), plain=True)
        if value < least:
            raise pytest.UsageError(f"{given}: give at least {least}")
        return value

    def _choice(self, name: str, default: str) -> str:
        given = self._given(name)
        if given is None:
            return default
        choices = given.option.choices
        if given.value not in choices:
            raise pytest.UsageError(f"{given}: {spelling.nearest(str(given.value), choices)}")
        return str(given.value)


def _option(name: str) -> Option:
    return next(o for o in OPTIONS if o.name == name)


def _read(name: str, read: Callable[[], T], *, plain: bool = False) -> T:
    """What ``read`` gives; a ValueError is a usage error that begins with ``name``, and is no more if ``plain``."""
    try:
        return read()
    except ValueError as error:
        raise pytest.UsageError(name if plain else f"{name}: {error}") from error


def cuda_is_here() -> bool:
    """Whether torch finds a CUDA device, asked of another process: torch has no business in this one."""
    probe = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", probe], check=False, capture_output=True).returncode == 0


def on_xdist(config: pytest.Config) -> bool:
    """Whether this run is spread over xdist's workers."""
    return hasattr(config, "workerinput") or bool(
        config.getoption("numprocesses", None) or config.getoption("tx", None)
    )
