"""What holds for every RCC codec alike, on the embedded prior and on tiny Stable Diffusion pipelines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipeline import save_tiny_pipeline

from robustkit import DecodeError, EncodeError, ErrorPattern, Image, Layout
from robustkit.codecs.rcc import base
from robustkit.codecs.rcc.base import RCCCodec
from robustkit.codecs.rcc.container import HEADER_BYTES, Header
from robustkit.codecs.rcc.ddcm import DDCM
from robustkit.codecs.rcc.diffc import DiffC
from robustkit.codecs.rcc.psc import PSC
from robustkit.codecs.rcc.turbo import RobustTurboDDCM, RobustTurboDDCMUEP, TurboDDCM
from robustkit.images import photographs
from robustkit.priors.base import PriorError
from robustkit.quality import measure

Settings: TypeAlias = dict[str, Any]


class RoundTrip(NamedTuple):
    """Settings, with ``bpp``; the least bits per pixel and dB that they give; a field that the payload must have."""

    settings: Settings
    rate: float
    psnr: float
    field: str


class Parting(NamedTuple):
    """A field whose flipped last bit parts two streams, and the states of each call of the denoiser for both."""

    field: str
    calls: list[int]


@dataclass(frozen=True)
class Case:
    """A codec, and where it differs from the others.

    Attributes:
        kind: its class.
        quick: settings that take little time.
        protocols: number of the protocol that it writes, and those that it says it reads.
        round_trips: of the whole photograph.
        rising: settings, three rates, and by how many dB the last is better than the first.
        targets: settings, with ``psnr``, and how many dB more are too many.
        unreachable: settings of too few steps for that quality.
        lavish: settings, whose rate is to be set to more than an image can need.
        undecodable: what is said of payloads that say nothing; none where every payload decodes.
        tolerance: grey levels that a stream may differ by alone and in a batch, whole and cut short: batched
            convolutions add in another order, so a pixel on the edge may round the other way.
        parting: of streams by ``quick``.
        flips: bits of a payload, each flipped in a stream of a batch.
        cut: settings of a stream that is cut short.
        foreign: settings of a stream, and of decoders of other settings that read it.
        raw: settings for the payload alone, or none where the payload needs its header.
        layouts: settings over ``quick``, and the payload's first fields by their first bits.
        out_of_range: settings of which the last is named.
        contradictions: fields of a header by ``quick`` that are refused; ``payload`` is added to the payload's length.
        facts: settings, and a pattern that is in the description of them.
        pipeline: settings for a tiny pipeline, and of a decoder of other settings.
    """

    kind: type[RCCCodec[Any, Any]]
    quick: Settings
    protocols: tuple[int, str]
    round_trips: tuple[RoundTrip, ...]
    rising: tuple[Settings, tuple[float, float, float], float]
    targets: tuple[tuple[Settings, float], ...]
    unreachable: Settings
    lavish: Settings
    tolerance: tuple[int, int]
    parting: Parting
    cut: Settings
    foreign: tuple[Settings, Settings]
    raw: Settings | None
    layouts: tuple[tuple[Settings, Mapping[int, str]], ...]
    out_of_range: tuple[Settings, ...]
    contradictions: tuple[dict[str, int], ...]
    facts: tuple[tuple[Settings, str], ...]
    pipeline: tuple[Settings, Settings]
    undecodable: str | None = None
    flips: tuple[int, ...] = (0,)


TURBO = Case(
    kind=TurboDDCM,
    quick={"T": 8, "bpp": 1.0},
    protocols=(0, "0"),
    round_trips=(
        RoundTrip({"T": 20, "bpp": 1.5}, 1.45, 27, "step 0 subset rank"),
        RoundTrip({"T": 8, "bpp": 0.15}, 0.14, 14, "step 0 subset rank"),
        RoundTrip({"T": 8, "bpp": 0.4}, 0.37, 20, "step 0 subset rank"),
    ),
    rising=({"T": 20}, (0.7, 1.5, 3.0), 3),
    targets=(({"T": 6, "psnr": 19}, 0.5),),
    unreachable={"T": 4, "psnr": 58},
    lavish={"T": 8},
    undecodable="a rank beyond the last",
    tolerance=(1, 2),
    parting=Parting("step 6 subset rank", [1] * 7 + [2] * 4),
    cut={"T": 12, "bpp": 1.5},
    foreign=({"T": 5, "M": 3, "K": 1 << 10, "seed": 4, "codebook": "gaussian", "N": 1}, {"T": 9, "M": 1}),
    raw={"T": 6, "M": 4},
    layouts=(({}, {0: "step 0 subset rank", 472: "step 0 atom 0 sign"}),),
    out_of_range=(
        {"T": 1},
        {"T": 256},
        {"T": 10, "N": 9},
        {"K": 1000},
        {"M": 0},
        {"selection": "random"},
        {"selection": "sections"},
        {"protect": -1},
        {"bpp": 0.4, "M": 3},
        {"psnr": 30.0, "M": 3},
        {"codebook": "random"},
        {"decoder": "viterbi"},
        {"interleave": 8},
        {"container": "raw", "size": (0, 4)},
    ),
    contradictions=(
        {"steps": 1},
        {"steps": 0},
        {"closing": 7},
        {"size_log2": 0},
        {"size_log2": 25},
        {"atoms": 0},
        {"codebook": 2},
        {"protected": 101},
        {"payload": 1},
    ),
    facts=(
        ({"T": 9, "M": 2}, "^T=9 N=0 K=262144 protocol=JointRank protect=0.0 codebook=structured M=2 seed="),
        ({}, "codebook=structured bpp=0.4 seed="),
    ),
    pipeline=({"T": 6, "M": 8, "K": 1 << 10, "N": 2}, {"T": 3, "M": 1}),
)
UEP = replace(
    TURBO,
    kind=RobustTurboDDCMUEP,
    protocols=(2, "2, 6, 1"),
    round_trips=(
        RoundTrip({"T": 20, "bpp": 1.5}, 1.45, 27, "step 0 atom 0 index"),
        RoundTrip({"bpp": 0.15}, 0.14, 13, "step 0 atom 0 index"),
        RoundTrip({"bpp": 0.25}, 0.23, 17, "step 0 atom 0 index"),
        RoundTrip({"bpp": 0.4}, 0.36, 20, "step 0 atom 0 index"),
    ),
    targets=(({"T": 8, "psnr": 20}, 0.5), ({"T": 8, "psnr": 23}, 0.5)),
    undecodable=None,
    parting=Parting("step 6 atom 29 sign", [1] * 7 + [2] * 4),
    layouts=(({}, {14 * atom: f"step 0 atom {atom} index" for atom in range(30)} | {420: "step 0 atom 0 sign"}),),
    out_of_range=tuple(wrong for wrong in TURBO.out_of_range if wrong != {"selection": "sections"}),
    facts=(
        ({"T": 9, "M": 2}, "^T=9 N=0 K=16384 protocol=SectionIndices protect=0.4 codebook=structured M=2 seed="),
        ({}, "codebook=structured bpp=0.4 seed="),
    ),
)
ROBUST = replace(
    TURBO,
    kind=RobustTurboDDCM,
    protocols=(6, "6, 1"),
    round_trips=(
        RoundTrip({"T": 20, "bpp": 1.5}, 1.44, 26, "step 0 atom 0 index"),
        RoundTrip({"bpp": 0.15}, 0.14, 12, "step 0 atom 0 index"),
        RoundTrip({"bpp": 0.25}, 0.23, 16, "step 0 atom 0 index"),
        RoundTrip({"bpp": 0.4}, 0.36, 19, "step 0 atom 0 index"),
    ),
    targets=(({"T": 8, "psnr": 20}, 0.5), ({"T": 8, "psnr": 23}, 0.5)),
    undecodable=None,
    parting=Parting("step 6 atom 26 sign", [1] * 7 + [2] * 4),
    layouts=(({}, {18 * atom: f"step 0 atom {atom} index" for atom in range(27)} | {486: "step 0 atom 0 sign"}),),
    facts=(
        (
            {"T": 9, "M": 2},
            "^T=9 N=0 K=262144 protocol=HashOrderedIndices protect=0.0 codebook=structured M=2 .*decoder=plain$",
        ),
        ({"decoder": "ordered"}, "codebook=structured bpp=0.4 seed=.*decoder=ordered$"),
    ),
)
PURSUIT = replace(
    TURBO,
    kind=DDCM,
    quick={"T": 10, "K": 1 << 12, "C": 2, "bpp": 1.2},
    protocols=(3, "3"),
    round_trips=(
        RoundTrip({"T": 40, "C": 0, "bpp": 1.5}, 1.4, 28, "step 0 atom 1 index"),
        RoundTrip({"T": 40, "C": 3, "bpp": 1.5}, 1.4, 28, "step 0 atom 1 index"),
        RoundTrip({"T": 16, "K": 1 << 10, "codebook": "gaussian", "bpp": 1.5}, 1.4, 25, "step 0 atom 1 index"),
        RoundTrip({"T": 20, "bpp": 0.15}, 0.14, 14, "step 0 atom 0 index"),
        RoundTrip({"T": 20, "bpp": 0.4}, 0.37, 21, "step 0 atom 0 index"),
    ),
    rising=({"T": 20}, (0.4, 1.0, 2.5), 5),
    targets=(({"T": 12, "psnr": 20}, 0.7),),
    lavish={"T": 8, "C": 7},
    undecodable=None,
    parting=Parting("step 5 atom 0 index", [1] * 6 + [2] * 6),
    cut={"T": 16, "bpp": 1.5},
    foreign=({"T": 5, "M": 3, "K": 1 << 10, "C": 4, "seed": 4, "codebook": "gaussian", "N": 1}, {"T": 9, "M": 1}),
    layouts=(
        ({}, {12 * atom: f"step 0 atom {atom} index" for atom in range(36)} | {432: "step 0 atom 1 coefficient"}),
    ),
    out_of_range=(
        {"T": 1},
        {"T": 65536},
        {"T": 10, "N": 9},
        {"K": 1000},
        {"K": 1 << 25},
        {"M": 0},
        {"K": 16, "M": 5},
        {"M": 2048},
        {"bpp": 0.4, "M": 3},
        {"psnr": 30.0, "M": 3},
        {"C": 8},
        {"C": -1},
        {"codebook": "random"},
        {"container": "raw", "size": (0, 4)},
    ),
    contradictions=(
        {"steps": 1},
        {"steps": 0},
        {"closing": 9},
        {"size_log2": 0},
        {"size_log2": 25},
        {"atoms": 0},
        {"atoms": 1025},
        {"coefficient_bits": 5},
        {"steps": 65535},
        {"payload": 1},
    ),
    facts=(
        ({"T": 9, "M": 2, "C": 3}, "^T=9 N=0 K=1048576 C=3 codebook=structured M=2 seed="),
        ({}, "C=0 codebook=structured bpp=0.4 seed="),
    ),
    pipeline=({"T": 30, "M": 2, "K": 1 << 13, "C": 3}, {"T": 3, "M": 1}),
)
DIFFC = Case(
    kind=DiffC,
    quick={"T": 8, "K": 1 << 10, "bpp": 1.0},
    protocols=(4, "4"),
    round_trips=(
        RoundTrip({"T": 20, "K": 1 << 12, "bpp": 1.5}, 0.94 * 1.5, 28, "octaves"),
        RoundTrip({"T": 8, "K": 1 << 10, "bpp": 0.15}, 0.12, 14, "octaves"),
        RoundTrip({"T": 8, "K": 1 << 10, "bpp": 0.25}, 0.22, 18, "octaves"),
        RoundTrip({"T": 8, "K": 1 << 10, "bpp": 0.4}, 0.92 * 0.4, 21, "octaves"),
        RoundTrip({"T": 8, "K": 1 << 10, "bpp": 1.6}, 0.92 * 1.6, 27, "octaves"),
        RoundTrip({"T": 8, "K": 1 << 10, "bpp": 0.25, "protect": True}, 0.22, 17, "parity"),
        RoundTrip({"T": 8, "K": 1 << 10, "bpp": 0.8, "protect": True}, 0.92 * 0.8, 23, "parity"),
    ),
    rising=({"T": 16, "K": 1 << 12}, (0.7, 1.5, 3.0), 5),
    targets=(({"T": 8, "K": 1 << 10, "psnr": 20}, 0.7),),
    unreachable={"T": 4, "K": 1 << 8, "psnr": 58},
    lavish={"T": 8, "K": 1 << 10},
    tolerance=(2, 2),
    parting=Parting("step 6 chunk 64", [1] * 7 + [2] * 4),
    # The first lead to other noise levels, and to other numbers of steps.
    flips=(0, 9, 15, 70, 900),
    cut={"T": 12, "K": 1 << 12, "bpp": 1.5},
    foreign=({"T": 5, "K": 1 << 7, "seed": 4, "N": 1, "bpp": 0.6, "protect": True, "efficiency": 0.5}, {"T": 9}),
    raw=None,
    layouts=(({}, {0: "octaves"}), ({"protect": True}, {0: "octaves"})),
    out_of_range=(
        {"T": 1},
        {"T": 129},
        {"T": 10, "N": 9},
        {"T": 100, "N": 16},
        {"K": 1000},
        {"K": 2},
        {"container": "raw"},
        {"schedule": "even"},
    ),
    contradictions=(
        {"steps": 0},
        {"steps": 127, "chunks": 126},
        {"chunks": 0},
        {"size_log2": 1},
        {"size_log2": 21},
        {"coded": 4095},
        {"payload": 1000},
    ),
    facts=(
        ({"T": 9, "N": 2, "protect": True}, "^T=9 N=2 K=65536 protect=True bpp=0.4 seed="),
        ({"psnr": 30.0}, "protect=False psnr=30 seed="),
    ),
    pipeline=({"T": 6, "K": 1 << 8, "N": 2, "bpp": 0.5}, {"T": 3}),
)
SAMPLING = Case(
    kind=PSC,
    quick={"steps": 5, "samples": 2, "bpp": 1.5},
    protocols=(5, "5"),
    round_trips=(
        RoundTrip({"bpp": 2.0}, 1.95, 27, "step 15 measurement 0"),
        *(
            RoundTrip({"steps": 4, "samples": 2, "bpp": bpp}, bpp - 0.05, psnr, "step 0 measurement 0")
            for bpp, psnr in ((0.125, 9), (0.13, 9), (0.4, 17), (1.0, 22), (3.0, 27))
        ),
    ),
    rising=({"steps": 10}, (0.5, 1.0, 2.5), 5),
    targets=(({"steps": 8, "samples": 2, "psnr": 18}, 2),),
    unreachable={"steps": 2, "samples": 2, "psnr": 58},
    lavish={"steps": 6, "samples": 2, "bits": 6},
    tolerance=(0, 0),
    # No call for the first step, whose samples are the prior's own; the final estimates are one after the other.
    parting=Parting("step 4 measurement 281", [2] * 4 + [1] * 8),
    cut={"steps": 8, "samples": 2, "bpp": 2.0},
    foreign=({"steps": 3, "rows": 20, "bits": 5, "samples": 4, "seed": 4}, {"steps": 9}),
    raw={"steps": 3, "rows": 20, "samples": 2},
    layouts=(({}, {4 * number: f"step 0 measurement {number}" for number in range(18)}),),
    out_of_range=(
        {"steps": 0},
        {"steps": 256},
        {"bits": 0},
        {"bits": 7},
        {"samples": 1},
        {"rows": 0},
        {"bpp": 0.4, "rows": 3},
        {"psnr": 30.0, "rows": 3},
        {"container": "raw", "size": (0, 4)},
    ),
    contradictions=(
        {"steps": 0},
        {"rows": 0},
        {"bits": 0},
        {"bits": 7},
        {"samples": 1},
        {"rows": 4097},
        {"samples": 3, "payload": 1},
    ),
    facts=(
        ({"steps": 9, "rows": 2}, "^steps=9 bits=4 samples=3 rows=2 seed="),
        ({}, "samples=3 bpp=0.4 seed="),
    ),
    pipeline=({"steps": 4, "samples": 2, "rows": 20}, {}),
)
CASES = (ROBUST, UEP, TURBO, PURSUIT, DIFFC, SAMPLING)
#: What no codec takes.
OUT_OF_RANGE: tuple[Settings, ...] = (
    {"bpp": -1.0},
    {"psnr": 4.0},
    {"psnr": 30.0, "bpp": 0.4},
    {"seed": -1},
    {"container": "zip"},
    {"efficiency": 0.0},
    {"size": (0, 4)},
    {"schedule": "late"},
)

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind.name)


def every(what: Callable[[Case], Iterable[object]]) -> list[object]:
    """Each case with each of what it lists."""
    return [
        pytest.param(case, one, id=f"{case.kind.name}-{number}")
        for case in CASES
        for number, one in enumerate(what(case))
    ]


@pytest.fixture(autouse=True, scope="module")
def embedded_prior_loaded_once() -> Iterator[None]:
    load, loaded = base.load_prior, cache(base.load_prior)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "load_prior", lambda name, **how: (loaded if name == "embedded" else load)(name, **how))
        yield


@cache
def photograph() -> Image:
    return photographs(crop=64)["astronaut"]


@cache
def quick(kind: type[RCCCodec[Any, Any]]) -> RCCCodec[Any, Any]:
    return kind(**next(case.quick for case in CASES if case.kind is kind))


@cache
def stream_of(kind: type[RCCCodec[Any, Any]]) -> bytes:
    """The photograph's, by the quick settings."""
    return quick(kind).encode(photograph())


