"""The plugin's options: their names, in command lines and ini files, and their values, read once."""

from __future__ import annotations

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

T = TypeVar("T")

#: Before every option but ``--codec``; ini keys have underscores instead.
PREFIX = "--robustkit-"
REPORT_DIR = "robustkit-report"


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
    Option("trials", f"trials for each image and severity (by effort, over all images: {_by_effort('trials')})", "N"),
    Option(
        "max-examples",
        f"damaged streams that Hypothesis tries for each claim (by effort: {_by_effort('examples')})",
        "N",
    ),
    Option("device", "where the codec computes (default: cpu)", choices=("cpu", "cuda")),
    Option("time-limit", "for one decode (default: 30)", "SECONDS"),
    Option("memory-limit", "of a decoding process, such as 4GiB (the default) or 800MiB; 0 for none", "SIZE"),
    Option("golden-update", "record the golden reconstructions anew, and fail once so that somebody looks at them"),
    Option("golden-dir", "where golden reconstructions live", "DIR"),
    Option("report-dir", f"where streams to replay and pictures are written (default: {REPORT_DIR})", "DIR"),
)


def add_options(parser: pytest.Parser) -> None:
    """Add the options, each with an ini key of its name."""
    group = parser.getgroup("robustkit", "robustkit: what happens to a codec when bits flip?")
    group.addoption(
        "--codec",
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


class Options:
    """The options' values in one run, each read from the command line or else from the ini file.

    Raises:
        pytest.UsageError: a value can't be used; the message names the option, the value and the way out.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._limits: Limits | None = None
        self.codecs = list(dict.fromkeys(n for given in config.getoption("--codec") for n in spelling.names(given)))

    @property
    def device(self) -> str:
        """ "cpu" or "cuda": what the codec is asked to compute on."""
        name = str(self._get("device") or "cpu")
        if name not in ("cpu", "cuda"):
            raise pytest.UsageError(f"{PREFIX}device {name}: give cpu or cuda")
        return name

    @property
    def updating(self) -> bool:
        """Whether golden files are to be recorded anew."""
        return bool(self._get("golden-update"))

    @property
    def golden_dir(self) -> Path | None:
        """Where golden files live, if the user said so."""
        return self._path("golden-dir")

    @property
    def report_dir(self) -> Path:
        """Where streams to replay and pictures are written."""
        return self._path("report-dir") or Path(REPORT_DIR)

    @property
    def images(self) -> Path | None:
        """A folder of images."""
        return self._path("images")

    @property
    def crop(self) -> int | None:
        """Side of the centre crops."""
        return self._whole("crop")

    @property
    def effort_is_given(self) -> bool:
        """Whether the user said how much to spend."""
        return self._get("effort") is not None

    @property
    def effort(self) -> str:
        """Name of the effort."""
        name = str(self._get("effort") or "quick")
        if name not in EFFORTS:
            raise pytest.UsageError(f"{PREFIX}effort {name}: {spelling.nearest(name, EFFORTS)}")
        return name

    @property
    def trials(self) -> int | None:
        """Trials for each image and severity, if the user said so."""
        return self._whole("trials")

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
        return None if file is None else self._read("profile", lambda: Profile.from_toml(file))

    def limits(self) -> Limits:
        """Time and memory of one decode."""
        if self._limits is None:
            from robustkit.isolation import Limits

            given: dict[str, Any] = {}
            if (seconds := self._get("time-limit")) is not None:
                given["seconds"] = self._read("time-limit", lambda: float(seconds), f"{seconds}: give seconds")
            if (memory := self._get("memory-limit")) is not None:
                given["memory"] = self._read("memory-limit", lambda: spelling.size(str(memory)))
            self._limits = self._read("time-limit", lambda: Limits(**given))
        return self._limits

    def specs(self) -> list[CodecSpec]:
        """The chosen codecs with their settings."""
        common: dict[str, Any] = {"device": "cuda"} if self.device == "cuda" else {}
        given = self._get("set") or []
        settings = self._read("set", lambda: spelling.settings(given, self.codecs, option=PREFIX + "set"), plain=True)
        try:
            return [registry.get(name).spec(**{**common, **settings[name]}) for name in self.codecs]
        except RobustkitError as error:
            raise pytest.UsageError(str(error.args[0])) from error

    def _get(self, name: str) -> Any:
        option = next(o for o in OPTIONS if o.name == name)
        given = self._config.getoption(option.key)
        if given is not None:
            return given
        return self._config.getini(option.key) or None

    def _path(self, name: str) -> Path | None:
        given = self._get(name)
        return None if given is None else Path(given)

    def _whole(self, name: str) -> int | None:
        given = self._get(name)
        if given is None:
            return None
        value = self._read(name, lambda: int(given), f"{given}: give an integer")
        if value < 1:
            raise pytest.UsageError(f"{PREFIX}{name} {value}: give at least 1")
        return value

    def _read(self, name: str, read: Callable[[], T], says: str | None = None, *, plain: bool = False) -> T:
        try:
            return read()
        except ValueError as error:
            said = str(error) if says is None else says
            raise pytest.UsageError(said if plain else f"{PREFIX}{name}: {said}") from error


def cuda_is_here() -> bool:
    """Whether torch finds a CUDA device, asked of another process: torch has no business in this one."""
    probe = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", probe], check=False, capture_output=True).returncode == 0


def on_xdist(config: pytest.Config) -> bool:
    """Whether this run is spread over xdist's workers."""
    return hasattr(config, "workerinput") or bool(
        config.getoption("numprocesses", None) or config.getoption("tx", None)
    )
