"""What several commands need: the codec's options and its worker, files or standard streams, a sign of progress."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from robustkit.extras import missing
from robustkit.registry import CodecSpec, CodecUnavailable, DuplicateCodec, UnknownCodec, registry
from robustkit.spelling import SpellingError, settings_of

if TYPE_CHECKING:
    from robustkit.isolation import CodecWorkers

Command = TypeVar("Command", bound=Callable[..., Any])

#: Stands for standard input or output where a file would be named; a file of that name is ``./-``.
DASH = "-"


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
