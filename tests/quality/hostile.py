"""Codecs that misbehave: each does one thing that a decoder must never do, on a damaged stream alone.

They share one small honest codec, a thumbnail whose stream holds seven copies of everything, so that damage is noticed
and the picture still comes out right: what happens next is the subclass's own doing.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import itertools
import json
import locale
import multiprocessing
import os
import platform
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np

import robustkit
from robustkit import Codec, DecodeError, EncodeError, Image, Layout, Profile, Promise, Region

BLOCK = 8
COPIES = 7
SIDE = 4096
HEADER = struct.Struct("!4sHHfI")
MAGIC = b"hstl"

libc = ctypes.CDLL(None)


def _majority(copies: np.ndarray) -> bytes:
    """Bitwise majority of uint8 rows."""
    bits = np.unpackbits(copies, axis=1)
    return np.packbits(2 * bits.sum(axis=0, dtype=np.int64) > len(copies)).tobytes()


class Thumbnail(Codec):
    """The honest part: one colour a block of 8 x 8 pixels, seven times over.

    Args:
        always: misbehave on intact streams too.
    """

    family: ClassVar[str] = "hostile"
    profile = Profile(bpp=2.75, quality=12.0, promises=(Promise("bsc(ber=0.001)", mean_drop=1.0, p5_drop=1.5),))

    def __init__(self, *, always: bool = False) -> None:
        self.always = always

    def encode(self, image: Image) -> bytes:
        height, width = image.shape[:2]
        if max(height, width) > SIDE:
            raise EncodeError(f"{height} x {width} pixels: at most {SIDE} a side")
        small = self._shrink(image)
        loss = float(np.mean((self._grow(small, height, width).astype(float) - image) ** 2))
        return self._pack(height, width, loss, small.tobytes())

    def decode(self, bitstream: bytes) -> Any:
        clean, loss, damaged = self._read(bitstream)
        return self.attack(clean, loss, bitstream) if damaged or self.always else clean

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Any:
        """What to do instead of returning ``clean``, whose mean squared error is ``loss``."""
        return clean

    def layout(self, bitstream: bytes) -> Layout:
        bits = 8 * len(bitstream)
        end = min(bits, 8 * COPIES * HEADER.size)
        return Layout((Region("header", 0, end, header=True), Region("thumbnail", end, bits)), bits)

    @staticmethod
    def _shrink(image: Image) -> Image:
        height, width = image.shape[:2]
        padded = np.pad(image, ((0, -height % BLOCK), (0, -width % BLOCK), (0, 0)), mode="edge")
        blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK, 3)
        return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)

    @staticmethod
    def _grow(small: Image, height: int, width: int) -> Image:
        return small.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width].copy()

    @staticmethod
    def _pack(height: int, width: int, loss: float, payload: bytes) -> bytes:
        check = zlib.crc32(struct.pack("!HHf", height, width, loss))
        return HEADER.pack(MAGIC, height, width, loss, check) * COPIES + payload * COPIES

    def _read(self, bitstream: bytes) -> tuple[Image, float, bool]:
        start = COPIES * HEADER.size
        if len(bitstream) < start:
            raise DecodeError(f"{len(bitstream)} bytes: the header alone has {start}")
        copies = np.frombuffer(bitstream[:start], dtype=np.uint8).reshape(COPIES, -1)
        magic, height, width, loss, check = HEADER.unpack(_majority(copies))
        if magic != MAGIC or check != zlib.crc32(struct.pack("!HHf", height, width, loss)):
            raise DecodeError("the header is beyond repair")
        rows, columns = -(-height // BLOCK), -(-width // BLOCK)
        length = rows * columns * 3
        arrived = bitstream[start : start + COPIES * length].ljust(COPIES * length, b"\0")
        payload = _majority(np.frombuffer(arrived, dtype=np.uint8).reshape(COPIES, -1))
        damaged = bitstream != self._pack(height, width, loss, payload)
        small = np.frombuffer(payload, dtype=np.uint8).reshape(rows, columns, 3)
        return self._grow(small, height, width), loss, damaged


@robustkit.register
class Honest(Thumbnail):
    """Does nothing wrong."""

    name = "hostile-honest"


# Death


@robustkit.register
class Segfault(Thumbnail):
    name = "hostile-segfault"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        ctypes.string_at(0)
        raise AssertionError("read address 0")


@robustkit.register
class Abort(Thumbnail):
    name = "hostile-abort"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        os.write(2, b"decoder.c:171: assertion 'index < size' failed\n")
        os.abort()


@robustkit.register
class ExitZero(Thumbnail):
    """Ends the process with every sign of success."""

    name = "hostile-exit-zero"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        os._exit(0)


@robustkit.register
class KillsItself(Thumbnail):
    name = "hostile-kill"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


# Time


@robustkit.register
class LoopsInPython(Thumbnail):
    name = "hostile-loop-python"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        while True:
            pass


@robustkit.register
class LoopsInC(Thumbnail):
    """Never lets go of the interpreter's lock, and never looks at a signal."""

    name = "hostile-loop-c"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        all(itertools.repeat(True))
        raise AssertionError("counted to infinity")


