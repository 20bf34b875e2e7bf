"""The page's charts, as inline SVG: quality against severity, outcomes, silence beside refusals, the vulnerability map.

Nothing is told by colour alone: markers and dashes differ in shape, outcomes in pattern. Colours are classes, which the
page's style sheet knows for light, dark and paper. Every text and attribute is escaped by :func:`element`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from robustkit.certificates import shown
from robustkit.certificates.model import Assessed, ChannelResult
from robustkit.certificates.scan import Part, Scan

#: Units of a chart's width: small, so that its letters stay readable on a telephone.
WIDTH = 440
#: Rows of a chart of bars.
ROWS = 40
#: Points of a chart of quality.
POINTS = 60
#: Outcomes, from the best to the worst, in the order of a bar.
OUTCOMES = (
    *("intact", "degraded", "refused", "unstable", "misshapen", "raised", "crashed", "hung", "exhausted"),
    "other",
)
_LETTER = 7.2
_ROW = 46


class Chart(NamedTuple):
    """A chart and what it says in words."""

    svg: Markup
    words: str


class Point(NamedTuple):
    """A channel on a chart of quality: all in the metric's unit, ``None`` where there is nothing of it.

    Attributes:
        severity: of the channel.
        quality: mean of its trials with a picture.
        low, high: where the mean that is judged lies.
        promised: the worst mean that the promise allows.
        verdict: on the promise; empty without one.
    """

    severity: float
    quality: float | None
    low: float | None
    high: float | None
    promised: float | None
    verdict: str


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """An SVG element: ``class_`` and ``stroke_width`` are named as in SVG; texts and values are escaped.

    Numbers are rounded to a tenth; attributes that are ``None`` are left out.
    """
    written = Markup("")
    for name, value in attributes.items():
        if value is not None:
            said = f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
            written += Markup(' {}="{}"').format(Markup(name.rstrip("_").replace("_", "-")), said)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), written, Markup("").join(escape(c) for c in children))


def words(text: str, x: float, y: float, *, room: float = WIDTH, **attributes: object) -> Markup:
    """A line of text, cut where it would leave its room."""
    most = max(4, int(room / _LETTER))
    said = shown.text(text)
    return element("text", said if len(said) <= most else said[: most - 1] + "…", x=x, y=y, **attributes)


def patterns() -> Markup:
    """The patterns that outcomes are filled with; once in a page."""

    def pattern(name: str, *lines: Markup) -> Markup:
        back = element("rect", width=8, height=8, class_=f"o-{name}")
        return element(
            "pattern", back, *lines, id=f"p-{name}", width=8, height=8, patternUnits="userSpaceOnUse", class_="ink"
        )

    def path(d: str) -> Markup:
        return element("path", d=d)

    def dots(*places: tuple[int, int]) -> list[Markup]:
        return [element("circle", cx=x, cy=y, r=1.4) for x, y in places]

    found = [
        pattern("intact"),
        pattern("degraded", path("M-2 6L6 -2M2 10L10 2")),
        pattern("refused", *dots((2, 2), (6, 6))),
        pattern("unstable", path("M0 2H8M0 6H8")),
        pattern("misshapen", path("M2 0V8M6 0V8")),
        pattern("raised", path("M-2 6L6 -2M2 10L10 2M-2 2L6 10M2 -2L10 6")),
        pattern("crashed"),
        pattern("hung", path("M0 4H8M4 0V8")),
        pattern("exhausted", *dots((4, 4)), path("M0 0H8")),
        pattern("other", path("M0 4L4 0L8 4L4 8Z")),
    ]
    return element(
        "svg", element("defs", *found), class_="defs", width=0, height=0, aria_hidden="true", focusable="false"
    )


def swatch(outcome: str) -> Markup:
    """What a legend shows of an outcome."""
    box = element("rect", x=0.5, y=0.5, width=19, height=13, fill=f"url(#p-{_known(outcome)})", class_="segment")
    return element("svg", box, viewBox="0 0 20 14", width=20, height=14, aria_hidden="true", focusable="false")


def mark(kind: str) -> Markup:
    """What the legend of the charts of quality shows: "kept", "broken", "open", "promise", "clean" or "interval"."""
    if kind == "promise":
        inner = [_promise(14, 7)]
    elif kind == "clean":
        inner = [element("path", d="M0 7H28", class_="clean")]
    elif kind == "interval":
        inner = [_whisker(14, 2, 12)]
    else:
        inner = [_marker(14, 7, {"kept": "kept", "broken": "broken"}.get(kind, ""))]
    return element("svg", *inner, viewBox="0 0 28 14", width=28, height=14, aria_hidden="true", focusable="false")


def points(
    results: Sequence[ChannelResult], assessments: Iterable[Assessed], clean: float | None, up: int
) -> list[Point]:
    """Where the channels of one ladder lie.

    Args:
        results: of the ladder, from mild to harsh.
        assessments: all of them.
        clean: quality without damage.
        up: 1 where more of the metric is better, -1 where less is.
    """
    judged = {a.severity: a for a in assessments if a.quantity == "mean_drop"}
    found = []
    for result in results[:POINTS]:
        promise = judged.get(result.channel)

        def after(drop: float | None) -> float | None:
            return None if clean is None or drop is None or not math.isfinite(drop) else clean - up * drop

        found.append(
            Point(
                result.severity,
                result.quality,
                after(promise.high if promise else None),
                after(promise.low if promise else None),
                after(promise.limit if promise else None),
                promise.verdict if promise else "",
            )
        )
    return found


def quality(
    name: str,
    title: str,
    axis: str,
    metric: str,
    found: Sequence[Point],
    clean: float | None,
    *,
    up: int,
    proved: float | None,
    certified: bool,
) -> Chart:
    """Quality against the severity of one ladder, with the promises.

    Args:
        name: of its parts' ids, unique in the page.
        title: what the ladder is.
        axis: what a severity is.
        metric: with its unit.
        found: the channels.
        clean: quality without damage.
        up: 1 where more of the metric is better.
        proved: the severity up to which every promise is proved, if there is one.
        certified: whether the codec is certified up to there.
    """
    left, right, top, bottom = 52.0, WIDTH - 16.0, 16.0, 226.0
    height = 276
    ys = [y for p in found for y in (p.quality, p.low, p.high, p.promised) if y is not None and math.isfinite(y)]
    ys += [clean] if clean is not None else []
    low, high = _padded(ys)
    xs = [p.severity for p in found]
    first, last, at = _across(xs, left, right)

    def down(y: float) -> float:
        share = (min(max(y, low), high) - low) / (high - low)
        return bottom - (bottom - top) * (share if up > 0 else 1 - share)

    drawn: list[Markup] = []
    if proved is not None:
        drawn.append(
            element("rect", x=left, y=top, width=max(0.0, at(proved) - left), height=bottom - top, class_="proved")
        )
        drawn.append(words("certified" if certified else "promises proved", left + 5, bottom - 6, class_="note"))
    for tick in _ticks(low, high):
        drawn.append(element("path", d=f"M{left:.1f} {down(tick):.1f}H{right:.1f}", class_="grid"))
        drawn.append(words(_short(tick), left - 6, down(tick) + 4, text_anchor="end"))
    for tick in _marks(xs, first, last):
        drawn.append(element("path", d=f"M{at(tick):.1f} {bottom:.1f}v5", class_="axis"))
        drawn.append(words(shown.level(tick), at(tick), bottom + 19, text_anchor="middle"))
    drawn.append(element("path", d=f"M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}", class_="axis"))
    drawn.append(words(axis, (left + right) / 2, bottom + 40, text_anchor="middle"))
    if clean is not None:
        drawn.append(element("path", d=f"M{left:.1f} {down(clean):.1f}H{right:.1f}", class_="clean"))
        drawn.append(words(f"clean {clean:.2f}", right, down(clean) - 5, text_anchor="end", class_="note"))
    if all(p.quality is None for p in found):
        drawn.append(words("no trial gave a picture", (left + right) / 2, (top + bottom) / 2, text_anchor="middle"))
    pledged = [(at(p.severity), down(p.promised)) for p in found if p.promised is not None]
    drawn.append(_line(pledged, "promise thin"))
    drawn += [_promise(x, y) for x, y in pledged]
    drawn.append(_line([(at(p.severity), down(p.quality)) for p in found if p.quality is not None], "mean"))
    for point in found:
        if point.low is not None and point.high is not None:
            drawn.append(_whisker(at(point.severity), down(point.high), down(point.low)))
    drawn += [_marker(at(p.severity), down(p.quality), p.verdict) for p in found if p.quality is not None]
    said = f"{metric} against {axis}. " + (f"Clean: {clean:.2f}. " if clean is not None else "")
    said += " ".join(f"At {shown.level(p.severity)}: {_in_words(p, up)}." for p in found)
    return _chart(name, f"Quality under {title}", said, drawn, height)


def outcomes(name: str, results: Sequence[ChannelResult]) -> Chart:
    """How the trials of each channel ended, as stacked bars."""
    drawn, said = [], []
    for row, result in enumerate(results[:ROWS]):
        top, found = row * _ROW, shown.outcomes(result.outcomes)
        total = sum(many for _, many in found)
        drawn.append(words(result.channel, 0, top + 14, room=WIDTH - 100))
        drawn.append(words(shown.count(total, "trial"), WIDTH, top + 14, text_anchor="end", class_="note"))
        x = 0.0
        for outcome, many in found:
            wide = WIDTH * many / total
            drawn.append(
                element(
                    "rect",
                    element("title", f"{outcome}: {many} of {total}"),
                    x=x,
                    y=top + 20,
                    width=max(wide, 1.5),
                    height=18,
                    fill=f"url(#p-{_known(outcome)})",
                    class_="segment",
                )
            )
            if wide > 10 + _LETTER * len(str(many)):
                drawn.append(words(str(many), x + wide / 2, top + 33.5, text_anchor="middle", class_="halo"))
            x += wide
        said.append(
            f"{shown.text(result.channel)}: {', '.join(f'{many} {outcome}' for outcome, many in found) or 'no trials'}."
        )
    return _chart(name, "How the trials of each channel ended", " ".join(said), drawn, _ROW * len(results[:ROWS]))


def silence(name: str, results: Sequence[ChannelResult]) -> Chart:
    """Silently wrong beside refused, as shares of each channel's trials."""
    drawn, said = [], []
    room = WIDTH - 158
    for row, result in enumerate(results[:ROWS]):
        top, total = row * 56, sum(result.outcomes.values())
        refused = result.outcomes.get("refused", 0)
        drawn.append(words(result.channel, 0, top + 14))
        for line, (word, many, fill) in enumerate(
            (("refused", refused, "refused"), ("wrong", result.silent, "degraded"))
        ):
            y = top + 20 + 16 * line
            wide = room * many / total if total else 0.0
            drawn.append(words(word, 55, y + 11, text_anchor="end", class_="note"))
            drawn.append(element("rect", x=60, y=y, width=room, height=12, class_="track"))
            if many:
                drawn.append(
                    element(
                        "rect",
                        x=60,
                        y=y,
                        width=max(min(wide, room), 1.5),
                        height=12,
                        fill=f"url(#p-{fill})",
                        class_="segment",
                    )
                )
            drawn.append(words(f"{many} ({shown.share(many, total)})", WIDTH, y + 11, room=96, text_anchor="end"))
        said.append(f"{shown.text(result.channel)}: {refused} refused, {result.silent} silently wrong, of {total}.")
    return _chart(name, "Refused, and silently wrong", " ".join(said), drawn, 56 * len(results[:ROWS]))