@cache
def round_trip(kind: type[RCCCodec[Any, Any]], **chosen: Any) -> tuple[Layout, Image, float]:
    """The layout of the photograph's stream, its image, and the image's PSNR."""
    codec = kind(**chosen)
    stream = codec.encode(photograph())
    decoded = codec.decode(stream)
    return codec.layout(stream), decoded, measure("psnr", photograph(), decoded)


def assert_within(tolerance: int, one: object, other: object) -> None:
    assert isinstance(one, np.ndarray)
    assert isinstance(other, np.ndarray)
    assert np.abs(one.astype(int) - other).max() <= tolerance


def assert_decoded(case: Case, payloads: list[bytes]) -> None:
    header = stream_of(case.kind)[:HEADER_BYTES]
    for decoded in quick(case.kind).decode_batch([header + payload for payload in payloads]):
        if case.undecodable and isinstance(decoded, DecodeError):
            assert case.undecodable in str(decoded)
        else:
            assert isinstance(decoded, np.ndarray)
            assert decoded.shape == (64, 64, 3)


# -- coding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "wanted"), every(lambda case: case.round_trips))
def test_a_photograph_survives_the_round_trip_at_the_rate_asked_for(case: Case, wanted: RoundTrip) -> None:
    layout, decoded, psnr = round_trip(case.kind, **wanted.settings)
    assert decoded.dtype == np.uint8
    assert decoded.shape == photograph().shape
    assert wanted.rate < layout.bits / 64**2 <= wanted.settings["bpp"]
    assert wanted.field in [region.name for region in layout]
    assert psnr > wanted.psnr


