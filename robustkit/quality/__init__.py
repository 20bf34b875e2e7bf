"""Image quality against a reference: PSNR, SSIM, MS-SSIM and SSIMULACRA 2 here, every other metric through pyiqa.

pyiqa is an extra, ``pip install 'robustkit[metrics]'``, and it and torch load when one of its metrics is asked for. Its
licence is PolyForm Noncommercial: a company may not use it for commercial purposes, nor results that depend on it.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import importlib.util
import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

from PIL import ImageFile

from robustkit.errors import RobustkitError
from robustkit.pixels import Image, check_image, psnr
from robustkit.quality import own
from robustkit.quality.ssimulacra2 import SMALLEST, ssimulacra2
from robustkit.quality.weights import WeightsMissing, offline

#: dB given to identical images, and the most that any pair gets.
PSNR_CAP = 100.0
#: The perceptual metric that needs no weights, for whoever names none.
PERCEPTUAL = "ssimulacra2"
#: How to get the metrics that are not computed here, and on what terms.
INSTALL = (
    "pip install 'robustkit[metrics]' (pyiqa, PolyForm Noncommercial: neither it nor results that depend on it may be "
    "used for commercial purposes)"
)
# They compare sets of images, or need a caption.
_NOT_OF_ONE_PAIR = frozenset({"fid", "sfid", "fid_dinov2", "inception_score", "clipscore"})


class UnknownMetric(RobustkitError, KeyError):
    """No metric has that name; the message lists the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


class MetricUnavailable(RobustkitError, RuntimeError):
    """A metric that can't run here; the message names what is missing and how to get it."""


def measure(metric: str, reference: Image, image: Image, *, device: str = "cpu") -> float:
    """Quality of ``image`` against ``reference``, both uint8, H x W x 3, RGB.

    Args:
        metric: "psnr" (dB, RGB, peak 255, at most 100), "psnr_y" (of the luma); "ssim" or "ms_ssim" (on luma, 1 for
            equal images); "ssimulacra2" (100 for equal images); or a name of pyiqa's: "lpips", "lpips-vgg", "dists",
            ... A no-reference metric ("niqe") looks at ``image`` alone.
        device: where pyiqa computes, as torch names it.

    Raises:
        UnknownMetric: no such metric.
        MetricUnavailable: pyiqa or the metric's weights are not on this machine; nothing is downloaded.
        ValueError: shapes differ, the metric can't take images of this size, or it has no finite value for them.
    """
    for given in (reference, image):
        check_image(given)
    if reference.shape != image.shape:
        raise ValueError(f"the image is {image.shape}, its reference {reference.shape}: they must be the same")
    known = METRICS[metric]
    known.check_size(image)
    if known.name in _COMPUTED:
        value = _COMPUTED[known.name](reference, image)
    else:
        value = _by_pyiqa(known.name, reference, image, device)
    if known.unit == "dB":
        value = min(PSNR_CAP, value)
    if not math.isfinite(value):
        raise ValueError(f"{metric} can't measure these images, of shape {image.shape}: it came to {value}")
    return value


def check(metric: str, image: Image, *, device: str = "cpu") -> None:
    """Raise what :func:`measure` would for images of this size, so that it is known before anything is decoded.

    By :attr:`Metric.smallest`, or where the metric's authors give none by measuring ``image``'s negative against it.
    """
    known = METRICS[metric]
    known.check_size(image)
    if known.smallest is None:
        measure(metric, image, 255 - image, device=device)


#: By name, the metrics that need nothing but the core.
_COMPUTED: Mapping[str, Callable[[Image, Image], float]] = {
    "psnr": psnr,
    "psnr_y": own.psnr_y,
    "ssim": own.ssim,
    "ms_ssim": own.ms_ssim,
    "ssimulacra2": ssimulacra2,
}


def _by_pyiqa(metric: str, reference: Image, image: Image, device: str) -> float:
    import torch

    def tensor(pixels: Image) -> torch.Tensor:
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div(255)

    model = _model(metric, device)
    try:
        with _pillow_left_alone(), torch.inference_mode():
            return float(model(tensor(image), tensor(reference)))
    except (AssertionError, RuntimeError, ValueError) as problem:
        raise ValueError(f"{metric} can't measure images of shape {image.shape}: {problem}") from problem


