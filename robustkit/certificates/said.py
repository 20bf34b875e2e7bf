"""What checking a part of a certificate came to, in one line and with what is wrong, each by name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class State(StrEnum):
    """What a check came to."""

    RIGHT = "right"  #: checked, and as it should be
    WRONG = "wrong"  #: checked, and not as it should be
    UNTOLD = "untold"  #: asked for, and it can't be told here
    UNASKED = "unasked"  #: not asked for, or nothing to check


@dataclass(frozen=True)
class Part:
    """One of the three lines.

    Attributes:
        name: which.
        state: what the check came to.
        said: in a line.
        wrong: what is not as it should be, each by name.
        notes: what else a reader should know.
    """

    name: Literal["authentic", "intact", "reproduced"]
    state: State
    said: str
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name + ':':<12}{self.said}"
