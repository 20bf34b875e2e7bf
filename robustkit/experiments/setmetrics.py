"""Metrics of a set of images against another: FID and KID of their patches, by the features of Inception.

A data set of a few dozen photographs has too few images for either, so patches of them are compared: those of a grid
without overlap, and those of the same grid moved by half a patch both ways. The code is torchmetrics', on
torch-fidelity's network, with the extra ``metrics``.
"""

from __future__ import annotations

import functools
import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustkit.errors import RobustkitError
from robustkit.extras import missing
from robustkit.pixels import Image, check_image
from robustkit.quality import Metric, MetricUnavailable, UnknownMetric
from robustkit.quality.weights import WeightsMissing, offline
from robustkit.spelling import nearest

if TYPE_CHECKING:
    import torch

#: N x H x W x 3.
Patches = npt.NDArray[np.uint8]
#: Takes uint8 patches, N x 3 x H x W, and gives N x features.
Network = Callable[["torch.Tensor"], "torch.Tensor"]
#: Features of an original by the SHA-256 of its pixels, and by whether these are as they are.
Known = MutableMapping[tuple[str, bool], list["torch.Tensor"]]

_INCEPTION = ("weights-inception-2015-12-05-6726825d.pth",)
#: The metrics of sets, by name. ``fid-published`` is FID as arXiv 2604.05743 has it: of pictures whose values wrapped.
SETS: Mapping[str, Metric] = {
    name: Metric(name, higher_is_better=False, package="torchmetrics", weights=_INCEPTION)
    for name in ("fid", "fid-published", "kid")
}
#: Side of a patch in the published runs on Kodak24, of 512x512; on DIV2K it is 128.
PATCH = 64
#: Subsets of patches that KID is the mean of, and patches in one, at most. torchmetrics' defaults.
_SUBSETS, _SUBSET = 100, 1000
_BATCH = 64


class SetMetricError(RobustkitError, ValueError):
    """Sets that a metric can't compare: none of an image, two sizes in a pair, or images smaller than a patch."""


def patches(image: Image, side: int, *, shifted: bool = True) -> Patches:
    """The square patches of an image: of a grid from its upper left corner, then of the grid moved by half a patch.

    What does not fill a patch at the right and below is left out.

    Args:
        image: uint8, H x W x 3.
        side: of a patch, in pixels.
        shifted: whether the moved grid is taken too.

    Returns:
        uint8, N x side x side x 3.

    Raises:
        SetMetricError: ``side`` is below 2, or above a side of the image.
    """
    check_image(image, SetMetricError)
    if side < 2 or side > min(image.shape[:2]):
        raise SetMetricError(f"patches of {side} pixels of an image of {image.shape[1]}x{image.shape[0]}")
    starts = (0, side // 2) if shifted else (0,)
    return np.concatenate([_grid(image[start:, start:], side) for start in starts])


def _grid(image: Image, side: int) -> Patches:
    rows, columns = image.shape[0] // side, image.shape[1] // side
    whole = image[: rows * side, : columns * side]
    return whole.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)


