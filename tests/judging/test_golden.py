"""Golden files: recording, comparing, and every way in which they stop matching; through the suite and in Python."""

import contextlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from suites import TOTAL, make_suite, run_here

from robustkit import ErrorPattern, Layout, Outcome, Region
from robustkit.isolation import Decoded
from robustkit.judging import golden_files
from robustkit.judging.golden_files import GoldenError, Tolerance

RNG = np.random.default_rng(0)
PHOTOGRAPHS = {name: RNG.integers(0, 256, (16, 12, 3), dtype=np.uint8) for name in ("cat", "dog")}


def subject(
    *,
    encode=lambda image: image.tobytes(),
    change=lambda image: image,
    refuse=(),
    fate=None,
    repeats=(),
    facts={"prior": "1a2b"},  # noqa: B006
):
    """A codec that stores pixels, with a flaw to choose."""

    def decode(bitstreams, *, shape):
        found = []
        for i, stream in enumerate(bitstreams):
            if fate is not None:
                found.append(Decoded(None, fate))
            elif i in refuse:
                found.append(Decoded(None, Outcome.REFUSED))
            else:
                found.append(Decoded(change(np.frombuffer(stream, np.uint8).reshape(*shape, 3)), None))
        return found

    def layout(stream):
        return Layout((Region("pixels", 0, 8 * len(stream)),), 8 * len(stream))

    return golden_files.Coder("store", "cpu", {}, facts, encode, layout, decode, repeats)


@pytest.fixture
def folder(tmp_path):
    path = golden_files.folder(tmp_path, "store", "cpu")
    golden_files.record(path, subject(), PHOTOGRAPHS)
    return path


def compare(folder, **flaw):
    return golden_files.compare(folder, golden_files.read(folder), subject(**flaw), PHOTOGRAPHS)


def test_what_was_recorded_matches(folder):
    assert compare(folder) == []
    manifest = golden_files.read(folder)
    assert golden_files.orphans(folder, manifest) == []
    assert (manifest.codec, manifest.device, manifest.facts) == ("store", "cpu", {"prior": "1a2b"})
    assert {f.name for f in folder.iterdir()} == manifest.files()
    assert len(manifest.files()) == 1 + 2 * (1 + 4)
    for photograph in manifest.photographs:
        clean, *damaged = photograph.reconstructions
        assert (clean.pattern, clean.outcome, clean.flips) == ("clean", "intact", ())
        assert [r.pattern for r in damaged] == list(golden_files.CHANNELS)
        assert all(r.flips for r in damaged)


def test_recording_again_changes_nothing(folder):
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    golden_files.record(folder, subject(), PHOTOGRAPHS)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_with_other_libraries_the_encoder_may_stray_with_other_settings_it_may_not(tmp_path):
    path = golden_files.folder(tmp_path, "store", "cpu")
    golden_files.record(path, subject(facts={"libstore": "1.0", "settings": "a=1"}), PHOTOGRAPHS)

    def encode(image):
        return bytes(len(image.tobytes()))

    assert compare(path, encode=encode, facts={"libstore": "1.1", "settings": "a=1"}) == []
    for chosen in ("a=1", "a=2"):
        found = compare(path, encode=encode, facts={"libstore": "1.0", "settings": chosen})
        assert [m.photograph for m in found] == ["cat", "dog"]


def test_on_another_device_class_the_encoder_may_stray_but_the_decoder_may_not(folder):
    def encode(image):
        return bytes(len(image.tobytes()))

    elsewhere = {"device": "cpu (another)"}
    assert compare(folder, encode=encode, facts=elsewhere) == []
    assert compare(folder, encode=lambda image: b"", facts=elsewhere)
    assert compare(folder, encode=encode, facts=elsewhere, change=lambda image: image ^ 255)


def test_one_bit_of_the_encoder_is_seen_and_named(folder):
    def encode(image):
        stream = image.tobytes()
        return ErrorPattern(8 * len(stream), np.array([171])).apply(stream)

    found = compare(folder, encode=encode)
    assert [m.file for m in found] == ["cat.bin", "dog.bin"]
    assert found[0].what == "differs from what the encoder now writes in 1 bits, first bit 171 (pixels)"


def test_another_length_is_seen(folder):
    assert "576 bytes, the encoder now writes 577" in compare(folder, encode=lambda i: i.tobytes() + b"x")[0].what


