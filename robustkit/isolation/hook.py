"""Hooks: code of robustkit's own that a worker runs around each decode, chosen by whoever starts it, not by the codec.

A hook is a class. Its worker makes one without arguments, before it loads the codec, and calls three methods:
``set(**settings)``, ``around()``, a context in which each decode runs, and ``told()``, JSON values on the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol


class Around(Protocol):
    """What a worker asks of a hook."""

    def set(self, **settings: Any) -> None:
        """Take settings, JSON values, which hold from the next decode on; those not given stay as they are."""

    def around(self) -> AbstractContextManager[None]:
        """Where one decode, or one batch, runs."""

    def told(self) -> dict[str, Any]:
        """What there is to say of the last decode, in JSON values."""


@dataclass(frozen=True)
class Hook:
    """A hook, named so that another process can import it.

    Attributes:
        module, attribute: the class; both robustkit's own.
        settings: what its ``set`` is called with first, JSON values.
    """

    module: str
    attribute: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def order(self) -> dict[str, Any]:
        """The hook as a worker is told of it."""
        return {"module": self.module, "attribute": self.attribute, "settings": dict(self.settings)}


#: The hook of :mod:`robustkit.isolation.arithmetic`.
ARITHMETIC = Hook("robustkit.isolation.arithmetic", "Arithmetic")
