"""Trials in groups, the unit that is decoded together; and groups in chunks, the unit that is handed out and kept.

Which trials make a group depends on the plan alone, so that a codec which decodes batches decodes the same ones in any
run. Which groups make a chunk depends on the codec's speed, and changes no row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from robustkit.experiments.plan import BLOCK
from robustkit.experiments.rows import CLEAN, CLEAN_TRIAL
from robustkit.experiments.store import Key

#: In place of a channel: only the stream is wanted, for a run's draws.
ENCODE = "encode"


class Group(NamedTuple):
    """Trials of one codec, image and channel.

    Attributes:
        entry: the codec's label.
        image: its name.
        channel: canonical spelling; "clean" for the clean decode, "encode" for the stream alone.
        first, stop: numbers of the trials, ``stop`` not among them.
    """

    entry: str
    image: str
    channel: str
    first: int
    stop: int

    @property
    def keys(self) -> list[Key]:
        """What names its rows."""
        if self.channel == ENCODE:
            return []
        return [(self.entry, self.image, self.channel, number) for number in range(self.first, self.stop)]

    @property
    def decodes(self) -> int:
        """How many streams it decodes."""
        return max(1, self.stop - self.first)


def clean(entry: str, image: str) -> Group:
    """The clean decode of an image."""
    return Group(entry, image, CLEAN, CLEAN_TRIAL, CLEAN_TRIAL + 1)


def blocks(entry: str, image: str, channel: str, first: int, stop: int) -> Iterator[Group]:
    """The groups of trials ``first`` to ``stop``, which end where a block of :data:`plan.BLOCK` does."""
    while first < stop:
        end = min(stop, (first // BLOCK + 1) * BLOCK)
        yield Group(entry, image, channel, first, end)
        first = end


@dataclass(frozen=True)
class Chunk:
    """Groups of one codec that are run one after another, and the trials among them that have no row yet.

    Attributes:
        entry: the codec's label.
        groups: with those of one image side by side.
        done: names of trials that have a row.
    """

    entry: str
    groups: tuple[Group, ...]
    done: frozenset[Key] = frozenset()

    @property
    def keys(self) -> list[Key]:
        """What names the rows that it gives."""
        return [key for group in self.groups for key in group.keys if key not in self.done]

    @property
    def decodes(self) -> int:
        """How many streams it decodes."""
        return sum(group.decodes for group in self.groups)

    @property
    def name(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:24]

    def to_json(self) -> str:
        """As text, for another process."""
        return json.dumps({"entry": self.entry, "groups": self.groups, "done": sorted(self.done)})

    @classmethod
    def from_json(cls, text: str) -> Chunk:
        """What :meth:`to_json` gave."""
        found = json.loads(text)
        done: Iterable[Any] = (tuple(key) for key in found["done"])
        return cls(found["entry"], tuple(Group(*group) for group in found["groups"]), frozenset(done))


@dataclass(frozen=True)
class Report:
    """What came of a chunk.

    Attributes:
        rows: how many were written.
        decoded: of these, how many took a decode: a stream that is as it was is not decoded again.
        seconds: that it took, loading the codec left out.
        failed: by image, why it could not be encoded or its clean stream not decoded; it has no rows.
        values: of each row its name, whether there was an image, and the first metric.
        error: why the whole chunk came to nothing; empty where it did not.
        fatal: whether no other chunk would fare better.
    """

    rows: int = 0
    seconds: float = 0.0
    failed: dict[str, str] | None = None
    values: tuple[tuple[Key, float | None, str], ...] = ()
    error: str = ""
    fatal: bool = False
    decoded: int = 0

    def to_json(self) -> str:
        """As text, for another process."""
        return json.dumps(self.__dict__)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """What :meth:`to_json` gave."""
        found = json.loads(text)
        values = tuple((tuple(key), value, outcome) for key, value, outcome in found.pop("values"))
        return cls(values=values, **found)
