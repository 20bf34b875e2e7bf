"""What an image is here, once: 8-bit RGB pixels, the check that an array is one, and the PSNR between two."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

#: ``uint8``, height x width x 3, RGB.
Image = npt.NDArray[np.uint8]


def check_image(image: object, error: type[Exception] = ValueError) -> Image:
    """``image`` itself, if it is uint8, H x W x 3; a side may be 0.

    Args:
        image: anything.
        error: what is raised where it is no image.

    Raises:
        error: not an array, another dtype or another shape; the message says which.
    """
    if not isinstance(image, np.ndarray):
        raise error(f"{type(image).__name__}: give uint8, height x width x 3")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        size = " x ".join(map(str, image.shape)) or "no size"
        raise error(f"{image.dtype} array of {size}: give uint8, height x width x 3")
    return image


def psnr(reference: Image, image: Image) -> float:
    """Peak signal-to-noise ratio in dB over all samples, peak 255; infinite where the two are the same.

    Args:
        reference, image: uint8, H x W x 3, of one shape.
    """
    error = float(np.square(reference.astype(np.int32) - image).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
