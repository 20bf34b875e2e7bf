"""Measures what a codec can promise: seeded trials on each channel, and the tightest profile that they prove.

Run it with ``python benchmarks/measure_profile.py --codec NAME --out profile.toml``; a run that was stopped goes on
where it was.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.pretty import Pretty
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from robustkit.trial import CleanRoundTripFailed, CodecUnderTest, SearchEffort, Trial

from robustkit import Image, Outcome, Profile, Promise, channels, images, registry, statistics
from robustkit.isolation import Limits
from robustkit.pytest_plugin import EFFORTS
from robustkit.registry import CodecSpec, CodecUnavailable, DuplicateCodec, UnknownCodec
from robustkit.spelling import settings_of
from robustkit.statistics import Bound, Verdict

CHANNELS = (
    "bsc(ber=0.0001)",
    "bsc(ber=0.001)",
    "bsc(ber=0.01)",
    "burst(length=32)",
    "gilbert-elliott(ber=0.001, burst=16)",
    "header-bsc(ber=0.01)",
    "payload-bsc(ber=0.001)",
    "truncation(keep=0.5)",
)
#: Runs of the suite that are played through, each with trials drawn from those measured.
RUNS = 400
#: Share of those runs that a proposed promise holds in.
HOLDS = 0.99
#: Added to each limit: the trials measured are not all there are, and other machines round differently.
MARGIN = 0.05
#: No promise of a loss is tighter, in dB.
FLOOR = 0.05
#: How much tighter a promise is shown to fail.
TIGHTER = 0.8

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# Wide where nobody watches, so that a table in a log is whole.
console = Console(width=None if sys.stdout.isatty() else 132)


@dataclass(frozen=True)
class Seen:
    """What a profile needs to know of one trial; see :class:`robustkit.trial.Trial`."""

    image: str
    number: int
    outcome: Outcome
    drop: float | None

    @classmethod
    def of(cls, trial: Trial) -> Seen:
        return cls(trial.image, trial.number, trial.outcome, trial.drop)


def by_image(trials: Iterable[Seen], value: Callable[[Seen], float | None]) -> dict[str, list[float]]:
    """``value`` of each trial, gathered by image; ``None`` is left out."""
    values: dict[str, list[float]] = {}
    for trial in trials:
        found = value(trial)
        values.setdefault(trial.image, []).extend([] if found is None else [found])
    return values


def mean_drop(trials: Sequence[Seen]) -> Bound:
    return statistics.mean_bound(by_image(trials, lambda t: t.drop))


def p5_drop(trials: Sequence[Seen]) -> Bound:
    # A trial without an image is the corrupted share's business, here it exceeds nothing.
    return statistics.percentile_bound(by_image(trials, lambda t: -math.inf if t.drop is None else t.drop), 95)


def corrupted(trials: Sequence[Seen]) -> Bound:
    return statistics.share_bound(by_image(trials, lambda t: t.outcome.corrupted))


def refused(trials: Sequence[Seen]) -> Bound:
    return statistics.share_bound(by_image(trials, lambda t: t.outcome is Outcome.REFUSED))


QUANTITIES: Mapping[str, Callable[[Sequence[Seen]], Bound]] = {
    "mean_drop": mean_drop,
    "p5_drop": p5_drop,
    "corrupted": corrupted,
}


@dataclass(frozen=True)
class Limit:
    """A proposed limit.

    Attributes:
        channel: ``""`` for all promises together.
        quantity: the field of :class:`Promise`, or ``"refused"``.
        declared: the limit.
        kept: share of the runs that prove it.
        tighter_kept: share of the runs that prove one 20% tighter.
        trials: how many were measured.
    """

    channel: str
    quantity: str
    declared: float
    kept: float
    tighter_kept: float
    trials: int


def rounded_up(value: float) -> float:
    """The next number with two digits, the second of them in halves: 0.0205, 1.35, 17.5."""
    if value <= 0 or math.isinf(value):
        return max(0.0, value)
    exponent = math.floor(math.log10(value)) - 1
    # Halves of a power of ten, as integers, so that 0.3 does not become 0.30000000000000004.
    halves = math.ceil(round(value * 2 * 10.0**-exponent, 6))
    return float(f"{halves / 2:.1f}e{exponent}")


def resampled(trials: Sequence[Seen], per_image: int, rng: np.random.Generator) -> list[Seen]:
    """One run of the suite: ``per_image`` trials of each image, drawn with replacement."""
    groups: dict[str, list[Seen]] = {}
    for trial in trials:
        groups.setdefault(trial.image, []).append(trial)
    return [group[i] for group in groups.values() for i in rng.integers(0, len(group), per_image)]


def propose(measured: Mapping[str, Sequence[Seen]], *, bpp: float, quality: float) -> tuple[Profile, list[Limit]]:
    """The tightest profile that runs with the quick effort prove in 99 of 100, and what is known of each limit.

    A run proves a limit that lies at or above the upper end of its bound, so the limits come from the distribution
    of that end over runs, and from the run that the suite does, which has the first of the measured trials.

    Args:
        measured: the trials of each channel. One on which no trial gave an image gets no promise, nor does one on which
            a quick run may have too few for a bound.
        bpp: mean rate of the clean streams.
        quality: mean PSNR of the clean decodes, in dB.

    Raises:
        ValueError: fewer trials than a run of the suite has.
    """
    promised = {c: list(trials) for c, trials in measured.items() if any(t.drop is not None for t in trials)}
    photographs = {t.image for trials in promised.values() for t in trials}
    per_image = math.ceil(EFFORTS["quick"].trials / max(1, len(photographs)))
    for channel, trials in promised.items():
        if min(map(len, by_image(trials, lambda t: 0.0).values())) < per_image:
            raise ValueError(f"{channel}: give --trials {per_image} or more, as many an image as a run of the suite")
    runs = [{c: [t for t in trials if t.number < per_image] for c, trials in promised.items()}]
    for number in range(RUNS):
        rng = channels.generator("", "", "measure-profile", number)
        runs.append({c: resampled(trials, per_image, rng) for c, trials in promised.items()})

    limits, promises = [], []
    for channel, trials in promised.items():
        declared = {}
        for quantity, bound in QUANTITIES.items():
            limit = _limit(channel, quantity, bound, [run[channel] for run in runs], trials)
            declared[quantity] = limit.declared
            limits.append(limit)
        if all(map(math.isfinite, declared.values())):
            promises.append(Promise(channel, **declared))
    kept = [promise.channel for promise in promises]
    together = [[t for channel in kept for t in run[channel]] for run in runs]
    limits.append(_limit("", "refused", refused, together, [t for channel in kept for t in promised[channel]]))
    profile = Profile(
        bpp=math.ceil(round(1000 * bpp, 6)) / 1000,
        # Nothing is drawn here: the slack is for machines that round differently.
        quality=math.floor(20 * quality - 0.5) / 20,
        refused=limits[-1].declared,
        promises=tuple(promises),
    )
    return profile, limits


def extreme_drop(trials: Sequence[Seen]) -> float:
    """The drop that no trial of a quick run exceeds in 99 of 100 runs.

    So few trials prove a 5th percentile only where not one of them lies beyond, and the largest drop measured is not
    the largest there is. The tail above the 90th percentile is taken as exponential (Pickands, Annals of Statistics 3,
    1975, with shape 0), and cut off a quarter beyond the largest drop, because drops are bounded.
    """
    drops = np.array([t.drop for t in trials if t.drop is not None])
    start = np.quantile(drops, 0.9)
    excess = (drops[drops >= start] - start).mean()
    chance = 1 - HOLDS ** (1 / EFFORTS["quick"].trials)
    return float(min(start + excess * math.log(0.1 / chance), 1.25 * drops.max()))


def _limit(
    channel: str,
    quantity: str,
    bound: Callable[[Sequence[Seen]], Bound],
    runs: Sequence[Sequence[Seen]],
    trials: Sequence[Seen],
) -> Limit:
    share = quantity in ("corrupted", "refused")
    bounds = [bound(run) for run in runs]
    if share and bound(trials).estimate == 0:
        # Never seen: promised never to happen, which no number of trials can prove.
        declared = 0.0
    else:
        ends = np.array([b.high for b in bounds])
        needed = max(float(np.quantile(ends, HOLDS, method="higher")), float(ends[0]))
        if quantity == "p5_drop":
            needed = max(needed, extreme_drop(trials))
        needed *= 1 + MARGIN
        declared = min(1.0, rounded_up(needed)) if share else rounded_up(max(FLOOR, needed))
    judge = statistics.judge_share if share else statistics.judge
    kept, tighter = (
        float(np.mean([judge(b, limit) is Verdict.KEPT for b in bounds])) for limit in (declared, TIGHTER * declared)
    )
    return Limit(channel, quantity, declared, kept, tighter, len(trials))


def remark(limit: Limit) -> str:
    """Why a limit can't be both safe and tight, if so."""
    if math.isinf(limit.declared):
        return "too few images in a quick run: no promise"
    if limit.tighter_kept <= 0.5:
        return ""
    if limit.declared == 0:
        return f"never seen in {limit.trials} trials"
    if limit.quantity.endswith("drop") and limit.declared <= FLOOR:
        return f"at the floor of {FLOOR:g}"
    return "quick runs differ by more than 20%"


