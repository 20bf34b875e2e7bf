"""Replay files: written and read without loss, and nothing in a file that somebody sent is believed."""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit.isolation import Limits, fingerprint
from robustkit.judging import replay as module
from robustkit.judging.replay import (
    Replay,
    ReplayError,
    Shown,
    load_replay,
    run_replay,
    save_replay,
    shown,
    stored_in,
)
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.registry import CodecSpec, Target

FULL = Replay(
    CodecSpec(
        "mine", Target("my.module", "Outer.Inner", "/somewhere/module.py"), {"quality": 3, "mode": "é", "x": [1.5]}
    ),
    b"\x00damaged\xff",
    Outcome.MISSHAPEN,
    "shape (3, 4)\nnot (4, 4)",
    shape=(4, 4),
    clean="ab" * 32,
    limits=Limits(seconds=1.5, memory=2**30),
    pattern=ErrorPattern(72, np.array([3, 71]), keep=8, append=b"\xff"),
    regions=("bit 3: magic", "bit 71: payload"),
    claim="decode.survives.truncation",
    sys_path=("/somewhere",),
)
BARE = Replay(CodecSpec("jpeg", Target("robustkit.codecs.jpeg", "Jpeg"), {}), b"", Outcome.REFUSED)


def test_a_replay_file_comes_back_as_it_was(tmp_path):
    path = save_replay(tmp_path / "new" / "case.replay.json", FULL)
    assert load_replay(path) == FULL
    assert (tmp_path / "new" / "case.bin").read_bytes() == FULL.bitstream
    assert json.loads(path.read_text())["stream"] == "case.bin"


