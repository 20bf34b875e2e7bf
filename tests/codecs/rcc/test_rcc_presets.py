"""Presets: published settings in one flag."""

from __future__ import annotations

import inspect
import math

import pytest

from robustkit.codecs.rcc.presets import PRESETS, settings_of, takes_preset
from robustkit.codecs.rcc.protocol import IndependentIndices, JointRank
from robustkit.registry import registry


class Recorder:
    name = "robust-turbo-ddcm"

    @takes_preset
    def __init__(self, *, T: int = 28, M: int | None = None, bpp: float | None = None, **others: object) -> None:
        self.settings = {"T": T, "M": M, "bpp": bpp, **others}


def test_without_a_preset_nothing_changes() -> None:
    assert Recorder(T=9).settings == {"T": 9, "M": None, "bpp": None}
    assert settings_of("jpeg", None, {"quality": 3}) == {"quality": 3}


def test_a_preset_comes_before_the_defaults_and_after_what_is_given() -> None:
    paper = Recorder(preset="paper", T=9, device="cpu").settings
    assert paper == {**PRESETS["paper"]["robust-turbo-ddcm"], "bpp": None, "T": 9, "device": "cpu"}


def test_of_two_settings_that_exclude_each_other_the_given_one_counts() -> None:
    assert "M" not in settings_of("turbo-ddcm", "paper", {"bpp": 0.2})
    assert settings_of("turbo-ddcm", "paper", {"bpp": None})["M"] == 114


def test_a_preset_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="preset 'thesis' of robust-turbo-ddcm: give paper"):
        Recorder(preset="thesis")
    with pytest.raises(ValueError, match="preset 'paper' of jpeg: it has none"):
        settings_of("jpeg", "paper", {})


def test_the_signature_shows_the_preset() -> None:
    assert list(inspect.signature(Recorder).parameters) == ["preset", "T", "M", "bpp", "others"]


def test_presets_set_what_the_codecs_take() -> None:
    for codecs in PRESETS.values():
        for codec, settings in codecs.items():
            kind = registry.get(codec).target.resolve()
            taken = {name for base in kind.__mro__ for name in inspect.signature(base).parameters if base is not object}
            assert set(settings) <= taken


@pytest.mark.parametrize(
    ("codec", "protocol", "rate"),
    [("robust-turbo-ddcm", IndependentIndices, 0.10025), ("turbo-ddcm", JointRank, 0.09988)],
)
def test_the_paper_s_rates(codec: str, protocol: type[JointRank], rate: float) -> None:
    paper = PRESETS["paper"][codec]
    bits = (paper["T"] - 1 - paper["N"]) * protocol(paper["K"], paper["M"]).bits
    assert bits / math.prod(paper["size"]) == pytest.approx(rate, abs=5e-6)
