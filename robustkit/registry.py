"""Where codecs are found: one registry, filled from entry points, the decorator, a pytest hook, or a dotted path."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar, overload

from robustkit.codec import Codec, adapt
from robustkit.codec_file import CodecFileError, read
from robustkit.errors import RobustkitError
from robustkit.extras import way_out
from robustkit.spelling import nearest

ENTRY_POINT_GROUP = "robustkit.codecs"
#: OpenMP's threads wait for one another by spinning. Where something else wants the same cores, a decode of one second
#: then takes ten and looks hung. Put to sleep at once they would take half as long again on idle cores; so they spin
#: for some ten microseconds, then sleep.
PATIENCE: Mapping[str, str] = {"GOMP_SPINCOUNT": "10000"}
#: ``NAME+rs(n,k)``, ``NAME+rs(n,k)+interleave(depth)``: a codec under forward error correction.
_PROTECTED = re.compile(
    r"(?P<codec>.+)\+rs\((?P<n>\d{1,9}), ?(?P<k>\d{1,9})\)(?:\+interleave\((?P<interleave>\d{1,9})\))?"
)
CodecClass = TypeVar("CodecClass", bound=type[Any])


class UnknownCodec(RobustkitError, LookupError):
    """No codec has that name; the message lists the nearest."""


class DuplicateCodec(RobustkitError, ValueError):
    """Two codecs want one name."""


class CodecUnavailable(RobustkitError, RuntimeError):
    """A codec that can't run here; the message says what to install."""


@dataclass(frozen=True)
class Target:
    """How any process finds a codec class: ``module:attribute``, and the module's file where one is known."""

    module: str
    attribute: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"

    def resolve(self) -> Any:
        """Import the module and fetch the attribute (dots reach into classes).

        Raises:
            ImportError, AttributeError: as the import system does.
        """
        found: Any = self._module()
        for part in self.attribute.split("."):
            found = getattr(found, part)
        return found

    def same_as(self, other: Target) -> bool:
        """Whether both lead to one class, as far as their files are known."""
        if self.file is not None and other.file is not None:
            return _same_file(self.file, other.file) and self.attribute == other.attribute
        return (self.module, self.attribute) == (other.module, other.attribute)

    def _module(self) -> ModuleType:
        if self.file is None:
            return importlib.import_module(self.module)
        # Not by name alone: each folder of tests may have a module called conftest, and each process its __main__.
        loaded = sys.modules.get(self.module)
        if _same_file(getattr(loaded, "__file__", None), self.file):
            assert loaded is not None
            return loaded
        origin = _origin(self.module) if loaded is None else None
        if _same_file(origin, self.file):
            return importlib.import_module(self.module)
        name = self.module if loaded is None and origin is None else f"{self.module}@{self.file}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, self.file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{self.file} is not a Python module")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def _origin(module: str) -> str | None:
    """The file that importing ``module`` would load."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None else None


def _file_of(codec: type[Any]) -> str | None:
    """The file that a class is written in."""
    # Its functions know: the module of that name may by now be the conftest of another folder.
    for base in codec.__mro__:
        for member in vars(base).values() if base.__module__ == codec.__module__ else ():
            known = getattr(inspect.unwrap(getattr(member, "__func__", member)), "__globals__", {})
            if known.get("__name__") == codec.__module__ and "__file__" in known:
                return str(known["__file__"])
    file: str | None = getattr(sys.modules.get(codec.__module__), "__file__", None)
    return file


def _same_file(one: str | None, other: str) -> bool:
    return one is not None and os.path.realpath(one) == os.path.realpath(other)


@dataclass(frozen=True)
class CodecSpec:
    """A codec with its settings, as sent to a worker process: nothing is loaded yet.

    Attributes:
        name: as it was asked for.
        target: where its class is.
        settings: that it is built with.
        python: interpreter of its workers, ``None`` for this one. It needs Python 3.11 and NumPy, not robustkit.
    """

    name: str
    target: Target
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str | None = None

    def resolve(self) -> Any:
        """Import the codec's class, which need not be able to run here.

        Raises:
            CodecUnavailable: it can't be imported; the message names the extra of robustkit's that it lacks.
        """
        try:
            with _patient():
                return self.target.resolve()
        except (ImportError, AttributeError) as error:
            if lacking := self._extra_for(error):
                raise CodecUnavailable(f"codec {self.name!r} can't run here: {lacking}") from error
            raise CodecUnavailable(f"codec {self.name!r} ({self.target}) can't be imported: {error}") from error

    def load(self) -> Codec:
        """Build the codec in this process, whatever ``python`` says: an interpreter for workers.

        Raises:
            CodecUnavailable: it can't be imported, or can't run here.
            TypeError: it isn't a codec, or doesn't take these settings.
        """
        found = self.resolve()
        try:
            return self._built(found)
        except ModuleNotFoundError as error:
            lacking = self._extra_for(error) or str(error)
            raise CodecUnavailable(f"codec {self.name!r} can't run here: {lacking}") from error

    def _built(self, found: Any) -> Codec:
        reason = why_missing(found, self.settings)
        if reason:
            raise CodecUnavailable(f"codec {self.name!r} can't run here: {reason}")
        built = isinstance(found, type) or not hasattr(found, "decode")
        if not built and self.settings:
            given = ", ".join(self.settings)
            raise TypeError(f"codec {self.name!r} ({self.target}) is an object, built already: it takes no {given}")
        return adapt(found(**self.settings) if built else found, name=self.name)

    def _extra_for(self, error: Exception) -> str | None:
        """What to install, where one of robustkit's own codecs lacks a package that an extra brings."""
        if not isinstance(error, ModuleNotFoundError) or not self.target.module.startswith("robustkit."):
            return None
        return way_out(error.name, self.target.module)


