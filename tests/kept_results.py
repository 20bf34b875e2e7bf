"""The results that docs/results keeps, and the tables of the documents that are made of them. At a checkout's root:

    python tests/kept_results.py keep NAME FOLDER   keep the rows of FOLDER, where experiments/NAME.toml was swept;
                                                    flags that the sweep had beside the file come after them
    python tests/kept_results.py write              make the tables anew, in all documents

A table stands between ``<!-- results: NAME TABLE [KEY=VALUE ...] -->`` and ``<!-- end of results -->``. TABLE is one of
those that ``robustkit figures`` writes, or ``best``, what ``robustkit choose`` says of each channel. The keys are
``entries`` and ``channels``, with "," or ";" between several, ``metric``, and the ``bpp`` of ``best``. A space or a
comma within a name is written %20 and %2C.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robustkit import quality
from robustkit.experiments import envelope, grey, identity, ladder, pictures, published, rows, store, tables, text
from robustkit.experiments import plan as plans
from robustkit.experiments.grey import LEVEL
from robustkit.experiments.results import CLEAN, Measure, Results
from robustkit.experiments.text import Table

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "results"
#: Beside the rows: which command made them, at which commit, when.
MADE = "made.json"
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md"), *(ROOT / "benchmarks").glob("*.md")])
_BLOCK = re.compile(r"(<!-- results: ([\w-]+) ([\w-]+)((?: [\w-]+=\S+)*) -->\n).*?(<!-- end of results -->)", re.DOTALL)

_TABLES: Mapping[str, Callable[[Results, Measure, list[str]], Table]] = {
    "losses": lambda results, measure, channels: tables.losses(results, measure, channels=channels),
    "layout": lambda results, measure, channels: tables.published_layout(results, [measure], channels=channels),
    "conventions": lambda results, measure, channels: tables.conventions(results, measure, channels=channels),
    "rates": lambda results, *_: tables.rate_table(results),
    "bjontegaard": lambda results, measure, channels: ladder.table(
        results, [measure], anchor=results.entries[0], channel=channels[0] if channels else CLEAN
    ),
    "published": lambda results, measure, _: published.comparison(results, [measure], "kodak24"),
}
#: Tables in which trials without an image are charged.
_CHARGED = {"conventions", "best"}


def table_of(name: str) -> pa.Table:
    """The rows that are kept under a name."""
    return pq.read_table(KEPT / name / store.ROWS)


def made(name: str) -> dict[str, str]:
    """Command, commit and date of the rows that are kept under a name."""
    found: dict[str, str] = json.loads((KEPT / name / MADE).read_text(encoding="utf-8"))
    return found


def rendered(name: str, kind: str, **keys: str) -> str:
    """The Markdown of a table, and below it where it comes from."""
    unknown = set(keys) - {"entries", "channels", "metric", *(["bpp"] if kind == "best" else [])}
    assert not unknown, unknown
    entries, channels = (
        [unquote(part) for part in re.split("[,;](?![^(]*\\))", keys.get(key, "")) if part]
        for key in ("entries", "channels")
    )
    said = made(name)
    origin = f"Made by `{said['command']}`, commit `{said['commit']}`, {said['date']}."
    charges = mid_grey(name, keys.get("metric", "psnr")) if kind in _CHARGED else {}
    results = Results(table_of(name), entries=entries, grey=charges)
    measure = results.metric(keys.get("metric", "psnr"))
    if kind == "best":
        table = best(results, measure, channels, float(keys["bpp"]))
    else:
        table = _TABLES[kind](results, measure, channels)
    # What stands above the table is the document's to say.
    said_of = "\n".join([*table.markdown().split("\n")[2:], origin, ""]).lstrip("\n")
    # A sentence a line, as everywhere in the documents.
    return re.sub(r"(?<=[a-z`)]\.) (?=[A-Z])", "\n", said_of)


def best(results: Results, measure: Measure, channels: Sequence[str], bpp: float) -> Table:
    """What ``robustkit choose --bpp`` says of each channel, a line a channel."""
    found = [envelope.choose(results, channel, bpp, measure) for channel in channels]
    lines = []
    for choice in found:
        assert choice.best is not None
        margin = choice.margins[0].bound
        mean, by = (text.number(bound.estimate, measure.digits) for bound in (choice.best.quality.bound, margin))
        second = f"{by} {text.interval(margin, measure.digits)} before {choice.candidates[1].entry}"
        alike = "; ".join(candidate.entry for candidate in choice.alike) or "none"
        lines.append([choice.channel, choice.best.entry, mean, second, alike])
    by_how_much = f"by how much, {measure.unit}" if measure.unit else "by how much"
    heads = ["channel", "the best", measure.label, by_how_much, "not told apart from it"]
    return Table("best", "The best.", heads, lines, [], envelope.table(found).notes)


def mid_grey(name: str, metric: str) -> dict[str, dict[str, float]]:
    """What a mid-grey image scores against each of the photographs that an experiment is of."""
    plan = plans.make(plans.loaded(ROOT / "experiments" / f"{name}.toml"))
    found = {picture.name: picture.load() for picture in pictures.find(plan.images, plan.crop)}
    return {metric: {image: quality.measure(metric, x, np.full_like(x, LEVEL)) for image, x in found.items()}}


def renewed(document: str) -> str:
    """A document with its tables made anew."""

    def anew(found: re.Match[str]) -> str:
        keys = dict(pair.split("=", 1) for pair in found[4].split())
        return f"{found[1]}\n{rendered(found[2], found[3], **keys)}\n{found[5]}"

    return _BLOCK.sub(anew, document)


def keep(name: str, folder: Path, flags: Sequence[str] = ()) -> None:
    """Keep the rows of a folder of ``robustkit sweep`` that are the experiment's, without seconds and memory.

    Beside them lie the experiment, without the folders that its codecs and images came from, and the scores of mid-grey
    images, so that ``robustkit figures`` and ``choose`` work on what is kept. The commit that is written down is the
    checkout's: where the sweep ran at an earlier one, correct it by hand.
    """
    plan = plans.make(plans.loaded(ROOT / "experiments" / f"{name}.toml"))
    found = rows.without_timings(rows.ordered(store.read(folder)))
    of = {entry.label: plan.trials_of(entry.label) for entry in plan.entries}
    found = found.filter(pa.array([entry in of and trial < of[entry] for entry, _, _, trial in rows.keys(found)]))
    (KEPT / name).mkdir(parents=True, exist_ok=True)
    pq.write_table(found, KEPT / name / store.ROWS, compression="zstd", compression_level=19, write_statistics=False)
    experiment = json.loads((folder / identity.FILE).read_text(encoding="utf-8"))
    _write(KEPT / name / identity.FILE, experiment)
    grey.scores(KEPT / name, pc.unique(found["image"]).to_pylist(), plan.metrics)
    # Where its files lay is nobody else's.
    experiment["path"] = []
    experiment["plan"]["images"] = plan.images
    for picture in experiment["pictures"]:
        picture["path"] = Path(picture["path"]).name
    _write(KEPT / name / identity.FILE, experiment)
    head = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said: dict[str, Any] = {
        "command": f"{shlex.join(['robustkit', 'sweep', f'experiments/{name}.toml', *flags, '--out', name])}",
        "commit": head.stdout.strip(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    _write(KEPT / name / MADE, said)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


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
        before = path.read_text(encoding="utf-8")
        if (new := renewed(before)) != before:
            path.write_text(new, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} is made anew")


if __name__ == "__main__":
    main()
