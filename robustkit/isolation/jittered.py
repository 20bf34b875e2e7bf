"""A torch dispatch mode that moves each computed float by a few units in the last place, as another machine might.

What every machine computes alike is left: moved and copied data, comparisons, rounding, and results that are whole
numbers, which sums and products of whole numbers give exactly. It imports torch, so only a worker that has torch
imports this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: What makes, moves and copies; views are found without their names.
_MOVES = """
    arange as_strided_scatter block_diag bucketize cat channel_shuffle clone col2im combinations concat concatenate
    constant_pad_nd contiguous copy copysign _copy_from diag diag_embed diagonal_scatter embedding empty empty_like
    empty_strided eye fill fill_diagonal flip fliplr flipud full full_like gather hstack im2col index index_copy
    index_fill index_put _index_put_impl index_select lift lift_fresh masked_fill masked_scatter masked_select meshgrid
    new_empty new_empty_strided new_full new_ones new_zeros ones ones_like pad pixel_shuffle pixel_unshuffle put rand
    rand_like reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d
    replication_pad2d replication_pad3d _reshape_alias_copy resize roll rot90 scalar_tensor scatter select_scatter set
    slice_scatter stack take take_along_dim tile to _to_copy tril triu uniform _unsafe_index _unsafe_view
    upsample_nearest1d upsample_nearest2d upsample_nearest3d view_as_real_copy vstack where zero zeros zeros_like
"""
#: What chooses among values, rounds to whole numbers, or changes signs and exponents.
_CHOICES = """
    abs adaptive_max_pool1d adaptive_max_pool2d aminmax amax amin ceil clamp clamp_max clamp_min clip cummax cummin
    dropout feature_dropout fix floor fmax fmin frexp hardtanh heaviside kthvalue ldexp max max_pool1d max_pool2d
    max_pool2d_with_indices max_pool3d maximum median min minimum mode msort nan_to_num neg negative positive relu relu6
    round sgn sign sort threshold topk trunc unique2 _unique _unique2 unique_consecutive unique_dim
"""
#: Operations whose float results every machine has alike.
EXACT = frozenset(f"{_MOVES} {_CHOICES}".split())
_INTEGERS: Mapping[torch.dtype, torch.dtype] = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


class Jittered(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, each computed float is moved by up to so many units in the last place, either way.

    Args:
        ulps: how many at most.
        relative: the same as a share of the value, where that is more.
        seed: of the moves; torch's own generators are left alone.

    Attributes:
        operations: how many had results that were moved.
        values: how many numbers these results had.
    """

    def __init__(self, ulps: int, relative: float, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.values = 0
        self._ulps, self._relative, self._seed = ulps, relative, seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.is_view or _name(func) in EXACT:
            return found
        given = (
            set() if func._schema.is_mutable else {_place(t) for t in _tensors((args, list((kwargs or {}).values())))}
        )
        fresh = [t for t in _tensors(found) if t.dtype in _INTEGERS and t.numel() and _place(t) not in given]
        for tensor in fresh:
            self._move(tensor)
        self.operations += bool(fresh)
        return found

    def _move(self, numbers: Tensor) -> None:
        kind = torch.finfo(numbers.dtype)
        most = max(self._ulps, int(self._relative / kind.eps))
        bits = numbers.view(_INTEGERS[numbers.dtype])
        # The least are left, whose sign a move could turn. What a move could make infinite is whole.
        able = (numbers.abs() > 2 * kind.tiny).logical_and_(numbers != numbers.round())
        steps = torch.randint(
            -most, most + 1, bits.shape, dtype=bits.dtype, device=bits.device, generator=self._generator(bits.device)
        )
        bits.add_(steps.mul_(able))
        self.values += numbers.numel()

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _name(func: Any) -> str:
    """The operation's own name: neither namespace, nor overload, nor the underscore of one in place."""
    name: str = func._schema.name.rpartition("::")[2]
    return name if name.startswith("_") else name.rstrip("_")


def _place(tensor: Tensor) -> int:
    """Where a tensor's numbers lie: a result that is an argument, or a part of one, was not computed."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        # It has no storage, as a sparse one.
        return id(tensor)


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Sequence) and not isinstance(found, str | bytes):
        for item in found:
            yield from _tensors(item)
