"""Quality metrics: against scikit-image's and pyiqa's, without a download, and without a trace on Pillow."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

import numpy as np
import pytest
import skimage.color
import skimage.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFile

from robustkit import quality
from robustkit.codecs.jpeg import Jpeg
from robustkit.images import photographs
from robustkit.quality import METRICS, MetricUnavailable, UnknownMetric, measure


@pytest.fixture(scope="module")
def pair():
    reference = photographs(crop=192)["coffee"]
    codec = Jpeg(quality=20)
    return reference, codec.decode(codec.encode(reference))


def test_psnr_is_scikit_image_s(pair):
    expected = skimage.metrics.peak_signal_noise_ratio(*pair, data_range=255)
    assert measure("psnr", *pair) == pytest.approx(expected, abs=1e-9)


def test_psnr_at_its_ends():
    black = np.zeros((64, 64, 3), np.uint8)
    assert measure("psnr", black, black) == 100.0
    assert measure("psnr", black, np.full_like(black, 255)) == 0.0
    large = np.zeros((256, 256, 3), np.uint8)
    almost = large.copy()
    almost[0, 0, 0] = 1  # 101.1 dB: still no better than identical
    assert measure("psnr", large, almost) == 100.0


def test_psnr_of_the_luma_is_scikit_image_s(pair):
    luma = [np.round(255 * skimage.color.rgb2yiq(image)[..., 0]) for image in pair]
    expected = skimage.metrics.peak_signal_noise_ratio(*luma, data_range=255)
    assert measure("psnr_y", *pair) == measure("psnr-y", *pair)
    # Which way a half is rounded differs.
    assert measure("psnr_y", *pair) == pytest.approx(expected, abs=1e-3)


def test_hyphens_stand_for_underscores_in_the_kit_s_own_metrics(pair):
    assert METRICS["ms-ssim"] is METRICS["ms_ssim"]
    assert "ms-ssim" in METRICS
    assert measure("ms-ssim", *pair) == measure("ms_ssim", *pair)
    assert 3 not in METRICS


def test_what_a_stored_value_depends_on_is_on_record():
    assert METRICS["psnr"].record() == {
        "package": "robustkit",
        "version": importlib.metadata.version("robustkit"),
        "weights": [],
        "direction": "higher is better",
        "unit": "dB",
    }
    lpips = METRICS["lpips"].record()
    assert lpips["weights"] == ["alexnet-owt-7be5be79.pth", "LPIPS_v0.1_alex-df73285e.pth"]
    assert lpips["version"] == importlib.metadata.version("pyiqa")
    assert lpips["direction"] == "lower is better"


def test_fetching_leaves_the_kit_s_own_metrics_alone_and_says_what_failed(monkeypatch):
    asked = []

    def create(name, device):
        asked.append(name)
        raise OSError("no network here")

    monkeypatch.setattr("pyiqa.create_metric", create)
    quality.fetch("ssimulacra2")
    with pytest.raises(MetricUnavailable, match="the weights of metric 'lpips' could not be fetched: no network here"):
        quality.fetch("lpips")
    assert asked == ["lpips"]


def test_psnr_does_not_wrap_around():
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 250, np.uint8)
    assert measure("psnr", dark, bright) == measure("psnr", bright, dark) == pytest.approx(0.5266, abs=1e-4)


@pytest.mark.parametrize(
    ("reference", "image", "reason"),
    [
        (np.zeros((8, 8, 3)), np.zeros((8, 8, 3), np.uint8), "float64"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), "uint8 array of 8 x 8: give uint8"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), "must be the same"),
    ],
)
def test_what_is_no_pair_of_images_is_refused(reference, image, reason):
    with pytest.raises(ValueError, match=reason):
        measure("psnr", reference, image)


def in_a_new_process(program):
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_the_kit_s_own_metrics_load_neither_pyiqa_nor_torch():
    in_a_new_process("""
import sys, numpy as np
from robustkit.quality import METRICS, measure
image = np.zeros((161, 161, 3), np.uint8)
for name, equal in {"psnr": 100, "psnr_y": 100, "ssim": 1, "ms_ssim": 1, "ssimulacra2": 100}.items():
    assert METRICS[name].higher_is_better and METRICS[name].package == "robustkit"
    assert name in METRICS and measure(name, image, image) == equal
