"""Hooks: what a worker runs around its codec's decodes, and the one that changes torch's arithmetic."""

from __future__ import annotations

import hooked
import hostile
import numpy as np
import pytest
import torch

from robustkit import Codec, CodecSpec, CodecUnavailable
from robustkit.codec import adapt
from robustkit.isolation import ARITHMETIC, CodecWorkers, Hook, Limits, WorkerError
from robustkit.isolation.arithmetic import Arithmetic
from robustkit.isolation.jittered import Jittered
from robustkit.registry import Target

LIMITS = Limits(seconds=10, memory=256 * 2**20, start_seconds=60)


def spec(codec: type, **settings: object) -> CodecSpec:
    return CodecSpec(codec.name, Target("hostile", codec.__qualname__, hostile.__file__), settings)


def test_a_hook_runs_around_each_decode_and_hears_settings(tmp_path):
    hook = Hook(hooked.__name__, "Counting", {"step": 2})
    stream = hostile.Honest().encode(np.zeros((8, 8, 3), np.uint8))
    with CodecWorkers(spec(hostile.Honest), limits=LIMITS, directory=tmp_path, hook=hook) as pool:
        assert pool.hook() == {"count": 0}
        assert pool.decode(stream).image is not None
        assert pool.hook() == {"count": 2}
        pool.hook(step=5)
        pool.decode(stream)
        assert pool.hook() == {"count": 7}
        # Whatever takes the process's place has the settings that were given last.
        pool.restart()
        pool.decode(stream)
        assert pool.hook() == {"count": 5}
        with pytest.raises(WorkerError, match="the hook of codec 'hostile-honest': TypeError"):
            pool.hook(stride=1)


def test_a_pool_without_a_hook_says_so(tmp_path):
    with (
        CodecWorkers(spec(hostile.Honest), limits=LIMITS, directory=tmp_path) as pool,
        pytest.raises(ValueError, match="has no hook"),
    ):
        pool.hook(step=1)


def test_without_torch_the_arithmetic_is_left_alone(tmp_path):
    stream = hostile.Honest().encode(np.zeros((8, 8, 3), np.uint8))
    with CodecWorkers(spec(hostile.Honest), limits=LIMITS, directory=tmp_path, hook=ARITHMETIC) as pool:
        pool.hook(onednn=False, threads=1, ulps=1)
        assert pool.decode(stream).image is not None
        told = {"torch": None, "applied": False, "capability": None, "operations": 0, "values": 0}
        assert pool.hook() == told


@pytest.mark.parametrize("tolerance", [5, [300, 1], ["a", "b"]])
def test_a_tolerance_that_makes_no_sense_is_refused(tmp_path, tolerance):
    astray = CodecSpec("astray", Target("hooked", "Astray", hooked.__file__), {"tolerance": tolerance})
    with pytest.raises(CodecUnavailable, match="give grey levels at worst and on average"):
        CodecWorkers(astray, limits=LIMITS, directory=tmp_path)


def test_a_codec_says_how_far_its_pixels_may_lie_apart(tmp_path):
    class Bare:
        tolerance = (7.0, 1.0)

        def encode(self, image):
            return b""

        def decode(self, bitstream):
            return np.zeros((1, 1, 3), np.uint8)

    assert adapt(Bare(), name="bare").tolerance == (7.0, 1.0)
    with CodecWorkers(spec(hostile.Honest), limits=LIMITS, directory=tmp_path) as pool:
        assert pool.attributes.tolerance == Codec.tolerance == (2.0, 0.05)


# -- torch's arithmetic, in this process ----------------------------------------------------------------------