@contextmanager
def _patient() -> Iterator[None]:
    """Show what is imported meanwhile :data:`PATIENCE`, which OpenMP reads as torch loads. A user's own value stays."""
    ours = {} if "torch" in sys.modules else {n: value for n, value in PATIENCE.items() if n not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def why_missing(found: Any, settings: Mapping[str, Any]) -> str | None:
    """What a codec class says it lacks to be built with ``settings``; it may take none."""
    missing = getattr(found, "missing", None)
    if missing is None:
        return None
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(missing).parameters.values())
    reason: str | None = missing(**settings) if takes_any else missing()
    return reason


@dataclass(frozen=True)
class Entry:
    """One line of the registry. ``origin`` says who registered it: "robustkit", a distribution, a file."""

    name: str
    target: Target
    origin: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str | None = None

    def spec(self, **settings: Any) -> CodecSpec:
        return CodecSpec(self.name, self.target, {**self.settings, **settings}, self.python)


class Registry:
    """Codecs by name. Entry points are read at the first look-up; their modules load when chosen."""

    def __init__(self, *, entry_points: bool = True) -> None:
        self._entries: dict[str, Entry] = {}
        self._entry_points_pending = entry_points

    def add(self, name: str, target: Target, origin: str, settings: Mapping[str, Any] | None = None) -> None:
        """Register a codec.

        Raises:
            DuplicateCodec: another target has that name.
        """
        entry = Entry(name, target, origin, dict(settings or {}))
        known = self._entries.get(name)
        if known is not None and not known.target.same_as(target):
            raise DuplicateCodec(
                f"codec {name!r} is registered by {known.origin} ({known.target}) "
                f"and again by {origin} ({target}): rename one"
            )
        self._entries[name] = entry

    def register(self, codec: CodecClass, **settings: Any) -> CodecClass:
        """Register a codec class under its own ``name``; returns it, so it works as a decorator."""
        name = getattr(codec, "name", None)
        if not isinstance(name, str) or not name:
            raise TypeError(f'{codec!r} has no name: give the class an attribute  name = "my-codec"')
        if "<locals>" in codec.__qualname__:
            raise TypeError(f"{codec.__qualname__} is defined inside a function, where no worker process can import it")
        file = _file_of(codec)
        self.add(name, Target(codec.__module__, codec.__qualname__, file), file or codec.__module__, settings)
        return codec

    def _load_entry_points(self) -> None:
        if not self._entry_points_pending:
            return
        # Late, because no worker needs it, and it takes a fifth of the time in which one starts.
        import importlib.metadata

        for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
            origin = point.dist.name if point.dist is not None else point.value
            self.add(point.name, Target(point.module, point.attr), origin)
        # Only now: two that want one name are an error at every look-up, not at the first alone.
        self._entry_points_pending = False

    def __iter__(self) -> Iterator[Entry]:
        self._load_entry_points()
        return iter(sorted(self._entries.values(), key=lambda e: e.name))

    def get(self, name: str) -> Entry:
        """The entry called ``name``, the object at ``package.module:attribute``, the codec that a TOML file describes,
        or any of them under protection.

        Protection is written behind the name: ``jpeg+rs(255,223)``, ``jpeg+rs(255,191)+interleave(16)``.

        Raises:
            UnknownCodec: there is none; the message lists the nearest names, or says what is wrong with the file.
        """
        self._load_entry_points()
        if name in self._entries:
            return self._entries[name]
        if protected := _PROTECTED.fullmatch(name):
            inner = self.get(protected["codec"])
            target = [inner.target.module, inner.target.attribute, inner.target.file]
            code = {part: int(protected[part] or 1) for part in ("n", "k", "interleave")}
            settings = {"codec": inner.name, "target": target, **code, **inner.settings}
            return Entry(name, Target("robustkit.codecs.protected", "Protected"), inner.origin, settings, inner.python)
        if name.endswith(".toml"):
            return self._from_file(name)
        if ":" in name:
            module, _, attribute = name.partition(":")
            if module and attribute:
                return Entry(name, Target(module, attribute), module)
        hint = nearest(name, self._entries, cutoff=0.3)
        raise UnknownCodec(
            f"no codec named {name!r}: {hint}  (`robustkit codecs` lists all; package.module:attribute works too)"
        )

    def _from_file(self, path: str) -> Entry:
        try:
            described = read(path)
        except CodecFileError as error:
            raise UnknownCodec(str(error)) from error
        if not described.codec:
            target = Target("robustkit.codecs.command", "CommandLine")
            settings = {"commands": described.commands, "profile": described.profile}
            return Entry(path, target, path, settings, described.python)
        if ".toml" in described.codec:
            raise UnknownCodec(f"{path}: codec = {described.codec!r}: give a registered codec, not another file")
        try:
            inner = self.get(described.codec)
        except UnknownCodec as error:
            raise UnknownCodec(f"{path}: {error.args[0]}") from error
        return Entry(path, inner.target, path, {**inner.settings, **described.settings}, described.python)


#: The registry of this process.
registry = Registry()


@overload
def register(codec: CodecClass) -> CodecClass: ...
@overload
def register(**settings: Any) -> Callable[[CodecClass], CodecClass]: ...
def register(codec: Any = None, **settings: Any) -> Any:
    """Register a codec class: ``@robustkit.register``, or ``@robustkit.register(quality=80)`` with settings."""
    if codec is not None:
        return registry.register(codec, **settings)
    return lambda found: registry.register(found, **settings)


def load_codec(name: str, **settings: Any) -> Codec:
    """Build the codec called ``name`` (or at ``package.module:attribute``) in this process.

    Raises:
        UnknownCodec: no such name; the message lists the nearest.
        CodecUnavailable: it can't run here; the message says what to install.
    """
    return registry.get(name).spec(**settings).load()
