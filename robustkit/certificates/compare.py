"""Compare: whether a codec got worse under damage, from two sets of trials, and what got better.

Three stages. What is equal by digest is unchanged, without any statistics. Trials of equal damage are compared in
pairs, and an alarm needs a loss beyond the margin that is significant, too. Where the streams differ, the trials are
compared image by image.

The tests are those of :mod:`robustkit.judging.regression`: randomisation, and the worst statistic of all channels held
against one error rate (Westfall and Young, 1993), which never has less power than Holm's steps over the channels. The
shares of failures are tested exactly (McNemar, 1947; Fisher, 1935), with Holm's steps, at an error rate of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from robustkit.certificates.model import CertificateError, TrialRow
from robustkit.certificates.pairing import Pair, Side, channel_of, drops_of, outcome_of, photographs, turned
from robustkit.errors import RobustkitError
from robustkit.judging import regression
from robustkit.judging.regression import ALARM, DEALS, EVERYWHERE, Change
from robustkit.outcome import Outcome
from robustkit.quality import METRICS

#: By how much clean streams may grow without an alarm, as a share.
RATE_MARGIN = 0.01
#: Chance of what is worth running again, where that can be done. Of both runs one has to alarm, and the other to come
#: to this: by chance that happens in 0.1% of comparisons at most.
FAINT = 0.05
#: Fewer pairs that differ can't be significant, whichever way they point: 2 ** -7 is the first below 1%.
LEAST_PAIRS = math.ceil(-math.log2(ALARM))
#: With fewer trials on a side, a channel without pairs tells nothing.
LEAST_TRIALS = 24
#: Trials and photographs that a message names.
NAMED = 3
#: What is measured of a channel: streams that arrived unharmed say nothing of a decoder.
DROP = "mean drop of hit streams"
NO_HIT = "no hit"

Way = Literal["by digest", "in pairs", "unpaired", ""]


class Word(StrEnum):
    """What is said of one quantity."""

    UNCHANGED = "unchanged"
    NO_ALARM = "no alarm"
    BETTER = "better"
    WORSE = "worse"
    BROKEN = "broken"
    UNDECIDED = "undecided"


class Said(StrEnum):
    """What is said of the codec."""

    UNCHANGED = "unchanged"
    FINE = "no regression"
    REGRESSION = "regression"
    BROKEN = "broken"
    UNDECIDED = "undecided"
    NOTHING = "nothing was measured"


@dataclass(frozen=True)
class Item:
    """One quantity, before and now.

    Attributes:
        what: a channel, "clean quality", "rate" or a claim.
        quantity: what is measured of it.
        old, new: as people read it.
        word: what is said.
        way: how it was compared; empty where there is nothing to say of that.
        chance: of looking so bad anywhere if nothing got worse; ``None`` where no test was needed.
        why: lines that explain it.
        faint: whether a test that is less strict, :data:`FAINT`, alarms.
    """

    what: str
    quantity: str
    old: str
    new: str
    word: Word
    way: Way = ""
    chance: float | None = None
    why: tuple[str, ...] = ()
    faint: bool = False


@dataclass(frozen=True)
class Comparison:
    """What two sides say of one another.

    Attributes:
        old, new: their labels.
        said: in a word.
        sentence: the same in one line.
        items: quantity by quantity.
        notes: what else a reader should know.
        repeated: whether an alarm was tried again with fresh seeds.
    """

    old: str
    new: str
    said: Said
    sentence: str
    items: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()
    repeated: bool = False

    @property
    def status(self) -> int:
        """Exit status: 0 fine, 1 regression or broken, 3 undecided, 5 nothing was measured."""
        return {
            Said.UNCHANGED: 0,
            Said.FINE: 0,
            Said.REGRESSION: 1,
            Said.BROKEN: 1,
            Said.UNDECIDED: 3,
            Said.NOTHING: 5,
        }[self.said]


def compare(
    old: Side,
    new: Side,
    *,
    margin: float | None = None,
    rate_margin: float = RATE_MARGIN,
    again: Callable[[], tuple[Side, Side]] | None = None,
    deals: int = DEALS,
) -> Comparison:
    """Hold ``new`` against ``old``.

    Args:
        old, new: two sets of trials, of any codecs.
        margin: what may be lost without an alarm, in the metric's unit; by default
            :func:`robustkit.judging.regression.margin`.
        rate_margin: by how much clean streams may grow, as a share.
        again: runs both once more with fresh seeds, where both can be run. Then an alarm of a test counts only if the
            other run comes near to one, too.
        deals: how often trials are dealt anew for a test.

    Raises:
        CertificateError: the metrics differ or are unknown, or a row can't be used.
    """
    for side in (old, new):
        try:
            _ = METRICS[side.metric]
        except RobustkitError as error:
            raise CertificateError(f"{side.label}: {error}") from error
    if old.metric != new.metric:
        raise CertificateError(
            f"{old.label} is measured in {old.metric}, {new.label} in {new.metric}: measure both in one metric"
        )
    allowed = regression.margin(new.metric) if margin is None else margin
    pair = Pair.of(old, new)
    if not pair.measured:
        return Comparison(old.label, new.label, Said.NOTHING, _nothing(pair), notes=tuple(pair.missing))
    if pair.exact:
        return _unchanged(pair)
    items = [*_clean(pair, allowed, rate_margin), *_damaged(pair, allowed, deals), *_claims(pair)]
    repeated = False
    if again is not None and any(_tested(item) for item in items):
        fresh = Pair.of(*again())
        items = _confirmed(items, _damaged(fresh, allowed, deals))
        repeated = True
    said = _said(items, pair)
    if said in (Said.FINE, Said.UNDECIDED) and not any(item.quantity == DROP and item.way for item in items):
        said = Said.NOTHING
    return Comparison(
        old.label, new.label, said, _sentence(said, items, pair), tuple(items), tuple(_notes(pair)), repeated
    )


# -- stage 1


def _unchanged(pair: Pair) -> Comparison:
    trials = sum(1 for _ in pair.both())
    sentence = (
        f"{pair.new.codec}: unchanged: {_count(len(pair.images), 'clean stream')} and {_count(trials, 'trial')} "
        "are the same, bit for bit and pixel for pixel"
    )
    items = [
        *_clean(pair, math.inf, math.inf),
        *(Item(channel, *_losses(pair, channel), Word.UNCHANGED, "by digest", None) for channel in pair.channels),
    ]
    return Comparison(pair.old.label, pair.new.label, Said.UNCHANGED, sentence, tuple(items), tuple(_notes(pair)))


def _losses(pair: Pair, channel: str) -> tuple[str, str, str]:
    """Quantity, and mean loss before and now, of a channel, counted as the tests count it."""
    sides = []
    for drops in drops_of(pair):
        found = regression.mean(list(drops.losses[channel_of(channel)].values()), pair.new.metric)
        sides.append(NO_HIT if math.isnan(found) else _value(found, pair.new.metric))
    return DROP, sides[0], sides[1]


# -- clean round trips


def _clean(pair: Pair, allowed: float, rate_margin: float) -> list[Item]:
    """Quality and rate of the undamaged images; they don't depend on chance, so the margins alone decide."""
    theirs, ours = photographs(pair.old), photographs(pair.new)
    before, now = [theirs[i] for i in pair.images], [ours[i] for i in pair.images]
    metric = pair.new.metric
    sign = 1 if METRICS[metric].higher_is_better else -1
    old, new = (sum(p.quality for p in side) / len(side) for side in (before, now))
    same = all(a.pixels == b.pixels for a, b in zip(before, now, strict=True))
    worst = min(zip(before, now, strict=True), key=lambda both: sign * (both[1].quality - both[0].quality))
    shown = [_value(picture.quality, metric) for picture in worst]
    quality = Item(
        "clean quality",
        f"mean {metric}",
        _value(old, metric),
        _value(new, metric),
        Word.UNCHANGED if same else _word(sign * (old - new), allowed),
        "by digest" if same else "in pairs",
        why=() if same else (f"most so in {worst[1].name}: {shown[0]}, now {shown[1]}",),
    )
    old, new = (sum(p.bpp for p in side) / len(side) for side in (before, now))
    same = all(a.stream == b.stream for a, b in zip(before, now, strict=True))
    rate = Item(
        "rate",
        "mean bpp",
        f"{old:.4f} bpp",
        f"{new:.4f} bpp",
        Word.UNCHANGED if same else _word(new - old, rate_margin * old),
        "by digest" if same else "in pairs",
        why=() if new == old or not old else (f"{(new - old) / old:+.2%}",),
    )
    return [quality, rate]


