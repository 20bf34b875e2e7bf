"""Which settings leave a shipped codec's promises untouched, and which void them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from robustkit import Codec, load_codec, registry
from robustkit.codecs.command import CommandLine
from robustkit.codecs.learned import SMALL

KEPT, VOID = True, False

#: Of every format of Pillow's but PNG.
LOSSY = [
    ({"quality": None, "bpp": None}, KEPT),
    ({"quality": "default"}, KEPT),
    ({"quality": "better"}, VOID),
    ({"bpp": 1.0}, VOID),
    ({"check_size": True}, KEPT),
    ({"check_size": False}, VOID),
    ({"max_pixels": 1 << 20}, KEPT),
]
TOLERANT = [({"truncated": "refuse"}, KEPT), ({"truncated": "tolerate"}, VOID)]
JPEG = [*LOSSY, *TOLERANT, ({"subsampling": "4:2:0"}, KEPT), ({"subsampling": "4:4:4"}, VOID)]
#: Of every RCC codec.
RCC = [
    ({"seed": 1}, KEPT),
    ({"size": (256, 256)}, KEPT),
    ({"device": "cpu"}, KEPT),
    ({"dtype": "bfloat16"}, KEPT),
    ({"prior": "embedded", "container": "framed", "schedule": None, "efficiency": 0.85}, KEPT),
    ({"bpp": 0.4}, VOID),
    ({"psnr": 30.0}, VOID),
    ({"container": "raw"}, VOID),
    ({"schedule": "information"}, VOID),
    ({"efficiency": 0.8}, VOID),
    ({"seed": 1, "efficiency": 0.8}, VOID),
]
#: It is framed, and chooses its levels by the image.
DIFFC = [
    (settings, kept) for settings, kept in RCC if settings not in ({"container": "raw"}, {"schedule": "information"})
]
SMALL_HYPERPRIOR = [
    ({"weights": None}, KEPT),
    ({"weights": str(SMALL)}, VOID),
    ({"hardened": True}, KEPT),
    ({"max_pixels": 1 << 20}, KEPT),
    ({"device": "cpu"}, KEPT),
]
CASES = {
    "avif": LOSSY,
    "bpg": [*LOSSY, ({"chroma": "4:2:0"}, KEPT), ({"chroma": "4:4:4"}, VOID)],
    "ddcm": [*RCC, ({"T": 60, "N": 0, "codebook": "structured", "preset": None}, KEPT), ({"T": 50}, VOID)],
    "diffc": [*DIFFC, ({"T": 28, "K": 1 << 16, "protect": False}, KEPT), ({"protect": True}, VOID)],
    "heic": LOSSY,
    "hyperprior-small": SMALL_HYPERPRIOR,
    "hyperprior-small-hardened": SMALL_HYPERPRIOR,
    "jpeg": JPEG,
    "jpeg+rs(255,223)": [
        ({"interleave": 1, "uncorrectable": "refuse"}, KEPT),
        ({"uncorrectable": "pass"}, VOID),
        # Whatever is said to the codec within.
        ({"quality": 50}, VOID),
        ({"max_pixels": 1 << 20}, VOID),
    ],
    "jpeg-restart": JPEG,
    "jpeg-xl": LOSSY,
    "jpeg2000": [*LOSSY, *TOLERANT, ({"packet_lengths": True}, KEPT), ({"packet_lengths": False}, VOID)],
    "png": [*TOLERANT, ({"compression": 6}, KEPT), ({"compression": 7}, VOID), ({"max_pixels": 1 << 20}, KEPT)],
    "psc": [*RCC, ({"steps": 16, "rows": None, "bits": 4, "samples": 3}, KEPT), ({"samples": 4}, VOID)],
    "robust-turbo-ddcm": [
        *RCC,
        ({"T": 28, "M": None, "decoder": "plain", "interleave": False, "preset": None}, KEPT),
        # Its own default, spelt out, where the signature's is None.
        ({"protect": 0.0}, VOID),
        ({"K": 1 << 18}, VOID),
    ],
    "robust-turbo-ddcm-uep": [
        *RCC,
        ({"T": 28, "M": None, "decoder": "ordered", "interleave": False, "preset": None}, KEPT),
        # Its own default, spelt out, where the signature's is None.
        ({"protect": 0.4}, VOID),
        ({"K": 1 << 14}, VOID),
        ({"decoder": "plain"}, VOID),
    ],
    "turbo-ddcm": [*RCC, ({"T": 28, "codebook": "structured"}, KEPT), ({"codebook": "gaussian"}, VOID)],
    "webp": LOSSY,
    "webp+rs(255,191)+interleave(16)": [({}, KEPT), ({"uncorrectable": "pass"}, VOID)],
}
#: They promise nothing, or need weights that are not here.
UNPROMISING = {
    *("bmshj2018-factorized", "bmshj2018-hyperprior", "cheng2020-anchor", "cheng2020-attn", "elic2022", "mbt2018"),
    *("mbt2018-mean", "bpg-reference", "cdc", "hific", "ms-illm", "perco", "psc-official", "stablecodec"),
}
NEEDS = {"bpg": "av", "heic": "pillow_heif", "jpeg-xl": "pillow_jxl"}


def built(name: str, settings: dict[str, Any]) -> Codec:
    package = NEEDS.get(name, "compressai" if name.startswith("hyperprior") else "numpy")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    kind = registry.get(name).target.resolve()
    spelt = {"default": lambda: kind.default_quality, "better": lambda: kind.default_quality + 1}
    return load_codec(name, **{key: spelt[v]() if v in ("default", "better") else v for key, v in settings.items()})


def test_every_shipped_codec_is_here() -> None:
    shipped = {entry.name for entry in registry if entry.origin == "robustkit"}
    assert shipped == {name for name in CASES if "+" not in name} | UNPROMISING


@pytest.mark.parametrize(
    ("name", "settings", "kept"),
    [
        pytest.param(
            name,
            settings,
            kept,
            id=f"{name} {' '.join(f'{k}={Path(str(v)).name}' for k, v in settings.items())}".strip(),
        )
        for name, cases in CASES.items()
        for settings, kept in [({}, KEPT), *cases]
    ],
)
def test_promises_hold_for_the_default_settings_and_the_neutral_ones(
    name: str, settings: dict[str, Any], kept: bool
) -> None:
    profile, promises = built(name, settings).profile, built(name, {}).profile
    assert promises is not None
    assert profile is (promises if kept else None)


def test_the_ordered_decoder_has_promises_of_its_own() -> None:
    plain, ordered = (built("robust-turbo-ddcm", {"decoder": decoder}).profile for decoder in ("plain", "ordered"))
    assert plain is not None
    assert ordered is not None
    assert (ordered.bpp, ordered.quality) == (plain.bpp, plain.quality)
    for own, other in zip(ordered.promises, plain.promises, strict=True):
        assert own.channel == other.channel
        assert own.mean_drop <= other.mean_drop
        assert own.p5_drop <= other.p5_drop
    assert built("robust-turbo-ddcm", {"decoder": "ordered", "seed": 1}).profile is ordered
    assert built("robust-turbo-ddcm", {"decoder": "ordered", "T": 20}).profile is None
    assert built("robust-turbo-ddcm-uep", {"decoder": "plain"}).profile is None


def test_another_rate_of_the_protection_is_another_codec() -> None:
    assert built("jpeg+rs(255,221)", {}).profile is None


@pytest.mark.parametrize(
    ("quality", "of_the_file", "kept"),
    [(None, 5, KEPT), (5, 5, KEPT), (6, 5, VOID), (None, None, KEPT), (6, None, VOID), ("", None, VOID)],
)
def test_a_codec_file_s_promises_are_of_its_own_quality(quality: Any, of_the_file: Any, kept: bool) -> None:
    commands = {"name": "x", "encode": ["x"], "decode": ["x"]}
    given = {} if of_the_file is None else {"quality": of_the_file}
    codec = CommandLine(commands={**commands, **given}, profile={"bpp": 1.0, "quality": 30.0}, quality=quality)
    assert (codec.profile is not None) is kept
