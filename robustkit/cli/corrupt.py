"""``robustkit corrupt``: a file through a channel."""

from __future__ import annotations

import click

from robustkit.cli import shared


@click.command(
    "corrupt",
    epilog="""\b
Examples:
  robustkit corrupt --channel bsc --ber 1e-3 --seed 7 photo.jpg hit.jpg
  robustkit corrupt --channel "gilbert-elliott(ber=1e-3, burst=16)" photo.jpg hit.jpg
  robustkit corrupt --channel truncation --keep 0.5 photo.jpg cut.jpg
  robustkit corrupt --channel header-burst --length 32 --codec jpeg photo.jpg hit.jpg
  robustkit corrupt --channel "bsc(ber=1e-4)" photo.jpg - | robustkit decode --codec jpeg - hit.png
""",
)
@click.option("--channel", "text", required=True, metavar="CHANNEL",
              help="bsc, gilbert-elliott, burst, truncation, byte-erasure, header-bsc, payload-burst, ...; "
              "alone, or with its parameters in parentheses.")  # fmt: skip
@click.option("--ber", metavar="P", help="Bit error rate, 0 to 1.")
@click.option("--burst", metavar="BITS", help="Mean burst length of gilbert-elliott.")
@click.option("--length", metavar="BITS", help="Length of a burst.")
@click.option("--keep", metavar="SHARE", help="Least share of the bytes that a truncation leaves.")
@click.option("--rate", metavar="P", help="Share of the bytes that are erased.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other damage.")
@click.option("--codec", metavar="NAME", help="Whose stream it is: header- and payload- channels need its layout.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="A setting of that codec; repeatable.")
@shared.source_argument
@shared.target_argument
def command(
    text: str, seed: int, codec: str | None, settings: tuple[str, ...], source: str, target: str, **given: str | None
) -> None:
    """Send the file IN through a channel: OUT is what arrives.

    The same channel, seed and length give the same damage, on any machine. - is standard input or output.
    """
    from robustkit import channels
    from robustkit.isolation import WorkerError
    from robustkit.minimise import describe

    parameters = {key: value for key, value in given.items() if value is not None}
    if parameters and "(" in text:
        raise click.UsageError(f"--channel {text} brings its parameters: leave --{next(iter(parameters))} out")
    if "(" not in text:
        text = f"{text}({', '.join(f'{key}={value}' for key, value in parameters.items())})"
    try:
        channel = channels.parse(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    region = getattr(channel, "region", None)
    if codec is None and (region is not None or settings):
        wants = f"{channel} needs the stream's layout" if region is not None else "--set goes with --codec"
        raise click.UsageError(f"{wants}: name the codec with --codec NAME")
    bitstream, named = shared.read(source), shared.source_name(source)
    layout = None
    if codec is not None:
        with shared.workers(codec, settings) as workers:
            try:
                layout = workers.layout(bitstream)
            except WorkerError as error:
                raise click.ClickException(f"{named}: {error}") from error
        if region is not None and not len(layout.bits_of(header=region == "header")):
            there = f"{codec} finds no {region} in it" if bitstream else f"it is empty and has no {region}"
            raise click.ClickException(f"{named}: {there}, so {channel} can't hit it; --channel {channel.kind} can")
    try:
        pattern = channel.draw(8 * len(bitstream), layout, codec="", image="", trial=0, seed=seed)
    except ValueError as error:
        raise click.ClickException(f"{named}: {error}") from error
    damaged = pattern.apply(bitstream)
    shared.write(target, damaged)
    parts = [f"{len(pattern.flips)} of {pattern.bits} bits flipped"]
    if len(damaged) < len(bitstream):
        parts.append(f"{len(bitstream) - len(damaged)} of {len(bitstream)} bytes cut off")
    click.echo(f"{shared.target_name(target)}: {channel}, seed {seed}: {', '.join(parts)}", err=True)
    if layout is not None:
        for line in describe(pattern, layout):
            click.echo(f"  {line}", err=True)
