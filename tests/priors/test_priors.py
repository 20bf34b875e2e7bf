"""The embedded prior, its network, and the script that trains it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image as PILImage

from robustkit.images import photographs
from robustkit.priors import EMBEDDED, load_prior
from robustkit.priors.base import PriorError
from robustkit.priors.blockdiffusion import BlockDiffusionPrior
from robustkit.priors.photographs import Crops, vary_colours
from robustkit.priors.train import main as train
from robustkit.priors.unet import UNet, UNetConfig

SMALL = UNetConfig(6, 6, (16, 32, 48), 2, 8, 16)


@pytest.fixture(scope="module")
def prior() -> BlockDiffusionPrior:
    loaded = load_prior("embedded")
    assert isinstance(loaded, BlockDiffusionPrior)
    return loaded


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 127.5 - 1


def test_the_network_is_diffusers_unet() -> None:
    from diffusers import UNet2DModel

    theirs = UNet2DModel(
        in_channels=6,
        out_channels=6,
        block_out_channels=(16, 32, 48),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    ).eval()
    ours = UNet(SMALL).eval()
    ours.load_state_dict(theirs.state_dict())
    x, position = torch.randn(2, 6, 16, 8), torch.tensor([3.0, 700.0])
    with torch.inference_mode():
        assert torch.allclose(ours(x, position), theirs(x, position).sample, atol=1e-5)


def test_the_transform_is_orthonormal(prior: BlockDiffusionPrior) -> None:
    rows = prior.transform.basis.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)


def test_latents_keep_what_the_rates_of_interest_can_show(prior: BlockDiffusionPrior) -> None:
    for name, image in photographs().items():
        pixels = as_tensor(image)
        error = (prior.decode(prior.encode(pixels)) - pixels).square().mean()
        # 4 is the squared range of [-1, 1]; 30 dB for the hardest photograph.
        assert 10 * torch.log10(4 / error) > 30, name


def test_the_denoiser_beats_the_wiener_estimate_on_photographs(prior: BlockDiffusionPrior) -> None:
    clean = torch.cat([prior.encode(as_tensor(image)) for image in photographs().values()])
    generator = torch.Generator().manual_seed(0)
    for log_snr in (-4.0, 0.0, 3.0):
        level = prior.level_at_snr(log_snr)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = level.alpha_bar**0.5 * clean + (1 - level.alpha_bar) ** 0.5 * noise
        error = (prior.predict_clean(noisy, level) - clean).square().mean()
        variance = prior.denoiser.variance
        wiener = (variance / (1 + np.exp(log_snr) * variance)).mean()
        assert error < 0.85 * wiener


def test_the_final_estimate_is_better_than_one_call(prior: BlockDiffusionPrior) -> None:
    generator = torch.Generator().manual_seed(0)
    level = prior.level_at_snr(3.0)
    for name, image in photographs(crop=128).items():
        clean = prior.encode(as_tensor(image)[:, :, :96])
        noise = torch.randn(clean.shape, generator=generator)
        noisy = level.alpha_bar**0.5 * clean + (1 - level.alpha_bar) ** 0.5 * noise
        one, final = prior.predict_clean(noisy, level), prior.predict_final(noisy, level)
        assert (final - clean).square().mean() < (one - clean).square().mean(), name


def test_the_error_curve_falls(prior: BlockDiffusionPrior) -> None:
    assert prior.mmse is not None
    positions, errors = prior.mmse
    assert np.all(np.diff(positions) > 0)
    assert np.all(np.diff(errors) < 0)


def test_the_embedded_weights_stay_small() -> None:
    assert sum(p.stat().st_size for p in EMBEDDED.iterdir()) <= 16_000_000


def test_another_kind_of_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"kind": "something else"}')
    with pytest.raises(PriorError, match="something else"):
        load_prior(str(tmp_path))


@pytest.mark.slow
def test_crops_are_squares_of_the_photographs_under_every_symmetry() -> None:
    """Red says the row, green the column and blue the photograph that a pixel comes from."""
    sizes, side = [(20, 30), (9, 14)], 7
    places = [np.stack(np.mgrid[:height, :width], axis=-1) for height, width in sizes]
    marked = [np.dstack([place, np.full(place.shape[:2], n)]).astype(np.uint8) for n, place in enumerate(places)]
    torch.manual_seed(0)
    crops = ((Crops(marked, torch.device("cpu")).draw(400, side) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    symmetries, corners, sources = set(), set(), []
    for rows, columns, source in np.moveaxis(crops, -1, 1):
        height, width = sizes[int(source[0, 0])]
        assert (source == source[0, 0]).all()
        top, left = int(rows.min()), int(columns.min())
        assert top + side <= height
        assert left + side <= width
        window = np.stack([rows - top, columns - left], axis=-1)
        plain = np.stack(np.mgrid[:side, :side], axis=-1)
        (found,) = (
            (turned, quarters)
            for turned in (False, True)
            for quarters in range(4)
            if np.array_equal(window, np.rot90(plain.transpose(1, 0, 2) if turned else plain, quarters))
        )
        symmetries.add(found)
        corners.add((int(source[0, 0]), top, left))
        sources.append(int(source[0, 0]))
    assert len(symmetries) == 8
    assert {top for source, top, _ in corners if source == 1} == {0, 1, 2}
    assert abs(np.mean(sources) - 126 / 726) < 0.06


def test_a_photograph_without_a_share_is_never_drawn() -> None:
    photographs = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 255)]
    assert (Crops(photographs, torch.device("cpu"), [0.0, 1.0]).draw(100, 8) == 1).all()


def test_colours_vary_by_as_much_as_asked() -> None:
    images = torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    assert torch.allclose(vary_colours(images, 0.0), images, atol=1e-6)
    changes = (vary_colours(images, 0.1) - images).abs().amax(dim=(1, 2, 3))
    assert 0.02 < changes.median() < 0.2
    assert vary_colours(4 * images, 0.5).abs().max() == 1


def test_training_writes_a_prior_resumes_and_gets_better(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for part in ("train", "val"):
        (data / part).mkdir(parents=True)
        for name, image in photographs().items():
            PILImage.fromarray(image).save(data / part / f"{name}.png")
    arguments = [str(data), "--out", str(out), "--batch", "4", "--crop", "64", "--widths", "32,48,64", "--every", "10"]
    arguments += ["--learning-rate", "0.02"]
    first = CliRunner().invoke(train, [*arguments, "--iterations", "10"], catch_exceptions=False)
    assert first.exit_code == 0, first.output
    second = CliRunner().invoke(train, [*arguments, "--iterations", "20"], catch_exceptions=False)
    assert "resumed at iteration 10" in second.output
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["iteration"] for entry in log] == [10, 20]
    assert log[1]["held_out_loss"] < log[0]["held_out_loss"]
    trained = load_prior(str(out))
    assert trained.identity != load_prior("embedded").identity
    other = CliRunner().invoke(train, [*arguments, "--iterations", "30", "--components", "32"])
    assert other.exit_code == 2
    assert "components = 48, not 32" in other.output


@pytest.mark.slow
def test_training_can_start_from_a_trained_prior_and_add_components(tmp_path: Path, prior: BlockDiffusionPrior) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for part in ("train", "val"):
        (data / part).mkdir(parents=True)
        for name, image in photographs().items():
            PILImage.fromarray(image).save(data / part / f"{name}.png")
    more = len(prior.transform.basis) + 4
    arguments = [str(data), "--out", str(out), "--start-from", "embedded", "--batch", "2", "--crop", "64"]
    arguments += ["--components", str(more), "--iterations", "1", "--learning-rate", "0"]
    result = CliRunner().invoke(train, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    trained = load_prior(str(out))
    assert isinstance(trained, BlockDiffusionPrior)
    rows = trained.transform.basis.flatten(1)
    assert torch.equal(trained.transform.basis[:-4], prior.transform.basis)
    assert torch.allclose(rows @ rows.T, torch.eye(more), atol=1e-5)
    # What it knew, it still knows: with nothing learnt, the old components are estimated as before.
    noisy, level = torch.randn(1, more, 8, 8, generator=torch.Generator().manual_seed(0)), prior.level_at_snr(-1.0)
    after, before = trained.predict_clean(noisy, level)[:, :-4], prior.predict_clean(noisy[:, :-4], level)
    assert (after - before).abs().max() < 0.05
    result = CliRunner().invoke(
        train, [*arguments[:2], str(tmp_path / "other"), *arguments[3:], "--widths", "32,48,64"]
    )
    assert result.exit_code == 2
    assert "does not fit" in result.output


def test_training_without_photographs_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    result = CliRunner().invoke(train, [str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "no photograph" in result.output