@robustkit.register
class Backtracks(Thumbnail):
    """A regular expression that takes 2^64 steps, in C, with the lock held."""

    name = "hostile-backtracks"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> None:
        re.match(r"(a|a)*$", "a" * 64 + "b")


@robustkit.register
class IgnoresAlarms(Thumbnail):
    """Blocks every signal that can be blocked, then sleeps through anything."""

    name = "hostile-ignores-alarms"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        while True:
            try:
                time.sleep(60)
            except BaseException:
                continue


@robustkit.register
class FloodsForEver(Thumbnail):
    name = "hostile-floods-for-ever"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        while True:
            os.write(1, b"spam " * 1000)
            os.write(2, b"eggs " * 1000)


# Memory


@robustkit.register
class PythonMemoryBomb(Thumbnail):
    name = "hostile-memory-python"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        held = []
        while True:
            held.append(bytearray(os.urandom(1 << 16) * 64))


@robustkit.register
class HugeAllocation(Thumbnail):
    """Believes a size that it read from the stream."""

    name = "hostile-memory-at-once"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> np.ndarray:
        return np.ones((1 << 20, 1 << 20, 3), dtype=np.uint8)


@robustkit.register
class NativeMemoryBomb(Thumbnail):
    """Allocates and touches until malloc gives up, then uses what it gave, as a C decoder without a check does."""

    name = "hostile-memory-native"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = (ctypes.c_size_t,)
        libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
        while True:
            libc.memset(libc.malloc(1 << 24), 1, 1 << 24)


class NativeMemoryBombOnCuda(NativeMemoryBomb):
    """The same, by a codec that says it computes on a GPU, so that no address space is capped."""

    name = "hostile-memory-native-on-cuda"
    device = "cuda:0"


@robustkit.register
class PoliteNativeMemoryBomb(Thumbnail):
    """Aborts with a C++ runtime's last words when an allocation fails."""

    name = "hostile-memory-bad-alloc"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = (ctypes.c_size_t,)
        if not libc.malloc(1 << 45):
            os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
            os.abort()
        raise AssertionError("32 TiB were there")


# Exceptions


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Torrential(Exception):
    def __str__(self) -> str:
        return "very long " * 10_000_000


def _make(kind: type[BaseException]) -> BaseException:
    if issubclass(kind, UnicodeDecodeError):
        return kind("utf-8", b"\xff", 0, 1, "damaged")
    if issubclass(kind, UnicodeEncodeError):
        return kind("ascii", "\xff", 0, 1, "damaged")
    if issubclass(kind, UnicodeTranslateError):
        return kind("\xff", 0, 1, "damaged")
    if issubclass(kind, ExceptionGroup):
        return kind("damaged", [ValueError("damaged")])
    if issubclass(kind, BaseExceptionGroup):
        return kind("damaged", [KeyboardInterrupt("damaged")])
    return kind("damaged")


