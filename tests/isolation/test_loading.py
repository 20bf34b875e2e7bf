"""A codec that can be loaded once and not again is at fault; a machine that has no more to give is another matter."""

from __future__ import annotations

from pathlib import Path

import hostile
import numpy as np
import pytest

from robustkit import CodecSpec, CodecUnavailable, Outcome
from robustkit.isolation import CodecWorkers, Limits, WorkerError
from robustkit.isolation.answer import alike, says_machine
from robustkit.judging.subject import Subject
from robustkit.registry import Target

LIMITS = Limits(seconds=30, memory=256 * 2**20, start_seconds=60)
EVER_AFTER = list(range(1, 9))


@pytest.fixture(scope="module")
def stream() -> bytes:
    return hostile.Honest().encode(np.full((48, 64, 3), 99, dtype=np.uint8))


def spec_of(note: Path, how: str, fails: list[int]) -> CodecSpec:
    settings = {"how": how, "note": str(note), "fails": fails}
    return CodecSpec("once", Target("hostile", "LoadsOnce", hostile.__file__), settings)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("lock", "was loaded by a process before, and by no more: .*FileExistsError: .*locked by process"),
        ("unavailable", "was loaded by a process before, and by no more: .*no weights"),
        ("crash", "was loaded by a process before, and by no more: .*died of SIGABRT"),
    ],
)
def test_who_can_be_loaded_once_alone_is_at_fault(how: str, says: str, stream: bytes, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with CodecWorkers(spec_of(note, how, EVER_AFTER), directory=tmp_path, limits=LIMITS) as workers:
        assert workers.decode(stream).outcome is None
        assert workers.decode(stream + b"x").outcome is Outcome.CRASHED
        with pytest.raises(WorkerError, match=says):
            workers.decode(stream)
        # Confirmed by one process more.
        assert len(note.read_bytes()) == 3


@pytest.mark.parametrize("how", ["disk", "killed", "each another"])
def test_what_may_be_the_machines_is_not_laid_to_the_codec(how: str, stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec_of(tmp_path / "note", how, EVER_AFTER), directory=tmp_path, limits=LIMITS) as workers:
        workers.restart()
        with pytest.raises(CodecUnavailable):
            workers.decode(stream)


def test_one_failure_alone_is_none(stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec_of(tmp_path / "note", "lock", [1]), directory=tmp_path, limits=LIMITS) as workers:
        workers.restart()
        assert workers.decode(stream).outcome is None


def test_who_was_never_loaded_is_unavailable(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pytest.raises(CodecUnavailable, match="locked by process"):
        CodecWorkers(spec_of(note, "lock", [0, 1]), directory=tmp_path, limits=LIMITS)
    assert len(note.read_bytes()) == 1


def test_a_second_pool_counts_too(tmp_path: Path) -> None:
    image = np.full((48, 64, 3), 99, dtype=np.uint8)
    subject = Subject(spec_of(tmp_path / "note", "lock", EVER_AFTER), images={"grey": image}, directory=tmp_path)
    try:
        assert subject.own_name == "hostile-loads-once"
        with pytest.raises(WorkerError, match="by no more"):
            _ = subject.elsewhere
    finally:
        subject.close()


def test_messages_are_alike_but_for_numbers() -> None:
    assert alike("lock of process 12 at 0x7f", "lock of process 345 at 0x80ab")
    assert not alike("lock", "key")


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        ("OSError: [Errno 28] No space left on device: 'x'", True),
        ("OSError: [Errno 24] too many open files", True),
        ("FileExistsError: [Errno 17] File exists", False),
    ],
)
def test_the_words_of_a_machine_that_has_no_more_are_known(text: str, machine: bool) -> None:
    assert says_machine(text) is machine
