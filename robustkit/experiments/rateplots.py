"""What is drawn against rate: rate, distortion and perception; quality for a total rate under damage; the envelope."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustkit.experiments import TOLERANCE, drawing, envelope, ladder
from robustkit.experiments.drawing import Drawn, Style, Width
from robustkit.experiments.envelope import Choice
from robustkit.experiments.ladder import Rung
from robustkit.experiments.lines import AXES, Step, clean_step, handle, horizontal, logarithmic, places_of
from robustkit.experiments.rates import rates
from robustkit.experiments.results import CLEAN, Measure, Results, graded, method

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Channels that the total rate is drawn at, at the most, beside the clean level.
_PANELS = 7
_OTHERS = "others"


def rate_distortion(results: Results, measures: Sequence[Measure], *, width: Width = "page") -> Drawn | None:
    """Each metric over the rate without damage, and the second metric over the first; ``None`` without a ladder."""
    found = ladder.ladders(results)
    if not found:
        return None
    with drawing.style():
        plane = len(measures) > 1
        figure, axes = drawing.panels(len(measures) + plane, width)
        styled = drawing.styles(found)
        rows: list[dict[str, Any]] = []
        notes: list[str] = []
        for panel, measure in zip(axes, measures, strict=False):
            for name, entries in found.items():
                rungs = ladder.rungs(results, entries, measure)
                _over_rate(panel, rungs, styled[name])
                rows += [_row(name, CLEAN, measure, rung) for rung in rungs]
                if any(rung.quality is not None and rung.quality.identical for rung in rungs):
                    notes.append("Rates at which an image equals the original have no finite PSNR and are left out.")
            _rate_axis(panel, results, found)
            panel.set_title(f"{measure.label} {_arrow(measure)}")
        if plane:
            _plane(axes[-1], results, measures[:2], found, styled)
        drawing.legend(figure, [handle(name, style) for name, style in styled.items()])
    caption = [
        "Rate, distortion and perception without damage; a line joins one codec's rates.",
        "Bars: 95% intervals of the mean, images as clusters.",
        *(["Last panel: the two metrics against each other."] if plane else []),
        *dict.fromkeys(notes),
        "Arrows point to the better side.",
    ]
    return Drawn("rate-distortion", figure, rows, " ".join(caption))


def _arrow(measure: Measure) -> str:
    return "↑" if measure.higher_is_better else "↓"


def _row(name: str, channel: str, measure: Measure, rung: Rung) -> dict[str, Any]:
    quality = rung.quality
    known = quality is not None and not quality.identical
    return {
        "method": name,
        "entry": rung.entry,
        "channel": channel,
        "bpp": rung.bpp,
        "quantity": measure.name,
        "mean": rung.mean,
        "low": quality.bound.low if quality is not None and known else None,
        "high": quality.bound.high if quality is not None and known else None,
        "identical": None if quality is None else quality.identical,
    }


def _over_rate(panel: Axes, rungs: Sequence[Rung], style: Style) -> None:
    there = [rung for rung in rungs if math.isfinite(rung.mean)]
    x, y = [rung.bpp for rung in there], [rung.mean for rung in there]
    panel.plot(x, y, color=style.colour, linestyle=style.dash, marker=style.marker, zorder=3)
    for rung in there:
        assert rung.quality is not None
        low, high = rung.quality.bound.low, rung.quality.bound.high
        if math.isfinite(high - low):
            panel.plot([rung.bpp] * 2, [low, high], color=style.colour, linewidth=2.5, alpha=0.25, zorder=2)


def _rate_axis(panel: Axes, results: Results, found: Mapping[str, Sequence[str]]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    means = rates(results).means
    there = [means[entry] for entries in found.values() for entry in entries]
    panel.set_xlabel("rate, bpp")
    if not logarithmic(there):
        margin = (max(there) - min(there)) * 0.06
        panel.set_xlim(min(there) - margin, max(there) + margin)
        return
    panel.set_xscale("log")
    panel.set_xlim(min(there) / 1.15, max(there) * 1.15)
    steps = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5)]
    ticks = [tick for tick in steps if min(there) / 1.15 <= tick <= max(there) * 1.15]
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    panel.xaxis.set_minor_locator(NullLocator())


def _plane(
    panel: Axes,
    results: Results,
    measures: Sequence[Measure],
    found: Mapping[str, Sequence[str]],
    styled: Mapping[str, Style],
) -> None:
    """Perception over distortion: one mark a rate."""
    one, two = measures
    for name, entries in found.items():
        x = [rung.mean for rung in ladder.rungs(results, entries, one)]
        y = [rung.mean for rung in ladder.rungs(results, entries, two)]
        style = styled[name]
        panel.plot(x, y, color=style.colour, linestyle=style.dash, marker=style.marker, zorder=3)
    panel.set_xlabel(f"{one.label} {'→' if one.higher_is_better else '←'}")
    panel.set_title(f"{two.label} {_arrow(two)}")


def total_rate(
    results: Results, measure: Measure, *, width: Width = "page", tolerance: float = TOLERANCE
) -> list[Drawn]:
    """Quality over the total rate, protection included: a panel a severity, a figure a ladder of channels.

    Trials without an image are charged as a mid-grey one, because protection that gives up gives no image.
    """
    made = []
    methods: dict[str, list[str]] = {}
    means = rates(results).means
    for entry in results.entries:
        methods.setdefault(method(entry), []).append(entry)
    if len(methods) < 2 or len(results.entries) < 3:
        return []
    for name, channels in _ladders_and_others(results):
        shown = [CLEAN, *channels[:_PANELS]]
        with drawing.style():
            figure, axes = drawing.panels(len(shown), width)
            styled = drawing.styles(methods)
            rows: list[dict[str, Any]] = []
            gaps = False
            for panel, channel in zip(axes, shown, strict=True):
                best: list[tuple[float, float]] = []
                for label, entries in methods.items():
                    rungs = ladder.rungs(results, entries, measure, channel, charged=True)
                    gaps |= any(math.isnan(rung.mean) for rung in rungs)
                    _over_rate(panel, rungs, styled[label])
                    rows += [_row(label, channel, measure, rung) for rung in rungs]
                    best += [(rung.bpp, rung.mean) for rung in rungs if math.isfinite(rung.mean)]
                _staircase(panel, best, measure)
                _rate_axis(panel, results, methods)
                graded_alone = name != _OTHERS and channel != CLEAN
                panel.set_title(drawing.plain(_short(channel) if graded_alone else _broken(channel)))
                if not best:
                    panel.text(0.5, 0.5, "nothing to draw", transform=panel.transAxes, ha="center", color="#777777")
            for panel in axes:
                panel.set_ylabel(measure.label if panel in axes[:: 4 if width == "page" else 2] else "")
            _share_heights(axes)
            drawing.legend(figure, [handle(label, style) for label, style in styled.items()])
        caption = [
            f"{measure.label} over the total rate, protection and containers included, by channel.",
            "Trials without an image are charged as a mid-grey image.",
            "Grey steps: the best there is up to a rate.",
            "Bars: 95% intervals of the mean, images as clusters.",
        ]
        if gaps:
            caption.append(
                "Left out: entries with an image equal to the original, whose PSNR is not finite, and those of which "
                "nobody measured what a mid-grey image scores."
            )
        assert means
        made.append(Drawn(drawing.slug(f"total-rate-{name}"), figure, rows, " ".join(caption)))
    return made


def _ladders_and_others(results: Results) -> list[tuple[str, list[str]]]:
    """Channels of several severities, each a figure; and all others in one."""
    families = results.families()
    found = [(name, channels) for name, channels in families.items() if len(channels) > 1]
    others = [channels[0] for channels in families.values() if len(channels) == 1]
    return [*found, (_OTHERS, others)] if others else found


def _broken(channel: str) -> str:
    """In two lines, where it is long."""
    return channel.replace("(", "\n(", 1) if len(channel) > 22 else channel


def _short(channel: str) -> str:
    """``ber = 0.001`` of ``bsc(ber=0.001)``: the rest stands in the caption."""
    graded_by = graded(channel)
    inside = channel.partition("(")[2].rstrip(")").split(",")[0]
    return f"{graded_by} = {inside.partition('=')[2].strip()}" if inside else channel


def _share_heights(axes: Sequence[Axes]) -> None:
    """One scale for all panels that show something."""
    drawn = [panel for panel in axes if panel.lines]
    if not drawn:
        return
    low = min(panel.get_ylim()[0] for panel in drawn)
    high = max(panel.get_ylim()[1] for panel in drawn)
    for panel in axes:
        panel.set_ylim(low - (high - low) * 0.06, high + (high - low) * 0.06)


def _staircase(panel: Axes, points: Sequence[tuple[float, float]], measure: Measure) -> None:
    """The best quality up to each rate, as a broad grey line behind the others."""
    sign = 1 if measure.higher_is_better else -1
    steps: list[tuple[float, float]] = []
    for bpp, quality in sorted(points):
        if not steps or sign * quality > sign * steps[-1][1]:
            steps.append((bpp, quality))
    if steps:
        x = [*(bpp for bpp, _ in steps), max(bpp for bpp, _ in points)]
        y = [*(quality for _, quality in steps), steps[-1][1]]
        panel.step(x, y, where="post", color="#D5D5D5", linewidth=3.5, zorder=1, solid_capstyle="butt")


def best_at_each(
    results: Results,
    measure: Measure,
    *,
    budgets: Sequence[float] = (),
    width: Width = "page",
    tolerance: float = TOLERANCE,
) -> tuple[list[Drawn], list[Choice]]:
    """The envelope: for each total rate which codec and protection is best at each severity, by how much, how surely.

    Args:
        budgets: rates in bits per pixel; by default those that at least two codecs have.

    Returns:
        A figure for each ladder of channels, and all choices that they show.
    """
    wanted = list(budgets) or envelope.budgets(results, tolerance=tolerance)
    made, chosen = [], []
    for name, channels in results.families().items():
        if not wanted:
            break
        shown = [CLEAN, *channels]
        choices = [
            [
                envelope.choose(results, channel, bpp, measure, tolerance=tolerance if budgets else 0)
                for channel in shown
            ]
            for bpp in wanted
        ]
        chosen += [choice for row in choices for choice in row]
        if len(channels) > 1:
            made.append(_envelope(results, name, channels, wanted[:8], choices[:8], measure, width))
    return made, _once(chosen)


def _once(choices: Sequence[Choice]) -> list[Choice]:
    """Without repetitions of the clean level, which stands in every ladder."""
    return list({(choice.channel, choice.bpp): choice for choice in choices}.values())


def _envelope(
    results: Results,
    name: str,
    channels: Sequence[str],
    budgets: Sequence[float],
    choices: Sequence[Sequence[Choice]],
    measure: Measure,
    width: Width,
) -> Drawn:
    steps = [clean_step(channels), *(Step(channel, results.severity(channel)) for channel in channels)]
    places = places_of(steps)
    with drawing.style():
        figure, axes = drawing.panels(len(budgets), width, under=0.32)
        axes, below = axes[: len(budgets)], axes[len(budgets) :]
        names = list(dict.fromkeys(method(entry) for entry in results.entries))
        styled = drawing.styles(names)
        rows = envelope.table([c for row in choices for c in row]).figures
        seen: set[str] = set()
        for panel, lower, bpp, row in zip(axes, below, budgets, choices, strict=True):
            for label in names:
                x, y = [], []
                for choice in row:
                    for candidate in choice.candidates:
                        if candidate.method == label:
                            x.append(places[choice.channel])
                            y.append(candidate.quality.bound.estimate)
                if x:
                    seen.add(label)
                    apart = 1 if row[0].channel == CLEAN and x[0] == places[CLEAN] else 0
                    style = styled[label]
                    panel.plot(x[apart:], y[apart:], color=style.colour, linestyle=style.dash, marker=style.marker,
                               zorder=3)  # fmt: skip
                    panel.plot(x[:apart], y[:apart], color=style.colour, marker=style.marker, zorder=3)
            for choice in row:
                if choice.best is not None:
                    panel.plot([places[choice.channel]], [choice.best.quality.bound.estimate], marker="o",
                               markersize=10, color="#888888" if choice.sure else "none", alpha=0.45,
                               markeredgecolor="none", zorder=2)  # fmt: skip
                    panel.plot([places[choice.channel]], [choice.best.quality.bound.estimate], marker="o",
                               markersize=10, markerfacecolor="none", markeredgecolor="#555555",
                               markeredgewidth=0.7, zorder=2)  # fmt: skip
            _margins(lower, row, places, styled)
            for one in (panel, lower):
                horizontal(one, steps, places, AXES.get(graded(channels[0]), graded(channels[0])))
            panel.set_xlabel("")
            panel.tick_params(labelbottom=False)
            panel.set_title(f"at most {bpp:.3g} bpp")
            if panel in axes[:: 4 if width == "page" else 2]:
                panel.set_ylabel(measure.label)
                lower.set_ylabel(f"margin, {measure.unit}" if measure.unit else "margin")
        _share_heights(axes)
        _share_heights(below)
        drawing.legend(figure, [handle(label, styled[label]) for label in names if label in seen])
    caption = [
        f"Which codec and protection is best for a total rate, by {name}: {measure.label}, trials without an image "
        "charged as a mid-grey image.",
        "Of a codec at several rates the best that fits is drawn.",
        "Circle: the best; filled, if paired 95% intervals that hold together tell it apart from all others.",
        "Below: by how much the best, whose mark it is, is before the second, with that interval.",
    ]
    return Drawn(drawing.slug(f"envelope-{name}"), figure, rows, " ".join(caption))


def _margins(panel: Axes, row: Sequence[Choice], places: Mapping[str, float], styled: Mapping[str, Style]) -> None:
    """By how much the best is before the second, in the style of the best."""
    panel.axhline(0, color="#888888", linewidth=0.7, zorder=1)
    for choice in row:
        if choice.best is None or not choice.margins:
            continue
        style, bound = styled[choice.best.method], choice.margins[0].bound
        panel.errorbar([places[choice.channel]], [bound.estimate],
                       yerr=[[bound.estimate - bound.low], [bound.high - bound.estimate]],
                       color=style.colour, marker=style.marker, linestyle="none", zorder=3)  # fmt: skip
