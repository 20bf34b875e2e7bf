"""Any codec under a Reed-Solomon code and a byte interleaver: ``jpeg+rs(255,223)+interleave(16)``."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
from reedsolo import ReedSolomonError, RSCodec

from robustkit.codec import Codec, DecodeError, Image, Layout, Region
from robustkit.profile import Profile, Promise
from robustkit.registry import CodecSpec, Target, why_missing

Uncorrectable = Literal["refuse", "pass"]


class Protected(Codec):
    """A codec whose streams are cut into codewords of a shortened systematic Reed-Solomon code over bytes.

    A codeword has k bytes of the stream and n - k of parity, which repair (n - k) / 2 wrong bytes; the last one is
    shorter where the stream ends. Nothing else is added: the length says how many codewords there are. The interleaver
    sends the first bytes of ``interleave`` codewords, then their second bytes, and so on, so that a burst of
    ``8 * interleave * (n - k) / 2 - 7`` bits is repaired wherever it falls.

    Args:
        codec: name of the codec that is protected.
        target: where it is: module, attribute, and file or ``None``.
        n: bytes in a codeword, at most 255.
        k: bytes of the stream in it.
        interleave: codewords that are interleaved; 1 for none.
        uncorrectable: what becomes of a stream with a codeword beyond repair: ``"refuse"`` it, or ``"pass"`` the bytes
            on as they came.
        settings: of the codec that is protected.

    Raises:
        ValueError: a setting is out of range.
        CodecUnavailable: the codec can't run here.
    """

    needs: ClassVar[str] = "the extra `protection`, and what the codec within needs"
    name: str  # type: ignore[misc]
    family: ClassVar[str] = "protected"
    #: By name, of codecs with their default settings; measured by `robustkit measure`.
    promises: ClassVar[Mapping[str, Profile]] = {
        "jpeg+rs(255,223)": Profile(
            bpp=1.183,
            quality=31.35,
            refused=0.0435,
            promises=(
                Promise("bsc(ber=0.001)", mean_drop=0.05, p5_drop=0.05),
                Promise("bsc(ber=0.003)", mean_drop=0.05, p5_drop=0.05, corrupted=0.205),
                Promise("burst(length=32)", mean_drop=0.05, p5_drop=0.05),
                Promise("gilbert-elliott(ber=0.001, burst=16)", mean_drop=0.05, p5_drop=0.05, corrupted=0.205),
            ),
        ),
        "webp+rs(255,191)+interleave(16)": Profile(
            bpp=1.348,
            quality=33.6,
            refused=0.145,
            promises=(
                Promise("bsc(ber=0.001)", mean_drop=0.05, p5_drop=0.05),
                Promise("bsc(ber=0.01)", mean_drop=0.05, p5_drop=0.05, corrupted=0.435),
                Promise("burst(length=2000)", mean_drop=0.05, p5_drop=0.05, corrupted=0.38),
                Promise("gilbert-elliott(ber=0.001, burst=16)", mean_drop=0.05, p5_drop=0.05),
            ),
        ),
    }

    #: What the codec's name says. Those of the codec within void the promises, all of them.
    neutral_settings: ClassVar[frozenset[str]] = frozenset({"codec", "target", "n", "k", "interleave"})

    def __init__(
        self,
        *,
        codec: str,
        target: Sequence[str | None],
        n: int,
        k: int,
        interleave: int = 1,
        uncorrectable: Uncorrectable = "refuse",
        **settings: Any,
    ) -> None:
        if not 1 <= k < n <= 255:
            raise ValueError(f"rs({n},{k}): give 255 >= n > k >= 1 bytes")
        if not 1 <= interleave <= 1 << 16:
            raise ValueError(f"interleave({interleave}): give 1 to 65536 codewords")
        if uncorrectable not in get_args(Uncorrectable):
            raise ValueError(f"uncorrectable = {uncorrectable!r}: give {' or '.join(get_args(Uncorrectable))}")
        self.name = f"{codec}+rs({n},{k})" + (f"+interleave({interleave})" if interleave > 1 else "")
        self.n, self.k, self.interleave, self.uncorrectable = n, k, interleave, uncorrectable
        self.inner = CodecSpec(codec, _target(target), settings).load()
        self.tolerance = self.inner.tolerance  # type: ignore[misc]
        self.profile = self.promised(self.promises.get(self.name))
        self._code = RSCodec(n - k, nsize=n)

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """What the codec that is protected lacks.

        Raises:
            CodecUnavailable: it can't even be imported.
        """
        own = ("codec", "target", "n", "k", "interleave", "uncorrectable")
        inner = {name: value for name, value in settings.items() if name not in own}
        return why_missing(CodecSpec(settings["codec"], _target(settings["target"]), inner).resolve(), inner)

    def encode(self, image: Image) -> bytes:
        stream = self.inner.encode(image)
        words = [bytes(self._code.encode(stream[i : i + self.k])) for i in range(0, len(stream), self.k)]
        coded = np.frombuffer(b"".join(words), np.uint8)
        return coded[self._order(len(coded))].tobytes()

    def decode(self, bitstream: bytes) -> Image:
        return self.inner.decode(self._repaired(bitstream))

    def decode_batch(self, bitstreams: Sequence[bytes]) -> list[Image | DecodeError]:
        repaired: list[bytes | DecodeError] = []
        for bitstream in bitstreams:
            try:
                repaired.append(self._repaired(bitstream))
            except DecodeError as error:
                repaired.append(error)
        decoded = iter(self.inner.decode_batch([r for r in repaired if isinstance(r, bytes)]))
        return [r if isinstance(r, DecodeError) else next(decoded) for r in repaired]

    def _repaired(self, bitstream: bytes) -> bytes:
        """The protected codec's stream.

        Raises:
            DecodeError: the length is no whole number of codewords and a shorter one; or a codeword is beyond repair.
        """
        coded = self._in_order(bitstream)
        data = []
        for number, start in enumerate(range(0, len(coded), self.n)):
            word = coded[start : start + self.n]
            try:
                data.append(bytes(self._code.decode(word)[0]))
            except ReedSolomonError:
                if self.uncorrectable == "refuse":
                    raise DecodeError(
                        f"codeword {number} has more than {(self.n - self.k) // 2} wrong bytes: beyond repair"
                    ) from None
                data.append(word[: len(word) - (self.n - self.k)])
        return b"".join(data)

    def _in_order(self, bitstream: bytes) -> bytes:
        """The codewords, one behind the other."""
        rest = len(bitstream) % self.n
        if not bitstream or 0 < rest <= self.n - self.k:
            raise DecodeError(f"{len(bitstream)} bytes are no stream of rs({self.n},{self.k}): the end is missing")
        coded = np.empty(len(bitstream), np.uint8)
        coded[self._order(len(bitstream))] = np.frombuffer(bitstream, np.uint8)
        return coded.tobytes()

    def _order(self, length: int) -> npt.NDArray[np.int64]:
        """Which byte of the codewords stands at each place of the stream."""
        places = np.arange(length)
        word, place = places // self.n, places % self.n
        return np.lexsort((word, place, word // self.interleave))

    def layout(self, bitstream: bytes) -> Layout:
        """Name each byte's codeword, and what it is of the protected codec's stream. Takes any bytes."""
        bits = 8 * len(bitstream)
        try:
            coded = self._in_order(bitstream)
        except DecodeError:
            return Layout((Region("codewords", 0, bits),), bits)
        places = np.arange(len(coded))
        word, place = places // self.n, places % self.n
        lengths = np.minimum(self.n, len(coded) - word * self.n)
        is_data = place < lengths - (self.n - self.k)
        names, headers = self._inner_names(bytes(np.frombuffer(coded, np.uint8)[is_data]))
        inner = np.cumsum(is_data) - 1
        labels = [
            (f"codeword {w} {names[i]}", headers[i]) if data else (f"codeword {w} parity", False)
            for w, data, i in zip(word.tolist(), is_data.tolist(), inner.tolist(), strict=True)
        ]
        regions: list[Region] = []
        for at, byte in enumerate(self._order(len(coded)).tolist()):
            name, header = labels[byte]
            if regions and (regions[-1].name, regions[-1].header) == (name, header):
                regions[-1] = Region(name, regions[-1].start, 8 * at + 8, header)
            else:
                regions.append(Region(name, 8 * at, 8 * at + 8, header))
        return Layout(tuple(regions), bits)

    def _inner_names(self, stream: bytes) -> tuple[list[str], list[bool]]:
        """The region that each byte of the protected codec's stream begins in, and whether it is header."""
        names, headers = ["payload"] * len(stream), [False] * len(stream)
        try:
            found = self.inner.layout(stream)
        except DecodeError:
            return names, headers
        # The innermost region of a bit is the shortest.
        for region in sorted(found, key=lambda r: r.start - r.stop):
            for byte in range(-(-region.start // 8), -(-region.stop // 8)):
                names[byte], headers[byte] = region.name, region.header
        return names, headers

    def describe(self) -> Mapping[str, str]:
        """The protected codec's facts, and the code's."""
        return {
            **self.inner.describe(),
            "reedsolo": importlib.metadata.version("reedsolo"),
            "protection": f"rs({self.n},{self.k}) interleave={self.interleave} uncorrectable={self.uncorrectable}",
        }


def _target(target: Sequence[str | None]) -> Target:
    module, attribute, file = target
    return Target(str(module), str(attribute), file)
