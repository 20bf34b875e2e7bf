"""How figures look and how they are stored: one style, PNG, SVG and PDF, each with the data and the command in it.

matplotlib loads when something is drawn. No figure goes through pyplot, so nothing of a caller's own is touched, and
no display is needed.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustkit import extras
from robustkit.errors import RobustkitError
from robustkit.experiments import text
from robustkit.experiments.results import Results
from robustkit.spelling import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Width = Literal["column", "page"]

#: Inches, of a two-column page.
WIDTHS: Mapping[str, float] = {"column": 3.4, "page": 7.0}
#: Inches of a panel's height for its title and its horizontal axis.
_AROUND = 0.56
#: Points between the labels of two ticks, at the least.
_BETWEEN = 1.5
FORMATS = ("png", "svg", "pdf")
DPI = 300
#: Okabe and Ito's colours (2008), which colour-blind readers tell apart, without the yellow that vanishes on white, and
#: ordered so that neighbours differ in grey too.
_COLOURS = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#7F7F7F")
_MARKERS = "osD^vPX<>*hp"
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1.2, 1, 1.2)), (0, (9, 2)))
# Any: which keys there are differs between versions of matplotlib.
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    # Letters as outlines look alike everywhere; the same figure is the same file.
    "svg.fonttype": "path",
    "svg.hashsalt": "robustkit",
    "pdf.fonttype": 42,
    "text.usetex": False,
}


class FigureError(RobustkitError, RuntimeError):
    """A figure that can't be drawn or stored; the message says why, and the way out."""


@dataclass(frozen=True)
class Style:
    """How one entry is drawn in every figure: never by its colour alone."""

    colour: str
    marker: str
    dash: Any


@dataclass
class Drawn:
    """A figure, the data that it shows, and what its caption says.

    Attributes:
        name: of its files.
        figure: of matplotlib.
        rows: of its CSV.
        caption: whole sentences: what is drawn, and what the bands are.
    """

    name: str
    figure: Figure
    rows: Sequence[Mapping[str, Any]]
    caption: str


@dataclass(frozen=True)
class About:
    """Where a figure comes from, as its file says.

    Attributes:
        command: what made it.
        digest: SHA-256 of the rows.
    """

    command: str
    digest: str
    versions: Mapping[str, str] = field(default_factory=lambda: versions())

    def text(self, caption: str) -> str:
        """All of it as JSON."""
        return json.dumps(
            {"caption": caption, "command": self.command, "data_sha256": self.digest, "versions": dict(self.versions)},
            ensure_ascii=False,
        )


def versions() -> dict[str, str]:
    """Of what a figure's looks and numbers depend on."""
    return {name: importlib.metadata.version(name) for name in ("robustkit", "matplotlib", "numpy", "pyarrow", "scipy")}


