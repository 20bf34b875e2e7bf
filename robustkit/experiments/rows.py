"""The row of a trial: its columns, what each metric column says of itself, and rows as a table of pyarrow's.

One row a trial, and one a clean decode, of which ``trial`` is -1, ``channel`` "clean" and ``severity`` 0. ``seconds``
and ``memory`` differ from run to run; all other columns are the same whenever and wherever a trial is run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

#: ``trial`` and ``channel`` of a clean decode.
CLEAN_TRIAL = -1
CLEAN = "clean"
#: Key in a schema's metadata: JSON, by metric its package, weights, direction and version.
METRICS_KEY = b"robustkit.metrics"
#: Columns that differ from run to run.
TIMINGS = ("seconds", "memory")
#: Columns that name a trial within one experiment.
KEY = ("entry", "image", "channel", "trial")


def _field(name: str, kind: pa.DataType, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


_BEFORE = (
    _field("entry", pa.string()),
    _field("codec", pa.string()),
    _field("settings", pa.string()),
    _field("codec_digest", pa.string()),
    _field("image", pa.string()),
    _field("image_digest", pa.string()),
    _field("height", pa.int32()),
    _field("width", pa.int32()),
    _field("stream_digest", pa.string()),
    _field("stream_bytes", pa.int64()),
    _field("bpp", pa.float64()),
    _field("channel", pa.string()),
    _field("kind", pa.string()),
    _field("severity", pa.float64()),
    _field("trial", pa.int32()),
    _field("seed", pa.int64()),
    _field("flips", pa.int64()),
    _field("region", pa.string(), nullable=True),
    _field("outcome", pa.string()),
    _field("failure", pa.string(), nullable=True),
)
_AFTER = (_field("seconds", pa.float64()), _field("memory", pa.int64(), nullable=True))

#: The columns without those of metrics.
SCHEMA = pa.schema([*_BEFORE, *_AFTER])
#: The columns of the usual metrics, by name; null where a trial gave no image. Any other metric's is alike.
METRIC_FIELDS: Mapping[str, pa.Field] = {
    name: _field(name, pa.float64(), nullable=True)
    for name in ("psnr", "psnr_y", "ssim", "ms_ssim", "ssimulacra2", "lpips", "dists", "niqe")
}


def schema(metrics: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """The columns with one for each metric, between ``failure`` and ``seconds``.

    Args:
        metrics: by name, what is said of it, in JSON's own types: package, weights, direction, version.
    """
    measured = [_field(name, pa.float64(), nullable=True) for name in metrics]
    said = json.dumps(metrics, sort_keys=True).encode()
    return pa.schema([*_BEFORE, *measured, *_AFTER], metadata={METRICS_KEY: said})


def metrics_of(found: pa.Schema | pa.Table) -> dict[str, dict[str, Any]]:
    """By metric, in the order of the columns, what is stored of it."""
    columns = found if isinstance(found, pa.Schema) else found.schema
    stored = json.loads((columns.metadata or {}).get(METRICS_KEY, b"{}"))
    return {name: stored[name] for name in columns.names if name in stored}


def table(rows: Iterable[Mapping[str, Any]], columns: pa.Schema) -> pa.Table:
    """Rows as a table.

    Args:
        rows: by column; a metric that is missing is null.
        columns: as :func:`schema` makes them.

    Raises:
        pyarrow.ArrowException: a value is of another type.
        ValueError: one is missing where it must not be.
    """
    made = pa.Table.from_pylist([dict(row) for row in rows], schema=columns)
    for field in columns:
        if not field.nullable and made[field.name].null_count:
            raise ValueError(f"a row has no {field.name}")
    return made


def ordered(found: pa.Table) -> pa.Table:
    """The rows in the one order that depends on nothing but what they are."""
    return found.sort_by([(name, "ascending") for name in KEY]).combine_chunks()


def without_timings(found: pa.Table) -> pa.Table:
    """The columns that are the same in every run."""
    return found.drop_columns([name for name in TIMINGS if name in found.column_names])


def with_timings(found: pa.Table, side: pa.Table | None = None) -> pa.Table:
    """The rows with the columns that :func:`without_timings` leaves out.

    Args:
        found: without them.
        side: has them, row for row; ``None`` where nobody knows them: seconds are then NaN, and memory is null.
    """
    for name in TIMINGS:
        field = SCHEMA.field(name)
        unknown = None if field.nullable else math.nan
        column = pa.array([unknown] * found.num_rows, field.type) if side is None else side[name]
        found = found.append_column(field, column)
    return found


def keys(found: pa.Table) -> list[tuple[str, str, str, int]]:
    """Entry, image, channel and trial of each row."""
    return list(zip(*(found[name].to_pylist() for name in KEY), strict=True))


def check_columns(found: pa.Schema) -> Sequence[str]:
    """What is wrong with the columns of a file of rows, one text each; empty where nothing is."""
    wrong = []
    for field in SCHEMA:
        at = found.get_field_index(field.name)
        if at < 0:
            wrong.append(f"it has no column {field.name}")
        elif found.field(at).type != field.type:
            wrong.append(f"its column {field.name} is {found.field(at).type}, not {field.type}")
    return wrong
