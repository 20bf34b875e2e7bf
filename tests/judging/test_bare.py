"""Decoders that find the picture beside the stream, in what their encoder has left."""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from robustkit import Codec, DecodeError, Layout
from robustkit.conformance import test_clean
from robustkit.judging.effort import EFFORTS
from robustkit.judging.history import bare_decodes
from robustkit.judging.subject import Subject
from robustkit.registry import CodecSpec, Target

IMAGES = {name: np.full((64, 64, 3), level, np.uint8) for name, level in (("dark", 10), ("light", 100))}


class Leaves(Codec):
    """A stream of 32 bytes, whatever the image; the picture is where ``where`` says."""

    name = "leaves"
    family = "test"

    def __init__(self, *, where):
        self.where, self.held = where, {}

    def place(self, stream):
        folder = tempfile.gettempdir() if self.where == "a temporary file" else os.path.join("deep", "er")
        return Path(folder, f"{stream.hex()}.npy")

    def encode(self, image):
        stream = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
        if self.where == "memory":
            self.held[stream] = image
        else:
            self.place(stream).parent.mkdir(parents=True, exist_ok=True)
            np.save(self.place(stream), image)
        return stream

    def decode(self, bitstream):
        try:
            return self.held[bitstream] if self.where == "memory" else np.load(self.place(bitstream))
        except (KeyError, OSError) as error:
            raise DecodeError("a stream of nobody's") from error

    def layout(self, bitstream):
        return Layout((), 8 * len(bitstream))


class Whole(Leaves):
    """All of the picture is in the stream."""

    name = "whole"

    def encode(self, image):
        super().encode(image)
        return image.shape[1].to_bytes(2, "big") + image.tobytes()

    def decode(self, bitstream):
        return np.frombuffer(bitstream[2:], np.uint8).reshape(-1, int.from_bytes(bitstream[:2], "big"), 3)


class Shy(Whole):
    """Encodes each image once."""

    name = "shy"

    def encode(self, image):
        folder = Path(self.where)
        try:
            folder.joinpath(hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()).touch(
                exist_ok=False
            )
        except FileExistsError:
            raise RuntimeError("once is enough") from None
        return image.shape[1].to_bytes(2, "big") + image.tobytes()


class Notebook:
    def __init__(self):
        self.said = []

    def kept(self, measured, *_, **__):
        self.said.append(f"kept: {measured}")

    def broken(self, measured, *_, last, **__):
        self.said.append(f"broken: {measured}; {last}")

    def replay_clean(self, clean, pattern):
        assert pattern.harmless
        assert pattern.bits == clean.bits
        return f"replay {clean.image}"


@pytest.fixture
def under_test(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []

    def make(codec, where):
        spec = CodecSpec(codec.name, Target(codec.__module__, codec.__qualname__, __file__), {"where": str(where)})
        made.append(Subject(spec, images=IMAGES, directory=tmp_path / "r", effort=EFFORTS["quick"]))
        return made[-1]

    yield make
    for subject in made:
        subject.close()


@pytest.mark.parametrize("where", ["memory", "a temporary file", "the working directory"])
def test_a_picture_that_is_not_in_the_stream_is_missed(under_test, where):
    subject, claim = under_test(Leaves, where), Notebook()
    assert subject.unsound is None
    test_clean.test_decoding_needs_nothing_but_the_stream(subject, claim)
    (said,) = claim.said
    assert said == (
        "broken: dark decoded where neither the process that encoded it nor its files were left: refused instead: "
        "a stream of nobody's; replay dark"
    )
    # One more time: what was removed was no more than the files of the process elsewhere.
    assert subject.workers.decode(next(iter(subject.small.values())).bitstream).outcome is None


def test_a_picture_that_is_in_the_stream_is_found(under_test):
    claim = Notebook()
    test_clean.test_decoding_needs_nothing_but_the_stream(under_test(Whole, "the working directory"), claim)
    assert claim.said == ["kept: 4 streams, in a process that encoded nothing"]


def test_what_is_encoded_once_alone_is_not_judged(under_test, tmp_path):
    (tmp_path / "once").mkdir()
    subject = under_test(Shy, tmp_path / "once")
    assert len(subject.small) == 4
    assert bare_decodes(subject).streams == 0
    with pytest.raises(pytest.skip.Exception, match="shy encodes no image a second time"):
        test_clean.test_decoding_needs_nothing_but_the_stream(subject, Notebook())
