"""FID and KID of patches, with a small network of random weights in Inception's place."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg

from robustkit.experiments import setmetrics
from robustkit.experiments.setmetrics import SETS, SetMetricError, measure, patches, wrapped
from robustkit.images import photographs
from robustkit.quality import MetricUnavailable, UnknownMetric

torch = pytest.importorskip("torch")
# Not imported: that takes seconds, in each process that collects.
pytestmark = pytest.mark.skipif(find_spec("torchmetrics") is None, reason="needs torchmetrics, of the extra metrics")

WIDTH = 8
Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def network():
    """N x 3 x H x W, uint8, to N x 8."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 5, stride=4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64, WIDTH),
    ).eval()
    seen = []

    def features(batch):
        assert batch.dtype == torch.uint8
        seen.append(len(batch))
        return layers(batch / 255)

    features.seen = seen
    return features


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Image, Image]]:
    generator = np.random.default_rng(0)
    found = []
    for image in photographs(128).values():
        noise = generator.integers(-30, 31, image.shape)
        found.append((image, np.clip(image + noise, 0, 255).astype(np.uint8)))
    return found


def _features(network, images: list[Image]) -> npt.NDArray[np.float64]:
    cut = np.concatenate([patches(image, 32) for image in images])
    with torch.inference_mode():
        return network(torch.from_numpy(cut.transpose(0, 3, 1, 2).copy())).double().numpy()


def _fid(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> float:
    """As its authors define it (Heusel et al. 2017)."""
    root = scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(two.T)).real
    return float(((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(np.cov(one.T) + np.cov(two.T) - 2 * root))


def test_as_many_patches_as_in_the_published_runs() -> None:
    image = np.zeros((512, 512, 3), np.uint8)
    assert len(patches(image, 64)) == 64 + 49 == 113
    assert len(patches(image, 128)) == 16 + 9 == 25
    assert len(patches(image, 64, shifted=False)) == 64


def test_patches_are_cut_from_both_grids_and_what_fills_none_is_left_out() -> None:
    image = np.arange(7 * 10 * 3, dtype=np.uint8).reshape(7, 10, 3)
    cut = patches(image, 4)
    assert len(cut) == 2 + 2
    assert np.array_equal(cut[0], image[:4, :4])
    assert np.array_equal(cut[1], image[:4, 4:8])
    assert np.array_equal(cut[2], image[2:6, 2:6])
    assert np.array_equal(cut[3], image[2:6, 6:10])


def test_the_published_values_wrap_as_torch_wraps_them() -> None:
    values = np.arange(256, dtype=np.uint8)
    assert np.array_equal(wrapped(values), (torch.from_numpy(values) * 255).byte().numpy())
    assert wrapped(values)[[0, 1, 255]].tolist() == [0, 255, 1]


def test_fid_is_the_distance_of_the_two_gaussians(network, pairs) -> None:
    originals, decoded = (list(side) for side in zip(*pairs, strict=True))
    value = measure(["fid"], iter(pairs), side=32, network=network)["fid"]
    assert value == pytest.approx(_fid(_features(network, originals), _features(network, decoded)), rel=1e-3)
    published = measure(["fid-published"], pairs, side=32, network=network)["fid-published"]
    negatives = [_features(network, [wrapped(image) for image in side]) for side in (originals, decoded)]
    assert published == pytest.approx(_fid(*negatives), rel=1e-3)
    assert published != pytest.approx(value, rel=0.05)


def test_kid_is_the_polynomial_kernels_and_its_subsets_are_seeded(network, pairs) -> None:
    originals, decoded = (_features(network, list(side)) for side in zip(*pairs, strict=True))

    def kernel(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (one @ two.T / WIDTH + 1) ** 3

    count = len(originals)
    within = sum(k.sum() - np.trace(k) for k in (kernel(originals, originals), kernel(decoded, decoded)))
    # With fewer patches than a subset holds, each subset is all of them, so nothing is random.
    expected = within / (count * (count - 1)) - 2 * kernel(originals, decoded).mean()
    state = torch.random.get_rng_state()
    values = measure(["kid", "fid"], pairs, side=32, network=network)
    assert values["kid"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert torch.equal(state, torch.random.get_rng_state())
    assert values["fid"] == measure(["fid"], pairs, side=32, network=network)["fid"]


def test_subsets_are_those_of_the_seed(network, pairs, monkeypatch) -> None:
    monkeypatch.setattr(setmetrics, "_SUBSET", 40)
    one, again, other = (measure(["kid"], pairs, side=32, network=network, seed=seed)["kid"] for seed in (1, 1, 2))
    assert one == again != other


def test_equal_sets_have_no_distance_and_metrics_of_the_same_pixels_share_the_network(network, pairs) -> None:
    same = [(image, image) for image, _ in pairs]
    network.seen.clear()
    values = measure(["fid", "kid"], same, side=32, network=network)
    assert sum(network.seen) == 2 * 6 * (16 + 9)
    assert values["fid"] == pytest.approx(0, abs=1e-4)
    assert abs(values["kid"]) < 0.05


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no image was decoded"),
        ([(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8))], "they must be the same"),
        ([(np.zeros((16, 64, 3), np.uint8),) * 2], "patches of 32 pixels of an image of 64x16"),
        ([(np.zeros((64, 64, 3)), np.zeros((64, 64, 3), np.uint8))], "float64"),
        ([(np.zeros((33, 33, 3), np.uint8),) * 2], "needs two patches on each side, there is 1"),
    ],
)
def test_sets_that_cant_be_compared_are_refused(network, given, message: str) -> None:
    with pytest.raises(SetMetricError, match=message):
        measure(["fid"], given, side=32, network=network)


def test_a_value_that_is_not_finite_is_an_error(pairs) -> None:
    with pytest.raises(ValueError, match="fid can't compare these sets"):
        measure(["fid"], pairs, side=32, network=lambda batch: torch.full((len(batch), WIDTH), float("nan")))


def test_an_unknown_metric_lists_the_nearest(network, pairs) -> None:
    with pytest.raises(UnknownMetric, match=r"'fid-publised'.*fid-published"):
        measure(["fid-publised"], pairs, network=network)


def test_without_inceptions_weights_they_are_named_and_nothing_is_downloaded(
    monkeypatch, capsys, tmp_path: Path
) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("tried to download"))
    (file,) = SETS["fid"].weights
    # The whole architecture is built first, at random.
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, *a, **k: tensor)
    with pytest.raises(MetricUnavailable, match=rf"needs weights: {re.escape(file)}, from https://\S+, to {tmp_path}"):
        setmetrics.inception()
    assert capsys.readouterr() == ("", "")
    assert SETS["fid"].record()["package"] == "torchmetrics"


@pytest.mark.slow
def test_inception_is_loaded_from_torchs_cache(monkeypatch, tmp_path: Path) -> None:
    """Random weights of the right shape, where a download would have put the published ones."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import feature_extractor_inceptionv3 as module

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(module, "load_state_dict_from_url", lambda *a, **k: {})
        patched.setattr(torch.nn.Module, "load_state_dict", lambda *a, **k: None)
        random = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(random.state_dict(), cache / SETS["fid"].weights[0])
    setmetrics.inception.cache_clear()
    try:
        network = setmetrics.inception()
        features = list(setmetrics._features(network, patches(photographs(128)["coffee"], 64), "cpu"))
    finally:
        setmetrics.inception.cache_clear()
    assert [tuple(batch.shape) for batch in features] == [(5, 2048)]
    assert all(torch.isfinite(batch).all() for batch in features)