@dataclass(frozen=True)
class Metric:
    """A quality metric.

    Attributes:
        name: as :func:`measure` takes it.
        higher_is_better: whether a larger value means a better image.
        unit: "dB", or nothing where the value is a plain number.
        package: whose code computes it, "robustkit" or "pyiqa".
        smallest: least side in pixels of an image that it takes; ``None`` where its authors give none.
        weights: files of learned parameters, by their published names. For a metric of pyiqa that is not listed here,
            empty although it may have some.
    """

    name: str
    higher_is_better: bool
    unit: str = ""
    package: str = "pyiqa"
    smallest: int | None = None
    weights: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """The installed version of :attr:`package`, or "unknown"."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def record(self) -> dict[str, str | list[str]]:
        """What a stored value depends on, for JSON: "package", "version", "weights", "direction" and "unit"."""
        return {
            "package": self.package,
            "version": self.version,
            "weights": list(self.weights),
            "direction": "higher is better" if self.higher_is_better else "lower is better",
            "unit": self.unit,
        }

    def check_size(self, image: Image) -> None:
        """Raise a ValueError if ``image`` has a side below :attr:`smallest`."""
        if self.smallest is not None and min(image.shape[:2]) < self.smallest:
            raise ValueError(
                f"{self.name} can't measure images of shape {image.shape}: give at least {self.smallest} pixels a side"
            )


#: Of the five scales of "ms_ssim", the coarsest must have room for the window of 11 pixels: 161 are halved to 11.
_OWN: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", higher_is_better=True, unit="dB", package="robustkit", smallest=1),
        Metric("psnr_y", higher_is_better=True, unit="dB", package="robustkit", smallest=1),
        Metric("ssim", higher_is_better=True, package="robustkit", smallest=11),
        Metric("ms_ssim", higher_is_better=True, package="robustkit", smallest=161),
        Metric(
            "ssimulacra2",
            higher_is_better=True,
            package="robustkit",
            smallest=SMALLEST,
            weights=("ssimulacra2.json",),
        ),
    )
}
_ALEXNET, _VGG16 = "alexnet-owt-7be5be79.pth", "vgg16-397923af.pth"
#: Learned parameters of the usual metrics of pyiqa.
_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "lpips": (_ALEXNET, "LPIPS_v0.1_alex-df73285e.pth"),
    "lpips-vgg": (_VGG16, "LPIPS_v0.1_vgg-a78928a0.pth"),
    "dists": (_VGG16, "DISTS_weights-f5e65c96.pth"),
    "niqe": ("niqe_modelparameters.mat",),
}


def canonical(name: str) -> str:
    """The one spelling of a metric's name: of those computed here with underscores, any other as it is."""
    own_name = name.replace("-", "_")
    return own_name if own_name in _OWN else name


class _Metrics(Mapping[str, Metric]):
    """Metrics by name. pyiqa, and with it torch, loads at the first question about any that is not computed here.

    Of those that are, hyphens may be written for underscores: "ms-ssim" is "ms_ssim".
    Without pyiqa these are all; another name is then unknown if it resembles one, and unavailable if it may be pyiqa's.
    """

    def __getitem__(self, name: str) -> Metric:
        if (own_name := canonical(name)) in _OWN:
            return _OWN[own_name]
        if not _has_pyiqa():
            own = ", ".join(_OWN)
            if near := difflib.get_close_matches(name.lower(), _OWN, n=3, cutoff=0.8):
                hint = f"did you mean {', '.join(near)}? More come with {INSTALL}"
                raise UnknownMetric(f"no metric is named {name!r}: {hint}")
            raise MetricUnavailable(f"metric {name!r} is not among {own}; all others are pyiqa's: {INSTALL}")
        known = _configs()
        if name not in known:
            near = difflib.get_close_matches(name, self, n=3, cutoff=0.3)
            hint = f"did you mean {', '.join(near)}?" if near else f"{', '.join(_OWN)} and lpips are usual"
            raise UnknownMetric(f"no metric for single images is named {name!r}: {hint}")
        better = not known[name].get("lower_better", False)
        return Metric(name, higher_is_better=better, weights=_WEIGHTS.get(name, ()))

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and canonical(name) in _OWN:
            return True
        return _has_pyiqa() and name in _configs()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*_OWN, *(_configs() if _has_pyiqa() else ())}))

    def __len__(self) -> int:
        return sum(1 for _ in self)


#: Every metric that :func:`measure` takes, by name.
METRICS: Mapping[str, Metric] = _Metrics()


def _has_pyiqa() -> bool:
    return importlib.util.find_spec("pyiqa") is not None


@contextmanager
def _pillow_left_alone() -> Iterator[None]:
    """Modules of pyiqa set Pillow's tolerance of truncated files for the whole process: put it back."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


@functools.cache
def _configs() -> dict[str, dict[str, Any]]:
    with _pillow_left_alone():
        import pyiqa  # noqa: F401 - its side effects belong inside the guard
        from pyiqa.default_model_configs import DEFAULT_CONFIGS
    return {name: config for name, config in DEFAULT_CONFIGS.items() if name not in _NOT_OF_ONE_PAIR}


def fetch(metric: str, *, device: str = "cpu") -> None:
    """Download a metric's weights to where :func:`measure` finds them, unless they are there.

    They go to torch's and Hugging Face's caches, ``TORCH_HOME`` and ``HF_HOME``. Nothing else here downloads.

    Raises:
        UnknownMetric: no such metric.
        MetricUnavailable: its package is not installed, or the download failed.
    """
    known = METRICS[metric]
    if known.name in _OWN:
        return
    try:
        with ExitStack() as stack:
            stack.enter_context(_pillow_left_alone())
            _create(known.name, device)
    except (OSError, ImportError, RuntimeError) as error:
        raise MetricUnavailable(f"the weights of metric {metric!r} could not be fetched: {error}") from error


def _create(metric: str, device: str) -> Any:
    import pyiqa

    return pyiqa.create_metric(metric, device=device)


@functools.lru_cache(maxsize=4)
def _model(metric: str, device: str) -> Any:
    way_out = f"Fetch it once, with a network: python -c \"from robustkit import quality; quality.fetch('{metric}')\""
    try:
        with ExitStack() as stack:
            stack.enter_context(_pillow_left_alone())
            # It prints "Downloading" before it asks, and colourful logs.
            for redirect in (redirect_stdout, redirect_stderr):
                stack.enter_context(redirect(io.StringIO()))
            stack.enter_context(offline())
            return _create(metric, device)
    except WeightsMissing as file:
        raise MetricUnavailable(f"metric {metric!r} needs weights: {file}. {way_out}") from file
    except (OSError, ImportError) as error:
        raise MetricUnavailable(f"metric {metric!r} needs what is not on this machine: {error}. {way_out}") from error
