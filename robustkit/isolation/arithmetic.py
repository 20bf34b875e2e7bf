"""A hook that has a worker's torch compute as another machine's might: other kernels, threads, and jittered results.

It runs in workers alone, and does not import torch: a codec that has none decodes as without the hook.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustkit.isolation.jittered import Jittered


class Arithmetic:
    """Changes torch's arithmetic for the time of a decode, and puts it back."""

    def __init__(self) -> None:
        self._onednn: bool | None = None
        self._threads: int | None = None
        self._ulps = 0
        self._relative = 0.0
        self._seed = 0
        self._applied = False
        self._jittered: Jittered | None = None

    def set(
        self,
        *,
        onednn: bool | None = None,
        threads: int | None = None,
        ulps: int = 0,
        relative: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Choose the arithmetic of the next decodes; what is not given is as torch has it.

        Args:
            onednn: whether torch may use oneDNN's kernels.
            threads: of torch's operations.
            ulps: by how many units in the last place results are jittered at most.
            relative: the same as a share of the result, where that is more.
            seed: of the jitter, which is the same in each decode.
        """
        self._onednn, self._threads = onednn, threads
        self._ulps, self._relative, self._seed = ulps, relative, seed

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Where a decode runs."""
        torch = sys.modules.get("torch")
        self._applied, self._jittered = torch is not None, None
        with contextlib.ExitStack() as stack:
            if torch is not None:
                if self._onednn is not None:
                    stack.enter_context(_onednn(torch, self._onednn))
                if self._threads is not None:
                    stack.enter_context(_threads(torch, self._threads))
                if self._ulps:
                    from robustkit.isolation.jittered import Jittered

                    self._jittered = stack.enter_context(Jittered(self._ulps, self._relative, self._seed))
            yield

    def told(self) -> dict[str, Any]:
        """Of the last decode.

        Returns:
            "torch": its version, or ``None`` where the worker has none by now; "applied": whether it was there when the
            decode began; "capability": of torch's kernels; "operations", "values": how many were jittered.
        """
        torch = sys.modules.get("torch")
        jittered = self._jittered
        return {
            "torch": None if torch is None else str(torch.__version__),
            "applied": self._applied,
            "capability": None if torch is None else str(torch.backends.cpu.get_cpu_capability()),
            "operations": 0 if jittered is None else jittered.operations,
            "values": 0 if jittered is None else jittered.values,
        }


@contextlib.contextmanager
def _onednn(torch: Any, enabled: bool) -> Iterator[None]:
    before, *_ = torch.backends.mkldnn.set_flags(enabled)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(before)


@contextlib.contextmanager
def _threads(torch: Any, count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
