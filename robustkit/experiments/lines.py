"""What is drawn against damage: each metric and the share without an image, a line a codec, clean level set apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from robustkit.experiments import TOLERANCE, drawing, intervals, published
from robustkit.experiments.drawing import Drawn, Style, Width, plain
from robustkit.experiments.intervals import Summary
from robustkit.experiments.rates import groups, rates
from robustkit.experiments.results import CLEAN, Floats, Measure, Point, Results, family, graded, parameter
from robustkit.experiments.tables import row_of, set_summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Transform

Convention = Literal["left-out", "grey"]

#: More trials without an image than this share, and a mean over the others is drawn hollow.
HOLLOW = 0.1
#: Entries in one figure, at the most.
MOST = 10
#: Bands of more entries than these hide each other: each entry then stands to the side of the others, with bars.
BANDED = 5
#: Points between two that stand side by side: lines, and arrows down from a bound.
_ASIDE, _ASIDE_ARROWS = 1.4, 2.2
AXES: Mapping[str, str] = {
    "ber": "bit error rate",
    "length": "burst length, bits",
    "rate": "share of bytes erased",
    "keep": "largest share cut off",
}
_SHARE = "no image, %"


@dataclass(frozen=True)
class Step:
    """A place on the horizontal axis.

    Attributes:
        channel: whose trials.
        at: where; ``None`` for the point that stands apart, left of a break in the axis.
        label: of that point.
    """

    channel: str
    at: float | None
    label: str = ""


def against_damage(
    results: Results,
    measures: Sequence[Measure],
    *,
    width: Width = "page",
    convention: Convention = "left-out",
    tolerance: float = TOLERANCE,
    beside: str | None = None,
) -> list[Drawn]:
    """For each ladder of channels a figure: what the published figure 2 shows, with bands.

    Args:
        convention: for trials without an image.
        beside: the published data set whose values are drawn, too, on the ladder they belong to.
    """
    made = []
    for name, channels in results.families().items():
        if len(channels) < 2:
            continue
        steps = [clean_step(channels), *(Step(channel, results.severity(channel)) for channel in channels)]
        for label, entries in _parted(results, tolerance):
            made.append(
                against(
                    results,
                    entries,
                    steps,
                    measures,
                    name=drawing.slug(f"damage-{name}{label}"),
                    axis=AXES.get(graded(channels[0]), graded(channels[0])),
                    said=f"damage by {name}",
                    width=width,
                    convention=convention,
                    tolerance=tolerance,
                    beside=beside if published.ber_of(channels[0]) is not None else None,
                )
            )
    return made


def clean_step(channels: Sequence[str]) -> Step:
    """The undamaged level of a ladder: where bit errors are counted it has a number."""
    return Step(CLEAN, None, "0" if graded(channels[0]) == "ber" else "clean")


def burst_sensitivity(
    results: Results,
    measures: Sequence[Measure],
    *,
    width: Width = "page",
    convention: Convention = "left-out",
    tolerance: float = TOLERANCE,
) -> list[Drawn]:
    """For each mean bit error rate of the Gilbert-Elliott channels a figure over the mean length of bursts.

    The binary symmetric channel of that rate, if there are trials of it, is the point that stands apart.
    """
    found: dict[float, dict[float, str]] = {}
    for channel in results.channels:
        ber, burst = parameter(channel, "ber"), parameter(channel, "burst")
        if channel.startswith("gilbert-elliott(") and ber is not None and burst is not None:
            found.setdefault(ber, {})[burst] = channel
    made = []
    for ber, bursts in found.items():
        if len(bursts) < 2:
            continue
        alone = [c for c in results.channels if family(c) in ("bsc", "published-bsc") and parameter(c, "ber") == ber]
        steps = [Step(channel, None, "single\nflips") for channel in alone[:1]]
        steps += [Step(bursts[burst], burst) for burst in sorted(bursts)]
        for label, entries in _parted(results, tolerance):
            made.append(
                against(
                    results,
                    entries,
                    steps,
                    measures,
                    name=drawing.slug(f"bursts-{ber:g}{label}"),
                    axis="mean burst, bits",
                    said=f"bursts at a mean bit error rate of {ber:g}",
                    width=width,
                    convention=convention,
                    tolerance=tolerance,
                )
            )
    return made


def _parted(results: Results, tolerance: float) -> list[tuple[str, Sequence[str]]]:
    """All entries in one figure, or where they are too many those of one rate, with what to call each."""
    if len(results.entries) <= MOST:
        return [("", results.entries)]
    found = rates(results, tolerance=tolerance)
    parts: list[tuple[str, Sequence[str]]] = []
    for group in groups(found):
        for start in range(0, len(group), MOST):
            part = [entry for entry in results.entries if entry in group[start : start + MOST]]
            parts.append((f"-{np.mean([found.means[entry] for entry in part]):.3g}bpp", part))
    several = [part for part in parts if len(part[1]) > 1]
    return several or parts


def against(
    results: Results,
    entries: Sequence[str],
    steps: Sequence[Step],
    measures: Sequence[Measure],
    *,
    name: str,
    axis: str,
    said: str,
    width: Width = "page",
    convention: Convention = "left-out",
    tolerance: float = TOLERANCE,
    beside: str | None = None,
) -> Drawn:
    """One figure: a panel a metric, one for FID if there is any, and one for the share without an image."""
    sets = [
        s
        for s in dict.fromkeys(key[2] for key in results.sets)
        if any(e in entries for e, _, m in results.sets if m == s)
    ]
    with drawing.style():
        figure, axes = drawing.panels(len(measures) + len(sets) + 1, width)
        places = places_of(steps)
        # Where all fit into one figure, a codec looks the same in each of them.
        styled = drawing.styles(entries)
        banded = len(styled) <= BANDED
        rows: list[dict[str, Any]] = []
        notes: set[str] = set()
        for panel, measure in zip(axes, measures, strict=False):
            _metric(panel, results, styled, steps, places, measure, convention, rows, notes)
            if beside is not None:
                _published(panel, results, styled, steps, places, measure.name, beside, notes)
            panel.set_title(f"{measure.label} {'↑' if measure.higher_is_better else '↓'}")
        for panel, metric in zip(axes[len(measures) :], sets, strict=False):
            _set(panel, results, styled, steps, places, metric, rows)
            if beside is not None:
                _published(panel, results, styled, steps, places, "fid", beside, notes)
            panel.set_title(f"{Measure(metric, False).label} ↓")
        _shares(axes[-1], results, styled, steps, places, rows, notes)
        axes[-1].set_title(f"{_SHARE} ↓")
        for panel in axes[:-1]:
            vertical(panel)
        for panel in axes:
            horizontal(panel, steps, places, axis)
        drawing.legend(figure, [handle(entry, drawn) for entry, drawn in styled.items()])
    caption = [
        f"Quality and the share of trials without an image, {said}; arrows point to the better side.",
        str(rates(results, entries, tolerance=tolerance)),
        "Trials without an image are left out of means, as published."
        if convention == "left-out"
        else "Trials without an image are charged as a mid-grey image.",
        "Bands: 95% intervals of the mean, images as clusters."
        if banded
        else "Bars: 95% intervals of the mean, images as clusters; codecs stand a little to the side of each other.",
        *sorted(notes),
    ]
    if steps[0].at is None:
        apart = "no damage" if steps[0].channel == CLEAN else steps[0].label.replace("\n", " ")
        caption.insert(1, f"Left of the break: {apart}.")
    return Drawn(name, figure, rows, " ".join(caption))


def vertical(panel: Axes) -> None:
    """Heights by the means: an interval of few images may reach further than any value can."""
    marks = [np.atleast_1d(np.asarray(found.get_ydata(), dtype=np.float64)) for found in panel.lines]
    finite = [float(mark[0]) for mark in marks if len(mark) == 1 and math.isfinite(mark[0])]
    if not finite or panel.get_yscale() == "log":
        return
    low, high = min(finite), max(finite)
    room = 0.25 * (high - low) or 0.05 * abs(high) or 1.0
    ends = panel.get_ylim()
    panel.set_ylim(max(ends[0], low - room), min(ends[1], high + room))


def _asides(styled: Mapping[str, Style], between: float) -> dict[str, float]:
    """How many points to the side each entry stands, so that all are seen."""
    return {entry: (place - (len(styled) - 1) / 2) * between for place, entry in enumerate(styled)}


def _placed(styled: Mapping[str, Style]) -> Mapping[str, float | None]:
    """The same for lines, where there are too many for bands; ``None`` where there are not."""
    return _asides(styled, _ASIDE) if len(styled) > BANDED else dict.fromkeys(styled)


def handle(entry: str, style: Style) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=style.colour, marker=style.marker, linestyle=style.dash, label=plain(entry))


def places_of(steps: Sequence[Step]) -> dict[str, float]:
    """Where each channel stands; the one that stands apart is most of a decade to the left, or of a step."""
    graded_at = [step.at for step in steps if step.at is not None]
    low, high = min(graded_at), max(graded_at)
    if logarithmic(graded_at):
        apart = low / (high / low) ** (1 / max(2, len(graded_at)))
    else:
        apart = low - (high - low) / max(2, len(graded_at))
    return {step.channel: apart if step.at is None else step.at for step in steps}


def logarithmic(values: Sequence[float]) -> bool:
    if len(values) > 2 and np.allclose(np.diff(sorted(values), n=2), 0, atol=1e-9 * max(values)):
        return False
    return min(values) > 0 and max(values) / min(values) >= 8


def horizontal(panel: Axes, steps: Sequence[Step], places: Mapping[str, float], axis: str) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
    from matplotlib.transforms import ScaledTranslation

    at = [step.at for step in steps if step.at is not None]
    if logarithmic(at):
        panel.set_xscale("log")
    panel.set_xlabel(axis)
    ticks = {
        places[step.channel]: step.label if step.at is None else _tick(step.at, powers=logarithmic(at))
        for step in steps
    }
    panel.xaxis.set_major_locator(FixedLocator(list(ticks)))
    panel.xaxis.set_major_formatter(FixedFormatter(list(ticks.values())))
    panel.xaxis.set_minor_locator(NullLocator())
    ends = min(places.values()), max(places.values())
    if logarithmic(at):
        room = (ends[1] / ends[0]) ** 0.06
        panel.set_xlim(ends[0] / room, ends[1] * room)
    else:
        margin = (ends[1] - ends[0]) * 0.06
        panel.set_xlim(ends[0] - margin, ends[1] + margin)
    apart = [places[step.channel] for step in steps if step.at is None]
    if apart:
        between = math.sqrt(apart[0] * min(at)) if logarithmic(at) else (apart[0] + min(at)) / 2
        where: Any = {"transform": panel.get_xaxis_transform(), "clip_on": False, "zorder": 10}
        panel.plot([between], [0], marker="s", markersize=4.5, color="white", **where)
        for shift in (-1.6, 1.6):
            assert panel.figure is not None
            moved = panel.get_xaxis_transform() + ScaledTranslation(shift / 72, 0, panel.figure.dpi_scale_trans)
            panel.plot([between], [0], marker=[(-0.5, -1), (0.5, 1)], markersize=6, linestyle="none", color="black",
                       markeredgewidth=0.6, transform=moved, clip_on=False, zorder=11)  # fmt: skip


def _tick(value: float, *, powers: bool) -> str:
    exponent = math.log10(value) if value > 0 else math.nan
    if powers and abs(exponent - round(exponent)) < 1e-9 and not -1 < round(exponent) < 4:
        return f"$10^{{{round(exponent)}}}$"
    return f"{value:g}"


def summary_of(results: Results, point: Point, measure: Measure, convention: Convention) -> Summary | None:
    """The values of a point under a convention; ``None`` where that can't be had."""
    if convention == "left-out":
        return intervals.left_out(point, measure)
    return intervals.charged(point, measure, results.grey.get(measure.name, {}))


