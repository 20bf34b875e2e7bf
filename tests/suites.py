"""The suite in a folder of a user's, with codecs that have one flaw each."""

import shutil
from pathlib import Path
from textwrap import dedent

import pytest

import robustkit.conformance
from robustkit.judging import beforehand
from robustkit.judging.finding import CLAIMS
from robustkit.plugin import session, suite
from robustkit.registry import registry

# What a run in this process imports is forgotten at a test's end, but for what was there; and some of it can't be
# imported twice.
beforehand.load(session._LATE)
suite.load([])

CONFORMANCE = Path(robustkit.conformance.__file__).parent

#: How many claims the suite has.
TOTAL = len(CLAIMS)

#: A codec of block means with a header that has a check sum, and one flaw in each of its subclasses.
CODECS = dedent(
    '''
    import itertools
    import os
    import pathlib
    import signal
    import struct
    import zlib
    from dataclasses import replace

    import numpy as np
    from robustkit import Codec, DecodeError, EncodeError, Layout, Profile, Promise, Region

    HEADER = struct.Struct(">HHI")


    class Plain(Codec):
        name = "plain"
        family = "test"
        profile = Profile(
            bpp=1.6,
            quality=15.0,
            refused=0.5,
            promises=(
                Promise("bsc(ber=0.001)", mean_drop=3.0, p5_drop=12.0, corrupted=0.4),
                Promise("bsc(ber=0.01)", mean_drop=9.0, p5_drop=14.0, corrupted=0.85),
            ),
        )

        def encode(self, image):
            height, width = image.shape[:2]
            padded = np.pad(image, ((0, -height % 4), (0, -width % 4), (0, 0)), mode="edge")
            blocks = padded.reshape(-(-height // 4), 4, -(-width // 4), 4, 3)
            size = struct.pack(">HH", height, width)
            return size + struct.pack(">I", zlib.crc32(size)) + blocks.mean(axis=(1, 3)).astype(np.uint8).tobytes()

        def decode(self, bitstream):
            if len(bitstream) < HEADER.size:
                raise DecodeError(f"{len(bitstream)} bytes hold no header")
            height, width, check = HEADER.unpack_from(bitstream)
            if check != zlib.crc32(bitstream[:4]):
                raise DecodeError("the header's check sum is wrong")
            payload = bitstream[HEADER.size :]
            across, down = -(-width // 4), -(-height // 4)
            if not height * width or len(payload) < 3 * across * down:
                raise DecodeError(f"{len(payload)} bytes are too few for {height} x {width} pixels")
            blocks = np.frombuffer(payload, np.uint8, 3 * across * down).reshape(down, across, 3)
            return blocks.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]

        def layout(self, bitstream):
            bits, header = 8 * len(bitstream), min(64, 8 * len(bitstream))
            return Layout((Region("size", 0, header, header=True), Region("blocks", header, bits)), bits)


    class Blurry(Plain):
        name = "blurry"
        profile = replace(Plain.profile, quality=60.0)


    class Fat(Plain):
        name = "fat"
        profile = replace(Plain.profile, bpp=1.0)


    class Dead(Plain):
        name = "dead"

        def decode(self, bitstream):
            os.kill(os.getpid(), signal.SIGSEGV)


    class TimeDependent(Plain):
        name = "time-dependent"
        count = itertools.count()

        def encode(self, image):
            return super().encode(image) + bytes([next(self.count) % 256])


    class ProcessDependent(Plain):
        name = "process-dependent"

        def __init__(self):
            starts = pathlib.Path(__file__).parent / "starts"
            with starts.open("a") as file:
                file.write("x")
            self.salt = np.uint8(starts.stat().st_size % 16)

        def decode(self, bitstream):
            return super().decode(bitstream) ^ self.salt


    class Forgetful(Plain):
        name = "forgetful"
        count = itertools.count()

        def decode(self, bitstream):
            return super().decode(bitstream) ^ np.uint8(next(self.count) % 2)


    class Shuffled(Plain):
        name = "shuffled"

        def decode_batch(self, bitstreams):
            return super().decode_batch(bitstreams)[::-1]


    class Nameless(Plain):
        name = "nameless"

        def layout(self, bitstream):
            return replace(super().layout(bitstream), regions=super().layout(bitstream).regions[:1])


    class Touchy(Plain):
        """Raises what is no refusal when any bit of its flags is set."""

        name = "touchy"
        profile = replace(Plain.profile, bpp=1.8)

        def encode(self, image):
            stream = super().encode(image)
            return stream[: HEADER.size] + bytes(128) + stream[HEADER.size :]

        def decode(self, bitstream):
            flags = bitstream[HEADER.size : HEADER.size + 128]
            image = super().decode(bitstream[: HEADER.size] + bitstream[HEADER.size + 128 :])
            if any(flags):
                raise ZeroDivisionError("touchy")
            return image

        def layout(self, bitstream):
            bits, header = 8 * len(bitstream), min(64, 8 * len(bitstream))
            flags = min(bits, header + 1024)
            ends = Region("size", 0, header, header=True), Region("blocks", flags, bits)
            return Layout((*ends, Region("flags", header, flags)), bits)


    class Believer(Plain):
        """Believes the size in its header."""

        name = "believer"

        def decode(self, bitstream):
            if len(bitstream) < HEADER.size:
                raise DecodeError("short")
            height, width, _ = HEADER.unpack_from(bitstream)
            payload = np.frombuffer(bitstream[HEADER.size :], np.uint8)
            blocks = np.resize(payload, (-(-(height % 2048) // 4), -(-(width % 2048) // 4), 3))
            return blocks.repeat(4, axis=0).repeat(4, axis=1)[: height % 2048, : width % 2048]


    class Reader(Plain):
        """Reads beyond the end."""

        name = "reader"

        def decode(self, bitstream):
            if len(bitstream) >= HEADER.size:
                height, width, _ = HEADER.unpack_from(bitstream)
                blocks = -(-min(height, 1024) // 4) * -(-min(width, 1024) // 4)
                bitstream[HEADER.size + 3 * blocks - 1]
            return super().decode(bitstream)


    class Strict(Plain):
        """Falls over bytes that follow the stream."""

        name = "strict"

        def decode(self, bitstream):
            image = super().decode(bitstream)
            height, width = image.shape[:2]
            assert HEADER.size + 3 * -(-height // 4) * -(-width // 4) == len(bitstream)
            return image


    class Hasty(Plain):
        """Looks at the first byte before it knows that there is one."""

        name = "hasty"

        def decode(self, bitstream):
            bitstream[0]
            return super().decode(bitstream)


    class Lossy(Plain):
        """Loses more than it declares."""

        name = "lossy"
        profile = replace(
            Plain.profile,
            promises=(Promise("bsc(ber=0.01)", mean_drop=0.5, p5_drop=0.5, corrupted=0.85),),
        )


    class Refuser(Plain):
        """Refuses whatever is damaged, more often than it declares."""

        name = "refuser"
        profile = replace(
            Plain.profile,
            refused=0.1,
            promises=(Promise("bsc(ber=0.01)", mean_drop=9.0, p5_drop=14.0, corrupted=0.1),),
        )


    class Guesser(Plain):
        """Gives the right image where the stream is badly damaged, and a worse one where it is not."""

        name = "guesser"
        profile = replace(
            Plain.profile,
            promises=(
                Promise("burst(length=8)", mean_drop=20.0, p5_drop=30.0, corrupted=0.3),
                Promise("burst(length=512)", mean_drop=20.0, p5_drop=30.0, corrupted=0.3),
            ),
        )
        store = {}

        def __init__(self):
            self.kept = pathlib.Path(__file__).parent / "kept"

        def encode(self, image):
            stream = super().encode(image)
            self.kept.mkdir(exist_ok=True)
            (self.kept / f"{len(stream)}-{stream[8:40].hex()}").write_bytes(stream)
            return stream

        def decode(self, bitstream):
            image = super().decode(bitstream)
            streams = [f.read_bytes() for f in self.kept.iterdir() if f.name.startswith(f"{len(bitstream)}-")]

            def flips(stream):
                return sum(bin(a ^ b).count("1") for a, b in zip(stream, bitstream))

            nearest = min(streams, key=flips)
            if 0 < flips(nearest) < 20:
                return (image // 2).astype(np.uint8)
            return super().decode(nearest)


    class Excused(Touchy):
        """Its defect is known, and reported; how often it shows is declared."""

        name = "excused"
        at_1e_2 = Promise("bsc(ber=0.01)", mean_drop=9.0, p5_drop=14.0, corrupted=1.0)
        profile = replace(Touchy.profile, refused=1.0, promises=(at_1e_2,))
        known_defects = {"raised": "https://example.org/1"}


    class Accused(Touchy):
        """Another defect than the one that is known."""

        name = "accused"
        known_defects = {"crashed": "https://example.org/2"}


    class Absent(Nameless):
        """A defect that shows in a claim, not in an outcome."""

        name = "absent"
        known_defects = {"layout.names-every-bit": "https://example.org/3"}


    class Padded(Plain):
        """Returns whole blocks."""

        name = "padded"

        def decode(self, bitstream):
            height, width, check = HEADER.unpack_from(bitstream.ljust(HEADER.size))
            whole = struct.pack(">HH", min(-(-height // 4) * 4, 65535), min(-(-width // 4) * 4, 65535))
            good = check == zlib.crc32(bitstream[:4])
            return super().decode(whole + struct.pack(">I", zlib.crc32(whole) ^ (not good)) + bitstream[HEADER.size :])


    class Turned(Plain):
        """Swaps height and width."""

        name = "turned"

        def decode(self, bitstream):
            image = super().decode(bitstream)
            return image.reshape(image.shape[1], image.shape[0], 3)


    class Square(Plain):
        """Takes no odd sizes, and says so."""

        name = "square"

        def encode(self, image):
            if image.shape[0] != image.shape[1]:
                raise EncodeError("squares only")
            return super().encode(image)


    class Several(Plain):
        """Has two defects in its header."""

        name = "several"

        def __init__(self, gain=1.0):
            self.gain = gain

        def decode(self, bitstream):
            first = bitstream[:1]
            sound = bytes([first[0] & 15]) + bitstream[1:] if first else first
            if first and first[0] & 16:
                raise RuntimeError("several")
            return super().decode(sound)[: 3 if first > sound[:1] else None]


    class Silent(Plain):
        name = "silent"
        profile = None


    FLAWED = [value for value in list(globals().values()) if isinstance(value, type) and issubclass(value, Plain)]


    def pytest_robustkit_codecs(registry):
        for codec in FLAWED:
            registry.register(codec)
    '''
)
NAMES = (
    "plain,blurry,fat,dead,time-dependent,process-dependent,forgetful,shuffled,nameless,touchy,believer,reader,"
    "strict,hasty,lossy,refuser,guesser,excused,accused,absent,padded,turned,square,several,silent"
)


