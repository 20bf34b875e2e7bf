"""Second opinions: what one process says of a stream, another is asked too; and a crash counts if it comes again.

The other process has another heap, another hash seed, another locale, time zone and working directory, and another
history: it decodes fewer streams, and now and then a refused one in between.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from robustkit.codec import Image
from robustkit.isolation import CodecWorkers, Decoded
from robustkit.judging.work import LOST, Shape, Stream, Work
from robustkit.outcome import Failure, Outcome

#: Grey levels by which a pixel may differ between a batch and a single decode, at worst and on average: kernels may
#: add up in another order for another batch size.
BATCH_TOLERANCE = (2, 0.02)
#: Cost of a clean decode below which every image is looked at twice; above it, one in ``SHARE``.
FAST = 0.02
SHARE = 4
#: How many streams before a crash are kept.
HISTORY = 8
#: So often must a kind of failure have come again before it is believed without that.
BELIEVED = 2
#: So many findings are looked into and kept; the rest is counted.
KEPT = 5

#: The environment of the process whose word is doubted: glibc leaves memory as it is.
HERE: Mapping[str, str] = {"MALLOC_PERTURB_": "0"}


def elsewhere(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of a process that differs from this one in whatever a decoder must not depend on."""
    locale = next((environment[v] for v in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(v)), "C")
    tunables = [t for t in (environment.get("GLIBC_TUNABLES"), "glibc.malloc.tcache_count=0") if t]
    return {
        "MALLOC_PERTURB_": "165",
        # What was freed by the same thread would come back as it was.
        "GLIBC_TUNABLES": ":".join(tunables),
        "PYTHONHASHSEED": "2" if environment.get("PYTHONHASHSEED") == "1" else "1",
        # These two are everywhere.
        "LC_ALL": "C.UTF-8" if locale in ("C", "POSIX") else "C",
        "TZ": "RBK-11:30",
    }


def difference(decoded: Decoded, there: Decoded) -> str | None:
    """What ``there`` says otherwise of the same stream than ``decoded``, in words; ``None`` if nothing."""
    if decoded.image is None or there.image is None:
        if there.outcome is decoded.outcome:
            return None
        message = there.message.strip().partition("\n")[0]
        return f"{there.outcome or 'an image'} instead" + (f": {message}" if message else "")
    if there.image.shape != decoded.image.shape:
        return f"an image of {there.image.shape[0]} x {there.image.shape[1]} instead"
    away = np.abs(there.image.astype(np.int16) - decoded.image).max(axis=2)
    if not away.any():
        return None
    return f"{int((away > 0).sum())} of {away.size} pixels differ, by up to {int(away.max())}"


@dataclass(frozen=True)
class LeftBehind:
    """A decode that ended badly in a process with a history, and not in a fresh one.

    Attributes:
        said: what happened, in a line.
        outcome: which; ``None`` where a process held too much memory.
        stream: that was being decoded; ``None`` where it happened between two decodes.
        before: the streams before it in that process, the last ones.
        again: whether it came again after the streams before it.
        harmless: whether another process in its place was all that it took.
    """

    said: str
    outcome: Outcome | None
    stream: bytes | None = field(repr=False)
    before: tuple[bytes, ...] = field(repr=False)
    again: bool = False
    harmless: bool = False

    @property
    def proved(self) -> bool:
        """Whether this is the decoder's doing: time and memory that ran out once may be the machine's."""
        return not self.harmless and (self.again or self.outcome in (Outcome.CRASHED, None))