@pytest.mark.parametrize(
    ("kind", "least"),
    [(TurboDDCM, 0.99), (RobustTurboDDCM, 0.99), (RobustTurboDDCMUEP, 0.99), (DDCM, 0.97), (PSC, 0.97)],
)
@pytest.mark.parametrize("bpp", [0.2, 0.4, 0.8])
def test_the_rate_asked_for_is_hit_where_steps_are_small_beside_it(
    kind: type[RCCCodec[Any, Any]], least: float, bpp: float
) -> None:
    header = kind(bpp=bpp)._header_for(512, 512)
    assert least * bpp < 8 * (HEADER_BYTES + header.payload) / 512**2 <= bpp


@cases
def test_more_bits_give_more_quality(case: Case) -> None:
    chosen, rates, gain = case.rising
    qualities = [round_trip(case.kind, **chosen, bpp=bpp)[2] for bpp in rates]
    assert qualities == sorted(qualities)
    assert qualities[-1] > qualities[0] + gain


@pytest.mark.parametrize(("case", "target"), every(lambda case: case.targets))
def test_a_target_quality_is_reached_and_hardly_more(case: Case, target: tuple[Settings, float]) -> None:
    chosen, more = target
    assert chosen["psnr"] <= round_trip(case.kind, **chosen)[2] < chosen["psnr"] + more


