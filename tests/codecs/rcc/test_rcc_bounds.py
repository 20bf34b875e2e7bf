"""Headers that promise much: work is bounded by what arrived, in a layout's regions and a decoder's calls."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustkit import DecodeError, EncodeError, Outcome, registry
from robustkit.codecs.rcc import base, protection
from robustkit.codecs.rcc.base import RCCCodec
from robustkit.codecs.rcc.container import HEADER_BYTES, Header
from robustkit.codecs.rcc.ddcm import DDCM, DDCMParameters
from robustkit.codecs.rcc.diffc import DiffC, DiffCParameters
from robustkit.codecs.rcc.protocol import JointRank
from robustkit.codecs.rcc.psc import PSC, PSCParameters
from robustkit.codecs.rcc.pursuit import Pursuit
from robustkit.codecs.rcc.turbo import (
    PROTOCOLS,
    RobustTurboDDCM,
    RobustTurboDDCMUEP,
    TurboDDCM,
    TurboParameters,
    _payload,
)
from robustkit.isolation import CodecWorkers, Limits
from robustkit.priors.base import NoiseLevel

KINDS: tuple[type[RCCCodec[Any, Any]], ...] = (RobustTurboDDCM, RobustTurboDDCMUEP, TurboDDCM, DDCM, DiffC, PSC)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@cache
def codec_of(kind: type[RCCCodec[Any, Any]]) -> RCCCodec[Any, Any]:
    return kind()


class Counter:
    """Stands in for the denoiser: counts pixels times calls, and estimates nothing."""

    def __init__(self, multiple: int = 64) -> None:
        self.work, self.multiple = 0, multiple

    def __call__(self, noisy: Tensor, level: NoiseLevel) -> Tensor:
        self.work += len(noisy) * noisy.shape[-1] * noisy.shape[-2] * self.multiple
        return noisy / 2


def header_of(kind: type[RCCCodec[Any, Any]], height: int, width: int, protocol: int, method: Any) -> Header[Any]:
    """A header that is right about the length of its payload."""
    empty = codec_of(kind)._header_for(256, 256)
    header = replace(empty, height=height, width=width, protocol=protocol, method=method)
    if isinstance(method, TurboParameters):
        return replace(header, payload=len(_payload(header)))
    if isinstance(method, DDCMParameters):
        pursuit = Pursuit(1 << method.size_log2, method.atoms, method.coefficient_bits)
        return replace(header, payload=pursuit.payload_bytes(method.steps - 1 - method.closing))
    if isinstance(method, PSCParameters):
        return replace(header, payload=-(-method.steps * method.rows * method.bits // 8))
    assert isinstance(method, DiffCParameters)
    coded = method.coded * method.unit
    parity = protection.parity_bytes(coded) if method.protected else 0
    return replace(header, payload=coded + parity + method.chunks * (method.size_log2 - 1) // 8)


@st.composite
def headers(draw: st.DrawFn, kind: type[RCCCodec[Any, Any]]) -> Header[Any]:
    protocol = draw(st.sampled_from(sorted(kind.methods)))
    log2_side = st.integers(0, 13)
    height, width = (draw(st.integers(1, 1 << draw(log2_side))) for _ in range(2))
    limits = {"size_log2": 24, "codebook": 1, "protected": 100, "bits": 6}
    if kind is DiffC:
        limits |= {"protected": 1, "size_log2": 20}
    values = {}
    for name, bits in kind.methods[protocol].fields:
        most = min((1 << bits) - 1, limits.get(name, 1 << bits))
        values[name] = draw(st.integers(min(1, most), most) | st.just(most) | st.integers(min(2, most), min(most, 99)))
    if "closing" in values and kind is not DiffC:
        values["closing"] = min(values["closing"], max(0, values["steps"] - 2))
        values["steps"] = max(2, values["steps"])
    if isinstance(kind.methods[protocol](), TurboParameters):
        values["atoms"] = min(values["atoms"], PROTOCOLS[protocol].most_atoms(1 << values["size_log2"]))
        # To count the sets of so many atoms takes a tenth of a second, and here is what a header asks for.
        values["atoms"] = min(values["atoms"], 4096) if PROTOCOLS[protocol] is JointRank else values["atoms"]
    if kind is DDCM:
        values["atoms"] = min(values["atoms"], Pursuit.most_atoms(1 << values["size_log2"]))
    if kind is DiffC:
        blocks = max(1, (height + 31) // 32 * ((width + 31) // 32) * 1024 // 64)
        values["chunks"] = min(values["chunks"], blocks)
        values["steps"] = max(1, min(values["steps"], values["chunks"]))
        # Octaves that arrived, or that were never written, which reads as zeros.
        values["coded"], values["size_log2"] = min(values["coded"], 30), max(2, values["size_log2"])
    return header_of(kind, height, width, protocol, kind.methods[protocol](**values))


@kinds
@settings(deadline=None, max_examples=60)
@given(data=st.data(), payload=st.binary(max_size=39))
def test_a_few_bytes_buy_no_more_than_their_work(
    kind: type[RCCCodec[Any, Any]], data: st.DataObject, payload: bytes
) -> None:
    codec, counter = codec_of(kind), Counter()
    header = data.draw(headers(kind))
    stream = header.pack() + payload[: header.payload]
    assert len(codec.layout(stream).regions) <= 8 * len(stream)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(DecodeError):
        patch.setattr(codec.prior, "predict_clean", counter)
        if isinstance(codec, PSC):
            patch.setattr(codec, "_first", None)
        assert codec.decode(stream).shape == (header.height, header.width, 3)
    assert counter.work <= base.FREE_WORK


HOSTILE: dict[str, tuple[type[RCCCodec[Any, Any]], int, int, int, Any]] = {
    "sections": (RobustTurboDDCMUEP, 8192, 2048, 2, TurboParameters(steps=255, atoms=2048, size_log2=13)),
    "ordered": (RobustTurboDDCM, 8192, 2048, 6, TurboParameters(steps=255, atoms=65535, size_log2=16)),
    "joint": (TurboDDCM, 8192, 2048, 0, TurboParameters(steps=255, atoms=8418, size_log2=18)),
    "steps": (DDCM, 1, 1, 3, DDCMParameters(steps=65535, atoms=1, size_log2=2)),
    "chunks": (DiffC, 8192, 2048, 4, DiffCParameters(steps=127, chunks=(1 << 19) - 1, size_log2=20)),
    "samples": (PSC, 8192, 2048, 5, PSCParameters(steps=255, rows=65535, bits=6, samples=15)),
    "gaussian": (DDCM, 8192, 2048, 3, DDCMParameters(steps=1000, atoms=1, codebook=1, size_log2=24)),
    "octaves": (DiffC, 512, 512, 4, DiffCParameters(steps=127, chunks=127, size_log2=20)),
    "first samples": (PSC, 256, 256, 5, PSCParameters(rows=100, bits=6)),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_header_alone_can_not_ask_for_hours(hostile: tuple[Any, ...]) -> None:
    codec, counter = codec_of(hostile[0]), Counter()
    header = header_of(*hostile)
    stream = header.pack() + bytes(39)
    assert len(codec.layout(stream).regions) <= 8 * len(stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec.prior, "predict_clean", counter)
        with pytest.raises(DecodeError, match="out of proportion to 39 bytes"):
            codec.decode(stream)
    assert not counter.work


#: What asks for as much as is allowed, or nearly.
WITHIN: dict[str, tuple[type[RCCCodec[Any, Any]], int, int, int, Any]] = {
    "nothing arrived": (TurboDDCM, 512, 512, 0, TurboParameters(steps=255, atoms=8418, size_log2=18)),
    "many small calls": (DDCM, 1, 1, 3, DDCMParameters(steps=14, atoms=1, size_log2=24)),
    "many levels": (DDCM, 128, 128, 3, DDCMParameters(steps=65535, atoms=1, size_log2=24)),
    "many bases": (RobustTurboDDCM, 32, 32, 6, TurboParameters(steps=255, atoms=1, size_log2=24)),
    "one atom of many": (DDCM, 32, 32, 3, DDCMParameters(steps=65535, atoms=10, codebook=1, size_log2=24)),
    "sections": (RobustTurboDDCMUEP, 512, 512, 2, TurboParameters(steps=255, atoms=2048, size_log2=13)),
    "octaves": (DiffC, 64, 64, 4, DiffCParameters(steps=30, chunks=30 * 128, size_log2=20)),
    "samples": (PSC, 64, 64, 5, PSCParameters(steps=255, rows=256, bits=6, samples=6)),
}


@pytest.mark.parametrize("within", WITHIN.values(), ids=WITHIN)
def test_what_a_header_alone_may_ask_for_is_counted(within: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    codec, stream = codec_of(within[0]), header_of(*within).pack()
    # Behind the header alone comes at least the final estimate.
    for more, refusals in ((b"", []), (bytes(39), [DecodeError])):
        counter = Counter()
        if isinstance(codec, PSC):
            monkeypatch.setattr(codec, "_first", None)
        monkeypatch.setattr(codec.prior, "predict_clean", counter)
        with contextlib.suppress(*refusals):
            assert codec.decode(stream + more).ndim == 3
        assert counter.work <= base.FREE_WORK
        assert counter.work or more


@kinds
def test_ordinary_streams_are_never_out_of_proportion(kind: type[RCCCodec[Any, Any]]) -> None:
    codec = codec_of(kind)
    for side, share in ((64, 0.0), (256, 0.05), (512, 0.01), (1024, 0.01), (2048, 0.01), (4096, 0.01)):
        header = codec._header_for(side, side)
        whole = header.payload or side * side // 20
        for cut in np.linspace(share, 1, 20):
            assert codec._disproportion(header, round(cut * whole)) is None, (side, cut)
    published = DDCM(T=1000, M=1, K=1 << 13)
    published._check_encodable(published._header_for(512, 512))


@pytest.mark.parametrize("kind", [RobustTurboDDCM, RobustTurboDDCMUEP, TurboDDCM, DDCM], ids=lambda kind: kind.name)
def test_missing_steps_take_no_calls(kind: type[RCCCodec[Any, Any]]) -> None:
    codec, image = kind(T=10, N=2, bpp=2.0), np.zeros((64, 64, 3), dtype=np.uint8)
    stream, calls = codec.encode(image), []
    for share in (0.0, 0.5, 1.0):
        counter = Counter()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codec.prior, "predict_clean", counter)
            codec.decode(stream[: HEADER_BYTES + round(share * (len(stream) - HEADER_BYTES))])
        calls.append(counter.work // 64**2 - 4)
    # The coded steps, then the closing ones where all of them arrived.
    coded = codec._header_for(64, 64).method.steps - 3
    assert calls[0] == 0
    assert 0 < calls[1] < coded
    assert calls[2] == coded + 2


def test_a_quality_is_looked_for_among_rates_that_are_in_proportion() -> None:
    # At the least rate that is tried, the first samples alone are more than a stream's few bytes pay for.
    codec, image = PSC(psnr=8.0, steps=2, samples=4), np.zeros((160, 160, 3), dtype=np.uint8)
    with pytest.raises(EncodeError, match="out of proportion"):
        PSC(bpp=1 / 32, steps=2, samples=4).encode(image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec.prior, "predict_clean", Counter())
        assert len(codec.encode(image)) > HEADER_BYTES + base.FREE_BYTES


def test_what_would_be_refused_is_not_encoded() -> None:
    codec = DDCM(T=60000, M=1, K=2)
    with pytest.raises(EncodeError, match=r"out of proportion to .* bytes: give a higher rate or fewer steps"):
        codec.encode(np.zeros((512, 512, 3), dtype=np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("announced", [*HOSTILE.items(), *WITHIN.items()], ids=[*HOSTILE, *WITHIN])
def test_a_hundred_bytes_take_little_time_and_memory(announced: tuple[str, tuple[Any, ...]], tmp_path: Path) -> None:
    header = header_of(*announced[1])
    codec = announced[1][0]()
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    usual = codec.encode(image)
    with CodecWorkers(
        registry.get(codec.name).spec(), limits=Limits(seconds=60, memory=200 << 20), directory=tmp_path
    ) as workers:
        workers.decode(b"")  # the worker has started
        for stream in (header.pack(), header.pack() + bytes(39)):
            assert workers.decode(stream).outcome in (None, Outcome.REFUSED)
            assert len(workers.layout(stream).regions) <= 8 * len(stream)
            taken, reference = [], []
            for _ in range(3):
                for times, one in ((taken, stream), (reference, usual)):
                    start = time.monotonic()
                    workers.decode(one)
                    times.append(time.monotonic() - start)
            # A whole stream of 64x64 takes a fifth of a second on two cores.
            assert min(taken) < 5 * min(reference)
