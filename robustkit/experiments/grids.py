"""Grids of reconstructions: codecs across, severities down, of each the trial that a rule chose and no hand.

The rule is the sweep's ``--keep median:1``: of an image's trials on a channel the one of median quality, trials without
an image counted as the worst.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PillowImage

from robustkit.experiments import drawing, keep
from robustkit.experiments.drawing import WIDTHS, Drawn, Width, plain
from robustkit.experiments.identity import Experiment, ExperimentError
from robustkit.experiments.keep import Kept
from robustkit.experiments.rates import rates
from robustkit.experiments.results import CLEAN, Results, ResultsError, graded, parameter
from robustkit.images import ImageError
from robustkit.pixels import Image
from robustkit.spelling import nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Images that are shown unless they are named.
_SHOWN = 2
#: Columns and rows in one figure, at the most.
_ACROSS: Mapping[Width, int] = {"page": 8, "column": 4}
_DOWN = 5
#: The rules whose trial is shown, and the clean decode.
_MEDIAN, _ALWAYS = "median 1", CLEAN
#: Letters of a head's line.
_LETTERS = 11


def reconstructions(
    results: Results, folder: Path, *, images: Sequence[str] = (), width: Width = "page"
) -> list[Drawn]:
    """For each image and ladder of channels a grid of what was kept; nothing where nothing was.

    Args:
        folder: of the experiment.
        images: which; by default the first two that were kept.

    Raises:
        ResultsError: an image was asked for of which nothing was kept, or what was kept can't be read.
    """
    found = _kept(folder)
    there = list(dict.fromkeys(image for _, image, channel in found if channel != CLEAN))
    for asked in images:
        if asked not in there:
            raise ResultsError(
                f"no reconstruction of {asked!r} was kept: {nearest(asked, there)}; `robustkit sweep --keep median:1` "
                "keeps them"
            )
    made = []
    for image in images or there[:_SHOWN]:
        original = _original(folder, image)
        for name, channels in _rows(results, found, image):
            entries = [e for e in results.entries if any((e, image, channel) in found for channel in channels)]
            across = _ACROSS[width] - (original is not None)
            for start in range(0, len(entries), across):
                part = entries[start : start + across]
                tail = f"-{start // across + 1}" if len(entries) > across else ""
                label = drawing.slug(f"pictures-{Path(image).stem}-{name}{tail}")
                made.append(_grid(results, found, image, original, part, channels, label, width))
    return made


def _kept(folder: Path) -> dict[tuple[str, str, str], Kept]:
    """By entry, image and channel, the trial that the rule chose."""
    found = {}
    try:
        for kept in keep.read(folder):
            if _MEDIAN in kept.why or _ALWAYS in kept.why:
                row = kept.row
                found[str(row["entry"]), str(row["image"]), str(row["channel"])] = kept
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"what was kept in {folder / keep.KEPT} can't be read: {error}") from error
    return found


def _original(folder: Path, name: str) -> Image | None:
    """The image itself, if it is still there."""
    try:
        return Experiment.read(folder).picture(name).load()
    except (ExperimentError, ImageError, StopIteration):
        return None


def _rows(results: Results, found: Mapping[tuple[str, str, str], Kept], image: str) -> list[tuple[str, list[str]]]:
    """The channels of each figure: a ladder's, at most five, and in another one those that are alone."""
    made, alone = [], []
    for name, channels in results.families().items():
        here = [c for c in channels if any((entry, image, c) in found for entry in results.entries)]
        if len(here) > 1:
            # 1e-4 and 1e-3 are what the paper shows.
            published = [c for c in here if name.endswith("bsc") and results.severity(c) in (1e-4, 1e-3)]
            made.append((name, published if len(here) > _DOWN and published else here[:_DOWN]))
        else:
            alone += here
    return [*made, *(("others", alone[at : at + _DOWN]) for at in range(0, len(alone), _DOWN))]