def vulnerability(name: str, scan: Scan) -> Chart:
    """Along the stream: what a flip costs, and how often no picture comes of it."""
    left, right = 52.0, float(WIDTH)
    top, middle, low, bottom = 14.0, 130.0, 156.0, 206.0
    step = (right - left) / max(1, len(scan.bins))
    most = max((b.mean_drop for b in scan.bins if b.mean_drop is not None), default=0.0)
    most = most if most > 0 else 1.0
    drawn = [words(f"mean loss{_in(scan.metric_unit)}", left, top - 3, class_="note")]
    drawn += [
        words(_short(most), left - 6, top + 8, text_anchor="end"),
        words("0", left - 6, middle, text_anchor="end"),
    ]
    drawn += [words("no picture: refused (dots), failed (solid)", left, low - 5, class_="note")]
    drawn += [words("100%", left - 6, low + 9, text_anchor="end"), words("0", left - 6, bottom, text_anchor="end")]
    for index, piece in enumerate(scan.bins):
        x = left + index * step
        if not piece.tried:
            drawn.append(words("·", x + step / 2, middle - 2, text_anchor="middle", class_="note"))
            continue
        tall = (middle - top) * min(1.0, max(0.0, piece.mean_drop or 0.0) / most)
        label = element("title", _piece(piece, scan))
        drawn.append(element("rect", label, x=x, y=middle - tall, width=max(step - 1, 0.5), height=tall, class_="bar"))
        refused, failed = ((bottom - low) * s for s in (piece.refused, piece.failed))
        for y, high, fill in ((bottom - refused, refused, "refused"), (bottom - refused - failed, failed, "crashed")):
            if high:
                drawn.append(
                    element(
                        "rect",
                        x=x,
                        y=y,
                        width=max(step - 0.5, 0.5),
                        height=high,
                        fill=f"url(#p-{fill})",
                        class_="segment",
                    )
                )
    for y in (middle, bottom):
        drawn.append(element("path", d=f"M{left:.1f} {y:.1f}H{right:.1f}", class_="axis"))
    drawn += [words("start", left, bottom + 18), words("end of the stream", right, bottom + 18, text_anchor="end")]
    hardest = max((b for b in scan.bins if b.mean_drop is not None), key=lambda b: b.mean_drop or 0.0, default=None)
    said = f"{shown.count(len(scan.bins), 'piece')} of the stream's length. "
    if hardest is not None:
        said += f"The largest mean loss, {_piece(hardest, scan)}. "
    said += f"Of flips anywhere, {shown.share(scan.whole.refused, 1)} were refused"
    said += f" and {shown.share(scan.whole.failed, 1)} failed."
    return _chart(name, "What one flipped bit costs along the stream", said, drawn, 232)


