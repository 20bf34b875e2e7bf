"""The rows of a certificate's trials: in which order they stand, the root over them, and the file that has them."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from robustkit.certificates import canonical, merkle
from robustkit.certificates.model import CertificateError, TrialRow, from_json, to_json
from robustkit.extras import way_out

FILE = "trials.parquet"
#: No such file of ours is so long, has so many rows, so long a text, or so many bytes when unpacked.
MOST_BYTES = 64 * 1024 * 1024
MOST_ROWS = 1_000_000
MOST_TEXT = 1 << 14
MOST_UNPACKED = 512 * 1024 * 1024
_BATCH = 1024

_COLUMNS = tuple(f.name for f in fields(TrialRow))
_WHOLE = ("number", "seed", "flips")
_FLOATS = ("quality", "drop")
_FLAGS = ("tolerated",)
_TEXTS = tuple(name for name in _COLUMNS if name not in (*_WHOLE, *_FLOATS, *_FLAGS))
_NULLABLE = ("failure", "quality", "drop", "pixels")


def ordered(rows: Iterable[TrialRow], channels: Sequence[str]) -> tuple[TrialRow, ...]:
    """Rows by channel, in the corpus's order, then image, then number.

    Raises:
        CertificateError: a row is of another channel, or a trial has two.
    """
    place = {channel: at for at, channel in enumerate(channels)}
    found = list(rows)
    if stray := [row.channel for row in found if row.channel not in place]:
        raise CertificateError(f"a trial of channel {stray[0][:60]!r}, which is not in the corpus")
    found.sort(key=lambda row: (place[row.channel], row.image, row.number))
    for one, two in itertools.pairwise(found):
        if (one.channel, one.image, one.number) == (two.channel, two.image, two.number):
            raise CertificateError(f"trial {one.number} of {one.image[:60]}, {one.channel[:60]}, is there twice")
    return tuple(found)


def leaf(row: TrialRow) -> bytes:
    """The row as the Merkle tree has it: canonical JSON."""
    return canonical.dumps(to_json(row))


def root(rows: Iterable[TrialRow]) -> str:
    """The Merkle root over rows in their order; empty where there are none."""
    found = [leaf(row) for row in rows]
    return merkle.root(found) if found else ""


def proof(rows: Sequence[TrialRow], index: int) -> merkle.Proof:
    """The proof that ``rows[index]`` is among them."""
    return merkle.proof([leaf(row) for row in rows], index)


def write(path: Path, rows: Sequence[TrialRow]) -> None:
    """Put rows into a Parquet file, whole or not at all.

    Raises:
        CertificateError: a package is missing, or the file can't be written.
    """
    pa, pq = _pyarrow()
    columns = {name: [getattr(row, name) for row in rows] for name in _COLUMNS}
    table = pa.table(columns, schema=_schema(pa))
    aside = path.with_name(path.name + ".tmp")
    try:
        pq.write_table(table, aside, compression="zstd", write_statistics=False)
        os.replace(aside, path)
    except (OSError, pa.ArrowException) as error:
        raise CertificateError(f"{path} can't be written: {error}") from error


def read(path: Path) -> tuple[TrialRow, ...]:
    """The rows of a file that anybody may have made.

    Raises:
        CertificateError: it is no such file, has other columns, or is larger than any of ours; or a package is missing.
    """
    try:
        if not path.is_file():
            raise CertificateError(f"{path} is no file")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise CertificateError(f"{path.name} has {size:,} bytes; no such file of ours has more than {MOST_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path} can't be read: {error}") from error
    return tuple(_rows(data, path.name))


def _rows(data: bytes, name: str) -> Iterator[TrialRow]:
    pa, pq = _pyarrow()
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        about = file.metadata
        if not file.schema_arrow.equals(_schema(pa)):
            raise CertificateError(f"{name} has other columns than trials have")
        unpacked = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        if not 0 <= about.num_rows <= MOST_ROWS or not 0 <= unpacked <= MOST_UNPACKED:
            raise CertificateError(f"{name} has {about.num_rows:,} rows, more than any certificate of ours")
        held = 0
        # A few bytes may say that each of many rows has one long text: it is looked at once, before any row has it.
        once = pq.ParquetFile(io.BytesIO(data), read_dictionary=list(_TEXTS))
        for batch in once.iter_batches(batch_size=_BATCH, use_threads=False):
            texts = [batch.column(column).dictionary for column in _TEXTS]
            if any(text.nbytes > MOST_UNPACKED or _longest(text) > MOST_TEXT for text in texts):
                raise CertificateError(f"{name} has a text of more than {MOST_TEXT:,} bytes")
            rows = batch.to_pylist()
            held += sum(len(text) for row in rows for column in _TEXTS if (text := row[column]) is not None)
            if held > MOST_UNPACKED:
                raise CertificateError(f"{name} unpacks to more than {MOST_UNPACKED:,} bytes")
            for row in rows:
                yield from_json(TrialRow, row, name)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, CertificateError):
            raise
        raise CertificateError(f"{name} is no Parquet file that can be read: {str(error)[:200]}") from error


def _longest(texts: Any) -> int:
    """Bytes of the longest of some texts."""
    import pyarrow.compute as pc

    return pc.max(pc.binary_length(texts)).as_py() or 0


def _schema(pa: Any) -> Any:
    kinds = dict.fromkeys(_WHOLE, pa.int64()) | dict.fromkeys(_FLOATS, pa.float64()) | dict.fromkeys(_FLAGS, pa.bool_())
    columns = [(name, kinds.get(name, pa.string())) for name in _COLUMNS]
    return pa.schema([pa.field(name, kind, nullable=name in _NULLABLE) for name, kind in columns])


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise CertificateError(f"certificates need a package: {way_out(error.name)}") from error
    return pa, pq
