"""The tables of an experiment: the published layout, both conventions with intervals, pairs of codecs, and rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustkit.experiments import TOLERANCE, intervals, text
from robustkit.experiments.drawing import slug
from robustkit.experiments.intervals import Summary
from robustkit.experiments.rates import rates
from robustkit.experiments.results import CLEAN, Measure, Point, Results
from robustkit.experiments.text import NO_VALUE, Table
from robustkit.statistics import CONFIDENCE

#: Below every table with a convention in it.
_POOLED = (
    "Mean ± standard deviation with n - 1, pooled over images and trials; trials without an image are left out of it, "
    "as published."
)
_ZERO = "Where no trial of n lacks an image, ≤ gives the exact one-sided 95% upper bound of the share."


def all_of(
    results: Results, measures: Sequence[Measure], *, anchor: str | None = None, tolerance: float = TOLERANCE
) -> list[Table]:
    """Every table of an experiment that has something in it."""
    made = [
        *(
            published_layout(results, measures, channels=channels, name=name, tolerance=tolerance)
            for name, channels in _layouts(results)
        ),
        *(losses(results, measure, tolerance=tolerance) for measure in measures),
        *(conventions(results, measure, tolerance=tolerance) for measure in measures),
        rate_table(results, tolerance=tolerance),
    ]
    if len(results.entries) > 1:
        made += [pairs(results, measure, anchor=anchor, tolerance=tolerance) for measure in measures]
    return [table for table in made if table.rows]


def _layouts(results: Results) -> list[tuple[str, list[str]]]:
    """The channels of each table in the published layout: BER 1e-4 and 1e-3 as published, and each other ladder."""
    found = []
    for ladder, channels in results.families().items():
        published = [channel for channel in channels if results.severity(channel) in (1e-4, 1e-3)]
        if ladder in ("bsc", "published-bsc") and len(published) == 2:
            found.append(("published-layout" if ladder == "bsc" else f"published-layout-{slug(ladder)}", published))
        found.append((f"layout-{slug(ladder)}", channels))
    return found


def published_layout(
    results: Results,
    measures: Sequence[Measure],
    *,
    channels: Sequence[str] = (),
    name: str = "published-layout",
    tolerance: float = TOLERANCE,
) -> Table:
    """A row a codec, a group of columns a channel: each metric, FID where there is one, and per cent without an image.

    Args:
        measures: of single images.
        channels: by default all; the published tables have BER 1e-4 and 1e-3.
        name: of the table's files.
        tolerance: of a matched comparison.
    """
    wanted = list(channels) or results.channels
    sets = list(dict.fromkeys(metric for _, _, metric in results.sets))
    heads = ["codec", "bpp"]
    above = [("", 2)]
    for channel in wanted:
        heads += [*(m.label for m in measures), *(Measure(s, False).label for s in sets), "no image, %"]
        above.append((channel, len(measures) + len(sets) + 1))
    found = rates(results, tolerance=tolerance)
    lines, figures = [], []
    for entry in results.entries:
        line = [entry, text.number(found.means.get(entry, math.nan), 4)]
        for channel in wanted:
            point = results.point(entry, channel)
            figure: dict[str, Any] = {"entry": entry, "bpp": found.means.get(entry), "channel": channel}
            if point is None:
                line += [NO_VALUE] * (len(measures) + len(sets) + 1)
                continue
            for measure in measures:
                summary = intervals.left_out(point, measure)
                line.append(text.spread(summary, measure))
                figure |= {f"{measure.name}_mean": summary.mean, f"{measure.name}_sd": summary.sd}
            for metric in sets:
                values = np.array(results.sets.get((entry, channel, metric), ()))
                mean, sd = set_summary(values)
                line.append(text.number(mean, 2) + (f" ± {text.number(sd, 2)}" if not math.isnan(sd) else ""))
                figure |= {f"{metric}_mean": mean, f"{metric}_sd": sd, f"{metric}_trials": len(values)}
            share = intervals.corrupted(point)
            line.append(text.short(share))
            figures.append({**figure, "no_image": share.events, "trials": share.trials})
        lines.append(line)
    return Table(
        name,
        "Quality and the share of trials without an image, by codec and channel.",
        heads,
        lines,
        figures,
        (str(found), _POOLED, _ZERO),
        above,
    )


def set_summary(values: np.typing.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and n - 1 standard deviation over the trials that have a value, as published for FID."""
    there = values[np.isfinite(values)]
    return (
        float(there.mean()) if len(there) else math.nan,
        float(there.std(ddof=1)) if len(there) > 1 else math.nan,
    )