def bar(value: float | None, most: float) -> Markup:
    """A small bar in a table's cell; nothing where there is no value."""
    if value is None:
        return Markup("")
    wide = 60 * min(1.0, max(0.0, value) / most) if most > 0 else 0.0
    inner = [element("rect", width=60, height=8, class_="track"), element("rect", width=wide, height=8, class_="bar")]
    return element("svg", *inner, viewBox="0 0 60 8", width=60, height=8, aria_hidden="true", focusable="false")


def _chart(name: str, title: str, said: str, drawn: Iterable[Markup], height: float) -> Chart:
    # A title would pop up over all of the chart, and hide those of its parts.
    svg = element(
        "svg", *drawn, viewBox=f"0 0 {WIDTH} {max(height, 1):.0f}", role="img", aria_label=title, aria_describedby=name
    )
    return Chart(svg, said)


def _known(outcome: str) -> str:
    return outcome if outcome in OUTCOMES else "other"


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the largest, with some room; wide enough that rounding is no cliff."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), 0.03 * abs(high), 1e-6)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, four or so."""
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * s for s in (1, 2, 5, 10) if size * s >= rough)
    first = math.ceil(low / step)
    return [(first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1)][:12]


def _across(xs: Sequence[float], left: float, right: float) -> tuple[float, float, Callable[[float], float]]:
    """The least and the largest severity drawn, and where each lies on a logarithmic axis; 0 lies at its left end."""
    positive = [x for x in xs if x > 0 and math.isfinite(x)]
    first, last = (min(positive), max(positive)) if positive else (0.1, 1.0)
    if any(x <= 0 for x in xs):
        first /= 10
    low, high = math.log10(first), math.log10(last)
    room = max(0.1 * (high - low), 0.15)
    low, high = low - room, high + room

    def at(x: float) -> float:
        share = (math.log10(min(max(x, first), last)) - low) / (high - low)
        return left + (right - left) * share

    return first, last, at


