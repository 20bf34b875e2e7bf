"""A folder of rows: one immutable Parquet file a chunk of trials, written aside, synced and renamed.

Nothing is ever appended, so a run that was killed leaves whole parts, and files aside that the next run removes. What
was done is what the parts name. Two runs may write into one folder: a part's name is the digest of its trials, so that
the same chunk run twice is one file.

``DIR/parts/`` has the parts. ``DIR/rows.parquet`` and ``DIR/timings.parquet`` are what compaction makes of them: the
rows in a fixed order, and beside them seconds and memory, row for row. The first is the same bytes for the same rows,
so it is what people keep and hand on; without the second, seconds and memory are not known.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robustkit.errors import RobustkitError
from robustkit.experiments import rows

PARTS = "parts"
ROWS = "rows.parquet"
SIDE = "timings.parquet"
#: How a file is called while it is written.
ASIDE = ".tmp"
_NAMED = 3

Key = tuple[str, str, str, int]


class RowsError(RobustkitError, ValueError):
    """A folder of rows that can't be read or written; the message names the file and the way out."""


class NotDeterministic(RowsError):
    """One trial has two different rows."""


def read(directory: str | Path) -> pa.Table:
    """All rows in a folder, one a trial, in a fixed order.

    Args:
        directory: what ``robustkit sweep --out`` or ``robustkit merge --out`` was given.

    Returns:
        The columns of :func:`robustkit.experiments.rows.schema`, with what is said of the metrics in its metadata.
        Seconds are NaN and memory is null where the timings are not beside the rows.

    Raises:
        RowsError: there is no such folder or no row in it; or a file can't be read, which is named.
        NotDeterministic: a trial has two rows that differ in more than time and memory.
    """
    folder = Path(directory)
    found = [*_compacted(folder), *(_part(path) for path in parts(folder))]
    if not found:
        what = "has no rows yet" if folder.is_dir() else "is not a folder"
        raise RowsError(f"{folder} {what}: give the folder of a sweep")
    return joined(found)


def parts(folder: Path) -> list[Path]:
    """The parts in a folder, in the order of their names."""
    return sorted((folder / PARTS).glob("*.parquet"))


def done(folder: Path) -> set[Key]:
    """The trials that have a row. Only the columns that name them are read.

    Raises:
        RowsError: as :func:`read`; a folder without rows is none.
    """
    found: set[Key] = set()
    for path in [*([folder / ROWS] if (folder / ROWS).exists() else []), *parts(folder)]:
        with _readable(path):
            found.update(rows.keys(pq.read_table(path, columns=list(rows.KEY), partitioning=None)))
    return found


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of several tables in a fixed order; equal ones are dropped.

    Raises:
        RowsError: the tables have other metrics.
        NotDeterministic: as :func:`read`.
    """
    first = tables[0].schema
    for other in tables[1:]:
        if rows.metrics_of(other) != rows.metrics_of(first):
            theirs, ours = (", ".join(rows.metrics_of(s)) or "none" for s in (other.schema, first))
            raise RowsError(f"rows with other metrics, or versions of them, can't be one table: {theirs}; {ours}")
    whole = rows.ordered(pa.concat_tables([t.select(first.names).cast(first) for t in tables]))
    return _distinct(whole)


def _distinct(whole: pa.Table) -> pa.Table:
    if whole.num_rows < 2:
        return whole
    columns = [whole[name].combine_chunks() for name in rows.KEY]
    same = functools.reduce(pc.and_, [pc.equal(column[1:], column[:-1]) for column in columns])
    again = [at + 1 for at, repeated in enumerate(same.to_pylist()) if repeated]
    if not again:
        return whole
    plain = rows.without_timings(whole)
    for at in again:
        # As text, so that a number that is none equals itself.
        one, two = (plain.slice(row, 1).to_pylist()[0] for row in (at - 1, at))
        if differing := [name for name in one if repr(one[name]) != repr(two[name])]:
            entry, image, channel, trial = (one[name] for name in rows.KEY)
            which = f"trial {trial} of {entry} on {image}, {channel}" if trial >= 0 else f"{entry} on {image}, clean"
            said = ", ".join(f"{name} {one[name]!r} and {two[name]!r}" for name in differing[:_NAMED])
            raise NotDeterministic(
                f"not deterministic: {which} has two rows that differ: {said}. Give each codec, device and version a "
                "folder of its own, or find out what its decoder depends on"
            )
    repeated = set(again)
    return whole.take([row for row in range(whole.num_rows) if row not in repeated])


def write_part(folder: Path, found: pa.Table) -> Path:
    """Put a chunk's rows into a folder: all of them or, where that fails, none.

    Raises:
        RowsError: they can't be written: a full disk, no rights.
    """
    named = hashlib.sha256(json.dumps(sorted(rows.keys(found))).encode()).hexdigest()[:24]
    path = folder / PARTS / f"{named}.parquet"
    _write(path, rows.ordered(found))
    return path


def write_compacted(folder: Path, found: pa.Table) -> None:
    """Put all rows of an experiment into one file, and seconds and memory into another.

    Raises:
        RowsError: as :func:`write_part`.
    """
    whole = rows.ordered(found)
    _write(folder / SIDE, whole.select([*rows.KEY, *rows.TIMINGS]).replace_schema_metadata(None))
    _write(folder / ROWS, rows.without_timings(whole))


def sweep_aside(folder: Path) -> None:
    """Remove what runs left that were killed while they wrote."""
    for path in [*folder.glob(f"*{ASIDE}"), *(folder / PARTS).glob(f"*{ASIDE}")]:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Make ``data`` the contents of a file: all of it or, where that fails, what was there before.

    Raises:
        RowsError: as :func:`write_part`.
    """
    with _aside(path) as aside, aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, found: pa.Table) -> None:
    with _aside(path) as aside, aside.open("wb") as file:
        pq.write_table(found, file, compression="zstd", write_statistics=False)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` at the end, for good; on any error it is removed."""
    aside = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{ASIDE}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        _sync(path.parent)
    except OSError as error:
        raise RowsError(
            f"{path} can't be written: {error.strerror or error}; rows written before are kept, and the same command "
            "goes on"
        ) from error


def _sync(folder: Path) -> None:
    """Make a renaming last, where folders can be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise RowsError(f"{path} is gone: was it removed while it was read?") from error
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        if isinstance(error, RowsError):
            raise
        why = str(error).partition("\n")[0]
        raise RowsError(
            f"{path} can't be read ({why}): remove it and give the sweep's command again, which runs its trials anew; "
            "all other rows are kept"
        ) from error


def _part(path: Path) -> pa.Table:
    with _readable(path):
        found = pq.read_table(path, partitioning=None)
        if wrong := rows.check_columns(found.schema):
            raise ValueError(wrong[0])
        return found


def _compacted(folder: Path) -> Iterable[pa.Table]:
    if not (folder / ROWS).exists():
        return []
    with _readable(folder / ROWS):
        found = pq.read_table(folder / ROWS, partitioning=None)
        if wrong := rows.check_columns(rows.with_timings(found).schema):
            raise ValueError(wrong[0])
    if not (folder / SIDE).exists():
        return [rows.with_timings(found)]
    with _readable(folder / SIDE):
        side = pq.read_table(folder / SIDE, partitioning=None)
        if rows.keys(side) != rows.keys(found):
            raise ValueError(f"its rows are not those of {ROWS}")
        return [rows.with_timings(found, side)]