#: Every built-in exception there is, BaseException, KeyboardInterrupt, SystemExit and GeneratorExit among them.
EXCEPTIONS: list[type[BaseException]] = [
    *dict.fromkeys(k for k in vars(builtins).values() if isinstance(k, type) and issubclass(k, BaseException)),
    Unprintable,
    Torrential,
]


@robustkit.register
class Raises(Thumbnail):
    """Raises ``EXCEPTIONS[n]``, n being the last byte of the damaged stream, taken round."""

    name = "hostile-raises"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        raise _make(EXCEPTIONS[bitstream[-1] % len(EXCEPTIONS)])


@robustkit.register
class Recurses(Thumbnail):
    name = "hostile-recurses"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Any:
        return self.attack(clean, loss, bitstream)


@robustkit.register
class OverflowsTheStack(Thumbnail):
    """The same with the guard off: the C stack runs out."""

    name = "hostile-overflows-the-stack"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Any:
        sys.setrecursionlimit(1 << 30)
        return max([self], key=lambda codec: codec.attack(clean, loss, bitstream))


@robustkit.register
class Refuses(Thumbnail):
    """Refuses every damaged stream, which is allowed, up to a share."""

    name = "hostile-refuses"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        raise DecodeError("damaged")


@robustkit.register
class Exits(Thumbnail):
    """sys.exit(0), with text for the terminal."""

    name = "hostile-exits"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        sys.exit(0)


# What comes back


@robustkit.register
class WrongShape(Thumbnail):
    name = "hostile-wrong-shape"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        return clean[:-1]


@robustkit.register
class GreyShape(Thumbnail):
    name = "hostile-grey"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        return clean[..., 0]


@robustkit.register
class WrongDtype(Thumbnail):
    name = "hostile-wrong-dtype"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> np.ndarray:
        return clean.astype(np.int64)


@robustkit.register
class NotANumber(Thumbnail):
    name = "hostile-nan"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> np.ndarray:
        broken = clean.astype(np.float32)
        broken[0, 0, 0] = np.nan
        return broken


@robustkit.register
class ReturnsNone(Thumbnail):
    name = "hostile-none"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> None:
        return None


