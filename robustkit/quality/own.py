"""Metrics that are computed here, of a pair of images: PSNR, SSIM and MS-SSIM of the luma."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from robustkit.pixels import Image

Plane = npt.NDArray[np.float64]


def luma(image: Image) -> Plane:
    """H x W, of BT.601, in whole grey levels as the authors' programs of SSIM have it."""
    return np.asarray(np.round(image @ np.array([0.299, 0.587, 0.114])))


def psnr_y(reference: Image, image: Image) -> float:
    """PSNR of the luma in dB, peak 255; infinite where the two are the same."""
    error = float(np.square(luma(reference) - luma(image)).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _similarity(one: Plane, two: Plane) -> tuple[float, float]:
    """SSIM of two planes, and its factor for contrast and structure alone: means over the windows that lie inside.

    Not scikit-image's function, which is without that factor. As in pyiqa, negative structure counts as none.
    """
    from scipy.ndimage import gaussian_filter

    def windowed(plane: Plane) -> Plane:
        return np.asarray(gaussian_filter(plane, 1.5, radius=5))[5:-5, 5:-5]

    light, contrast = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_1, mean_2 = windowed(one), windowed(two)
    variances = (windowed(one * one) - mean_1**2) + (windowed(two * two) - mean_2**2)
    covariance = windowed(one * two) - mean_1 * mean_2
    structure = np.maximum(0, (2 * covariance + contrast) / (variances + contrast))
    similarity = (2 * mean_1 * mean_2 + light) / (mean_1**2 + mean_2**2 + light) * structure
    return float(similarity.mean()), float(structure.mean())


def ssim(reference: Image, image: Image) -> float:
    """SSIM of the luma: Wang, Bovik, Sheikh and Simoncelli 2004 (doi 10.1109/TIP.2003.819861)."""
    return _similarity(luma(reference), luma(image))[0]


def ms_ssim(reference: Image, image: Image) -> float:
    """MS-SSIM of the luma: Wang, Simoncelli and Bovik 2003 (doi 10.1109/ACSSC.2003.1292216)."""
    planes = luma(reference), luma(image)
    product = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        product *= _similarity(*planes)[1] ** weight
        planes = _halved(planes[0]), _halved(planes[1])
    return float(product * _similarity(*planes)[0] ** 0.1333)


def _halved(plane: Plane) -> Plane:
    """Means of 2 x 2 pixels; in front of an odd side stands a row of zeros, as in pyiqa."""
    height, width = plane.shape
    even = np.pad(plane, ((height % 2, 0), (width % 2, 0)))
    return np.asarray(even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean((1, 3)))
