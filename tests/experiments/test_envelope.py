"""Which codec is best for a rate, by how much and how surely; and Bjontegaard differences of ladders of rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from kept_rows import real, results, row

from robustkit.experiments import envelope, intervals, ladder
from robustkit.experiments.ladder import Rung
from robustkit.experiments.results import ResultsError

CHANNEL = "bsc(ber=0.001)"


def trials(entry, bpp, values, channel=CHANNEL):
    """One trial of each image: its PSNR, or ``None``."""
    return [row(entry, f"i{n}", channel, 0, psnr=v, bpp=bpp) for n, v in enumerate(values)]


def test_real_protection_is_best_where_its_rate_allows():
    found = real()
    psnr = found.metric("psnr")
    little, much = (envelope.choose(found, CHANNEL, bpp, psnr) for bpp in (2.0, 3.4))
    assert little.best is not None
    assert little.best.entry == "robust-turbo-ddcm"
    assert much.best is not None
    assert much.best.entry == "jpeg+rs(255,191)@q60"
    assert much.sure
    assert "Told apart from all others." in str(much)
    assert "above the rate" in much.aside["png"]
    # Of each method the best that fits.
    assert {c.method for c in much.candidates} == {
        "jpeg", "jpeg2000", "jpeg+rs(255,191)", "robust-turbo-ddcm", "webp",
    }  # fmt: skip


def test_the_margin_is_paired_and_charged():
    found = real()
    psnr = found.metric("psnr")
    choice = envelope.choose(found, CHANNEL, 3.4, psnr)
    best, second = (found.points[c.entry, CHANNEL] for c in choice.candidates[:2])
    alone = intervals.paired(best, second, psnr, grey=found.grey["psnr"])
    assert choice.margins[0].bound.estimate == alone.bound.estimate
    # Five methods: four differences that hold together need longer intervals than one alone.
    assert choice.margins[0].bound.low < alone.bound.low


def test_codecs_that_trials_cannot_tell_apart_are_named():
    values = [20.0, 24.0, 28.0, 22.0]
    rows = trials("a", 1.0, values) + trials(
        "b", 1.0, [v + d for v, d in zip(values, (0.3, -0.2, 0.1, -0.3), strict=True)]
    )
    choice = envelope.choose(results(rows), CHANNEL, 1.0, results(rows).metric("psnr"))
    assert [c.entry for c in choice.candidates] == ["a", "b"]
    assert not choice.sure
    assert str(choice).endswith("Not told apart: b.")


def test_less_is_better_where_the_metric_says_so():
    rows = [row("a", f"i{n}", CHANNEL, 0, lpips=0.2 + n / 100) for n in range(4)]
    rows += [row("b", f"i{n}", CHANNEL, 0, lpips=0.5 + n / 50) for n in range(4)]
    choice = envelope.choose(results(rows), CHANNEL, 1.0, results(rows).metric("lpips"))
    assert choice.best is not None
    assert choice.best.entry == "a"
    assert choice.margins[0].bound.low > 0
    assert envelope.table([choice]).rows[1][7].startswith("0.3150 [")


def test_rates_are_held_to_within_the_tolerance():
    found = results(trials("a", 1.0, [20.0] * 3) + trials("b", 1.04, [30.0] * 3))
    assert envelope.choose(found, CHANNEL, 1.0, found.metric("psnr")).best.entry == "b"
    assert envelope.choose(found, CHANNEL, 1.0, found.metric("psnr"), tolerance=0).best.entry == "a"


def test_who_cannot_be_charged_is_left_aside_with_the_reason():
    rows = trials("a", 1.0, [20.0, None, 22.0]) + trials("b", 1.0, [100.0, 20.0, 20.0]) + trials("c", 1.0, [9.0] * 3)
    rows += [row("d", "i0", "bsc(ber=0.1)", 0)]
    found = results(rows)
    choice = envelope.choose(found, CHANNEL, 1.0, found.metric("psnr"))
    assert [c.entry for c in choice.candidates] == ["c"]
    assert "nobody measured what a mid-grey one scores" in choice.aside["a"]
    assert "1 of 3 images are the original itself" in choice.aside["b"]
    assert choice.aside["d"] == "no trial of it went through this channel"
    assert str(choice).endswith("nothing to compare it with.")
    strict = envelope.choose(
        results(rows, grey={"psnr": {"i1": 5.0}}), CHANNEL, 1.0, found.metric("psnr"), most_without_image=0.1
    )
    assert "1 of 3" in strict.aside["a"]


def test_nobody_fits():
    found = results(trials("a", 1.0, [20.0] * 3))
    choice = envelope.choose(found, CHANNEL, 0.5, found.metric("psnr"))
    assert choice.best is None
    assert str(choice) == f"{CHANNEL}: no codec fits 0.5 bpp."
    assert not envelope.table([choice]).rows


def test_an_unknown_channel_names_the_nearest():
    with pytest.raises(ResultsError, match="did you mean"):
        envelope.choose(real(), "bsc(ber=0.002)", 1.0, real().metric("psnr"))
    with pytest.raises(ResultsError, match="bpp = nan"):
        envelope.choose(real(), CHANNEL, math.nan, real().metric("psnr"))


def test_budgets_are_rates_that_two_methods_have():
    found = results(
        trials("a@1", 1.0, [20.0]) + trials("a@2", 1.02, [20.0]) + trials("b", 2.0, [20.0]) + trials("c", 2.05, [20.0])
    )
    assert envelope.budgets(found) == [2.05]


# -- ladders of rates -----------------------------------------------------------------------------------------


def curve(rates, qualities):
    made = []
    for n, (bpp, quality) in enumerate(zip(rates, qualities, strict=True)):
        found = results([row("a", image, CHANNEL, 0, psnr=quality, lpips=quality / 100) for image in "ij"])
        made.append(Rung(f"a@{n}", bpp, intervals.left_out(found.points["a", CHANNEL], found.metric("psnr"))))
    return made


PSNR = results([row("a", "i", CHANNEL, 0)]).metric("psnr")
RATES = np.array([0.25, 0.5, 1.0, 2.0])


def test_half_the_rate_for_the_same_quality_is_minus_fifty_per_cent():
    found = ladder.delta(curve(RATES, [24, 28, 32, 36]), curve(RATES / 2, [24, 28, 32, 36]), PSNR)
    assert found.rate == pytest.approx(-50)
    # 4 dB for twice the rate.
    assert found.quality == pytest.approx(4)
    assert found.why == "the rates overlap by less than three quarters"


def test_differences_are_the_librarys():
    import bjontegaard  # not at the top: it takes a second, in each process that collects

    one, other = [24.0, 28.5, 31.0, 33.0], [24.5, 28.0, 32.0, 34.5]
    found = ladder.delta(curve(RATES, one), curve(RATES * 1.1, other), PSNR)
    options = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
    assert found.rate == pytest.approx(bjontegaard.bd_rate(RATES, one, RATES * 1.1, other, **options))
    assert found.quality == pytest.approx(bjontegaard.bd_psnr(RATES, one, RATES * 1.1, other, **options))
    assert found.why == ""


def test_a_metric_where_less_is_better_gains_by_less():
    lpips = results([row("a", "i", CHANNEL, 0)]).metric("lpips")
    falling = [40.0, 30.0, 20.0, 10.0]
    found = ladder.delta(curve(RATES, falling), curve(RATES, [q - 5 for q in falling]), lpips)
    assert found.quality == pytest.approx(5)
    assert found.rate is not None
    assert found.rate < 0


@pytest.mark.parametrize(
    ("rates", "qualities", "why"),
    [
        (RATES[:3], [24, 28, 32], "the codec has 3 rates, 4 are needed"),
        (RATES, [24, 28, 32, 100], "the codec has a rate without a finite quality"),
        (RATES * 100, [24, 28, 32, 36], "the two have no rate in common"),
        ([1, 1, 2, 3], [24, 28, 32, 36], "the codec has two entries of equal rate"),
        (RATES, [24, 28, 27, 36], "quality does not rise with rate, so there is no rate for a quality"),
        (RATES, [50, 51, 52, 53], "the two have no quality in common"),
    ],
)
def test_what_has_no_difference_says_why(rates, qualities, why):
    found = ladder.delta(curve(RATES, [24, 28, 32, 36]), curve(rates, qualities), PSNR)
    assert found.rate is None
    assert found.why == why


def test_real_ladders_are_compared():
    found = real()
    assert set(ladder.ladders(found)) == {"jpeg", "jpeg2000", "jpeg+rs(255,191)"}
    table = ladder.table(found, [found.metric("psnr")])
    by_codec = {line["codec"]: line for line in table.figures}
    assert by_codec["jpeg2000"]["anchor"] == "jpeg"
    assert by_codec["jpeg2000"]["rate_percent"] < -20
    assert by_codec["jpeg+rs(255,191)"]["why"] == "the codec has 3 rates, 4 are needed"