def test_pixels_may_stray_within_the_tolerance_and_no_further(folder):
    def brighten(levels, pixels):
        def change(image):
            image = image.copy()
            flat = image.reshape(-1)
            flat[:pixels] = np.where(flat[:pixels] > 127, flat[:pixels] - levels, flat[:pixels] + levels)
            return image

        return change

    assert golden_files.read(folder).tolerance == Tolerance(*golden_files.FLOOR)
    assert compare(folder, change=brighten(2, 10)) == []
    assert len(compare(folder, change=brighten(3, 1))) == 8
    assert len(compare(folder, change=brighten(1, 40))) == 8


def test_the_tolerance_follows_the_repeats(tmp_path):
    def wobbly(bitstreams, *, shape):
        return [Decoded(np.frombuffer(s, np.uint8).reshape(*shape, 3) // 2, None) for s in bitstreams]

    golden_files.record(tmp_path, subject(repeats=[wobbly]), PHOTOGRAPHS)
    assert golden_files.read(tmp_path).tolerance.maximum == 2 * 128


def test_an_outcome_that_changes_on_repeats_is_not_recorded(tmp_path):
    with pytest.raises(GoldenError, match="different outcomes"):
        golden_files.record(tmp_path, subject(repeats=[subject(refuse=[2]).decode]), PHOTOGRAPHS)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_not_recorded(tmp_path):
    broken = subject(fate=Outcome.CRASHED)
    with pytest.raises(GoldenError, match="photograph cat, clean: the decode was crashed"):
        golden_files.record(tmp_path, broken, PHOTOGRAPHS)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_recorded_and_compared(tmp_path):
    golden_files.record(tmp_path, subject(refuse=[2]), PHOTOGRAPHS)
    assert not list(tmp_path.glob("*bsc-ber-0.01.png"))
    assert compare(tmp_path, refuse=[2]) == []
    found = compare(tmp_path)
    assert [m.what for m in found] == ["under bsc(ber=0.01) was refused, now an image"] * 2


def test_where_all_damage_is_refused_milder_damage_shows_a_picture(tmp_path):
    """A check sum lets little damage through: golden files that are refusals alone hold no decoder to anything."""

    def decode(bitstreams, *, shape, gain=1):
        found = []
        for stream in bitstreams:
            flips = min(np.unpackbits(np.frombuffer(stream, np.uint8) ^ p.ravel()).sum() for p in PHOTOGRAPHS.values())
            image = np.frombuffer(stream, np.uint8).reshape(*shape, 3) // gain
            found.append(Decoded(image, None) if flips < 2 else Decoded(None, Outcome.REFUSED))
        return found

    golden_files.record(tmp_path, replace(subject(), decode=decode), PHOTOGRAPHS)
    manifest = golden_files.read(tmp_path)
    for photograph in manifest.photographs:
        assert [r.pattern for r in photograph.reconstructions] == ["clean", *golden_files.CHANNELS, "burst(length=1)"]
        assert [r.outcome for r in photograph.reconstructions] == ["intact", *["refused"] * 3, "degraded"]
    assert golden_files.compare(tmp_path, manifest, replace(subject(), decode=decode), PHOTOGRAPHS) == []
    darker = replace(subject(), decode=partial(decode, gain=2))
    found = golden_files.compare(tmp_path, manifest, darker, PHOTOGRAPHS)
    assert [m.file for m in found if "burst" in m.file] == ["cat.burst-length-1.png", "dog.burst-length-1.png"]


def test_where_nothing_but_refusals_is_found_they_stay(tmp_path):
    good = {p.tobytes() for p in PHOTOGRAPHS.values()}

    def decode(bitstreams, *, shape):
        image = np.frombuffer(next(iter(good)), np.uint8).reshape(*shape, 3)
        return [Decoded(image, None) if s in good else Decoded(None, Outcome.REFUSED) for s in bitstreams]

    golden_files.record(tmp_path, replace(subject(), decode=decode), PHOTOGRAPHS)
    assert {len(p.reconstructions) for p in golden_files.read(tmp_path).photographs} == {4}


def test_a_new_refusal_is_seen(folder):
    found = compare(folder, refuse=[0])
    assert [m.file for m in found] == ["cat.clean.png", "dog.clean.png"]
    assert found[0].what == "under clean was intact, now refused"
    assert found[0].expected is not None


def test_another_shape_is_seen(folder):
    assert "is 12x16, the decode 11x16" in compare(folder, change=lambda image: image[:, 1:])[0].what


def test_missing_and_broken_files_are_seen(folder):
    (folder / "cat.clean.png").unlink()
    (folder / "dog.clean.png").write_bytes(b"no picture")
    found = compare(folder)
    assert [(m.file, m.what) for m in found] == [
        ("cat.clean.png", "is missing or not a PNG"),
        ("dog.clean.png", "is missing or not a PNG"),
    ]
    (folder / "cat.bin").unlink()
    assert "can't be read" in compare(folder)[0].what


def test_a_photograph_without_golden_files_is_seen(folder):
    more = {**PHOTOGRAPHS, "eel": PHOTOGRAPHS["cat"]}
    found = golden_files.compare(folder, golden_files.read(folder), subject(), more)
    assert [(m.photograph, m.what) for m in found] == [("eel", "has no golden files")]


def test_orphans_are_found_at_any_depth(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "cat.bin").write_bytes(b"")
    (folder / "old.png").write_bytes(b"")
    found = golden_files.orphans(folder, golden_files.read(folder))
    assert [p.name for p in found] == ["cat.bin", "old.png"]


def test_recording_removes_its_own_old_files_and_no_others(folder):
    (folder / "notes.txt").write_text("mine")
    golden_files.record(folder, subject(), {"cat": PHOTOGRAPHS["cat"]})
    assert not list(folder.glob("dog*"))
    assert (folder / "notes.txt").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be read"),
        ("[]", "not a golden manifest of version 1"),
        ('{"version": 2}', "not a golden manifest of version 1"),
        ('{"version": 1}', "is damaged"),
        ("[" * 3000, "can't be read"),
        ('{"version": 1, "tolerance": 1e999}', "can't be read"),
        ('{"version": 1, "codec": "\\ud800"}', "can't be read"),
    ],
)
def test_a_damaged_manifest_says_so(folder, text, message):
    (folder / golden_files.MANIFEST).write_text(text)
    with pytest.raises(GoldenError, match=message):
        golden_files.read(folder)


