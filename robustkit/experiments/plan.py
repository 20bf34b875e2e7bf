"""What an experiment is to run, as a person writes it: TOML or flags, or a preset with changes to it."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from robustkit import quality
from robustkit.channels import CHANNELS, Channel, ChannelError, parse
from robustkit.errors import RobustkitError
from robustkit.experiments.draws import PREFIX, PublishedBSC
from robustkit.experiments.setmetrics import PATCH, SETS
from robustkit.experiments.until import Until
from robustkit.images import sets
from robustkit.spelling import nearest

#: Trials of one image and channel that are decoded together, in one batch where the codec has batches.
BLOCK = 10
#: The images that need neither a folder nor a download.
SKIMAGE = sets.DEFAULT
#: Ends the name of a metric that may be left out.
OPTIONAL = "?"
_PRESETS = Path(__file__).parent / "presets"
_KEEP = re.compile(r"(worst|median):([1-9][0-9]{0,3})")


class PlanError(RobustkitError, ValueError):
    """An experiment that can't be read or makes no sense; the message names the part and the way out."""


@dataclass(frozen=True)
class Entry:
    """A codec in an experiment.

    Attributes:
        label: what it is called there; unique.
        codec: as ``--codec`` takes it.
        settings: that it is built with.
        target_bpp: bits per pixel that one more setting is matched to, for each image on its own; ``None`` for the
            settings as they are.
        trials: of each image on each channel, the first ones of the experiment's; ``None`` for all. For slow codecs.
    """

    label: str
    codec: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    target_bpp: float | None = None
    trials: int | None = None

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise PlanError(f"{self.label}: trials = {self.trials}: give 1 or more")
        if self.target_bpp is not None and not 0 < self.target_bpp < math.inf:
            raise PlanError(f"{self.label}: target_bpp = {self.target_bpp}: give bits per pixel above 0")


@dataclass(frozen=True)
class Plan:
    """An experiment.

    Attributes:
        entries: the codecs.
        images: "skimage", another named set, or a folder.
        crop: side in pixels of the images' centre crops; ``None`` for whole images (256 for scikit-image's).
        channels: canonical spellings, in the order of the experiment.
        trials: of each image on each channel; with ``until``, in the first round.
        seed: of the trials.
        metrics: of quality; the first one orders trials where some are kept. One whose name ends in "?" is left out
            where it can't run.
        sets: metrics of whole sets of images, such as "fid", measured trial by trial when all rows are there.
        patch: side in pixels of the patches that these compare.
        until: when a point has enough trials, ``ci=0.2dB`` or ``failures=50``; empty for a fixed number.
        max_trials: of each image on each channel, where ``until`` is given.
        keep: streams and reconstructions to keep of each image on each channel: ``worst:3``, ``median:1``.
        time_limit: seconds of one decode.
    """

    entries: tuple[Entry, ...]
    images: str = SKIMAGE
    crop: int | None = None
    channels: tuple[str, ...] = ()
    trials: int = 10
    seed: int = 0
    metrics: tuple[str, ...] = ("psnr",)
    sets: tuple[str, ...] = ()
    patch: int = PATCH
    until: str = ""
    max_trials: int = 1000
    keep: tuple[str, ...] = ()
    time_limit: float = 300.0

    def __post_init__(self) -> None:
        if not self.entries:
            raise PlanError("no codec: give --codec NAME, or [[codecs]] in the file")
        labels = [entry.label for entry in self.entries]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise PlanError(f"two codecs are called {twice!r}: give each a label of its own")
        if not self.channels:
            raise PlanError("no channel: give --channel bsc --ber 1e-4, or channels in the file")
        if not self.metrics:
            raise PlanError("no metric: give --metric psnr, or metrics in the file")
        if self.metrics[0].endswith(OPTIONAL):
            raise PlanError(f"metric {self.metrics[0]!r}: the first one may not be left out, give it without the mark")
        if self.trials < 1 or self.max_trials < self.trials:
            raise PlanError(
                f"trials = {self.trials}, max_trials = {self.max_trials}: give 1 or more, and no fewer at the most"
            )
        if self.patch < 2:
            raise PlanError(f"patch = {self.patch}: give a side of 2 pixels or more")
        if self.crop is not None and self.crop < 1:
            raise PlanError(f"crop = {self.crop}: give a side of 1 pixel or more")
        if not 0 < self.time_limit < math.inf:
            raise PlanError(f"time_limit = {self.time_limit}: give seconds above 0")
        for kept in self.keep:
            if _KEEP.fullmatch(kept) is None:
                raise PlanError(f"keep {kept!r}: write worst:3 or median:1")
        for entry in self.entries:
            if entry.trials is not None and (self.until or entry.trials > self.trials):
                most = "leave them out where until is given" if self.until else f"the experiment has {self.trials}"
                raise PlanError(f"{entry.label}: trials = {entry.trials}: {most}")
        if (rule := self.rule) is not None:
            rule.check(self.metrics[0])
        if self.until and any(text.startswith(PREFIX) for text in self.channels):
            raise PlanError(f"until = {self.until!r}: published-bsc draws for a whole run of known length, give trials")

    @property
    def rule(self) -> Until | None:
        """When a point has enough trials, if that is not a fixed number."""
        return Until.parse(self.until) if self.until else None

    @property
    def most(self) -> int:
        """Trials of each image on each channel, at the most."""
        return self.max_trials if self.until else self.trials

    def trials_of(self, label: str) -> int:
        """Trials of one codec on each image and channel; with ``until``, in the first round."""
        own = next((entry.trials for entry in self.entries if entry.label == label), None)
        return self.trials if own is None else own

    @property
    def kept(self) -> list[tuple[str, int]]:
        """What to keep and how many."""
        return [(text.partition(":")[0], int(text.partition(":")[2])) for text in self.keep]

    def to_json(self) -> dict[str, Any]:
        """The plan in JSON's own types."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        found["entries"] = [{**vars(entry), "settings": dict(entry.settings)} for entry in self.entries]
        read: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return read

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Plan:
        """What :meth:`to_json` gave.

        Raises:
            PlanError: it did not give that.
        """
        try:
            # What an experiment that was begun by an earlier robustkit does not have.
            found = {"sets": (), "patch": PATCH, **found}
            values = {f.name: found[f.name] for f in fields(cls)}
            values["entries"] = tuple(Entry(**entry) for entry in found["entries"])
            for name in ("channels", "metrics", "sets", "keep"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise PlanError(f"the stored plan can't be read: {error}") from error


#: Keys of a file, with what each must be.
_KEYS: Mapping[str, tuple[type, ...]] = {
    "preset": (str,),
    "title": (str,),
    "images": (str,),
    "crop": (int,),
    "codecs": (list,),
    "channels": (list,),
    "bers": (list,),
    "trials": (int,),
    "seed": (int,),
    "metrics": (list,),
    "patch": (int,),
    "until": (str,),
    "max_trials": (int,),
    "keep": (list,),
    "time_limit": (int, float),
}


def presets() -> list[str]:
    """The names that ``--preset`` takes."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def preset(name: str) -> dict[str, Any]:
    """What a preset says, as a file would.

    Raises:
        PlanError: there is none of that name; the message lists the nearest.
    """
    if name not in presets():
        raise PlanError(f"no preset is named {name!r}: {nearest(name, presets())}")
    return loaded(_PRESETS / f"{name}.toml")