@cases
def test_a_quality_out_of_reach_is_refused(case: Case) -> None:
    with pytest.raises(EncodeError, match="psnr = 58: with these settings this image reaches"):
        case.kind(**case.unreachable).encode(photograph()[:32, :32])


@cases
def test_a_rate_beyond_any_need_still_decodes(case: Case) -> None:
    codec = case.kind(**case.lavish, bpp=64, efficiency=2.55)
    small = photograph()[:8, :8]
    assert codec.decode(codec.encode(small)).shape == small.shape


@cases
@pytest.mark.parametrize("size", [(1, 1), (7, 90), (33, 31), (64, 65)])
def test_images_of_any_size(case: Case, size: tuple[int, int]) -> None:
    image = photographs(crop=128)["coffee"][: size[0], : size[1]]
    codec = quick(case.kind)
    assert codec.decode(codec.encode(image)).shape == image.shape


@cases
@pytest.mark.parametrize(
    ("image", "why"),
    [
        pytest.param(np.zeros((8, 8), np.uint8), "uint8 .* give uint8, height x width x 3", id="grey"),
        pytest.param(np.zeros((8, 8, 4), np.uint8), "8 x 8 x 4: give uint8, height x width x 3", id="alpha"),
        pytest.param(np.zeros((8, 8, 3), np.uint16), "uint16 .* give uint8, height x width x 3", id="16-bit"),
        pytest.param(np.zeros((0, 8, 3), np.uint8), "0x8 pixels", id="empty"),
        pytest.param(np.zeros((8193, 1, 3), np.uint8), "8193x1 pixels", id="too tall"),
        pytest.param(None, "NoneType: give uint8, height x width x 3", id="no array"),
    ],
)
def test_images_it_cannot_take_are_refused(case: Case, image: Image, why: str) -> None:
    with pytest.raises(EncodeError, match=why):
        quick(case.kind).encode(image)