def losses(results: Results, measure: Measure, *, channels: Sequence[str] = (), tolerance: float = TOLERANCE) -> Table:
    """A row a codec: rate, quality without damage, and by channel what damage costs and how often there is no image.

    Args:
        channels: by default all.
        tolerance: of a matched comparison.
    """
    wanted = list(channels) or results.channels
    heads, above = ["codec", "bpp", f"clean {measure.label}"], [("", 3)]
    for channel in wanted:
        heads += [f"loss{f', {measure.unit}' if measure.unit else ''}", "no image, %"]
        above.append((channel, 2))
    found = rates(results, tolerance=tolerance)
    lines, figures = [], []
    for entry in results.entries:
        clean = results.point(entry, CLEAN)
        if clean is None:
            continue
        best = intervals.left_out(clean, measure)
        line = [entry, text.number(found.means[entry], 3), text.spread(best, measure)]
        for channel in wanted:
            point = results.point(entry, channel)
            if point is None:
                line += [NO_VALUE] * 2
                continue
            cost, share = intervals.loss(point, clean, measure), intervals.corrupted(point)
            between = text.interval(cost, measure.digits)
            line.append(text.number(cost.estimate, measure.digits) + ("" if between == NO_VALUE else f" {between}"))
            line.append(text.short(share))
            figures.append(
                {
                    **row_of(point),
                    "bpp": found.means[entry],
                    "clean": best.mean,
                    "loss": cost.estimate,
                    "loss_low": cost.low,
                    "loss_high": cost.high,
                    "no_image": share.events,
                    "no_image_low": share.bound.low,
                    "no_image_high": share.bound.high,
                }
            )
        lines.append(line)
    notes = (
        str(found),
        f"Loss: against the clean decode of the same image, over the trials with an image, with the {CONFIDENCE:.0%} "
        "interval of the mean over images.",
        _ZERO,
    )
    title = f"{measure.label} without damage, and what damage costs."
    return Table(f"losses-{slug(measure.name)}", title, heads, lines, figures, notes, above)


def conventions(
    results: Results, measure: Measure, *, channels: Sequence[str] = (), tolerance: float = TOLERANCE
) -> Table:
    """Both conventions for trials without an image, each with its interval, and the share beside them.

    Args:
        channels: by default all, and the clean decodes.
        tolerance: of a matched comparison.
    """
    grey = results.grey.get(measure.name, {})
    heads = [
        *("codec", "channel", "images", "no image", f"{measure.label}: left out", "95% of the mean"),
        *("charged as mid-grey", "95% of the mean"),
    ]
    lines, figures = [], []
    unknown = False
    for entry in results.entries:
        for channel in channels or (CLEAN, *results.channels):
            point = results.point(entry, channel)
            if point is None:
                continue
            share = intervals.corrupted(point)
            left = intervals.left_out(point, measure)
            charged = intervals.charged(point, measure, grey)
            unknown |= charged is None
            lines.append(
                [
                    entry,
                    channel,
                    str(len(set(point.images))),
                    text.counted(share),
                    text.spread(left, measure),
                    text.interval(left.bound, measure.digits),
                    text.spread(charged, measure),
                    NO_VALUE if charged is None else text.interval(charged.bound, measure.digits),
                ]
            )
            figures.append(
                {
                    **row_of(point),
                    "no_image": share.events,
                    "no_image_low": share.bound.low,
                    "no_image_high": share.bound.high,
                    **_figures("left_out", left),
                    **(_figures("charged", charged) if charged is not None else {"charged_counted": 0}),
                }
            )
    notes = [
        str(rates(results, tolerance=tolerance)),
        "Left out: trials without an image are not in the mean, as published. Charged: each counts as a mid-grey one.",
        f"Intervals: {CONFIDENCE:.0%}, of the mean over images of the mean over their trials, images as clusters.",
        _ZERO,
    ]
    if unknown:
        notes.append('"not known": a trial has no image, and no row says what a mid-grey image scores there.')
    return Table(
        f"conventions-{slug(measure.name)}",
        f"{measure.label} with trials without an image left out, and charged.",
        heads,
        lines,
        figures,
        notes,
    )