def needed(*packages: str) -> None:
    """Raise what to install where a package is missing.

    Raises:
        FigureError: with the extra that brings it.
    """
    if (way := extras.missing(*packages)) is not None:
        raise FigureError(f"figures can't be drawn here: {way}")


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings of all figures, and nobody else's.

    Raises:
        FigureError: matplotlib is missing.
    """
    needed("matplotlib")
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each name: colours, markers and dashes advance at different speeds, so that no two are alike."""
    return {
        name: Style(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, name in enumerate(names)
    }


def panels(count: int, width: Width, *, tall: float = 0.62, under: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels: four a row across a page, two across a column.

    Args:
        tall: a panel's height in units of its width, title and axis not counted.
        under: the height of a second panel under each, in the same units; these come last. 0: none.
    """
    from matplotlib.figure import Figure

    across = min(count, 4 if width == "page" else 2)
    down = -(-count // across)
    # Few panels are not as large as they could be.
    one = WIDTHS[width] / max(across, 3 if width == "page" else 2)
    wide = min(WIDTHS[width], max(WIDTHS["column"], across * one))
    figure = Figure(figsize=(wide, down * (one * (tall + under) + _AROUND)), layout="constrained")
    kinds = 2 if under else 1
    grid = figure.subplots(kinds * down, across, squeeze=False, height_ratios=[tall, under][:kinds] * down)
    made = []
    for kind in range(kinds):
        flat = [axes for row in grid[kind::kinds] for axes in row]
        for spare in flat[count:]:
            spare.set_visible(False)
        made += flat[:count]
    return figure, made


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """One legend above all panels, where it covers nothing."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=1)
    room = max(1, int(figure.get_figwidth() / (0.42 + 0.062 * longest)))
    rows = -(-len(handles) // room)
    figure.set_figheight(figure.get_figheight() + 0.16 * rows + 0.06)
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=max(1, -(-len(handles) // max(1, rows))),
        frameon=False,
        handlelength=2.6,
        columnspacing=1.0,
        handletextpad=0.5,
    )


def fit(figure: Figure) -> None:
    """Lower or tilt ticks' labels that touch, and break the label of an axis that is narrower."""
    from matplotlib.ticker import FixedFormatter, FixedLocator

    figure.draw_without_rendering()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    # Panels that show the same look the same. Ticks that matplotlib chooses may be others once their labels are.
    given = [axes for axes in shown if isinstance(axes.xaxis.get_major_locator(), FixedLocator)]
    lowered = {tuple(_ticks(axes)): _lowered(axes) for axes in given if _crowded(axes)}
    for axes in given:
        if labels := lowered.get(tuple(_ticks(axes))):
            axes.xaxis.set_major_formatter(FixedFormatter(labels))
    if lowered:
        figure.draw_without_rendering()
    crowded = [tuple(_ticks(axes)) for axes in shown if _crowded(axes)]
    for axes in shown:
        if tuple(_ticks(axes)) in crowded:
            if axes in given:
                axes.xaxis.set_major_formatter(FixedFormatter([label.lstrip("\n") for label in _ticks(axes)]))
            axes.tick_params(axis="x", labelrotation=45)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        said, room = axes.xaxis.label.get_text(), axes.get_window_extent().width
        if said and "\n" not in said and (width := axes.xaxis.label.get_window_extent().width) > room:
            axes.set_xlabel("\n".join(textwrap.wrap(said, max(8, int(len(said) * room / width)))))


def _ticks(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def _crowded(axes: Axes) -> bool:
    """Whether labels of ticks on the x axis touch."""
    return any(_touching(axes))


def _touching(axes: Axes) -> list[bool]:
    """Of each tick's label, as it stands, whether it touches the one to its left in the same line."""
    space = axes.get_figure(root=True).dpi * _BETWEEN / 72  # type: ignore[union-attr]
    labels = axes.get_xticklabels()
    boxes = [label.get_window_extent() for label in labels]
    ends: dict[bool, float] = {}
    found = [False] * len(labels)
    for i in sorted(range(len(labels)), key=lambda i: float(boxes[i].x0)):
        if labels[i].get_text() and not labels[i].get_rotation():
            low = labels[i].get_text().startswith("\n")
            found[i] = bool(boxes[i].x0 < ends.get(low, -math.inf) + space)
            ends[low] = boxes[i].x1
    return found


def _lowered(axes: Axes) -> list[str]:
    """The labels, with every second one of those that touch in a line of its own below."""
    made, touching, places = _ticks(axes), _touching(axes), axes.get_xticks()
    above = True
    for i in sorted(range(len(made)), key=lambda i: float(places[i])):
        above = not (touching[i] and above)
        made[i] = made[i] if above else f"\n{made[i]}"
    return made


def plain(label: str) -> str:
    """Text from outside as matplotlib shows it letter by letter: no mathematics, and of controls only new lines."""
    return "\n".join(printable(line, lines=False) for line in label.split("\n")).replace("$", r"\$")


def slug(name: str) -> str:
    """``name`` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "x"


def store(drawn: Drawn, folder: Path, about: About, formats: Sequence[str] = FORMATS, *, dpi: int = DPI) -> list[Path]:
    """Write a figure in each format, and its CSV.

    Equal data, command and versions give equal files: no date, no random identifier.

    Args:
        dpi: dots per inch, of PNG and of pictures in the other formats.

    Raises:
        FigureError: a file can't be written.
    """
    import matplotlib as mpl

    made = []
    said = about.text(drawn.caption)
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Title": drawn.name, "Description": drawn.caption, "Software": "robustkit", "robustkit": said},
        "svg": {
            "Title": drawn.name,
            "Description": said,
            "Source": about.command,
            "Creator": "robustkit",
            "Date": None,
        },
        "pdf": {"Title": drawn.name, "Subject": said, "Creator": "robustkit", "CreationDate": None, "ModDate": None},
    }
    with mpl.rc_context(_SETTINGS):
        if formats:
            fit(drawn.figure)
        for kind in formats:
            data = io.BytesIO()
            drawn.figure.savefig(data, format=kind, dpi=dpi, metadata=metadata[kind])
            made.append(write(folder / f"{drawn.name}.{kind}", data.getvalue()))
    made.append(write(folder / f"{drawn.name}.csv", text.as_csv(drawn.rows).encode()))
    return made


def write(path: Path, data: bytes) -> Path:
    """Put ``data`` into a file, whose folder is made.

    Raises:
        FigureError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise FigureError(f"{path} can't be written: {error.strerror or error}") from error
    return path


def about(results: Results, command: str) -> About:
    """Where a figure of these rows comes from."""
    return About(command, results.digest)
