"""Quality metrics: against scikit-image's, without a download, and without a trace on Pillow."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import skimage.color
import skimage.metrics
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


def test_psnr_loads_neither_pyiqa_nor_torch():
    program = """
import sys, numpy as np
from robustkit.quality import METRICS, measure
image = np.zeros((8, 8, 3), np.uint8)
assert METRICS["psnr"].higher_is_better and measure("psnr", image, image) == 100
assert not {"torch", "pyiqa"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_ssim_is_scikit_image_s_on_luminance(pair):
    # pyiqa rounds the luminance to whole grey levels.
    luminance = [np.round(255 * skimage.color.rgb2yiq(image)[..., 0]) for image in pair]
    expected = skimage.metrics.structural_similarity(
        *luminance, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert measure("ssim", *pair) == pytest.approx(expected, abs=1e-5)
    assert measure("ssim", pair[0], pair[0]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("metric", ["ms_ssim", "vif", "gmsd"])
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


def test_an_image_too_small_for_the_metric_is_a_value_error():
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"ms_ssim can't measure images of shape \(8, 8, 3\)"):
        measure("ms_ssim", image, image)


@pytest.mark.parametrize("metric", ["lpips", "niqe"])
def test_missing_weights_are_named_and_nothing_is_downloaded(pair, metric, monkeypatch, tmp_path, capfd):
    import torch

    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", str(tmp_path / "pyiqa"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert torch.hub.get_dir().startswith(str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("tried to download"))
    quality._model.cache_clear()
    with pytest.raises(MetricUnavailable, match=rf"https://.*create_metric\('{metric}'\)") as caught:
        measure(metric, *pair)
    assert str(tmp_path) in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("switch", [False, True])
def test_pillow_s_switch_is_left_alone(pair, switch, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switch)

    def create(name, device):
        ImageFile.LOAD_TRUNCATED_IMAGES = not switch  # pyiqa.data.ava_dataset sets it at import
        return lambda image, reference: 1.0

    quality._model.cache_clear()
    monkeypatch.setattr("pyiqa.create_metric", create)
    assert measure("ssim", *pair) == 1.0
    quality._model.cache_clear()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is switch
