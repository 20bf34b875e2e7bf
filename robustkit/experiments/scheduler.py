"""Which chunk comes next: what is missing, by codec, image and channel; and, with ``--until``, round by round."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from robustkit.experiments import draws, tasks
from robustkit.experiments.identity import Experiment
from robustkit.experiments.plan import Plan
from robustkit.experiments.rows import CLEAN, CLEAN_TRIAL
from robustkit.experiments.store import Key
from robustkit.experiments.tasks import Chunk, Group, Report
from robustkit.experiments.until import Estimate
from robustkit.outcome import Outcome

#: Seconds that a chunk aims at: what a kill costs.
SECONDS = 5.0
#: Decodes of a codec's first chunk, whose speed nobody knows.
_FIRST = 2 * 10
_MOST = 2000


@dataclass
class _Point:
    """One codec on one channel, with ``--until``: what its trials came to, and how many are wanted by now."""

    wanted: int
    found: dict[str, dict[int, float]] = field(default_factory=dict)
    estimate: Estimate | None = None
    over: bool = False


@dataclass
class _Codec:
    label: str
    #: Streams that a run's draws wait for.
    first: deque[Group] = field(default_factory=deque)
    waiting: deque[Group] = field(default_factory=deque)
    encoding: int = 0
    seconds: float | None = None
    spent: float = 0.0
    decoded: int = 0
    clean: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    given_up: str = ""


class Scheduler:
    """What is left of an experiment.

    Args:
        experiment: as it stands in the folder.
        plan: what this run does of it.
        done: of each row that is there, its value in the first metric, ``None`` without an image, and its outcome.
        shard: this run's share, from 1, and the number of shares.
        encoded: whether a codec's stream of an image is there.
    """

    def __init__(
        self,
        experiment: Experiment,
        plan: Plan,
        done: Mapping[Key, tuple[float | None, str]],
        *,
        shard: tuple[int, int] = (1, 1),
        encoded: Mapping[tuple[str, str], bool] | None = None,
    ) -> None:
        self.experiment, self.plan, self.rule = experiment, plan, plan.rule
        self.done: set[Key] = set(done)
        self._images = [picture.name for picture in experiment.pictures]
        labels = {entry.label for entry in plan.entries}
        self.codecs = [_Codec(found.entry.label) for found in experiment.running if found.entry.label in labels]
        self.points: dict[tuple[str, str], _Point] = {}
        for codec in self.codecs:
            groups = list(self._groups(codec.label))
            share, shares = shard
            start, stop = (len(groups) * at // shares for at in (share - 1, share))
            codec.waiting.extend(group for group in groups[start:stop] if self._missing(group))
            if codec.waiting and any(text.startswith(draws.PREFIX) for text in plan.channels):
                there = encoded or {}
                codec.first.extend(
                    Group(codec.label, image, tasks.ENCODE, 0, 0)
                    for image in self._images
                    if not there.get((codec.label, image))
                )
        self.planned = len(self.done & set(self._keys())) + sum(
            len([key for key in group.keys if key not in self.done]) for c in self.codecs for group in c.waiting
        )
        if self.rule is not None:
            for key, (value, outcome) in done.items():
                self._learn(key, value, outcome)
            for codec in self.codecs:
                self._advance(codec)

    def _keys(self) -> Iterator[Key]:
        for codec in self.codecs:
            for group in self._groups(codec.label):
                yield from group.keys

    def _groups(self, label: str) -> Iterator[Group]:
        """All groups of a codec, image after image; with ``--until`` those of the first round."""
        for image in self._images:
            yield tasks.clean(label, image)
            for channel in self.plan.channels:
                if self.rule is not None:
                    self.points.setdefault((label, channel), _Point(self.plan.trials))
                yield from tasks.blocks(label, image, channel, 0, self.plan.trials_of(label))

    def _missing(self, group: Group) -> bool:
        return any(key not in self.done for key in group.keys)

    @property
    def left(self) -> int:
        """Decodes that are known to be left, those that run not among them."""
        return sum(group.decodes for codec in self.codecs for group in codec.waiting)

    def left_of(self, label: str) -> int:
        """Those of one codec."""
        return sum(group.decodes for codec in self.codecs if codec.label == label for group in codec.waiting)

    def seconds_left(self) -> float | None:
        """By each codec's speed so far, if it were one process that does it; ``None`` where one is not known."""
        total = 0.0
        for codec in self.codecs:
            if not codec.waiting:
                continue
            if codec.seconds is None:
                return None
            total += codec.seconds * sum(group.decodes for group in codec.waiting)
        return total

    def next(self, places: int) -> Chunk | None:
        """The next chunk for one of ``places``; ``None`` where there is none now."""
        for codec in self.codecs:
            if codec.first:
                codec.encoding += 1
                return Chunk(codec.label, (codec.first.popleft(),))
            if codec.encoding or not codec.waiting:
                continue
            wanted = self._size(codec, places)
            groups = [codec.waiting.popleft()]
            size = groups[0].decodes
            while codec.waiting and size + codec.waiting[0].decodes <= wanted:
                groups.append(codec.waiting.popleft())
                size += groups[-1].decodes
            there = frozenset(key for group in groups for key in group.keys if key in self.done)
            return Chunk(codec.label, tuple(groups), there)
        return None

    def _size(self, codec: _Codec, places: int) -> int:
        if codec.seconds is None:
            return _FIRST
        fair = math.ceil(sum(group.decodes for group in codec.waiting) / places)
        return max(1, min(_MOST, fair, int(SECONDS / max(codec.seconds, 1e-6))))

    def finished(self, chunk: Chunk, report: Report) -> None:
        """Take note of what came of a chunk."""
        codec = next(codec for codec in self.codecs if codec.label == chunk.entry)
        if any(group.channel == tasks.ENCODE for group in chunk.groups):
            codec.encoding -= 1
        elif report.decoded:
            # At low severities most streams stay as they are and cost nothing, at high ones they are refused at once:
            # neither says anything of the others, and so the last chunk alone does not.
            codec.spent += report.seconds
            codec.decoded += report.decoded
            codec.seconds = codec.spent / codec.decoded
        for image, why in (report.failed or {}).items():
            self._fail(codec, image, why)
        if report.error:
            codec.given_up = report.error
            codec.first.clear()
            codec.waiting.clear()
        for key, value, outcome in report.values:
            self.done.add(key)
            self._learn(key, value, outcome)
        if self.rule is not None and not report.error:
            self._advance(codec)

    def _fail(self, codec: _Codec, image: str, why: str) -> None:
        codec.failed[image] = why
        codec.waiting = deque(group for group in codec.waiting if group.image != image)
        if codec.first or codec.encoding:
            codec.given_up = f"published-bsc needs the stream of every image: {image}: {why}"
            codec.first.clear()
            codec.waiting.clear()

    def _learn(self, key: Key, value: float | None, outcome: str) -> None:
        if self.rule is None:
            return
        label, image, channel, trial = key
        if channel == CLEAN and trial == CLEAN_TRIAL:
            for codec in self.codecs:
                if codec.label == label and value is not None:
                    codec.clean[image] = value
        elif (point := self.points.get((label, channel))) is not None:
            there = Outcome(outcome).has_image and value is not None
            point.found.setdefault(image, {})[trial] = value if there and value is not None else math.nan

    def _advance(self, codec: _Codec) -> None:
        """Ask for another round of each point whose last one is complete and not enough."""
        assert self.rule is not None
        images = [image for image in self._images if image not in codec.failed]
        if not images or any(image not in codec.clean for image in images):
            return
        for (label, channel), point in self.points.items():
            if label != codec.label:
                continue
            while not point.over and all(
                number in point.found.get(image, {}) for image in images for number in range(point.wanted)
            ):
                values = {image: [point.found[image][number] for number in range(point.wanted)] for image in images}
                point.estimate = self.rule.estimate(values, max(codec.clean.values()))
                if point.estimate.enough or point.wanted >= self.plan.max_trials:
                    point.over = True
                    break
                before, point.wanted = point.wanted, min(point.wanted + self.plan.trials, self.plan.max_trials)
                more: Iterable[Group] = (
                    group
                    for image in images
                    for group in tasks.blocks(label, image, channel, before, point.wanted)
                    if self._missing(group)
                )
                for group in more:
                    codec.waiting.append(group)
                    self.planned += len([key for key in group.keys if key not in self.done])
