"""Cross-platform decode: what one stream becomes where floats are rounded otherwise, all on one machine.

A decoder whose entropy coder asks floats what comes next may read rubbish on another processor. Here it runs in
processes with other instructions, with and without oneDNN, with one thread and with two, and on a GPU.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from robustkit.codec import Image
from robustkit.isolation import CodecWorkers, Decoded
from robustkit.judging.golden_files import Tolerance, distance
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Clean
from robustkit.outcome import Outcome
from robustkit.registry import CodecSpec, CodecUnavailable

#: Seconds of a decode above which a process decodes under two arithmetics instead of four.
SLOW = 0.25
#: Seconds of a whole image's decode up to which so many are decoded, for each process of the effort: where many symbols
#: hang on floats, only a large image shows one that falls on the other side. Above the last a small crop must do.
WHOLE = ((0.1, 6), (0.5, 2))
#: Processes from which on a whole image is decoded too, however slow.
MANY = 4
#: Where Linux shows an NVIDIA GPU that can be used.
_GPU = Path("/dev/nvidiactl")
_CPUINFO = Path("/proc/cpuinfo")
#: What a processor must have for PyTorch to use the kernels of that name.
_FLAGS: Mapping[str, frozenset[str]] = {
    "avx2": frozenset({"avx2", "fma"}),
    "avx512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"}),
}
#: Variables that have libraries compute as on a processor with those instructions and no others. PyTorch's own leaves
#: out oneDNN and MKL, which have the convolutions and matrix products.
_VARIABLES: Mapping[str, Mapping[str, str]] = {
    "default": {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Nehalem"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2", "OPENBLAS_CORETYPE": "Haswell"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OPENBLAS_CORETYPE": "SkylakeX"},
}
#: How names of NumPy's instruction sets begin that lie beyond a capability.
_BEYOND = {"default": ("X86_V3", "X86_V4", "AVX", "FMA"), "avx2": ("X86_V4", "AVX512"), "avx512": ()}


class Match(StrEnum):
    """What two decodes of one stream are to each other."""

    SAME = "same pixels"
    WITHIN = "within the tolerance"
    UNDECIDED = "undecided"  #: time or memory ran out
    DESYNCHRONISED = "desynchronised"  #: pixels beyond the tolerance, or no image


@dataclass(frozen=True)
class Difference:
    """How far two decodes of one stream lie apart.

    Attributes:
        match: what they are to each other.
        maximum, mean: of the samples' absolute differences, in grey levels; 255 where one is no image of that shape.
        said: why there is no image, if so.
    """

    match: Match
    maximum: float = 0.0
    mean: float = 0.0
    said: str = ""

    @property
    def rank(self) -> tuple[int, float, float]:
        """What differs more comes later."""
        return list(Match).index(self.match), self.maximum, self.mean

    def __str__(self) -> str:
        return self.levels if self.match in (Match.SAME, Match.WITHIN) else f"{self.match}: {self.levels}"

    @property
    def levels(self) -> str:
        """How far they lie apart, or why there is nothing to compare."""
        if self.said or self.match is Match.SAME:
            return self.said or str(self.match)
        return f"up to {self.maximum:g} grey level{'s' if self.maximum != 1 else ''}, {self.mean:.3g} on average"


@dataclass(frozen=True)
class Arithmetic:
    """How one process computed.

    Attributes:
        place: "default", "avx2" or "avx512", the instructions; or "cuda".
        onednn: whether with oneDNN's kernels; ``None`` for a decoder without torch, and on a GPU.
        threads: how many torch used; ``None`` likewise.
    """

    place: str
    onednn: bool | None = None
    threads: int | None = None

    def __str__(self) -> str:
        if self.onednn is None or self.threads is None:
            return self.place
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.place}, {threads}" + ("" if self.onednn else ", no oneDNN")


#: oneDNN and threads, as they go together in each process; where decoding is slow, only those two that differ in both.
TOGETHER = ((True, 1), (True, 2), (False, 1), (False, 2))
FEW = ((True, 1), (False, 2))


@dataclass(frozen=True)
class Row:
    """What one arithmetic makes of streams, held against their clean decodes here.

    Attributes:
        arithmetic: which.
        clean: the round trip here of the stream where they lie furthest apart.
        difference: how far.
        streams: how many were decoded.
    """

    arithmetic: Arithmetic
    clean: Clean
    difference: Difference
    streams: int


def capabilities() -> tuple[str, ...]:
    """The instruction sets that this processor has, by PyTorch's names, the least first."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ("default",)
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ("default",)
    flags = frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
    return ("default", *(name for name, needed in _FLAGS.items() if needed <= flags))


def variables(capability: str) -> dict[str, str]:
    """Variables by which a process computes as on a processor of that capability: "default", "avx2" or "avx512"."""
    found = {"ATEN_CPU_CAPABILITY": capability, **_VARIABLES[capability]}
    if disabled := [name for name in _numpy_dispatch() if name.startswith(_BEYOND[capability])]:
        found["NPY_DISABLE_CPU_FEATURES"] = " ".join(disabled)
    return found


