"""Matching pursuit: what it chooses is what trying everything chooses, and its bits say just that."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustkit.codecs.rcc.codebook import Codebook, GaussianCodebook, StructuredCodebook
from robustkit.codecs.rcc.pursuit import Pursuit

CPU = torch.device("cpu")


def by_trying_everything(pursuit: Pursuit, atoms: torch.Tensor, residual: torch.Tensor) -> tuple[list[int], float]:
    """Matching pursuit by its definition: every atom with every coefficient, the sum rescaled each time.

    Returns:
        the indices, and the squared correlation of the sum with the residual.
    """
    noise = atoms[(atoms @ residual).argmax()]
    chosen = [int((atoms @ residual).argmax())]
    for added in range(1, pursuit.count):
        best, found = -np.inf, noise
        for g in np.arange(1, 1 + (1 << pursuit.coefficient_bits)) / (1 << pursuit.coefficient_bits):
            c = added / (added + g)
            tried = np.sqrt(c) * noise + np.sqrt(1 - c) * atoms
            tried *= residual.norm() / tried.norm(dim=1, keepdim=True)
            products = tried @ residual
            if products.max() > best:
                best, index = float(products.max()), int(products.argmax())
                found = np.sqrt(c) * noise + np.sqrt(1 - c) * atoms[index]
                found *= atoms[0].norm() / found.norm()
        chosen.append(index)
        noise = found
    return chosen, float((noise @ residual) ** 2 / noise.square().sum() / residual.square().sum())


def chosen_by(pursuit: Pursuit, codebook: Codebook, residual: torch.Tensor) -> tuple[list[int], float]:
    words = pursuit.choose(codebook.inner_products(0, residual[None]))
    noise = pursuit.noise(codebook, 0, words)[0]
    correlation = float((noise @ residual) ** 2 / noise.square().sum() / residual.square().sum())
    return words[0, : pursuit.count].tolist(), correlation


@pytest.mark.parametrize("bits", [0, 1, 3])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_of_orthogonal_atoms_it_finds_what_trying_everything_finds(count: int, bits: int) -> None:
    codebook, pursuit = StructuredCodebook(1024, 1024, 3, CPU), Pursuit(1024, count, bits)
    atoms = codebook.inner_products(0, torch.eye(1024)).T
    for seed in range(5):
        residual = torch.randn(1024, generator=torch.Generator().manual_seed(seed))
        indices, correlation = chosen_by(pursuit, codebook, residual)
        wanted, most = by_trying_everything(pursuit, atoms, residual)
        assert indices == wanted
        assert correlation == pytest.approx(most, rel=1e-3)


@pytest.mark.parametrize(
    "codebook", [StructuredCodebook(4096, 1024, 3, CPU), GaussianCodebook(2048, 1024, 3, CPU)], ids=["bases", "random"]
)
def test_of_overlapping_atoms_it_finds_nearly_as_good_ones(codebook: Codebook) -> None:
    pursuit = Pursuit(codebook.size, 3, 2)
    atoms = codebook.inner_products(0, torch.eye(1024)).T
    ratios = []
    for seed in range(10):
        residual = torch.randn(1024, generator=torch.Generator().manual_seed(seed))
        ratios.append(chosen_by(pursuit, codebook, residual)[1] / by_trying_everything(pursuit, atoms, residual)[1])
    assert np.mean(ratios) > 0.95


@pytest.mark.parametrize("bits", [0, 1, 2, 5])
@pytest.mark.parametrize(("size", "count"), [(1 << 13, 2), (1 << 12, 1), (1 << 12, 16)])
def test_the_schedule_s_correlation_is_the_measured_one(size: int, count: int, bits: int) -> None:
    pursuit, codebook = Pursuit(size, count, bits), StructuredCodebook(size, 8192, 3, CPU)
    residuals = torch.randn(400, 8192, generator=torch.Generator().manual_seed(0))
    noise = pursuit.noise(codebook, 0, pursuit.choose(codebook.inner_products(0, residuals)))
    found = torch.nn.functional.cosine_similarity(noise, residuals, dim=1).square()
    assert float(found.mean()) == pytest.approx(pursuit.correlation(8192), rel=0.03)


def test_coefficients_bring_something_and_the_more_bits_the_more() -> None:
    found = [Pursuit(1 << 12, 8, bits).correlation(1024) for bits in range(5)]
    assert found == sorted(found)
    assert found[0] < found[-1] < 1.02 * found[0]


@given(coefficients=st.lists(st.integers(0, 7), max_size=30))
def test_weights_are_the_recursion_of_matching_pursuit(coefficients: list[int]) -> None:
    weights = np.ones(1)
    for added, coefficient in enumerate(coefficients, start=1):
        c = added / (added + (coefficient + 1) / 8)
        weights = np.append(np.sqrt(c) * weights, np.sqrt(1 - c))
    found = Pursuit(1 << 12, len(coefficients) + 1, 3).weights(np.array(coefficients, dtype=np.int64))
    assert np.allclose(found / np.linalg.norm(found), weights, atol=1e-12)
    assert np.allclose(np.linalg.norm(weights), 1)


def test_no_atom_weighs_more_than_the_best() -> None:
    pursuit = Pursuit(1 << 12, 3, 2)
    for coefficients in itertools.product(range(4), repeat=2):
        weights = pursuit.weights(np.array(coefficients))
        assert weights[0] == 1
        assert (weights <= 1 + 1e-12).all()


@given(
    size=st.integers(1, 24),
    count=st.integers(1, 12),
    bits=st.integers(0, 7),
    steps=st.integers(1, 9),
    data=st.data(),
)
def test_words_and_payloads_say_each_other(size: int, count: int, bits: int, steps: int, data: st.DataObject) -> None:
    pursuit = Pursuit(1 << size, count, bits)
    payload = data.draw(st.binary(min_size=pursuit.payload_bytes(steps), max_size=pursuit.payload_bytes(steps)))
    words = pursuit.read(payload, steps)
    assert words.shape == (steps, 2 * count - 1)
    assert words.min() >= 0
    assert words[:, :count].max() < 1 << size
    assert words[:, count:].max(initial=0) < 1 << bits
    used = steps * pursuit.bits
    assert pursuit.bits == sum(length for _, length in pursuit.fields())
    written = np.unpackbits(np.frombuffer(pursuit.write(words), np.uint8))
    assert np.array_equal(written[:used], np.unpackbits(np.frombuffer(payload, np.uint8))[:used])
    assert not written[used:].any()
    # Cut short, it says the first of the same words.
    cut = payload[: data.draw(st.integers(0, len(payload)))]
    assert np.array_equal(pursuit.read(cut, steps), words[: min(steps, 8 * len(cut) // pursuit.bits)])