def test_the_least_replay_file_comes_back_with_this_process_s_path(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    found = load_replay(save_replay("case.replay.json", BARE))
    assert found.sys_path == (str(tmp_path), str(tmp_path))
    assert (found.pattern, found.shape, found.clean, found.bitstream) == (None, None, None, b"")


def test_settings_may_be_paths_but_not_objects(tmp_path):
    spec = CodecSpec("jpeg", BARE.spec.target, {"prior": tmp_path})
    assert load_replay(save_replay(tmp_path / "a.replay.json", Replay(spec, b"", Outcome.REFUSED))).spec.settings == {
        "prior": str(tmp_path)
    }
    spec = CodecSpec("jpeg", BARE.spec.target, {"prior": object()})
    with pytest.raises(ReplayError, match="'jpeg' has a setting that JSON can't hold"):
        save_replay(tmp_path / "b.replay.json", Replay(spec, b"", Outcome.REFUSED))
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize("name", ["case.json", ".replay.json", "case.replay.json.txt"])
def test_a_replay_file_has_its_ending(tmp_path, name):
    with pytest.raises(ReplayError, match="ends in"):
        save_replay(tmp_path / name, BARE)


GONE = object()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        *(((key,), GONE, f"{key} is missing") for key in ("version", "codec", "stream", "shape", "pattern", "limits")),
        (("version",), 2, "version 2"),
        (("version",), True, "version = True must be int"),
        (("stream",), "../case.bin", "a file beside it"),
        (("stream",), "/etc/passwd", "a file beside it"),
        (("stream",), "..", "a file beside it|its stream is gone"),
        (("stream",), "", "a file beside it"),
        (("stream",), "a\0b", "a file beside it"),
        (("stream",), "gone.bin", "its stream is gone"),
        (("stream",), "\ud800", "no replay file"),
        (("message",), "\ud800", "no replay file"),
        (("settings",), {"x": [float("inf")]}, "no replay file"),
        (("codec",), 3, "codec = 3 must be str"),
        (("settings",), [], "settings"),
        (("target", "module"), None, r"target\.module = None must be str"),
        (("target",), "x:y", "target"),
        (("outcome",), "fine", "'fine' is not a valid Outcome"),
        (("shape",), [4], "height and width"),
        (("shape",), [4, 0], "height and width"),
        (("shape",), [4, 1.5], "shape must hold nothing but int"),
        (("limits", "seconds"), 0, "seconds"),
        (("limits", "seconds"), float("nan"), "no replay file"),
        (("limits", "seconds"), 10**400, "too large"),
        (("limits", "memory"), -1, "memory"),
        (("pattern", "flips"), [72], "outside a stream of 72 bits"),
        (("pattern", "flips"), [2**70], "replay"),
        (("pattern", "flips"), "3", r"pattern\.flips"),
        (("pattern", "keep"), 99, "keep = 99"),
        (("pattern", "append_hex"), "xy", "hex"),
        (("regions",), [1], "regions must hold nothing but str"),
        (("sys_path",), "/", "sys_path"),
        (("claim",), "decode survives truncation", "a claim's title; its id is 'decode.survives.truncation'"),
        (("claim",), "decode.survives.truncations", "did you mean decode.survives.truncation"),
    ],
)
def test_what_is_wrong_in_a_replay_file_is_named(tmp_path, key, value, reason):
    path = save_replay(tmp_path / "case.replay.json", FULL)
    data = json.loads(path.read_text())
    inner = data
    for part in key[:-1]:
        inner = inner[part]
    if value is GONE:
        del inner[key[-1]]
    else:
        inner[key[-1]] = value
    path.write_text(json.dumps(data))
    with pytest.raises(ReplayError, match=reason) as caught:
        load_replay(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"\xff\xfe", b"{" * 100_000, b"[" * 100_000, b"[" * 300 + b"]" * 300, b"9" * 5000]
)
def test_what_is_no_replay_file_is_refused(tmp_path, data):
    path = tmp_path / "case.replay.json"
    path.write_bytes(data)
    with pytest.raises(ReplayError, match="no replay file"):
        load_replay(path)
    with pytest.raises(ReplayError, match="no replay file"):
        load_replay(tmp_path / "nowhere.replay.json")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["\ud800", "\0", ".", "..", 10**30, -(10**400), float("inf")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = save_replay(tmp_path_factory.mktemp("replay") / "case.replay.json", FULL)
    return path, path.read_text()


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_hostile_values_are_refused_or_read(template, data):
    path, text = template
    table = json.loads(text)
    places = [(table, key) for key in table]
    places += [(table[key], inner) for key in ("target", "limits", "pattern") for inner in table[key]]
    inside, key = data.draw(st.sampled_from(places))
    inside[key] = data.draw(values)
    path.write_text(json.dumps(table), encoding="utf-8")
    with contextlib.suppress(ReplayError):
        assert isinstance(load_replay(path), Replay)


def test_fingerprints_tell_shapes_and_pixels_apart():
    flat = np.zeros((2, 3, 3), np.uint8)
    other = flat.copy()
    other[0, 0, 0] = 1
    assert len({fingerprint(flat), fingerprint(flat.reshape(3, 2, 3)), fingerprint(other)}) == 3
    assert fingerprint(flat[:, ::-1]) == fingerprint(flat)


def test_the_codec_is_found_where_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "somewhere_else.py").write_text(
        "import robustkit\n"
        "class Mine(robustkit.Codec):\n"
        "    name, family = 'mine', 'test'\n"
        "    def encode(self, image): return b''\n"
        "    def decode(self, bitstream): raise robustkit.DecodeError('as before')\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = CodecSpec("mine", Target("somewhere_else", "Mine"), {})
    found = run_replay(Replay(spec, b"x", Outcome.REFUSED, sys_path=(str(folder), str(tmp_path / "gone"))))
    assert (found.outcome, found.message, found.same) == (Outcome.REFUSED, "as before", True)
    assert str(folder) in sys.path
    assert str(tmp_path / "gone") not in sys.path


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        (Outcome.CRASHED, Outcome.CRASHED, Shown.FAILED),
        (Outcome.CRASHED, Outcome.RAISED, Shown.FAILED),
        (Outcome.CRASHED, Outcome.REFUSED, Shown.FIXED),
        (Outcome.UNSTABLE, Outcome.DEGRADED, Shown.FIXED),
        (Outcome.DEGRADED, Outcome.INTACT, Shown.FIXED),
        (Outcome.DEGRADED, Outcome.DEGRADED, Shown.UNTOLD),
        (Outcome.DEGRADED, Outcome.REFUSED, Shown.UNTOLD),
        (Outcome.DEGRADED, Outcome.HUNG, Shown.FAILED),
        (Outcome.REFUSED, Outcome.REFUSED, Shown.FAILED),
        (Outcome.REFUSED, Outcome.DEGRADED, Shown.FIXED),
        (Outcome.INTACT, Outcome.INTACT, Shown.UNTOLD),
    ],
)
def test_outcomes_tell_what_is_fixed(then, now, says):
    assert shown(then, now) is says


def test_no_more_is_read_than_a_replay_file_has(tmp_path, monkeypatch):
    path = save_replay(tmp_path / "a.replay.json", BARE)
    monkeypatch.setattr(module, "LARGEST", 20)
    with pytest.raises(ReplayError, match="larger than 0 MiB"):
        load_replay(path)
    monkeypatch.setattr(module, "MOST", 0)
    with pytest.raises(ReplayError, match="more than 0 replay files"):
        stored_in(tmp_path)
