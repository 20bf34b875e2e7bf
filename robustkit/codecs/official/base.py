"""Generative codecs through their authors' own code: a checkout and weights that the user points to.

Each adapter calls the published functions, and writes what they return into robustkit's length-checked frame, where
the authors pickle it or leave it open. What they raise at a damaged stream is theirs: it is an outcome, not a refusal.
Their dependencies clash with one another's and with newer ones, so a worker may run under another interpreter:
``python`` in a codec file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import pickle
import sys
import types
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustkit.codec import Codec, DecodeError, EncodeError, Image, Layout
from robustkit.codecs.frame import IDENTITY_BYTES, Frame, check_fits, layout
from robustkit.registry import CodecUnavailable

#: Files of weights are told apart by this much of each end: hashing gigabytes would take longer than loading them.
_ENDS = 1 << 20


class OfficialCode(Codec):
    """A codec whose code is a checkout of its authors' repository.

    Args:
        checkout: the folder that holds the checkout.
        weights: file of weights; what and where from is in the message that asks for it.
        device: a torch device.
        max_pixels: largest image, in pixels, that is encoded or decoded.
        trust_weights: unpickle whatever the file of weights holds, which may run code, where tensors alone don't load.

    Raises:
        CodecUnavailable: the checkout, a file, or a package that it imports is missing, or it does not load.
    """

    needs: ClassVar[str] = "a checkout, weights, and what it imports"
    family: ClassVar[str] = "generative"
    #: Address of the repository, and the commit that its signatures were read at.
    repository: ClassVar[str]
    commit: ClassVar[str]
    #: What files ``weights`` may be, and where they are found.
    files: ClassVar[str]
    #: Settings that must name a file or folder, with what belongs there; ``files`` for ``weights``.
    places: ClassVar[Mapping[str, str]] = {}
    #: Packages, by the name they are imported by, that the coding functions use beyond torch and NumPy.
    packages: ClassVar[tuple[str, ...]] = ()
    #: Folders within the checkout that its modules are imported from.
    roots: ClassVar[tuple[str, ...]] = ("",)
    parts: ClassVar[tuple[str, ...]]
    #: Shortest side that the network takes, in pixels.
    smallest_side: ClassVar[int] = 1

    def __init__(
        self,
        *,
        checkout: str | None = None,
        weights: str | None = None,
        device: str = "cpu",
        max_pixels: int = 1 << 22,
        trust_weights: bool = False,
        **places: str,
    ) -> None:
        if lacking := self.missing(checkout=checkout, weights=weights, **places):
            raise CodecUnavailable(f"codec {self.name!r} can't run here: {lacking}")
        assert checkout is not None
        assert weights is not None
        self.checkout, self.weights = Path(checkout).expanduser().absolute(), Path(weights).expanduser().absolute()
        self.others = {name: Path(path).expanduser().absolute() for name, path in places.items()}
        self.weight_files = (self.weights, *self.others.values())
        self.device, self.max_pixels, self.trusting = torch.device(device), max_pixels, trust_weights
        self.identity = hashlib.sha256(self.name.encode() + _ends(self.weights)).digest()[:IDENTITY_BYTES]
        sys.path[:0] = [str(self.checkout / root) for root in self.roots]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                self._load()
        except CodecUnavailable:
            raise
        except Exception as error:  # whatever other people's code raises
            raise CodecUnavailable(
                f"codec {self.name!r} can't be loaded from {self.checkout} with {self.weights}: "
                f"{type(error).__name__}: {error} (its signatures were read at {self.repository} {self.commit}; "
                "a worker of another interpreter: python = PATH in a codec file)"
            ) from error

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """The checkout, the weights, then the packages that are not there."""
        checkout = settings.get("checkout")
        if checkout is None:
            return f"git clone {cls.repository}, give it with --set checkout=FOLDER; and {cls._wanted('weights')}"
        folder = Path(checkout).expanduser()
        if not folder.is_dir():
            return f"checkout = {checkout!r} is no folder: git clone {cls.repository}"
        for place in ("weights", *cls.places):
            given = settings.get(place)
            if given is None:
                return cls._wanted(place)
            if not Path(given).expanduser().exists():
                return f"{place} = {given!r} is not there: {cls._wanted(place)}"
        absent = [name for name in cls.packages if importlib.util.find_spec(name) is None]
        return f"the checkout imports {', '.join(absent)}: install them" if absent else None

    @classmethod
    def _wanted(cls, place: str) -> str:
        what = cls.files if place == "weights" else cls.places[place]
        return f"give {what}, --set {place}=PATH"

    def _saved(self) -> Any:
        """What the file of weights holds.

        Raises:
            CodecUnavailable: more than tensors and plain values, and it is not trusted.
        """
        try:
            return torch.load(self.weights, map_location="cpu", weights_only=not self.trusting)
        except pickle.UnpicklingError as error:
            raise CodecUnavailable(
                f"{self.weights} holds more than tensors and plain values; if you trust it, --set trust_weights=true: "
                f"{str(error).splitlines()[0]}"
            ) from error

    # -- what each codec does -----------------------------------------------------------------------------------

    @abstractmethod
    def _load(self) -> None:
        """Import from the checkout and build the model."""

    @abstractmethod
    def _compress(self, pixels: Tensor) -> Sequence[bytes]:
        """The parts of ``pixels``, float32 ``(1, 3, H, W)`` in [0, 1]."""

    @abstractmethod
    def _decompress(self, frame: Frame) -> Tensor:
        """Float ``(1, 3, >= H, >= W)`` in [0, 1].

        Raises:
            DecodeError: a part has a length that can't be.
        """

    # -- coding -------------------------------------------------------------------------------------------------

    def encode(self, image: Image) -> bytes:
        """Compress ``image`` (uint8, H x W x 3).

        Raises:
            EncodeError: another dtype or shape, too large, or a side too short for the network.
        """
        check_fits(image, self.max_pixels)
        height, width = image.shape[:2]
        if min(height, width) < self.smallest_side:
            raise EncodeError(f"{width}x{height}: {self.name} takes sides of {self.smallest_side} pixels or more")
        pixels = torch.tensor(image, device=self.device).permute(2, 0, 1)[None].to(torch.float32) / 255
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            parts = tuple(bytes(part) for part in self._compress(pixels))
        return Frame(self.identity, height, width, parts).pack()

    def decode(self, bitstream: bytes) -> Image:
        """Reconstruct an image, uint8, H x W x 3.

        Raises:
            DecodeError: a damaged header, other weights, wrong lengths, or values that are not finite.
        """
        writer = f"{self.name} with {self.weights.name}"
        frame = Frame.unpack(bitstream, identity=self.identity, writer=writer, max_pixels=self.max_pixels)
        if len(frame.parts) != len(self.parts):
            raise DecodeError(f"{len(frame.parts)} parts, {self.name} writes {len(self.parts)}")
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            decoded = self._decompress(frame)[0, :, : frame.height, : frame.width].float()
        if not bool(torch.isfinite(decoded).all()):
            raise DecodeError("the decoded image is not finite")
        pixels = decoded.clamp(0, 1).mul(255).round().to(torch.uint8)
        image: Image = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
        return image

    def layout(self, bitstream: bytes) -> Layout:
        """Name the frame's fields and the parts. Takes any bytes."""
        return layout(bitstream, self.parts)

    def describe(self) -> Mapping[str, str]:
        """The checkout and weights, torch, and the device."""
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return {
            "checkout": str(self.checkout),
            "weights": f"{self.weights.name} {self.identity.hex()}",
            "torch": torch.__version__,
            "device": f"{where} ({torch.get_num_threads()} threads)" if self.device.type == "cpu" else where,
        }


class Unused(torch.nn.Module):
    """Stands where the authors' code builds something that coding never calls."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()


class _Stub(types.ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Unused


def stub(*names: str) -> None:
    """Modules that may be imported and are not used, where they are not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = module = _Stub(name)
            module.__path__ = []


def up_to(side: int, multiple: int) -> int:
    """``side``, rounded up to a multiple."""
    return -(-side // multiple) * multiple


def _ends(path: Path) -> bytes:
    """A digest of a file's size and ends, or of the files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path.parent)} {size}".encode() if path.is_dir() else str(size).encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_ENDS))
            opened.seek(max(0, size - _ENDS))
            digest.update(opened.read(_ENDS))
    return digest.digest()
