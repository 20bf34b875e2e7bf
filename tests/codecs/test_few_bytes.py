"""A hundred bytes, whatever they say, buy little work: of every codec that runs here, in layout() and in decode()."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robustkit import CodecUnavailable, DecodeError, Image
from robustkit.images import photographs
from robustkit.isolation import CodecWorkers, Limits
from robustkit.registry import registry, why_missing

BYTES = 100
#: Processor seconds of one call: a second, and as much again for a processor that is slower or shared.
SECONDS = 2.0
#: On top of what the process holds once it has loaded the codec and decoded one stream.
MEMORY = 200 * 2**20
#: Of each kind.
STREAMS = 8
NAMES = sorted(entry.name for entry in registry)


def few_bytes(stream: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Streams of a hundred bytes: of nobody's, the beginning of an encoder's, and that with flips in front."""
    start = np.frombuffer(stream[:BYTES].ljust(BYTES, b"\0"), np.uint8)
    yield start.tobytes()
    yield b"\xff" * BYTES
    for _ in range(STREAMS):
        yield rng.bytes(BYTES)
    for number in range(2 * STREAMS):
        flipped = start.copy()
        # The first bytes are the most likely to name sizes.
        for bit in rng.integers(0, 8 * (16 if number % 2 else BYTES), size=1 + number % 3):
            flipped[bit // 8] ^= 128 >> bit % 8
        yield flipped.tobytes()
    for place in range(4, 4 + STREAMS):
        # What may be a width or a height is as large as it can be.
        large = start.copy()
        large[place : place + 2] = 255
        yield large.tobytes()


@pytest.fixture(scope="module")
def image() -> Image:
    return np.ascontiguousarray(photographs(crop=64)["coffee"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_bytes_buy_little_work(name: str, image: Image, tmp_path: Path) -> None:
    limits = Limits(seconds=120, start_seconds=300)
    spec = registry.get(name).spec()
    try:
        # A process that imports torch takes seconds to say the same.
        if (lacking := why_missing(spec.resolve(), spec.settings)) is not None:
            raise CodecUnavailable(lacking)
        workers = CodecWorkers(spec, directory=tmp_path, limits=limits)
    except CodecUnavailable as error:
        pytest.skip(f"{name} does not run here: {error}")
    with workers:
        stream = workers.encode(image)
        # What the first decode sets up, it keeps.
        held = workers.decode(stream).memory
        for each in few_bytes(stream, np.random.default_rng(0)):
            before = workers.processor
            with contextlib.suppress(DecodeError):
                assert workers.layout(each).bits == 8 * len(each)
            laid_out = workers.processor - before
            assert laid_out < SECONDS, f"layout() of {each.hex()}: {laid_out:.2f} s"
            decoded = workers.decode(each)
            assert decoded.outcome is None or not decoded.outcome.failure, f"{each.hex()}: {decoded.message}"
            assert decoded.processor < SECONDS, f"decode() of {each.hex()}: {decoded.processor:.2f} s"
            assert decoded.memory < held + MEMORY, f"decode() of {each.hex()}: {decoded.memory >> 20} MiB"
        assert not workers.replaced
