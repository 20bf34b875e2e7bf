"""``robustkit decode``: a bitstream, which may be damaged, to an image file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import click

from robustkit.cli import shared


@click.command(
    "decode",
    epilog="""\b
Examples:
  robustkit decode --codec jpeg photo.jpg photo.png
  robustkit decode --codec jpeg --set truncated=tolerate --set check_size=false foreign.jpg out.png
  robustkit decode --codec my_package.my_module:MyCodec --time-limit 5 hit.bin hit.png
  robustkit corrupt --channel "bsc(ber=1e-4)" photo.jpg - | robustkit decode --codec jpeg - hit.png
""",
)
@shared.codec_options
@shared.source_argument
@shared.target_argument
def command(codec: str, settings: tuple[str, ...], time_limit: float, source: str, target: str) -> None:
    """Decode the bitstream IN, which may be damaged, to the image file OUT.

    OUT's ending gives its format; PNG keeps every pixel. Decoding runs in a worker process, so a decoder that
    crashes or hangs ends in a message. - is standard input or output, an image there is a PNG.
    """
    from PIL import Image as PillowImage

    written_as = _format(target)
    bitstream = shared.read(source)
    with shared.progress(f"decoding with {codec}"), shared.workers(codec, settings, seconds=time_limit) as workers:
        decoded = workers.decode(bitstream)
    for warning in decoded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if decoded.image is None:
        raise click.ClickException(f"{shared.source_name(source)}: {decoded.outcome}: {decoded.message}")
    written = io.BytesIO()
    try:
        PillowImage.fromarray(decoded.image).save(written, format=written_as)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{shared.target_name(target)} can't be written: {error}") from error
    shared.write(target, written.getvalue())
    click.echo(
        f"{shared.target_name(target)}: {decoded.image.shape[1]}x{decoded.image.shape[0]}, {decoded.seconds:.3f} s",
        err=True,
    )


def _format(target: str) -> str:
    """Pillow's name of the format that OUT is written in."""
    from PIL import Image as PillowImage

    if target == shared.DASH:
        return "PNG"
    formats = PillowImage.registered_extensions()
    found = formats.get(Path(target).suffix.lower())
    if found is None or not _writes(found):
        endings = ", ".join(ending for ending, name in sorted(formats.items()) if _writes(name))
        raise click.UsageError(
            f"OUT is {Path(target).name}: Pillow writes no such format, end it in .png, or {endings}"
        )
    return found


def _writes(name: str) -> bool:
    """Whether Pillow writes RGB images in a format: it reads some that it can't, or that take other modes alone."""
    from PIL import Image as PillowImage

    if name not in PillowImage.SAVE:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            PillowImage.new("RGB", (16, 16)).save(io.BytesIO(), format=name)
    except (OSError, ValueError):
        return False
    return True