def _word(loss: float, allowed: float) -> Word:
    return Word.WORSE if loss > allowed + 1e-9 else Word.BETTER if -loss > allowed + 1e-9 else Word.NO_ALARM


# -- stages 2 and 3


def _damaged(pair: Pair, allowed: float, deals: int) -> list[Item]:
    before, now = drops_of(pair)
    worse = regression.compare(before, now, deals=deals, allowed=allowed)
    better = {(c.channel, c.paired): c.worse for c in regression.compare(now, before, deals=deals, allowed=allowed)}
    found = []
    for change in worse:
        improved = not change.worse and better.get((change.channel, change.paired), False)
        found.append(_drop_item(pair, change, allowed, improved))
    told = {change.channel for change in worse}
    found += [_unhit(pair, channel) for channel in pair.channels if str(channel_of(channel)) not in told]
    return [*found, *_failures(pair)]


def _unhit(pair: Pair, channel: str) -> Item:
    """A channel that left all streams of a side as they were, so that nothing was decoded."""
    sides = (pair.old, pair.before, pair.now), (pair.new, pair.now, pair.before)
    hits = []
    for side, rows, other in sides:
        clean = photographs(side)
        here = [row for image in rows[channel] if image in other[channel] for row in rows[channel][image].values()]
        hits.append(sum(row.stream != clean[row.image].stream for row in here))
    old, new = (f"{hit} hit" if hit else NO_HIT for hit in hits)
    when = "now" if hits[0] else "before" if hits[1] else "before or now"
    # Mild damage misses short streams by chance, so this is no doubt about the codec.
    why = f"no stream was hit {when}, so nothing is said of it: give more --trials"
    return Item(channel, DROP, old, new, Word.NO_ALARM, why=(why,))


