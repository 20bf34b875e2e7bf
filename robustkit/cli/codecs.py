"""``robustkit codecs``: which codecs there are, and what each needs to run here."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Iterable
from typing import Any

import click

from robustkit.cli.shared import progress
from robustkit.registry import CodecUnavailable, DuplicateCodec, Entry, registry


@click.command(
    "codecs",
    epilog="""\b
Examples:
  robustkit codecs
  robustkit codecs --json | jq -r '.[] | select(.available) | .name'
""",
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
@click.option("--markdown", is_flag=True, help="robustkit's own codecs, and what each needs, as its docs list them.")
def command(as_json: bool, markdown: bool) -> None:
    """List the codecs that are registered, and what to install where one can't run here.

    Columns: name, family, who registered it (origin), the rate its profile declares in bits per pixel (bpp), and
    whether it runs here (available). Where it doesn't, a line below the table says why (reason). Further lines say
    what codecs after a paper do otherwise than their paper (differs).
    """
    try:
        entries = list(registry)
    except DuplicateCodec as error:
        raise click.ClickException(str(error)) from error
    if markdown:
        click.echo(_markdown(entry for entry in entries if entry.origin == "robustkit"))
        return
    with progress("loading codecs") as tell, tempfile.TemporaryDirectory(prefix="robustkit-") as directory:
        rows = []
        for entry in entries:
            tell(f"loading {entry.name}")
            rows.append(_row(entry, directory))
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("name", "family", "origin", "bpp", "available"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        bpp = "" if row["bpp"] is None else f"{row['bpp']:g}"
        cells = (row["name"], row["family"] or "", row["origin"], bpp, "yes" if row["available"] else "no")
        # Text, because a name may hold brackets that rich would read as markup.
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)
    for row in rows:
        if row["reason"] is not None:
            reason = row["reason"].partition(chr(10))[0].removeprefix(f"codec {row['name']!r} can't run here: ")
            click.echo(f"{row['name']}: {reason}")
    for row in rows:
        if row["differs"] is not None:
            click.echo(f"{row['name']}: {row['differs'].replace('``', '`')}")


def _markdown(entries: Iterable[Entry]) -> str:
    """A table of codecs, from what their classes say of themselves; none is built."""
    lines = ["| name | family | what it is | needs |", "|---|---|---|---|"]
    for entry in entries:
        try:
            found = entry.spec().resolve()
        except CodecUnavailable as error:
            raise click.ClickException(
                f"{error}; --markdown needs what all codecs of robustkit import: pip install 'robustkit[all]'"
            ) from error
        parts = (_paragraphs(found)[0], _differs(found))
        summary = ". ".join(part.replace("``", "`").rstrip(".") for part in parts if part)
        lines.append(f"| `{entry.name}` | {found.family} | {summary} | {found.needs} |")
    return "\n".join(lines)


def _paragraphs(found: Any) -> list[str]:
    """Those of a class's docstring, each on one line; at least one."""
    return [paragraph.replace("\n", " ") for paragraph in (inspect.getdoc(found) or "").split("\n\n")]


def _differs(found: Any) -> str | None:
    """What a codec does otherwise than its paper, as the class's docstring says, or ``None``."""
    return next((said for said in _paragraphs(found) if said.startswith("Unlike its paper's")), None)


def _row(entry: Entry, directory: str) -> dict[str, Any]:
    from robustkit.isolation import CodecWorkers

    row: dict[str, Any] = {"name": entry.name, "family": None, "origin": entry.origin, "bpp": None, "differs": None}
    try:
        if entry.origin == "robustkit":
            # Here, so that two dozen codecs share one import of torch.
            spec = entry.spec()
            found = spec.resolve()
            row["family"], row["differs"] = found.family, _differs(found)
            codec = spec.load()
            row["bpp"] = None if codec.profile is None else codec.profile.bpp
            return {**row, "available": True, "reason": None}
        # In a worker, because importing somebody's broken codec may print, exit, hang, or crash.
        with CodecWorkers(entry.spec(), directory=directory) as workers:
            profile = workers.profile()
            row["family"] = workers.attributes.family
            row["bpp"] = None if profile is None else profile.bpp
    except CodecUnavailable as error:
        return {**row, "available": False, "reason": str(error)}
    return {**row, "available": True, "reason": None}
