"""The payload: where each step's bits lie, which of them are protected, and how they are read back."""

from __future__ import annotations

import numpy as np

from robustkit.codec import DecodeError
from robustkit.codecs.rcc import protection
from robustkit.codecs.rcc.protocol import BitProtocol, Bits, Integers


class Payload:
    """The protected steps, their parity, the other steps; each of the three padded to whole bytes.

    Args:
        protocol: writes a step.
        steps: how many carry bits.
        protected: how many of them, from the first, are under forward error correction.
    """

    def __init__(self, protocol: BitProtocol, *, steps: int, protected: int) -> None:
        self.protocol, self.steps, self.protected = protocol, steps, min(protected, steps)
        self._lead = -(-self.protected * protocol.bits // 8)
        self._parity = protection.parity_bytes(self._lead)
        self._rest = -(-(steps - self.protected) * protocol.bits // 8)

    def __len__(self) -> int:
        """Bytes of the payload."""
        return self._lead + self._parity + self._rest

    def fields(self) -> list[tuple[str, int]]:
        """Names and bit counts of the payload's fields, in their order."""
        step, bits = self.protocol.fields(), self.protocol.bits
        lead, rest = (
            [(f"step {number} {name}", length) for number in numbers for name, length in step]
            for numbers in (range(self.protected), range(self.protected, self.steps))
        )
        lead.append(("padding of the protected steps", 8 * self._lead - self.protected * bits))
        rest.append(("padding", 8 * self._rest - (self.steps - self.protected) * bits))
        return [(name, length) for name, length in (*lead, ("parity", 8 * self._parity), *rest) if length]

    def pack(self, steps: Bits) -> bytes:
        """The payload of ``(steps, bits)`` zeros and ones."""
        lead, rest = (np.packbits(part).tobytes() for part in (steps[: self.protected], steps[self.protected :]))
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
        bits = self.protocol.bits
        words = []
        for part, steps in ((lead, self.protected), (rest, self.steps - self.protected)):
            arrived = min(steps, 8 * len(part) // bits)
            words.append(np.unpackbits(part, count=arrived * bits).reshape(arrived, bits))
        read: list[tuple[Integers, Integers]] = []
        for step, word in enumerate(np.concatenate(words)):
            try:
                read.append(self.protocol.read(word))
            except DecodeError as error:
                raise DecodeError(f"step {step}: {error}") from error
        shape = (len(read), self.protocol.count)
        indices, signs = (np.array([r[part] for r in read], dtype=np.int64).reshape(shape) for part in (0, 1))
        return indices, signs
