"""``robustkit export``: the rows of an experiment as CSV."""

from __future__ import annotations

from pathlib import Path

import click

from robustkit.cli import shared
from robustkit.errors import RobustkitError


@click.command(
    "export",
    epilog="""\b
Examples:
  robustkit export results/ --csv rows.csv
  robustkit export results/ --csv - | head
""",
)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--csv", "target", required=True, metavar="FILE", help="Where to; - is standard output.")
def command(folder: Path, target: str) -> None:
    """Write the rows of the experiment in DIR as CSV, one a trial, in a fixed order. What has no value is empty."""
    shared.needs("pyarrow")
    from robustkit.experiments import store
    from robustkit.experiments.merge import to_csv

    try:
        data = to_csv(store.read(folder))
    except RobustkitError as error:
        raise click.ClickException(str(error)) from error
    shared.write(target, data)
