"""``robustkit status``: how far an experiment is."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from robustkit.cli import shared
from robustkit.errors import RobustkitError


@click.command(
    "status",
    epilog="""\b
Examples:
  robustkit status results/
  robustkit status results/ --points
  robustkit status results/ --json | jq .complete
""",
)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--points", is_flag=True, help="Each codec on each channel too, with what its trials come to.")
@click.option("--json", "as_json", is_flag=True, help="An object, for programs.")
def command(folder: Path, points: bool, as_json: bool) -> None:
    """Say how far the experiment in DIR is: rows planned, in flight and done, what failed, what was left out and why.

    With --until, --points shows the estimate of each point with bounds that hold together at 95%, whenever the sweep
    was stopped.
    """
    shared.needs("pyarrow")
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from robustkit.experiments.status import status

    try:
        found = status(folder)
    except RobustkitError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        said = {
            "complete": found.complete,
            "codecs": [asdict(codec) for codec in found.codecs],
            "points": [asdict(point) for point in found.points],
            "flights": list(found.flights),
        }
        click.echo(json.dumps(said, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("codec", "planned", "in flight", "done", "failed images", ""):
        table.add_column(column, overflow="fold", justify="left" if column in ("codec", "") else "right")
    for codec in found.codecs:
        counts = (codec.planned, codec.running, codec.done, len(codec.failed))
        remark = f"skipped: {codec.skipped}" if codec.skipped else ""
        table.add_row(Text(codec.label), *(str(count or "") for count in counts), Text(remark))
    console.print(table)
    for codec in found.codecs:
        for image, why in codec.failed.items():
            click.echo(f"{codec.label} on {image} failed: {why}")
    if points:
        table = Table(box=None, pad_edge=False)
        for column in ("codec", "channel", "trials", "no image", "estimate", "bounds", "state"):
            table.add_column(column, overflow="fold")
        for point in found.points:
            known = point.estimate
            cells = ("", "", "")
            if known is not None:
                cells = (str(known.failures), f"{known.value:.4g}", f"{known.low:.4g} to {known.high:.4g}")
            table.add_row(Text(point.label), point.channel, str(point.trials), *cells, point.state)
        console.print(table)
    for flight in found.flights:
        where = f"process {flight['pid']}" if flight["here"] else f"process {flight['pid']} on {flight['host']}"
        share = "" if flight["shard"] == [1, 1] else f", share {flight['shard'][0]} of {flight['shard'][1]}"
        click.echo(f"at work: {where}{share}, last heard of {flight['age']:.0f} s ago")
    if not found.complete:
        click.echo(f"not complete: robustkit sweep --out {folder} goes on")
    else:
        click.echo("complete but for what failed" if any(codec.failed for codec in found.codecs) else "complete")