@contextmanager
def under_test(
    spec: CodecSpec,
    photographs: Mapping[str, Image],
    *,
    trials: int,
    workers: int,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[str], None],
) -> Iterator[CodecUnderTest]:
    """A codec to be measured, whose processes end with the block."""
    with tempfile.TemporaryDirectory() as directory:
        subject = CodecUnderTest(
            spec,
            images=photographs,
            directory=Path(directory),
            profile=Profile(bpp=math.inf, quality=0.0),
            trials=trials,
            effort=SearchEffort(0),
            limits=Limits(seconds=300),
            device=device,
            seed=seed,
            progress=progress,
        )
        try:
            # Instead of the suite's single process.
            subject.workers = subject.fresh_workers(workers=workers)
            yield subject
        finally:
            subject.close()


class Measured:
    """Trials on disk, so that a run that was stopped goes on."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path, self.key = path, json.loads(json.dumps(key))
        self.channels: dict[str, list[Seen]] = {}
        self.seconds: dict[str, float] = {}
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        if stored["key"] != self.key:
            console.print(f"{path} is of other settings or another prior: measuring anew")
            return
        self.seconds = stored["seconds"]
        for channel, rows in stored["channels"].items():
            self.channels[channel] = [Seen(**{**row, "outcome": Outcome(row["outcome"])}) for row in rows]

    def complete(self, channel: str, subject: CodecUnderTest) -> list[Seen]:
        """The trials on ``channel``, run unless they are here."""
        if channel not in self.channels:
            before = time.monotonic()
            _ = subject.clean
            self._add(channel, [Seen.of(trial) for trial in subject.trials(channel)], time.monotonic() - before)
        return self.channels[channel]

    def _add(self, channel: str, trials: list[Seen], seconds: float) -> None:
        self.channels[channel], self.seconds[channel] = trials, seconds
        rows = {c: [asdict(t) for t in seen] for c, seen in self.channels.items()}
        text = json.dumps({"key": self.key, "seconds": self.seconds, "channels": rows})
        unfinished = self.path.with_name(self.path.name + ".part")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.path)


def show(measured: Mapping[str, Sequence[Seen]], seconds: Mapping[str, float], limits: Sequence[Limit]) -> None:
    table = Table(title="measured, with one-sided 95% bounds")
    for column in ("channel", "trials", "mean drop", "p5 drop", "corrupted", "refused", "seconds"):
        table.add_column(column, justify="left" if column == "channel" else "right")
    for channel, trials in measured.items():
        mean, p5 = mean_drop(trials), p5_drop(trials)
        shares = [f"{b.estimate:.3f} [{b.low:.3f}, {b.high:.3f}]" for b in (corrupted(trials), refused(trials))]
        has_image = any(t.drop is not None for t in trials)
        drops = [f"{b.estimate:.3f} [{b.low:.3f}, {b.high:.3f}]" if has_image else "no image" for b in (mean, p5)]
        table.add_row(channel, str(len(trials)), *drops, *shares, f"{seconds[channel]:.0f}")
    console.print(table)
    table = Table(title=f"proposed; shares of {RUNS} resampled quick runs that prove it")
    for column in ("channel", "promise", "at most", "proved", "20% tighter", ""):
        table.add_column(column)
    for limit in limits:
        table.add_row(
            limit.channel or "all promises",
            limit.quantity,
            f"{limit.declared:g}",
            f"{limit.kept:.1%}",
            f"{limit.tighter_kept:.1%}",
            remark(limit),
        )
    console.print(table)


@click.command(context_settings={"show_default": True})
@click.option("--codec", required=True, help="A registered codec, or package.module:attribute.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="A setting of the codec; repeatable.")
@click.option("--trials", default=50, help="Trials an image and channel.")
@click.option("--channel", "names", multiple=True, default=CHANNELS, help="Repeatable.")
@click.option("--crop", default=256, help="Side of the photographs' centre crops.")
@click.option("--seed", default=0, help="Of the trials; the suite has 0.")
@click.option("--workers", default=CORES, help="Decoding processes.", show_default="one a core")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The profile, as TOML.")
def main(
    codec: str,
    settings: tuple[str, ...],
    trials: int,
    names: tuple[str, ...],
    crop: int,
    seed: int,
    workers: int,
    device: str,
    out: Path,
) -> None:
    """Measure a codec on scikit-image's photographs and propose its profile.

    The trials are kept in OUT.trials.json, a channel at a time.
    """
    started = time.monotonic()
    try:
        given = settings_of(codec, settings) | ({"device": device} if device == "cuda" else {})
        spec = registry.get(codec).spec(**given)
        # The canonical spelling, which seeds the trials.
        wanted = [channels.parse(name).name for name in names]
    except (UnknownCodec, DuplicateCodec, ValueError) as error:
        raise click.UsageError(str(error.args[0])) from error
    photographs = images.photographs(crop=crop)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=len(wanted))
        try:
            with under_test(
                spec,
                photographs,
                trials=trials,
                workers=workers,
                device=device,
                seed=seed,
                progress=lambda text: progress.update(task, description=text),
            ) as subject:
                key = {
                    "codec": subject.own_name,
                    "settings": given,
                    "facts": subject.workers.describe(),
                    "crop": crop,
                    "seed": seed,
                    "trials": trials,
                }
                measured = Measured(out.with_name(out.name + ".trials.json"), key)
                for channel in wanted:
                    measured.complete(channel, subject)
                    progress.advance(task)
                bpp, quality = subject.clean_bpp, subject.clean_quality
        except (CleanRoundTripFailed, CodecUnavailable) as error:
            raise click.ClickException(f"{codec}: {error}") from error
    seen = {channel: measured.channels[channel] for channel in wanted}
    try:
        profile, limits = propose(seen, bpp=bpp, quality=quality)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    show(seen, measured.seconds, limits)
    out.write_text(profile.to_toml(), encoding="utf-8")
    console.print(Pretty(profile))
    console.print(
        f"{codec}: clean {quality:.3f} at {bpp:.4f} bpp; {len(photographs)} photographs of {crop}x{crop}, {trials} "
        f"trials an image and channel; {time.monotonic() - started:.0f} s in all; profile written to {out}"
    )


if __name__ == "__main__":
    main()
