"""FID of an experiment's trials, with a small network of random weights in Inception's place."""

from __future__ import annotations

import csv
import math
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage

from robustkit.cli import main
from robustkit.experiments import figures, identity, pictures, setmetrics, sets, store, sweep
from robustkit.experiments import plan as plans
from robustkit.experiments.run import Bench
from robustkit.images import photographs
from robustkit.judging.subject import Job
from robustkit.quality import MetricUnavailable

torch = pytest.importorskip("torch")
# Not imported: that takes seconds, in each process that collects.
pytestmark = pytest.mark.skipif(find_spec("torchmetrics") is None, reason="needs torchmetrics, of the extra metrics")

CHANNEL = "bsc(ber=0.0001)"
SIDE, PATCH, TRIALS = 64, 16, 3


class Network:
    """N x 3 x H x W, uint8, to N x 4; it counts what it is asked."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.weights = torch.randn(3 * 4 * 4, 4)
        self.asked = 0

    def __call__(self, batch):
        self.asked += len(batch)
        small = torch.nn.functional.adaptive_avg_pool2d(batch.float() / 255, 4)
        return small.flatten(1) @ self.weights


@pytest.fixture
def network(monkeypatch):
    found = Network()
    monkeypatch.setattr(setmetrics, "inception", lambda *_, **__: found)
    return found


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("coffee", "rocket", "chelsea"):
        PillowImage.fromarray(photographs(SIDE)[name]).save(folder / f"{name}.png")
    return folder


def begun(folder, images, **more):
    said = {"codecs": ["jpeg"], "channels": [CHANNEL], "trials": TRIALS, "images": str(images), "patch": PATCH}
    wanted = plans.make({**said, "metrics": ["psnr", "fid", "fid-published"], **more})
    experiment, _ = identity.examine(wanted, pictures.find(wanted.images, wanted.crop))
    return sweep.begin(folder, experiment), experiment.plan


def test_each_trial_has_the_fid_of_the_images_that_it_gave(tmp_path, folder_of_images, network):
    out = tmp_path / "rows"
    experiment, plan = begun(out, folder_of_images)
    assert (plan.metrics, plan.sets) == (("psnr",), ("fid", "fid-published"))
    sweep.sweep(out, experiment, plan)
    found = sets.read(out)
    assert len(found) == (1 + TRIALS) * 2
    rows = {(row["image"], row["channel"], row["trial"]): row["outcome"] for row in store.read(out).to_pylist()}
    given = {
        n: [i for (i, c, t), o in rows.items() if (c, t) == (CHANNEL, n) and o != "refused"] for n in range(TRIALS)
    }
    # The seed was chosen so: sets of different sizes.
    assert len({len(images) for images in given.values()} - {0}) > 1, given
    bench = Bench(out)
    try:
        for number, images in given.items():
            pairs = []
            for image in sorted(images):
                bench.take("jpeg", image)
                kept = []
                job = Job(image, bench.channel("jpeg", CHANNEL), number)
                list(bench.subject("jpeg", image).run([job], keep=lambda _, picture, kept=kept: kept.append(picture)))
                pairs.append((bench.experiment.picture(image).load(), kept[0]))
            values = setmetrics.measure(["fid", "fid-published"], pairs, side=PATCH, network=network)
            for metric, value in values.items():
                mine = found[sets.Which("jpeg", CHANNEL, number, metric)]
                assert mine == sets.Value(pytest.approx(value), len(images), PATCH)
    finally:
        bench.close()
    # No worker's scratch is left, and figures find the file.
    assert not (out / "work").exists()
    drawn = figures.read(out)
    assert len(drawn.sets["jpeg", CHANNEL, "fid-published"]) == TRIALS
    assert drawn.sets["jpeg", "clean", "fid"][0] > 0


def test_what_is_measured_is_not_measured_again(tmp_path, folder_of_images, network):
    out = tmp_path / "rows"
    experiment, plan = begun(out, folder_of_images)
    sweep.sweep(out, experiment, plan)
    before, asked = (out / sets.FILE).read_bytes(), network.asked
    sweep.sweep(out, experiment, plan)
    assert network.asked == asked
    assert (out / sets.FILE).read_bytes() == before
    # One that was of other images, and one that is missing, are.
    lines = before.decode().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(f'jpeg,"{CHANNEL}",1,') and f"{CHANNEL},1," not in line]
    assert len(kept) == len(lines) - 2
    (out / sets.FILE).write_text("".join(kept))
    sweep.sweep(out, experiment, plan)
    assert network.asked > asked
    assert (out / sets.FILE).read_bytes() == before
    (out / sets.FILE).write_text("entry,trial\njpeg,x\n")
    with pytest.raises(store.RowsError, match="remove it, and it is made again"):
        sweep.sweep(out, experiment, plan)


def test_a_trial_of_which_no_image_was_decoded_has_no_value(tmp_path, folder_of_images, network):
    out = tmp_path / "rows"
    experiment, plan = begun(out, folder_of_images, channels=["truncation(keep=0.05)"], trials=1)
    sweep.sweep(out, experiment, plan)
    with (out / sets.FILE).open(newline="") as file:
        (line,) = [row for row in csv.DictReader(file) if row["channel"] != "clean" and row["metric"] == "fid"]
    assert (line["value"], line["images"]) == ("", "0")
    assert math.isnan(figures.read(out).sets["jpeg", "truncation(keep=0.05)", "fid"][0])


def test_without_weights_it_is_said_what_to_fetch(tmp_path, folder_of_images, monkeypatch):
    def lacking(*_, **__):
        raise MetricUnavailable("FID and KID: needs weights: FILE, from URL, to PATH")

    monkeypatch.setattr(setmetrics, "inception", lacking)
    common = ["sweep", "--codec", "jpeg", "--images", str(folder_of_images), "--channel", CHANNEL, "--trials", "1"]
    out = ["--patch", str(PATCH), "--out", str(tmp_path / "rows")]
    done = CliRunner().invoke(main, [*common, *out, "--metric", "psnr", "--metric", "fid"])
    assert done.exit_code == 1
    assert "needs weights: FILE, from URL, to PATH" in done.output
    done = CliRunner().invoke(main, [*common, *out, "--metric", "psnr", "--metric", "fid?"])
    assert done.exit_code == 0, done.output
    assert "fid is left out, it can't run here" in done.output
    assert not (tmp_path / "rows" / sets.FILE).exists()


def test_patches_that_no_image_has_are_an_error(tmp_path, folder_of_images, network):
    with pytest.raises(setmetrics.SetMetricError, match="patches of 65 pixels"):
        begun(tmp_path / "rows", folder_of_images, patch=65)
    with pytest.raises(plans.PlanError, match="patch = 1"):
        begun(tmp_path / "rows", folder_of_images, patch=1)


def test_features_of_originals_are_computed_once(folder_of_images):
    network, known = Network(), {}
    image = photographs(SIDE)["coffee"]
    pairs = [(image, np.roll(image, 1, axis=0))]
    first = setmetrics.measure(["fid"], pairs, side=PATCH, network=network, known=known)
    asked = network.asked
    assert setmetrics.measure(["fid"], pairs, side=PATCH, network=network, known=known) == first
    assert network.asked == asked + asked // 2
    assert setmetrics.measure(["fid"], pairs, side=PATCH, network=network) == first