def wrapped(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The values that the published FID compares, of the same shape: ``v`` becomes ``(256 - v) % 256``.

    There pictures of 8 bits went where fractions were expected, and were multiplied by 255 in 8 bits. It is nearly a
    negative, in which black stays black.
    """
    return np.negative(image)


def measure(
    metrics: Sequence[str],
    pairs: Iterable[tuple[Image, Image]],
    *,
    side: int = PATCH,
    shifted: bool = True,
    network: Network | None = None,
    device: str = "cpu",
    seed: int = 0,
    known: Known | None = None,
) -> dict[str, float]:
    """FID and KID of decoded images against their originals.

    Both sides have the same images, so an image that was not decoded is on neither, as published.

    Args:
        metrics: names of :data:`SETS`.
        pairs: original and decoded image, uint8, H x W x 3, of one shape; read one after the other, and not kept.
        side, shifted: which patches, as :func:`patches` takes them.
        network: what gives the features; without it Inception, by :func:`inception`.
        device: where it computes, as torch names it.
        seed: of the subsets of KID.
        known: features of originals, looked up and added to, where the same ones are compared again and again.

    Returns:
        metric -> value, all finite.

    Raises:
        UnknownMetric: no such metric of sets.
        MetricUnavailable: a package or the network's weights are not on this machine.
        SetMetricError: no pair, the shapes of a pair differ, or an image is smaller than a patch.
        ValueError: a value that is not finite.
    """
    for name in metrics:
        if name not in SETS:
            raise UnknownMetric(f"no metric of sets is named {name!r}: {nearest(name, SETS)}")
    if lacking := missing("torchmetrics", "torch"):
        raise MetricUnavailable(f"{' and '.join(metrics)}: {lacking}")
    found = network or inception(device)
    collected = {name: _Collected(name, seed) for name in metrics}
    number = 0
    for number, (reference, image) in enumerate(pairs, 1):  # noqa: B007 - how many there were
        for given in (reference, image):
            check_image(given, SetMetricError)
        if reference.shape != image.shape:
            raise SetMetricError(f"the image is {image.shape}, its original {reference.shape}: they must be the same")
        for real, whole in ((True, reference), (False, image)):
            cut = patches(whole, side, shifted=shifted)
            for plain, names in _by_pixels(metrics):
                computed: Iterable[torch.Tensor] = _features(found, cut if plain else wrapped(cut), device)
                if real and known is not None:
                    which = (hashlib.sha256(whole.tobytes()).hexdigest(), plain)
                    computed = known[which] if which in known else known.setdefault(which, list(computed))
                for features in computed:
                    for name in names:
                        collected[name].add(features, real=real)
    if not number:
        raise SetMetricError(f"{' and '.join(metrics)}: no image was decoded, so there are no sets to compare")
    return {name: one.value() for name, one in collected.items()}


def _by_pixels(metrics: Sequence[str]) -> Iterator[tuple[bool, list[str]]]:
    """Metrics that look at the same pixels share the network's work."""
    for plain in (True, False):
        if names := [name for name in metrics if (name != "fid-published") == plain]:
            yield plain, names


def _features(network: Network, cut: Patches, device: str) -> Iterator[torch.Tensor]:
    import torch

    for start in range(0, len(cut), _BATCH):
        batch = np.ascontiguousarray(cut[start : start + _BATCH].transpose(0, 3, 1, 2))
        with torch.inference_mode():
            yield network(torch.from_numpy(batch).to(device)).cpu()


class _Collected:
    """What a metric keeps of the features of both sides."""

    def __init__(self, name: str, seed: int) -> None:
        self._name, self._seed = name, seed
        self._metric: Any = None
        self._real = self._fake = 0

    def add(self, features: torch.Tensor, *, real: bool) -> None:
        if self._metric is None:
            self._metric = self._made(features.shape[1])
        self._metric.update(features, real=real)
        if real:
            self._real += len(features)
        else:
            self._fake += len(features)

    def _made(self, width: int) -> Any:
        import torch
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance

        # The features are computed once for all metrics, so each gets them where it expects pictures.
        same = torch.nn.Identity()
        same.num_features = width  # type: ignore[assignment]
        if self._name != "kid":
            return FrechetInceptionDistance(feature=same)
        with warnings.catch_warnings():
            # That it keeps all features.
            warnings.simplefilter("ignore", UserWarning)
            return KernelInceptionDistance(feature=same, subsets=_SUBSETS, subset_size=_SUBSET)

    def value(self) -> float:
        import torch

        least = min(self._real, self._fake)
        if least < 2:
            raise SetMetricError(f"{self._name} needs two patches on each side, there is {least}: make them smaller")
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            torch.manual_seed(self._seed)
            if self._name == "kid":
                self._metric.subset_size = min(_SUBSET, least)
                value = float(self._metric.compute()[0])
            else:
                value = float(self._metric.compute())
        if not math.isfinite(value):
            raise ValueError(f"{self._name} can't compare these sets of {least} patches: it came to {value}")
        return value


@functools.lru_cache(maxsize=1)
def inception(device: str = "cpu", *, allow_downloads: bool = False) -> Network:
    """Inception v3 with the weights that FID is defined by, 2048 features, from torch's cache (``TORCH_HOME``).

    Raises:
        MetricUnavailable: torch-fidelity is not installed, or the weights are not there and may not be downloaded, or
            could not be.
    """
    if lacking := missing("torchmetrics", "torch_fidelity", "torch"):
        raise MetricUnavailable(f"FID and KID: {lacking}")
    try:
        if allow_downloads:
            return _loaded(device)
        with offline():
            return _loaded(device)
    except WeightsMissing as file:
        raise MetricUnavailable(f"FID and KID: needs weights: {file}. Allow downloads once, with a network") from file
    except (OSError, RuntimeError) as error:
        raise MetricUnavailable(f"the weights of FID and KID can't be used: {error}") from error


def usual_device() -> str:
    """Where features are computed unless somebody says otherwise: on a GPU that torch can use, or the processor."""
    if missing("torch"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _loaded(device: str) -> Network:
    from torchmetrics.image.fid import NoTrainInceptionV3

    network: Network = NoTrainInceptionV3("inception-v3-compat", ["2048"]).to(device)
    return network