def _metric(
    panel: Axes,
    results: Results,
    styled: Mapping[str, Style],
    steps: Sequence[Step],
    places: Mapping[str, float],
    measure: Measure,
    convention: Convention,
    rows: list[dict[str, Any]],
    notes: set[str],
) -> None:
    for entry, style in styled.items():
        drawn: list[tuple[Step, float, float, float, bool]] = []
        for step in steps:
            point = results.point(entry, step.channel)
            if point is None:
                continue
            summary = summary_of(results, point, measure, convention)
            missing = float((~point.has_image).mean())
            row = {**row_of(point), "quantity": measure.name, "without_image": missing}
            if summary is None:
                rows.append({**row, "convention": "grey: not known"})
                notes.add("Points are missing where nobody measured what a mid-grey image scores.")
                continue
            estimate = summary.bound.estimate
            rows.append({**row, "convention": convention, "pooled_mean": summary.mean, "pooled_sd": summary.sd,
                         "mean": estimate, "low": summary.bound.low, "high": summary.bound.high,
                         "counted": summary.counted, "identical": summary.identical})  # fmt: skip
            if summary.identical:
                notes.add(
                    "Images equal to the original have no finite PSNR and are left out of its means; ∞: all were."
                )
            if summary.identical and not summary.counted:
                panel.annotate("∞", (places[step.channel], 1), xycoords=panel.get_xaxis_transform(), ha="center",
                               va="top", color=style.colour, fontsize=8)  # fmt: skip
            hollow = convention == "left-out" and missing > HOLLOW
            if hollow and not math.isnan(estimate):
                notes.add(f"Hollow: more than {HOLLOW:.0%} of the trials gave no image, and the mean is of the others.")
            drawn.append((step, estimate, summary.bound.low, summary.bound.high, hollow))
        line(panel, drawn, places, style, _placed(styled)[entry])


