"""``robustkit match-rate``: for each image the setting of a codec that comes closest to a rate."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustkit.cli import shared
from robustkit.cli.measure import CORES
from robustkit.errors import RobustkitError
from robustkit.experiments import TOLERANCE
from robustkit.registry import CodecUnavailable, DuplicateCodec, UnknownCodec, registry
from robustkit.spelling import SpellingError, settings, toml_value

if TYPE_CHECKING:
    from robustkit.experiments.matchrate import Matched


@click.command(
    "match-rate",
    epilog="""\b
Examples:
  robustkit match-rate --target-bpp jpeg=1.0,bpg=0.5 --images kodak24 --crop 512 --out rates.csv
  robustkit match-rate --target-bpp "jpeg+rs(255,223)=1.0" --set check_size=false --out rates.toml
  robustkit match-rate --target-bpp codec.toml=0.5 --knob quality=1:9
""",
)
@click.option("--target-bpp", "wanted", metavar="CODEC=BPP,...", required=True,
              help="Rate of each codec, bits per pixel.")  # fmt: skip
@click.option("--set", "pairs", metavar="[CODEC:]KEY=VALUE", multiple=True,
              help="A setting of the codecs, or of one, the value as TOML writes it; repeatable.")  # fmt: skip
@click.option("--knob", metavar="NAME=LOW:HIGH",
              help="The setting that decides the rate, and its values of the lowest and the highest.  "
              "[default: quality, or bpp]")  # fmt: skip
@click.option("--search", type=click.Choice(["bisection", "secant"]),
              help="bisection tries whole values, as published; secant tries few.  "
              "[default: bisection for classical codecs]")  # fmt: skip
@shared.image_options
@click.option("--workers", type=click.IntRange(min=1), default=CORES, show_default="one a core", metavar="N",
              help="Encoding processes.")  # fmt: skip
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), default=3600.0, show_default=True,
              metavar="SECONDS", help="For all encodes of one image.")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Store the table, as .toml or .csv.")  # fmt: skip
def command(
    wanted: str,
    pairs: tuple[str, ...],
    knob: str | None,
    search: str | None,
    images: str,
    crop: int | None,
    allow_downloads: bool,
    workers: int,
    time_limit: float,
    out: Path | None,
) -> None:
    """Search, for each image on its own, the setting of a codec that comes closest to a rate.

    The table says how far apart rates are, and images that are further than 5% from the wanted rate are named: whole
    settings have gaps. Exit status 1 says that a codec's mean rate is further away than that, or that something failed.
    """
    from robustkit.experiments import matchrate
    from robustkit.isolation import Limits

    if out is not None and out.suffix not in (".toml", ".csv"):
        raise click.UsageError(f"--out {out}: give a .toml or a .csv file")
    try:
        rates = matchrate.targets(wanted)
        chosen = settings(pairs, rates)
        specs = {name: registry.get(name).spec(**chosen[name]) for name in rates}
        ends = None if knob is None else _knob(knob)
    except (matchrate.MatchError, SpellingError, UnknownCodec) as error:
        raise click.UsageError(str(error.args[0])) from error
    except DuplicateCodec as error:
        raise click.ClickException(str(error)) from error
    found = shared.images(images, crop=crop, allow_downloads=allow_downloads)
    rows: list[Matched] = []
    with tempfile.TemporaryDirectory(prefix="robustkit-") as directory, shared.progress("matching rates") as tell:
        for name, spec in specs.items():
            try:
                rows += matchrate.match(
                    spec,
                    found,
                    rates[name],
                    directory=directory,
                    knob=ends,
                    search=search,  # type: ignore[arg-type]
                    workers=min(workers, len(found)),
                    limits=Limits(seconds=time_limit),
                    tell=lambda row: tell(f"{row.codec}, {row.image}: {row.bpp:.4f} bpp"),
                )
            except CodecUnavailable as error:
                raise click.ClickException(str(error)) from error
            except (RobustkitError, OSError) as error:
                raise click.ClickException(str(error)) from error
    _show(rows)
    if out is not None:
        try:
            matchrate.write(rows, out)
        except matchrate.MatchError as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"{len(rows)} settings written to {out}")
    if any(abs(rate / rates[codec] - 1) > TOLERANCE for codec, rate in matchrate.mean_rates(rows).items()):
        sys.exit(1)


def _knob(text: str) -> tuple[str, float, float]:
    name, _, ends = text.partition("=")
    low, _, high = ends.partition(":")
    values = [toml_value(low), toml_value(high)]
    if not name.isidentifier() or any(not isinstance(v, int | float) or isinstance(v, bool) for v in values):
        raise SpellingError(f"--knob {text}: write NAME=LOW:HIGH, such as quality=1:100")
    return name, values[0], values[1]


def _show(rows: Sequence[Matched]) -> None:
    from rich.console import Console
    from rich.table import Table

    from robustkit.experiments.matchrate import mean_rates, said

    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    table = Table("codec", "image", "setting", "bytes", "bpp", "wanted", "off", "encodes")
    for row in rows:
        table.add_row(
            row.codec,
            row.image,
            f"{row.knob}={row.value:g}",
            str(row.bytes),
            f"{row.bpp:.4f}",
            f"{row.target_bpp:g}",
            f"{100 * row.off:+.1f}%",
            str(row.encodes),
        )
    console.print(table)
    for codec, rate in mean_rates(rows).items():
        own = [row for row in rows if row.codec == codec]
        worst = max(own, key=lambda row: abs(row.off))
        console.print(
            f"{codec}: {rate:.4f} bpp in the mean of {len(own)}, wanted {worst.target_bpp:g}; "
            f"furthest {100 * worst.off:+.1f}% ({worst.image})"
        )
    if len(mean_rates(rows)) > 1:
        console.print(said(mean_rates(rows)))
    far = [row for row in rows if abs(row.off) > TOLERANCE]
    if far:
        named = ", ".join(f"{row.codec} of {row.image}" for row in far[:3]) + (" ..." if len(far) > 3 else "")
        click.echo(f"further than {100 * TOLERANCE:g}% from the wanted rate: {named}", err=True)
