"""Convolutions with fewer multiplications give what torch's own give, to rounding, and only decoders have them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustkit.priors import load_prior
from robustkit.priors.blockdiffusion import WINOGRAD_FROM, WINOGRAD_TO, BlockDiffusionPrior
from robustkit.priors.winograd import WinogradConv, Workspace, for_batches


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
    workspace = Workspace()
    fast = WinogradConv(conv, workspace)
    expected = conv.double()(F.silu(x.double()) if silu else x.double()) + offset.double()[:, :, None, None]
    # What lay there before must not be seen.
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


def test_the_weights_are_shared_with_the_network_that_stays(prior: BlockDiffusionPrior) -> None:
    theirs = {tensor.data_ptr() for tensor in prior.denoiser.parameters()}
    network = for_batches(prior.denoiser)
    assert {tensor.data_ptr() for tensor in network.parameters()} <= theirs
    assert not any(isinstance(module, WinogradConv) for module in prior.denoiser.modules())
    assert sum(isinstance(module, WinogradConv) for module in network.modules()) > 20
