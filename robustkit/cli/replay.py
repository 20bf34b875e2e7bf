"""``robustkit replay``: a stored failing stream, or a folder of them, decoded again."""

from __future__ import annotations

import collections
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustkit.cli.shared import progress, spec_of
from robustkit.registry import CodecSpec, CodecUnavailable
from robustkit.spelling import printable

if TYPE_CHECKING:
    from robustkit.judging.replay import Replay

#: Characters of a message that a line of a folder's list has.
_SHOWN = 160
_CANT = "can't run"
_SOUND = "no failure"


@click.command(
    "replay",
    epilog="""\b
Examples:
  robustkit replay robustkit-report/replay/jpeg/decode-survives-header-flips.replay.json
  robustkit replay robustkit-report/replay
\b
Exit status of a folder:
  0  every stored failure is fixed
  1  at least one comes again, or another in its place
  3  none comes again, but some can't run, or their outcome can't tell
  5  nothing is stored there
""",
)
@click.option("--codec", metavar="NAME", help="Decode with this codec; none that a file names is imported.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="A setting of that codec; repeatable.")
@click.argument("place", metavar="FILE|DIR", type=click.Path(exists=True, path_type=Path))
def command(place: Path, codec: str | None, settings: tuple[str, ...]) -> None:
    """Decode a stored failing stream again, as the conformance suite did; or all in a folder and below it.

    FILE ends in .replay.json; the suite writes it and names it in the last line of each failure. Exit status 0 when
    the same outcome comes again, 1 when another does. Of a folder each is called fixed, failed, or said to be
    impossible to run here. The codec that a file names is imported: replay only files whose code you would run, or
    name the codec yourself.
    """
    if settings and codec is None:
        raise click.UsageError("--set needs --codec")
    spec = None if codec is None else spec_of(codec, settings)
    if place.is_dir():
        sys.exit(_folder(place, spec))
    _file(place, spec)


def _file(file: Path, spec: CodecSpec | None) -> None:
    from robustkit.judging.replay import ReplayError, load_replay, run_replay

    try:
        stored = _with(load_replay(file), spec)
    except ReplayError as error:
        raise click.ClickException(printable(str(error))) from error
    settings = " ".join(f"{key}={value}" for key, value in stored.spec.settings.items())
    click.echo(printable(f"codec:  {stored.spec.name} {settings}".rstrip()))
    if stored.claim:
        click.echo(f"claim:  {stored.claim}")
    click.echo(f"stream: {len(stored.bitstream)} bytes")
    for line in stored.regions:
        click.echo(printable(f"  {line}"))
    click.echo(f"then:   {stored.outcome}{_after_colon(stored.message)}")
    try:
        with progress(f"decoding with {printable(stored.spec.name)}"):
            now = run_replay(stored)
    except CodecUnavailable as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"now:    {now.outcome}{_after_colon(now.message)}")
    if not now.same:
        click.echo(f"The outcome is another one: {stored.outcome} then, {now.outcome} now.", err=True)
        sys.exit(1)


def _folder(folder: Path, spec: CodecSpec | None) -> int:
    """Replay all in a folder, a line each; the exit status."""
    from robustkit.judging.replay import ReplayError, Shown, load_replay, run_replay, shown, stored_in

    try:
        files = stored_in(folder)
    except ReplayError as error:
        raise click.ClickException(printable(str(error))) from error
    if not files:
        click.echo(f"{printable(str(folder))} has no replay files: nothing was replayed", err=True)
        return 5
    counts: collections.Counter[str] = collections.Counter()
    with progress("decoding") as tell:
        for number, file in enumerate(files):
            name = str(file.relative_to(folder))
            tell(f"decoding {number + 1} of {len(files)}: {printable(name, lines=False)}")
            try:
                stored = _with(load_replay(file), spec)
                now = run_replay(stored)
            except (ReplayError, CodecUnavailable) as error:
                _line(_CANT, name, str(error))
                counts[_CANT] += 1
                continue
            found: str = shown(stored.outcome, now.outcome)
            if found is not Shown.FAILED and not stored.claim and not stored.outcome.failure:
                # A picture of the report's page: it fails no claim, so there is nothing to be fixed.
                found = _SOUND
            counts[found] += 1
            said = f"{stored.outcome} then, {now.outcome} now" + _after_colon(now.message)
            _line(found, name, said)
    named = ", ".join(f"{counts[kind]} {kind}" for kind in (*Shown, _CANT, _SOUND) if counts[kind])
    click.echo(f"{len(files)} stored stream{'s' if len(files) > 1 else ''}: {named}")
    if counts[Shown.FAILED]:
        return 1
    return 0 if counts[Shown.FIXED] + counts[_SOUND] == len(files) else 3


def _with(stored: Replay, spec: CodecSpec | None) -> Replay:
    return stored if spec is None else replace(stored, spec=spec, sys_path=())


def _line(word: str, name: str, said: str) -> None:
    first = said.strip().partition("\n")[0]
    cut = first if len(first) <= _SHOWN else f"{first[:_SHOWN]}..."
    click.echo(printable(f"{word:<10}  {name}: {cut}", lines=False))


def _after_colon(message: str) -> str:
    return f": {printable(message)}" if message else ""
