"""Checks that examine a codec need one: a run without must not be green."""

from __future__ import annotations

from typing import Any

import pytest

from robustkit.judging.finding import ClaimError
from robustkit.plugin.report import tag
from robustkit.registry import CodecSpec

NEEDS_CODEC = (
    "these tests examine a codec, and none was chosen: give --codec NAME "
    "(`robustkit codecs` lists them; --codec package.module:attribute and --codec A,B work too)"
)
_LACKING = "robustkit_needs_codec"


class NoCodec:
    """Stands where a codec should have been chosen."""


NO_CODEC = NoCodec()


def look_at(items: list[pytest.Item], config: pytest.Config) -> None:
    """Tag the checks with codec and claim, and end a run in which checks need a codec and none was chosen.

    Raises:
        pytest.UsageError: none was chosen, or a check's marker names no claim.
    """
    for item in items:
        callspec = getattr(item, "callspec", None)
        chosen = callspec.params.get("codec") if callspec is not None else None
        if isinstance(chosen, CodecSpec):
            try:
                tag(item, chosen.name)
            except ClaimError as error:
                raise pytest.UsageError(f"{item.nodeid}: {error}") from error
        elif isinstance(chosen, NoCodec):
            if not hasattr(config, "workeroutput"):
                raise pytest.UsageError(NEEDS_CODEC)
            # A worker can't end the run: it tells the controller.
            config.workeroutput[_LACKING] = True
            items.clear()
            return


def hear_of(node: Any) -> None:
    """End the run where a worker of xdist's found that a codec is needed.

    Raises:
        pytest.UsageError: it is.
    """
    if getattr(node, "workeroutput", {}).get(_LACKING):
        raise pytest.UsageError(NEEDS_CODEC)