def line(
    panel: Axes,
    drawn: Sequence[tuple[Step, float, float, float, bool]],
    places: Mapping[str, float],
    style: Style,
    aside: float | None = None,
) -> None:
    """A codec's line with its band, or with bars where it stands aside; what stands apart is not joined to it."""
    joined = [d for d in drawn if d[0].at is not None and math.isfinite(d[1])]
    x = [places[d[0].channel] for d in joined]
    many = aside is not None
    drawings = panel.plot(x, [d[1] for d in joined], color=style.colour, linestyle=style.dash, zorder=3)
    low = np.array([d[2] if math.isfinite(d[2]) else d[1] for d in joined])
    high = np.array([d[3] if math.isfinite(d[3]) else d[1] for d in joined])
    if len(joined) > 1 and not many:
        panel.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0, zorder=2)
    for step, mean, lower, upper, hollow in drawn:
        if not math.isfinite(mean):
            continue
        at = places[step.channel]
        if (step.at is None or many) and math.isfinite(upper - lower):
            drawings += panel.plot([at, at], [lower, upper], color=style.colour, linewidth=0.9 if many else 2.5,
                                   alpha=0.5 if many else 0.25, zorder=2)  # fmt: skip
        drawings += panel.plot([at], [mean], marker=style.marker, color=style.colour, linestyle="none", zorder=4,
                               clip_on=not many, markerfacecolor="white" if hollow else style.colour)  # fmt: skip
    if aside is not None:
        # Only now: what is drawn elsewhere than at its data does not count for the axes' ends.
        for drawing_ in drawings:
            drawing_.set_transform(_moved(panel, aside))


