"""``robustkit figures``: the figures and tables of an experiment's folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from robustkit import spelling
from robustkit.cli import shared
from robustkit.errors import RobustkitError
from robustkit.experiments import TOLERANCE


class Remembering(click.Command):
    """Keeps the words that it was called with, for what it makes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["robustkit.command"] = shlex.join(["robustkit", str(self.name), *args])
        return super().parse_args(ctx, args)


@click.command(
    "figures",
    cls=Remembering,
    epilog="""\b
Examples:
  robustkit figures results
  robustkit figures results --entry jpeg --entry robust-turbo-ddcm --format pdf --width column
  robustkit figures results --compare published
""",
)
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
              help="Where to.  [default: figures in DIR]")  # fmt: skip
@click.option("--entry", "entries", metavar="NAME", multiple=True,
              help="Codecs, in the order of figures and tables; repeatable.  [default: all]")  # fmt: skip
@click.option("--metric", "metrics", metavar="NAME", multiple=True,
              help="Repeatable.  [default: psnr, and the perceptual metric of the rows]")  # fmt: skip
@click.option("--format", "formats", metavar="LIST", default="png,svg,pdf", show_default=True, help="Of figures.")
@click.option("--width", type=click.Choice(["column", "page"]), default="page", show_default=True,
              help="Of figures: a paper's column, 3.4 inches, or its page, 7.")  # fmt: skip
@click.option("--dpi", type=click.IntRange(50, 1200), default=300, show_default=True, help="Dots per inch, of PNG.")
@click.option("--without-image", "convention", type=click.Choice(["left-out", "grey"]), default="left-out",
              show_default=True, help="What figures do with trials without an image.")  # fmt: skip
@click.option("--anchor", metavar="NAME", help="Whom all others are compared with.  [default: the first]")
@click.option("--bpp", "budgets", metavar="BPP", type=click.FloatRange(min=0, min_open=True), multiple=True,
              help="Total rates of the envelope; repeatable.  [default: those that two codecs have]")  # fmt: skip
@click.option("--rate-tolerance", "tolerance", metavar="SHARE", type=click.FloatRange(0, 1), default=TOLERANCE,
              show_default=True, help="Rates further apart than this are not called matched.")  # fmt: skip
@click.option("--compare", "compare", type=click.Choice(["published"]),
              help="Set the published values beside the measured ones.")  # fmt: skip
@click.option("--published-set", "which", type=click.Choice(["kodak24", "div2k"]),
              help="Whose values.  [default: that of as many images, or kodak24]")  # fmt: skip
@click.option("--image", "images", metavar="NAME", multiple=True,
              help="Whose reconstructions are shown; repeatable.  [default: the first two that were kept]")  # fmt: skip
@click.pass_context
def command(ctx: click.Context, /, directory: Path, out: Path | None, **options: Any) -> None:
    """Draw the figures and tables of DIR, a folder of `robustkit sweep`.

    Quality, shares without an image, rates, bursts and the best codec for a rate, each as PNG, SVG and PDF with a CSV
    beside it; tables as Markdown, LaTeX and CSV; and a page with all of them, figures.md. The files say by which
    command, of which rows and with which versions they were made; the same rows give the same files.
    """
    shared.needs("pyarrow", "matplotlib", "bjontegaard")
    from robustkit.experiments import drawing, figures, rates

    compare, which, dpi = options.pop("compare"), options.pop("which"), options.pop("dpi")
    try:
        formats = spelling.names(options.pop("formats"))
    except spelling.SpellingError as error:
        raise click.UsageError(str(error)) from error
    if unknown := [kind for kind in formats if kind not in drawing.FORMATS]:
        raise click.UsageError(f"--format {unknown[0]}: {spelling.nearest(unknown[0], drawing.FORMATS)}")
    wish = figures.Wish(formats=formats, beside=(which or "") if compare else None, **options)
    folder = out if out is not None else directory / "figures"
    try:
        results = figures.read(directory, wish.entries, note=lambda line: click.echo(line, err=True))
        with shared.progress("drawing") as tell:
            drawn, tables = figures.draw(results, wish, directory)
            about = drawing.about(results, ctx.meta["robustkit.command"])
            files = figures.write(drawn, tables, folder, about, formats, dpi=dpi, progress=tell)
    except RobustkitError as error:
        raise click.ClickException(str(error)) from error
    click.echo(str(rates.rates(results, tolerance=wish.tolerance)))
    click.echo(f"{len(drawn)} figures and {len(tables)} tables, {len(files)} files in {spelling.place(folder)}")
    click.echo(f"See {spelling.place(folder / figures.PAGE)}")
