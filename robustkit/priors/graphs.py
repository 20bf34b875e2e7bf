"""Work that repeats on an NVIDIA GPU, started at once as a CUDA graph instead of operation by operation.

A GPU is done with most operations of a small denoiser before the next one is started, so that it waits. A graph is
captured for one piece of work and one shape of its inputs, and replayed from then on; everything else runs plainly.
Replayed are the kernels that ran before, so numbers stay the same.

Off by default, since it has not run on a GPU yet; the environment variable ``ROBUSTKIT_CUDA_GRAPHS=1`` switches it on.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from robustkit.errors import RobustkitError

SWITCH = "ROBUSTKIT_CUDA_GRAPHS"
#: So often is a piece of work done plainly: capturing costs several times as much as doing it, and batches of streams
#: that part have another size at each step.
PLAINLY = 2
#: Graphs that are kept, and numbers in their inputs together: each has memory of its own for all that it computes.
GRAPHS, NUMBERS = 16, 1 << 23
#: Pieces of work that are counted, or known not to be captured.
COUNTED = 256
#: Calls before a capture, in which libraries choose their kernels and take their memory.
WARM_UP = 3

#: Depends on its inputs alone, which are tensors of one device, and makes tensors.
Work: TypeAlias = Callable[..., tuple[Tensor, ...]]
Captured: TypeAlias = Callable[..., tuple[Tensor, ...]]
#: Gives what does the work from now on, for inputs of these shapes.
Capture: TypeAlias = Callable[[Work, Sequence[Tensor]], Captured]

#: What a forked process inherited: to free it there would call CUDA, which a forked process can't.
_abandoned: list[object] = []


class GraphsError(RobustkitError, ValueError):
    """The switch has a value that says neither on nor off."""


class CudaGraph:
    """Work captured as a CUDA graph: takes inputs of the same shapes, and gives copies of what it made."""

    def __init__(self, work: Work, inputs: Sequence[Tensor]) -> None:
        device = inputs[0].device
        self.inputs = [given.clone() for given in inputs]
        here, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    work(*self.inputs)
            here.wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            # Other threads may go on: nothing that they do touches this capture.
            with torch.cuda.graph(self.graph, stream=aside, capture_error_mode="thread_local"):
                self.outputs = work(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.graph.replay()
        return tuple(made.clone() for made in self.outputs)


class Graphs:
    """The graphs of one device, least recently used ones dropped.

    Args:
        capture: makes a graph; :class:`CudaGraph`.
        most: graphs that are kept.
        numbers: in the inputs of all that are kept. Work with more is never captured.
        plainly: how often work is done before it is captured.
    """

    def __init__(self, capture: Capture, *, most: int = GRAPHS, numbers: int = NUMBERS, plainly: int = PLAINLY) -> None:
        self._capture, self._most, self._numbers, self._plainly = capture, most, numbers, plainly
        self._forget()

    def _forget(self) -> None:
        self._process, self._lock = os.getpid(), threading.RLock()
        self._graphs: OrderedDict[Hashable, tuple[Captured, int]] = OrderedDict()
        #: How often, or None for what can't be captured.
        self._done: OrderedDict[Hashable, int | None] = OrderedDict()

    def run(self, name: Hashable, work: Work, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What ``work`` makes of ``inputs``.

        Args:
            name: says, with the inputs' shapes and types, what the work is: of one name it does the same whoever asks.
            work: without anything that waits for the GPU.
            inputs: at least one tensor; not changed.
        """
        if os.getpid() != self._process:
            _abandoned.append(self._graphs)
            self._forget()
        key = (name, *((tuple(given.shape), given.dtype, given.device) for given in inputs))
        # A graph has one set of inputs, so one thread at a time.
        with self._lock:
            captured = self._captured(key, work, inputs)
            return work(*inputs) if captured is None else captured(*inputs)

    def _captured(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> Captured | None:
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key][0]
        numbers = sum(given.numel() for given in inputs)
        done = self._done.pop(key, 0)
        if done is None or done < self._plainly or numbers > self._numbers:
            self._count(key, None if done is None else min(done + 1, self._plainly))
            return None
        # Before the new one takes memory.
        while self._graphs and (len(self._graphs) >= self._most or self._held() + numbers > self._numbers):
            self._graphs.popitem(last=False)
        try:
            captured = self._capture(work, inputs)
        except RuntimeError as error:
            # Torch's own errors, memory that is used up among them.
            self._count(key, None)
            warnings.warn(f"not captured as a CUDA graph, runs without: {error}", RuntimeWarning, stacklevel=4)
            return None
        self._graphs[key] = captured, numbers
        return captured

    def _held(self) -> int:
        return sum(numbers for _, numbers in self._graphs.values())

    def _count(self, key: Hashable, done: int | None) -> None:
        self._done[key] = done
        if len(self._done) > COUNTED:
            self._done.popitem(last=False)


def graphs_of(device: torch.device) -> Graphs | None:
    """The graphs of ``device``, or ``None`` where work runs plainly: on anything but CUDA, and unless switched on.

    Raises:
        GraphsError: the environment variable is neither 0 nor 1.
    """
    said = os.environ.get(SWITCH, "")
    if said not in ("", "0", "1"):
        raise GraphsError(f"{SWITCH}={said}: give 1 for on, or 0 for off, the default")
    return _of_device(device) if said == "1" and device.type == "cuda" else None


@lru_cache(maxsize=8)
def _of_device(device: Any) -> Graphs:
    return Graphs(CudaGraph)
