"""``robustkit exchange``: streams carried between two machines, and what each makes of the other's."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustkit.cli import shared
from robustkit.spelling import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from robustkit.codec import Image
    from robustkit.isolation import CodecWorkers
    from robustkit.judging.crossplatform import Difference
    from robustkit.judging.exchange import Carried, Exchange, Made
    from robustkit.registry import CodecSpec

#: Of the default photographs.
COUNT = 2
CROP = 128
#: The row of the process that wrote the streams.
REFERENCE = "as it is"


@click.group("exchange")
def command() -> None:
    """Show whether another machine decodes the same pixels.

    `make` encodes images here and decodes them with other instructions, without oneDNN, with one thread and two, and on
    a GPU where there is one. `check` decodes the same streams on another machine, and prints who agrees with whom.
    """


@command.command(
    "make",
    epilog="""\b
Examples:
  robustkit exchange make exchange --codec hyperprior-small
  robustkit exchange make exchange --codec my_codec:MyCodec --images photos --crop 256
""",
)
@shared.codec_options
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER",
              help="Images of your own; two of scikit-image's photographs if not given.")  # fmt: skip
@click.option("--crop", type=click.IntRange(min=1), metavar="N",
              help=f"Their middle NxN pixels; of photographs {CROP} if not given.")  # fmt: skip
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def make(
    codec: str, settings: tuple[str, ...], time_limit: float, images: Path | None, crop: int | None, folder: Path
) -> None:
    """Encode images and write streams and decodes into the folder DIR, to be carried to another machine.

    The table shows how far this machine's own ways to compute lie apart. Exit status 1 if one is desynchronised.
    """
    from robustkit.codec import EncodeError
    from robustkit.isolation import WorkerError
    from robustkit.judging import exchange

    spec = shared.spec_of(codec, settings)
    pictures = _pictures(images, crop)
    with shared.progress(f"encoding with {codec}") as tell:
        with shared.workers(codec, settings, seconds=time_limit) as workers:
            streams = []
            for name, picture in pictures.items():
                try:
                    stream = workers.encode(picture)
                except (EncodeError, WorkerError) as error:
                    raise click.ClickException(f"{name}: {error}") from error
                streams.append(exchange.Carried(name, (picture.shape[0], picture.shape[1]), stream))
            decoded = [workers.decode(s.stream, shape=s.shape) for s in streams]
            for carried, found in zip(streams, decoded, strict=True):
                if found.image is None:
                    raise click.ClickException(f"{carried.image}: {found.outcome}: {found.message}")
            attributes, facts = workers.attributes, workers.describe()
        here = exchange.made(REFERENCE, decoded)
        made = [here, *_everywhere(spec, attributes.device, streams, time_limit, tell)]
    bundle = exchange.Exchange(
        attributes.name,
        _without_device(spec),
        attributes.sources,
        facts,
        attributes.tolerance,
        tuple(streams),
        tuple(made),
    )
    try:
        exchange.write(folder, bundle)
    except exchange.ExchangeError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{folder}: {len(streams)} streams of {attributes.name}; facts: {_facts(facts)}")
    if _show([here], made, bundle.tolerance):
        sys.exit(1)


@command.command(
    "check",
    epilog="""\b
Examples:
  robustkit exchange check exchange --codec hyperprior-small
