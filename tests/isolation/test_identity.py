"""What a codec is made of: the weights that it names are told apart by content, wherever they lie."""

import hashlib
from pathlib import Path

import PIL._imaging
import pytest

from robustkit.isolation import identity
from robustkit.priors import EMBEDDED

LIBRARIES = identity._libraries


class Reader:
    def __init__(self, *files):
        self.weight_files = files


@pytest.fixture(autouse=True)
def no_libraries(monkeypatch):
    """Those of all that the tests have imported by now are a gigabyte: their digests take seconds."""
    monkeypatch.setattr(identity, "_libraries", lambda: ())


def weights(codec):
    found = identity.parts(codec, __name__)
    return {name: text.removeprefix("weights ") for name, text in found.items() if text.startswith("weights ")}


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_weights_are_named_with_their_digests(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"a")
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.bin").write_bytes(b"b")
    (folder / "deep" / "c.bin").write_bytes(b"c")
    assert weights(Reader(tmp_path / "a.bin", str(folder))) == {
        "a.bin": sha(b"a"),
        "b.bin": sha(b"b"),
        "c.bin": sha(b"c"),
    }


def test_two_files_of_one_name_are_two(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_bytes(name.encode())
    found = weights(Reader(tmp_path / "one", tmp_path / "two"))
    assert found == {"model.bin": sha(b"one"), f"model.bin {sha(b'two')[:8]}": sha(b"two")}
    assert weights(Reader(tmp_path / "one", tmp_path / "one" / "model.bin")) == {"model.bin": sha(b"one")}


def test_a_wrapped_codecs_weights_count(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"a")
    outer = Reader()
    outer.inner = Reader(tmp_path / "a.bin")
    assert weights(outer) == {"a.bin": sha(b"a")}


@pytest.mark.parametrize("said", [None, 7, (None, 3), ("no such file",), "no such file"])
def test_what_is_no_file_is_left_out(said):
    codec = Reader()
    codec.weight_files = said
    assert weights(codec) == {}


def test_the_embedded_prior_is_named_alike_in_a_checkout_and_a_wheel():
    files = [EMBEDDED / name for name in ("config.json", "model.safetensors")]
    assert weights(Reader(*files)) == {
        f"robustkit/priors/embedded/{path.name}": sha(Path(path).read_bytes()) for path in files
    }


def test_native_libraries_are_named_with_their_digests(monkeypatch):
    library = Path(PIL._imaging.__file__).resolve()
    assert str(library) in LIBRARIES()
    monkeypatch.setattr(identity, "_libraries", lambda: [str(library)])
    found = identity.parts(Reader(), __name__)
    assert [text for name, text in found.items() if name.endswith(library.name)] == [
        f"library {sha(library.read_bytes())}"
    ]
