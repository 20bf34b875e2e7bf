"""Convolutions with fewer multiplications give what torch's own give, to rounding, and only decoders have them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustkit.priors import load_prior
from robustkit.priors.blockdiffusion import WINOGRAD_FROM, WINOGRAD_TO, BlockDiffusionPrior
from robustkit.priors.winograd import PARTS, VIEWS, WinogradConv, Workspaces, for_batches, in_parts


@pytest.fixture(scope="module")
def prior() -> BlockDiffusionPrior:
    loaded = load_prior("embedded")
    assert isinstance(loaded, BlockDiffusionPrior)
    return loaded


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def convolution(channels: int, out: int, seed: int = 0) -> nn.Conv2d:
    conv = nn.Conv2d(channels, out, 3, padding=1).requires_grad_(False)
    conv.weight.copy_(numbers(out, channels, 3, 3, seed=seed) / 3 / channels**0.5)
    conv.bias.copy_(numbers(out, seed=seed + 1))
    return conv


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    out=st.integers(1, 9),
    silu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_is_convolved_as_torch_does(
    shape: tuple[int, int, int, int], out: int, silu: bool, seed: int
) -> None:
    conv, x, offset = convolution(shape[1], out, seed), numbers(*shape, seed=seed), numbers(shape[0], out, seed=seed)
    workspaces = Workspaces()
    fast = WinogradConv(conv, workspaces)
    expected = conv.double()(F.silu(x.double()) if silu else x.double()) + offset.double()[:, :, None, None]
    # What lay there before must not be seen.
    with workspaces.lent() as workspace:
        for name in ("framed", "rows", "tiles", "products", "spare"):
            workspace.take(name, 1 << 16).fill_(torch.nan)
    assert torch.allclose(fast(x, offset, silu=silu).double(), expected, atol=2e-4)


def test_batches_are_estimated_as_one_by_one(prior: BlockDiffusionPrior) -> None:
    level, noisy = prior.level_at_snr(0.0), numbers(5, *prior.latent_shape(192, 160))
    with torch.inference_mode():
        together = prior.predict_loosely(noisy, level)
        singly = torch.cat([prior.predict_clean(one[None], level) for one in noisy])
    assert not torch.equal(together, singly)
    assert (together - singly).abs().max() < 1e-4
    assert together.is_contiguous()


def test_only_batches_of_moderate_images_in_float32_are(
    prior: BlockDiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    level, calls = prior.level_at_snr(0.0), []
    monkeypatch.setattr(prior, "predict_clean", lambda noisy, _: calls.append(tuple(noisy.shape)) or noisy)
    monkeypatch.setitem(vars(prior), "_for_batches", lambda noisy, _: noisy)
    side = int(WINOGRAD_TO**0.5)
    plain = [(1, 1, side, side), (2, 1, side, side + 1), (WINOGRAD_FROM - 1, 1, 1, 1)]
    for shape in [*plain, (2, 1, side, side), (WINOGRAD_FROM, 1, 1, 1)]:
        assert prior.predict_loosely(torch.zeros(shape), level).shape == shape
    assert calls == plain
    monkeypatch.setattr(prior, "dtype", torch.bfloat16)
    prior.predict_loosely(torch.zeros(2, 1, side, side), level)
    monkeypatch.setattr(prior, "dtype", torch.float32)
    monkeypatch.setattr(prior, "device", torch.device("cuda"))
    prior.predict_loosely(torch.zeros(2, 1, side, side), level)
    assert len(calls) == len(plain) + 2


def test_threads_have_workspaces_of_their_own(prior: BlockDiffusionPrior) -> None:
    network = for_batches(prior.denoiser)
    batches = [numbers(2, 64, 32, 32, seed=seed) for seed in range(4)]

    def estimate(batch: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = network(batch, torch.full((2,), 0.5))
            return found

    alone = [estimate(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(estimate, batches))
    assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))


def test_views_of_a_workspace_follow_its_memory_and_are_not_kept_for_ever() -> None:
    conv = convolution(2, 3)
    fast = WinogradConv(conv, Workspaces())
    for side in [8, 3, 40, 8, 3, *range(1, VIEWS + 9)]:
        x = numbers(1, 2, side % 50 + 1, 5, seed=side)
        assert torch.allclose(fast(x), conv(x), atol=1e-4)
    with fast.workspaces.lent() as workspace:
        for height in range(VIEWS + 1):
            workspace.views(1, height + 1, 1, 1, 1)
        assert len(workspace._views) == 1


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_a_batch_in_parts_is_estimated_as_its_parts_are(prior: BlockDiffusionPrior, threads: int, count: int) -> None:
    network = for_batches(prior.denoiser)
    noisy, level = numbers(count, 64, 32, 32), torch.linspace(0.2, 0.8, count)
    with torch.inference_mode():
        parts = [network(*part) for part in zip(noisy.split(2), level.split(2), strict=True)]
        # One mode and then the other, in the same memory.
        for recorded in (True, False, True):
            with torch.inference_mode(not recorded):
                found = in_parts(network, noisy, level, least=2)
                assert found.is_inference() is not recorded
                assert torch.allclose(found, torch.cat(parts), atol=1e-5)
    assert torch.get_num_threads() == threads


def test_parts_have_torchs_threads_between_them_and_give_them_back(threads: int) -> None:
    seen = []

    def network(batch: Tensor, level: Tensor, barrier: threading.Barrier) -> Tensor:
        barrier.wait(60)
        seen.append((len(batch), torch.get_num_threads()))
        if len(level) == 4:
            raise MemoryError("none left")
        return batch

    batch, at_once = numbers(7, 1), partial(network, barrier=threading.Barrier(threads))
    assert torch.equal(in_parts(at_once, batch, torch.zeros(7), least=2), batch)
    assert sorted(seen) == [(2, 1), (2, 1), (3, 1)]
    with pytest.raises(MemoryError, match="none left"):
        in_parts(at_once, numbers(12, 1), torch.zeros(12), least=2)
    assert torch.get_num_threads() == threads
    seen.clear()
    alone = partial(network, barrier=threading.Barrier(1))
    assert torch.equal(in_parts(alone, batch[:3], torch.zeros(3), least=2), batch[:3])
    assert seen == [(3, threads)]
    seen.clear()
    torch.set_num_threads(2 * PARTS + 1)
    in_parts(alone, numbers(3 * PARTS, 1), torch.zeros(3 * PARTS), least=1)
    assert seen == [(3, 2)] * PARTS
    assert torch.get_num_threads() == 2 * PARTS + 1
    # Callers whose batches are not cut wait for nobody.
    beside = partial(in_parts, partial(network, barrier=threading.Barrier(2)), batch[:3], torch.zeros(3), least=2)
    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(found.result(), batch[:3]) for found in [pool.submit(beside), pool.submit(beside)])


def test_the_threads_of_parts_stay_so_that_what_they_waited_is_known(threads: int) -> None:
    seen = set()

    def network(batch: Tensor, level: Tensor) -> Tensor:
        seen.add(threading.current_thread())
        return batch

    for _ in range(3 * PARTS):
        in_parts(network, numbers(6, 1), torch.zeros(6), least=2)
    assert threading.current_thread() not in seen
    assert seen <= set(threading.enumerate())
    assert len(seen) <= PARTS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_has_threads_of_its_own() -> None:
    script = """
import os, threading, time, torch
from robustkit.priors.winograd import in_parts
torch.set_num_threads(2)
batch = torch.ones(4, 1)
def estimate():
    both = threading.Barrier(2)
    return bool(torch.equal(in_parts(lambda x, level: both.wait() * 0 + x, batch, batch, least=1), batch))
assert estimate()
time.sleep(0.5)  # until both are idle
if (child := os.fork()) == 0:
    os._exit(0 if estimate() else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_the_weights_are_shared_with_the_network_that_stays(prior: BlockDiffusionPrior) -> None:
    theirs = {tensor.data_ptr() for tensor in prior.denoiser.parameters()}
    network = for_batches(prior.denoiser)
    assert {tensor.data_ptr() for tensor in network.parameters()} <= theirs
    assert not any(isinstance(module, WinogradConv) for module in prior.denoiser.modules())
    assert sum(isinstance(module, WinogradConv) for module in network.modules()) > 20