class _Trap:
    """Anything done with it beyond asking for its type raises."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError(f"touched {name}")

    def __repr__(self) -> NoReturn:
        raise RuntimeError("printed")

    def __reduce__(self) -> NoReturn:
        raise RuntimeError("pickled")


@robustkit.register
class ReturnsATrap(Thumbnail):
    name = "hostile-trap"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> _Trap:
        return _Trap()


@robustkit.register
class ObjectArray(Thumbnail):
    name = "hostile-object-array"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> np.ndarray:
        return clean.astype(object)


@robustkit.register
class Strided(Thumbnail):
    """A right image in an unusual memory order: nothing wrong with that."""

    name = "hostile-strided"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        return np.asfortranarray(clean)


# Quality


@robustkit.register
class NeverTheSame(Thumbnail):
    """A different image each time, for one and the same stream."""

    name = "hostile-never-the-same"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        return clean ^ np.frombuffer(os.urandom(clean.size), dtype=np.uint8).reshape(clean.shape) & 3


@robustkit.register
class IgnoresItsInput(Thumbnail):
    """Grey, whatever the stream says of the picture; intact or not."""

    name = "hostile-ignores-its-input"

    def __init__(self) -> None:
        super().__init__(always=True)

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        return np.full_like(clean, 128)


@robustkit.register
class Degrades(Thumbnail):
    """Loses ``drop`` dB of PSNR against the clean decode, however little the damage.

    The noise is independent of the thumbnail's own error, so that the two add; exact to a few hundredths of a dB
    on images of 256 x 256 pixels.
    """

    name = "hostile-degrades"

    def __init__(self, *, drop: float = 3.0, always: bool = False) -> None:
        super().__init__(always=always)
        self.drop = drop

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        size = np.sqrt(loss * (10 ** (self.drop / 10) - 1))
        rng = np.random.default_rng(zlib.crc32(bitstream))
        low = np.floor(size)
        # Two whole numbers, mixed so that the mean square comes out right.
        share = (size**2 - low**2) / (2 * low + 1)
        noise = (low + (rng.random(clean.shape) < share)) * rng.choice([-1, 1], clean.shape)
        noisy = clean + noise
        outside = (noisy < 0) | (noisy > 255)
        return np.clip(np.where(outside, clean - noise, noisy), 0, 255).astype(np.uint8)


# Disturbing the next


@robustkit.register
class Floods(Thumbnail):
    """32 MiB on standard output and as much on standard error, through Python and past it; then the right image."""

    name = "hostile-floods"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        line = "all work and no play makes jack a dull boy\n" * 1500
        for _ in range(256):
            print(line)
            print(line, file=sys.stderr)
            os.write(1, line.encode())
            os.write(2, line.encode())
        return clean


@robustkit.register
class ClosesDescriptors(Thumbnail):
    name = "hostile-closes-descriptors"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        os.closerange(0, 256)
        return clean


@robustkit.register
class LeaksDescriptors(Thumbnail):
    """Forgets to close what it opens, until there are no descriptors left to open."""

    name = "hostile-leaks-descriptors"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        try:
            while True:
                os.open(os.devnull, os.O_RDONLY)
        except OSError:
            return clean


@robustkit.register
class ReplacesDescriptors(Thumbnail):
    """As a decoder that closes one file too often and then opens its own."""

    name = "hostile-replaces-descriptors"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(64):
            if descriptor != null:
                os.dup2(null, descriptor)
        return clean


@robustkit.register
class Scribbles(Thumbnail):
    """Writes to every descriptor that it finds open."""

    name = "hostile-scribbles"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            try:
                os.write(descriptor, struct.pack("!I", 2_000_000) + bytes(range(256)))
            except OSError:
                continue
        return clean


@robustkit.register
class TruncatesFiles(Thumbnail):
    """Cuts every open file to nothing, and keeps doing it from a thread."""

    name = "hostile-truncates-files"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        def cut() -> None:
            while True:
                for descriptor in range(3, 16):
                    try:
                        os.ftruncate(descriptor, 0)
                    except OSError:
                        continue

        threading.Thread(target=cut, daemon=True).start()
        return clean


@robustkit.register
class Moves(Thumbnail):
    """Leaves the process elsewhere: directory, recursion limit, handlers, an alarm that will go off."""

    name = "hostile-moves"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        os.chdir("/")
        sys.setrecursionlimit(90)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        warnings.simplefilter("error")
        return clean

    def describe(self) -> dict[str, str]:
        return {
            "directory": os.getcwd(),
            "recursion limit": str(sys.getrecursionlimit()),
            "SIGINT": str(signal.getsignal(signal.SIGINT)),
        }


class Leaves(Thumbnail):
    """Returns the right image and leaves its process changed, by ``how``; ``describe`` says what is so now."""

    name = "hostile-leaves"

    def __init__(self, *, how: str) -> None:
        super().__init__()
        self.how = how

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        match self.how:
            case "CPU time":
                resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            case "CPU time for good":
                resource.setrlimit(resource.RLIMIT_CPU, (600, 600))
            case "files":
                resource.setrlimit(resource.RLIMIT_NOFILE, (4, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            case "file size":
                resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            case "stack":
                resource.setrlimit(resource.RLIMIT_STACK, (1 << 16, resource.getrlimit(resource.RLIMIT_STACK)[1]))
            case "nice":
                os.nice(5)
            case "affinity":
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            case "policy":
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            case "umask":
                os.umask(0o777)
            case "rounding":
                libc.fesetround(self._upward())
            case "timer":
                signal.signal(signal.SIGPROF, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_PROF, 0.05)
            case "locale":
                locale.setlocale(locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C")
            case "children":
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            case "faults":
                signal.signal(signal.SIGSEGV, signal.SIG_IGN)
        return clean

    @staticmethod
    def _upward() -> int:
        return 0x400000 if platform.machine() in ("aarch64", "arm64") else 0x800

    def describe(self) -> dict[str, str]:
        umask = os.umask(0)
        os.umask(umask)
        limits = {name: str(resource.getrlimit(getattr(resource, name))) for name in dir(resource) if "RLIMIT" in name}
        return limits | {
            "nice": str(os.nice(0)),
            "cores": str(os.sched_getaffinity(0)),
            "policy": str(os.sched_getscheduler(0)),
            "umask": oct(umask),
            "rounding": str(libc.fegetround()),
            "timer": str(signal.getitimer(signal.ITIMER_PROF)),
            "locale": locale.setlocale(locale.LC_ALL),
            "children": str(signal.getsignal(signal.SIGCHLD)),
            "faults": str(signal.getsignal(signal.SIGSEGV)),
        }


@robustkit.register
class LeavesAThread(Thumbnail):
    """Returns the right image and leaves a thread that will kill the process."""

    name = "hostile-leaves-a-thread"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        def later() -> None:
            time.sleep(0.05)
            os.abort()

        threading.Thread(target=later, name="time bomb").start()
        return clean


@robustkit.register
class LeavesAProcess(Thumbnail):
    """Dies, and leaves a process of its own behind; its id is the last thing it says."""

    name = "hostile-leaves-a-process"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> NoReturn:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        os.write(2, f"left process {child.pid}\n".encode())
        os._exit(3)


@robustkit.register
class Forks(Thumbnail):
    """Returns twice."""

    name = "hostile-forks"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        os.fork()
        return clean


@robustkit.register
class Warns(Thumbnail):
    name = "hostile-warns"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        for _ in range(3):
            warnings.warn("the index is 171", RuntimeWarning, stacklevel=1)
        return clean


# Speaking for the worker


class _Liar(np.ndarray):
    """An array that says what it is not."""

    shape = property(lambda self: (48, 64, 3))  # type: ignore[assignment]
    dtype = property(lambda self: np.dtype(np.uint8))  # type: ignore[assignment]
    ndim = property(lambda self: 3)  # type: ignore[assignment]


class LiesAboutItsArray(Thumbnail):
    """Another shape and dtype than it says."""

    name = "hostile-lies-about-its-array"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> np.ndarray:
        return np.zeros((1, 2), dtype=np.float32).view(_Liar)


class _LongList(list[Any]):
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter([None] * 3)


class LiesAboutItsList(Thumbnail):
    """One image for a batch of three, in a list that says it has three."""

    name = "hostile-lies-about-its-list"

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Any]:
        return _LongList([self.decode(bitstreams[0])])


def _frame(body: bytes) -> bytes:
    return struct.pack("!4sI", b"rkit", len(body)) + body


class Forges(Thumbnail):
    """Answers in its worker's name, from inside a decode; ``how`` says what, ``when`` in which method."""

    name = "hostile-forges"

    def __init__(self, *, how: str) -> None:
        super().__init__()
        self.how = how
        self.late: threading.Timer | None = None
        if how == "load":
            self._answer(value=[])
            time.sleep(60)

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        huge, result = 1 << 42, [{"size": [48, 64]}]
        match self.how:
            case "twice":
                self._send(2 * self._frame(value=[{"outcome": "refused", "message": "mine"}]))
            case "infinite":
                self._answer(lengths=[float("inf")])
            case "nested":
                self._send(_frame(b"[" * 100_000))
            case "sparse":
                os.ftruncate(self._worker()._file, huge)
                self._answer(value=[{"size": [huge // 3, 1]}], lengths=[huge // 3 * 3])
            case "sparse but right":
                os.ftruncate(self._worker()._file, clean.size)
                self._answer(value=result, lengths=[clean.size])
            case "another shape":
                os.pwrite(self._worker()._file, bytes(3), 0)
                self._answer(value=[{"size": [1, 1]}], lengths=[3])
            case "stale":
                # The pixels before this decode, and the stream, are all that lay there.
                self._answer(value=result, lengths=[clean.size])
            case "replaces the file":
                os.dup2(os.open(os.devnull, os.O_RDWR), self._worker()._file)
                return clean
            case "replaces the file by another":
                os.dup2(os.memfd_create("mine"), self._worker()._file)
                return clean
            case "before the start":
                self._answer(seconds=-1e308)
            case "no time":
                self._answer(seconds=float("nan"))
            case "for ever":
                self._answer(seconds=1e300)
            case "intact":
                self._answer(failure={"outcome": "intact", "message": ""})
            case "none":
                self._answer(value=[])
            case "two":
                os.pwrite(self._worker()._file, bytes(2 * clean.size), 0)
                self._answer(value=2 * result, lengths=[clean.size] * 2)
            case "texts":
                self._answer(warnings=[7])
            case "number":
                self._answer(id=True)
            case "memory":
                self._answer(memory=-1)
            case "processor":
                self._answer(processor=-0.5)
            case "late":
                # In the middle of the next decode comes one more answer to this one.
                if not self.late:
                    late, worker = self._frame(value=result, lengths=[clean.size]), self._worker()
                    self.late = threading.Timer(0.5, worker._socket.sendall, [late])
                    self.late.start()
                    return clean
                time.sleep(1)
                return clean ^ 1
        time.sleep(60)
        return clean

    @staticmethod
    def _caller(name: str) -> Any:
        frame = sys._getframe()
        while not (frame.f_code.co_name == "_answer" and "request" in frame.f_locals):
            frame = frame.f_back  # type: ignore[assignment]
        return frame.f_locals[name]

    def _worker(self) -> Any:
        return self._caller("self")

    def _frame(self, **more: Any) -> bytes:
        number = self._caller("request")["id"]
        answer = {"id": number, "value": [], "lengths": [], "failure": None, "seconds": 0.0, "warnings": []}
        answer |= {"memory": 0, "processor": 0.0}
        return _frame(json.dumps({**answer, "spoilt": None, **more}).encode())

    def _answer(self, **more: Any) -> None:
        self._send(self._frame(**more))

    def _send(self, data: bytes) -> None:
        self._worker()._socket.sendall(data)


class LoadsOnce(Thumbnail):
    """Its constructor fails in the ``fails``-th processes, the first being 0, in a way that ``how`` names.

    ``note`` has a byte for each process so far.
    """

    name = "hostile-loads-once"

    def __init__(self, *, how: str, note: str, fails: list[int]) -> None:
        super().__init__()
        with open(note, "ab") as file:
            number = file.tell()
            file.write(b".")
        if number in fails:
            match how:
                case "lock":
                    raise FileExistsError(errno.EEXIST, "locked by process", str(os.getpid()))
                case "unavailable":
                    raise robustkit.CodecUnavailable("no weights")
                case "crash":
                    os.abort()
                case "each another":
                    raise RuntimeError("abc"[number])
                case "disk":
                    raise OSError(errno.ENOSPC, "No space left on device")
                case "killed":
                    os.kill(os.getpid(), signal.SIGKILL)

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        os.abort()


# Batches


class _Batched(Thumbnail):
    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Any]:
        return [super(_Batched, self)._read(b)[0] for b in bitstreams]


@robustkit.register
class BatchUnlikeSingle(_Batched):
    """Intact or not, a batch comes out one grey level off."""

    name = "hostile-batch-unlike-single"

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Any]:
        return [image ^ 1 for image in super().decode_batch(bitstreams)]


@robustkit.register
class BatchDies(_Batched):
    """One damaged stream takes its whole batch with it; the last byte says how."""

    name = "hostile-batch-dies"

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Any:
        match bitstream[-1] % 4:
            case 0:
                ctypes.string_at(0)
            case 1:
                all(itertools.repeat(True))
            case 2:
                raise ValueError("damaged")
        raise DecodeError("damaged")

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Any]:
        return [self.decode(b) for b in bitstreams]


@robustkit.register
class BatchTooShort(_Batched):
    """Forgets the last of several streams."""

    name = "hostile-batch-too-short"

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Any]:
        images = super().decode_batch(bitstreams)
        return images if len(images) == 1 else images[:-1]


