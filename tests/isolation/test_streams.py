"""Bitstreams on disk: whatever a decoder does to their folder, the next decode goes on."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import hostile
import numpy as np
import pytest

from robustkit import CodecSpec, Outcome
from robustkit.isolation import CodecWorkers, Limits, streams
from robustkit.isolation.streams import Streams
from robustkit.registry import Target

LIMITS = Limits(seconds=30, memory=256 * 2**20, start_seconds=30)


@pytest.fixture(scope="module")
def stream() -> bytes:
    return hostile.Honest().encode(np.full((48, 64, 3), 99, dtype=np.uint8))


def spec_of(how: str, note: Path) -> CodecSpec:
    settings = {"how": how, "note": str(note)}
    return CodecSpec(hostile.LeavesMore.name, Target("hostile", "LeavesMore", hostile.__file__), settings)


@pytest.mark.parametrize("how", ["folder", "file for a folder", "folder for a file"])
def test_a_decoder_may_do_what_it_likes_to_the_folder(how: str, stream: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "streams"
    with CodecWorkers(spec_of(how, folder), directory=folder, limits=LIMITS) as workers:
        for _ in range(3):
            assert workers.decode(stream + b"x").outcome is None
            assert workers.decode(stream).outcome is None
        assert workers.decode(stream + b"x", shape=(1, 1)).outcome is Outcome.MISSHAPEN
        kept = workers.decode(stream + b"x", shape=(1, 1)).stream
    assert kept is not None
    assert kept.read_bytes() == stream + b"x"
    assert list(folder.iterdir()) == [kept]


@pytest.mark.parametrize("how", ["temporary folder", "file for the temporary folder"])
def test_temporary_files_have_a_folder_again_after_a_decoder_removed_it(how: str, stream: bytes) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="rk") as short,
        CodecWorkers(spec_of(how, Path()), directory=short, limits=LIMITS) as workers,
    ):
        for _ in range(3):
            decoded = workers.decode(stream + b"x")
            assert decoded.outcome is None, decoded.message


def test_what_a_decoder_leaves_among_temporary_files_ends_with_its_process(stream: bytes, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with (
        tempfile.TemporaryDirectory(prefix="rk") as short,
        CodecWorkers(spec_of("temporary file", note), workers=2, directory=short, limits=LIMITS) as workers,
    ):
        assert [d.outcome for d in workers.decode_many([stream + b"x"] * 4)] == [None] * 4
        left = [Path(line) for line in note.read_text().split()]
        assert all(path.is_file() and path.is_relative_to(short) for path in left)
        folders = {path.parent for path in left}
        assert all(folder.parent.suffix == ".worker" for folder in folders)
        workers.restart()
        assert not any(path.exists() for path in left)
        assert all(folder.is_dir() for folder in folders)
        workers.close()
        assert list(Path(short).iterdir()) == []


def test_each_worker_has_a_folder_of_its_own(tmp_path: Path, stream: bytes) -> None:
    streams_of_jpeg = Streams(tmp_path, "jpeg")
    desks = [streams_of_jpeg.desk(), streams_of_jpeg.desk(), Streams(tmp_path, "jpeg").desk()]
    held = [desk.hold(stream) for desk in desks]
    assert len({path.parent for path in held}) == len({desk.temporary for desk in desks}) == 3
    desks[0].remove()
    assert not held[0].exists()
    assert not desks[0].temporary.exists()
    assert held[1].read_bytes() == held[2].read_bytes() == stream
    desks[1].release(held[1])
    desks[1].release(held[1])
    assert not held[1].exists()
    desks[1].remove()
    desks[1].remove()


def test_sockets_among_temporary_files_have_paths_that_are_short_enough(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    aside, held = Streams(long, "jpeg").desk(), Streams(Path("/tmp/rk"), "jpeg").desk()
    try:
        assert aside.temporary.parent == Path(tempfile.gettempdir())
        assert aside.temporary.is_dir()
        assert aside.temporary.stat().st_mode & 0o77 == 0
        assert held.temporary.is_relative_to("/tmp/rk")
    finally:
        aside.remove()
        held.remove()
        Path("/tmp/rk").rmdir()
    assert not aside.temporary.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, stream: bytes) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Streams(tmp_path / "file" / "streams", "jpeg")
    desk = Streams(tmp_path / "streams", "jpeg").desk()
    desk.remove()
    (tmp_path / "streams").rmdir()
    tmp_path.rename(tmp_path.parent / "elsewhere")
    tmp_path.write_text("")
    try:
        desk.ready()
        with pytest.raises(OSError, match=f"bitstreams can't be written to {tmp_path / 'streams'}: Not a directory"):
            desk.hold(stream)
    finally:
        tmp_path.unlink()
        (tmp_path.parent / "elsewhere").rename(tmp_path)


def test_folders_of_the_dead_are_removed_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    mine = Streams(tmp_path, "jpeg").desk().hold(b"mine").parent
    other = tmp_path / f"webp-{os.getppid()}-3.worker"
    dead = [tmp_path / f"{codec}-{process.pid}-0.worker" for codec in ("jpeg", "jpeg-restart")]
    kept = tmp_path / "jpeg-0123456789abcdef.bin"
    kept.write_bytes(b"x")
    for folder in (other, *dead):
        folder.mkdir()
        (folder / "0.decoding").write_bytes(b"x")
    Streams(tmp_path, "jpeg")
    assert set(tmp_path.iterdir()) == {mine, other, kept}


def test_kept_streams_are_bounded_in_number_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_KEPT", 3)
    other = Streams(tmp_path, "jpeg-restart").keep(b"other")
    held = Streams(tmp_path, "jpeg")
    paths = []
    for n in range(5):
        paths.append(held.keep(bytes([n])))
        os.utime(paths[-1], (n, n))
    assert set(tmp_path.iterdir()) == {other, *paths[2:]}
    assert held.keep(b"\x04") == paths[4]
