"""SSIMULACRA 2 against scores of libjxl's program.

The scores are those that the tests of github.com/imazen/ssimulacra2 (reference_data.rs, 2026-01-04) hold, captured from
libjxl's ``ssimulacra2`` for images of simple formulas. Facts only: the images are made here, and the digests of their
pixels are the published ones.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from robustkit.codecs.jpeg import Jpeg
from robustkit.images import photographs
from robustkit.quality import METRICS, PERCEPTUAL, measure
from robustkit.quality.ssimulacra2 import ssimulacra2

Image = npt.NDArray[np.uint8]


def grey(values: npt.ArrayLike, side: int) -> Image:
    """``values`` across, the same in each row."""
    return np.ascontiguousarray(np.broadcast_to(np.reshape(values, (1, -1, 1)), (side, side, 3)).astype(np.uint8))


def flat(level: int, side: int) -> Image:
    return grey(np.full(side, level), side)


def gradient(side: int) -> Image:
    return grey(np.arange(side) * 255 // (side - 1), side)


def edge(side: int) -> Image:
    return grey(np.where(np.arange(side) < side // 2, 0, 255), side)


def noise(side: int, seed: int) -> Image:
    """Knuth's linear congruential generator, bits 33 to 40."""
    state, values = seed, []
    for _ in range(side * side * 3):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(state >> 33 & 255)
    return np.array(values, np.uint8).reshape(side, side, 3)


def boxed(image: Image) -> Image:
    side = len(image)
    wide = np.pad(image.astype(int), ((4, 3), (4, 3), (0, 0)), mode="edge")
    return (sum(wide[i : i + side, j : j + side] for i in range(8) for j in range(8)) // 64).astype(np.uint8)


def sharpened(image: Image) -> Image:
    wide = np.pad(image.astype(int), ((1, 1), (1, 1), (0, 0)), mode="edge")
    beside = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    return np.clip(5 * wide[1:-1, 1:-1] - beside, 0, 255).astype(np.uint8)


def digest(image: Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()[:8]


NOISE_42, NOISE_999 = noise(64, 42), noise(64, 999)


@pytest.mark.parametrize(
    ("reference", "image", "digests", "score"),
    [
        pytest.param(gradient(64), flat(128, 64), ("bfcfaa06", "2203a98f"), -64.56872148, id="gradient-flat"),
        pytest.param(NOISE_42, flat(128, 64), ("7f6be7f4", "2203a98f"), -47.33572558, id="noise-flat"),
        pytest.param(NOISE_999, sharpened(NOISE_999), ("53f592ab", "4ad3cfe3"), -5.81017556, id="noise-sharpened"),
        pytest.param(edge(64), boxed(edge(64)), ("f0d003b6", "cbe40f4a"), 24.27333552, id="edge-blurred"),
        pytest.param(flat(128, 32), flat(133, 32), ("753412db", "51b9f0ae"), 98.80827382, id="flat-32"),
        pytest.param(flat(128, 64), flat(178, 64), ("2203a98f", "e6728600"), -8.75942256, id="flat-64"),
        pytest.param(flat(128, 128), flat(178, 128), ("2af5ead0", "768e019e"), -9.82383315, id="flat-128"),
        pytest.param(flat(128, 256), flat(178, 256), ("83ab5386", "ebf9afb2"), -0.39085784, id="flat-256"),
    ],
)
def test_scores_are_those_of_libjxl_s_program(
    reference: Image, image: Image, digests: tuple[str, str], score: float
) -> None:
    assert (digest(reference), digest(image)) == digests
    # The program computes in float32, of which flat areas show most.
    assert ssimulacra2(reference, image) == pytest.approx(score, abs=0.05)


def test_equal_images_have_100_and_a_worse_one_less() -> None:
    reference = photographs(128)["coffee"]
    values = [
        measure("ssimulacra2", reference, codec.decode(codec.encode(reference)))
        for codec in (Jpeg(quality=quality) for quality in (95, 75, 30, 5))
    ]
    assert measure("ssimulacra2", reference, reference) == 100
    assert values == sorted(values, reverse=True)
    assert 80 < values[0] < 100
    assert values[-1] < 30


@pytest.mark.parametrize("shape", [(8, 8), (8, 300), (33, 77), (127, 9)])
def test_sides_of_any_length_are_measured(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    one, two = generator.integers(0, 256, (2, *shape, 3), np.uint8)
    assert measure("ssimulacra2", one, one) == 100
    assert measure("ssimulacra2", one, two) < 60
    # Transposing both changes the order of sums alone.
    turned = measure("ssimulacra2", one.transpose(1, 0, 2), two.transpose(1, 0, 2))
    assert turned == pytest.approx(measure("ssimulacra2", one, two), abs=1e-6)


def test_it_is_the_perceptual_metric_unless_another_is_named() -> None:
    assert METRICS[PERCEPTUAL].name == "ssimulacra2"
    assert METRICS[PERCEPTUAL].record()["weights"] == ["ssimulacra2.json"]
    small = np.zeros((7, 9, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 8 pixels a side"):
        measure(PERCEPTUAL, small, small)
