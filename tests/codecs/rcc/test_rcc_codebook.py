"""Codebooks: orthogonal, the same everywhere, and good at what they are for."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from robustkit.codecs.rcc import codebook as codebook_module
from robustkit.codecs.rcc.codebook import Codebook, GaussianCodebook, StructuredCodebook

CPU = torch.device("cpu")
KINDS = [StructuredCodebook, GaussianCodebook]


def atoms_of(codebook: Codebook, step: int) -> torch.Tensor:
    """The codebook as a (K, n) matrix."""
    return codebook.inner_products(step, torch.eye(codebook.length)).T


@pytest.mark.parametrize("length", [64, 768, 960, 1536])
def test_atoms_of_a_structured_basis_are_exactly_orthogonal(length: int) -> None:
    atoms = atoms_of(StructuredCodebook(2 * length, length, 3, CPU), 5).to(torch.float64)
    for basis in atoms.split(length):
        gram = basis @ basis.T
        assert torch.equal(gram, torch.diag(gram.diag()))
        assert len(gram.diag().unique()) == 1


def test_atoms_of_a_structured_codebook_are_integers() -> None:
    atoms = atoms_of(StructuredCodebook(768, 768, 3, CPU), 0)
    assert torch.equal(atoms, atoms.round())


def test_two_bases_are_unlike_each_other() -> None:
    atoms = atoms_of(StructuredCodebook(4 * 768, 768, 3, CPU), 0)
    cosines = torch.corrcoef(atoms)
    cosines.fill_diagonal_(0)
    assert cosines.abs().max() < 0.3


@pytest.mark.parametrize("length", [1024, 1536])
def test_atoms_stay_apart_where_a_residual_has_its_energy(length: int) -> None:
    # Latents keep most in the first components. Products of atoms that differ only elsewhere must differ too.
    codebook = StructuredCodebook(length, length, 3, CPU)
    residual = torch.zeros(1, length)
    residual[:, : length // 8] = torch.randn(1, length // 8, generator=torch.Generator().manual_seed(0))
    quarters = codebook.inner_products(0, residual).view(4, -1)
    cosines = torch.nn.functional.cosine_similarity(quarters[:, None], quarters[None], dim=2)
    assert (cosines - torch.eye(4)).abs().max() < 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_combining_is_the_adjoint_of_inner_products(kind: type[Codebook]) -> None:
    codebook = kind(1024, 768, 11, CPU)
    atoms = atoms_of(codebook, 2)
    indices, signs = torch.tensor([[3, 700, 1023], [0, 1, 2]]), torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    wanted = torch.stack([signs[row] @ atoms[indices[row]] for row in range(2)])
    wanted /= wanted.std(dim=1, keepdim=True)
    assert torch.allclose(codebook.combine(2, indices, signs), wanted, atol=1e-4)


@pytest.mark.parametrize(("size", "length"), [(1024, 768), (4096, 1024), (2048, 1536), (256, 256)])
def test_few_rows_add_up_to_the_same_bits_as_transforms(size: int, length: int) -> None:
    codebook = StructuredCodebook(size, length, 11, CPU)
    indices = torch.randint(size, (5, 60), generator=torch.Generator().manual_seed(0))
    signs = torch.where(torch.rand(5, 60, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0)
    _, own = codebook._signs(3)
    few = codebook._few_rows(indices, signs, own)
    assert torch.equal(few, codebook._rows(indices, signs, own))


@pytest.mark.parametrize("cached", [1, 2 * 768, 3 * 768])
def test_products_are_the_same_however_many_bases_are_transformed_together(
    cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    residuals = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
    together = StructuredCodebook(5 * 768 - 100, 768, 5, CPU).inner_products(3, residuals)
    monkeypatch.setattr(codebook_module, "CACHED", cached)
    in_turns = StructuredCodebook(5 * 768 - 100, 768, 5, CPU).inner_products(3, residuals)
    assert torch.allclose(in_turns, together, atol=1e-3)


@pytest.mark.parametrize(("room", "drawn_again"), [(1 << 25, 0), (3 * 768 * 8 * 2, 2), (0, 4)])
def test_signs_are_kept_for_the_next_codebook_while_there_is_room(
    room: int, drawn_again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codebook_module, "KEPT", room)
    codebook_module._kept.cache_clear()
    first = StructuredCodebook(1536, 768, 5, CPU)
    # Signs are drawn for several steps at once: some of each batch tell.
    steps = range(0, 32, 4)
    atoms = [atoms_of(first, step).clone() for step in steps]
    drawn = []
    second = StructuredCodebook(1536, 768, 5, CPU)
    monkeypatch.setattr(second, "_draw", lambda steps: drawn.append(steps) or first._draw(steps))
    assert all(torch.equal(atoms_of(second, step), found) for step, found in zip(steps, atoms, strict=True))
    assert len(drawn) == drawn_again
    # Others' are others.
    assert not torch.equal(atoms_of(StructuredCodebook(1536, 768, 6, CPU), 0), atoms[0])
    assert torch.equal(atoms_of(StructuredCodebook(1536, 768, 5, CPU), 0), atoms[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_doubled_atom_counts_twice(kind: type[Codebook]) -> None:
    # Flipped bits can name one atom twice; the sum must not depend on how that is added up.
    codebook = kind(256, 768, 11, CPU)
    atoms = atoms_of(codebook, 0)
    combined = codebook.combine(0, torch.tensor([[9, 9, 4]]), torch.tensor([[1.0, 1.0, 1.0]]))
    wanted = 2 * atoms[9] + atoms[4]
    assert torch.allclose(combined[0], wanted / wanted.std(), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_atoms_that_cancel_give_a_finite_noise(kind: type[Codebook]) -> None:
    combined = kind(256, 768, 11, CPU).combine(0, torch.tensor([[9, 9]]), torch.tensor([[1.0, -1.0]]))
    assert torch.equal(combined, torch.zeros(1, 768))


def test_the_structured_codebook_never_changes_silently() -> None:
    """Streams in the field name atoms of this very codebook: a change here is a new container version."""
    digest = hashlib.sha256()
    for size, length, step in [(768, 768, 0), (1024, 768, 1), (4096, 1536, 7), (256, 256, 3)]:
        atoms = atoms_of(StructuredCodebook(size, length, 88888888, CPU), step).numpy().astype("<i4")
        digest.update(np.ascontiguousarray(atoms).tobytes())
    assert digest.hexdigest() == "d44d51a44b18158352e427d2b7afc1d58938003b552837e85549fa5acbddd914"
