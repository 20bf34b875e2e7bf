"""``robustkit measure``: what a codec can promise, measured; or how tight what it promises already is."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustkit import channels
from robustkit.channels import Channel, ChannelError
from robustkit.cli import shared
from robustkit.errors import RobustkitError
from robustkit.registry import CodecUnavailable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from robustkit.judging.propose import Limit
    from robustkit.judging.store import TrialStore
    from robustkit.judging.subject import Subject
    from robustkit.judging.trial import Trial
    from robustkit.profile import Profile

#: What is measured unless channels are given; those that a codec's layout has no part for are left out.
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
#: Between two lines of progress where there is no terminal to show a bar.
_LINE_SECONDS = 60
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@click.command(
    "measure",
    epilog="""\b
Examples:
  robustkit measure --codec my_codec:MyCodec
  robustkit measure --codec jpeg --set quality=50 --channel "bsc(ber=1e-5)" --channel "burst(length=32)"
  robustkit measure --codec codec.toml --images photographs/ --crop 256 --metric ms_ssim --out profile.toml
  robustkit measure --codec jpeg --check
""",
)
@shared.codec_options
@shared.image_options
@click.option("--metric", metavar="NAME", help="Of quality: psnr, ssim, ms_ssim, or one of pyiqa's.  "
              "[default: the codec's own profile's, or psnr]")  # fmt: skip
@click.option("--channel", "texts", metavar="CHANNEL", multiple=True,
              help="Damage to measure under, such as bsc(ber=1e-3); repeatable.  [default: eight kinds; with --check, "
              "those that are promised]")  # fmt: skip
@click.option("--trials", type=click.IntRange(min=1), default=50, show_default=True, metavar="N",
              help="For each image and channel.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), default=CORES, show_default="one a core", metavar="N",
              help="Decoding processes.")  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True,
              help="Of the trials; not 0, which is the suite's.")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="The profile, as TOML.  [default: NAME.profile.toml, of the codec's own name]")  # fmt: skip
@click.option("--check", is_flag=True, help="Say how tight the profile is that the codec declares; write none.")
def command(
    codec: str,
    settings: tuple[str, ...],
    images: str,
    crop: int | None,
    allow_downloads: bool,
    metric: str | None,
    texts: tuple[str, ...],
    trials: int,
    workers: int,
    seed: int,
    time_limit: float,
    out: Path | None,
    check: bool,
) -> None:
    """Measure what a codec can promise: seeded trials on each channel, and the tightest profile that they prove.

    The profile is one that 99 of 100 runs of the suite with the quick effort keep whole. It goes into FILE, for
    --robustkit-profile, and as Python to paste into the codec's class it ends the output.

    Trials are kept beside FILE, in FILE.trials.jsonl: a run that was stopped goes on where it was, and one with more
    --trials or channels runs those that it lacks. Trials of other pixels, streams, settings or sources of the codec are
    not taken for these.

    With --check, exit status 1 says that a declared limit is broken, or that the clean rate or quality is not what is
    declared; exit status 10 that a limit is not proved.
    """
    from robustkit import quality as metrics
    from robustkit.isolation import Limits
    from robustkit.judging.propose import as_python, examine, expecting, least_trials, propose
    from robustkit.judging.store import TrialStore
    from robustkit.judging.subject import Subject, slug
    from robustkit.quality import METRICS, MetricUnavailable, UnknownMetric

    started = time.monotonic()
    spec = shared.spec_of(codec, settings)
    try:
        given = list(dict.fromkeys(channels.parse(text) for text in texts))
        if metric is not None:
            _ = METRICS[metric]
            if allow_downloads:
                metrics.fetch(metric)
    except (ChannelError, UnknownMetric) as error:
        raise click.UsageError(str(error)) from error
    except MetricUnavailable as error:
        raise click.ClickException(str(error)) from error
    found = shared.images(images, crop=crop, allow_downloads=allow_downloads)
    if seed == 0:
        raise click.UsageError("--seed 0 is the suite's own: give another, so that the suite judges by other trials")
    if trials < (least := least_trials(len(found))):
        raise click.UsageError(
            f"--trials {trials}: fewer than {least} trials of each of {len(found)} images on a channel decide "
            f"nothing, give {least} or more"
        )
    console, store = _console(), None
    with tempfile.TemporaryDirectory(prefix="robustkit-") as directory:
        subject = Subject(
            spec,
            images=found,
            directory=Path(directory),
            metric=metric,
            trials=trials,
            limits=Limits(seconds=time_limit),
            workers=workers,
            seed=seed,
        )
        try:
            with shared.progress(f"loading {codec}") as tell:
                subject.progress = tell
                declared = _prepared(subject, settings, metric, check=check)
                wanted = _wanted(subject, given, declared)
                target = out or Path(f"{slug(subject.own_name)}.profile.toml")
                store = TrialStore(target.with_name(f"{target.name}.trials.jsonl"), subject, tell=_note)
            measured = _measure(store, subject, wanted)
            if declared is not None:
                click.echo(as_python(expecting(declared, measured)) + "\n")
                _show_measured(console, declared, measured)
                sys.exit(_show_check(console, declared, examine(declared, measured), subject))
            bpp, quality = subject.clean_bpp, subject.clean_quality
            profile, limits = propose(measured, bpp=bpp, quality=quality, metric=subject.metric)
        except (RobustkitError, ValueError) as error:
            raise click.ClickException(f"{codec}: {error}") from error
        except KeyboardInterrupt:
            kept = "" if store is None else f": {len(store)} trials are kept in {store.path}, the same command goes on"
            _note(f"stopped{kept}")
            sys.exit(130)
        finally:
            subject.close()
    _show(console, profile, measured, limits)
    try:
        target.write_text(profile.to_toml(), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{target} can't be written: {error}") from error
    promised = [promise.channel for promise in profile.promises]
    for channel in [channel for channel in measured if channel not in promised]:
        click.echo(f"{channel}: fewer than one trial in ten gave an image, so nothing is promised there")
    click.echo(
        f"{codec}: clean {subject.metric} {quality:.4g} at {bpp:.4f} bpp; {len(found)} images, {trials} trials of "
        f"each on {len(measured)} channels; {time.monotonic() - started:.0f} s; profile written to {target}\n"
    )
    click.echo(as_python(profile))


def _note(text: str) -> None:
    click.echo(text, err=True)


def _console() -> Console:
    from rich.console import Console

    # Wide where nobody watches, so that a table in a log is whole.
    return Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)


def _prepared(subject: Subject, settings: tuple[str, ...], metric: str | None, *, check: bool) -> Profile | None:
    """Load the codec and try all that can be known to fail before it decodes; its own profile if that is checked."""
    from robustkit.quality import UnknownMetric

    try:
        _ = subject.workers
    except CodecUnavailable as error:
        if settings:
            raise click.UsageError(f"{subject.name} with {', '.join(settings)}: {error}") from error
        raise click.ClickException(str(error)) from error
    declared = subject.declared if check else None
    if check and (declared is None or not declared.promises):
        raise click.UsageError(f"{subject.name} declares no promises: measure some without --check")
    if declared is not None and metric not in (None, declared.metric):
        raise click.UsageError(f"--metric {metric}: {subject.name} declares its promises in {declared.metric}")
    try:
        subject.check_metric()
    except (UnknownMetric, ValueError) as error:
        raise click.UsageError(str(error)) from error
    return declared


def _wanted(subject: Subject, given: list[Channel], declared: Profile | None) -> list[Channel]:
    """The channels that were asked for; or else those that are promised; or else the usual ones that are possible."""
    if declared is not None:
        promised = [promise.channel for promise in declared.promises]
        for channel in given:
            if channel not in promised:
                raise click.UsageError(f"--channel {channel}: {subject.name} promises nothing there")
        return given or promised
    for channel in given:
        if not _possible(subject, channel):
            raise click.UsageError(f"--channel {channel}: the layout of {subject.name} names no such bits")
    return given or [channel for channel in map(channels.parse, CHANNELS) if _possible(subject, channel)]


def _possible(subject: Subject, channel: Channel) -> bool:
    """Whether every clean stream has the part that the channel hits."""
    region = getattr(channel, "region", None)
    layouts = [clean.layout for clean in subject.clean.values()]
    return region is None or all(len(layout.bits_of(header=region == "header")) for layout in layouts)


def _measure(store: TrialStore, subject: Subject, wanted: Sequence[Channel]) -> dict[Channel, list[Trial]]:
    """The trials on each channel, run unless they are stored, under a bar with an estimate of the time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    jobs = {channel: subject.jobs(channel) for channel in wanted}
    total = sum(map(len, jobs.values()))
    left = sum(len(store.missing(mine)) for mine in jobs.values())
    if left < total:
        _note(f"{total - left} of {total} trials are in {store.path} already")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # The last hour tells what is left: of a slow codec a whole chunk of trials comes at once.
    bar = Progress(
        *columns, console=console, transient=True, speed_estimate_period=3600, disable=not console.is_terminal
    )
    began = said = time.monotonic()
    done = 0
    with bar as progress:
        task = progress.add_task("trials", total=total, completed=total - left)
        for channel, mine in jobs.items():
            progress.update(task, description=str(channel))
            # Closed at once where it is left early, so that what was run is on disk.
            with closing(store.run(mine)) as running:
                for _ in running:
                    progress.advance(task)
                    done, now = done + 1, time.monotonic()
                    if not console.is_terminal and now - said >= _LINE_SECONDS:
                        minutes = (now - began) / done * (left - done) / 60
                        _note(f"{channel}: {total - left + done} of {total} trials, about {minutes:.0f} min left")
                        said = now
    return {channel: store.trials(mine) for channel, mine in jobs.items()}


