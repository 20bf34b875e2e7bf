"""History: what a process decoded before must not show in what it decodes next, nor end it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np

from robustkit.channels import BSC
from robustkit.codec import EncodeError, Layout
from robustkit.isolation import CodecWorkers, Decoded, WorkerError
from robustkit.judging.opinion import LeftBehind, difference
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Clean
from robustkit.judging.work import LOST
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.spelling import place

#: How many of the small images are gone through; one where decoding is slow.
IMAGES = 2
#: So many damaged streams say something of what decoding costs and leaves behind.
FEW = 16
#: Cost of a decode above which fewer streams are, and each of them after one other alone.
SLOW = 0.05


@dataclass(frozen=True)
class Forgetting:
    """A stream that became something else after another history.

    Attributes:
        clean: the round trip whose stream it is.
        pattern: the damage to it.
        said: where it was decoded, and what is different.
    """

    clean: Clean
    pattern: ErrorPattern
    said: str


@dataclass
class Histories:
    """What decoding the same streams after different others has shown.

    Attributes:
        streams: how many were compared.
        decodes: how often they were decoded.
        different: the first that became something else.
    """

    streams: int = 0
    decodes: int = 0
    different: Forgetting | None = None
    _expected: dict[bytes, Decoded] = field(default_factory=dict, repr=False)

    def compare(self, clean: Clean, pattern: ErrorPattern, decoded: Decoded, where: str) -> bool:
        """Take note of what a stream was decoded to; whether it came out as it did before."""
        stream = pattern.apply(clean.bitstream)
        first = self._expected.setdefault(stream, decoded)
        self.decodes += 1
        self.streams = len(self._expected)
        said = difference(first, decoded)
        if said is not None and self.different is None:
            self.different = Forgetting(clean, pattern, f"{where}: {said}")
        return said is None


def histories(subject: Subject) -> Histories:
    """Decode damaged streams as the first of a process, after another image, after a refusal, after a cut stream.

    Two processes decode side by side. It ends with the first stream that differs.

    Args:
        subject: the codec; its small images are used.
    """
    with ThreadPoolExecutor(1) as aside:
        return _histories(subject, aside)


def _histories(subject: Subject, aside: ThreadPoolExecutor) -> Histories:
    found = Histories()
    smalls = list(subject.small.values())
    here, there = subject.workers, subject.elsewhere
    slow = any(subject.work.clean(clean.shape).effort > SLOW for clean in smalls[:IMAGES])
    for number, clean in enumerate(smalls[: 1 if slow else IMAGES]):
        probes = _probes(subject, clean)
        # Streams of other kinds come first in the first process, cut ones in another.
        firsts = [p for p in probes if not p.harmless][:: 2 if number else 1][: IMAGES - number]
        first = aside.submit(_as_first, there, [(clean, probe) for probe in firsts])
        other = smalls[(number + 1) % len(smalls)]
        refused = _refused(subject, clean)
        before = [
            ("another image", other, ErrorPattern(other.bits)),
            ("the clean stream", clean, ErrorPattern(clean.bits)),
        ]
        before += [("a stream that was cut off", clean, _cut(clean))]
        before += [("a refused stream", clean, refused)] if refused is not None else []
        pairs = [(after, probe) for after in before for probe in probes]
        if subject.work.clean(clean.shape).effort > SLOW:
            pairs = [(after, probes[(i + number) % len(probes)]) for i, after in enumerate(before)]
        after = aside.submit(_after, there, [((source, pattern), (clean, p)) for (_, source, pattern), p in pairs])
        again = [(probe, f"in {where}") for where in ("the same process", "the same process again") for probe in probes]
        decoded = [_decode(here, clean, probe) for probe, _ in again]
        tried = [
            *zip(again, decoded, strict=True),
            *zip(((p, "as the first of another process") for p in firsts), first.result(), strict=True),
            *zip(((p, f"in another process, after {said[0]}") for said, p in pairs), after.result(), strict=True),
        ]
        for (probe, where), image in tried:
            if not found.compare(clean, probe, image, where):
                return found
    return found


def _decode(pool: CodecWorkers, clean: Clean, pattern: ErrorPattern) -> Decoded:
    return pool.decode(pattern.apply(clean.bitstream), shape=clean.shape)


def _decode_each(pool: CodecWorkers, streams: Sequence[tuple[Clean, ErrorPattern]]) -> list[Decoded]:
    """Decode streams one by one, as many side by side as there are processes."""
    with ThreadPoolExecutor(len(pool.pids)) as executor:
        return list(executor.map(lambda stream: _decode(pool, *stream), streams))


def _after(
    pool: CodecWorkers, streams: Sequence[tuple[tuple[Clean, ErrorPattern], tuple[Clean, ErrorPattern]]]
) -> list[Decoded]:
    """Decode each second stream after the first, in one process: nobody else asks for one, so it is always the same."""
    found = []
    for before, stream in streams:
        _decode(pool, *before)
        found.append(_decode(pool, *stream))
    return found


def _as_first(pool: CodecWorkers, streams: Sequence[tuple[Clean, ErrorPattern]]) -> list[Decoded]:
    """Decode each stream as the first of a process."""
    found: list[Decoded] = []
    while len(found) < len(streams):
        pool.restart()
        found += _decode_each(pool, streams[len(found) : len(found) + len(pool.pids)])
    return found


def bare_decodes(subject: Subject) -> Histories:
    """Encode small images, and decode their streams where neither the encoder's process nor its files are left.

    Args:
        subject: the codec; an image that can't be encoded again is left out.
    """
    found = Histories()
    smalls = list(subject.small.values())
    if any(subject.work.clean(clean.shape).effort > SLOW for clean in smalls):
        smalls = smalls[:IMAGES]
    there, written = subject.elsewhere, []
    with ThreadPoolExecutor(len(there.pids)) as executor:
        streams = list(executor.map(lambda clean: _encoded(there, clean), smalls))
    for clean, stream in zip(smalls, streams, strict=True):
        if stream is None:
            continue
        if stream != clean.bitstream:
            clean = replace(clean, bitstream=stream, layout=Layout((), 8 * len(stream)))
        written.append((clean, ErrorPattern(clean.bits)))
    for whole, decoded in zip(written, _decode_each(there, written) if written else [], strict=True):
        found.compare(*whole, decoded, "")
    bare = subject.bare_elsewhere()
    for whole, decoded in zip(written, _decode_each(bare, written) if written else [], strict=True):
        if not found.compare(*whole, decoded, "where neither the process that encoded it nor its files were left"):
            break
    return found


def _encoded(pool: CodecWorkers, clean: Clean) -> bytes | None:
    try:
        return pool.encode(clean.original)
    except (EncodeError, WorkerError):
        return None


def few_decodes(subject: Subject) -> None:
    """Decode some damaged streams, unless searches or trials have."""
    if subject.work.decodes >= FEW:
        return
    for clean in list(subject.small.values())[:IMAGES]:
        patterns = [_cut(clean), *_harsh(subject, clean), *_scattered(subject, clean, FEW)]
        for pattern in patterns[:: 1 if subject.work.clean(clean.shape).effort < SLOW else 3]:
            subject.decode(pattern.apply(clean.bitstream), shape=clean.shape)


def trouble_left(subject: Subject) -> list[LeftBehind]:
    """What decoding has left behind so far, what is proved first."""
    found = list(subject.opinions.left)
    for reason, count in subject.opinions.replaced().items():
        # An outcome says that memory ran out.
        if not reason.startswith("ran out of memory"):
            times = "once" if count == 1 else f"{count} times"
            thread = reason.startswith("left the thread")
            said = f"a process was replaced {times}: {reason}"
            if reason.endswith(" behind"):
                said += "; one that is to stay is started in the codec's constructor"
            found.append(LeftBehind(said, None, None, (), harmless=thread))
    return sorted(found, key=lambda each: not each.proved)


def kept_streams(subject: Subject, found: LeftBehind) -> list[str]:
    """Keep the streams that were decoded before something went wrong, and say where they are, line by line."""
    if found.stream is None:
        return []
    folder = subject.directory / "replay" / "left-behind"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["it came again after these streams, in this order:" if found.again else "the streams before it, in order:"]
    for stream in [*found.before, found.stream]:
        file = folder / f"{sha256(stream).hexdigest()[:16]}.bin"
        file.write_bytes(stream)
        lines.append(f"  {place(file)}")
    return lines


def _probes(subject: Subject, clean: Clean) -> Sequence[ErrorPattern]:
    """Streams of an image that are decoded again: whole, with some bits flipped, cut off."""
    flips = 2 if subject.work.clean(clean.shape).effort > SLOW else 5
    probes = []
    for pattern in _scattered(subject, clean, 4 * flips):
        # A refusal shows nothing of what was there before; what dies is another claim's business.
        if not pattern.harmless and _decoded(subject, clean, pattern).image is not None:
            probes.append(pattern)
        if len(probes) == flips:
            break
    cut = _cut(clean)
    if _decoded(subject, clean, cut).outcome not in LOST:
        probes.insert(1, cut)
    return [*probes, ErrorPattern(clean.bits)]


def _decoded(subject: Subject, clean: Clean, pattern: ErrorPattern) -> Decoded:
    return subject.workers.decode(pattern.apply(clean.bitstream), shape=clean.shape)


def _scattered(subject: Subject, clean: Clean, count: int) -> Iterator[ErrorPattern]:
    for number in range(count):
        ber = 1e-3 if number % 2 else 1e-2
        yield BSC(ber).draw(clean.bits, clean.layout, codec=subject.own_name, image=clean.image, trial=number, seed=1)


def _cut(clean: Clean) -> ErrorPattern:
    return ErrorPattern(clean.bits, keep=3 * clean.bits // 32)


def _refused(subject: Subject, clean: Clean) -> ErrorPattern | None:
    """Damage that the codec refuses: a flip in front, many flips, more flips in front, a stream of a few bytes."""
    first, *harsh = _harsh(subject, clean)
    # Who lets one flip in front pass may repair them all.
    many = [pattern for pattern in harsh if len(pattern.flips) > 1]
    for pattern in [first, *many, *(pattern for pattern in harsh if len(pattern.flips) <= 1)]:
        if _decoded(subject, clean, pattern).outcome is Outcome.REFUSED:
            return pattern
    return None


def _harsh(subject: Subject, clean: Clean) -> Iterator[ErrorPattern]:
    for bit in range(0, min(clean.bits, 64), 9):
        yield ErrorPattern(clean.bits, np.array([bit]))
    for number in range(4):
        yield BSC(0.1).draw(clean.bits, clean.layout, codec=subject.own_name, image=clean.image, trial=number, seed=3)
    for size in (8, 1, 0):
        yield ErrorPattern(clean.bits, keep=min(size, clean.bits))
