"""Robust Turbo-DDCM, and its protected variant, with one mistake each: what a refactoring could do to them, and the
suite must not let pass.

Each class patches the codec's modules when it is built, which is safe because every worker process builds one codec.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np

from robustkit.codecs.rcc import base, container, protection, turbo
from robustkit.codecs.rcc.codebook import StructuredCodebook
from robustkit.codecs.rcc.payload import Payload
from robustkit.codecs.rcc.protocol import Bits, HashOrderedIndices, Integers, JointRank, SectionIndices


class LittleEndianIndices(HashOrderedIndices):
    def write(self, indices: Integers, signs: Integers) -> Bits:
        return super().write(self._reverse(indices), signs)

    def read(self, bits: Bits) -> tuple[Integers, Integers]:
        indices, signs = super().read(bits)
        return self._reverse(indices), signs

    def _reverse(self, indices: Integers) -> Integers:
        places = np.arange(self.index_bits)
        reversed_: Integers = (((indices[:, None] >> places) & 1) << places[::-1]).sum(axis=1)
        return reversed_


class NextIndices(HashOrderedIndices):
    def read(self, bits: Bits) -> tuple[Integers, Integers]:
        indices, signs = super().read(bits)
        return (indices + 1) % self.size, signs


class Unsigned(HashOrderedIndices):
    def read(self, bits: Bits) -> tuple[Integers, Integers]:
        indices, signs = super().read(bits)
        return indices, np.abs(signs)


class NeighboursSwapped(SectionIndices):
    def read(self, bits: Bits) -> tuple[Integers, Integers]:
        indices, signs = super().read(bits)
        others = np.minimum(np.arange(self.count) ^ 1, self.count - 1)
        return indices - self._starts() + self._starts()[others], signs


class _OtherProtocol(turbo.RobustTurboDDCM):
    def __init__(self, **settings: Any) -> None:
        turbo.PROTOCOLS[6] = self.protocols["largest"]
        super().__init__(**settings)


class WrongBitOrder(_OtherProtocol):
    """Index bits in the wrong order, in encoder and decoder alike."""

    protocols: ClassVar = {"largest": LittleEndianIndices}


class OffByOneIndex(_OtherProtocol):
    """The decoder takes the atom beside the one that was sent."""

    protocols: ClassVar = {"largest": NextIndices}


class LostSign(_OtherProtocol):
    """The decoder takes every sign for a plus."""

    protocols: ClassVar = {"largest": Unsigned}


class JointRankPutBack(turbo.RobustTurboDDCM):
    """Turbo-DDCM's fragile protocol under the robust codec's name."""

    methods: ClassVar = turbo.TurboDDCM.methods
    protocols: ClassVar = {"largest": JointRank}


class UnprotectedHeader(turbo.RobustTurboDDCM):
    """Parity that nobody computes or reads."""

    def __init__(self, **settings: Any) -> None:
        class NoCode:
            encode = staticmethod(lambda data: data + bytes(container.PARITY))
            decode = staticmethod(lambda data: (data[: -container.PARITY],))

        container._code = NoCode()
        super().__init__(**settings)


class UnrepairedSteps(turbo.RobustTurboDDCMUEP):
    """Parity of the leading steps that the decoder leaves unread."""

    def __init__(self, **settings: Any) -> None:
        protection.repair = lambda data, parity: data
        super().__init__(**settings)


class LastStepsProtected(turbo.RobustTurboDDCMUEP):
    """Parity of the last steps, which nothing builds on, instead of the first."""

    def __init__(self, **settings: Any) -> None:
        class FromTheEnd(Payload):
            def pack(self, steps: Bits) -> bytes:
                return super().pack(steps[::-1])

            def read(self, payload: bytes) -> tuple[Integers, Integers]:
                indices, signs = super().read(payload)
                return indices[::-1].copy(), signs[::-1].copy()

        turbo.Payload = FromTheEnd  # type: ignore[misc]
        super().__init__(**settings)


class SwappedSections(turbo.RobustTurboDDCMUEP):
    """The decoder looks for each atom in the section beside its own."""

    protocols: ClassVar = {"sections": NeighboursSwapped}

    def __init__(self, **settings: Any) -> None:
        turbo.PROTOCOLS[2] = NeighboursSwapped
        super().__init__(**settings)


class CodebookOfItsProcess(turbo.RobustTurboDDCM):
    """Atoms that depend on which process draws them."""

    def __init__(self, **settings: Any) -> None:
        class Own(StructuredCodebook):
            def __init__(self, size: int, length: int, seed: int, *more: Any) -> None:
                super().__init__(size, length, seed ^ os.getpid(), *more)

        turbo.CODEBOOKS["structured"] = Own
        super().__init__(**settings)


class SkippedStep(turbo.RobustTurboDDCM):
    """The decoder leaves out one step of the reverse diffusion."""

    def _reconstruct(self, *args: Any) -> Any:
        step, taken = base.reverse_step, 0

        def all_but_the_tenth(noisy: Any, *more: Any) -> Any:
            nonlocal taken
            taken += 1
            return noisy if taken == 10 else step(noisy, *more)

        base.reverse_step = all_but_the_tenth
        try:
            return super()._reconstruct(*args)
        finally:
            base.reverse_step = step