def _grid(
    results: Results,
    found: Mapping[tuple[str, str, str], Kept],
    image: str,
    original: Image | None,
    entries: Sequence[str],
    channels: Sequence[str],
    name: str,
    width: Width,
) -> Drawn:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = [CLEAN, *channels]
    heads = ["original"] * (original is not None) + list(entries)
    means = rates(results).means
    sample = original if original is not None else _first(found, image, entries, shown)
    tall = 1.0 if sample is None else sample.shape[0] / sample.shape[1]
    one = (WIDTHS[width] - 0.35) / len(heads)
    lines = max(len(_broken(head).split("\n")) for head in heads)
    rows: list[dict[str, Any]] = []
    with drawing.style():
        height = len(shown) * (one * tall + 0.13) + 0.14 * (lines + 1)
        layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        figure = Figure(figsize=(WIDTHS[width], height), layout=layout)
        grid = figure.subplots(len(shown), len(heads), squeeze=False)
        for down, channel in enumerate(shown):
            for across, head in enumerate(heads):
                panel = grid[down][across]
                _bare(panel)
                if down == 0:
                    rate = f"\n{means[head]:.3g} bpp" if head in means else ""
                    panel.set_title(f"{plain(_broken(head))}{rate}", fontsize=7, linespacing=1.0, pad=2)
                if across == 0:
                    panel.set_ylabel(_beside(channel), fontsize=7)
                if original is not None and across == 0:
                    if down == 0:
                        panel.imshow(original, interpolation="antialiased")
                    else:
                        panel.set_frame_on(False)
                    continue
                rows.append(_panel(panel, found.get((head, image, channel)), head, channel, sample))
    caption = (
        f"Reconstructions of {image}; below each its PSNR or what became of it. Down: without damage, then "
        f"{', '.join(channels)}. Of the trials of an image on a channel the one of median quality is shown, trials "
        "without an image counted as the worst; nothing was chosen by hand."
    )
    return Drawn(name, figure, rows, caption)


def _first(
    found: Mapping[tuple[str, str, str], Kept], image: str, entries: Sequence[str], channels: Sequence[str]
) -> Image | None:
    for entry in entries:
        for channel in channels:
            kept = found.get((entry, image, channel))
            if kept is not None and kept.picture is not None:
                return _read(kept.picture)
    return None


def _read(path: Path) -> Image:
    try:
        with PillowImage.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ResultsError(f"{path} can't be read ({error}): remove its folder and sweep again") from error


def _bare(panel: Axes) -> None:
    panel.grid(False)
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)


def _panel(panel: Axes, kept: Kept | None, entry: str, channel: str, sample: Image | None) -> dict[str, Any]:
    """One reconstruction, or a grey field that says why there is none."""
    if kept is None:
        panel.text(0.5, 0.5, "not kept", transform=panel.transAxes, ha="center", va="center", fontsize=6.5)
        return {"entry": entry, "channel": channel, "shown": "not kept"}
    row = kept.row
    psnr = row.get("psnr")
    said = str(row["outcome"])
    if kept.picture is not None:
        panel.imshow(_read(kept.picture), interpolation="antialiased")
        if isinstance(psnr, (int, float)):
            said = f"{psnr:.1f} dB" if psnr < 100 else "identical"
    else:
        shape = (2, 2) if sample is None else sample.shape[:2]
        panel.imshow(np.full((*shape, 3), 128, np.uint8), interpolation="nearest")
        panel.text(0.5, 0.5, "no image", transform=panel.transAxes, ha="center", va="center", fontsize=7, color="white")
    panel.set_xlabel(said, fontsize=6.5, labelpad=1.5)
    return {
        "entry": entry,
        "channel": channel,
        "image": row["image"],
        "trial": row["trial"],
        "chosen": " ".join(kept.why),
        "outcome": row["outcome"],
        "flips": row.get("flips"),
        **{name: value for name, value in row.items() if isinstance(value, float) and name not in ("bpp", "severity")},
        "bpp": row["bpp"],
    }


def _beside(channel: str) -> str:
    """A row's name: "clean", "BER 0.001", or the channel in two lines."""
    if channel == CLEAN:
        return CLEAN
    value = parameter(channel, "ber")
    if graded(channel) == "ber" and value is not None and "," not in channel:
        kind = channel.partition("(")[0]
        return f"BER {value:g}" if kind in ("bsc", "published-bsc") else f"{kind}\nBER {value:g}"
    return plain(channel.replace("(", "\n(", 1).replace(", ", ",\n"))


def _broken(label: str) -> str:
    """A codec's name over several lines, broken behind what joins its parts."""
    lines = [""]
    for part in re.findall(r"[^-+@,(]+[-+@,(]?|[-+@,(]", label):
        if lines[-1] and len(lines[-1]) + len(part) > _LETTERS:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