assert not {"torch", "pyiqa"} & set(sys.modules)
""")


def test_without_pyiqa_the_message_names_its_extra_and_its_licence():
    in_a_new_process("""
import sys
sys.modules["pyiqa"] = sys.modules["torch"] = None  # as if they were not installed
import numpy as np
from robustkit.quality import METRICS, MetricUnavailable, UnknownMetric, measure
image = np.zeros((161, 161, 3), np.uint8)
assert list(METRICS) == ["ms_ssim", "psnr", "psnr_y", "ssim", "ssimulacra2"] and len(METRICS) == 5
assert measure("ms_ssim", image, image) == 1 and "lpips" not in METRICS
for ask in (lambda: METRICS["lpips"], lambda: measure("lpips", image, image)):
    try:
        ask()
    except MetricUnavailable as error:
        assert "'lpips' is not among psnr, psnr_y, ssim, ms_ssim, ssimulacra2;" in str(error)
        assert "pip install 'robustkit[metrics]'" in str(error) and "PolyForm Noncommercial" in str(error)
    else:
        raise AssertionError
try:
    METRICS["MS SSIM"]
except UnknownMetric as error:
    assert "'MS SSIM': did you mean ms_ssim" in str(error) and "robustkit[metrics]" in str(error)
else:
    raise AssertionError