@pytest.mark.parametrize("name", ["../../secret.bin", "/etc/passwd", "a/b.bin", ".hidden", 7, "", "a\0b"])
def test_a_manifest_can_not_name_files_elsewhere(folder, name):
    data = json.loads((folder / golden_files.MANIFEST).read_text())
    data["photographs"][0]["bitstream"] = name
    (folder / golden_files.MANIFEST).write_text(json.dumps(data))
    with pytest.raises(GoldenError, match="plain file name"):
        golden_files.read(folder)


@pytest.mark.parametrize("flips", [[10**30], [-1], ["x"], [None]])
def test_a_manifest_can_not_flip_what_no_stream_has(folder, flips):
    data = json.loads((folder / golden_files.MANIFEST).read_text())
    data["photographs"][0]["reconstructions"][1]["flips"] = flips
    (folder / golden_files.MANIFEST).write_text(json.dumps(data))
    with pytest.raises(GoldenError, match="is damaged"):
        golden_files.read(folder)


hostile = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["\ud800", "\0", ".", "..", "x" * 5000, 10**30, -(10**400), float("inf")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_hostile_manifest_is_refused_or_compared(folder, data):
    path = folder / golden_files.MANIFEST
    good = path.read_text()
    table = json.loads(good)
    inside = table
    while True:
        key = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        if not isinstance(inside[key], dict | list) or not inside[key] or data.draw(st.booleans()):
            break
        inside = inside[key]
    inside[key] = data.draw(hostile)
    try:
        path.write_text(json.dumps(table))
        with contextlib.suppress(GoldenError):
            for mismatch in compare(folder):
                mismatch.what.encode()
    finally:
        path.write_text(good)


def test_a_codec_name_can_not_lead_out_of_the_golden_folder(tmp_path):
    for name in ("../../etc", "/etc", "package.module:Codec", ".."):
        assert golden_files.folder(tmp_path, name, "cpu").resolve().is_relative_to(tmp_path)


def test_the_comparison_shows_expected_actual_and_difference():
    expected = np.zeros((4, 5, 3), np.uint8)
    actual = expected.copy()
    actual[1, 2] = 7
    shown = golden_files.comparison(expected, actual)
    assert shown.shape == (4, 3 * 5 + 2 * 8, 3)
    assert shown[1, 13 + 2, 0] == 7
    assert shown[1, 26 + 2, 0] == 255
    assert shown[0, 26, 0] == 0
    assert golden_files.comparison(None, actual).shape == shown.shape
    assert golden_files.comparison(expected[:, 1:], actual).shape == (4, 4 + 5 + 4 + 16, 3)


def test_the_report_escapes_and_shows_pictures(folder, tmp_path):
    found = compare(folder, change=lambda image: image // 2)
    page = golden_files.write_report(tmp_path / "report", found, codec="<b>store</b>", device="cpu").read_text()
    assert "<b>store</b>" not in page
    assert page.count("data:image/png;base64,") == len(found) == 8
    assert golden_files.picture(tmp_path / "report", found[0]).is_file()


# Through pytest.


@pytest.fixture
def suite(pytester):
    make_suite(pytester.path)

    def run(*args):
        return run_here(pytester, "conformance", "--robustkit-crop=64", "-k", "golden and not drops", *args)

    run.path = pytester.path
    return run


def output(result):
    return result.stdout.str() + result.stderr.str()


def test_updating_fails_once_then_passes_and_sees_a_change_in_the_decoder(suite):
    options = ("--codec", "plain", "--robustkit-golden-dir", "mine")
    skipped = suite("--codec", "plain", "-rs")
    skipped.assert_outcomes(skipped=2, deselected=TOTAL - 2)
    recording = "pytest conformance --codec plain -k golden --robustkit-golden-update --robustkit-golden-dir DIR"
    assert recording in output(skipped)

    first = suite(*options, "--robustkit-golden-update")
    first.assert_outcomes(failed=1, passed=1, deselected=TOTAL - 2)
    assert "golden rewritten in mine/plain/cpu: review and run again" in output(first)
    suite(*options).assert_outcomes(passed=2, deselected=TOTAL - 2)

    stray = suite.path / "mine" / "plain" / "cpu" / "stray.png"
    stray.write_bytes(b"")
    orphan = suite(*options)
    orphan.assert_outcomes(passed=1, failed=1, deselected=TOTAL - 2)
    assert "mine/plain/cpu/stray.png" in output(orphan)
    stray.unlink()

    conftest = suite.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace("repeat(4, axis=1)", "repeat(4, axis=1).__xor__(np.uint8(4))", 1))
    changed = suite(*options)
    changed.assert_outcomes(passed=1, failed=1, deselected=TOTAL - 2)
    text = output(changed)
    assert "astronaut.clean.png differs by up to 4 grey levels" in text
    assert "robustkit-report/golden/plain/cpu/astronaut.clean.difference.png" in text
    assert (suite.path / "robustkit-report/golden/plain/cpu/index.html").is_file()
    lines = text.splitlines()
    # The last line of the failure, before the table.
    end = next(i for i, line in enumerate(lines) if line.startswith("====") and " robustkit " in line)
    assert lines[end - 1].startswith("robustkit replay robustkit-report/replay/plain/golden-reconstructions-match")


def test_a_missing_golden_of_a_codec_that_must_have_one_fails(suite):
    missing = suite("--codec", "jpeg", "--robustkit-crop=256", "--robustkit-golden-dir", "mine")
    missing.assert_outcomes(failed=2, deselected=TOTAL - 2)
    assert "missing golden: mine/jpeg/cpu is not there" in output(missing)
    assert "record it: pytest conformance --codec jpeg -k golden --robustkit-golden-update" in output(missing)


def test_a_codec_of_somebody_elses_is_not_compared_with_the_shipped_files_of_its_name(suite):
    """V9: the proposed command would have overwritten them."""
    conftest = (suite.path / "conftest.py").read_text().split("class Blurry")[0].replace('"plain"', '"jpeg"')
    (suite.path / "theirs.py").write_text(conftest)
    skipped = suite("--codec", "theirs:Plain", "-rs")
    skipped.assert_outcomes(skipped=2, deselected=TOTAL - 2)
    assert "no golden reconstructions of jpeg" in output(skipped)
    updated = suite("--codec", "theirs:Plain", "--robustkit-golden-update")
    assert "say where its golden files live: --robustkit-golden-dir DIR" in output(updated)


def test_a_codec_of_ones_own_needs_a_folder_to_record_in(suite):
    result = suite("--codec", "plain", "--robustkit-golden-update")
    assert result.ret == 1
    assert "say where its golden files live: --robustkit-golden-dir DIR" in output(result)
    assert not (suite.path / "golden").exists()


def test_other_settings_are_not_compared(suite):
    repository = str(Path(__file__).parents[2] / "golden")
    options = (
        "--robustkit-set",
        "subsampling=4:4:4",
        "--robustkit-crop=256",
        "--robustkit-golden-dir",
        repository,
    )
    result = suite("--codec", "jpeg", *options, "-rs")
    result.assert_outcomes(skipped=2, deselected=TOTAL - 2)
    assert "the golden reconstructions are of the default settings" in output(result)