def _marks(xs: Sequence[float], first: float, last: float) -> list[float]:
    """Which severities the axis names: those there are, if they are few and apart, else the powers of ten."""
    found = sorted({x for x in xs if math.isfinite(x)})
    apart = all(b >= 1.6 * a for a, b in itertools.pairwise(found))
    if len(found) <= 6 and apart:
        return found
    tens = [10.0**e for e in range(math.ceil(math.log10(first) - 1e-9), math.floor(math.log10(last) + 1e-9) + 1)]
    return tens[:: max(1, len(tens) // 6)] if len(tens) > 1 else [found[0], found[-1]]


def _line(places: Sequence[tuple[float, float]], class_: str) -> Markup:
    if len(places) < 2:
        return Markup("")
    return element("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places), class_=class_)


def _marker(x: float, y: float, verdict: str) -> Markup:
    """A cross where a promise is broken, a full dot where it is kept, a hollow one where nobody can say."""
    if verdict == "broken":
        d = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"
        return element("path", d=d, class_="marker cross")
    good = verdict in ("kept", "not disproved")
    return element("circle", cx=x, cy=y, r=4.5, class_="marker full" if good else "marker hollow")


def _promise(x: float, y: float) -> Markup:
    return element("path", d=f"M{x - 11:.1f} {y:.1f}h22m-16 0l5 6l5 -6", class_="promise")


def _whisker(x: float, top: float, bottom: float) -> Markup:
    d = f"M{x - 4:.1f} {top:.1f}h8m-4 0V{bottom:.1f}m-4 0h8"
    return element("path", d=d, class_="whisker")


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.3e}"


def _in(unit: str) -> str:
    return f" in {shown.text(unit)}" if unit else ""


def _in_words(point: Point, up: int) -> str:
    found = "no picture" if point.quality is None else f"{point.quality:.2f}"
    if point.promised is not None:
        found += f", promised {'at least' if up > 0 else 'at most'} {point.promised:.2f}"
    return found + (f", {shown.text(point.verdict)}" if point.verdict else "")


def _piece(piece: Part, scan: Scan) -> str:
    where = f"from {shown.share(piece.first, 1)} of the length on"
    lost = (
        "no picture"
        if piece.mean_drop is None
        else f"{shown.number(piece.mean_drop)} {shown.text(scan.metric_unit)}".rstrip()
    )
    refused, failed = shown.share(piece.refused, 1), shown.share(piece.failed, 1)
    return f"{where}: {lost}; {refused} refused, {failed} failed, {piece.tried} tried"
