"""Folders of one experiment made into one; and rows as CSV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc

from robustkit.experiments import rows, store
from robustkit.experiments.identity import Experiment, ExperimentError


def merge(folders: Sequence[Path], out: Path) -> pa.Table:
    """Put the rows of several folders into a new one: equal ones once, in a fixed order.

    The new folder's ``rows.parquet`` is the same bytes for the same rows, however they were come by. Pictures that were
    kept are not taken along; a sweep that is started in the new folder makes them again.

    Args:
        folders: of sweeps, whose experiments must be the same but for codecs, channels and number of trials.
        out: the new folder; it may be there if it is empty.

    Returns:
        The rows.

    Raises:
        ExperimentError: a folder is no experiment or another one; or ``out`` holds something already.
        NotDeterministic: a trial has two rows that differ.
        RowsError: rows can't be read or written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExperimentError(f"{out} is there already: give --out a new folder")
    whole = None
    for folder in folders:
        found = Experiment.read(folder)
        try:
            whole = found if whole is None else found.follow(whole)
        except ExperimentError as error:
            raise ExperimentError(f"{folder} can't be merged with {folders[0]}: {error}") from error
    assert whole is not None
    joined = store.joined([store.read(folder) for folder in folders])
    whole.write(out)
    store.write_compacted(out, joined)
    return joined


def to_csv(found: pa.Table) -> bytes:
    """Rows as CSV, UTF-8, with a line of column names; what is null is empty."""
    buffer = io.BytesIO()
    pc.write_csv(rows.ordered(found), buffer, pc.WriteOptions(quoting_style="needed"))
    return buffer.getvalue()
