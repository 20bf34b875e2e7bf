"""All figures and tables of an experiment's folder: read, drawn and written, with a page that shows them all."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustkit.experiments import (
    TOLERANCE,
    drawing,
    envelope,
    grey,
    grids,
    ladder,
    lines,
    published,
    rateplots,
    sets,
    store,
    tables,
)
from robustkit.experiments.drawing import DPI, FORMATS, About, Drawn, Width
from robustkit.experiments.lines import Convention
from robustkit.experiments.results import Measure, Results, ResultsError
from robustkit.experiments.text import Table, escape_markdown

#: The page with everything on it.
PAGE = "figures.md"


@dataclass(frozen=True)
class Wish:
    """What is to be drawn.

    Attributes:
        entries: which, in which order; by default all.
        metrics: of single images; by default PSNR and the perceptual metric that the rows have.
        formats: of "png", "svg", "pdf".
        width: of a paper's column or page.
        convention: for trials without an image, in figures; tables have both.
        anchor: whom pairs and Bjontegaard differences are against.
        budgets: total rates of the envelope, bits per pixel.
        tolerance: how far apart rates may be that are called matched: 0.05 is 5%.
        beside: the published data set to compare with; "" for the one of as many images, ``None`` for none.
        images: which pictures' reconstructions are shown; by default the first that were kept.
    """

    entries: Sequence[str] = ()
    metrics: Sequence[str] = ()
    formats: Sequence[str] = FORMATS
    width: Width = "page"
    convention: Convention = "left-out"
    anchor: str | None = None
    budgets: Sequence[float] = ()
    tolerance: float = TOLERANCE
    beside: str | None = None
    images: Sequence[str] = field(default=())


def read(directory: Path, entries: Sequence[str] = (), *, note: Callable[[str], None] = lambda _: None) -> Results:
    """The rows of an experiment's folder, its metrics of sets if it has any, and what mid-grey images score.

    Args:
        entries: which, in which order.
        note: called with a sentence for what can't be charged.

    Raises:
        RowsError: the folder can't be read, or has no rows.
        ResultsError: its rows are no experiment's.
    """
    found = Results(store.read(directory), entries=entries, sets=read_sets(directory / sets.FILE))
    lost = [image for image in found.images if any(image in point.lost for point in found.points.values())]
    found.grey, notes = grey.scores(directory, lost, found.measures)
    for line in notes:
        note(line)
    return found


def read_sets(path: Path) -> dict[tuple[str, str, str], list[float]]:
    """Metrics of sets of images, by entry, channel and metric, a value a trial; nothing where there is no such file.

    Raises:
        ResultsError: the file can't be read.
    """
    if not path.exists():
        return {}
    found: dict[tuple[str, str, str], list[float]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                value = float(row["value"]) if row["value"] else math.nan
                found.setdefault((row["entry"], row["channel"], row["metric"]), []).append(value)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ResultsError(
            f"{path} can't be read ({error}): it needs the columns entry, channel, trial, metric, value"
        ) from error
    return found


def measures_of(results: Results, wish: Wish) -> list[Measure]:
    """The metrics asked for, or else PSNR and the first perceptual one; any there is, if it has neither.

    Raises:
        ResultsError: one was asked for that no trial was measured by, or there is none at all.
    """
    if wish.metrics:
        return [results.metric(name) for name in dict.fromkeys(wish.metrics)]
    usual = [results.measures["psnr"]] if "psnr" in results.measures else []
    if (perceptual := results.perceptual()) is not None:
        usual.append(perceptual)
    if not (usual or results.measures):
        raise ResultsError("no trial was measured by any metric")
    return usual or list(results.measures.values())[:2]


def draw(results: Results, wish: Wish, directory: Path) -> tuple[list[Drawn], list[Table]]:
    """Every figure and table that the rows have something for.

    Args:
        directory: the experiment's folder, where pictures may have been kept.

    Raises:
        FigureError: matplotlib or another package of the extra ``experiments`` is missing.
        ResultsError: something was asked for that the rows don't have.
    """
    drawing.needed("matplotlib", "bjontegaard")
    measures = measures_of(results, wish)
    beside = None if wish.beside is None else published.which_set(results, wish.beside or None)
    common = {"width": wish.width, "convention": wish.convention, "tolerance": wish.tolerance}
    drawn = lines.against_damage(results, measures, beside=beside, **common)  # type: ignore[arg-type]
    drawn += lines.burst_sensitivity(results, measures, **common)  # type: ignore[arg-type]
    if (curves := rateplots.rate_distortion(results, measures, width=wish.width)) is not None:
        drawn.append(curves)
    drawn += rateplots.total_rate(results, measures[0], width=wish.width, tolerance=wish.tolerance)
    best, choices = rateplots.best_at_each(
        results, measures[0], budgets=wish.budgets, width=wish.width, tolerance=wish.tolerance
    )
    drawn += best
    drawn += grids.reconstructions(results, directory, images=wish.images, width=wish.width)
    made = tables.all_of(results, measures, anchor=wish.anchor, tolerance=wish.tolerance)
    made += [ladder.table(results, measures, anchor=wish.anchor), envelope.table(choices)]
    if beside is not None:
        made.append(published.comparison(results, measures, beside))
    return drawn, [table for table in made if table.rows]


def write(
    drawn: Sequence[Drawn],
    made: Sequence[Table],
    folder: Path,
    about: About,
    formats: Sequence[str] = FORMATS,
    *,
    dpi: int = DPI,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write figures, tables, and a page that shows them all.

    Raises:
        FigureError: a file can't be written.
    """
    files = []
    for figure in drawn:
        progress(figure.name)
        files += drawing.store(figure, folder, about, formats, dpi=dpi)
    for table in made:
        for ending, text in (("md", table.markdown()), ("tex", _commented(table.latex(), about)), ("csv", table.csv())):
            files.append(drawing.write(folder / f"{table.name}.{ending}", text.encode()))
    files.append(drawing.write(folder / PAGE, page(drawn, made, about, formats).encode()))
    return files


def _commented(latex: str, about: About) -> str:
    return "".join(f"% {line}\n" for line in _said(about)) + latex


def _said(about: About) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in about.versions.items())
    return [f"Made by: {' '.join(about.command.split())}", f"Versions: {versions}", f"Rows (SHA-256): {about.digest}"]


def page(drawn: Sequence[Drawn], made: Sequence[Table], about: About, formats: Sequence[str] = FORMATS) -> str:
    """Markdown with all figures, their captions, and all tables."""
    parts = ["# Figures and tables", *(escape_markdown(line) for line in _said(about))]
    for figure in drawn:
        shown = next((kind for kind in ("png", "svg") if kind in formats), formats[0])
        parts += [f"## {figure.name}", f"![{figure.name}]({figure.name}.{shown})", escape_markdown(figure.caption)]
    for table in made:
        parts += [f"## {table.name}", table.markdown().rstrip("\n")]
    return "\n\n".join(parts) + "\n"
