"""The map hits every part of a stream, says the same again, and worst cases show what a trial did."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_sample import CASE, CRASHED, SCAN

from robustkit import Layout, Region, images
from robustkit.certificates import scan, worst
from robustkit.certificates.model import CertificateError
from robustkit.channels import parse
from robustkit.judging.replay import load_replay, run_replay
from robustkit.judging.subject import Subject
from robustkit.outcome import Outcome
from robustkit.registry import registry

FLIPS = 150


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory):
    some = dict(list(images.photographs(64).items())[:2])
    found = Subject(registry.get("jpeg").spec(), images=some, directory=tmp_path_factory.mktemp("jpeg"), trials=6)
    yield found
    found.close()


@pytest.fixture(scope="module")
def found(jpeg):
    return scan.run(jpeg, FLIPS)


def test_every_named_part_is_hit_and_each_bit_counted_once(jpeg, found):
    assert found.flips == sum(part.tried for part in found.regions) == FLIPS
    assert found.bits == sum(part.bits for part in found.regions) == sum(clean.bits for clean in jpeg.clean.values())
    assert all(1 <= part.tried <= part.bits for part in found.regions)
    assert {"SOI marker", "SOF0 height"} <= {part.name for part in found.regions}
    assert sum(piece.tried for piece in found.bins) == FLIPS
    assert [part.first for part in found.regions] == sorted(part.first for part in found.regions)
    for part in (*found.regions, *found.bins):
        assert sum(part.outcomes.values()) == part.tried


def test_a_map_knows_what_hurts(found):
    parts = {part.name: part for part in found.regions}
    assert parts["SOI marker"].refused == 1.0
    assert parts["SOI marker"].mean_drop is None
    assert parts["APP0 x density"].worst_drop == 0.0
    payload = next(part for part in found.regions if not part.header)
    assert payload.worst_drop > 1.0
    assert payload.tried > 40
    # The header is small, so one flip anywhere costs about what one of the payload does.
    assert found.whole.refused < 0.35
    assert 0 < found.whole.mean_drop <= max(p.mean_drop for p in found.regions if p.mean_drop is not None)


def test_the_same_flips_for_the_same_seed(jpeg, found, monkeypatch):
    assert scan.run(jpeg, FLIPS) == found
    monkeypatch.setattr(jpeg, "seed", 1)
    other = scan.run(jpeg, FLIPS)
    assert [(p.worst_bit, p.outcomes) for p in other.regions] != [(p.worst_bit, p.outcomes) for p in found.regions]


def test_the_map_is_no_part_of_what_decodes_are_judged_by(jpeg, found):
    assert jpeg.opinions.images == 0


def test_with_fewer_flips_than_parts_the_small_ones_go_without(jpeg, found):
    few = scan.run(jpeg, 3)
    assert few.flips == 3
    assert Counter(part.tried for part in few.regions)[0] == len(few.regions) - sum(p.tried > 0 for p in few.regions)
    assert max(few.regions, key=lambda part: part.bits).tried >= 1
    with pytest.raises(ValueError, match="0 flips make no map"):
        scan.run(jpeg, 0)


@given(st.data())
def test_the_owner_of_a_bit_is_the_layouts_innermost_region(data):
    bits = data.draw(st.integers(1, 60))
    edges = st.lists(st.integers(0, bits), min_size=2, max_size=2).map(sorted)
    regions = [Region(f"part {i}", *data.draw(edges)) for i in range(data.draw(st.integers(0, 6)))]
    layout = Layout(tuple(regions), bits)
    owners = scan.owners(layout)
    for bit in range(bits):
        region = layout.at(bit)
        assert (None if owners[bit] < 0 else regions[owners[bit]]) == region


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=40), st.integers(1, 3000))
def test_flips_are_shared_out_to_the_last_one(sizes, n):
    shares = scan._shares(sizes, n)
    assert sum(shares) == min(n, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    if n >= len(sizes):
        assert min(shares) >= 1


def test_a_map_survives_its_file_and_no_other_file_is_one(found, tmp_path):
    path = tmp_path / "deep" / "map.json"
    scan.write(path, found)
    assert scan.read(path) == found
    scan.write(path, SCAN)
    assert scan.read(path) == SCAN
    for text in ("{", "[" * 100_000, "[]", json.dumps({**scan.to_json(SCAN), "flips": "ten"}), "\x80"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(CertificateError):
            scan.read(path)
    with pytest.raises(CertificateError, match="can't be read"):
        scan.read(tmp_path / "none.json")


def test_worst_cases_are_the_worst_trials_and_decode_again(jpeg, tmp_path):
    channel = parse("burst(length=32)")
    trials = jpeg.trials(channel)
    (case,) = worst.of(jpeg, trials, directory=tmp_path)
    pictured = [t for t in trials if t.drop("psnr") is not None]
    hardest = max(pictured, key=lambda t: t.drop("psnr"))
    assert (case.image, case.number, case.seed) == (hardest.image, hardest.number, hardest.seed)
    assert case.drop == hardest.drop("psnr") > 1
    assert np.array_equal(case.original, jpeg.images[case.image])
    assert not np.array_equal(case.clean, case.damaged)
    away, largest = worst.difference(case)
    assert away.max() == 255
    assert 0 < largest <= 255
    (file,) = tmp_path.glob("*.replay.json")
    assert case.command == f"robustkit replay {file}"
    assert run_replay(load_replay(file)).same
    # The line that draws the damage again does.
    clean = jpeg.clean[case.image]
    import robustkit.channels

    names = {"robustkit": robustkit, "stream": clean.bitstream, "layout": clean.layout}
    assert eval(worst.drawing(case), names) == hardest.pattern  # the test's own text


def test_channels_that_are_broken_come_first_and_failures_have_no_picture(jpeg):
    some, other = jpeg.trials(parse("burst(length=32)")), jpeg.trials(parse("bsc(ber=0.0001)"))
    crashed = replace(some[0], outcome=Outcome.CRASHED, metrics={}, drops={}, message="x" * 5000, number=0)
    found = worst.of(jpeg, [*other, *some, crashed], broken={"burst(length=32)"})
    assert [case.channel for case in found[:2]] == ["burst(length=32)"] * 2
    assert found[0].outcome == "crashed"
    assert found[0].drop is None
    assert found[0].damaged is None
    assert found[1].damaged is not None
    assert len(found[0].message) == 1000
    assert found[0].command == ""
    assert len(worst.of(jpeg, [*other, *some], most=1)) == 1
    assert worst.of(jpeg, []) == []


def test_worst_cases_survive_their_file_and_no_other_file_has_any(tmp_path):
    path = tmp_path / "worst.json"
    worst.write(path, [CASE, CRASHED])
    first, second = worst.read(path)
    assert (first, second) == (CASE, CRASHED)
    for name in ("original", "clean", "damaged"):
        assert np.array_equal(getattr(first, name), getattr(CASE, name))
    assert second.damaged is None
    good = worst.to_json(CASE)
    for wrong in (
        {**good, "pictures": good["pictures"][:2]},
        {**good, "pictures": ["", *good["pictures"][1:]]},
        {**good, "pictures": ["no base64", *good["pictures"][1:]]},
        {**good, "pictures": ["AAAA", *good["pictures"][1:]]},
        {**good, "pictures": [good["pictures"][0][: len(good["pictures"][0]) // 8 * 4], *good["pictures"][1:]]},
        {**good, "number": 1.5},
        {**good, "more": 1},
        [],
    ):
        with pytest.raises(CertificateError, match="worst case"):
            worst.from_json(wrong)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(CertificateError, match="no list of worst cases"):
        worst.read(path)
