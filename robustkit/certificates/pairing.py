"""What two sets of trials have in common: the same damage, trial by trial, or the same images and channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from robustkit.certificates.model import CertificateError, Line, Photograph, TrialRow
from robustkit.channels import Channel, ChannelError, parse
from robustkit.judging.golden_drops import Drops, Loss, Picture
from robustkit.outcome import Outcome

#: Verdicts of a line that nothing speaks against.
_HELD = ("kept", "not disproved", "noted")


@dataclass(frozen=True)
class Side:
    """One of the two: what a codec made of its images, and of its damaged streams.

    Attributes:
        label: as messages call it.
        codec: the codec's own name.
        metric: of quality.
        photographs: the images, and their clean round trips.
        rows: the trials.
        facts: what else the figures depend on, for messages.
        lines: findings on claims, of a certificate.
        searched: by what the searches and promises behind ``lines`` are known; equal ones searched the same.
    """

    label: str
    codec: str
    metric: str
    photographs: tuple[Photograph, ...]
    rows: tuple[TrialRow, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    searched: str = ""


@dataclass(frozen=True)
class Pair:
    """Two sides, and what they share.

    Attributes:
        images: names of the photographs with equal pixels.
        channels: those that both tried on one of these.
        rows: channel -> image -> number -> row, of each side.
        paired: the images with equal clean streams whose damage is the same in every common trial.
        missing: what the old side has and the new one lacks, a line each.
    """

    old: Side
    new: Side
    images: tuple[str, ...]
    channels: tuple[str, ...]
    before: Mapping[str, Mapping[str, Mapping[int, TrialRow]]]
    now: Mapping[str, Mapping[str, Mapping[int, TrialRow]]]
    paired: frozenset[str]
    missing: tuple[str, ...]

    @classmethod
    def of(cls, old: Side, new: Side) -> Pair:
        theirs, ours = photographs(old), photographs(new)
        images = tuple(name for name in ours if name in theirs and ours[name].sha256 == theirs[name].sha256)
        before, now = _rows(old, images), _rows(new, images)
        channels = tuple(c for c in now if c in before and any(i in before[c] for i in now[c]))
        missing = [f"photograph {name} of {old.label} is not in {new.label}" for name in theirs if name not in images]
        missing += [f"{c} was tried before, and is not now" for c in before if c not in channels]
        paired = frozenset(
            name
            for name in images
            if ours[name].stream == theirs[name].stream
            and all(_alike(before[c].get(name, {}), now[c].get(name, {})) for c in channels)
        )
        return cls(old, new, images, channels, before, now, paired, tuple(missing))

    @property
    def measured(self) -> int:
        """How many trials of the new side can be compared with anything."""
        return sum(len(self.now[c][i]) for c in self.channels for i in self.now[c] if i in self.before[c])

    def both(self) -> Iterable[tuple[TrialRow, TrialRow]]:
        """The trials of equal damage, before and now."""
        for channel in self.channels:
            yield from self.pairs(channel)

    def pairs(self, channel: str) -> Iterable[tuple[TrialRow, TrialRow]]:
        """Those of one channel."""
        for image, found in self.now[channel].items():
            for number, row in found.items() if image in self.paired else ():
                if (was := self.before[channel].get(image, {}).get(number)) is not None:
                    yield was, row

    def loose(self, channel: str) -> tuple[list[TrialRow], list[TrialRow]]:
        """The trials of one channel that can't be paired, before and now."""
        images = [i for i in self.now[channel] if i in self.before[channel] and i not in self.paired]
        return (
            [row for i in images for row in self.before[channel][i].values()],
            [row for i in images for row in self.now[channel][i].values()],
        )

    @property
    def exact(self) -> bool:
        """Whether all that both have is equal by digest, and the new side lacks nothing."""
        theirs, ours = photographs(self.old), photographs(self.new)
        return (
            not self.missing
            and set(self.images) == self.paired
            and all(ours[i].pixels == theirs[i].pixels for i in self.images)
            and all(_same(was, row) for was, row in self.both())
            and not turned(self.old, self.new)
        )


