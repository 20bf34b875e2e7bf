"""The rows that ``make_rows.py`` made, and rows made by hand for what real trials seldom show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustkit.experiments import rows
from robustkit.experiments.results import Results

HERE = Path(__file__).parent
SAID = {
    "psnr": {"package": "robustkit", "higher_is_better": True},
    "lpips": {"package": "pyiqa", "higher_is_better": False},
}


def real_table() -> pa.Table:
    return pq.read_table(HERE / "rows.parquet")


def real_grey() -> dict[str, dict[str, float]]:
    return json.loads((HERE / "grey.json").read_text(encoding="utf-8"))


def real(entries: Sequence[str] = (), *, grey: bool = True) -> Results:
    return Results(real_table(), entries=entries, grey=real_grey() if grey else None)


def row(entry: str, image: str, channel: str, trial: int, **more: Any) -> dict[str, Any]:
    """A row with what tests don't ask about filled in; ``psnr=None`` is a trial without an image."""
    kind = channel.partition("(")[0]
    severity = float(channel.partition("=")[2].rstrip(")") or 0)
    lost = more.get("psnr", 30.0) is None
    return {
        **{"entry": entry, "codec": entry.partition("@")[0], "settings": "{}", "codec_digest": "c"},
        **{"image": image, "image_digest": f"digest of {image}", "height": 8, "width": 8},
        **{"stream_digest": "s", "stream_bytes": 8, "bpp": 1.0},
        **{"channel": channel, "kind": kind, "severity": severity, "trial": trial, "seed": 0, "flips": 1},
        **{"outcome": "refused" if lost else "degraded", "failure": None, "region": None},
        **{"seconds": 0.1, "memory": None, "psnr": 30.0, "lpips": None if lost else 0.5},
        **more,
    }


def table(found: Sequence[Mapping[str, Any]], said: Mapping[str, Any] = SAID) -> pa.Table:
    return rows.table(found, rows.schema(said))


def results(found: Sequence[Mapping[str, Any]], **more: Any) -> Results:
    return Results(table(found), **more)