def _numpy_dispatch() -> Sequence[str]:
    """The instruction sets that NumPy chooses among when it starts; it warns of others."""
    try:
        umath = importlib.import_module("numpy._core._multiarray_umath")
    except ImportError:
        return ()
    features = getattr(umath, "__cpu_features__", {})
    return [name for name in getattr(umath, "__cpu_dispatch__", ()) if features.get(name)]


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, as far as the kernel shows."""
    return _GPU.exists()


def places(device: str = "cpu") -> list[str]:
    """Where streams are decoded again, what differs most first.

    Args:
        device: on which the reference is decoded, "cpu" or "cuda".
    """
    least, *more = capabilities()
    return [least, *(["cuda"] if device != "cuda" and has_gpu() else []), *more]


def on_device(spec: CodecSpec, device: str) -> CodecSpec:
    """The codec on another device class, "cpu" or "cuda": its setting ``device``."""
    settings = {name: value for name, value in spec.settings.items() if name != "device"}
    return replace(spec, settings=settings if device == "cpu" else {**settings, "device": device})


def compared(expected: Image, there: Decoded, tolerance: tuple[float, float]) -> Difference:
    """Hold a decode against the expected image.

    Args:
        expected: uint8, H x W x 3.
        there: what came of the same stream elsewhere.
        tolerance: grey levels at worst, and on average, that are no desynchronisation.
    """
    if there.image is None:
        first = there.message.strip().partition("\n")[0]
        undecided = there.outcome in (Outcome.HUNG, Outcome.EXHAUSTED)
        match = Match.UNDECIDED if undecided else Match.DESYNCHRONISED
        return Difference(match, 255.0, 255.0, f"{there.outcome}: {first}")
    return apart(expected, there.image, tolerance)


def apart(expected: Image, image: Image, tolerance: tuple[float, float]) -> Difference:
    """Hold an image against the expected one; both uint8, H x W x 3."""
    if expected.shape != image.shape:
        said = f"an image of {image.shape[0]} x {image.shape[1]}"
        return Difference(Match.DESYNCHRONISED, 255.0, 255.0, said)
    maximum, mean = distance(expected, image)
    if not maximum:
        return Difference(Match.SAME)
    admitted = Tolerance(*tolerance).admits(expected, image)
    return Difference(Match.WITHIN if admitted else Match.DESYNCHRONISED, maximum, mean)


def decodes(
    pool: CodecWorkers, place: str, streams: Sequence[tuple[bytes, tuple[int, int]]]
) -> Iterator[tuple[Arithmetic, list[Decoded]]]:
    """Decode streams in one process under each of its arithmetics.

    Args:
        pool: one process with the hook :data:`robustkit.isolation.ARITHMETIC`, started with :func:`variables`.
        place: its instructions, or "cuda".
        streams: each with the height and width of its image.
    """

    def all_of(**settings: bool | int) -> list[Decoded]:
        pool.hook(**(settings or {"ulps": 0}))
        return [pool.decode(stream, shape=shape) for stream, shape in streams]

    onednn, threads = TOGETHER[0]
    found = all_of() if place == "cuda" else all_of(onednn=onednn, threads=threads)
    told = pool.hook()
    if place == "cuda" or told.get("torch") is None:
        yield Arithmetic(place), found
        return
    if told.get("applied") is not True:
        # It imported torch in its first decode.
        found = all_of(onednn=onednn, threads=threads)
    yield Arithmetic(place, onednn, threads), found
    slow = max(decoded.seconds for decoded in found) > SLOW
    for onednn, threads in (FEW if slow else TOGETHER)[1:]:
        yield Arithmetic(place, onednn, threads), all_of(onednn=onednn, threads=threads)


def matrix(
    chosen: Sequence[str],
    open_in: Callable[[str], CodecWorkers],
    streams: Sequence[tuple[bytes, tuple[int, int]]],
) -> Iterator[tuple[Arithmetic, list[Decoded]]]:
    """Decode streams in one process after the other, each with other instructions.

    It ends after the first where that has no torch. A place where the codec can't be loaded, a GPU that it has no use
    for, is left out.

    Args:
        chosen: of :func:`places`.
        open_in: starts the process of a place.
        streams: each with the height and width of its image.

    Raises:
        CodecUnavailable: the codec can't be loaded at the first place.
    """
    for place in chosen:
        try:
            pool = open_in(place)
        except CodecUnavailable:
            if place == chosen[0]:
                raise
            continue
        try:
            if place == "cuda" and pool.attributes.device != "cuda":
                continue
            for arithmetic, found in decodes(pool, place, streams):
                yield arithmetic, found
                if arithmetic.onednn is None and place != "cuda":
                    return
        finally:
            if place != chosen[0]:
                pool.close()


def chosen(subject: Subject) -> list[Clean]:
    """The round trips whose streams are decoded elsewhere: whole images where that is quick, else small crops."""
    wholes = list(subject.clean.values())
    seconds = min(clean.decoded.seconds for clean in wholes)
    count = next((count for limit, count in WHOLE if seconds <= limit), 0)
    if count:
        return wholes[: count * subject.effort.processes]
    smalls = list(subject.small.values())[: subject.effort.processes]
    return smalls if subject.effort.processes < MANY else [*smalls, wholes[0]]


def cross_platform(subject: Subject) -> Iterator[Row]:
    """Decode clean streams in other arithmetics; how many of each, the effort says.

    Yields:
        For each arithmetic the stream where its image lies furthest from the one here.
    """
    cleans = chosen(subject)

    def open_in(place: str) -> CodecWorkers:
        return subject.arithmetic if place == "default" else subject.elsewhere_computing(place)

    streams = [(clean.bitstream, clean.shape) for clean in cleans]
    for arithmetic, found in matrix(places(subject.device)[: subject.effort.processes], open_in, streams):
        rows = []
        for clean, decoded in zip(cleans, found, strict=True):
            assert clean.decoded.image is not None
            rows.append(Row(arithmetic, clean, compared(clean.decoded.image, decoded, subject.tolerance), len(cleans)))
        yield max(rows, key=lambda row: row.difference.rank)
