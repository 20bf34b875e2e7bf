"""Sets codecs side by side at one rate: clean quality, and what damage costs, as one table.

Run it with ``python benchmarks/compare.py``. Without options it makes ``benchmarks/rcc-codecs.md``, the table of the
RCC codecs and JPEG.
"""

from __future__ import annotations

import functools
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from robustkit import channels, images, registry, spelling, statistics
from robustkit.channels import ChannelError
from robustkit.cli.measure import CORES
from robustkit.errors import RobustkitError
from robustkit.images import ImageError
from robustkit.isolation import Limits
from robustkit.judging.assess import by_image, interval
from robustkit.judging.store import TrialStore
from robustkit.judging.subject import Subject, slug
from robustkit.judging.trial import Trial
from robustkit.registry import DuplicateCodec, UnknownCodec
from robustkit.spelling import SpellingError

CODECS = "jpeg,ddcm,diffc,psc,turbo-ddcm,robust-turbo-ddcm,robust-turbo-ddcm-uep"
CHANNELS = ("bsc(ber=0.0001)", "bsc(ber=0.001)", "bsc(ber=0.01)")
DEFAULT_OUT = Path(__file__).parent / "rcc-codecs.md"
#: Codecs whose rates differ by more than this are not of one rate.
RATE_TOLERANCE = 0.05
METRIC = "psnr"

# Wide where nobody watches, so that a table in a log is whole.
console = Console(width=None if sys.stdout.isatty() else 132)


def row(name: str, subject: Subject, seen: Sequence[Sequence[Trial]]) -> str:
    """One line of the table, in Markdown."""
    clean = statistics.mean_bound({image: [clean.metrics[METRIC]] for image, clean in subject.clean.items()})
    cells = [f"`{name}`", f"{subject.clean_bpp:.3f}", interval(clean, 2)]
    for trials in seen:
        shown = any(trial.drop(METRIC) is not None for trial in trials)
        mean = statistics.mean_bound(by_image(trials, lambda t: t.drop(METRIC)))
        lost = statistics.share_bound(by_image(trials, lambda t: t.outcome.corrupted))
        cells += [interval(mean, 2) if shown else "", interval(lost, 2)]
    return "| " + " | ".join(cells) + " |"


@click.command(context_settings={"show_default": True})
@click.option("--codec", "codecs", default=CODECS, help="Names, separated by commas.")
@click.option("--bpp", default=0.4, help="The rate that each is set to, in bits per pixel.")
@click.option("--set", "settings", metavar="[NAME:]KEY=VALUE", multiple=True,
              help="A setting of every codec, or of the one called NAME; repeatable.")  # fmt: skip
@click.option("--trials", default=10, help="Trials an image and channel.")
@click.option("--channel", "names", multiple=True, default=CHANNELS, help="Repeatable.")
@click.option("--images", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Photographs.")
@click.option("--crop", default=256, help="Side of the images' centre crops.")
@click.option("--workers", default=CORES, help="Decoding processes.", show_default="one a core")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT_OUT, help="The table.")
def main(
    codecs: str,
    bpp: float,
    settings: tuple[str, ...],
    trials: int,
    names: tuple[str, ...],
    folder: Path | None,
    crop: int,
    workers: int,
    out: Path,
) -> None:
    """Measure codecs at one rate on scikit-image's photographs, or those of a folder, and write a Markdown table.

    The trials are kept in OUT.CODEC.trials.jsonl, so a run that was stopped goes on. Intervals are one-sided 95% bounds
    on each side, with images as clusters.
    """
    try:
        note = functools.partial(click.echo, err=True)
        photographs = images.photographs(crop) if folder is None else images.from_folder(folder, crop=crop, note=note)
        wanted = list(dict.fromkeys(channels.parse(name) for name in names))
        own = spelling.settings(settings, spelling.names(codecs))
        specs = {name: registry.get(name).spec(**{"bpp": bpp, **mine}) for name, mine in own.items()}
    except (UnknownCodec, DuplicateCodec, ChannelError, ImageError, SpellingError) as error:
        raise click.UsageError(str(error.args[0])) from error
    lines, rates = [], {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        tempfile.TemporaryDirectory() as directory,
    ):
        task = progress.add_task("starting", total=len(specs) * len(wanted) * len(photographs) * trials)
        for name, spec in specs.items():

            def tell(text: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {text}")

            subject = Subject(
                spec,
                images=photographs,
                directory=Path(directory),
                metric=METRIC,
                trials=trials,
                limits=Limits(seconds=300),
                workers=workers,
                progress=tell,
            )
            with closing(subject):
                try:
                    _ = subject.workers
                    kept = out.with_name(f"{out.name}.{slug(name)}.trials.jsonl")
                    store = TrialStore(kept, subject, tell=click.echo)
                    seen = []
                    for channel in wanted:
                        tell(str(channel))
                        jobs = subject.jobs(channel)
                        progress.advance(task, len(jobs) - len(store.missing(jobs)))
                        for _ in store.run(jobs):
                            progress.advance(task)
                        seen.append(store.trials(jobs))
                except RobustkitError as error:
                    raise click.ClickException(f"{name}: {error}") from error
                rates[name] = subject.clean_bpp
                lines.append(row(name, subject, seen))
    far = [f"{name} {rate:.3f}" for name, rate in rates.items() if abs(rate / bpp - 1) > RATE_TOLERANCE]
    damage = "".join(f" {channel}: loss, dB | no image |" for channel in wanted)
    text = "\n".join(
        [
            f"{len(photographs)} images of {crop}x{crop}, {trials} trials an image and channel; mean and one-sided",
            "95% bounds, images as clusters. Loss: of PSNR against the clean decode, over the trials with an image.",
            "Made by",
            f"`python benchmarks/compare.py --codec {shlex.quote(codecs)} --bpp {bpp:g} --trials {trials}`.",
            "",
            *([f"Not within {RATE_TOLERANCE:.0%} of the rate asked for: {', '.join(far)}.", ""] if far else []),
            f"| codec | bpp | clean, dB |{damage}",
            "|---|---|---|" + "---|---|" * len(wanted),
            *lines,
            "",
        ]
    )
    out.write_text(text, encoding="utf-8")
    console.print(Markdown(text))
    console.print(f"written to {out}")


if __name__ == "__main__":
    main()
