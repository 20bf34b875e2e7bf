"""The rows of trials: their order, their file, and files that somebody else made."""

import random
from dataclasses import replace

import example_certificate as example
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model import records

from robustkit.certificates import merkle, trials
from robustkit.certificates.model import CertificateError, TrialRow

ROWS = example.rows()


def test_rows_come_back_in_their_order(tmp_path):
    shuffled = list(ROWS)
    random.Random(0).shuffle(shuffled)
    found = trials.ordered(shuffled, example.CHANNELS)
    assert found == ROWS
    trials.write(tmp_path / trials.FILE, found)
    assert trials.read(tmp_path / trials.FILE) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == [trials.FILE]


@settings(max_examples=15, deadline=None)
@given(st.lists(records(TrialRow), max_size=3))
def test_any_rows_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    trials.write(path, rows)
    assert trials.read(path) == tuple(rows)


def test_one_row_is_shown_without_the_others():
    root = trials.root(ROWS)
    for index in (0, 5, len(ROWS) - 1):
        assert merkle.check(trials.leaf(ROWS[index]), trials.proof(ROWS, index), root)
    assert not merkle.check(trials.leaf(replace(ROWS[0], flips=7)), trials.proof(ROWS, 0), root)
    assert trials.root(()) == ""


def test_a_trial_that_is_there_twice_or_of_another_channel_is_refused():
    with pytest.raises(CertificateError, match="there twice"):
        trials.ordered([ROWS[0], replace(ROWS[0], flips=9)], example.CHANNELS)
    with pytest.raises(CertificateError, match="not in the corpus"):
        trials.ordered([replace(ROWS[0], channel="bsc(ber=0.5)")], example.CHANNELS)


def a_table(**columns):
    found = pa.table(
        {name: [getattr(row, name) for row in ROWS] for name in trials._COLUMNS}, schema=trials._schema(pa)
    )
    for name, value in columns.items():
        found = found.drop_columns([name]) if value is None else found.set_column(0, name, value)
    return found


def hostile(path, name):
    if name == "no file":
        path.mkdir()
    elif name == "text":
        path.write_text("channel,image\n")
    elif name == "cut":
        trials.write(path, ROWS)
        path.write_bytes(path.read_bytes()[:-40])
    elif name == "flipped":
        trials.write(path, ROWS)
        data = bytearray(path.read_bytes())
        data[20:400] = bytes(byte ^ 0x55 for byte in data[20:400])
        path.write_bytes(data)
    elif name == "long":
        with path.open("wb") as file:
            file.truncate(trials.MOST_BYTES + 1)
    elif name == "another column":
        pq.write_table(a_table().append_column("more", pa.array([1] * len(ROWS))), path)
    elif name == "a column less":
        pq.write_table(a_table(pixels=None), path)
    elif name == "many rows":
        many = pa.concat_tables([a_table()] * (trials.MOST_ROWS // len(ROWS) + 1))
        pq.write_table(many, path, compression="zstd")
    elif name == "one long text in all rows":
        # Some kilobytes, of which each row would take a megabyte.
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 3000), pa.array(["x" * (1 << 20)]))
        field = pa.field("channel", texts.type, nullable=False)
        table = pa.concat_tables([a_table()] * 125).set_column(0, field, texts)
        pq.write_table(table, path, compression="zstd", store_schema=False)
        assert path.stat().st_size < 1 << 16
    elif name == "not a number":
        pq.write_table(
            a_table().set_column(8, trials._schema(pa).field("quality"), pa.array([float("nan")] * len(ROWS))), path
        )
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no file", "is no file"),
        ("text", "no Parquet file"),
        ("cut", "no Parquet file"),
        ("flipped", "no Parquet file|other columns"),
        ("long", "bytes"),
        ("another column", "other columns"),
        ("a column less", "other columns"),
        ("many rows", "more than any"),
        ("one long text in all rows", "a text of more than"),
        ("not a number", "quality"),
    ],
)
def test_what_is_no_file_of_trials_is_refused(tmp_path, name, said):
    with pytest.raises(CertificateError, match=said):
        trials.read(hostile(tmp_path / "hostile.parquet", name))
