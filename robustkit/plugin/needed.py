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
_REFUSED = "robustkit_refused"


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
                return _refuse(f"{item.nodeid}: {error}", items, config)
        elif isinstance(chosen, NoCodec) and not config.getoption("collectonly", False):
            return _refuse(NEEDS_CODEC, items, config)


def _refuse(why: str, items: list[pytest.Item], config: pytest.Config) -> None:
    if not hasattr(config, "workeroutput"):
        raise pytest.UsageError(why)
    # A worker can't end the run: it tells the controller.
    config.workeroutput[_REFUSED] = why
    items.clear()


def hear_of(node: Any) -> None:
    """End the run where a worker of xdist's found that it can't go on.

    Raises:
        pytest.UsageError: why it can't.
    """
    if why := getattr(node, "workeroutput", {}).get(_REFUSED):
        raise pytest.UsageError(why)
