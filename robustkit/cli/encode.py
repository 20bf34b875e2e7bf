"""``robustkit encode``: an image file to a bitstream."""

from __future__ import annotations

from pathlib import Path

import click

from robustkit.cli import shared
from robustkit.codec import EncodeError


@click.command(
    "encode",
    epilog="""\b
Examples:
  robustkit encode --codec jpeg photo.png photo.jpg
  robustkit encode --codec jpeg --set bpp=1.0 --set subsampling=4:4:4 photo.png photo.jpg
  robustkit encode --codec my_package.my_module:MyCodec photo.png photo.bin
  robustkit encode --codec turbo-ddcm --weights faces.png photo.png photo.bin
  robustkit encode --codec jpeg photo.png - | robustkit corrupt --channel "bsc(ber=1e-3)" - hit.jpg
""",
)
@shared.codec_options
@click.option(
    "--weights",
    metavar="MAP",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A grey image of IN's size, the brighter the more important: where quality goes first. For turbo-ddcm, "
    "robust-turbo-ddcm, robust-turbo-ddcm-uep and ddcm; decoding needs no map.",
)
@shared.source_argument
@shared.target_argument
def command(
    codec: str, settings: tuple[str, ...], time_limit: float, weights: Path | None, source: str, target: str
) -> None:
    """Compress the image file IN to the bitstream OUT.

    IN is anything that Pillow reads. Grey and palette images become RGB, with a note; 16-bit, transparent and CMYK
    images are refused with a hint, because their conversion is yours to choose. - is standard input or output.
    """
    from robustkit.images import ImageError, read, read_grey
    from robustkit.isolation import WorkerError

    named = shared.source_name(source)
    data = shared.read(source)
    try:
        image = read(named, data=data, note=lambda text: click.echo(text, err=True))
        importance = None if weights is None else read_grey(weights)
    except ImageError as error:
        raise click.ClickException(str(error)) from error
    with shared.progress(f"encoding with {codec}"), shared.workers(codec, settings, seconds=time_limit) as workers:
        try:
            bitstream = workers.encode(image, importance)
        except EncodeError as error:
            raise click.ClickException(f"{codec} refuses {named}: {error}") from error
        except WorkerError as error:
            raise click.ClickException(f"{named}: {error}") from error
    shared.write(target, bitstream)
    height, width = image.shape[:2]
    click.echo(
        f"{shared.target_name(target)}: {len(bitstream)} bytes for {width}x{height}, "
        f"{8 * len(bitstream) / (height * width):.4f} bpp",
        err=True,
    )
