"""Rows are grouped as they are asked for, and what is no experiment's is refused."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from kept_rows import SAID, real, real_table, results, row, table

from robustkit.experiments.results import Results, ResultsError, digest, family, graded, method, parameter


def test_real_rows_are_grouped_by_entry_and_channel():
    found = real()
    assert len(found.images) == 6
    assert found.entries[0] == "jpeg"
    assert found.families()["bsc"] == [f"bsc(ber={ber})" for ber in ("0.0001", "0.001", "0.01", "0.1")]
    assert list(found.families())[1:] == [f"gilbert-elliott(burst={n})" for n in (4, 32, 128)] + ["truncation"]
    point = found.point("jpeg", "bsc(ber=0.001)")
    assert point is not None
    assert len(point.images) == 24
    assert {len(trials) for trials in point.by_image(point.bpp).values()} == {4}
    assert (np.isnan(point.metrics["psnr"]) == ~point.has_image).all()
    assert found.codecs["jpeg@q30"] == "jpeg"
    assert found.settings["jpeg@q30"] == {"quality": 30}


def test_the_order_of_rows_does_not_matter():
    whole = real_table()
    turned = whole.take(pa.array(np.random.default_rng(0).permutation(len(whole))))
    assert digest(turned) == digest(whole)
    one, two = Results(whole), Results(turned)
    assert one.entries == two.entries
    for key, point in one.points.items():
        assert two.points[key].images == point.images
        assert np.array_equal(two.points[key].metrics["psnr"], point.metrics["psnr"], equal_nan=True)


def test_the_digest_is_of_all_but_times():
    rows = [row("a", "i", "clean", -1)]
    assert digest(table(rows)) == digest(table([{**rows[0], "seconds": 9.0, "memory": 5}]))
    assert digest(table(rows)) != digest(table([{**rows[0], "flips": 2}]))


def test_images_and_entries_stand_in_the_order_of_their_numbers():
    found = results([row(f"c{n}", f"image {n}", "clean", -1) for n in (10, 9, 1)])
    assert found.entries == ("c1", "c9", "c10")
    assert results([row("c", f"image {n}", "clean", -1) for n in (10, 9, 1)]).images == (
        "image 1",
        "image 9",
        "image 10",
    )
    rungs = ("c@0.25", "c@0.4", "c@1", "c@10bpp", "c@embedded", "c10")
    assert results([row(entry, "a", "clean", -1) for entry in reversed(rungs)]).entries == rungs


@pytest.mark.parametrize(
    ("channel", "shared", "by"),
    [
        ("bsc(ber=0.001)", "bsc", "ber"),
        ("header-burst(length=32)", "header-burst", "length"),
        ("gilbert-elliott(ber=0.001, burst=16)", "gilbert-elliott(burst=16)", "ber"),
        ("clean", "clean", "severity"),
    ],
)
def test_a_ladder_shares_all_but_the_graded_parameter(channel, shared, by):
    assert family(channel) == shared
    assert graded(channel) == by


def test_names_are_read_as_they_are_spelled():
    assert parameter("gilbert-elliott(ber=0.001, burst=16)", "burst") == 16
    assert parameter("bsc(ber=0.001)", "burst") is None
    assert parameter("bsc(ber=x)", "ber") is None
    assert method("jpeg+rs(255,191)@q10") == "jpeg+rs(255,191)"
    assert method("jpeg") == "jpeg"


def test_the_rows_say_whether_more_is_better():
    found = results([row("a", "i", "clean", -1)])
    assert found.metric("psnr").higher_is_better
    assert not found.metric("lpips").higher_is_better
    assert found.perceptual() is found.measures["lpips"]
    older = {"psnr": {"direction": "higher"}, "lpips": {"direction": "lower"}}
    assert not Results(table([row("a", "i", "clean", -1)], older)).metric("lpips").higher_is_better
    with pytest.raises(ResultsError, match=r"by 'psnrr': did you mean psnr\?"):
        found.metric("psnrr")


def test_a_psnr_at_its_cap_is_an_equal_image():
    measure = results([row("a", "i", "clean", -1)]).metric("psnr")
    assert measure.identical([30.0, 100.0, math.inf]).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda: real_table().drop_columns(["outcome"]), "no column outcome: this is no folder"),
        (lambda: real_table().slice(0, 0), "no trial is done yet"),
        (lambda: table([row("a", "i", "clean", -1, outcome="melted")]), "no outcome is called 'melted'"),
        (
            lambda: table([row("a", "i", "clean", -1), row("b", "i", "clean", -1, image_digest="other")]),
            "two images are called 'i'",
        ),
        (
            lambda: table([row("a", "i", "clean", -1), row("a", "j", "clean", -1, codec="other")]),
            "two codecs are called 'a'",
        ),
        (lambda: table([row("a", "i", "clean", -1, settings="{")]), "settings of 'a' can't be read"),
        (lambda: table([row("a", "i", "clean", -1)]).replace_schema_metadata({"robustkit.metrics": "{"}), "metrics"),
        (lambda: table([row("a", "i", "clean", -1)]).replace_schema_metadata({"robustkit.metrics": "[]"}), "metrics"),
        (
            lambda: table([row("a", "i", "clean", -1, oddity=1.0)], {**SAID, "oddity": {}}),
            "whether more oddity is better",
        ),
    ],
)
def test_what_is_no_experiments_is_refused(broken, said):
    with pytest.raises(ResultsError, match=said):
        Results(broken())


def test_an_unknown_entry_names_the_nearest():
    with pytest.raises(ResultsError, match=r"'jpegg': did you mean jpeg"):
        real(["jpegg"])