@robustkit.register
class BatchMixed(_Batched):
    """Gives each stream of a batch its own answer: an image, a refusal, something misshapen."""

    name = "hostile-batch-mixed"

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Any]:
        decoded: list[Any] = []
        for bitstream in bitstreams:
            image, _, damaged = self._read(bitstream)
            wrong = [DecodeError("damaged"), None, ValueError("damaged")]
            decoded.append(wrong[bitstream[-1] % 3] if damaged else image)
        return decoded


# Encoders and constructors


@robustkit.register
class EncoderFails(Thumbnail):
    """Its encoder does what ``how`` says."""

    name = "hostile-encoder"

    def __init__(self, *, how: str = "raise") -> None:
        super().__init__()
        self.how = how

    def encode(self, image: Image) -> Any:
        match self.how:
            case "refuse":
                raise EncodeError("not this one")
            case "crash":
                ctypes.string_at(0)
            case "text":
                return "not bytes"
        raise ValueError("not that one")

    def layout(self, bitstream: bytes) -> Layout:
        if self.how == "refuse":
            raise DecodeError("no regions")
        if self.how == "raise":
            raise ValueError("no regions")
        return "header"  # type: ignore[return-value]

    def describe(self) -> dict[str, str]:
        if self.how == "crash":
            os.abort()
        return {"how": self.how, "numpy": np.__version__}


