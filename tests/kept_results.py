"""The results that docs/results keeps, and the tables of the documents that are made of them. At a checkout's root:

    python tests/kept_results.py keep NAME FOLDER   keep the rows of FOLDER, where experiments/NAME.toml was swept;
                                                    flags that the sweep had beside the file come after them
    python tests/kept_results.py write              make the tables anew, in all documents

A table stands between ``<!-- results: NAME TABLE [KEY=VALUE ...] -->`` and ``<!-- end of results -->``. TABLE is one of
those that ``robustkit figures`` writes. The keys are ``entries`` and ``channels``, with "," or ";" between several, and
``metric``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from robustkit import quality
from robustkit.experiments import pictures, published, rows, store, tables
from robustkit.experiments import plan as plans
from robustkit.experiments.grey import LEVEL
from robustkit.experiments.results import Measure, Results
from robustkit.experiments.text import Table

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "results"
#: In place of rows, of what was measured before there was `robustkit sweep`.
FIGURES = "losses.csv"
#: Beside the rows: which command made them, at which commit, when.
MADE = "made.json"
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md"), *(ROOT / "benchmarks").glob("*.md")])
_BLOCK = re.compile(r"(<!-- results: ([\w-]+) ([\w-]+)((?: [\w-]+=\S+)*) -->\n).*?(<!-- end of results -->)", re.DOTALL)

_TABLES: Mapping[str, Callable[[Results, Measure, list[str]], Table]] = {
    "losses": lambda results, measure, channels: tables.losses(results, measure, channels=channels),
    "layout": lambda results, measure, channels: tables.published_layout(results, [measure], channels=channels),
    "conventions": lambda results, measure, channels: tables.conventions(results, measure, channels=channels),
    "rates": lambda results, *_: tables.rate_table(results),
    "published": lambda results, measure, _: published.comparison(results, [measure], "kodak24"),
}


def table_of(name: str) -> pa.Table:
    """The rows that are kept under a name."""
    return pq.read_table(KEPT / name / store.ROWS)


def made(name: str) -> dict[str, str]:
    """Command, commit and date of the rows that are kept under a name."""
    found: dict[str, str] = json.loads((KEPT / name / MADE).read_text(encoding="utf-8"))
    return found


def rendered(name: str, kind: str, **keys: str) -> str:
    """The Markdown of a table, and below it where it comes from."""
    unknown = set(keys) - {"entries", "channels", "metric"}
    assert not unknown, unknown
    entries, channels = (
        re.split("[,;](?![^(]*\\))", keys[key]) if key in keys else [] for key in ("entries", "channels")
    )
    said = made(name)
    origin = f"Made by `{said['command']}`, commit `{said['commit']}`, {said['date']}."
    if (KEPT / name / FIGURES).exists():
        now = f"\nThe same experiment is now `{said['now']}`." if "now" in said else ""
        return f"{measured_before(name, channels)}\n\n{origin}{now}\n"
    charges = mid_grey(name, keys.get("metric", "psnr")) if kind == "conventions" else {}
    results = Results(table_of(name), entries=entries, grey=charges)
    table = _TABLES[kind](results, results.metric(keys.get("metric", "psnr")), channels)
    # What stands above the table is the document's to say.
    text = "\n".join([*table.markdown().split("\n")[2:], origin, ""]).lstrip("\n")
    # A sentence a line, as everywhere in the documents.
    return re.sub(r"(?<=[a-z`)]\.) (?=[A-Z])", "\n", text)


def mid_grey(name: str, metric: str) -> dict[str, dict[str, float]]:
    """What a mid-grey image scores against each of the photographs that an experiment is of."""
    plan = plans.make(plans.loaded(ROOT / "experiments" / f"{name}.toml"))
    found = {picture.name: picture.load() for picture in pictures.find(plan.images, plan.crop)}
    return {metric: {image: quality.measure(metric, x, np.full_like(x, LEVEL)) for image, x in found.items()}}


def measured_before(name: str, channels: Sequence[str]) -> str:
    """The table of losses that were measured before there was `robustkit sweep`: figures are kept, and no rows."""
    lines: dict[str, list[str]] = {}
    with (KEPT / name / FIGURES).open(encoding="utf-8", newline="") as file:
        rows_ = list(csv.DictReader(file))
    wanted = list(channels) or list(dict.fromkeys(row["channel"] for row in rows_))

    def cell(row: Mapping[str, str], key: str, *, per_cent: bool = False) -> str:
        values = [row.get(f"{key}{end}") for end in ("", "_low", "_high")]
        shown = [f"{100 * float(value):.0f}" if per_cent else value for value in values if value]
        return f"{shown[0]} [{shown[1]}, {shown[2]}]" if len(shown) == 3 else shown[0] if shown else "n/a"

    for row in rows_:
        if row["channel"] in wanted:
            line = lines.setdefault(row["entry"], [f"`{row['entry']}`", row["bpp"], cell(row, "clean")])
            line += [cell(row, "loss"), cell(row, "no_image", per_cent=True)]
    heads = ["codec", "bpp", "clean PSNR, dB"]
    heads += [head for channel in wanted for head in (f"{channel}: loss, dB", "no image, %")]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *lines.values()])


def renewed(text: str) -> str:
    """A document with its tables made anew."""

    def anew(found: re.Match[str]) -> str:
        keys = dict(pair.split("=", 1) for pair in found[4].split())
        return f"{found[1]}\n{rendered(found[2], found[3], **keys)}\n{found[5]}"

    return _BLOCK.sub(anew, text)


def keep(name: str, folder: Path, flags: Sequence[str] = ()) -> None:
    """Keep the rows of a folder of ``robustkit sweep`` that are the experiment's, without seconds and memory.

    The commit that is written down is the checkout's: where the sweep ran at an earlier one, correct it by hand.
    """
    plan = plans.make(plans.loaded(ROOT / "experiments" / f"{name}.toml"))
    found = rows.without_timings(rows.ordered(store.read(folder)))
    of = {entry.label: plan.trials_of(entry.label) for entry in plan.entries}
    found = found.filter(pa.array([entry in of and trial < of[entry] for entry, _, _, trial in rows.keys(found)]))
    (KEPT / name).mkdir(parents=True, exist_ok=True)
    pq.write_table(found, KEPT / name / store.ROWS, compression="zstd", compression_level=19, write_statistics=False)
    head = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said: dict[str, Any] = {
        "command": f"{shlex.join(['robustkit', 'sweep', f'experiments/{name}.toml', *flags, '--out', name])}",
        "commit": head.stdout.strip(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    (KEPT / name / MADE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    keeping = commands.add_parser("keep")
    keeping.add_argument("name")
    keeping.add_argument("folder", type=Path)
    commands.add_parser("write")
    given, flags = parser.parse_known_args()
    if given.command == "keep":
        keep(given.name, given.folder, flags)
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (new := renewed(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} is made anew")


if __name__ == "__main__":
    main()
