"""A codec's rates: within one worker, the setting whose stream comes closest to a wanted length.

:class:`Ladder` is no codec of images, but what a worker runs in a codec's place: its "stream" says, as JSON, which
setting was found. So a search of many encodes is isolated as one encode is.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from robustkit.codec import Codec, DecodeError, EncodeError, Image
from robustkit.registry import CodecSpec, Target

#: How values are tried. "bisection": whole ones, as arXiv 2604.05743 does. "secant": few, by the logarithm of the rate.
Search = Literal["bisection", "secant"]
#: Of the published search. Seven reach every quality of JPEG.
STEPS = 30
#: Encodes of a secant search, at most, and the share of the length at which it stops sooner.
SECANT_STEPS, NEAR = 8, 0.01
#: A codec that takes a rate is asked for this much less or more of the wanted one, at most.
_REACH = 8.0
_PROTECTED = "robustkit.codecs.protected"


@dataclass(frozen=True)
class Knob:
    """A setting that decides a codec's rate.

    Attributes:
        name: of the setting.
        low, high: its values of the lowest and the highest rate; ``low`` may be the larger.
        whole: whether it takes whole numbers alone.
    """

    name: str
    low: float
    high: float
    whole: bool = True


@dataclass(frozen=True)
class Step:
    """The closest value that a search saw, the bytes that it gave, and how many were tried."""

    value: float
    size: int
    tried: int


def bisection(size: Callable[[int], int], target: float, knob: Knob, steps: int = STEPS) -> Step:
    """The closest of the values that a bisection over whole numbers sees, as the published runs match rates.

    Args:
        size: bytes at a value.
        target: wanted bytes.
        steps: values to try, at most.
    """
    rising = knob.low <= knob.high
    low, high = sorted((round(knob.low), round(knob.high)))
    best: Step | None = None
    tried = 0
    while low <= high and tried < steps:
        middle = (low + high) // 2
        found = size(middle)
        tried += 1
        if best is None or abs(found - target) < abs(best.size - target):
            best = Step(middle, found, tried)
        if (found < target) == rising:
            low = middle + 1
        else:
            high = middle - 1
    assert best is not None
    return Step(best.value, best.size, tried)


def secant(
    size: Callable[[float], int], target: float, knob: Knob, steps: int = SECANT_STEPS, near: float = NEAR
) -> Step:
    """The closest of a few values: each next one lies where the logarithm of the rate would be a straight line.

    It begins in the middle. As long as all lie on one side of the target, it goes at most to the end of the range;
    then it stays between the nearest on both sides.

    Args:
        size: bytes at a value.
        target: wanted bytes, above 0.
        steps: values to try, at most.
        near: share of ``target`` that is close enough.
    """
    # A knob that is a rate itself is one over which the logarithm is straight.
    log = not knob.whole and min(knob.low, knob.high) > 0
    there: Callable[[float], float] = math.log if log else float
    back: Callable[[float], float] = math.exp if log else float
    low, high = there(knob.low), there(knob.high)
    seen: dict[float, int] = {}
    place = (low + high) / 2
    while len(seen) < steps:
        value = back(place)
        value = round(value) if knob.whole else value
        if value in seen:
            break
        seen[value] = size(value)
        if abs(seen[value] - target) <= near * target:
            break
        # A stream of no byte has no logarithm.
        place = _next({there(v): max(n, 1) for v, n in seen.items()}, target, low, high, whole=knob.whole)
    closest = min(seen, key=lambda value: abs(seen[value] - target))
    return Step(closest, seen[closest], len(seen))


def _next(seen: Mapping[float, int], target: float, low: float, high: float, *, whole: bool) -> float:
    """Where to look next; a place that was seen if there is nothing left to try."""
    toward = 1.0 if high >= low else -1.0
    below = max((p for p, n in seen.items() if n < target), key=lambda p: p * toward, default=None)
    above = min((p for p, n in seen.items() if n >= target), key=lambda p: p * toward, default=None)
    start, end = (low if below is None else below), (high if above is None else above)
    if len(seen) == 1:
        # One value tells no slope: half way on.
        return (start + end) / 2
    if below is not None and above is not None and ((end - start) * toward <= 0 or (whole and abs(end - start) <= 1)):
        return start
    one, two = sorted(seen, key=lambda place: abs(math.log(seen[place] / target)))[:2]
    rise = math.log(seen[two] / seen[one]) / (two - one)
    guess = one + math.log(target / seen[one]) / rise if rise * toward > 0 else (start + end) / 2
    first, last = sorted((start, end))
    guess = min(max(guess, first), last)
    if whole and (near := round(guess)) in seen:
        # One further towards the target; at the end of the range there is none.
        beside = near + (toward if seen[near] < target else -toward)
        return beside if first <= beside <= last else guess
    return guess


class Ladder(Codec):
    """What a worker runs to find the setting of a codec that comes closest to a rate.

    Args:
        codec: the codec's name.
        target: module, attribute and file of its class.
        settings: that it is built with, beside the knob.
        bpp: wanted rate in bits per pixel.
        knob: name, value of the lowest and value of the highest rate of the setting that is searched; without it
            ``quality`` over the class's ``qualities``, or else ``bpp``.
        search: how; by default "bisection" over whole qualities of a classical codec, "secant" otherwise.

    Raises:
        ValueError: the codec has neither, and no knob was given.
    """

    name: ClassVar[str] = "ladder"
    family: ClassVar[str] = "tool"

    def __init__(
        self,
        *,
        codec: str,
        target: Sequence[str | None],
        settings: Mapping[str, Any],
        bpp: float,
        knob: Sequence[Any] | None = None,
        search: Search | None = None,
    ) -> None:
        if search is not None and search not in get_args(Search):
            raise ValueError(f"search = {search!r}: give {' or '.join(get_args(Search))}")
        self._spec = CodecSpec(codec, _target(target), dict(settings))
        self._bpp = bpp
        found = self._within().resolve()
        self._knob = _knob(knob, found, codec, bpp)
        quick = self._knob.whole and getattr(found, "family", "") == "classical"
        self._search: Search = search or ("bisection" if quick else "secant")
        if self._search == "bisection" and not self._knob.whole:
            raise ValueError(f"{codec}: {self._knob.name} is no whole number, so it has no bisection: give secant")
        self._built: dict[float, Codec] = {}

    def _within(self) -> CodecSpec:
        """The codec under a protection, which has the knob; otherwise the codec."""
        if self._spec.target.module != _PROTECTED:
            return self._spec
        return CodecSpec(self._spec.settings["codec"], _target(self._spec.settings["target"]))

    def encode(self, image: Image) -> bytes:
        """The setting found for ``image``, as JSON: "knob", "value", "bytes", "encodes", "search" and "sha256"."""
        streams: dict[float, bytes] = {}

        def size(value: float) -> int:
            streams[value] = self._at(value).encode(image)
            return len(streams[value])

        wanted = self._bpp * image.shape[0] * image.shape[1] / 8
        step = (bisection if self._search == "bisection" else secant)(size, wanted, self._knob)
        found = {
            "knob": self._knob.name,
            "value": step.value,
            "bytes": step.size,
            "encodes": step.tried,
            "search": self._search,
            "sha256": hashlib.sha256(streams[step.value]).hexdigest(),
        }
        return json.dumps(found).encode()

    def _at(self, value: float) -> Codec:
        if value not in self._built:
            settings = {**self._spec.settings, self._knob.name: value}
            try:
                self._built[value] = CodecSpec(self._spec.name, self._spec.target, settings).load()
            except (TypeError, ValueError) as error:
                raise EncodeError(f"{self._spec.name} with {self._knob.name} = {value}: {error}") from error
        return self._built[value]

    def decode(self, bitstream: bytes) -> Image:
        """Refuses everything: what it encodes is no image."""
        raise DecodeError("a search for a rate has no images")


def _target(given: Sequence[str | None]) -> Target:
    module, attribute, file = given
    assert module is not None
    assert attribute is not None
    return Target(module, attribute, file)


def _knob(given: Sequence[Any] | None, found: Any, codec: str, bpp: float) -> Knob:
    if given is not None:
        name, low, high = given
        return Knob(name, low, high, whole=all(isinstance(end, int) for end in (low, high)))
    qualities = getattr(found, "qualities", None)
    takes = inspect.signature(found).parameters if callable(found) else {}
    if isinstance(qualities, range) and len(qualities) and "quality" in takes:
        return Knob("quality", qualities[0], qualities[-1])
    if "bpp" in takes:
        return Knob("bpp", bpp / _REACH, bpp * _REACH, whole=False)
    raise ValueError(
        f"{codec} has neither qualities nor a setting bpp: name its knob and the values of its lowest and highest rate"
    )