def lean(*args: str) -> tuple[str, ...]:
    """Arguments of pytest in a test: without plugins that it has no use for, which take a quarter of a short run."""
    given = any(str(arg).startswith("--hypothesis") for arg in args)
    without = ("cacheprovider", "anyio", *(() if given else ("hypothesispytest",)))
    return (*(part for plugin in without for part in ("-p", f"no:{plugin}")), *args)


def run_here(pytester: pytest.Pytester, *args: str, plugins: bool = False) -> pytest.RunResult:
    """pytest in this process, which has imported what a process of its own would wait for.

    Not for what changes the process itself: signals, limits, functions of other modules. Hypothesis keeps the seed that
    it is given, so with one it is a process of its own. ``plugins`` are those that :func:`lean` leaves out.
    """
    if any(str(arg).startswith("--hypothesis") for arg in args):
        return pytester.runpytest_subprocess(*lean(*args))
    before = {entry.name: entry for entry in registry}
    # Collecting all garbage of this process at the end takes longer than the run.
    try:
        return pytester.runpytest_inprocess(
            "-p", "no:unraisableexception", *(("-p", "no:cacheprovider", *args) if plugins else lean(*args))
        )
    finally:
        registry._entries.clear()
        registry._entries.update(before)


def make_suite(folder: Path) -> None:
    """A user's folder: the suite, and a conftest with codecs of the user's own."""
    shutil.copytree(CONFORMANCE, folder / "conformance", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "conftest.py").write_text(CODECS)
