"""``robustkit sweep``: an experiment, trial by trial, kept as rows of Parquet."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustkit.cli import shared
from robustkit.cli.measure import CORES
from robustkit.errors import RobustkitError
from robustkit.spelling import SpellingError, names, settings

if TYPE_CHECKING:
    from robustkit.experiments.identity import Experiment, Speed
    from robustkit.experiments.pictures import Picture
    from robustkit.experiments.plan import Plan
    from robustkit.experiments.sweep import Ended, Progress

#: Between two lines of progress where there is no terminal to show a bar.
_LINE_SECONDS = 60


@click.command(
    "sweep",
    epilog="""\b
Examples:
  robustkit sweep --codec jpeg --codec png --channel bsc --ber 1e-4,1e-3 --out results/
  robustkit sweep --preset paper --images kodak24 --crop 512 --jobs 4 --out kodak/
  robustkit sweep experiments/headers.toml --dry-run
  robustkit sweep --out results/                   (go on with what was begun there)
  robustkit sweep experiment.toml --shard 2/8 --out share-2/
""",
)
@click.argument("file", metavar="[FILE.toml]", required=False,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--preset", metavar="NAME", help="paper, gilbert-elliott, protected, or headers; flags change it.")
@click.option("--codec", "codecs", metavar="NAME", multiple=True,
              help="See `robustkit codecs`; repeatable. In place of the file's or preset's.")  # fmt: skip
@click.option("--set", "pairs", metavar="[NAME:]KEY=VALUE", multiple=True,
              help="A setting of the codecs given by --codec, or of the one called NAME; repeatable.")  # fmt: skip
@click.option("--target-bpp", metavar="CODEC=BPP,...",
              help="Match these codecs' rates first, for each image on its own: jpeg=1.0,bpg=0.5.")  # fmt: skip
@click.option("--images", metavar="DIR|SET", help="A folder of images and those below it, or a set: skimage, kodak24, "
              "div2k-valid, clic2020.  [default: skimage]")  # fmt: skip
@click.option("--crop", type=click.IntRange(min=1), metavar="PIXELS", help="Side of the images' centre crops.")
@click.option("--channel", "channels", metavar="CHANNEL", multiple=True,
              help="Such as bsc, gilbert-elliott(burst=8) or truncation(keep=0.5); repeatable.")  # fmt: skip
@click.option("--ber", "bers", metavar="BER,...", multiple=True,
              help="Bit error rates, for channels that are given without one.")  # fmt: skip
@click.option("--trials", type=click.IntRange(min=1), metavar="N",
              help="Of each image on each channel; with --until, in a round.  [default: 10]")  # fmt: skip
@click.option("--until", metavar="RULE", help="ci=0.2dB or failures=50: more rounds until a point has enough.")
@click.option("--max-trials", type=click.IntRange(min=1), metavar="N", help="With --until.  [default: 1000]")
@click.option("--metric", "metrics", metavar="NAME", multiple=True,
              help="Of quality; repeatable. fid, fid-published and kid compare whole sets and decode each trial once "
              "more.  [default: psnr]")  # fmt: skip
@click.option("--patch", type=click.IntRange(min=2), metavar="PIXELS", help="Side of FID's patches.  [default: 64]")
@click.option("--seed", type=int, help="Of the trials.  [default: 0]")
@click.option("--keep", metavar="RULE", multiple=True,
              help="worst:3 or median:1: keep these streams and pictures of each image and channel.")  # fmt: skip
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Of one decode.  [default: 300]")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help=f"Processes; here are {CORES} cores.")  # fmt: skip
@click.option("--shard", metavar="I/N", help="Run the I-th of N shares; `robustkit merge` joins their folders.")
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Hand chunks to this cluster of dask.distributed's.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Folder of the rows; what is there already is not run again.")  # fmt: skip
@click.option("--allow-downloads", is_flag=True,
              help="Fetch what is not on this machine: images, and metrics' weights.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be run, and how long it takes.")
def command(
    file: Path | None,
    preset: str | None,
    out: Path | None,
    jobs: int,
    shard: str | None,
    scheduler: str | None,
    allow_downloads: bool,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Run an experiment: codecs x images x channels x trials, one row each.

    The experiment is a TOML file, a preset, flags, or one of the first two changed by flags. Rows go into DIR, in parts
    that are never changed. A sweep that was stopped, however that was, goes on when the same command is given again,
    and its rows are those of one that was not. `robustkit status DIR` says how far it is.

    Exit status 1 says that some rows are missing: an image could not be encoded, or a codec had to be given up.
    """
    shared.needs("pyarrow")
    from robustkit import quality
    from robustkit.channels import ChannelError
    from robustkit.experiments import identity, pictures, setmetrics
    from robustkit.experiments.identity import FILE, Experiment
    from robustkit.experiments.matchrate import MatchError
    from robustkit.experiments.plan import OPTIONAL, PlanError
    from robustkit.experiments.until import UntilError
    from robustkit.images import ImageError
    from robustkit.quality import MetricUnavailable, UnknownMetric

    if out is None and not dry_run:
        raise click.UsageError("give --out DIR, or --dry-run to see what would be run")
    if scheduler and jobs > 1:
        raise click.UsageError("--scheduler and --jobs exclude each other: the cluster has its own processes")
    share = _share(shard)
    try:
        plan = _plan(file, preset, out, flags)
        if plan.until and share != (1, 1):
            raise click.UsageError("--until and --shard exclude each other: a share does not see the others' trials")
        found = pictures.find(plan.images, plan.crop, _note, allow_downloads=allow_downloads)
        for metric in plan.metrics if allow_downloads else ():
            # Why one that may be left out is, is said where it is.
            with suppress(*[MetricUnavailable] * metric.endswith(OPTIONAL)):
                quality.fetch(metric.removesuffix(OPTIONAL))
        for metric in plan.sets if allow_downloads else ():
            with suppress(*[MetricUnavailable] * metric.endswith(OPTIONAL)):
                setmetrics.inception(setmetrics.usual_device(), allow_downloads=True)
        with shared.progress("loading codecs") as tell:
            former = Experiment.read(out) if out is not None and (out / FILE).exists() else None
            experiment, speeds = identity.examine(
                plan, found, tell=tell, note=_note, timed=dry_run, former=former, workers=jobs
            )
    except (PlanError, MatchError, UntilError, ChannelError, ImageError, UnknownMetric, SpellingError) as error:
        raise click.UsageError(str(error)) from error
    except (MetricUnavailable, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if dry_run:
        _show_plan(experiment, speeds, found, jobs, share)
        return
    for entry in experiment.entries:
        if entry.skipped:
            _note(f"{entry.entry.label} is left out, it can't run here: {entry.skipped}")
    if not experiment.running:
        raise click.ClickException("none of the codecs can run here")
    assert out is not None
    # What this run does: a codec that can't run here is left to others.
    plan = replace(experiment.plan, entries=tuple(entry.entry for entry in experiment.running))
    _sweep(out.absolute(), experiment, plan, jobs, scheduler or "", share)


def _sweep(folder: Path, experiment: Experiment, plan: Plan, jobs: int, scheduler: str, share: tuple[int, int]) -> None:
    from robustkit.experiments import sweep
    from robustkit.spelling import place

    try:
        experiment = sweep.begin(folder, experiment)
        with _bar() as tell:
            ended = sweep.sweep(folder, experiment, plan, jobs=jobs, scheduler=scheduler, shard=share, tell=tell)
    except (RobustkitError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        _note(f"stopped: finished rows are kept in {place(folder)}, the same command goes on")
        sys.exit(130)
    _show_end(ended, place(folder))


def _show_end(ended: Ended, where: str) -> None:
    for (label, image), why in ended.failed.items():
        _note(f"{label} on {image} has no rows: {why}")
    for label, why in ended.given_up.items():
        _note(f"{label} was given up: {why}")
    click.echo(f"{ended.done} rows in {where}, {ended.written} of them new; `robustkit status {where}` says more")
    if ended.failed or ended.given_up:
        sys.exit(1)


def _plan(file: Path | None, preset: str | None, out: Path | None, flags: dict[str, Any]) -> Plan:
    """The plan that file, preset and flags make together; of none of them, the one that lies in the folder."""
    from robustkit.experiments import matchrate
    from robustkit.experiments import plan as plans
    from robustkit.experiments.identity import FILE, Experiment

    given = {key: value for key, value in flags.items() if value not in (None, (), [])}
    if file is None and preset is None and not given and out is not None and (out / FILE).exists():
        return Experiment.read(out).plan
    said: dict[str, Any] = plans.loaded(file) if file is not None else {}
    if preset is not None:
        said = {**plans.preset(preset), **said}
    pairs, rates = given.pop("pairs", ()), given.pop("target_bpp", None)
    if codecs := given.pop("codecs", ()):
        chosen = [name for text in codecs for name in names(text)]
        own = settings(pairs, chosen)
        said["codecs"] = [{"codec": name, "settings": own[name]} for name in chosen]
    elif pairs:
        raise click.UsageError("--set is for codecs given by --codec; in a file they have settings of their own")
    if bers := given.pop("bers", ()):
        said["bers"] = [_number("--ber", text) for found in bers for text in found.split(",") if text.strip()]
        if "channels" not in given and "channels" not in said:
            said["channels"] = ["bsc"]
    said.update({key: list(value) if isinstance(value, tuple) else value for key, value in given.items()})
    plan = plans.make(said)
    return plan if rates is None else plans.with_targets(plan, matchrate.targets(rates))


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"{option} {text.strip()}: that is no number") from None


def _share(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise click.UsageError(f"--shard {text}: write I/N with I from 1 to N, such as 1/4")
    return int(found[1]), int(found[2])


def _note(text: str) -> None:
    click.echo(text, err=True)


def _show_plan(
    experiment: Experiment,
    speeds: dict[str, Speed],
    found: list[Picture],
    jobs: int,
    share: tuple[int, int],
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    plan = experiment.plan
    pixels = sum(picture.height * picture.width for picture in found)
    smallest = min(found, key=lambda picture: (min(picture.height, picture.width), picture.name))
    scale = pixels / (smallest.height * smallest.width)
    table = Table(box=None, pad_edge=False)
    for column in ("codec", "streams", "trials", "s/decode", "time", ""):
        table.add_column(column, overflow="fold", justify="left" if column in ("codec", "") else "right")
    total = 0.0
    for entry in experiment.entries:
        label = entry.entry.label
        if entry.skipped:
            table.add_row(Text(label), "", "", "", "", Text(f"can't run here: {entry.skipped}"))
            continue
        speed = speeds[label]
        trials = len(plan.channels) * (plan.most if plan.until else plan.trials_of(label))
        seconds = scale * (speed.encode + (1 + trials) * (speed.decode + speed.measure)) / jobs / share[1]
        total += seconds
        each = f"{speed.decode * scale / len(found):.3g}"
        table.add_row(Text(label), str(len(found)), str(trials * len(found)), each, _span(seconds), "")
    most = " at the most" if plan.until else ""
    click.echo(
        f"{_so_many(len(found), 'image')}, {_so_many(len(plan.channels), 'channel')}, "
        f"{_so_many(plan.most, 'trial')} of each{most}, seed {plan.seed}; "
        f"metrics: {', '.join((*plan.metrics, *plan.sets))}"
    )
    for channel in plan.channels:
        click.echo(f"  {channel}")
    Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False).print(table)
    said = f"share {share[0]} of {share[1]}, " if share != (1, 1) else ""
    if any(entry.matched for entry in experiment.entries):
        click.echo(f"rates are matched on {smallest.name} alone here, the smallest image; a sweep matches each image")
    if plan.sets:
        click.echo(f"{', '.join(plan.sets)}: each trial is decoded once more at the end, which is not in the time")
    click.echo(
        f"{said}{jobs} process{'es' if jobs > 1 else ''}: about {_span(total)}{most}, by one image's decode; "
        "codecs that decode batches take less"
    )


def _so_many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """A bar with rate, estimate and the worst outcome so far; lines now and then where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, markup=False, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[worst]}", markup=False),
    )
    said = time.monotonic()
    bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("", total=None, rate="", worst="")

        def tell(progress: Progress) -> None:
            nonlocal said
            left = "" if progress.left is None else f", about {_span(progress.left)} left"
            rate = f"{progress.rate:.3g} rows/s{left}" if progress.written else ""
            worst = f"worst: {progress.worst}" if progress.worst else ""
            bar.update(
                task,
                description=progress.codec,
                completed=progress.done,
                total=progress.planned,
                rate=rate,
                worst=worst,
            )
            if not console.is_terminal and time.monotonic() - said >= _LINE_SECONDS:
                said = time.monotonic()
                _note(f"{progress.codec}: {progress.done} of {progress.planned} rows, {rate}; {worst}")

        yield tell