def _moved(panel: Axes, aside: float) -> Transform:
    """Where data stand on a panel, some points to the side."""
    from matplotlib.transforms import ScaledTranslation

    assert panel.figure is not None
    return panel.transData + ScaledTranslation(aside / 72, 0, panel.figure.dpi_scale_trans)


def _set(
    panel: Axes,
    results: Results,
    styled: Mapping[str, Style],
    steps: Sequence[Step],
    places: Mapping[str, float],
    metric: str,
    rows: list[dict[str, Any]],
) -> None:
    for entry, style in styled.items():
        drawn = []
        for step in steps:
            values = np.array(results.sets.get((entry, step.channel, metric), ()))
            mean, sd = set_summary(values)
            if math.isnan(mean):
                continue
            half = 0.0 if math.isnan(sd) else _half(values)
            drawn.append((step, mean, mean - half, mean + half, False))
            rows.append({"entry": entry, "channel": step.channel, "trials": len(values), "quantity": metric,
                         "mean": mean, "pooled_sd": sd, "low": mean - half, "high": mean + half})  # fmt: skip
        line(panel, drawn, places, style, _placed(styled)[entry])
    panel.set_yscale("log")


def _half(values: Floats) -> float:
    """Half of the 95% interval of a mean over trials, which for a set of images are the units."""
    from scipy import stats

    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def _shares(
    panel: Axes,
    results: Results,
    styled: Mapping[str, Style],
    steps: Sequence[Step],
    places: Mapping[str, float],
    rows: list[dict[str, Any]],
    notes: set[str],
) -> None:
    """Per cent without an image on a log axis; an arrow down from its upper bound where none was seen."""
    from matplotlib.ticker import FuncFormatter, NullLocator
    from matplotlib.transforms import ScaledTranslation

    least = 100.0
    for entry, style in styled.items():
        drawn, bounds = [], []
        for step in steps:
            point = results.point(entry, step.channel)
            if point is None:
                continue
            share = intervals.corrupted(point)
            rows.append({**row_of(point), "quantity": "no image", "events": share.events, "mean": share.share,
                         "low": share.bound.low, "high": share.bound.high})  # fmt: skip
            if share.none and step.channel == CLEAN:
                # Clean decodes are few, so their bound says little.
                notes.add("Every clean decode gave an image: no mark there.")
                continue
            if share.none:
                bounds.append((step, 100 * share.bound.high))
                least = min(least, 100 * share.bound.high)
            else:
                drawn.append((step, 100 * share.share, 100 * share.bound.low, 100 * share.bound.high, False))
                least = min(least, 100 * share.share)
        line(panel, drawn, places, style, _placed(styled)[entry])
        for step, upper in bounds:
            # Bounds of equally many trials coincide.
            moved = _moved(panel, _asides(styled, _ASIDE_ARROWS)[entry])
            assert panel.figure is not None
            panel.plot([places[step.channel]], [upper], marker=style.marker, markerfacecolor="white",
                       color=style.colour, linestyle="none", markersize=3, transform=moved, zorder=4)  # fmt: skip
            for part, size, down in (("|", 5.0, 3.5), ("v", 2.4, 6.5)):
                lower = moved + ScaledTranslation(0, -down / 72, panel.figure.dpi_scale_trans)
                panel.plot([places[step.channel]], [upper], marker=part, color=style.colour, linestyle="none",
                           markersize=size, markeredgewidth=0.7, transform=lower, zorder=3)  # fmt: skip
            notes.add("Arrows down from small hollow marks: none of the trials, drawn at the exact 95% upper bound.")
    panel.set_yscale("log")
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_ylim(max(0.01, least / 3), 130)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _published(
    panel: Axes,
    results: Results,
    styled: Mapping[str, Style],
    steps: Sequence[Step],
    places: Mapping[str, float],
    metric: str,
    which: str,
    notes: set[str],
) -> None:
    """Published means as crosses in the codec's colour, and the autoencoder's bound as a dashed line."""
    bound = published.autoencoder(which)
    seen = False
    for entry, style in styled.items():
        for step in steps:
            ber = published.ber_of(step.channel)
            cell = None if ber is None else published.cell(which, results.codecs[entry], ber)
            if cell is not None and metric in cell.values:
                (cross,) = panel.plot([places[step.channel]], [float(cell.values[metric].mean)], marker="x",
                                      markersize=5, markeredgewidth=1.1, color=style.colour, linestyle="none",
                                      zorder=5)  # fmt: skip
                if (aside := _placed(styled)[entry]) is not None:
                    cross.set_transform(_moved(panel, aside))
                seen = True
    if seen:
        notes.add(f"Crosses: published means (arXiv 2604.05743, {which}).")
    if seen and metric in bound:
        panel.axhline(bound[metric], color="#555555", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        notes.add("Dashed, grey: the published autoencoder alone.")
