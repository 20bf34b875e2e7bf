"""Tables in the published layout, with both conventions, in pairs, and never called matched where rates are not."""

from __future__ import annotations

import pytest
from kept_rows import real, results, row

from robustkit.experiments import intervals, tables, text
from robustkit.experiments.rates import groups, rates


def at_rates(**by_entry):
    channels = ("clean", "bsc(ber=0.001)")
    return results(
        [
            row(entry, image, channel, -1 if channel == "clean" else 0, bpp=bpp)
            for entry, bpp in by_entry.items()
            for image in ("i", "j")
            for channel in channels
        ]
    )


def test_rates_within_five_per_cent_are_matched():
    found = rates(at_rates(a=1.0, b=1.04))
    assert found.matched
    assert str(found) == "Rates are matched within 5%: 1 (a) to 1.04 bpp (b), 4.0% apart."


def test_rates_beyond_five_per_cent_are_not_called_matched():
    apart = at_rates(a=1.0, b=1.06)
    assert not rates(apart).matched
    assert str(rates(apart)).startswith("Rates are NOT matched: ")
    assert "6.0% apart, more than 5%" in str(rates(apart))
    assert rates(apart, tolerance=0.1).matched
    for table in tables.all_of(apart, [apart.metric("psnr")]):
        said = " ".join([*table.notes, *(cell for line in table.rows for cell in line)])
        assert "NOT matched" in said or "not matched" in said, table.name


def test_entries_fall_into_groups_of_one_rate():
    found = rates(at_rates(a=1.0, b=1.04, c=1.08, d=2.0))
    assert groups(found) == [["a", "b"], ["c"], ["d"]]


def test_the_rates_are_of_the_clean_stream_image_by_image():
    found = results([row("a", "i", "clean", -1, bpp=1.0), row("a", "j", "bsc(ber=0.1)", 0, bpp=3.0)])
    assert found.rate("a") == {"i": 1.0, "j": 3.0}
    assert rates(found).means == {"a": 2.0}
    assert rates(found).ranges == {"a": (1.0, 3.0)}


def test_the_published_layout_holds_means_deviations_and_per_cents():
    found = real(["jpeg", "webp"])
    measure = found.metric("psnr")
    table = tables.published_layout(found, [measure], channels=["bsc(ber=0.0001)", "bsc(ber=0.001)"])
    assert table.heads == ["codec", "bpp", *["PSNR, dB", "no image, %"] * 2]
    jpeg = table.rows[0]
    point = found.points["jpeg", "bsc(ber=0.001)"]
    summary, share = intervals.left_out(point, measure), intervals.corrupted(point)
    assert jpeg[4] == f"{summary.mean:.2f} ± {summary.sd:.2f}"
    assert jpeg[5] == f"{100 * share.share:.2f}"
    assert table.figures[1]["psnr_mean"] == summary.mean
    assert table.figures[1]["no_image"] == share.events
    assert r"\multicolumn{2}{c}{bsc(ber=0.001)}" in table.latex()


def test_fid_stands_in_the_published_layout_as_mean_and_deviation_over_trials():
    rows = [row("a", "i", "bsc(ber=0.001)", n) for n in range(3)]
    found = results(rows, sets={("a", "bsc(ber=0.001)", "fid"): [10.0, float("nan"), 14.0]})
    table = tables.published_layout(found, [found.metric("psnr")])
    assert table.rows[0][3] == "12.00 ± 2.83"
    assert table.figures[0]["fid_mean"] == 12.0


def test_losses_are_against_the_clean_decode_of_the_same_image():
    rows = [row("a", image, "clean", -1, psnr=best) for image, best in (("i", 40.0), ("j", 30.0), ("k", 100.0))]
    rows += [row("a", "i", "bsc(ber=0.001)", n, psnr=value) for n, value in enumerate((30.0, None))]
    rows += [row("a", "j", "bsc(ber=0.001)", n, psnr=value) for n, value in enumerate((29.0, 25.0))]
    # Its clean decode is the original, so there is no number to lose from.
    rows += [row("a", "k", "bsc(ber=0.001)", 0, psnr=20.0)]
    found = results(rows)
    table = tables.losses(found, found.metric("psnr"))
    assert table.heads == ["codec", "bpp", "clean PSNR, dB", "loss, dB", "no image, %"]
    assert table.rows[0][3].split(" ")[0] == "6.50"
    assert table.rows[0][4] == "20.00"
    assert table.figures[0]["loss"] == pytest.approx((10 + (1 + 5) / 2) / 2)
    assert table.figures[0]["loss_low"] < 6.5 < table.figures[0]["loss_high"]


def test_a_metric_of_which_less_is_better_loses_upwards():
    rows = [row("a", "i", "clean", -1, lpips=0.1), row("a", "i", "bsc(ber=0.001)", 0, lpips=0.4)]
    found = results(rows)
    assert tables.losses(found, found.metric("lpips")).figures[0]["loss"] == pytest.approx(0.3)


def test_both_conventions_stand_side_by_side_with_the_share():
    found = real(["jpeg"])
    measure = found.metric("psnr")
    table = tables.conventions(found, measure)
    (line,) = [line for line in table.rows if line[1] == "bsc(ber=0.001)"]
    point = found.points["jpeg", "bsc(ber=0.001)"]
    assert line[3] == text.counted(intervals.corrupted(point))
    charged = intervals.charged(point, measure, found.grey["psnr"])
    assert charged is not None
    assert line[4] != line[6] == text.spread(charged, measure)
    (clean,) = [line for line in table.rows if line[1] == "clean"]
    assert clean[3].startswith("0 of 6: ≤ ")
    assert clean[4] == clean[6]


def test_a_charge_that_nobody_knows_is_said():
    found = real(["jpeg"], grey=False)
    table = tables.conventions(found, found.metric("psnr"))
    assert "not known" in {line[6] for line in table.rows}
    assert any("no row says" in note or "nobody" in note for note in table.notes)
    assert {line[6] for line in table.rows if line[1] == "clean"} != {"not known"}


def test_pairs_stand_against_the_one_that_is_asked_for():
    found = real(["jpeg", "jpeg@q60", "png"])
    table = tables.pairs(found, found.metric("ssim"), anchor="jpeg@q60")
    assert {line[0] for line in table.rows} == {"jpeg", "png"}
    (clean,) = [row for row in table.figures if row["entry"] == "jpeg" and row["channel"] == "clean"]
    one, other = (found.points[entry, "clean"].metrics["ssim"].mean() for entry in ("jpeg", "jpeg@q60"))
    assert clean["left_out_difference"] == pytest.approx(one - other)
    assert not clean["matched"]
    assert "not matched" in table.rows[0][1]


def test_rate_tables_say_how_far_each_is_from_the_lowest():
    table = tables.rate_table(at_rates(a=1.0, b=1.06))
    assert [line[3] for line in table.rows] == ["0.0%", "6.0%"]
    assert "NOT matched" in table.notes[0]