def test_the_arithmetic_is_changed_for_the_time_of_a_decode():
    hook = Arithmetic()
    onednn, threads = torch._C._get_mkldnn_enabled(), torch.get_num_threads()
    hook.set(onednn=not onednn, threads=threads + 1, ulps=1)
    with hook.around():
        assert torch._C._get_mkldnn_enabled() is not onednn
        assert torch.get_num_threads() == threads + 1
        torch.ones(3).exp()
    assert (torch._C._get_mkldnn_enabled(), torch.get_num_threads()) == (onednn, threads)
    told = hook.told()
    assert told["applied"] is True
    assert (told["operations"], told["values"]) == (1, 3)
    hook.set()
    with hook.around():
        assert (torch._C._get_mkldnn_enabled(), torch.get_num_threads()) == (onednn, threads)
    assert hook.told()["operations"] == 0


NUMBERS = torch.linspace(0.1, 900.1, 1000)


def steps(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """By how many units in the last place positive numbers differ."""
    integers = {4: torch.int32, 8: torch.int64, 2: torch.int16}[before.element_size()]
    return (after.view(integers) - before.view(integers)).long()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ulps", [1, 4])
def test_computed_floats_move_by_so_many_units_at_most(kind, ulps):
    numbers = NUMBERS.to(kind)
    exact = numbers * 1.7
    for negative in (False, True):
        with Jittered(ulps, 0.0, seed=1):
            moved = (-numbers if negative else numbers) * 1.7
        found = steps(exact, moved.abs())
        assert set(found.unique().tolist()) == set(range(-ulps, ulps + 1))


def test_a_relative_amount_is_a_share_of_the_value():
    exact = NUMBERS * 1.7
    with Jittered(4, 1e-3, seed=1):
        moved = NUMBERS * 1.7
    away = ((moved - exact) / exact).abs()
    assert 9e-4 < away.max() <= 1.001e-3
    # Where that is less than a few units, those count.
    with Jittered(4, 1e-9, seed=1):
        moved = NUMBERS * 1.7
    assert steps(exact, moved).abs().max() == 4


@pytest.mark.parametrize(
    "exactly",
    [
        lambda x: x.view(10, 100).transpose(0, 1).reshape(-1),
        lambda x: torch.cat([x, x])[torch.arange(1000)],
        lambda x: x.floor(),
        lambda x: torch.nn.functional.pad(x, (2, 2)).clamp(1, 50),
        lambda x: x.to(torch.float64),
        lambda x: x.sort().values.abs().neg(),
        lambda x: torch.where(x > 3, x, -x),
        lambda x: torch.full((3,), 0.3),
        lambda x: x.clone().fill_(0.3),
        lambda x: x > 0.5,
        lambda x: torch.nn.functional.dropout(x, training=False),
        # Sums and products of whole numbers.
        lambda x: x.round() @ x.round() + x.round() * 3,
        lambda x: torch.tensor([float("nan"), float("inf"), 0.0, -0.0, 1e-44]) * torch.ones(5),
    ],
)
def test_what_every_machine_computes_alike_is_left(exactly):
    before = exactly(NUMBERS)
    with Jittered(1, 0.0, seed=1):
        after = exactly(NUMBERS)
    assert torch.equal(before.nan_to_num(nan=7.0), after.nan_to_num(nan=7.0))


def test_results_in_place_and_in_a_given_tensor_move_too():
    numbers, out = NUMBERS.clone(), torch.empty(1000)
    with torch.inference_mode(), Jittered(1, 0.0, seed=1) as jitter:
        numbers.mul_(1.7)
        torch.mul(NUMBERS, 1.7, out=out)
        torch.linalg.qr(torch.eye(3) + 0.3)
    assert jitter.operations >= 3
    for moved in (numbers, out):
        assert steps(NUMBERS * 1.7, moved).abs().max() == 1


def test_a_seed_gives_the_same_moves_and_leaves_torchs_own_alone():
    def moved(seed: int) -> torch.Tensor:
        with Jittered(1, 0.0, seed):
            return NUMBERS.exp().log()

    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    first = moved(1)
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(first, moved(1))
    assert not torch.equal(first, moved(2))
