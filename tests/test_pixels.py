"""What is an image and what is none, and the PSNR between two."""

import math

import numpy as np
import pytest

import robustkit
from robustkit import pixels


def test_an_image_passes_as_it_is():
    image = np.zeros((2, 0, 3), np.uint8)
    assert pixels.check_image(image) is image
    assert robustkit.Image is robustkit.codec.Image is pixels.Image


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (np.zeros((8, 9), np.uint8), "uint8 array of 8 x 9"),
        (np.zeros((8, 9, 4), np.uint8), "uint8 array of 8 x 9 x 4"),
        (np.zeros((8, 9, 3)), "float64 array of 8 x 9 x 3"),
        (np.array(1.0), "float64 array of no size"),
        ([[[1, 2, 3]]], "list"),
        (None, "NoneType"),
    ],
)
@pytest.mark.parametrize("error", [ValueError, robustkit.EncodeError])
def test_what_is_no_image_is_named_with_what_to_give(given, found, error):
    with pytest.raises(error) as raised:
        pixels.check_image(given, error)
    assert type(raised.value) is error
    assert str(raised.value) == f"{found}: give uint8, height x width x 3"


def test_psnr_at_its_ends():
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 250, np.uint8)
    assert pixels.psnr(dark, dark) == math.inf
    assert pixels.psnr(dark, bright) == pixels.psnr(bright, dark) == pytest.approx(20 * math.log10(255 / 240))
    almost = np.zeros((256, 256, 3), np.uint8)
    almost[0, 0, 0] = 1
    assert pixels.psnr(np.zeros_like(almost), almost) > 100