""")


def test_ssim_is_scikit_image_s_on_luma(pair):
    luma = [np.round(255 * skimage.color.rgb2yiq(image)[..., 0]) for image in pair]
    expected = skimage.metrics.structural_similarity(
        *luma, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert measure("ssim", *pair) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("metric", ["ssim", "ms_ssim"])
@pytest.mark.parametrize("shape", [(192, 192), (161, 192), (171, 163)])
def test_ssim_is_pyiqa_s(metric, shape):
    """Promises in these metrics were measured with pyiqa: they keep their meaning."""
    pytest.importorskip("pyiqa")
    import torch

    # Noise adds structure; a negative's is below zero everywhere, and pyiqa takes that as none.
    model = quality._model(metric, "cpu")
    reference = photographs(crop=192)["rocket"][: shape[0], : shape[1]]
    noise = np.random.default_rng(0).integers(-40, 41, reference.shape)
    codec = Jpeg(quality=10)
    for image in (
        codec.decode(codec.encode(reference)),
        np.clip(reference + noise, 0, 255).astype(np.uint8),
        255 - reference,
        np.zeros_like(reference),
    ):
        one, two = (torch.from_numpy(i.copy()).permute(2, 0, 1)[None] / 255 for i in (image, reference))
        assert measure(metric, reference, image) == pytest.approx(float(model(one, two)), abs=1e-4)


@pytest.mark.parametrize("metric", ["ssim", "ms_ssim"])
def test_ssim_is_1_for_equal_images_falls_with_noise_and_is_symmetric(metric, pair):
    reference, _ = pair
    noise = np.random.default_rng(0).standard_normal(reference.shape)
    noisy = [np.clip(reference + sigma * noise, 0, 255).astype(np.uint8) for sigma in (0, 4, 16, 64)]
    values = [measure(metric, reference, image) for image in noisy]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)
    assert values == [measure(metric, image, reference) for image in noisy]


@given(st.integers(0, 255), st.integers(0, 255))
@settings(max_examples=20, deadline=None)
def test_ssim_of_flat_images_is_that_of_their_means(one, two):
    """There is no structure to compare, at any scale, and both have as much of it."""
    flat = [np.full((176, 176, 3), level, np.uint8) for level in (one, two)]
    light = (0.01 * 255) ** 2
    expected = (2 * one * two + light) / (one**2 + two**2 + light)
    assert measure("ssim", *flat) == pytest.approx(expected, rel=1e-9)
    assert measure("ms_ssim", *flat) == pytest.approx(expected**0.1333, rel=1e-9)


@pytest.mark.parametrize("metric", ["ssim", "ms_ssim", "vif", "gmsd"])
def test_a_worse_image_measures_worse(pair, metric):
    reference, image = pair
    worse = Jpeg(quality=3)
    change = measure(metric, reference, worse.decode(worse.encode(reference))) - measure(metric, reference, image)
    assert change < 0 if METRICS[metric].higher_is_better else change > 0


def test_the_direction_of_a_metric():
    assert {m: METRICS[m].higher_is_better for m in ("psnr", "ssim", "lpips", "dists", "niqe")} == {
        "psnr": True,
        "ssim": True,
        "lpips": False,
        "dists": False,
        "niqe": False,
    }


def test_an_unknown_metric_lists_the_nearest(pair):
    for ask in (lambda: METRICS["sssim"], lambda: measure("sssim", *pair)):
        with pytest.raises(UnknownMetric, match=r"^no metric .* 'sssim': did you mean ssim"):
            ask()
    assert "sssim" not in METRICS


def test_metrics_of_sets_are_not_offered():
    assert {"psnr", "ssim", "ms_ssim", "lpips", "niqe"} <= set(METRICS)
    assert not {"fid", "inception_score"} & set(METRICS)
    assert len(METRICS) == len(list(METRICS))


@pytest.mark.parametrize("metric", ["ssim", "ms_ssim"])
def test_an_image_too_small_for_the_metric_is_a_value_error(metric):
    smallest = METRICS[metric].smallest
    enough, short = np.zeros((smallest, smallest, 3), np.uint8), np.zeros((smallest + 9, smallest - 1, 3), np.uint8)
    quality.check(metric, enough)
    assert measure(metric, enough, enough) == 1
    reason = rf"{metric} can't measure images of shape .*{smallest - 1}, 3\): give at least {smallest} pixels a side"
    for ask in (lambda: quality.check(metric, short), lambda: measure(metric, short, short)):
        with pytest.raises(ValueError, match=reason):
            ask()


def test_a_size_that_a_metric_of_pyiqa_can_t_take_is_known_before_anything_is_decoded():
    assert METRICS["vif"].smallest is None
    quality.check("vif", photographs(crop=64)["coffee"])
    with pytest.raises(ValueError, match=r"vif can't measure .*\(8, 8, 3\)"):
        quality.check("vif", np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_a_value_error(pair, value, monkeypatch):
    monkeypatch.setattr(quality, "_model", lambda metric, device: lambda image, reference: value)
    with pytest.raises(ValueError, match=rf"^gmsd can't measure these images, .* it came to {value}$"):
        measure("gmsd", *pair)


@pytest.mark.parametrize("metric", ["lpips", "niqe"])
def test_missing_weights_are_named_and_nothing_is_downloaded(pair, metric, monkeypatch, tmp_path, capfd):
    import torch

    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path / "pyiqa"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert torch.hub.get_dir().startswith(str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("tried to download"))
    quality._model.cache_clear()
    with pytest.raises(MetricUnavailable, match=rf"https://.*quality.fetch\('{metric}'\)") as caught:
        measure(metric, *pair)
    assert str(tmp_path) in str(caught.value)
    file = METRICS[metric].weights[0]
    assert re.match(
        rf"metric '{metric}' needs weights: {file}, from https://\S+/{file}, to {tmp_path}\S*/{file}\. ",
        str(caught.value),
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_weights_are_found_in_torch_s_cache(pair, monkeypatch, tmp_path):
    """Random weights of the right shape, where a download would have put the published ones."""
    pytest.importorskip("pyiqa")
    import torch
    import torchvision
    from pyiqa.archs.lpips_arch import LPIPS

    alexnet, linear = METRICS["lpips"].weights
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path / "pyiqa"))
    for folder in ("hub/checkpoints", "pyiqa"):
        (tmp_path / folder).mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet().state_dict(), tmp_path / "hub/checkpoints" / alexnet)
    layers = LPIPS(net="alex", version="0.1", pretrained=False).state_dict()
    torch.save({name: tensor.abs() for name, tensor in layers.items() if "lin" in name}, tmp_path / "pyiqa" / linear)
    quality._model.cache_clear()
    try:
        assert measure("lpips", pair[0], pair[0]) == pytest.approx(0, abs=1e-6)
        assert measure("lpips", *pair) > 1e-6
    finally:
        quality._model.cache_clear()


@pytest.mark.parametrize("switch", [False, True])
def test_pillow_s_switch_is_left_alone(pair, switch, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switch)

    def create(name, device):
        ImageFile.LOAD_TRUNCATED_IMAGES = not switch  # pyiqa.data.ava_dataset sets it at import
        return lambda image, reference: 1.0

    quality._model.cache_clear()
    monkeypatch.setattr("pyiqa.create_metric", create)
    assert measure("gmsd", *pair) == 1.0
    quality._model.cache_clear()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is switch
