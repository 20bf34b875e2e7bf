"""Tables as text: Markdown, LaTeX and CSV, with everything that others named escaped."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robustkit.experiments.intervals import Share, Summary
from robustkit.experiments.results import Measure
from robustkit.spelling import printable
from robustkit.statistics import Bound

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
}
#: What a cell without a value says.
NO_VALUE = "n/a"
#: What means something in Markdown, or in the HTML that it may hold.
_MARKDOWN = set("\\`*_[]<>|#~&$!")


@dataclass(frozen=True)
class Table:
    """A table for people, and the figures in it for programs.

    Attributes:
        name: of its files.
        title: one sentence: what it shows.
        heads: of its columns.
        rows: cells as they are printed.
        figures: one mapping a line of the CSV: full precision, no rounding.
        notes: sentences below it.
        above: heads over several columns: text and how many.
    """

    name: str
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = ()
    above: Sequence[tuple[str, int]] = field(default=())

    def markdown(self) -> str:
        """A table of GitHub's Markdown, title above, notes below; heads over several columns go into each of theirs."""
        heads = list(self.heads)
        if self.above:
            spread = [text for text, columns in self.above for _ in range(columns)]
            heads = [f"{over}: {head}" if over else head for over, head in zip(spread, heads, strict=True)]
        lines = [f"**{escape_markdown(self.title)}**", "", _piped(heads), _piped(["---"] * len(heads), plain=True)]
        lines += [_piped(row) for row in self.rows]
        for note in self.notes:
            lines += ["", escape_markdown(note)]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A ``table*`` for the package booktabs."""
        columns = "l" + "r" * (len(self.heads) - 1)
        lines = [
            r"% \usepackage{booktabs}",
            r"\begin{table*}",
            r"\centering\small",
            rf"\caption{{{escape_latex(' '.join([self.title, *self.notes]))}}}",
            rf"\label{{tab:{self.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
        ]
        if self.above:
            over = [
                rf"\multicolumn{{{wide}}}{{c}}{{{escape_latex(text)}}}" if wide > 1 or text else ""
                for text, wide in self.above
            ]
            lines.append(" & ".join(over) + r" \\")
            at = 1
            for text, wide in self.above:
                if text:
                    lines.append(rf"\cmidrule(lr){{{at}-{at + wide - 1}}}")
                at += wide
        lines.append(" & ".join(map(escape_latex, self.heads)) + r" \\")
        lines.append(r"\midrule")
        lines += [" & ".join(map(escape_latex, row)) + r" \\" for row in self.rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""])

    def plain(self) -> list[dict[str, Any]]:
        """:attr:`figures` in JSON's own types: what is no finite number is ``None``."""
        return [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
            }
            for row in self.figures
        ]

    def csv(self) -> str:
        """One line for each of :attr:`figures`; an empty cell is "no value", and infinities are written as such."""
        return as_csv(self.figures)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mappings as CSV, the columns in the order of their first appearance, floats so that they are read back equal."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    for row in rows:
        writer.writerow([_plain(row.get(head)) for head in heads])
    return out.getvalue()


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return repr(float(value))
    return str(value)


def _piped(cells: Sequence[str], *, plain: bool = False) -> str:
    return "| " + " | ".join(cell if plain else escape_markdown(cell) for cell in cells) + " |"


def escape_markdown(text: str) -> str:
    """``text`` as Markdown that shows it letter by letter, in one line."""
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in printable(" ".join(text.split()), lines=False))


def escape_latex(text: str) -> str:
    """``text`` as LaTeX that shows it letter by letter, in one line."""
    return "".join(_LATEX.get(c, c) for c in printable(" ".join(text.split()), lines=False))


# -- numbers ------------------------------------------------------------------------------------------------


def number(value: float, digits: int) -> str:
    """``value`` with so many decimals; :data:`NO_VALUE` for NaN."""
    if math.isnan(value):
        return NO_VALUE
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    text = f"{value:.{digits}f}"
    return text[1:] if text.strip("-0.") == "" and text.startswith("-") else text


def interval(bound: Bound, digits: int) -> str:
    """``[22.10, 23.05]``; :data:`NO_VALUE` where the data give none."""
    if not (math.isfinite(bound.low) and math.isfinite(bound.high)):
        return NO_VALUE
    return f"[{number(bound.low, digits)}, {number(bound.high, digits)}]"


def spread(summary: Summary | None, measure: Measure) -> str:
    """Mean and standard deviation as the published tables have them, and what the mean leaves out.

    ``22.57 ± 2.58``; ``∞ (60 identical)``; ``34.10 ± 2.00 (6 identical left out)``.
    """
    if summary is None:
        return "not known"
    apart = []
    if summary.identical:
        apart.append(f"{summary.identical} identical left out")
    if summary.unmeasured:
        apart.append(f"{summary.unmeasured} not measured")
    if not summary.counted:
        return f"∞ ({summary.identical} identical)" if summary.identical else NO_VALUE
    text = number(summary.mean, measure.digits)
    if not math.isnan(summary.sd):
        text += f" ± {number(summary.sd, measure.digits)}"
    return f"{text} ({', '.join(apart)})" if apart else text


def percent(share: float) -> str:
    """A share of 0 to 1 in per cent, two decimals, as published."""
    return number(100 * share, 2) + "%" if not math.isnan(share) else NO_VALUE


def counted(share: Share) -> str:
    """``50 of 240: 20.83% [12.10%, 32.10%]``; ``0 of 240: ≤ 1.24%``, an upper bound where nothing was seen."""
    if not share.trials:
        return NO_VALUE
    text = f"{share.events} of {share.trials}: "
    if share.none:
        return text + f"≤ {percent(share.bound.high)}"
    if share.events == share.trials:
        return text + f"≥ {percent(share.bound.low)}"
    return text + f"{percent(share.share)} [{percent(share.bound.low)}, {percent(share.bound.high)}]"


def short(share: Share) -> str:
    """As :func:`counted`, for the published layout: the per cents alone, an upper bound where nothing was seen."""
    if not share.trials:
        return NO_VALUE
    return f"0.00 (≤ {100 * share.bound.high:.2f})" if share.none else f"{100 * share.share:.2f}"