class Unloadable(Thumbnail):
    """Its constructor does what ``how`` says. Not registered: no suite can run it."""

    name = "hostile-unloadable"

    def __init__(self, *, how: str = "raise") -> None:
        super().__init__()
        match how:
            case "raise":
                raise ValueError("no weights")
            case "crash":
                ctypes.string_at(0)
            case "exit":
                os._exit(0)
            case "hang":
                all(itertools.repeat(True))
            case "profile":
                self.profile = "excellent"  # type: ignore[assignment]
            case "missing":
                raise AssertionError("built though missing() said no")

    @classmethod
    def missing(cls) -> str | None:
        return os.environ.get("HOSTILE_MISSING")


# What others may want to know of a process


class Tells(Thumbnail):
    """Its description is where it works, and with which environment."""

    name = "hostile-tells-all"

    def describe(self) -> dict[str, str]:
        return {**os.environ, "directory": os.getcwd()}


class Takes(Thumbnail):
    """Takes ``mib`` MiB for a damaged stream's decode, in a way that ``how`` names, and gives it back."""

    name = "hostile-takes"

    def __init__(self, *, how: str = "heap", mib: int = 64) -> None:
        super().__init__()
        self.how, self.size = how, mib << 20

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        match self.how:
            case "heap":
                np.ones(self.size, np.uint8)
            case "memory file":
                file = os.memfd_create("mine")
                for _ in range(self.size >> 20):
                    os.write(file, bytes(1 << 20))
                time.sleep(0.2)
                os.close(file)
            case "child":
                code = f"import time; x = b'x' * {self.size}; time.sleep(0.5)"
                subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
            case "copy":
                # Pages that a copy shares with this process are no memory of its own.
                held = np.ones(self.size, np.uint8)
                if not (copy := os.fork()):
                    time.sleep(0.3)
                    os._exit(int(held[0]) - 1)
                os.waitpid(copy, 0)
        return clean


