"""Rows on disk: whole parts or none, one row a trial, the same bytes for the same rows."""

import errno
import math
import os

import pyarrow as pa
import pytest

from robustkit.experiments import rows, store

METRICS = {"psnr": {"package": "robustkit", "version": "1"}}
SCHEMA = rows.schema(METRICS)
ROW = {
    "entry": "jpeg",
    "codec": "jpeg",
    "settings": "{}",
    "codec_digest": "c",
    "image": "a",
    "image_digest": "i",
    "height": 8,
    "width": 16,
    "stream_digest": "s",
    "stream_bytes": 32,
    "bpp": 2.0,
    "channel": "bsc(ber=0.001)",
    "kind": "bsc",
    "severity": 1e-3,
    "trial": 0,
    "seed": 0,
    "flips": 1,
    "outcome": "degraded",
    "psnr": 30.0,
    "seconds": 0.1,
}


def made(*trials, **more):
    return rows.table([{**ROW, "trial": trial, **more} for trial in trials], SCHEMA)


def test_rows_come_back_in_one_order_with_what_is_said_of_metrics(tmp_path):
    store.write_part(tmp_path, made(3, 2))
    store.write_part(tmp_path, made(1, 0, psnr=None, outcome="refused"))
    found = store.read(tmp_path)
    assert found["trial"].to_pylist() == [0, 1, 2, 3]
    assert found["psnr"].to_pylist() == [None, None, 30.0, 30.0]
    assert rows.metrics_of(found) == METRICS
    assert store.done(tmp_path) == {("jpeg", "a", "bsc(ber=0.001)", n) for n in range(4)}


def test_every_column_of_a_row_is_in_the_schema():
    assert set(ROW) - set(METRICS) <= set(rows.SCHEMA.names)
    assert SCHEMA.names == [*rows.SCHEMA.names[:-2], "psnr", *rows.TIMINGS]
    with pytest.raises(ValueError, match="a row has no outcome"):
        rows.table([{**ROW, "outcome": None}], SCHEMA)
    with pytest.raises(pa.ArrowException):
        rows.table([{**ROW, "trial": "first"}], SCHEMA)


def test_the_same_chunk_twice_is_one_file(tmp_path):
    assert store.write_part(tmp_path, made(0, 1)) == store.write_part(tmp_path, made(1, 0, seconds=9.0))
    assert len(store.parts(tmp_path)) == 1


def test_an_equal_duplicate_is_dropped_and_an_unequal_one_is_an_error(tmp_path):
    store.write_part(tmp_path, made(0, 1))
    store.write_part(tmp_path, made(1, 2, seconds=7.0, memory=5))
    assert store.read(tmp_path).num_rows == 3
    store.write_part(tmp_path, made(2, 3, psnr=29.0))
    with pytest.raises(
        store.NotDeterministic, match=r"not deterministic: trial 2 of jpeg on a.*psnr (30.0 and 29|29.0 and 30).0"
    ):
        store.read(tmp_path)


def test_rows_with_other_metrics_are_no_one_table(tmp_path):
    store.write_part(tmp_path, made(0))
    store.write_part(tmp_path, rows.table([{**ROW, "trial": 1}], rows.schema({"ssim": {}})))
    with pytest.raises(store.RowsError, match="other metrics"):
        store.read(tmp_path)


def test_the_same_rows_are_the_same_bytes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for trial in range(4):
        store.write_part(one, made(trial, seconds=float(trial)))
    store.write_part(two, made(3, 1, memory=3))
    store.write_part(two, made(0, 2))
    for folder in (one, two):
        store.write_compacted(folder / "whole", store.read(folder))
    data = [(folder / "whole" / store.ROWS).read_bytes() for folder in (one, two)]
    assert data[0] == data[1]
    # Seconds and memory stand beside them, row for row.
    again = store.read(one / "whole")
    assert again.equals(store.read(one))
    assert again["seconds"].to_pylist() == [0.0, 1.0, 2.0, 3.0]


def test_compacted_rows_are_read_without_their_timings_too(tmp_path):
    store.write_compacted(tmp_path, made(0, 1, memory=5))
    assert store.read(tmp_path)["seconds"].to_pylist() == [0.1, 0.1]
    (tmp_path / store.SIDE).unlink()
    found = store.read(tmp_path)
    assert rows.without_timings(found).equals(rows.without_timings(made(0, 1)))
    assert found["memory"].to_pylist() == [None, None]
    assert all(map(math.isnan, found["seconds"].to_pylist()))
    # Rows that were handed on without them, and more that were run since.
    store.write_part(tmp_path, made(1, 2))
    assert store.read(tmp_path)["trial"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("cut", [0, 4, 0.5])
def test_a_part_that_was_cut_is_named_and_the_others_are_kept(tmp_path, cut):
    store.write_part(tmp_path, made(0))
    path = store.write_part(tmp_path, made(1))
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if cut < 1 else cut])
    for read in (store.read, store.done):
        with pytest.raises(store.RowsError, match=rf"{path.name} can't be read .*: remove it"):
            read(tmp_path)
    path.unlink()
    assert store.read(tmp_path)["trial"].to_pylist() == [0]


def test_a_file_of_something_else_is_named(tmp_path):
    path = store.write_part(tmp_path, made(0))
    pa.parquet.write_table(pa.table({"entry": ["x"]}), path)
    with pytest.raises(store.RowsError, match="has no column codec"):
        store.read(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, call):
    store.write_part(tmp_path, made(0))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(store.RowsError, match=r"can't be written: No space left on device; .* kept"):
            store.write_part(tmp_path, made(1))
    assert [path.suffix for path in (tmp_path / store.PARTS).iterdir()] == [".parquet"]
    assert store.read(tmp_path)["trial"].to_pylist() == [0]


def test_what_a_killed_run_left_aside_is_removed_and_never_read(tmp_path):
    store.write_part(tmp_path, made(0))
    aside = tmp_path / store.PARTS / f"x.parquet.1-00{store.ASIDE}"
    aside.write_bytes(b"PAR1")
    assert store.read(tmp_path).num_rows == 1
    store.sweep_aside(tmp_path)
    assert not aside.exists()


def test_a_folder_without_rows_says_so(tmp_path):
    with pytest.raises(store.RowsError, match="has no rows yet"):
        store.read(tmp_path)
    with pytest.raises(store.RowsError, match="is not a folder"):
        store.read(tmp_path / "nowhere")