def _show_measured(console: Console, profile: Profile, measured: Mapping[Channel, Sequence[Trial]]) -> None:
    """Say what was measured on each channel."""
    from robustkit.judging.assess import Rule, interval, quantities
    from robustkit.profile import Promise

    table = _table(
        "measured, of these images; with one-sided 95% bounds",
        *("channel", "trials", "mean drop", "p5 drop", "corrupted", "s/decode"),
    )
    promises = {promise.channel: promise for promise in profile.promises}
    for channel, trials in measured.items():
        promise = promises.get(channel, Promise(channel, 0.0, 0.0))
        mean, tail, corrupted, *_ = (q.judged(Rule(), 20.0) for q in quantities(promise, trials, profile.metric))
        drops = [interval(mean.bound, 3), f"{tail.more['p5_drop']:.3g}"] if channel in promises else ["", ""]
        seconds = sum(t.seconds for t in trials) / len(trials)
        table.add_row(str(channel), str(len(trials)), *drops, interval(corrupted.bound, 3), f"{seconds:.3g}")
    console.print(table)


def _show(
    console: Console, profile: Profile, measured: Mapping[Channel, Sequence[Trial]], limits: Sequence[Limit]
) -> None:
    from robustkit.judging.propose import RUNS, remark

    _show_measured(console, profile, measured)
    table = _table(
        f"proposed; shares of {RUNS} resampled quick runs that keep it",
        *("channel", "promise", "at most", "kept", "20% tighter", ""),
    )
    for limit in limits:
        where = "all promises" if limit.channel is None else str(limit.channel)
        shares = [f"{limit.kept:.1%}", f"{limit.tighter_kept:.1%}"]
        table.add_row(where, limit.quantity, f"{limit.value:g}", *shares, remark(limit, profile.metric))
    console.print(table)
    _show_caught(limits, profile.metric)