class LeavesMore(Thumbnail):
    """Returns the right image, and leaves behind what ``how`` says."""

    name = "hostile-leaves-more"

    def __init__(self, *, how: str, note: str = "") -> None:
        super().__init__()
        self.how, self.note = how, note
        self.held: list[Any] = []
        if how == "a server":
            self._grandchild()

    def attack(self, clean: Image, loss: float, bitstream: bytes) -> Image:
        match self.how:
            case "environment":
                os.environ["LEFT"] = "behind"
                os.environ.pop("HOME", None)
            case "C environment":
                libc.setenv(b"LEFT", b"behind", 1)
            case "orphan":
                self._grandchild()
            case "orphan and crash":
                self._grandchild()
                os.abort()
            case "child":
                self._tell(subprocess.Popen(["sleep", "600"]).pid)
            case "kept":
                if not self.held:
                    self.held.append(subprocess.Popen(["sleep", "600"]))
                    robustkit.codec.KEPT.add(self.held[0].pid)
            case "pool":
                if not self.held:
                    self.held.append(multiprocessing.get_context("spawn").Pool(2))
                    self.held[0].map(abs, [1, 2])
            case "POSIX timer":
                self._timer()
            case "late death":
                # Until then its thread sleeps in the standard library, as the idle one of a library does.
                threading.Timer(0.2, os.abort).start()
            case "leak":
                self.held.append(np.ones(4 << 20, np.uint8))
            case "busy thread":
                threading.Thread(target=self._spin, daemon=True).start()
            case "folder":
                shutil.rmtree(self.note)
            case "file for a folder":
                shutil.rmtree(self.note)
                open(self.note, "w").close()
            case "folder for a file":
                for folder, _, names in os.walk(self.note):
                    for name in names:
                        os.unlink(os.path.join(folder, name))
                        os.makedirs(os.path.join(folder, name, "deep"))
            case "temporary folder":
                shutil.rmtree(tempfile.gettempdir())
            case "file for the temporary folder":
                shutil.rmtree(tempfile.gettempdir())
                open(tempfile.gettempdir(), "w").close()
            case "temporary file":
                with tempfile.NamedTemporaryFile(prefix="left-", delete=False) as file:
                    self._tell(file.name)
        return clean

    def describe(self) -> dict[str, str]:
        libc.getenv.restype = ctypes.c_char_p
        found = {**os.environ, "LEFT in C": str(libc.getenv(b"LEFT"))}
        return {name: value for name, value in found.items() if name != robustkit.codec.MARK}

    def _grandchild(self) -> None:
        """A process in a session of its own, whose parent has ended."""
        code = "import os, sys, time; os.fork() and os._exit(0); os.setsid(); "
        code += "file = open(sys.argv[1], 'a'); file.write(f'{os.getpid()} '); file.close(); time.sleep(600)"
        subprocess.run([sys.executable, "-I", "-S", "-c", code, self.note], check=True)
        time.sleep(0.1)

    def _tell(self, pid: int | str) -> None:
        with open(self.note, "a") as file:
            file.write(f"{pid} ")

    @staticmethod
    def _spin() -> NoReturn:
        while True:
            pass

    @staticmethod
    def _timer() -> None:
        class Spec(ctypes.Structure):
            _fields_: ClassVar = [(n, ctypes.c_long) for n in ("every", "every_ns", "first", "first_ns")]

        timer = ctypes.c_void_p()
        if libc.timer_create(1, None, ctypes.byref(timer)):
            raise OSError("no timer")
        libc.timer_settime(timer, 0, ctypes.byref(Spec(0, 0, 600, 0)), None)
