"""How much memory a decode takes is known, and limited, wherever the decoder keeps it."""

from __future__ import annotations

from pathlib import Path

import hostile
import numpy as np
import pytest

from robustkit import CodecSpec, Outcome
from robustkit.isolation import CodecWorkers, Limits
from robustkit.isolation.limits import reset_peak
from robustkit.registry import Target

MIB = 2**20
LIMITS = Limits(seconds=30, memory=256 * MIB, start_seconds=30)

pytestmark = pytest.mark.skipif(not reset_peak(), reason="this system does not tell how much memory a decode takes")


def pool(codec: type, directory: Path, **settings: object) -> CodecWorkers:
    spec = CodecSpec(codec.name, Target("hostile", codec.__qualname__, hostile.__file__), settings)
    return CodecWorkers(spec, directory=directory, limits=LIMITS)


@pytest.fixture(scope="module")
def stream() -> bytes:
    return hostile.Honest().encode(np.full((48, 64, 3), 99, dtype=np.uint8))


def test_a_decode_says_how_much_memory_it_took(stream: bytes, tmp_path: Path) -> None:
    with pool(hostile.Takes, tmp_path, how="heap", mib=100) as workers:
        before, large, after = (workers.decode(s).memory for s in (stream, stream + b"x", stream))
    assert 0 < before < 16 * MIB
    assert 100 * MIB <= large < 116 * MIB
    assert after < 16 * MIB


def test_a_batch_and_a_refusal_and_a_death_say_so_too(stream: bytes, tmp_path: Path) -> None:
    with pool(hostile.BatchMixed, tmp_path) as workers:
        assert all(d.memory > 0 for d in workers.decode_many([stream, stream + b"\0", stream]))
    with pool(hostile.NativeMemoryBombOnCuda, tmp_path) as workers:
        bad = workers.decode(stream + b"x")
    assert bad.outcome is Outcome.EXHAUSTED
    assert bad.memory > 256 * MIB


@pytest.mark.parametrize("how", ["memory file", "child"])
def test_memory_elsewhere_counts(how: str, stream: bytes, tmp_path: Path) -> None:
    with pool(hostile.Takes, tmp_path, how=how, mib=400) as workers:
        workers.decode(stream)
        bad = workers.decode(stream + b"x")
        assert bad.outcome is Outcome.EXHAUSTED
        assert "limit of 256 MiB" in bad.message
        assert bad.memory > 256 * MIB
        assert workers.decode(stream).outcome is None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["memory file", "child"])
def test_memory_elsewhere_is_known(how: str, stream: bytes, tmp_path: Path) -> None:
    with pool(hostile.Takes, tmp_path, how=how, mib=100) as workers:
        assert 80 * MIB < workers.decode(stream + b"x").memory < 140 * MIB


def test_what_a_copy_shares_counts_once(stream: bytes, tmp_path: Path) -> None:
    with pool(hostile.Takes, tmp_path, how="copy", mib=200) as workers:
        found = workers.decode(stream + b"x")
    assert found.outcome is None
    assert 200 * MIB <= found.memory < 230 * MIB
