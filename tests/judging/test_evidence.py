"""Where the evidence lies."""

from pathlib import Path

import pytest

from robustkit.judging.evidence import replay_folder
from robustkit.registry import CodecSpec, Target

TARGET = Target("m", "C")


def folder(name="my:Codec", **settings):
    return replay_folder(Path("report"), CodecSpec(name, TARGET, settings))


def test_a_codec_without_settings_has_a_folder_of_its_name():
    assert folder() == Path("report/replay/my-Codec")


@pytest.mark.parametrize("other", [{}, {"gain": 2}, {"gain": 1, "file": Path("a")}, {"gain": "1"}])
def test_a_run_with_other_settings_overwrites_nothing(other):
    assert folder(gain=1) != folder(**other)
    assert folder(gain=1).parent == folder(**other).parent


def test_the_same_settings_are_one_folder_in_whatever_order():
    assert folder(gain=1, file=Path("a")) == folder(file=Path("a"), gain=1)
    assert folder(gain=1).name.startswith("my-Codec-")
