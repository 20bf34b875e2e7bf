"""What a worker says to one request: read, and held against what its parent knows."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Any

from robustkit.isolation import wire
from robustkit.outcome import Outcome
from robustkit.registry import CodecUnavailable

#: What whoever can't get more of the machine says, in the words of the C library.
_MACHINE = re.compile(
    r"No space left on device|Disk quota exceeded|Too many open files|Resource temporarily unavailable"
    r"|Cannot allocate memory|Read-only file system|Input/output error|timed out|Temporary failure in name resolution",
    re.IGNORECASE,
)


class NotLoaded(CodecUnavailable):
    """A process could not load its codec.

    Attributes:
        machine: whether the machine may be to blame.
    """

    def __init__(self, message: str, *, machine: bool = False) -> None:
        super().__init__(message)
        self.machine = machine


@dataclass(frozen=True)
class Answer:
    """What the worker says to one request.

    ``failure`` is (outcome, message), or ``None`` where ``value`` holds; ``memory``, ``processor`` as in ``Decoded``.
    """

    value: Any
    lengths: list[int]
    failure: tuple[Outcome, str] | None
    seconds: float
    warnings: tuple[str, ...]
    spoilt: str | None
    memory: int = 0
    processor: float = 0.0


def parse(message: dict[str, Any], identity: str, elapsed: float) -> Answer:
    """What a worker's message says.

    Args:
        message: as it came.
        identity: of the request that it must answer.
        elapsed: seconds since that was sent.

    Raises:
        WireError: it is no such answer.
    """
    try:
        if type(message["id"]) is not str or message["id"] != identity:
            raise wire.WireError(f"answer {message['id']!r:.99} to another request")
        lengths, seconds, spoilt = message["lengths"], message["seconds"], message["spoilt"]
        failure, words, memory = message["failure"], message["warnings"], message["memory"]
        if type(lengths) is not list or any(type(n) is not int or n < 0 for n in lengths):
            raise wire.WireError(f"not lengths: {lengths!r:.99}")
        # Both ends read one clock. (The comparison is false for what is no finite number.)
        if type(seconds) not in (int, float) or not 0 <= seconds <= elapsed + 1:
            raise wire.WireError(f"not a time within {elapsed:.3f} s: {seconds!r:.99}")
        spent = message["processor"]
        if type(spent) not in (int, float) or not 0 <= spent < math.inf:
            raise wire.WireError(f"not a processor's time: {spent!r:.99}")
        # What its decoder has started may have worked for longer than the decode; that is not this decode's.
        spent = min(float(spent), elapsed * (os.cpu_count() or 1))
        if type(memory) is not int or memory < 0:
            raise wire.WireError(f"not bytes of memory: {memory!r:.99}")
        if type(words) is not list or not all(isinstance(w, str) for w in [*words, spoilt or ""]):
            raise wire.WireError("warnings that are no text")
        return Answer(
            value=message["value"],
            lengths=lengths,
            failure=None if failure is None else (failed(failure["outcome"]), str(failure["message"])),
            seconds=float(seconds),
            warnings=tuple(words),
            spoilt=spoilt,
            memory=memory,
            processor=spent,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise wire.WireError(f"not an answer: {error}") from error


def failed(name: str) -> Outcome:
    """The outcome of that name.

    Raises:
        ValueError: there is none, or it takes an image.
    """
    outcome = Outcome(name)
    if outcome.has_image:
        raise ValueError(f"{outcome} without an image")
    return outcome


def tells_of_a_codec(value: object) -> bool:
    """Whether the answer to "load" has what the parent reads in it."""
    kinds = {"name": str, "family": str, "known_defects": dict, "device": str, "sources": str, "batched": bool}
    kinds |= {"resident": int, "peak": int, "tolerance": list}
    if not isinstance(value, dict) or not isinstance(value.get("profile", ""), dict | None):
        return False
    if not all(type(value.get(key)) is kind for key, kind in kinds.items()):
        return False
    return len(value["tolerance"]) == 2 and all(type(n) is float and 0 <= n <= 255 for n in value["tolerance"])


def says_machine(message: str) -> bool:
    """Whether an error's text is that of a machine that has no more to give."""
    return _MACHINE.search(message) is not None


def alike(one: str, two: str) -> bool:
    """Whether two messages are one, but for numbers and addresses."""
    plain = [re.sub(r"0x[0-9a-f]+|\d+", "N", text) for text in (one, two)]
    return plain[0] == plain[1]