@cases
def test_the_decoder_reads_its_settings_from_the_stream(case: Case) -> None:
    written, others = case.foreign
    codec = case.kind(**written)
    stream = codec.encode(photograph()[:24, :32])
    decoded = codec.decode(stream)
    assert np.array_equal(quick(case.kind).decode(stream), decoded)
    assert np.array_equal(case.kind(**others).decode(stream), decoded)


@pytest.mark.parametrize("case", [case for case in CASES if case.raw], ids=lambda case: case.kind.name)
def test_raw_streams_are_the_payload_alone(case: Case) -> None:
    chosen, image = case.raw or {}, photograph()[:32, :48]
    framed, raw = case.kind(**chosen), case.kind(**chosen, container="raw", size=(32, 48))
    stream, with_header = raw.encode(image), framed.encode(image)
    assert with_header[HEADER_BYTES:] == stream
    assert np.array_equal(raw.decode(stream), framed.decode(with_header))
    with pytest.raises(DecodeError, match="size="):
        case.kind(**chosen, container="raw").decode(stream)


# -- damaged streams --------------------------------------------------------------------------------------


@cases
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_every_payload_of_the_right_length_decodes(case: Case, data: st.DataObject) -> None:
    size = len(stream_of(case.kind)) - HEADER_BYTES
    filled = st.integers(0, 255).map(lambda byte: bytes([byte]) * size)
    payloads = st.lists(st.binary(min_size=size, max_size=size), min_size=3, max_size=3)
    assert_decoded(case, [*data.draw(payloads), data.draw(filled)])