class Asked:
    """A pool, and what it was asked before: what kills a process counts where it comes again in a fresh one.

    Args:
        pool: the processes.
        left: takes what did not come again.
    """

    def __init__(self, pool: CodecWorkers, left: list[LeftBehind]) -> None:
        self.pool = pool
        self.left = left
        self._before: deque[Stream] = deque(maxlen=HISTORY)
        self._again: Counter[Failure] = Counter()
        self._doubted: set[Failure] = set()

    def decode(self, stream: bytes, shape: Shape) -> Decoded:
        """Decode one stream."""
        pids, before = self.pool.pids, list(self._before)
        self._before.append((stream, shape))
        decoded = self.pool.decode(stream, shape=shape)
        # A pool of one has a fresh process already if the last one died.
        fresh = len(pids) == 1 and self.pool.pids != pids
        return self._confirmed(decoded, (stream, shape), before, fresh=fresh)

    def decode_many(self, streams: Sequence[bytes], shape: Shape) -> list[Decoded]:
        """Decode streams of one shape, in batches where the codec has them."""
        (results,) = self.decode_groups([(streams, shape)])
        return results

    def decode_groups(self, groups: Sequence[tuple[Sequence[bytes], Shape]]) -> list[list[Decoded]]:
        """Decode groups of streams, each of one shape, in batches where the codec has them."""
        now = [(stream, shape) for streams, shape in groups for stream in streams]
        history = [*self._before, *now]
        at = len(self._before)
        self._before.extend(now)
        results = self.pool.decode_groups(groups)
        for group in results:
            for i, decoded in enumerate(group):
                group[i] = self._confirmed(decoded, history[at], history[max(0, at - HISTORY) : at], fresh=False)
                at += 1
        return results

    def fresh(self) -> None:
        """Go on in processes that have decoded nothing."""
        self._before.clear()
        self.pool.restart()

    def held(self, stream: bytes, taken: int) -> None:
        """Take note that a process held ``taken`` bytes that a fresh one does not."""
        said = f"held {taken / 2**20:.0f} MiB more than once it had loaded its codec; a fresh process does not"
        self.left.append(LeftBehind(said, None, stream, tuple(s for s, _ in self._before), again=False))

    def _confirmed(self, decoded: Decoded, what: Stream, before: Sequence[Stream], *, fresh: bool) -> Decoded:
        failure = decoded.failure
        if failure is None or failure.outcome not in LOST:
            return decoded
        if self._again[failure] >= BELIEVED and failure not in self._doubted:
            return decoded
        if fresh:
            self._before.clear()
        else:
            self.fresh()
        alone = self.pool.decode(what[0], shape=what[1])
        if alone.outcome is decoded.outcome:
            self._again[failure] += 1
            return alone
        self._doubted.add(failure)
        again = len(self.left) < KEPT and self._comes_again(decoded, what, before)
        message = decoded.message.strip().partition("\n")[0]
        said = f"{decoded.outcome}: {message}; decoded in a fresh process: {alone.outcome or 'an image'}"
        self.left.append(LeftBehind(said, decoded.outcome, what[0], tuple(stream for stream, _ in before), again))
        return alone

    def _comes_again(self, decoded: Decoded, what: Stream, before: Sequence[Stream]) -> bool:
        """Whether the streams before it, in a fresh process, bring the failure back."""
        if not before:
            return False
        self.fresh()
        found = None
        for stream, shape in [*before, what]:
            found = self.pool.decode(stream, shape=shape)
        self.fresh()
        return found is not None and found.outcome is decoded.outcome


class Group(NamedTuple):
    """Streams of one shape, as :meth:`Opinions.decode_many` takes them."""

    streams: Sequence[bytes]
    shape: Shape
    sample: Sequence[bool]
    known: Sequence[Image | None] = ()


