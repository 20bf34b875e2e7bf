"""The pool: encode, decode and ask for layouts in worker processes, with one outcome for each bitstream."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from robustkit.codec import DecodeError, EncodeError, Image, Layout, Region
from robustkit.isolation.answer import Answer, failed
from robustkit.isolation.decoded import Decoded
from robustkit.isolation.hook import Hook
from robustkit.isolation.limits import Limits
from robustkit.isolation.process import Worker, WorkerDied
from robustkit.isolation.start import WorkerError
from robustkit.isolation.streams import Streams, digest
from robustkit.outcome import Outcome
from robustkit.pixels import check_image
from robustkit.profile import Profile, ProfileError
from robustkit.registry import CodecSpec, CodecUnavailable


class Attributes(NamedTuple):
    """What a codec says of itself, see :class:`robustkit.Codec`, and what its worker saw once it was loaded.

    Attributes:
        name, family, known_defects: the codec's own.
        device: device class that it computes on: "cpu", "cuda".
        sources: SHA-256 of the Python files that its package had loaded by then, in hexadecimal.
        tolerance: how far its pixels may lie apart between machines, in grey levels: at worst, on average.
    """

    name: str
    family: str
    known_defects: Mapping[str, str]
    device: str
    sources: str
    tolerance: tuple[float, float]


@dataclass(frozen=True)
class _BatchFailed(Exception):
    outcome: Outcome
    message: str
    seconds: float


class CodecWorkers:
    """One codec in ``workers`` processes, each of which may die without harm. Thread-safe.

    Args:
        spec: the codec and its settings (JSON values and paths). Workers import it with this process's ``sys.path``.
        workers: processes. With more than one (or under pytest-xdist) each gets its share of the cores, through
            ``OMP_NUM_THREADS``, unless that is set already.
        limits: time and memory of one decode.
        directory: bitstreams are written here before they are decoded, into a folder for each worker, and stay here
            after a failure, the newest ``streams.MOST_KEPT`` of a codec. A worker's temporary files lie beside its
            bitstreams, and last as long as its process.
        batch: largest number of bitstreams in one ``decode_batch``.
        environment: variables for the processes on top of this one's, such as ``MALLOC_PERTURB_`` or ``LC_ALL``.
        directory_of_work: the processes' working directory; this one's if not given.
        loaded_before: whether another pool has loaded the codec.
        hook: what the processes run around each decode.

    Raises:
        CodecUnavailable: the codec can't be loaded; the message says why.
        WorkerError: it was loaded before, and fails in the same way in two more processes.
        OSError: ``directory`` can't be made.
    """

    def __init__(
        self,
        spec: CodecSpec,
        *,
        workers: int = 1,
        limits: Limits | None = None,
        directory: str | os.PathLike[str],
        batch: int = 16,
        environment: Mapping[str, str] | None = None,
        directory_of_work: str | os.PathLike[str] | None = None,
        loaded_before: bool = False,
        hook: Hook | None = None,
    ) -> None:
        if workers < 1 or batch < 1:
            raise ValueError(f"workers = {workers!r}, batch = {batch!r}: give 1 or more")
        self._streams = Streams(directory, spec.name)
        self._batch = batch
        self._workers: list[Worker] = []
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._close = weakref.finalize(self, _close_all, self._workers)
        variables = {**_share_of_cores(workers), **(environment or {})}
        try:
            for _ in range(workers):
                worker = Worker(
                    spec,
                    limits or Limits(),
                    self._streams.desk(),
                    environment=variables,
                    directory=directory_of_work,
                    hook=hook,
                )
                worker.has_loaded = loaded_before
                self._workers.append(worker)
                self._idle.put(worker)
            about = self._workers[0].about()
            for worker in self._workers:
                worker.has_loaded = True
            try:
                profile = about["profile"]
                self._profile = None if profile is None else Profile.from_mapping(profile)
            except ProfileError as error:
                raise CodecUnavailable(f"codec {spec.name!r}: {error}") from error
        except BaseException:
            self.close()
            raise
        told = {name: about[name] for name in Attributes._fields}
        self._attributes = Attributes(**{**told, "tolerance": tuple(about["tolerance"])})
        self._hooked = hook is not None
        self._batched = bool(about["batched"])
        self._description: dict[str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and all that they started. Harmless the second time."""
        self._close()

    @property
    def attributes(self) -> Attributes:
        """What the codec is."""
        return self._attributes

    @property
    def batched(self) -> bool:
        """Whether the codec has a ``decode_batch`` of its own."""
        return self._batched

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes' ids."""
        return tuple(w.pid for w in self._workers if w.pid is not None)

    def restart(self) -> None:
        """Put a fresh process, which has decoded nothing, in place of each."""
        borrowed = [self._idle.get() for _ in self._workers]
        try:
            for worker in borrowed:
                worker.restart()
        finally:
            for worker in borrowed:
                self._idle.put(worker)

    @property
    def replaced(self) -> Mapping[str, int]:
        """Why processes were replaced that had given every answer, and how often: a decoder left damage behind.

        Such as "left a process behind", "died of SIGSEGV between two decodes", "its memory grew by about 4 MiB a
        decode". A process that dies during a decode is not counted: its outcome says so.
        """
        return sum((w.replaced for w in self._workers), Counter[str]())

    @property
    def suspects(self) -> Mapping[str, tuple[str, ...]]:
        """For each reason in :attr:`replaced`, what such a process had decoded, as ``Decoded.after``."""
        return {why: tuple(map(digest, found)) for w in self._workers for why, found in w.suspects.items()}

    @property
    def processor(self) -> float:
        """Seconds of all that was asked so far, as ``Decoded.processor``."""
        return sum(worker.processor for worker in self._workers)

    def profile(self) -> Profile | None:
        """What the codec promises."""
        return self._profile

    def describe(self) -> dict[str, str]:
        """The codec's facts for reports: versions of native libraries, device, prior, settings.

        Raises:
            WorkerError: its ``describe`` failed.
        """
        if self._description is None:
            with self._borrow() as worker:
                answer = self._succeed(worker, "describe", ())
                with self._living("describe"):
                    if not isinstance(answer.value, dict) or not all(isinstance(v, str) for v in answer.value.values()):
                        raise worker.garbled(TypeError("not a description"))
                self._description = answer.value
                worker.done(answer)
        return dict(self._description)

    def identify(self) -> dict[str, str]:
        """What the codec is made of, as far as its process knows: by name, a kind and a SHA-256 with a space between.

        Kinds are "package", its Python files; "library", native libraries that are loaded; "program", what it runs;
        "weights", files that the codec says it has read, as ``weight_files``.

        Raises:
            WorkerError: the process failed.
        """
        with self._borrow() as worker:
            answer = self._succeed(worker, "identify", ())
            with self._living("identify"):
                if not isinstance(answer.value, dict) or not all(isinstance(v, str) for v in answer.value.values()):
                    raise worker.garbled(TypeError("not an identity"))
            worker.done(answer)
        return {str(name): text for name, text in answer.value.items()}

    def hook(self, **settings: Any) -> dict[str, Any]:
        """Give the hook of every process settings, JSON values, in place of those that it has.

        Without any, they stay. A process that takes another's place gets them too.

        Returns:
            What the hook of the first says of its last decode; it runs beside the codec, so that is no proof.

        Raises:
            ValueError: the pool was made without a hook.
            WorkerError: the hook failed.
        """
        if not self._hooked:
            raise ValueError("this pool has no hook: give CodecWorkers one")
        told: dict[str, Any] | None = None
        borrowed = [self._idle.get() for _ in self._workers]
        try:
            for worker in self._workers:
                with self._living("hook"):
                    answer = worker.hook(settings or None)
                    worker.done(answer)
                    if answer.failure is not None:
                        raise WorkerError(f"the hook of codec {self._attributes.name!r}: {answer.failure[1]}")
                    if not isinstance(answer.value, dict):
                        raise worker.garbled(TypeError("not what a hook says"))
                told = answer.value if told is None else told
        finally:
            for worker in borrowed:
                self._idle.put(worker)
        assert told is not None
        return told

    def encode(self, image: Image, weights: Image | None = None) -> bytes:
        """Compress ``image`` (uint8, H x W x 3).

        Args:
            image: what to compress.
            weights: importance of its pixels, uint8 ``(h, w)``, for a codec whose ``encode`` takes ``weights``.

        Raises:
            EncodeError: the codec refuses the image or the weights, or takes no weights.
            WorkerError: anything else that is not a bitstream.
        """
        check_image(image)
        if weights is not None and (weights.dtype != np.uint8 or weights.ndim != 2):
            raise ValueError(f"weights are {weights.dtype}, shape {weights.shape}: give uint8, height x width")
        buffers = [np.ascontiguousarray(part) for part in (image, weights) if part is not None]
        with self._borrow() as worker:
            answer = self._succeed(
                worker,
                "encode",
                buffers,
                refusal=EncodeError,
                image=list(image.shape),
                weights=None if weights is None else list(weights.shape),
            )
            with self._living("encode"):
                stream = worker.payload(answer)
            worker.done(answer)
        return stream

    def layout(self, bitstream: bytes) -> Layout:
        """The regions of ``bitstream``.

        Raises:
            DecodeError: the codec can't name the regions of a stream so damaged.
            WorkerError: its ``layout`` failed.
        """
        with self._borrow() as worker:
            answer = self._succeed(worker, "layout", [bitstream], refusal=DecodeError)
            with self._living("layout"):
                payload = worker.payload(answer)
            worker.done(answer)
        try:
            rows = json.loads(payload)
            return Layout(tuple(Region(n, start, stop, header) for n, start, stop, header in rows), answer.value)
        except (ValueError, TypeError, RecursionError) as error:
            raise WorkerError(f"layout of codec {self._attributes.name!r}: {error}") from error

    def decode(self, bitstream: bytes, *, shape: tuple[int, int] | None = None) -> Decoded:
        """Decode one bitstream. Whatever the decoder does is in the answer; none of it is raised.

        Args:
            bitstream: of any length and content.
            shape: the height and width that the image must have.

        Raises:
            CodecUnavailable: a new worker can't load the codec now, for a reason that may be the machine's.
            WorkerError: the codec can be loaded once, and not again.
            OSError: the bitstream can't be written to disk.
        """
        with self._borrow() as worker:
            (decoded,) = self._on_disk(worker, [bitstream], lambda: [self._one(worker, bitstream, shape, "decode")])
        return decoded

    def decode_many(self, bitstreams: Sequence[bytes], *, shape: tuple[int, int] | None = None) -> list[Decoded]:
        """Decode bitstreams, through ``decode_batch`` where the codec has one of its own.

        A batch that fails as a whole is halved until each failure has its bitstream. Where the parts then decode
        without one, each of them carries a warning with what happened to the batch.

        Args and errors as :meth:`decode`.
        """
        (decoded,) = self.decode_groups([(bitstreams, shape)])
        return decoded

    def decode_groups(self, groups: Sequence[tuple[Sequence[bytes], tuple[int, int] | None]]) -> list[list[Decoded]]:
        """Decode groups of bitstreams, each of one shape, as :meth:`decode_many` does, all of them side by side.

        With as many groups as processes a batch is no smaller than it must be: of small images a large one is cheaper.

        Args:
            groups: bitstreams of any length and content, and the height and width that their images must have.

        Raises:
            as :meth:`decode`.
        """
        share = -(-len(self._workers) // max(1, len(groups)))
        chunks = []
        for number, (bitstreams, shape) in enumerate(groups):
            size = _even(len(bitstreams), self._batch, share)
            chunks += [(number, bitstreams[i : i + size], shape) for i in range(0, len(bitstreams), size)]
        found: list[list[Decoded]] = [[] for _ in groups]
        if len(self._workers) == 1 or len(chunks) <= 1:
            for number, chunk, shape in chunks:
                found[number] += self._chunk(chunk, shape)
            return found
        with ThreadPoolExecutor(len(self._workers)) as executor:
            futures = [(number, executor.submit(self._chunk, chunk, shape)) for number, chunk, shape in chunks]
            try:
                for number, future in futures:
                    found[number] += future.result()
                return found
            except BaseException:
                # Otherwise Ctrl-C would wait for every decode that is under way.
                executor.shutdown(wait=False, cancel_futures=True)
                self.close()
                raise

    def _chunk(self, streams: Sequence[bytes], shape: tuple[int, int] | None) -> list[Decoded]:
        with self._borrow() as worker:
            decoded: list[Decoded] = []
            while len(decoded) < len(streams):
                # No larger than the batch is by now: one that was found too slow has made it smaller.
                part = streams[len(decoded) : len(decoded) + self._batch]
                decoded += self._on_disk(worker, part, functools.partial(self._bisect, worker, part, shape))
            return decoded

    def _on_disk(self, worker: Worker, streams: Sequence[bytes], decode: Callable[[], list[Decoded]]) -> list[Decoded]:
        """Run ``decode`` while the streams lie in the worker's folder; those that fail are kept in the directory."""
        paths = []
        try:
            for stream in streams:
                paths.append(worker.desk.hold(stream))
            decoded = decode()
            for i, (stream, found) in enumerate(zip(streams, decoded, strict=True)):
                if found.outcome is not None and found.outcome.failure:
                    decoded[i] = replace(found, stream=self._streams.keep(stream))
            return decoded
        finally:
            for path in paths:
                worker.desk.release(path)

    def _bisect(self, worker: Worker, streams: Sequence[bytes], shape: tuple[int, int] | None) -> list[Decoded]:
        if not self._batched:
            return [self._one(worker, stream, shape, "decode") for stream in streams]
        if len(streams) == 1:
            return [self._one(worker, streams[0], shape, "decode_batch")]
        try:
            return self._together(worker, streams, shape)
        except _BatchFailed as failed:
            half = len(streams) // 2
            decoded = self._bisect(worker, streams[:half], shape) + self._bisect(worker, streams[half:], shape)
            if not any(d.outcome is failed.outcome or (d.outcome and d.outcome.failure) for d in decoded):
                if failed.outcome is Outcome.HUNG:
                    self._batch = min(self._batch, half)
                said = f"decode_batch of {len(streams)} {failed.outcome}, none of them alone: {failed.message}"
                decoded = [replace(d, warnings=(*d.warnings, said)) for d in decoded]
            return decoded

    def _together(self, worker: Worker, streams: Sequence[bytes], shape: tuple[int, int] | None) -> list[Decoded]:
        try:
            answer = worker.ask("decode_batch", streams, shape=shape)
            if answer.failure is not None:
                worker.done(answer)
                raise _BatchFailed(*answer.failure, answer.seconds)
            decoded = _read(worker, answer, len(streams), shape)
            if len(decoded) != len(streams):
                raise _BatchFailed(Outcome.MISSHAPEN, decoded[0].message, answer.seconds)
            share = 1 / len(streams)
            return [replace(d, seconds=share * answer.seconds, processor=share * answer.processor) for d in decoded]
        except WorkerDied as death:
            raise _BatchFailed(death.outcome, death.message, death.seconds) from None

    def _one(self, worker: Worker, stream: bytes, shape: tuple[int, int] | None, operation: str) -> Decoded:
        try:
            answer = worker.ask(operation, [stream], shape=shape)
            if answer.failure is not None:
                worker.done(answer)
                return Decoded(None, *answer.failure, answer.seconds, answer.warnings, **_taken(answer))
            (decoded,) = _read(worker, answer, 1, shape)
            return decoded
        except WorkerDied as death:
            after = tuple(map(digest, death.before))
            return Decoded(None, death.outcome, death.message, death.seconds, memory=death.memory, after=after)

    def _succeed(
        self,
        worker: Worker,
        operation: str,
        buffers: Sequence[bytes | Image],
        *,
        refusal: type[ValueError] | None = None,
        **more: Any,
    ) -> Answer:
        with self._living(operation):
            answer = worker.ask(operation, buffers, **more)
        if answer.failure is None:
            return answer
        worker.done(answer)
        outcome, message = answer.failure
        if outcome is Outcome.REFUSED and refusal is not None:
            raise refusal(message)
        raise WorkerError(f"{operation} of codec {self._attributes.name!r} {outcome}: {message}")

    @contextlib.contextmanager
    def _living(self, operation: str) -> Iterator[None]:
        try:
            yield
        except WorkerDied as death:
            raise WorkerError(
                f"{operation} of codec {self._attributes.name!r} {death.outcome}: {death.message}"
            ) from None

    @contextlib.contextmanager
    def _borrow(self) -> Iterator[Worker]:
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)


