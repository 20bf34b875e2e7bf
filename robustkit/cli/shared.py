"""What several commands need: the codec's options and its worker, files or standard streams, a sign of progress."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from robustkit.extras import missing
from robustkit.registry import CodecSpec, CodecUnavailable, DuplicateCodec, UnknownCodec, registry
from robustkit.spelling import SpellingError, settings_of

if TYPE_CHECKING:
    from robustkit.isolation import CodecWorkers
    from robustkit.pixels import Image

Command = TypeVar("Command", bound=Callable[..., Any])

#: Stands for standard input or output where a file would be named; a file of that name is ``./-``.
DASH = "-"
#: Exit statuses of commands whose 1 speaks of what they judge.
CANNOT_RUN, USAGE = 2, 4


class _Usage(click.UsageError):
    """As click's, with another status."""

    exit_code = USAGE


class JudgingCommand(click.Command):
    """A command whose status 1 says that what it judges is bad: wrong usage and trouble of its own have others."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _own_statuses():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _own_statuses():
            return super().invoke(ctx)


@contextlib.contextmanager
def _own_statuses() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        raise _Usage(error.format_message(), error.ctx) from error
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except BrokenPipeError:
        # Whoever read the lines has had enough; what is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CANNOT_RUN)
    except Exception:
        # A mistake of ours says nothing of what is judged.
        traceback.print_exc()
        sys.exit(CANNOT_RUN)


def codec_options(command: Command) -> Command:
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
        help="For the codec's work on one image or stream.",
    )
    return codec(settings(seconds(command)))


def image_options(command: Command) -> Command:
    """``--images``, ``--crop`` and ``--allow-downloads``, for :func:`images`."""
    given = click.option(
        "--images",
        metavar="DIR|SET",
        default="skimage",
        show_default=True,
        help="A folder of images and those below it, or a set: skimage, kodak24, div2k-valid, clic2020.",
    )
    crop = click.option(
        "--crop", type=click.IntRange(min=1), metavar="PIXELS", help="Side of the images' centre crops (skimage: 256)."
    )
    downloads = click.option(
        "--allow-downloads", is_flag=True, help="Fetch what is not on this machine: images, and metrics' weights."
    )
    return given(crop(downloads(command)))


def images(given: str, *, crop: int | None, allow_downloads: bool) -> Mapping[str, Image]:
    """The images that ``--images`` names; ones that can't be used are wrong usage."""
    from robustkit.images import ImageError
    from robustkit.images.sets import open_images

    try:
        return open_images(
            given, crop=crop, allow_downloads=allow_downloads, note=lambda text: click.echo(text, err=True)
        )
    except ImageError as error:
        raise click.UsageError(str(error)) from error


def _no_terminal(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if value == DASH and sys.stdout is not None and sys.stdout.isatty():
        raise click.UsageError("OUT is -, and standard output is a terminal: send it to a file or another program", ctx)
    return value


# IN and OUT stay text: a Path would take ./- for -.
def source_argument(command: Command) -> Command:
    kind = click.Path(exists=True, dir_okay=False, allow_dash=True)
    return click.argument("source", metavar="IN", type=kind)(command)


def target_argument(command: Command) -> Command:
    kind = click.Path(dir_okay=False, allow_dash=True)
    return click.argument("target", metavar="OUT", type=kind, callback=_no_terminal)(command)


def source_name(source: str) -> str:
    """IN for messages."""
    return "standard input" if source == DASH else source


def target_name(target: str) -> str:
    """OUT for messages."""
    return "standard output" if target == DASH else target


def read(source: str) -> bytes:
    """The bytes of IN."""
    try:
        return sys.stdin.buffer.read() if source == DASH else Path(source).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{source_name(source)} can't be read: {error}") from error


def write(target: str, data: bytes) -> None:
    """Make ``data`` the contents of OUT."""
    try:
        if target == DASH:
            left = memoryview(data)
            while left:
                # Where PYTHONUNBUFFERED is set, a pipe takes only a part at a time.
                left = left[sys.stdout.buffer.write(left) :]
            sys.stdout.buffer.flush()
        else:
            Path(target).write_bytes(data)
    except BrokenPipeError:
        # The reader has seen enough; click ends quietly.
        raise
    except OSError as error:
        raise click.ClickException(f"{target_name(target)} can't be written: {error}") from error


def spec_of(codec: str, settings: tuple[str, ...]) -> CodecSpec:
    """The codec with its settings; one that can't be found is wrong usage."""
    try:
        return registry.get(codec).spec(**settings_of(codec, settings))
    except (UnknownCodec, SpellingError) as error:
        raise click.UsageError(str(error.args[0])) from error
    except DuplicateCodec as error:
        raise click.ClickException(str(error)) from error


def needs(*packages: str) -> None:
    """End with the way out where a package that an extra brings is not installed."""
    if lacking := missing(*packages):
        raise click.ClickException(lacking)


@contextlib.contextmanager
def workers(codec: str, settings: tuple[str, ...], *, seconds: float = 300.0) -> Iterator[CodecWorkers]:
    """One worker with the codec, its every failure to load an error message."""
    from robustkit.isolation import CodecWorkers, Limits

    spec = spec_of(codec, settings)
    with tempfile.TemporaryDirectory(prefix="robustkit-") as directory:
        try:
            found = CodecWorkers(spec, limits=Limits(seconds=seconds), directory=directory)
        except CodecUnavailable as error:
            if settings:
                raise click.UsageError(f"{codec} with {', '.join(settings)}: {error}") from error
            raise click.ClickException(str(error)) from error
        with found:
            yield found


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr while something slow runs, on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(text) as status:
        yield lambda line: status.update(line)
