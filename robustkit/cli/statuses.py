"""``robustkit statuses``: how a codec's decoding program ends on damaged streams, to fill in its file."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from robustkit.cli import shared

if TYPE_CHECKING:
    from robustkit.codecs.command import Tried
    from robustkit.patterns import ErrorPattern

#: Side of the photograph, in pixels.
CROP = 64
#: Half of the flips go here: the bytes where most headers are.
_HEAD = 256
_BURST = 32
#: Bursts and cuts, each for so many flips.
_FEWER = 4
_WIDEST = 100
#: The folder of one run, which differs from run to run.
_PLACE = re.compile(r"\S*/robustkit-\w+/work/")


@click.command(
    "statuses",
    epilog="""\b
Examples:
  robustkit statuses codec.toml
  robustkit statuses --flips 2000 --seed 7 examples/cwebp.toml
""",
)
@click.option("--flips", type=click.IntRange(min=1), default=300, show_default=True, metavar="N",
              help="Streams with one flipped bit; a quarter as many have a burst, "
              "and another quarter are cut.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other damage.")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
def command(file: str, flips: int, seed: int) -> None:
    """Show how the decoding program of the codec FILE ends on damaged streams.

    A small photograph is encoded and its stream damaged. The table has each exit status and signal with how often it
    came, what image was left, what FILE makes of it, and what the program said first. Fill in `refused` and
    `image_statuses` of FILE from it.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from robustkit.codec import DecoderFailed, EncodeError
    from robustkit.codecs.command import CommandLine
    from robustkit.images import ImageError, photographs
    from robustkit.registry import CodecUnavailable

    # Here, not in a worker: its programs are processes of their own.
    try:
        codec = shared.spec_of(file, ()).load()
    except CodecUnavailable as error:
        raise click.ClickException(str(error)) from error
    if not isinstance(codec, CommandLine):
        raise click.UsageError(f"{file} has no command lines: give the file of a codec that is two programs")
    try:
        stream = codec.encode(photographs(CROP)["coffee"])
        clean = codec.try_decode(stream)
    except (EncodeError, DecoderFailed, ImageError) as error:
        raise click.ClickException(f"{file}: encode: {error}") from error
    if clean.outcome is not None:
        raise click.ClickException(f"{file}: the undamaged stream is {clean.outcome}: {clean.message}")
    patterns = list(_damage(8 * len(stream), flips, seed))
    seen: dict[str, list[Tried]] = collections.defaultdict(list)
    with shared.progress("decoding") as tell:
        for i, pattern in enumerate(patterns):
            tell(f"decoding damaged streams: {i} of {len(patterns)}")
            try:
                tried = codec.try_decode(pattern.apply(stream))
            except DecoderFailed as error:
                raise click.ClickException(f"{file}: {error}") from error
            seen[_end(tried)].append(tried)
    table = Table(box=None, pad_edge=False)
    for column in ("end", "streams", "image", "other size", "no image", "counts as", "said first"):
        table.add_column(column, overflow="fold", justify="right" if column in _NUMBERS else "left")
    for end, rows in sorted(seen.items(), key=lambda item: -len(item[1])):
        sizes = [t.size for t in rows]
        counts = (
            len(rows),
            sizes.count(clean.size),
            sum(s not in (None, clean.size) for s in sizes),
            sizes.count(None),
        )
        made_of = collections.Counter("image" if t.outcome is None else str(t.outcome) for t in rows)
        cells = (
            end,
            *(str(n or "") for n in counts),
            ", ".join(name for name, _ in made_of.most_common()),
            _said(rows),
        )
        table.add_row(*(Text(cell) for cell in cells))
    height, width = clean.size or (0, 0)
    click.echo(
        f"{file}: {len(patterns)} damaged streams of {len(stream)} bytes; whole, it gives {width}x{height} pixels"
    )
    Console().print(table)
    _advise(seen)


_NUMBERS = ("streams", "image", "other size", "no image")


def _damage(bits: int, flips: int, seed: int) -> Iterator[ErrorPattern]:
    """Single flips, half of them near the beginning; bursts; and cuts."""
    import numpy as np

    from robustkit.channels import generator
    from robustkit.patterns import ErrorPattern

    rng = generator("", "", "statuses", 0, seed=seed)
    for i in range(flips):
        most = min(bits, 8 * _HEAD) if i % 2 else bits
        yield ErrorPattern(bits, np.array([rng.integers(most)]))
    for _ in range(-(-flips // _FEWER)):
        first = int(rng.integers(max(1, bits - _BURST)))
        burst = first + np.flatnonzero(rng.integers(0, 2, min(_BURST, bits - first)))
        yield ErrorPattern(bits, burst if len(burst) else np.array([first]))
    for _ in range(-(-flips // _FEWER)):
        yield ErrorPattern(bits, keep=int(rng.integers(bits // 8)))


def _end(tried: Tried) -> str:
    from robustkit.codecs.command import signal_name

    status = tried.ended.status
    if status is None:
        return "too long"
    return signal_name(-status) if status < 0 else f"status {status}"


def _said(rows: list[Tried]) -> str:
    """The first line that most of the programs began with, numbers aside."""
    lines = [next((line.strip() for line in t.ended.head.splitlines() if line.strip()), "") for t in rows]
    lines = [_PLACE.sub("", line) for line in lines]
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for line in lines:
        alike[re.sub(r"\d+", "0", line)].append(line)
    common = max(alike.values(), key=len)[0]
    more = f" ({len(alike)} kinds)" if len(alike) > 1 else ""
    printable = "".join(c if c.isprintable() else "?" for c in common)
    return printable[:_WIDEST] + more


def _advise(seen: dict[str, list[Tried]]) -> None:
    """Say which keys of the file the table speaks for, where the file does not have them yet."""
    from robustkit.outcome import Outcome

    images: list[int] = []
    refused: list[int] = []
    for rows in seen.values():
        undecided = [t for t in rows if t.outcome is Outcome.RAISED and "which is no refusal" in t.message]
        if undecided and (status := undecided[0].ended.status) is not None:
            with_image = sum(t.size is not None for t in undecided)
            (images if 2 * with_image > len(undecided) else refused).append(status)
    if images:
        click.echo(f"Left an image as a rule; if it came with a warning: image_statuses = {sorted(images)}")
    if refused:
        click.echo(f"Left no image as a rule; if the program refuses so, add to refused: {sorted(refused)}")
