"""What DDCM has of its own: one atom a step or a matching pursuit, and which of them a rate pays for."""

from __future__ import annotations

import numpy as np
import pytest

from robustkit import ErrorPattern, Image
from robustkit.codecs.rcc.container import HEADER_BYTES
from robustkit.codecs.rcc.ddcm import DDCM
from robustkit.images import photographs
from robustkit.quality import measure


@pytest.fixture(scope="module")
def photograph() -> Image:
    return photographs(crop=64)["astronaut"]


def test_a_single_atom_a_step_carries_the_image(photograph: Image) -> None:
    codec = DDCM(T=60, M=1)
    stream = codec.encode(photograph)
    assert len(stream) == HEADER_BYTES + -(-59 * 20 // 8)
    # The first step's noise alone: an image about as wrong as the mean of all.
    nothing = codec.decode(stream[:HEADER_BYTES])
    quality = measure("psnr", photograph, codec.decode(stream))
    assert quality > measure("psnr", photograph, nothing) + 5
    assert quality > 16


@pytest.mark.parametrize("C", [0, 3])
@pytest.mark.parametrize("bpp", [0.6, 1.0, 2.7])
def test_a_rate_is_kept_and_used(bpp: float, C: int) -> None:
    codec = DDCM(bpp=bpp, C=C)
    for height, width in ((64, 64), (40, 50), (33, 31)):
        header = codec._header_for(height, width)
        bits = 8 * (HEADER_BYTES + header.payload)
        pixels = height * width
        # All but less than one step's bits are spent, or the last step is the only one.
        step = header.method.atoms * (20 + C) - C
        assert bits <= bpp * pixels or header.method.steps == 2
        assert bits > bpp * pixels - step - 16


def test_less_than_an_atom_a_step_makes_fewer_steps() -> None:
    method = DDCM(T=60, bpp=0.2)._header_for(64, 64).method
    assert (method.steps, method.closing, method.atoms) == (17, 0, 1)


def test_a_rate_beyond_the_largest_pursuit_takes_a_larger_codebook() -> None:
    method = DDCM(T=3, bpp=2.0)._header_for(256, 256).method
    assert (method.size_log2, method.atoms) == (24, 2047)
    given = DDCM(T=3, K=16, bpp=2.0)._header_for(256, 256).method
    assert (given.size_log2, given.atoms) == (4, 4)


def test_flips_in_the_padding_change_nothing(photograph: Image) -> None:
    codec = DDCM(T=6, M=3, K=1 << 10)
    stream = codec.encode(photograph)
    layout = codec.layout(stream)
    padding = [region for region in layout if region.name == "padding"]
    assert [(region.start, region.stop) for region in padding] == [(layout.bits - 2, layout.bits)]
    damaged = ErrorPattern(layout.bits, [layout.bits - 2, layout.bits - 1]).apply(stream)
    assert np.array_equal(codec.decode(damaged), codec.decode(stream))