""",
)
@shared.codec_options
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
def check(codec: str, settings: tuple[str, ...], time_limit: float, folder: Path) -> None:
    """Decode the streams in DIR, which another machine made, and print who agrees with whom.

    --codec and --set are those of `make`: which code runs is said here, not by DIR. Exit status 1 if a way to compute
    here is desynchronised with the machine that wrote the streams.
    """
    from robustkit.judging import exchange

    spec = shared.spec_of(codec, settings)
    try:
        bundle = exchange.read(folder)
    except exchange.ExchangeError as error:
        raise click.ClickException(str(error)) from error
    with shared.progress(f"decoding with {codec}") as tell:
        with shared.workers(codec, settings, seconds=time_limit) as workers:
            attributes, facts = workers.attributes, workers.describe()
            _same_codec(bundle, attributes.name, _without_device(spec))
            decoded = [workers.decode(s.stream, shape=s.shape) for s in bundle.streams]
        made = [exchange.made(REFERENCE, decoded)]
        made += _everywhere(spec, attributes.device, bundle.streams, time_limit, tell)
    click.echo(f"there: {printable(_facts(bundle.facts), lines=False)}")
    click.echo(f"here:  {_facts(facts)}")
    if attributes.sources != bundle.sources:
        click.echo("The codec's source files there were others than here.")
    if _show(bundle.made, made, bundle.tolerance):
        sys.exit(1)


def _pictures(images: Path | None, crop: int | None) -> dict[str, Image]:
    from robustkit.images import ImageError, from_folder, photographs

    try:
        if images is not None:
            return from_folder(images, crop=crop)
        return dict(list(photographs(CROP if crop is None else crop).items())[:COUNT])
    except ImageError as error:
        raise click.UsageError(str(error)) from error


def _everywhere(
    spec: CodecSpec, device: str, streams: Sequence[Carried], seconds: float, tell: Callable[[str], None]
) -> Iterator[Made]:
    """What the other ways to compute here make of the streams."""
    from robustkit.isolation import ARITHMETIC, CodecWorkers, Limits
    from robustkit.judging import crossplatform, exchange

    with tempfile.TemporaryDirectory(prefix="robustkit-") as directory:
        opened: list[CodecWorkers] = []

        def open_in(place: str) -> CodecWorkers:
            tell(f"decoding: {place}")
            pool = CodecWorkers(
                crossplatform.on_device(spec, "cuda" if place == "cuda" else "cpu"),
                limits=Limits(seconds=seconds),
                directory=directory,
                environment={} if place == "cuda" else crossplatform.variables(place),
                hook=ARITHMETIC,
            )
            opened.append(pool)
            return pool

        try:
            pairs = [(carried.stream, carried.shape) for carried in streams]
            for arithmetic, found in crossplatform.matrix(crossplatform.places(device), open_in, pairs):
                yield exchange.made(arithmetic, found)
        finally:
            for pool in opened:
                pool.close()


def _same_codec(bundle: Exchange, name: str, settings: dict[str, object]) -> None:
    """Refuse a folder of another codec's streams."""
    if bundle.codec != name:
        raise click.UsageError(f"these are streams of {printable(bundle.codec, lines=False)!r}, not of {name!r}")
    # As JSON has them: a tuple came back as a list.
    here = json.loads(json.dumps(settings, default=os.fspath))
    for key in sorted({*bundle.settings, *here}):
        there = bundle.settings.get(key, "the default")
        if there != here.get(key, "the default"):
            shown = printable(f"{key} = {there!r:.99}", lines=False)
            raise click.UsageError(f"the streams were written with {shown}: give --set as `make` had it")


def _without_device(spec: CodecSpec) -> dict[str, object]:
    return {name: value for name, value in spec.settings.items() if name != "device"}


def _facts(facts: Mapping[str, str]) -> str:
    return "; ".join(f"{key} {value}" for key, value in facts.items())


def _cell(difference: Difference) -> str:
    """How far two decodes lie apart, at worst and on average in grey levels."""
    from robustkit.judging.crossplatform import Match

    if difference.match is Match.SAME:
        return "same"
    if difference.said:
        return f"{difference.match}: {printable(difference.said, lines=False).partition(':')[0]}"
    lost = f"{difference.match} " if difference.match is Match.DESYNCHRONISED else ""
    return f"{lost}{difference.maximum:g}/{difference.mean:.2g}"


def _show(there: Sequence[Made], here: Sequence[Made], tolerance: tuple[float, float]) -> bool:
    """Print the device matrix: a row for each way to compute here, a column for each result there.

    Returns whether a way here is desynchronised with the process that wrote the streams, which comes first there.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from robustkit.judging.crossplatform import Match
    from robustkit.judging.exchange import alike, worst

    groups = alike(there)
    table = Table(box=None, pad_edge=False)
    table.add_column("decoded")
    single = len(groups) == 1
    for number in range(len(groups)):
        table.add_column("against the encoder's own decode" if single else f"against {number + 1}")
    beyond = False
    for one in here:
        found = [worst(group[0], one, tolerance) for group in groups]
        beyond = beyond or found[0].match is Match.DESYNCHRONISED
        styles = {Match.DESYNCHRONISED: "red", Match.UNDECIDED: "yellow"}
        cells = [Text(_cell(d), style=styles.get(d.match, "")) for d in found]
        table.add_row(Text(one.arithmetic), *cells)
    Console().print(table)
    if not single:
        for number, group in enumerate(groups, start=1):
            names = "; ".join(one.arithmetic for one in group)
            click.echo(f"{number}: {printable(names, lines=False)}")
    return beyond
