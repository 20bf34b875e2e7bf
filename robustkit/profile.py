"""What a codec promises: its clean rate and quality, and how far damage may push them. Data, readable from TOML."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from robustkit.channels import Channel, ChannelError, parse
from robustkit.errors import RobustkitError

#: What damage may cost, as a number of times what a clean decode takes.
_TIMES = ("slowdown", "memory_growth")


class ProfileError(RobustkitError, ValueError):
    """A profile that can't be read; the message names the key, its value, and what is allowed."""


@dataclass(frozen=True, init=False)
class Promise:
    """The promise for one severity of one channel.

    Each limit says what is unacceptable: a codec that does that or worse breaks it. What the codec does is better, and
    the ``expected_...`` fields may say it, as ``robustkit measure`` writes them; nothing is judged by them.

    Attributes:
        channel: which; it may be given by its name, as ``robustkit.channels.parse`` reads it: ``"bsc(ber=1e-3)"``.
        mean_drop: limit of the mean loss of quality against the clean decode, in the metric's unit (dB); of the trials
            with an image, a loss above ``p5_drop`` counted as that much.
        p5_drop: limit of the loss at the 5th percentile of quality, that is, of the worst trial in twenty.
        corrupted: largest share of trials that give no usable image, 0 to 1.
        catastrophe: a loss above which a picture is a catastrophe; ``None`` if nothing is promised of that.
        catastrophes: largest share of trials with such a picture, 0 to 1.
        expected_mean_drop, expected_p5_drop, expected_corrupted: what was measured, at most the limits.

    Raises:
        ProfileError: an unknown channel or one out of range, a limit that is not finite, a share outside 0 to 1, a
            catastrophe that is smaller than ``p5_drop``, a number that is expected to be beyond its limit.
    """

    channel: Channel
    mean_drop: float
    p5_drop: float
    corrupted: float = 0.0
    catastrophe: float | None = None
    catastrophes: float = 0.0
    expected_mean_drop: float | None = None
    expected_p5_drop: float | None = None
    expected_corrupted: float | None = None

    def __init__(
        self,
        channel: Channel | str,
        mean_drop: float,
        p5_drop: float,
        corrupted: float = 0.0,
        catastrophe: float | None = None,
        catastrophes: float = 0.0,
        expected_mean_drop: float | None = None,
        expected_p5_drop: float | None = None,
        expected_corrupted: float | None = None,
    ) -> None:
        if isinstance(channel, str):
            try:
                channel = parse(channel)
            except ChannelError as error:
                raise ProfileError(str(error)) from error
        given = {
            **{"channel": channel, "mean_drop": mean_drop, "p5_drop": p5_drop, "corrupted": corrupted},
            **{"catastrophe": catastrophe, "catastrophes": catastrophes},
            **{"expected_mean_drop": expected_mean_drop, "expected_p5_drop": expected_p5_drop},
            "expected_corrupted": expected_corrupted,
        }
        for name, value in given.items():
            object.__setattr__(self, name, value)
        _check(self, f"{channel} ", shares=("corrupted", "catastrophes", "expected_corrupted"))
        if catastrophe is None and catastrophes:
            raise ProfileError(
                f"{channel} catastrophes = {catastrophes!r}: give catastrophe, the loss that is one, too"
            )
        if catastrophe is not None and catastrophe < p5_drop:
            raise ProfileError(f"{channel} catastrophe = {catastrophe!r} is less than p5_drop = {p5_drop!r}")
        _check_expected(self, f"{channel} ", ("mean_drop", "p5_drop", "corrupted"))

    @property
    def worst(self) -> float:
        """The worst loss that is declared: what a trial without an image is charged with."""
        return self.p5_drop if self.catastrophe is None else self.catastrophe