def _alike(before: Mapping[int, TrialRow], now: Mapping[int, TrialRow]) -> bool:
    """Whether the trials of one image and channel have the same damage, as far as both sides have them."""
    common = before.keys() & now.keys()
    return bool(common or not before or not now) and all(before[n].stream == now[n].stream for n in common)


def photographs(side: Side) -> dict[str, Photograph]:
    """A side's images by name."""
    return {found.name: found for found in side.photographs}


def _rows(side: Side, images: Sequence[str]) -> dict[str, dict[str, dict[int, TrialRow]]]:
    found: dict[str, dict[str, dict[int, TrialRow]]] = {}
    for row in side.rows:
        if row.image in images:
            found.setdefault(row.channel, {}).setdefault(row.image, {})[row.number] = row
    return found


def _same(was: TrialRow, row: TrialRow) -> bool:
    """Whether a trial ended the same; what it measured follows from its pixels."""
    return (was.outcome, was.failure, was.pixels) == (row.outcome, row.failure, row.pixels)


def turned(old: Side, new: Side) -> list[Line]:
    """Findings that are broken now and were not, where both searched the same."""
    if not old.lines or not old.searched or old.searched != new.searched:
        return []
    good = [line for line in old.lines if line.verdict in _HELD]
    broken = {line.claim for line in old.lines if line.verdict == "broken"}
    # A failure is a line of its own, whose severity no line of a claim that holds has.
    held = {(line.claim, line.severity) for line in good}
    whole = {line.claim for line in good} - broken
    return [
        line
        for line in new.lines
        if line.verdict == "broken" and ((line.claim, line.severity) in held or line.claim in whole)
    ]


def drops_of(pair: Pair) -> tuple[Drops, Drops]:
    """Both sides as the regression's tests take them: of one seed where, and only where, the damage is the same."""
    sides: list[Drops] = []
    for side, rows, other in ((pair.old, pair.before, pair.now), (pair.new, pair.now, pair.before)):
        found = photographs(side)
        pictures = {
            name: Picture(
                found[name].sha256,
                found[name].stream if name in pair.paired else f"{found[name].stream} of {len(sides)}",
                found[name].quality,
            )
            for name in pair.images
        }
        losses: dict[Channel, dict[str, tuple[Loss, ...]]] = {}
        for channel in pair.channels:
            losses[channel_of(channel)] = {
                image: tuple(
                    _loss(here[number], found[image])
                    for number in sorted(here.keys() & other[channel][image].keys() if image in pair.paired else here)
                )
                for image, here in rows[channel].items()
                if image in other[channel]
            }
        sides.append(Drops(pair.new.codec, "", side.metric, 0, {}, {}, pictures, losses))
    return sides[0], sides[1]


def channel_of(text: str) -> Channel:
    """A row's channel, parsed; a CertificateError where it can't be."""
    try:
        return parse(text)
    except ChannelError as error:
        raise CertificateError(f"a trial's channel can't be read: {error}") from error


def _loss(row: TrialRow, photograph: Photograph) -> Loss:
    if row.stream == photograph.stream:
        return None
    outcome = outcome_of(row)
    if not outcome.has_image:
        return outcome
    if row.drop is None:
        raise CertificateError(f"trial {row.number} of {row.image[:40]} on {row.channel[:40]} has an image and no drop")
    return row.drop


def outcome_of(row: TrialRow) -> Outcome:
    """A row's outcome; a CertificateError where it is none of the closed set."""
    try:
        return Outcome(row.outcome)
    except ValueError as error:
        raise CertificateError(
            f"trial {row.number} of {row.image[:40]} on {row.channel[:40]}: there is no outcome {row.outcome[:40]!r}"
        ) from error
