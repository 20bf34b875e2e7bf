"""``robustkit replay``: a stored failing stream, decoded again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from robustkit.cli.shared import progress
from robustkit.registry import CodecUnavailable


@click.command(
    "replay",
    epilog="""\b
Examples:
  robustkit replay robustkit-report/replay/jpeg/decode-survives-header-flips.replay.json
""",
)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def command(file: Path) -> None:
    """Decode a stored failing stream again, as the conformance suite did.

    FILE ends in .replay.json; the suite writes it and names it in the last line of each failure. Exit status 0 when
    the same outcome comes again, 1 when another does. The codec that FILE names is imported: replay only files whose
    code you would run.
    """
    from robustkit.judging.replay import ReplayError, load_replay, run_replay

    try:
        stored = load_replay(file)
    except ReplayError as error:
        raise click.ClickException(str(error)) from error
    settings = " ".join(f"{key}={value}" for key, value in stored.spec.settings.items())
    click.echo(f"codec:  {stored.spec.name} {settings}".rstrip())
    if stored.claim:
        click.echo(f"claim:  {stored.claim}")
    click.echo(f"stream: {len(stored.bitstream)} bytes")
    for line in stored.regions:
        click.echo(f"  {line}")
    click.echo(f"then:   {stored.outcome}{_after_colon(stored.message)}")
    try:
        with progress(f"decoding with {stored.spec.name}"):
            now = run_replay(stored)
    except CodecUnavailable as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"now:    {now.outcome}{_after_colon(now.message)}")
    if not now.same:
        click.echo(f"The outcome is another one: {stored.outcome} then, {now.outcome} now.", err=True)
        sys.exit(1)


def _after_colon(message: str) -> str:
    return f": {message}" if message else ""