def row_of(point: Point) -> dict[str, Any]:
    """Whose figures these are."""
    return {
        "entry": point.entry,
        "channel": point.channel,
        "kind": point.kind,
        "severity": point.severity,
        "images": len(set(point.images)),
        "trials": len(point.images),
    }


def _figures(name: str, summary: Summary) -> dict[str, Any]:
    return {
        f"{name}_counted": summary.counted,
        f"{name}_identical": summary.identical,
        f"{name}_mean": summary.mean,
        f"{name}_sd": summary.sd,
        f"{name}_cluster_mean": summary.bound.estimate,
        f"{name}_low": summary.bound.low,
        f"{name}_high": summary.bound.high,
    }


def pairs(results: Results, measure: Measure, *, anchor: str | None = None, tolerance: float = TOLERANCE) -> Table:
    """Each codec against one of them, on the same images; pairs that are not of one rate say so.

    Args:
        anchor: whom all others are compared with; by default the first.
    """
    first = anchor if anchor is not None else results.entries[0]
    grey = results.grey.get(measure.name, {})
    heads = ["codec", f"against {first}: rate", "channel", f"{measure.label}: left out", "95%", "charged", "95%"]
    lines, figures = [], []
    for entry in results.entries:
        if entry == first:
            continue
        found = rates(results, (first, entry), tolerance=tolerance)
        said = f"{found.apart:.1%} apart" + ("" if found.matched else ", not matched")
        for channel in (CLEAN, *results.channels):
            one, other = results.point(entry, channel), results.point(first, channel)
            if one is None or other is None:
                continue
            left = intervals.paired(one, other, measure)
            charged = intervals.paired(one, other, measure, grey=grey)
            cells = [entry, said, channel]
            for difference in (left, charged):
                estimate = difference.bound.estimate
                sign = "+" if estimate > 0 else ""
                cells.append(sign + text.number(estimate, measure.digits))
                cells.append(text.interval(difference.bound, measure.digits))
            lines.append(cells)
            figures.append(
                {
                    "entry": entry,
                    "against": first,
                    "rates_apart": found.apart,
                    "matched": found.matched,
                    "channel": channel,
                    "images": left.images,
                    "images_left_out": left.left_out,
                    "left_out_difference": left.bound.estimate,
                    "left_out_low": left.bound.low,
                    "left_out_high": left.bound.high,
                    "charged_difference": charged.bound.estimate,
                    "charged_low": charged.bound.low,
                    "charged_high": charged.bound.high,
                }
            )
    better = "Above" if measure.higher_is_better else "Below"
    return Table(
        f"pairs-{slug(measure.name)}",
        f"{measure.label} against {first}, on the same images.",
        heads,
        lines,
        figures,
        (
            f"{better} 0 the codec is better than {first}.",
            "Differences of image means, with their 95% intervals over images. Left out: images where either codec has "
            "an image in no trial are not in it. Charged: trials without an image count as a mid-grey one.",
            f"A pair whose rates are more than {tolerance:.0%} apart is not a matched comparison.",
        ),
    )


def rate_table(results: Results, *, tolerance: float = TOLERANCE) -> Table:
    """The rate of each entry: mean, range, and how far it is from the lowest."""
    found = rates(results, tolerance=tolerance)
    lines, figures = [], []
    lowest = min(found.means.values(), default=math.nan)
    for entry, mean in found.means.items():
        low, high = found.ranges[entry]
        lines.append([entry, f"{mean:.4f}", f"{low:.4f} to {high:.4f}", f"{mean / lowest - 1:.1%}"])
        figures.append(
            {"entry": entry, "bpp": mean, "bpp_low": low, "bpp_high": high, "above_lowest": mean / lowest - 1}
        )
    return Table(
        "rates",
        "Rates in bits per pixel, whole files counted.",
        ["codec", "mean bpp", "over images", "above the lowest"],
        lines,
        figures,
        (str(found),),
    )
