"""Exchange folders: what was written comes back, and whatever else lies there is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from robustkit.isolation import Decoded, fingerprint
from robustkit.judging import exchange
from robustkit.judging.crossplatform import Arithmetic, Match
from robustkit.judging.exchange import Carried, Exchange, ExchangeError, Made
from robustkit.outcome import Outcome

PICTURE = np.random.default_rng(1).integers(0, 250, (12, 20, 3)).astype(np.uint8)
NEAR = PICTURE + np.uint8(1)
FAR = PICTURE + np.uint8(5)


def bundle() -> Exchange:
    streams = Carried("a", (12, 20), b"first"), Carried("b", (12, 20), b"second")
    made = Made("as it is", (PICTURE, NEAR)), Made("avx2, 1 thread", (PICTURE, "refused: why"))
    return Exchange("jpeg", {"quality": 3}, "0" * 64, {"torch": "2"}, (2.0, 0.05), streams, made)


@pytest.fixture
def folder(tmp_path):
    exchange.write(tmp_path / "x", bundle())
    return tmp_path / "x"


def test_what_was_written_comes_back(folder):
    found = exchange.read(folder)
    expected = bundle()
    for name in ("codec", "settings", "sources", "facts", "tolerance", "streams"):
        assert getattr(found, name) == getattr(expected, name)
    assert [m.arithmetic for m in found.made] == ["as it is", "avx2, 1 thread"]
    assert np.array_equal(found.made[0].images[1], NEAR)
    assert found.made[1].images[1] == "refused: why"
    # Equal images are one file.
    assert sorted(f.suffix for f in folder.iterdir()) == [".bin", ".bin", ".json", ".png", ".png"]


def test_writing_again_leaves_nothing_of_before(folder):
    exchange.write(folder, Exchange("jpeg", {}, "", {}, (0.0, 0.0), bundle().streams[:1], (Made("x", (FAR,)),)))
    assert len(list(folder.iterdir())) == 3
    assert exchange.read(folder).made[0].arithmetic == "x"


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ExchangeError, match="holds something else: name a new folder"):
        exchange.write(tmp_path, bundle())
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_a_setting_that_json_has_not(tmp_path):
    odd = Exchange("jpeg", {"key": object()}, "", {}, (0.0, 0.0), bundle().streams[:1], (Made("x", (FAR,)),))
    with pytest.raises(ExchangeError, match="a setting that JSON can't hold"):
        exchange.write(tmp_path / "x", odd)


def change(data, *path_and_value):
    *path, last, value = path_and_value
    for key in path:
        data = data[key]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("version", 2), "not an exchange of version 1"),
        (("version", True), "not an exchange of version 1"),
        (("codec", 5), "damaged"),
        (("codec", "x" * 300), "damaged"),
        (("settings", "abc"), "damaged"),
        (("tolerance", [1]), "damaged"),
        (("tolerance", [0, 3]), "damaged"),
        (("tolerance", [1e400, 0]), "exchange.json"),
        (("streams", []), "damaged"),
        (("streams", [1]), "damaged"),
        (("streams", [{}] * 300), "damaged"),
        (("streams", 0, "shape", [0, 20]), "damaged"),
        (("streams", 0, "shape", [12, True]), "damaged"),
        (("streams", 0, "shape", [20, 12]), "is not the image that its name says"),
        (("streams", 0, "file", "../../etc/passwd"), "damaged"),
        (("streams", 0, "file", "0" * 64 + ".bin"), "is missing"),
        (("streams", 0, "file", None), "damaged"),
        (("made", 0, "results", []), "damaged"),
        (("made", 0, "results", 0, {"file": "0" * 64 + ".png"}), "is missing"),
        (("made", 0, "results", 0, {}), "damaged"),
        (("made", 0, "results", 0, {"said": ["x"]}), "damaged"),
        (("made", 0, "arithmetic", "x" * 300), "damaged"),
        (("facts", [1]), "damaged"),
    ],
)
def test_a_manifest_that_lies_is_refused(folder, path, said):
    data = json.loads((folder / "exchange.json").read_text())
    change(data, *path)
    (folder / "exchange.json").write_text(json.dumps(data))
    with pytest.raises(ExchangeError, match=said):
        exchange.read(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 9000, '{"version": 1}', '{"version": 1, "streams": {}}', "\0"])
def test_what_is_no_manifest_is_refused(folder, text):
    (folder / "exchange.json").write_text(text)
    with pytest.raises(ExchangeError, match=r"exchange\.json"):
        exchange.read(folder)


def test_files_are_held_to_their_names(folder):
    images = sorted(folder.glob("*.png"))
    images[0].write_bytes(images[1].read_bytes())
    with pytest.raises(ExchangeError, match="is not the image that its name says"):
        exchange.read(folder)
    images[0].write_bytes(b"no image")
    with pytest.raises(ExchangeError, match="make it anew"):
        exchange.read(folder)
    next(folder.glob("*.bin")).write_bytes(b"other")
    with pytest.raises(ExchangeError, match="is not the stream that its name says"):
        exchange.read(folder)


def test_no_file_leads_out_of_the_folder_or_never_ends(folder, tmp_path):
    stream = next(folder.glob("*.bin"))
    outside = tmp_path / "outside"
    stream.rename(outside)
    stream.symlink_to(outside)
    with pytest.raises(ExchangeError, match="no plain file"):
        exchange.read(folder)
    stream.unlink()
    os.mkfifo(stream)
    with pytest.raises(ExchangeError, match="no plain file"):
        exchange.read(folder)
    (folder / "exchange.json").unlink()
    with pytest.raises(ExchangeError, match="is missing"):
        exchange.read(folder)


def test_a_file_beyond_all_measure_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(exchange, "LARGEST", 100)
    with pytest.raises(ExchangeError, match="is larger than"):
        exchange.read(folder)


def test_decodes_become_images_or_words():
    found = exchange.made(
        Arithmetic("avx2", False, 2),
        [Decoded(PICTURE, None), Decoded(None, Outcome.CRASHED, "SIGSEGV\n" + "x" * 999)],
    )
    assert found.arithmetic == "avx2, 2 threads, no oneDNN"
    assert found.images[1] == "crashed: SIGSEGV"


@pytest.mark.parametrize(
    ("there", "match"),
    [
        ((PICTURE, PICTURE), Match.SAME),
        ((PICTURE, NEAR), Match.DESYNCHRONISED),
        ((FAR, NEAR), Match.DESYNCHRONISED),
        ((PICTURE, "hung: after 3 s"), Match.UNDECIDED),
        (("refused: why", PICTURE), Match.DESYNCHRONISED),
    ],
)
def test_the_worst_stream_tells(there, match):
    assert exchange.worst(Made("a", (PICTURE, PICTURE)), Made("b", there), (2.0, 0.05)).match is match
    near = exchange.worst(Made("a", (PICTURE, PICTURE)), Made("b", (NEAR, PICTURE)), (1.0, 1.0))
    assert near.match is Match.WITHIN


def test_those_that_made_the_same_are_one_group():
    rows = [
        Made("a", (PICTURE,)),
        Made("b", (NEAR,)),
        Made("c", (PICTURE,)),
        Made("d", ("crashed: 1",)),
        Made("e", ("crashed: 2",)),
    ]
    assert [[m.arithmetic for m in group] for group in exchange.alike(rows)] == [["a", "c"], ["b"], ["d", "e"]]
    assert fingerprint(rows[0].images[0]) == fingerprint(rows[2].images[0])