def _show_caught(limits: Sequence[Limit], metric: str) -> None:
    """Say which regression the limits catch."""
    from robustkit.quality import METRICS

    unit = METRICS[metric].unit or metric
    for limit in limits:
        if limit.caught is None:
            continue
        worse = f"{limit.caught:.2g} {unit} more in every trial" if limit.caught < float("inf") else "no loss"
        click.echo(f"{limit.channel}: 99% of runs with --robustkit-effort ci catch {worse}")


def _show_check(console: Console, profile: Profile, limits: Sequence[Limit], subject: Subject) -> int:
    """Say how tight ``profile`` is; the exit status says whether all that was looked at holds."""
    from robustkit.judging.finding import NOT_PROVED, Verdict
    from robustkit.judging.propose import RUNS, floor, remark

    quality, bpp = subject.clean_quality, subject.clean_bpp
    click.echo(
        f"clean: {profile.metric} {quality:.4g}, declared {profile.quality:g}; "
        f"{bpp:.4f} bpp, declared at most {profile.bpp:g}"
    )
    table = _table(
        f"declared; shares of {RUNS} resampled quick runs that keep it",
        *("channel", "promise", "at most", "these trials", "kept", "20% tighter", ""),
    )
    loose = 0
    for limit in limits:
        note = remark(limit, profile.metric)
        at_floor = limit.quantity.endswith("drop") and limit.value <= floor(profile.metric)
        if limit.loose and not at_floor:
            note, loose = "loose: 20% less is kept too", loose + 1
        channel = "all promises" if limit.channel is None else str(limit.channel)
        shares = [f"{limit.kept:.1%}", f"{limit.tighter_kept:.1%}"]
        table.add_row(channel, limit.quantity, f"{limit.value:g}", str(limit.first), *shares, note)
    console.print(table)
    _show_caught(limits, profile.metric)
    count = Counter(limit.first for limit in limits)
    kept = count[Verdict.KEPT] + count[Verdict.NOT_DISPROVED]
    said = [f"{kept} of {len(limits)} limits hold"]
    if count[Verdict.NOTED]:
        said.append(f"{count[Verdict.NOTED]} can't be judged, because no trial gave an image")
    said.append(f"{loose} could be 20% tighter")
    short, fat = subject.drop(profile.quality, quality) > 0, bpp > profile.bpp
    said += ["clean quality is worse than declared"] if short else []
    said += ["the clean rate is above the declared"] if fat else []
    click.echo(f"{subject.name}: {'; '.join(said)}")
    if short or fat or count[Verdict.BROKEN]:
        return 1
    return NOT_PROVED if count[Verdict.UNPROVED] else 0


def _table(title: str, *headings: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
