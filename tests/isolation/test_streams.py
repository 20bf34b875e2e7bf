"""Bitstreams on disk: whatever a decoder does to their folder, the next decode goes on."""

from __future__ import annotations

import os
import subprocess
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


@pytest.mark.parametrize("how", ["folder", "file for a folder", "folder for a file"])
def test_a_decoder_may_do_what_it_likes_to_the_folder(how: str, stream: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "streams"
    settings = {"how": how, "note": str(folder)}
    spec = CodecSpec(hostile.LeavesMore.name, Target("hostile", "LeavesMore", hostile.__file__), settings)
    with CodecWorkers(spec, directory=folder, limits=LIMITS) as workers:
        for _ in range(3):
            assert workers.decode(stream + b"x").outcome is None
            assert workers.decode(stream).outcome is None
        assert workers.decode(stream + b"x", shape=(1, 1)).outcome is Outcome.MISSHAPEN
        kept = workers.decode(stream + b"x", shape=(1, 1)).stream
    assert kept is not None
    assert kept.read_bytes() == stream + b"x"
    assert list(folder.iterdir()) == [kept]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, stream: bytes) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Streams(tmp_path / "file" / "streams", "jpeg")
    held = Streams(tmp_path / "streams", "jpeg")
    (tmp_path / "streams").rmdir()
    tmp_path.rename(tmp_path.parent / "elsewhere")
    tmp_path.write_text("")
    try:
        with pytest.raises(OSError, match=f"bitstreams can't be written to {tmp_path / 'streams'}: Not a directory"):
            held.hold(stream)
    finally:
        tmp_path.unlink()
        (tmp_path.parent / "elsewhere").rename(tmp_path)


def test_what_the_dead_were_decoding_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    mine = Streams(tmp_path, "jpeg").hold(b"mine")
    other = tmp_path / f"webp-{os.getppid()}-3.decoding"
    dead = [tmp_path / f"{codec}-{process.pid}-0.decoding" for codec in ("jpeg", "jpeg-restart")]
    kept = tmp_path / "jpeg-0123456789abcdef.bin"
    for path in (other, kept, *dead):
        path.write_bytes(b"x")
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


def test_two_pools_of_one_codec_share_a_folder(tmp_path: Path) -> None:
    one, two = Streams(tmp_path, "jpeg"), Streams(tmp_path, "jpeg")
    assert len({one.hold(b"a"), two.hold(b"b"), one.hold(b"c")}) == 3