def _drop_item(pair: Pair, change: Change, allowed: float, improved: bool) -> Item:
    metric = pair.new.metric
    why: list[str] = []
    if change.worse:
        word = Word.WORSE
        why.append(f"by chance in {max(change.chance, 1e-4):.2%} of runs at most, all channels together")
    elif improved:
        word = Word.BETTER
    elif change.rise > allowed + 1e-9 and _too_few(pair, change, allowed):
        word = Word.UNDECIDED
        why.append(f"{_count(_told(pair, change), 'trial')} that tell are too few to be sure: give more --trials")
    else:
        word = Word.NO_ALARM
        if change.paired and not change.moved:
            why.append("no trial differs by more than the margin")
    if change.channel != EVERYWHERE:
        why += _ends(pair, change.channel, paired=change.paired)
    if change.worst is not None and change.worse:
        channel, image, number = change.worst
        was, row = list(_counted(pair, channel, image))[number]
        why.append(f"most so in trial {row.number} of {image}: {_ended(was, metric)}, now {_ended(row, metric)}")
    return Item(
        change.channel,
        DROP,
        _value(change.before, metric),
        _value(change.now, metric),
        word,
        "in pairs" if change.paired else "unpaired",
        change.chance,
        tuple(why),
        change.rose and change.chance <= FAINT and not improved,
    )


def _too_few(pair: Pair, change: Change, allowed: float) -> bool:
    """Whether a rise may be real although no test could show it: few pairs differ, and all got worse; or few trials."""
    if not change.paired:
        return _told(pair, change) < LEAST_TRIALS
    if (change.moved or 0) >= LEAST_PAIRS:
        return False
    channels = pair.channels if change.channel == EVERYWHERE else (change.channel,)
    lost = [tuple(math.inf if r.drop is None else r.drop for r in both) for c in channels for both in pair.pairs(c)]
    return all(now > was for was, now in lost if was != now and not abs(now - was) <= allowed)


