"""``robustkit merge``: folders of one experiment made into one."""

from __future__ import annotations

from pathlib import Path

import click

from robustkit.cli import shared
from robustkit.errors import RobustkitError


@click.command(
    "merge",
    epilog="""\b
Examples:
  robustkit merge share-1/ share-2/ --out results/
  robustkit merge results/ --out compact/          (all rows in one file)
""",
)
@click.argument("folders", metavar="DIR...", nargs=-1, required=True,
                type=click.Path(exists=True, file_okay=False, path_type=Path))  # fmt: skip
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="The new folder.")  # fmt: skip
def command(folders: tuple[Path, ...], out: Path) -> None:
    """Put the rows of several sweeps of one experiment into one folder.

    Rows that several have are taken once. Where they differ in anything but time and memory, the codec or a metric is
    not deterministic, which is an error. The same rows give the same bytes of rows.parquet.
    """
    shared.needs("pyarrow")
    from robustkit.experiments.merge import merge

    try:
        found = merge(folders, out)
    except RobustkitError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{found.num_rows} rows in {out}")
