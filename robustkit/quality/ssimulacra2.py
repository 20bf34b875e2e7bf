"""SSIMULACRA 2 of a pair of images, as libjxl's program of that name computes it.

Not through the PyPI package ``ssimulacra2``: it takes other values beyond an image's borders than the program, which
costs up to five points at 256x256, and has one scale less of images with a side below 256.
"""

from __future__ import annotations

import functools
import json
import math
from importlib import resources

import numpy as np
import numpy.typing as npt

from robustkit.pixels import Image

#: 3 x H x W.
Planes = npt.NDArray[np.float64]

#: Images with a shorter side are refused, as by the program.
SMALLEST = 8
_SCALES = 6
_SIGMA = 1.5
#: Of JPEG XL's colour space XYB (ISO/IEC 18181-1): what the three kinds of cones take of linear red, green and blue.
_ABSORBANCE = np.array(
    [
        [0.30, 1 - 0.30 - 0.078, 0.078],
        [0.23, 1 - 0.23 - 0.078, 0.078],
        [0.24342268924547819, 0.20476744424496821, 1 - 0.24342268924547819 - 0.20476744424496821],
    ]
)
_BIAS = 0.0037930732552754493


def ssimulacra2(reference: Image, image: Image) -> float:
    """SSIMULACRA 2: 100 for equal images, about 90 where no difference is seen, and below 0 for unlike ones.

    Args:
        reference, image: uint8, H x W x 3, sRGB, of one shape, at least 8 pixels a side.
    """
    one, two = _linear(reference), _linear(image)
    maps = []
    for scale in range(_SCALES):
        # The program looks before it halves: the last scale may have 4 pixels a side.
        if min(one.shape[1:]) < SMALLEST:
            break
        if scale:
            one, two = _halved(one), _halved(two)
        maps.append(_maps(_colours(one), _colours(two)))
    # In the program's order of channel, scale, norm and map. With fewer scales its weights move up, so do these.
    values = np.stack(maps, axis=1).ravel()
    return _score(float(values @ _weights()[: len(values)]))


def _score(weighted: float) -> float:
    weighted *= 0.9562382616834844
    curve = 2.326765642916932 * weighted - 0.020884521182843837 * weighted**2 + 6.248496625763138e-05 * weighted**3
    return 100 - 10 * curve**0.6276336467831387 if curve > 0 else 100.0


@functools.cache
def _weights() -> npt.NDArray[np.float64]:
    data = resources.files(__package__).joinpath("ssimulacra2.json").read_text(encoding="utf-8")
    return np.array(json.loads(data)["weights"], dtype=np.float64).ravel()


@functools.cache
def _curve() -> npt.NDArray[np.float64]:
    """Linear light of each of the 256 sRGB values."""
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _linear(image: Image) -> Planes:
    return np.ascontiguousarray(_curve()[image].transpose(2, 0, 1))


def _colours(linear: Planes) -> Planes:
    """XYB, moved and stretched so that all three are about 0 to 1."""
    cones = np.tensordot(_ABSORBANCE, linear, axes=1) + _BIAS
    long, middle, short = np.cbrt(np.maximum(cones, 0)) - math.cbrt(_BIAS)
    x, y = (long - middle) / 2, (long + middle) / 2
    return np.stack([14 * x + 0.42, y + 0.01, short - y + 0.55])


def _halved(planes: Planes) -> Planes:
    """Means of 2 x 2 pixels; an odd side's last row or column counts twice."""
    _, height, width = planes.shape
    even = np.pad(planes, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    return np.asarray((even[:, ::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, ::2] + even[:, 1::2, 1::2]) / 4)


@functools.cache
def _kernel() -> npt.NDArray[np.float64]:
    """The program's approximation of a Gaussian by three cosines (Charalampidis 2016, doi 10.1109/TSP.2016.2549985)."""
    radius = round(3.2795 * _SIGMA + 0.2546)
    omega = math.pi / (2 * radius) * np.array([1.0, 3.0, 5.0])
    p = np.array([1, -1, 1]) / np.tan(omega / 2)
    r = np.array([1, -1, 1]) * p**2 / np.sin(omega)
    rho = np.exp(-((_SIGMA * omega) ** 2) / 2) / radius
    cross = np.cross(p, r)
    zeta = cross[:2] / cross[2]
    equations = np.array([p, r, [*zeta, 1]])
    beta = np.linalg.solve(equations, [1, radius**2 - _SIGMA**2, zeta @ rho[:2] + rho[2]])
    # At the radius itself all three are 0.
    return np.asarray(beta @ np.cos(np.outer(omega, np.arange(1 - radius, radius))))


def _blurred(planes: Planes) -> Planes:
    """Each plane, blurred; beyond the border lies 0, as in the program."""
    from scipy.ndimage import correlate1d

    along = correlate1d(planes, _kernel(), axis=2, mode="constant")
    return np.asarray(correlate1d(along, _kernel(), axis=1, mode="constant"))


def _maps(one: Planes, two: Planes) -> npt.NDArray[np.float64]:
    """3 channels x 2 norms x 3 maps, of one scale."""
    mean_1, mean_2 = _blurred(one), _blurred(two)
    contrast = 0.0009
    covariance = _blurred(one * two) - mean_1 * mean_2
    variances = (_blurred(one * one) - mean_1**2) + (_blurred(two * two) - mean_2**2)
    structure = 1 - (1 - (mean_1 - mean_2) ** 2) * (2 * covariance + contrast) / (variances + contrast)
    edges = (1 + np.abs(two - mean_2)) / (1 + np.abs(one - mean_1)) - 1
    found = np.stack([np.maximum(structure, 0), np.maximum(edges, 0), np.maximum(-edges, 0)], axis=1)
    square = found**2
    return np.stack([found.mean((2, 3)), (square**2).mean((2, 3)) ** 0.25], axis=1)
