"""The command line: ``robustkit codecs``, ``measure``, ``encode``, ``decode`` and others.

A module here is a command, and ``shared`` is what several need. Exit status 0 is success, 2 is wrong usage, 1 is
everything else that went wrong.
"""

from __future__ import annotations

import os
import sys

import click

from robustkit.cli import (
    calibrate,
    certify,
    choose,
    codecs,
    corrupt,
    decode,
    encode,
    exchange,
    export,
    figures,
    lock,
    match_rate,
    measure,
    merge,
    replay,
    status,
    statuses,
    sweep,
    verify,
)

__all__ = ["main"]


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
  robustkit measure --codec jpeg --check
""",
)
@click.version_option(package_name="robustkit")
def main() -> None:
    """What happens to an image codec when bits flip?

    The conformance suite, which judges a codec, runs under pytest. These commands look at one stream, and `measure` at
    what a codec can promise.
    """
    # A codec of one's own in the working directory, as under `python -m robustkit`; last, so that it hides nothing.
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)


for _room in (
    *(codecs, encode, decode, corrupt, measure, match_rate, sweep, status, merge, export, figures, choose),
    *(lock, certify, verify, exchange, replay, statuses, calibrate),
):
    main.add_command(_room.command)