def _read(worker: Worker, answer: Answer, count: int, shape: tuple[int, int] | None) -> list[Decoded]:
    """The images and outcomes of one answer to ``count`` streams; or one outcome for them all.

    Raises:
        WorkerDied: the answer does not hold together; the decoder has written into the worker's connection.
    """
    try:
        if type(answer.value) is not list or len(answer.value) not in (1, count):
            raise ValueError(f"not {count} results")
        sizes = [_size(r["size"], shape) for r in answer.value if "size" in r]
        if len(answer.value) != count and sizes:
            raise ValueError(f"one image for {count} streams")
        images = iter(worker.images(answer, sizes))
        decoded = [
            Decoded(next(images), None, "", answer.seconds, answer.warnings, **_taken(answer))
            if "size" in r
            else Decoded(
                None, failed(r["outcome"]), str(r["message"]), answer.seconds, answer.warnings, **_taken(answer)
            )
            for r in answer.value
        ]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise worker.garbled(error) from None
    worker.done(answer)
    return decoded


def _taken(answer: Answer) -> dict[str, Any]:
    return {"memory": answer.memory, "processor": answer.processor}


def _size(found: object, shape: tuple[int, int] | None) -> tuple[int, int]:
    """The height and width that a worker announces, which are ``shape`` if that is known."""
    match found:
        case [int() as height, int() as width] if height > 0 and width > 0 and shape in (None, (height, width)):
            return height, width
    raise ValueError(f"not the image's size: {found!r:.99}")


def _close_all(workers: list[Worker]) -> None:
    for worker in workers:
        worker.close()


def _even(streams: int, batch: int, workers: int) -> int:
    """Streams in a batch, ``batch`` at the most, so that batches are alike and each worker has as many."""
    batches = -(-streams // (batch * workers)) * workers
    return -(-streams // batches) if batches else 1


def _share_of_cores(workers: int) -> dict[str, str]:
    """What keeps the native threads of all workers from outnumbering the cores; nothing for a worker alone."""
    if (workers == 1 and _processes() == 1) or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, own_cores() // workers))}


def own_cores() -> int:
    """Cores for this process, which shares them with others of pytest-xdist; 1 at least."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // _processes())


def _processes() -> int:
    tests = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    return max(1, int(tests)) if tests.isdecimal() else 1
