"""The codec contract: what a codec has, and what it may refuse."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from robustkit.errors import RobustkitError
from robustkit.layout import Layout, Region
from robustkit.outcome import Outcome
from robustkit.pixels import Image
from robustkit.profile import Profile

__all__ = ["Codec", "DecodeError", "DecoderFailed", "EncodeError", "Image", "Layout", "Region", "adapt"]

#: In a worker's environment: the seconds after which its parent gives up an encode or decode.
TIME_LIMIT = "ROBUSTKIT_TIME_LIMIT"
#: In a worker's environment, and so in that of all that its codec starts: the mark by which they are found and ended.
MARK = "ROBUSTKIT_MARK"
#: Processes that a codec keeps from one decode to the next, by their ids. Others that live on after a decode were left
#: behind. What runs already when a codec's constructor returns needs no entry.
KEPT: set[int] = set()


class DecodeError(RobustkitError, ValueError):
    """A codec refuses a bitstream: the one exception that :meth:`Codec.decode` may raise."""


class DecoderFailed(RobustkitError):
    """A codec that runs a decoder elsewhere, in a process of its own, saw it fail: ``outcome`` says how.

    Not a refusal. Raise :class:`DecodeError` for those.
    """

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class EncodeError(RobustkitError, ValueError):
    """A codec refuses an image: the one exception that :meth:`Codec.encode` may raise."""


class Codec(ABC):
    """An image codec under test. Subclass it, or give any object with these members to robustkit.

    A codec is built once in each worker process as ``CodecClass(**settings)``, so a constructor takes
    keyword arguments only, with defaults, and may be slow; ``decode`` may not depend on what was decoded before.
    """

    #: Unique, lower case with hyphens: ``--codec NAME``.
    name: ClassVar[str]
    #: "classical", "learned", "rcc", ...
    family: ClassVar[str]
    #: What must be there beyond robustkit, for lists: an extra, a program, weights.
    needs: ClassVar[str] = ""
    #: What the codec promises; without one only the checks that need no promise run.
    profile: Profile | None = None
    #: Settings that leave what the codec promises untouched, whatever they are set to: see :meth:`promised`.
    neutral_settings: ClassVar[frozenset[str]] = frozenset()
    #: Defects of the libraries below that its authors know and can't mend here: where each is reported, by the outcome
    #: ("crashed", "crashed: SIGSEGV"), the claim ("decode.deterministic") or the stream ("stream:" and digits of its
    #: SHA-256) that shows it. They stay failures, unless whoever tests the codec accepts them.
    known_defects: ClassVar[Mapping[str, str]] = {}
    #: How far the pixels of one stream may lie apart between two machines, in grey levels: at worst, and on average.
    #: Processors and libraries round floats otherwise, and so a pixel here and there; a codec that computes with whole
    #: numbers alone may say (0, 0).
    tolerance: ClassVar[tuple[float, float]] = (2.0, 0.05)

    #: The settings that it was built with.
    _given: Mapping[str, Any]

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        # Python leaves this to object's own __new__, which is not reached with arguments.
        if (args or settings) and cls.__init__ is object.__init__:
            raise TypeError(f"{cls.__name__}() takes no settings")
        codec = super().__new__(cls)
        object.__setattr__(codec, "_given", settings)  # a subclass may be a frozen dataclass
        return codec

    @classmethod
    def changed_settings(cls, settings: Mapping[str, Any]) -> frozenset[str]:
        """Names of those ``settings`` that are not the constructor's defaults.

        Override it where a default of ``None`` stands for a value, which may be spelt out.
        """
        defaults: dict[str, Any] = {}
        for kind in cls.__mro__:
            if kind is not object and "__init__" in vars(kind):
                taken = inspect.signature(vars(kind)["__init__"]).parameters.values()
                defaults = {parameter.name: parameter.default for parameter in taken} | defaults
        return frozenset(n for n, value in settings.items() if n not in defaults or value != defaults[n])

    def promised(self, promises: Profile | None) -> Profile | None:
        """``promises`` of the default settings, or ``None`` if one is changed that is not among ``neutral_settings``.

        For constructors, which say ``self.profile = self.promised(...)``.
        """
        return None if self.changed_settings(self._given) - self.neutral_settings else promises

    @abstractmethod
    def encode(self, image: Image) -> bytes:
        """Compress ``image`` (uint8, H x W x 3).

        Raises:
            EncodeError: the codec can't take this image.
        """

    @abstractmethod
    def decode(self, bitstream: bytes) -> Image:
        """Reconstruct an image, uint8, H x W x 3.

        Raises:
            DecodeError: the codec refuses the bitstream.
        """

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Image | DecodeError]:
        """Decode several bitstreams; a refused one gives its error in its place. Override it if that is faster."""
        decoded: list[Image | DecodeError] = []
        for bitstream in bitstreams:
            try:
                decoded.append(self.decode(bitstream))
            except DecodeError as error:
                decoded.append(error)
        return decoded

    def layout(self, bitstream: bytes) -> Layout:
        """Name the regions of ``bitstream``, which may be damaged. By default one region, the payload."""
        bits = 8 * len(bitstream)
        return Layout((Region("payload", 0, bits),), bits)

    def describe(self) -> Mapping[str, str]:
        """Facts for reports: versions of native libraries, device, prior, settings."""
        return {}

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """What to install where this codec can't run here, or ``None`` if it can.

        Args:
            settings: those that it is to be built with; a codec that needs none of them may take no arguments.
        """
        return None


class _Adapted(Codec):
    """An object that is no :class:`Codec` but has ``encode`` and ``decode``; what it lacks is the default."""

    def __init__(self, found: Any) -> None:
        self._found = found
        self.profile = getattr(found, "profile", None)
        self.known_defects = getattr(found, "known_defects", {})  # type: ignore[misc]
        self.tolerance = getattr(found, "tolerance", Codec.tolerance)  # type: ignore[misc]

    def encode(self, image: Image) -> bytes:
        encoded: bytes = self._found.encode(image)
        return encoded

    def decode(self, bitstream: bytes) -> Image:
        decoded: Image = self._found.decode(bitstream)
        return decoded


def adapt(found: Any, *, name: str) -> Codec:
    """``found`` itself if it is a :class:`Codec`; otherwise a codec with its members and defaults for the rest.

    Args:
        found: any object, or module, with ``encode`` and ``decode``.
        name: the codec's name if ``found`` has none.

    Raises:
        TypeError: ``found`` lacks ``encode`` or ``decode``.
    """
    if isinstance(found, Codec):
        return found
    for member in ("encode", "decode"):
        if not callable(getattr(found, member, None)):
            raise TypeError(f"codec {name!r} ({type(found).__name__}) has no {member}(): see robustkit.Codec")
    # Only what is there, so that a codec without decode_batch is seen to have none of its own.
    own: dict[str, Any] = {
        member: lambda self, *args, _member=member: getattr(self._found, _member)(*args)
        for member in ("decode_batch", "layout", "describe")
        if callable(getattr(found, member, None))
    }
    own["name"] = getattr(found, "name", name)
    own["family"] = getattr(found, "family", "unknown")
    kind: type[_Adapted] = type("Adapted", (_Adapted,), own)
    return kind(found)