@dataclass(frozen=True)
class Profile:
    """A codec's promises.

    Attributes:
        bpp: largest mean rate of the clean streams, in bits per pixel of the original image.
        quality: least mean quality of the clean decodes against the originals.
        refused: largest share of the promises' damaged streams that the codec may refuse, 0 to 1.
        promises: one for each channel severity.
        metric: ``"psnr"`` (dB, RGB, 8 bit), or another metric of ``robustkit.quality``.
        slowdown: a damaged stream's decode takes at most so many times the clean one's, and a second.
        memory_growth: and at most so many times its memory, and 256 MiB.
        expected_refused: the share that was measured; nothing is judged by it.
    """

    bpp: float
    quality: float
    refused: float = 0.0
    promises: tuple[Promise, ...] = ()
    metric: str = "psnr"
    slowdown: float = 100.0
    memory_growth: float = 10.0
    expected_refused: float | None = None

    def __post_init__(self) -> None:
        named = [str(p.channel) for p in self.promises]
        twice = {c for c in named if named.count(c) > 1}
        if twice:
            raise ProfileError(f"channel {sorted(twice)[0]!r} is promised twice")
        _check(self, "", shares=("refused", "expected_refused"))
        _check_expected(self, "", ("refused",))
        if self.bpp < 0:
            raise ProfileError(f"bpp = {self.bpp!r} is a rate: give 0 or more")
        for name in _TIMES:
            if getattr(self, name) < 1:
                raise ProfileError(f"{name} = {getattr(self, name)!r} is a number of times: give 1 or more")

    @classmethod
    def from_toml(cls, path: str | Path) -> Profile:
        """Read a profile from a TOML file.

        Raises:
            ProfileError: not TOML, an unknown or missing key, or a value out of range.
        """
        try:
            return cls.from_mapping(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise ProfileError(f"{path}: {error}") from error

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> Profile:
        """Read a profile from what :meth:`to_mapping` gives, or what :meth:`to_toml` writes, parsed.

        Raises:
            ProfileError: an unknown or missing key, or a value out of range.
        """
        top = dict(data)
        promises = top.pop("promises", [])
        if not isinstance(promises, list) or not all(isinstance(p, dict) for p in promises):
            raise ProfileError("promises is an array of tables: [[promises]]")
        built = tuple(_build(Promise, promise, f"promises[{i}]") for i, promise in enumerate(promises))
        profile: Profile = _build(cls, top, "profile")
        return replace(profile, promises=built)

    def to_mapping(self) -> dict[str, Any]:
        """The profile as numbers, strings and lists, which JSON and TOML can hold; channels by their names.

        What need not be given is named where it is not the usual.
        """
        top = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "promises"}
        top = {name: value for name, value in top.items() if name not in _TIMES or value != getattr(Profile, name)}
        top = {name: value for name, value in top.items() if value is not None}
        rows = [{f.name: getattr(promise, f.name) for f in fields(promise)} for promise in self.promises]
        rows = [
            {name: value for name, value in row.items() if value is not None and (name, value) != ("catastrophes", 0)}
            for row in rows
        ]
        return {**top, "promises": [{**row, "channel": str(row["channel"])} for row in rows]}

    def to_toml(self) -> str:
        """The profile as TOML text."""
        top = self.to_mapping()
        rows = top.pop("promises")
        lines = [f"{name} = {_toml(value)}" for name, value in top.items()]
        for row in rows:
            lines += ["", "[[promises]]"] + [f"{name} = {_toml(value)}" for name, value in row.items()]
        return "\n".join(lines) + "\n"

    def loosened_from(self, declared: Profile) -> list[str]:
        """What this profile allows that ``declared``, the codec's own, does not; empty if it certifies.

        A profile with another metric, or without one of the declared promises, is looser.
        """
        if self.metric != declared.metric:
            return [f"metric is {self.metric}, declared {declared.metric}"]
        looser = []
        if self.bpp > declared.bpp:
            looser.append(f"bpp {self.bpp:g} > {declared.bpp:g}")
        if self.quality < declared.quality:
            looser.append(f"quality {self.quality:g} < {declared.quality:g}")
        for name in ("refused", *_TIMES):
            if getattr(self, name) > getattr(declared, name):
                looser.append(f"{name} {getattr(self, name):g} > {getattr(declared, name):g}")
        mine = {p.channel: p for p in self.promises}
        for theirs in declared.promises:
            promise = mine.get(theirs.channel)
            if promise is None:
                looser.append(f"{theirs.channel} is not promised")
                continue
            for name in ("mean_drop", "p5_drop", "corrupted", "catastrophe", "catastrophes"):
                here, there = getattr(promise, name), getattr(theirs, name)
                if here is None and there is not None:
                    looser.append(f"{theirs.channel} {name} {there:g} is not promised")
                elif there is not None and here > there:
                    looser.append(f"{theirs.channel} {name} {here:g} > {there:g}")
        return looser


def _build(kind: type[Any], data: Mapping[str, Any], where: str) -> Any:
    known = {f.name: f for f in fields(kind) if f.name != "promises"}
    for key, value in data.items():
        if key not in known:
            raise ProfileError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
        wanted = str if known[key].type in ("str", "Channel") else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ProfileError(f"{where}: {key} = {value!r} is not a {'string' if wanted is str else 'number'}")
    try:
        return kind(**data)
    except TypeError as error:
        missing = [n for n, f in known.items() if n not in data and f.default is MISSING]
        raise ProfileError(f"{where}: required and missing: {', '.join(missing)}") from error


def _toml(value: str | float) -> str:
    if not isinstance(value, str):
        return repr(float(value))
    # TOML escapes as JSON does, and forbids one control character more.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _check(data: Profile | Promise, where: str, *, shares: tuple[str, ...]) -> None:
    for item in fields(data):
        value = getattr(data, item.name)
        # A NaN is neither looser nor tighter than anything: it would turn a promise off unseen. So would infinity.
        if isinstance(value, int | float) and not _finite(value):
            raise ProfileError(f"{where}{item.name} = {value!r} is not a finite number")
        if item.name in shares and value is not None and not 0 <= value <= 1:
            raise ProfileError(f"{where}{item.name} = {value!r} is a share: give 0 to 1")


def _check_expected(data: Profile | Promise, where: str, names: tuple[str, ...]) -> None:
    for name in names:
        expected, limit = getattr(data, f"expected_{name}"), getattr(data, name)
        if expected is not None and expected > limit:
            raise ProfileError(f"{where}expected_{name} = {expected!r} is beyond the limit, {name} = {limit!r}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False