def loaded(path: Path) -> dict[str, Any]:
    """What a file says, checked key by key; a folder of images is taken from where the file lies.

    Raises:
        PlanError: it can't be read, or a key is unknown or of another type.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PlanError(f"{path} can't be read: {error}") from error
    for key, value in found.items():
        if key not in _KEYS:
            raise PlanError(f"{path} has no key {key!r}: {nearest(key, _KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise PlanError(f"{path}: {key} = {value!r} is no {' or '.join(kind.__name__ for kind in _KEYS[key])}")
    named = found.get("images") in (SKIMAGE, *sets.sets())
    if "images" in found and not named and (path.parent / found["images"]).is_dir():
        found["images"] = str((path.parent / found["images"]).resolve())
    if "preset" in found:
        found = {**preset(found.pop("preset")), **found}
    return found


def make(said: Mapping[str, Any]) -> Plan:
    """The plan of what a file, a preset and flags say together.

    Args:
        said: by the keys of a file.

    Raises:
        PlanError: something in it can't be.
        ChannelError: a channel can't be read, or a parameter is out of range.
    """
    values: dict[str, Any] = {key: said[key] for key in _KEYS if key in said and key in _PLAIN}
    if "keep" in said:
        values["keep"] = tuple(_texts("keep", said["keep"]))
    if "metrics" in said:
        named = list(dict.fromkeys(map(_metric, _texts("metrics", said["metrics"]))))
        values["sets"] = tuple(name for name in named if name.removesuffix(OPTIONAL) in SETS)
        values["metrics"] = tuple(name for name in named if name not in values["sets"])
    values["entries"] = _entries(said.get("codecs", ()))
    values["channels"] = tuple(_channels(_texts("channels", said.get("channels", ())), said.get("bers", ())))
    if values.get("until"):
        values["max_trials"] = said.get("max_trials", max(Plan.max_trials, values.get("trials", 0)))
    else:
        values["max_trials"] = max(values.get("max_trials", 0), values.get("trials", Plan.trials))
    return Plan(**values)


_OF_CODEC = ("codec", "label", "settings", "target_bpp", "trials")
_PLAIN = frozenset({"images", "crop", "trials", "seed", "patch", "until", "max_trials", "time_limit"})


def channel_of(text: str) -> Channel:
    """The channel of a row's spelling, the published one among them.

    Raises:
        ChannelError: as :func:`robustkit.channels.parse`.
    """
    if text.strip().startswith(PREFIX):
        plain = parse(text.strip().removeprefix(PREFIX))
        if getattr(plain, "region", None) is not None:
            raise ChannelError(f"channel {text!r}: published-bsc reaches the whole stream")
        return PublishedBSC(plain.severity)
    return parse(text)


def with_targets(plan: Plan, rates: Mapping[str, float]) -> Plan:
    """The plan with codecs matched to rates, in bits per pixel; each is labelled with its rate.

    Raises:
        PlanError: no codec has such a name.
    """
    names = {entry.codec for entry in plan.entries} | {entry.label for entry in plan.entries}
    if unknown := next((name for name in rates if name not in names), None):
        raise PlanError(f"--target-bpp {unknown}: no codec of the experiment has that name: {nearest(unknown, names)}")
    entries = []
    for entry in plan.entries:
        bpp = rates.get(entry.label, rates.get(entry.codec))
        if bpp is None:
            entries.append(entry)
            continue
        settings = {key: value for key, value in entry.settings.items() if key not in ("quality", "bpp", "M")}
        entries.append(Entry(_labelled(entry.label, bpp), entry.codec, settings, bpp, entry.trials))
    return replace(plan, entries=tuple(entries))


def _labelled(label: str, bpp: float) -> str:
    return f"{label}@{bpp:g}bpp"


def _texts(key: str, found: Iterable[Any]) -> list[str]:
    texts = list(found)
    for text in texts:
        if not isinstance(text, str):
            raise PlanError(f"{key}: {text!r} is no text")
    return list(dict.fromkeys(texts))


def _metric(text: str) -> str:
    name = text.strip().removesuffix(OPTIONAL)
    return quality.canonical(name) + text.strip()[len(name) :]


def _entries(found: Sequence[Any]) -> tuple[Entry, ...]:
    entries = []
    for item in found:
        if isinstance(item, str):
            entries.append(Entry(item, item))
            continue
        if not isinstance(item, Mapping) or not isinstance(item.get("codec"), str):
            raise PlanError(f"codecs: {item!r}: give a name, or a table with codec = NAME")
        unknown = [key for key in item if key not in _OF_CODEC]
        if unknown:
            raise PlanError(f"codecs: {unknown[0]!r}: {nearest(unknown[0], _OF_CODEC)}")
        bpp = item.get("target_bpp")
        if isinstance(bpp, bool) or not isinstance(bpp, int | float | None):
            raise PlanError(f"codecs: {item['codec']}: target_bpp = {bpp!r} is no number")
        trials = item.get("trials")
        if isinstance(trials, bool) or not isinstance(trials, int | None):
            raise PlanError(f"codecs: {item['codec']}: trials = {trials!r} is no whole number")
        label = item.get("label", item["codec"] if bpp is None else _labelled(item["codec"], bpp))
        settings = item.get("settings", {})
        if not isinstance(settings, Mapping) or not isinstance(label, str) or not label:
            raise PlanError(f"codecs: {item['codec']}: settings are a table, and a label is a text")
        entries.append(Entry(label, item["codec"], dict(settings), bpp, trials))
    return tuple(entries)


def _channels(texts: Iterable[str], bers: Iterable[Any]) -> list[str]:
    """Canonical spellings; a channel that lacks its bit error rate stands for one at each of ``bers``."""
    rates, found = list(bers), []
    for text in texts:
        name, opened, inside = text.strip().partition("(")
        cls = CHANNELS.get(name.removeprefix(PREFIX).removeprefix("header-").removeprefix("payload-"))
        graded = cls is not None and cls.graded_by == "ber" and not re.search(r"\bber\s*=", inside)
        if not graded:
            found.append(str(channel_of(text if opened else f"{text}()")))
            continue
        if not rates:
            raise PlanError(f"channel {text!r} has no bit error rate: give --ber 1e-4, or bers in the file")
        others = inside.strip().removesuffix(")").strip()
        for rate in rates:
            if isinstance(rate, bool) or not isinstance(rate, int | float):
                raise PlanError(f"bers: {rate!r} is no bit error rate: give numbers from 0 to 1")
            found.append(str(channel_of(f"{name}(ber={rate!r}{', ' + others if others else ''})")))
    return list(dict.fromkeys(found))