class Opinions:
    """Decodes the streams of searches and trials, asks a second process, and keeps account of the work.

    Args:
        first: the pool whose word is taken, and doubted.
        second: gives the pool that is asked too, when it is needed.
        work: the account.
        limit: seconds of one decode.

    Attributes:
        images: how many decodes gave an image.
        asked: of how many of them a second process was asked.
        left: what did not come again in a fresh process.
    """

    def __init__(self, first: CodecWorkers, second: Callable[[], CodecWorkers], work: Work, limit: float) -> None:
        self.left: list[LeftBehind] = []
        self.work = work
        self.images = self.asked = 0
        self._first = Asked(first, self.left)
        self._make_second = second
        self._other: Asked | None = None
        self._limit = limit
        self._refused: Stream | None = None
        self._suspicious = False

    @property
    def _second(self) -> Asked:
        if self._other is None:
            self._other = Asked(self._make_second(), self.left)
        return self._other

    def replaced(self) -> Counter[str]:
        """Why processes were replaced that had given every answer, and how often."""
        pools = [self._first.pool] + ([self._other.pool] if self._other is not None else [])
        return sum((Counter(pool.replaced) for pool in pools), Counter[str]())

    def decode(self, stream: bytes, *, shape: Shape = None, certain: bool = False) -> Decoded:
        """Decode one stream: what differs in the second process has the outcome unstable.

        Args:
            stream: of any length and content.
            shape: the height and width that the image must have.
            certain: ask the second process of any image.
        """
        decoded = self._first.decode(stream, shape)
        if decoded.outcome is Outcome.REFUSED:
            self._refused = stream, shape
        if decoded.image is not None:
            self.images += 1
            if certain or self._due(stream, shape):
                decoded = self._compared(decoded, stream, shape)
        self._account(stream, shape, decoded)
        return decoded

    def decode_many(
        self, streams: Sequence[bytes], *, shape: Shape, sample: Sequence[bool], known: Sequence[Image | None] = ()
    ) -> list[Decoded]:
        """Decode the streams of trials, in batches where the codec has them.

        Args:
            streams: of any length and content.
            shape: the height and width that the images must have.
            sample: which of those that give an image are looked at twice, where not all are.
            known: the clean images; a stream that still gives its own tells little, and is not in the sample.
        """
        (results,) = self.decode_groups([Group(streams, shape, sample, known)])
        return results

    def decode_groups(self, groups: Sequence[Group]) -> list[list[Decoded]]:
        """Decode streams of several shapes as :meth:`decode_many` does those of one, side by side."""
        results = self._first.decode_groups([(group.streams, group.shape) for group in groups])
        due = [self._chosen(group, found) for group, found in zip(groups, results, strict=True)]
        asked = [([group.streams[i] for i in some], group.shape) for group, some in zip(groups, due, strict=True)]
        there = self._second.decode_groups(asked) if any(due) else [[] for _ in groups]
        for group, found, some, others in zip(groups, results, due, there, strict=True):
            for i, other in zip(some, others, strict=True):
                found[i] = self._judged(found[i], other, group.streams[i], group.shape, batch=True)
            for stream, decoded in zip(group.streams, found, strict=True):
                if decoded.outcome is Outcome.REFUSED:
                    self._refused = stream, group.shape
                self._account(stream, group.shape, decoded)
        return results

    def _chosen(self, group: Group, results: Sequence[Decoded]) -> list[int]:
        """Of which streams a second process is asked: in another order, and so in other batches."""
        known, shape = group.known, group.shape
        shown = [i for i, decoded in enumerate(results) if decoded.image is not None]
        self.images += len(shown)
        intact = {i for i in shown if known and results[i].judged(known[i]) is Outcome.INTACT}
        due = [
            i for i in shown if (group.sample[i] and i not in intact) or self._due(group.streams[i], shape, share=False)
        ]
        due.reverse()
        return due

    def _due(self, stream: bytes, shape: Shape, *, share: bool = True) -> bool:
        """Whether an image is looked at twice: all of them where that is cheap, cut streams, and a share."""
        if self._suspicious or self.work.clean(shape).effort < FAST:
            return True
        whole = self.work.clean_stream(shape)
        if whole is not None and len(stream) < len(whole):
            return True
        return share and hashlib.sha256(stream).digest()[0] % SHARE == 0

    def _compared(self, decoded: Decoded, stream: bytes, shape: Shape) -> Decoded:
        if self._refused is not None and self.asked % SHARE == 0:
            self._second.decode(*self._refused)
        return self._judged(decoded, self._second.decode(stream, shape), stream, shape, batch=False)

    def _judged(self, decoded: Decoded, there: Decoded, stream: bytes, shape: Shape, *, batch: bool) -> Decoded:
        self.asked += 1
        # Filled memory counts as used, and filling it takes time.
        slow = there.outcome is Outcome.HUNG and 4 * decoded.seconds > self._limit
        if slow or there.outcome is Outcome.EXHAUSTED or difference(decoded, there) is None:
            return decoded
        if batch and self._first.pool.batched and there.image is not None:
            if _close(decoded, there):
                return decoded
            # A batch may add up in another order; alone, both must say the same.
            alone, there = self._first.decode(stream, shape), self._second.decode(stream, shape)
        else:
            alone = decoded
        said = difference(alone, there)
        if said is None:
            return decoded
        self._suspicious = True
        return Decoded(
            None,
            Outcome.UNSTABLE,
            f"decoded again in another process: {said}",
            decoded.seconds,
            decoded.warnings,
            memory=decoded.memory,
        )

    def _account(self, stream: bytes, shape: Shape, decoded: Decoded) -> None:
        held = self.work.saw(stream, shape, decoded, lambda: self._repeated(stream, shape))
        if held:
            self._first.held(stream, held)

    def _repeated(self, stream: bytes, shape: Shape) -> Iterator[Decoded]:
        """The same decode over and over, in a fresh process that has only decoded a clean stream before."""
        while True:
            self._first.fresh()
            whole = self.work.clean_stream(shape)
            if whole is not None:
                self._first.pool.decode(whole, shape=shape)
            yield self._first.pool.decode(stream, shape=shape)


def _close(decoded: Decoded, there: Decoded) -> bool:
    assert decoded.image is not None
    assert there.image is not None
    away = np.abs(there.image.astype(np.int16) - decoded.image)
    return bool(away.max() <= BATCH_TOLERANCE[0] and away.mean() <= BATCH_TOLERANCE[1])


def sampled(position: int, trials: int) -> bool:
    """Whether the trial at ``position`` of ``trials`` is looked at twice: one in eight, and eight at least."""
    return position % max(1, min(8, trials // 8)) == 0
