"""One opinion: each stream is decoded by one process, and only what may be somebody else's doing is asked again."""

from __future__ import annotations

from collections.abc import Sequence

from robustkit.isolation import CodecWorkers, Decoded
from robustkit.judging.work import Shape
from robustkit.outcome import Outcome


class Once:
    """Decodes streams whose outcomes are counted, not judged one by one.

    A process may be killed from outside, by a person or by a kernel that is short of memory. So a crash counts if it
    comes a second time, in the process that took the dead one's place.

    Args:
        pool: who decodes.
    """

    def __init__(self, pool: CodecWorkers) -> None:
        self._pool = pool

    def decode_many(self, streams: Sequence[bytes], *, shape: Shape) -> list[Decoded]:
        """What becomes of each stream, in their order."""
        found = self._pool.decode_many(streams, shape=shape)
        if any(said.startswith("decode_batch of") for decoded in found for said in decoded.warnings):
            # Smaller batches may have added up in another order: the whole ones have the first word.
            found = self._pool.decode_many(streams, shape=shape)
        for i, decoded in enumerate(found):
            if decoded.outcome is Outcome.CRASHED:
                found[i] = self._pool.decode(streams[i], shape=shape)
        return found