def _told(pair: Pair, change: Change) -> int:
    """How many trials can speak: pairs that differ, or the fewer of two sides."""
    if change.paired:
        return change.moved or 0
    channels = pair.channels if change.channel == EVERYWHERE else (change.channel,)
    return min(sum(len(side) for side in sides) for sides in zip(*(pair.loose(c) for c in channels), strict=True))


def _counted(pair: Pair, channel: str, image: str) -> Iterable[tuple[TrialRow, TrialRow]]:
    """The pairs of one image in the order in which :func:`drops_of` counts them."""
    before, now = pair.before[channel][image], pair.now[channel][image]
    return ((before[n], now[n]) for n in sorted(before.keys() & now.keys()))


def _ends(pair: Pair, channel: str, *, paired: bool) -> list[str]:
    """How trials ended that ended otherwise before: in pairs each turn, without them the shares."""
    if paired:
        turns = Counter((outcome_of(a), outcome_of(b)) for a, b in pair.pairs(channel) if a.outcome != b.outcome)
        return [f"{was} before, {now} now: {_count(n, 'trial')}" for (was, now), n in turns.most_common(NAMED)]
    before, now = pair.loose(channel)
    counts = [Counter(outcome_of(row) for row in side) for side in (before, now)]
    said = []
    for outcome in Outcome:
        shares = [count[outcome] / max(1, len(side)) for count, side in zip(counts, (before, now), strict=True)]
        if outcome.corrupted and shares[0] != shares[1]:
            said.append(f"{outcome}: {shares[0]:.1%} of trials before, {shares[1]:.1%} now")
    return said[:NAMED]


def _failures(pair: Pair) -> list[Item]:
    """The shares of trials that crash, hang or raise, of the channels that have some."""
    from scipy.stats import binomtest, fisher_exact

    found: list[tuple[str, Way, int, int, int, int, float, tuple[str, ...]]] = []
    for channel in pair.channels:
        both = [(a, b, outcome_of(a).failure, outcome_of(b).failure) for a, b in pair.pairs(channel)]
        was, now = sum(f for _, _, f, _ in both), sum(f for _, _, _, f in both)
        if was or now:
            new = [b for _, b, before, after in both if after and not before]
            old = sum(before and not after for _, _, before, after in both)
            chance = binomtest(len(new), len(new) + old, 0.5, "greater").pvalue if new else 1.0
            found.append((channel, "in pairs", was, len(both), now, len(both), chance, _named(new)))
        before, after = ([(r, outcome_of(r).failure) for r in side] for side in pair.loose(channel))
        was, now = sum(f for _, f in before), sum(f for _, f in after)
        if was or now:
            table = [[now, len(after) - now], [was, len(before) - was]]
            chance = float(fisher_exact(table, "greater").pvalue)
            bad = [r for r, failed in after if failed]
            found.append((channel, "unpaired", was, len(before), now, len(after), chance, _named(bad)))
    adjusted = _holm([row[6] for row in found])
    items = []
    for (channel, way, was, olds, now, news, _, named), chance in zip(found, adjusted, strict=True):
        rises = now * olds > was * news
        if now and not was:
            # No statistics: it never failed, and fails.
            word, said = Word.BROKEN, None
        else:
            word = Word.WORSE if chance <= ALARM and rises else Word.BETTER if not now else Word.NO_ALARM
            said = chance
        why = named if rises else ()
        faint = said is not None and rises and chance <= FAINT
        items.append(Item(channel, "failures", f"{was} of {olds}", f"{now} of {news}", word, way, said, why, faint))
    return items


def _named(rows: Sequence[TrialRow]) -> tuple[str, ...]:
    more = (f"and {len(rows) - NAMED} more",) if len(rows) > NAMED else ()
    return (*(f"trial {r.number} of {r.image}: {r.failure or r.outcome}" for r in rows[:NAMED]), *more)


