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
from robustkit.codecs.rcc.turbo import PROTOCOLS, RobustTurboDDCM, TurboDDCM, TurboParameters, _payload
from robustkit.isolation import CodecWorkers, Limits
from robustkit.priors.base import NoiseLevel

KINDS: tuple[type[RCCCodec[Any, Any]], ...] = (RobustTurboDDCM, TurboDDCM, DDCM, DiffC, PSC)
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
    limits = {"size_log2": 24, "codebook": 0, "protected": 100, "bits": 6}
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
        # The rank of a set out of millions is slow to count, and here is what a header asks for.
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
    assert counter.work <= base.FREE_WORK + base.WORK_OF_A_BYTE * len(payload)


HOSTILE: dict[str, tuple[type[RCCCodec[Any, Any]], int, int, int, Any]] = {
    "sections": (RobustTurboDDCM, 8192, 2048, 2, TurboParameters(steps=255, atoms=2048, size_log2=13)),
    "ordered": (RobustTurboDDCM, 8192, 2048, 6, TurboParameters(steps=255, atoms=65535, size_log2=16)),
    "joint": (TurboDDCM, 8192, 2048, 0, TurboParameters(steps=255, atoms=8418, size_log2=18)),
    "steps": (DDCM, 1, 1, 3, DDCMParameters(steps=65535, atoms=1, size_log2=2)),
    "chunks": (DiffC, 8192, 2048, 4, DiffCParameters(steps=127, chunks=(1 << 19) - 1, size_log2=20)),
    "samples": (PSC, 8192, 2048, 5, PSCParameters(steps=255, rows=65535, bits=6, samples=15)),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_a_header_alone_can_not_ask_for_hours(hostile: tuple[Any, ...]) -> None:
    codec, counter = codec_of(hostile[0]), Counter()
    header = header_of(*hostile)
    for stream in (header.pack(), header.pack() + bytes(39)):
        assert len(codec.layout(stream).regions) <= 8 * len(stream)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codec.prior, "predict_clean", counter)
            with pytest.raises(DecodeError, match=f"out of proportion to {len(stream) - HEADER_BYTES} bytes"):
                codec.decode(stream)
    assert not counter.work


@kinds
def test_ordinary_streams_are_never_out_of_proportion(kind: type[RCCCodec[Any, Any]]) -> None:
    codec = codec_of(kind)
    for side, share in ((256, 0.0), (512, 0.0), (1024, 0.01), (2048, 0.01), (4096, 0.1)):
        header = codec._header_for(side, side)
        whole = header.payload or side * side // 20
        assert codec._disproportion(header, round(share * whole)) is None
        assert codec._disproportion(header, whole) is None
    published = DDCM(T=1000, M=1, K=1 << 13)
    published._check_encodable(published._header_for(512, 512))


def test_what_would_be_refused_is_not_encoded() -> None:
    codec = DDCM(T=60000, M=1, K=2)
    with pytest.raises(EncodeError, match=r"out of proportion to .* bytes: give a higher rate or fewer steps"):
        codec.encode(np.zeros((512, 512, 3), dtype=np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE, ids=HOSTILE)
def test_a_hundred_bytes_take_little_time_and_memory(hostile: str, tmp_path: Path) -> None:
    header = header_of(*HOSTILE[hostile])
    spec = registry.get(HOSTILE[hostile][0].name).spec()
    with CodecWorkers(spec, limits=Limits(seconds=20, memory=200 << 20), directory=tmp_path) as workers:
        workers.decode(b"")  # the worker has started
        for stream in (header.pack(), header.pack() + bytes(39)):
            start = time.monotonic()
            assert workers.decode(stream).outcome is Outcome.REFUSED
            assert len(workers.layout(stream).regions) <= 8 * len(stream)
            assert time.monotonic() - start < 1