@cases
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_every_shorter_payload_decodes(case: Case, data: st.DataObject) -> None:
    payloads = st.binary(max_size=len(stream_of(case.kind)) - HEADER_BYTES - 1)
    assert_decoded(case, data.draw(st.lists(payloads, min_size=3, max_size=3)))


@cases
def test_a_batch_decodes_as_its_streams_do_alone(case: Case) -> None:
    codec, stream = quick(case.kind), stream_of(case.kind)
    bits = 8 * len(stream)
    flips = [bits - 9, bits // 2, *(8 * HEADER_BYTES + bit for bit in case.flips)]
    damaged = [ErrorPattern(bits, [bit]).apply(stream) for bit in flips]
    header = ErrorPattern(bits, [5]).apply(stream)
    others = [codec.encode(photograph()[:40]), codec.encode(photograph()[::-1].copy())]
    cut = stream[: -len(stream) // 4]
    streams = [stream, *others, cut, *damaged, b"", header, stream]
    together = codec.decode_batch(streams)
    for one, batched in zip(streams[:-2], together, strict=False):
        if not one or (case.undecodable and isinstance(batched, DecodeError)):
            with pytest.raises(DecodeError, match=re.escape(str(batched))):
                codec.decode(one)
        else:
            assert_within(case.tolerance[one == cut], codec.decode(one), batched)
    assert all(isinstance(image, np.ndarray) for image in together[:4])
    assert isinstance(together[-3], DecodeError)
    assert np.array_equal(together[0], together[-2])  # its flip is in the header, which is repaired
    assert np.array_equal(together[0], together[-1])
    assert not np.array_equal(together[0], together[4])
    assert not np.shares_memory(together[0], together[-1])


@cases
def test_streams_of_a_batch_share_the_denoiser_until_they_part(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, stream = quick(case.kind), stream_of(case.kind)
    (last,) = (region.stop - 1 for region in codec.layout(stream) if region.name == case.parting.field)
    later, header = (ErrorPattern(8 * len(stream), [bit]).apply(stream) for bit in (last, 5))
    whole = codec.decode(stream)
    predict, states = codec.prior.predict_clean, []
    monkeypatch.setattr(codec.prior, "predict_clean", lambda x, level: states.append(len(x)) or predict(x, level))
    images = codec.decode_batch([stream, later, header, stream])
    # One state for all up to the step with the flip, then two: into the final estimate, which is a mean of four.
    assert states == case.parting.calls
    assert np.array_equal(images[0], images[2])
    assert np.array_equal(images[0], images[3])
    assert not np.array_equal(images[0], images[1])
    assert not any(np.shares_memory(images[0], image) for image in images[1:])
    assert_within(case.tolerance[0], whole, images[0])


@cases
def test_a_stream_cut_short_decodes_with_the_steps_that_arrived(case: Case) -> None:
    codec = case.kind(**case.cut)
    stream = codec.encode(photograph())
    payload = len(stream) - HEADER_BYTES
    cuts = [stream[: HEADER_BYTES + payload * share // 4] for share in range(5)]
    single = [codec.decode(cut) for cut in cuts]
    qualities = [measure("psnr", photograph(), decoded) for decoded in single]
    assert qualities[4] > qualities[3] > qualities[2] > qualities[0]
    for cut in cuts:
        layout = codec.layout(cut)
        assert layout.bits == sum(region.stop - region.start for region in layout) == 8 * len(cut)
    # Beside whole streams in a batch, and in any order.
    for decoded, expected in zip(codec.decode_batch(cuts[::-1]), single[::-1], strict=True):
        assert_within(case.tolerance[1], expected, decoded)


# -- what is refused --------------------------------------------------------------------------------------


@cases
def test_refusals_say_which(case: Case) -> None:
    codec, stream = quick(case.kind), stream_of(case.kind)
    with pytest.raises(DecodeError, match="beyond repair"):
        codec.decode(bytes(len(stream)))
    with pytest.raises(DecodeError, match=f"{len(stream) + 1} bytes, where the settings need {len(stream)}"):
        codec.decode(stream + b"x")
    with pytest.raises(DecodeError, match="too few"):
        codec.decode(b"")
    for other in CASES:
        if other.protocols[0] not in codec.methods:
            with pytest.raises(DecodeError, match=f"bit protocol {other.protocols[0]}: .* reads {case.protocols[1]}$"):
                codec.decode(stream_of(other.kind))


@pytest.mark.parametrize(("case", "wrong"), every(lambda case: case.contradictions))
def test_a_header_that_contradicts_itself_is_refused(case: Case, wrong: dict[str, int]) -> None:
    codec, stream = quick(case.kind), stream_of(case.kind)
    header = Header.unpack(stream, codec.methods)
    more = wrong.get("payload", 0)
    method = replace(header.method, **{name: value for name, value in wrong.items() if name != "payload"})
    with pytest.raises(DecodeError, match="contradict each other"):
        codec.decode(replace(header, method=method, payload=header.payload + more).pack() + stream[HEADER_BYTES:])


@pytest.mark.parametrize(("case", "wrong"), every(lambda case: (*case.out_of_range, *OUT_OF_RANGE)))
def test_settings_out_of_range_are_named(case: Case, wrong: Settings) -> None:
    with pytest.raises(ValueError, match=rf"^{list(wrong)[-1]}\b"):
        case.kind(**wrong)


# -- what is said of a stream and a codec -----------------------------------------------------------------


@pytest.mark.parametrize(("case", "wanted"), every(lambda case: case.layouts))
def test_the_layout_names_every_bit(case: Case, wanted: tuple[Settings, Mapping[int, str]]) -> None:
    more, first = wanted
    codec = case.kind(**case.quick, **more) if more else quick(case.kind)
    stream = codec.encode(photograph()) if more else stream_of(case.kind)
    layout = codec.layout(stream)
    assert layout.bits == 8 * len(stream)
    assert np.array_equal(np.concatenate([np.arange(r.start, r.stop) for r in layout]), np.arange(layout.bits))
    assert np.array_equal(layout.bits_of(header=True), np.arange(8 * HEADER_BYTES))
    payload = [(region.start - 8 * HEADER_BYTES, region.name) for region in layout if not region.header]
    assert payload[: len(first)] == list(first.items())


@cases
@settings(deadline=None)
@given(anything=st.binary(max_size=200))
def test_the_layout_takes_anything(case: Case, anything: bytes) -> None:
    for stream in (anything, stream_of(case.kind)[:HEADER_BYTES] + anything):
        assert quick(case.kind).layout(stream).bits == 8 * len(stream)


@pytest.mark.parametrize(("case", "fact"), every(lambda case: case.facts))
def test_facts_name_the_settings(case: Case, fact: tuple[Settings, str]) -> None:
    chosen, pattern = fact
    assert re.search(pattern, case.kind(**chosen).describe()["settings"])


# -- other priors -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny pipelines by what they predict, and one of other weights."""
    folder = tmp_path_factory.mktemp("pipelines")
    kinds = {name: save_tiny_pipeline(folder / name, prediction_type=name) for name in ("epsilon", "v_prediction")}
    return kinds | {"other": save_tiny_pipeline(folder / "other", seed=1)}


@cases
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_stable_diffusion_folder_is_a_prior(case: Case, prediction: str, pipelines: dict[str, Path]) -> None:
    folder = str(pipelines[prediction])
    chosen, others = case.pipeline
    codec = case.kind(prior=folder, **chosen)
    stream = codec.encode(photograph()[:50])
    decoded = codec.decode(stream)
    assert decoded.shape == (50, 64, 3)
    assert np.array_equal(case.kind(prior=folder, **others).decode(stream), decoded)
    assert codec.describe()["prior"].startswith(folder)
    with pytest.raises(DecodeError, match="encoded with the prior"):
        codec.decode(stream_of(case.kind))
    with pytest.raises(DecodeError, match="encoded with the prior"):
        quick(case.kind).decode(stream)
    with pytest.raises(DecodeError, match="encoded with the prior"):
        case.kind(prior=str(pipelines["other"]), **others).decode(stream)


@cases
def test_a_prior_that_is_not_there_is_named(case: Case, tmp_path: Path) -> None:
    with pytest.raises(PriorError, match=r"config\.json"):
        case.kind(prior=str(tmp_path))
    with pytest.raises(PriorError, match="dtype"):
        case.kind(dtype="float8")
    with pytest.raises(PriorError, match="no Stable Diffusion folder"):
        case.kind(prior=str(tmp_path / "absent" / "folder"))
