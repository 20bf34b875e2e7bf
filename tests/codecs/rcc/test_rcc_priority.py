"""Priority maps: quality goes where the weights are, the stream's format stays, and what is no map is refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from robustkit import EncodeError, Image
from robustkit.codecs.rcc.ddcm import DDCM
from robustkit.codecs.rcc.turbo import RobustTurboDDCM, RobustTurboDDCMUEP, TurboDDCM
from robustkit.images import photographs
from robustkit.quality import measure

CODECS = {
    "turbo-ddcm": TurboDDCM,
    "robust-turbo-ddcm": RobustTurboDDCM,
    "robust-turbo-ddcm-uep": RobustTurboDDCMUEP,
    "ddcm": DDCM,
}
kinds = pytest.mark.parametrize("codec", CODECS, indirect=True)


@pytest.fixture(scope="module")
def codec(request: pytest.FixtureRequest) -> DDCM:
    return CODECS[request.param](T=14, bpp=1.0)


@pytest.fixture(scope="module")
def photograph() -> Image:
    return photographs(crop=96)["astronaut"]


@kinds
def test_quality_rises_where_the_weights_are_and_falls_elsewhere(codec: DDCM, photograph: Image) -> None:
    weights = np.ones(photograph.shape[:2])
    weights[:, :48] = 6
    plain, weighted = (codec.decode(codec.encode(photograph, weights=w)) for w in (None, weights))
    inside, outside = np.s_[:, :48], np.s_[:, 48:]
    assert (
        measure("psnr", photograph[inside], weighted[inside]) > measure("psnr", photograph[inside], plain[inside]) + 0.5
    )
    assert measure("psnr", photograph[outside], weighted[outside]) < measure(
        "psnr", photograph[outside], plain[outside]
    )


@kinds
@pytest.mark.parametrize("value", [1, 3.7, 1e-300, 1e300, True])
def test_equal_weights_give_the_stream_that_none_give(codec: DDCM, value: float, photograph: Image) -> None:
    image = photograph[:40, :50]
    assert codec.encode(image, weights=np.full((40, 50), value)) == codec.encode(image)


def test_only_ratios_of_weights_count(photograph: Image) -> None:
    weights = np.arange(1, 1 + 96 * 96).reshape(96, 96)
    codec = DDCM(T=14, bpp=1.0)
    assert codec.encode(photograph, weights=weights) == codec.encode(photograph, weights=weights * 2.0**-40)


def test_a_map_changes_the_payload_alone(photograph: Image) -> None:
    codec = RobustTurboDDCM(T=6, M=4)
    weights = np.zeros((96, 96))
    weights[20:60, 20:60] = 1
    plain, weighted = codec.encode(photograph), codec.encode(photograph, weights=weights)
    assert plain != weighted
    assert [(r.name, r.start) for r in codec.layout(plain)] == [(r.name, r.start) for r in codec.layout(weighted)]
    assert np.array_equal(RobustTurboDDCM(T=20, M=1).decode(weighted), codec.decode(weighted))


def test_a_map_goes_with_a_target_quality(photograph: Image) -> None:
    codec = TurboDDCM(T=8, psnr=20)
    weights = np.linspace(1, 2, 96)[None] * np.ones((96, 1))
    assert measure("psnr", photograph, codec.decode(codec.encode(photograph, weights=weights))) >= 20


@kinds
@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (np.ones((96, 95)), r"shape \(96, 95\)"),
        (np.ones((96, 96, 1)), r"shape \(96, 96, 1\)"),
        (np.ones(96), r"shape \(96,\)"),
        (3.0, r"shape \(\)"),
        (np.zeros((96, 96)), "from 0.0 to 0.0"),
        (np.full((96, 96), np.nan), "nan"),
        (np.full((96, 96), np.inf), "inf"),
        (np.linspace(-1, 5, 96 * 96).reshape(96, 96), "from -1.0 to 5.0"),
        ("map.png", "weights are <U7"),
        ([[1, 2], [3]], "inhomogeneous"),
        (np.ones((96, 96), dtype=complex), "complex"),
    ],
)
def test_what_is_no_map_is_refused(codec: DDCM, weights: npt.ArrayLike, why: str, photograph: Image) -> None:
    with pytest.raises(EncodeError, match=why) as refusal:
        codec.encode(photograph, weights=weights)
    assert "give 96x96 weights, finite, not negative, and not all zero" in str(refusal.value)
