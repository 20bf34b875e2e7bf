"""The payload: where each step's bits lie, which of them are protected, and how they are read back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from robustkit.codec import DecodeError
from robustkit.codecs.rcc import protection
from robustkit.codecs.rcc.protocol import BitProtocol, Bits, Integers

#: Steps of an interleaved group: what a cut in it costs.
GROUP = 8


class Payload:
    """The protected steps, their parity, the other steps; each of the three padded to whole bytes.

    Args:
        protocol: writes a step.
        steps: how many carry bits.
        protected: how many of them, from the first, are under forward error correction.
        interleaved: write the other steps in groups of :data:`GROUP`, first the first bit of each, then the second of
            each, so that a burst spreads over all of a group.
    """

    def __init__(self, protocol: BitProtocol, *, steps: int, protected: int, interleaved: bool = False) -> None:
        self.protocol, self.steps, self.protected = protocol, steps, min(protected, steps)
        self._lead = -(-self.protected * protocol.bits // 8)
        self._parity = protection.parity_bytes(self._lead)
        self._rest = -(-(steps - self.protected) * protocol.bits // 8)
        self._group = GROUP if interleaved else 1

    def __len__(self) -> int:
        """Bytes of the payload."""
        return self._lead + self._parity + self._rest

    def arrived(self, length: int) -> int:
        """How many steps :meth:`read` finds in the first ``length`` bytes."""
        bits, rest = self.protocol.bits, self.steps - self.protected
        lead = min(self.protected, 8 * min(length, self._lead) // bits)
        left = 8 * max(0, length - self._lead - self._parity)
        return lead + (rest if left >= rest * bits else left // (self._group * bits) * self._group)

    def fields(self) -> Iterator[tuple[str, int]]:
        """Names and bit counts of the payload's fields, in their order."""
        return ((name, length) for name, length in self._parts() if length)

    def _parts(self) -> Iterator[tuple[str, int]]:
        bits = self.protocol.bits
        for number in range(self.protected):
            yield from self._step_fields(number)
        yield "padding of the protected steps", 8 * self._lead - self.protected * bits
        yield "parity", 8 * self._parity
        for first in range(self.protected, self.steps, self._group):
            last = min(first + self._group, self.steps) - 1
            if last > first:
                yield f"steps {first} to {last}, interleaved", (last + 1 - first) * bits
            else:
                yield from self._step_fields(first)
        yield "padding", 8 * self._rest - (self.steps - self.protected) * bits

    def _step_fields(self, number: int) -> Iterator[tuple[str, int]]:
        return ((f"step {number} {name}", length) for name, length in self.protocol.fields())

    def pack(self, steps: Bits) -> bytes:
        """The payload of ``(steps, bits)`` zeros and ones."""
        lead = np.packbits(steps[: self.protected]).tobytes()
        groups = [steps[first : first + self._group] for first in range(self.protected, self.steps, self._group)]
        rest = np.packbits(np.concatenate([group.T.ravel() for group in groups])).tobytes() if groups else b""
        return lead + protection.parity(lead) + rest

    def read(self, payload: bytes) -> tuple[Integers, Integers]:
        """Repair what can be repaired, and read the atoms of the steps that are there.

        Args:
            payload: of the right length, or cut short: then without repair, if the cut took some of the parity.

        Returns:
            indices and signs, int64 ``(steps, M)`` each, of all steps or of those that arrived whole.

        Raises:
            DecodeError: a step's bits name no set of atoms.
        """
        lead, parity, rest = np.split(np.frombuffer(payload, np.uint8), [self._lead, self._lead + self._parity])
        if len(parity) == self._parity:
            lead = np.frombuffer(protection.repair(lead.tobytes(), parity.tobytes()), np.uint8)
        words = _steps(lead, self.protected, self.protocol.bits)
        words += _steps(rest, self.steps - self.protected, self.protocol.bits, group=self._group)
        read: list[tuple[Integers, Integers]] = []
        for step, word in enumerate(words):
            try:
                read.append(self.protocol.read(word))
            except DecodeError as error:
                raise DecodeError(f"step {step}: {error}") from error
        shape = (len(read), self.protocol.count)
        indices, signs = (np.array([r[part] for r in read], dtype=np.int64).reshape(shape) for part in (0, 1))
        return indices, signs


def _steps(part: Bits, steps: int, bits: int, *, group: int = 1) -> list[Bits]:
    """The steps whose whole group is in ``part``, a payload's bytes."""
    arrived = np.unpackbits(part)
    found: list[Bits] = []
    for first in range(0, steps, group):
        count = min(group, steps - first)
        stop = (first + count) * bits
        if stop > len(arrived):
            break
        found += list(arrived[first * bits : stop].reshape(bits, count).T)
    return found