def _holm(chances: Sequence[float]) -> list[float]:
    """Adjusted by Holm's steps (1979), so that each can be held against one error rate of all."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    adjusted, least = [1.0] * len(chances), 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(chances) - place) * chances[i]))
        adjusted[i] = least
    return adjusted


def _claims(pair: Pair) -> list[Item]:
    """Claims that are broken in the new certificate and were not in the old one."""
    return [
        Item(
            f"{line.title} {line.severity}".strip(),
            line.claim,
            "held",
            line.measured,
            Word.BROKEN,
            why=(f"declared: {line.declared}",) if line.declared else (),
        )
        for line in turned(pair.old, pair.new)
    ]


# -- what is said


def _tested(item: Item) -> bool:
    """Whether it is to be seen if it comes again: an alarm of chance, or nearly one."""
    return item.chance is not None and (item.faint or item.word is Word.WORSE)


def _confirmed(items: Sequence[Item], fresh: Sequence[Item]) -> list[Item]:
    """What holds with fresh seeds, too, at whichever channel: each run has one error rate."""
    alarm = {item.quantity for item in fresh if item.word in (Word.WORSE, Word.BROKEN)}
    near = alarm | {item.quantity for item in fresh if item.faint}
    found = []
    for item in items:
        if not _tested(item):
            found.append(item)
        elif item.word is Word.WORSE and item.quantity not in near:
            found.append(replace(item, word=Word.UNDECIDED, why=(*item.why, "fresh seeds don't alarm")))
        elif item.word is Word.WORSE or item.quantity in alarm:
            found.append(replace(item, word=Word.WORSE, why=(*item.why, "fresh seeds alarm, too")))
        else:
            found.append(item)
    return found


def _said(items: Sequence[Item], pair: Pair) -> Said:
    words = {item.word for item in items}
    if Word.BROKEN in words:
        return Said.BROKEN
    if Word.WORSE in words:
        return Said.REGRESSION
    if Word.UNDECIDED in words or pair.missing:
        return Said.UNDECIDED
    return Said.FINE


def _sentence(said: Said, items: Sequence[Item], pair: Pair) -> str:
    def named(*words: Word) -> str:
        found = list(dict.fromkeys(f"{item.what} ({item.quantity})" for item in items if item.word in words))
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        return ", ".join(found[:NAMED]) + more

    better = named(Word.BETTER)
    tail = f"; better: {better}" if better else ""
    if said in (Said.BROKEN, Said.REGRESSION):
        return f"{pair.new.codec}: {said}: {named(Word.BROKEN, Word.WORSE)}{tail}"
    if said is Said.NOTHING:
        return f"nothing was measured: no stream of {pair.new.codec} that can be compared was hit: give more --trials"
    if said is Said.UNDECIDED:
        return f"{pair.new.codec}: undecided: {named(Word.UNDECIDED) or pair.missing[0]}{tail}"
    return f"{pair.new.codec}: no regression in {_count(pair.measured, 'trial')}{tail}"


def _nothing(pair: Pair) -> str:
    if not pair.new.rows or not pair.old.rows:
        empty = pair.old.label if not pair.old.rows else pair.new.label
        return f"nothing was measured: {empty} has no trials under damage"
    if not pair.images:
        return f"nothing was measured: {pair.old.label} and {pair.new.label} have no image in common, pixel for pixel"
    return f"nothing was measured: {pair.old.label} and {pair.new.label} have no channel in common"


def _notes(pair: Pair) -> list[str]:
    notes = list(pair.missing)
    loose = [name for name in pair.images if name not in pair.paired]
    if loose:
        theirs, ours = photographs(pair.old), photographs(pair.new)
        other = sum(theirs[i].stream != ours[i].stream for i in loose)
        what = "have other streams" if other == len(loose) else "have other streams or other damage"
        notes.append(
            f"{_count(len(loose), 'photograph')} of {len(pair.images)} {what} now, so their trials can't be paired: "
            "they are compared image by image, and a small loss is harder to see"
        )
    if pair.old.codec != pair.new.codec:
        notes.append(f"two codecs: {pair.old.codec} before, {pair.new.codec} now")
    for key in sorted(pair.old.facts.keys() & pair.new.facts.keys()):
        was, now = (side.facts[key] for side in (pair.old, pair.new))
        if was != now:
            notes.append(f"{key}: {was} before, {now} now")
    return notes


def _ended(row: TrialRow, metric: str) -> str:
    return f"{_value(row.drop, metric)} lost" if row.drop is not None else row.outcome


def _value(value: float, metric: str) -> str:
    unit = METRICS[metric].unit
    return f"{value:.2f} {unit}" if unit == "dB" else f"{value:.4f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
