"""``robustkit choose``: which codec and protection is best for a total rate and a channel."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustkit.cli import shared
from robustkit.errors import RobustkitError
from robustkit.experiments import TOLERANCE

if TYPE_CHECKING:
    from robustkit.experiments.envelope import Choice


@click.command(
    "choose",
    epilog="""\b
Examples:
  robustkit choose results --bpp 0.4 --channel "bsc(ber=0.001)"
  robustkit choose results --bpp 0.4 --bpp 1 --metric ssimulacra2 --json
""",
)
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--bpp", "budgets", metavar="BPP", type=click.FloatRange(min=0, min_open=True), multiple=True,
              required=True, help="The total rate that may be spent, protection included; repeatable.")  # fmt: skip
@click.option("--channel", "channels", metavar="CHANNEL", multiple=True,
              help="Repeatable.  [default: all of DIR, and clean]")  # fmt: skip
@click.option("--metric", metavar="NAME", help="What best means.  [default: psnr, if the rows have it]")
@click.option("--rate-tolerance", "tolerance", metavar="SHARE", type=click.FloatRange(0, 1), default=TOLERANCE,
              show_default=True, help="By how much of the rate a codec's mean rate may be above it.")  # fmt: skip
@click.option("--most-without-image", metavar="SHARE", type=click.FloatRange(0, 1), default=1.0, show_default=True,
              help="Leave out codecs that give no image more often.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For programs: a list, a mapping a candidate.")
def command(
    directory: Path,
    budgets: tuple[float, ...],
    channels: tuple[str, ...],
    metric: str | None,
    tolerance: float,
    most_without_image: float,
    as_json: bool,
) -> None:
    """Say which codec and protection of DIR, a folder of `robustkit sweep`, is best for a rate, and how surely.

    Trials without an image count as a mid-grey image. The margin is paired, on the same images, and codecs that the
    trials can't tell apart from the best are named.
    """
    shared.needs("pyarrow")
    from robustkit.channels import ChannelError
    from robustkit.experiments import envelope, figures
    from robustkit.experiments.plan import channel_of
    from robustkit.experiments.results import CLEAN

    try:
        results = figures.read(directory, note=lambda line: click.echo(line, err=True))
        wanted = [] if metric is None else [metric]
        measure = figures.measures_of(results, figures.Wish(metrics=wanted))[0]
        choices = []
        for channel in channels or (CLEAN, *results.channels):
            try:
                # As the rows have it: bsc(ber=0.001) for bsc(ber=1e-3).
                named = channel if channel == CLEAN else str(channel_of(channel))
            except ChannelError:
                named = channel
            choices += [
                envelope.choose(
                    results, named, bpp, measure, tolerance=tolerance, most_without_image=most_without_image
                )
                for bpp in budgets
            ]
    except RobustkitError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(envelope.table(choices).plain(), indent=2, allow_nan=False))
        return
    _show(choices)


def _show(choices: list[Choice]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from robustkit.experiments import envelope

    made = envelope.table(choices)
    shown = Table(title=Text(made.title), title_justify="left")
    for head in made.heads:
        # A codec's name is what people copy.
        shown.add_column(Text(head), overflow="fold", no_wrap=head == "codec")
    for row in made.rows:
        shown.add_row(*map(Text, row))
    console = Console(width=None if sys.stdout.isatty() else 220, highlight=False)
    console.print(shown)
    for note in made.notes:
        console.print(Text(note))
    for choice in choices:
        console.print(Text(str(choice)))
    aside = {f"{entry}: {why}" for choice in choices for entry, why in choice.aside.items()}
    for line in sorted(aside):
        console.print(Text(f"not considered: {line}"))
