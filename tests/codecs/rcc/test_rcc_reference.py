"""Bit for bit the published streams: ours beside golden ones that the authors' own programs wrote."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_pipeline import save_tiny_pipeline

from robustkit import DecodeError, EncodeError, Image
from robustkit.codecs.rcc.ddcm import DDCM
from robustkit.codecs.rcc.protocol import IndependentIndices, JointRank
from robustkit.codecs.rcc.reference import Published, PublishedDDCM, PublishedTurboDDCM, published_closing
from robustkit.codecs.rcc.turbo import RobustTurboDDCM, TurboDDCM
from robustkit.images import photographs
from robustkit.priors import load_prior
from robustkit.priors.base import Prior

SEED = 88888888
PROTOCOLS = {"turbo": JointRank, "robust": IndependentIndices}


@dataclass(frozen=True)
class Golden:
    """A stream that a published program wrote on the tiny pipeline in float32, and the image that it decoded it to.

    Attributes:
        method: "turbo", "robust" or "ddcm".
        prediction: of the pipeline.
        settings: T, M, K, and N or C.
        image: name of the photograph.
        side: of the photograph's middle that was encoded, and of the image.
        stream: SHA-256, hexadecimal.
        shown: 4 x 4 pixels of the decoded image, its grid's centres, hexadecimal.
    """

    method: str
    prediction: str
    settings: dict[str, int]
    image: str
    side: int
    stream: str
    shown: str


# Written with torch 2.14.1, diffusers 0.42.1 and transformers 5.24.0 on a CPU with AVX-512, by
#   turbo: github.com/AmitVaisman/Turbo-DDCM at 77353e47383a6c10b00587629f65cc73c1464266;
#   robust: the same, with the stream writer and reader of github.com/galkesten/Diffusion-Compression-Editing-Attacks
#     (Turbo-DDCM-master/turbo_ddcm/bit_stream_lex_enc.py, B = M), and N as given here;
#   ddcm: github.com/DDCM-2025/ddcm-compressed-image-generation at bc98c079d6f8fca4277e2e96084190ba88e91e6c.
# Other CPUs add up in another order, so only settings and images are here whose choices are clear: the last chosen
# inner product is larger than the first that is not chosen (and, where their order is written, each than the next) by
# more than 1/1000 of the largest, a thousand times the rounding of float32. Ours are these with the kernels of torch,
# oneDNN and MKL for CPUs without AVX, with AVX2 and with AVX-512.
# fmt: off
GOLDEN = [
    Golden(
        "turbo",
        "epsilon",
        {"T": 6, "M": 5, "K": 64, "N": 2},
        "rocket",
        32,
        "b4b249553339cf3131ce29118272ff52407cb119dec2f1ef96be889d8c89f449",
        "5f7fff6756f4a2636d6e828e4f6bb216b283848a6c748e7d6b6281c8985c927d6776a2818566888a766c726172617f8b",
    ),
    Golden(
        "turbo",
        "epsilon",
        {"T": 6, "M": 5, "K": 64, "N": 2},
        "coffee",
        32,
        "53b374aee28f27b88c2dd9c49e55aa2473e7a8c8fde9aa5f06bc4cdff0c3de1f",
        "597fff6a59f49f666e718392516bb01cb084868e68728b786d6184bf8f53947e6b74a186866a888877717460725f7e8c",
    ),
    Golden(
        "turbo",
        "v_prediction",
        {"T": 10, "M": 7, "K": 256, "N": 0},
        "astronaut",
        32,
        "1262504705a9688b293e70e914e7ebb6f1bbbe02bc46959beee0001110d909f2",
        "6f5860885b4c766353736c714836838b7a6d7c275888777b500fd4ff8fa978754e7f6e601a79bd9a868f817c826e6a82",
    ),
    Golden(
        "turbo",
        "v_prediction",
        {"T": 10, "M": 7, "K": 256, "N": 0},
        "coffee",
        32,
        "2a12c4cedad8954f07b79e32d370ee752ea9c2c6bdabed2935de63254944aee5",
        "6358698871897c4e8a826f626355b46572342fc5ffe09f57a45e50877a446c6e7c87756c6f67657c7e91bb82846b6075",
    ),
    Golden(
        "turbo",
        "v_prediction",
        {"T": 20, "M": 3, "K": 1024, "N": 1},
        "rocket",
        64,
        "c6f83ddfe6e9cd1c41457a8c4ddac7a929f692cad2d9ee6a84635803abc028e1",
        "747e77815a6b6d5a7177665f95726e66525b1c01ff88985a7c665e7b6b638b8252575e66655d709469681046f581567a",
    ),
    Golden(
        "turbo",
        "v_prediction",
        {"T": 20, "M": 3, "K": 1024, "N": 1},
        "coffee",
        64,
        "0cde00b43ff3e78e515c9d173f6c1ffb55fd86a39a315106220946bcb8a2d8d1",
        "70646968616172647f7964787cb1529b4d576b63728e63666369678333c4a677778e62686c528c7a0074e96b629fa36d",
    ),
    Golden(
        "robust",
        "epsilon",
        {"T": 6, "M": 5, "K": 64, "N": 0},
        "motorcycle",
        32,
        "1ee935f8bbb0e6fa9def3f11e7c53659b636be2903eb30131df6782f1411fa4f",
        "5e80ff6657f5a0626b6e838e4f6bb319b182858b6c758e7d6b6181c7985c927c6676a28285668889776d726172617f8b",
    ),
    Golden(
        "robust",
        "epsilon",
        {"T": 6, "M": 5, "K": 64, "N": 0},
        "astronaut",
        32,
        "5a2fb28b9cea64d03bd17e658c845bf7b936bf49bd0889352b4f1256ca779b69",
        "5e80ff6657f5a0626b6f838e4f6bb319b182858b6c758e7d6b6181c7985c927c6676a28285668889776d726172617f8b",
    ),
    Golden(
        "robust",
        "v_prediction",
        {"T": 10, "M": 7, "K": 256, "N": 3},
        "coffee",
        32,
        "fad57626de3638613f19c702fb887189b98818d5259697f406e9613b813769be",
        "57536f7e65907f537a79655e7156985f68422fb9ffeead449966506b8e3f936984a77469796b658a7482d87e8a72656c",
    ),
    Golden(
        "robust",
        "v_prediction",
        {"T": 10, "M": 7, "K": 256, "N": 3},
        "astronaut",
        32,
        "ed88d577f0820b876acfb67568a822dadcff8a8e6f84366ce0206d913270ade9",
        "6d5a62946346786254726b6d3f1f85887d759125628978776522c2ff9b94708136857560518d8ba58875988b7a817982",
    ),
    Golden(
        "robust",
        "epsilon",
        {"T": 20, "M": 4, "K": 512, "N": 2},
        "astronaut",
        64,
        "2f7e426271727938bb255af458a0bc9ec1996089405031038769ae9661f89edb",
        "71748a2a8e8a7e9bffa87595a265a988623c864574906b5f82985e87885e86886d5c83846f6c4e681f467c537fa07972",
    ),
    Golden(
        "ddcm",
        "epsilon",
        {"T": 30, "K": 64, "M": 1},
        "rocket",
        32,
        "62a5191f6eef7f19f46a9e437d4805008bc149ba96a9c5eebb3ad3cc269e01ae",
        "6b76737748551c95d1b875536d70976155d3732c3ae688e97a69788b8a608158268e4f537068696e495d67717d767d72",
    ),
    Golden(
        "ddcm",
        "epsilon",
        {"T": 30, "K": 64, "M": 1},
        "motorcycle",
        32,
        "f51892a3239666eccdbf060a43973593f2412e731687e4984017ebf7c4f3fdd8",
        "6a6f667048632798b5d97556716c845461e56e313ae190d37a607d9b8c5a7a842895514c7565706b3b5c7c6970798170",
    ),
    Golden(
        "ddcm",
        "v_prediction",
        {"T": 50, "K": 32, "M": 1},
        "rocket",
        32,
        "195e281f941b460658a07046a3a338751adecc131a4f032fb9035610b6c4d309",
        "71596f67497b74586f7865686f6b5e5e69525273c6848d8c5e5cf6ff7fa86f757a4fda86666a717566779e9689b47e88",
    ),
    Golden(
        "ddcm",
        "v_prediction",
        {"T": 50, "K": 32, "M": 1},
        "chelsea",
        32,
        "8a439e988d1547df5c9fd01b23e5e68dad3364e712a93a1f525c30004c549641",
        "7252658c71487d615e6d6a686754d86c3fde7f70597e776b8577b7d387ba7e7271867dba3f7fc96564795d70887f6065",
    ),
    Golden(
        "ddcm",
        "epsilon",
        {"T": 12, "K": 128, "M": 2, "C": 3},
        "astronaut",
        32,
        "cb2827567964a7218da64dfa6e531cf20eb2dd51ccc7de524e9818a716cbffe6",
        "607cc496315083698ea4714e5962a0747b979b5642c98e5fa46d948a91648b527c9b4e46726d71654a638354706e6374",
    ),
    Golden(
        "ddcm",
        "epsilon",
        {"T": 12, "K": 128, "M": 2, "C": 3},
        "coffee",
        32,
        "31b67bab7cb30600ace55881927e087424f29384b387de08f1af660310075b93",
        "5d7dc8903a43877386997142466e97457199876b67b5855b6e6bb180875a79597381533f7b7063865258834f758a6472",
    ),
    Golden(
        "ddcm",
        "v_prediction",
        {"T": 10, "K": 256, "M": 3, "C": 2},
        "immunohistochemistry",
        32,
        "e274c441dd369bf027f3718f483b0586d1c05f7a20c0441dc7d33f9b06ead84c",
        "61516b6c5e60896f6a807a617c7869c17967b09dad84a8725a787d785a519a70646f78728c605fd05a7aa4968778676c",
    ),
    Golden(
        "ddcm",
        "v_prediction",
        {"T": 10, "K": 256, "M": 3, "C": 2},
        "chelsea",
        32,
        "0db1feaa26f0a0b87af2fe595c07d2b5b1f10ba55ea907e2166817a9caed5680",
        "7a5c4c8a7d8474656b725a654297ff889b757065719a81677b848a54f5f8636d6da37859746366d155c56c7d92806b74",
    ),
    Golden(
        "ddcm",
        "epsilon",
        {"T": 100, "K": 16, "M": 1},
        "rocket",
        32,
        "7c8c7045a3377f6aa3ff7dfc697be6d0a958c9900b30fd7b23d10929cc85755d",
        "4a6496734b2b845c5386696a7264b3003fffb31b68cbaea78e955d4772718653569051557e645b6462658b688d6b637f",
    ),
    Golden(
        "ddcm",
        "epsilon",
        {"T": 100, "K": 16, "M": 1},
        "chelsea",
        32,
        "6b296421a303db5dcea8a6bb241048ae1a9870db2a073869a951d5521c4320b0",
        "5c6276643d418e675484686e7661c1004fffbd2d62b6b6ad8d8f645877738b595197515880655a5e676b8f65836e627a",
    ),
]
# fmt: on


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prior]:
    folder = tmp_path_factory.mktemp("pipelines")
    kinds = ("epsilon", "v_prediction")
    return {kind: load_prior(str(save_tiny_pipeline(folder / kind, prediction_type=kind))) for kind in kinds}


def coder(prior: Prior, method: str, settings: dict[str, int]) -> Published:
    if method == "ddcm":
        return PublishedDDCM(prior, **settings)
    protocol = PROTOCOLS[method](settings["K"], settings["M"])
    return PublishedTurboDDCM(prior, protocol, T=settings["T"], N=settings.get("N"), seed=SEED)


@pytest.fixture(scope="module", params=["turbo", "robust", "ddcm"])
def small(request: pytest.FixtureRequest, priors: dict[str, Prior]) -> Published:
    """Small settings, with padding, and for "turbo" with ranks that can be invalid."""
    more = {"C": 2} if request.param == "ddcm" else {"N": 0}
    return coder(priors["epsilon"], request.param, {"T": 4, "K": 64, "M": 3, **more})


def picture(side: int, name: str = "coffee") -> Image:
    return photographs(crop=side)[name]


def test_the_tiny_pipeline_is_the_one_of_the_golden_streams(priors: dict[str, Prior]) -> None:
    # If this fails, golden streams that differ say nothing.
    prior, digest = priors["epsilon"], hashlib.sha256()
    for part in (prior.network, prior.vae):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    assert digest.hexdigest() == "8662c1e3294d4225de0b0cd235324e0a2cf23662c9df9d97f698e57e4d9e2e51"
    assert prior.prompt.shape == (1, 8, 16)
    assert prior.prompt.flatten()[:4].tolist() == pytest.approx([0.33532, 0.39702, 0.26755, 0.53725], abs=1e-5)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: f"{g.method}-{g.prediction}-{g.image}-T{g.settings['T']}")
def test_streams_and_images_are_those_of_the_published_programs(golden: Golden, priors: dict[str, Prior]) -> None:
    codec = coder(priors[golden.prediction], golden.method, golden.settings)
    stream = codec.encode(picture(golden.side, golden.image))
    assert hashlib.sha256(stream).hexdigest() == golden.stream
    step = golden.side // 4
    shown = codec.decode(stream, golden.side, golden.side)[step // 2 :: step, step // 2 :: step]
    expected = np.frombuffer(bytes.fromhex(golden.shown), np.uint8).reshape(4, 4, 3)
    # A pixel on the edge of a grey level may fall either way on another CPU.
    assert np.abs(shown.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("steps", "bits", "size", "closing"),
    [
        # The paper's: Robust Turbo-DDCM with M = 73 and Turbo-DDCM with M = 114, K = 16384.
        (30, 73 * 15, (512, 512), 5),
        (30, JointRank(16384, 114).bits, (512, 512), 5),
        # By the published program:
        (20, 239, (512, 512), 18),
        (30, 536, (512, 512), 23),
        (30, 1753, (512, 512), 0),
        (20, 975, (768, 768), 18),
        (20, 975, (1024, 1024), 15),
        (50, 49, (1024, 1024), 19),
    ],
)
def test_closing_steps_follow_the_published_rule(steps: int, bits: int, size: tuple[int, int], closing: int) -> None:
    assert published_closing(steps, bits=bits, height=size[0], width=size[1]) == closing


def test_the_rule_is_what_no_n_means(priors: dict[str, Prior]) -> None:
    codec = coder(priors["epsilon"], "robust", {"T": 30, "K": 64, "M": 2})
    closing = published_closing(30, bits=14, height=64, width=64)
    assert 0 < closing < 28
    assert codec.coded_steps(64, 64) == 29 - closing
    assert len(codec.encode(picture(64))) == -(-14 * (29 - closing) // 8) == codec.length(64, 64)


def test_a_batch_decodes_as_its_streams_do_alone(small: Published) -> None:
    stream, other = small.encode(picture(32)), small.encode(picture(32)[::-1].copy())
    late = stream[:-1] + bytes([stream[-1] ^ 1])
    batch = [stream, late, b"", other, stream]
    decoded = small.decode_batch(batch, 32, 32)
    assert isinstance(decoded[2], DecodeError)
    for place in (0, 1, 3, 4):
        assert np.array_equal(decoded[place], small.decode(batch[place], 32, 32))
    assert not np.array_equal(decoded[0], decoded[1])
    assert not np.shares_memory(decoded[0], decoded[4])


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_decode_or_are_refused(small: Published, data: st.DataObject) -> None:
    length = small.length(32, 32)
    stream = data.draw(st.binary(min_size=length, max_size=length) | st.binary(max_size=2 * length))
    refused = ""
    try:
        decoded = small.decode(stream, 32, 32)
    except DecodeError as error:
        refused = str(error)
    if len(stream) != length:
        assert "bytes, where the settings need" in refused
    elif refused:
        assert isinstance(small, PublishedTurboDDCM)
        assert "a rank beyond the last" in refused
    else:
        assert decoded.dtype == np.uint8
        assert decoded.shape == (32, 32, 3)


def test_streams_that_are_too_long_or_too_short_are_refused(small: Published) -> None:
    stream = small.encode(picture(32))
    for wrong in (stream[:-1], stream + b"\0", b""):
        with pytest.raises(DecodeError, match=f"{len(wrong)} bytes, where the settings need {len(stream)}"):
            small.decode(wrong, 32, 32)


def test_a_rank_that_names_no_subset_is_refused(priors: dict[str, Prior]) -> None:
    codec = coder(priors["epsilon"], "turbo", {"T": 5, "K": 64, "M": 3, "N": 0})
    with pytest.raises(DecodeError, match="step 0: a rank beyond the last"):
        codec.decode(b"\xff" * codec.length(32, 32), 32, 32)


def test_padding_comes_first_and_means_nothing(small: Published) -> None:
    stream = small.encode(picture(32))
    name, bits = small.fields(32, 32)[0]
    assert name == "padding"
    assert stream[0] >> (8 - bits) == 0
    damaged = bytes([stream[0] ^ 0x80]) + stream[1:]
    assert np.array_equal(small.decode(damaged, 32, 32), small.decode(stream, 32, 32))


def test_an_atom_named_twice_counts_as_it_was_named_last(priors: dict[str, Prior]) -> None:
    codec = coder(priors["epsilon"], "robust", {"T": 2, "K": 64, "M": 2, "N": 0})

    def stream(first: int, second: int, signs: str) -> bytes:
        return int(f"{first:06b}{second:06b}{signs}", 2).to_bytes(2)

    twice, once = codec.decode(stream(9, 9, "01"), 32, 32), codec.decode(stream(9, 9, "11"), 32, 32)
    assert np.array_equal(twice, once)
    assert not np.array_equal(twice, codec.decode(stream(9, 9, "10"), 32, 32))


def test_a_ddcm_step_ends_at_its_first_zero_coefficient(priors: dict[str, Prior]) -> None:
    codec = coder(priors["epsilon"], "ddcm", {"T": 2, "K": 64, "M": 3, "C": 2})

    def stream(*parts: tuple[int, int]) -> bytes:
        return int("000111" + "".join(f"{number:02b}{atom:06b}" for number, atom in parts), 2).to_bytes(3)

    ended = codec.decode(stream((0, 5), (2, 8)), 32, 32)
    assert np.array_equal(ended, codec.decode(stream((0, 6), (0, 1)), 32, 32))
    assert not np.array_equal(ended, codec.decode(stream((1, 5), (2, 8)), 32, 32))


def test_images_of_other_sizes_are_padded(small: Published) -> None:
    image = picture(64)[:33, :50]
    stream = small.encode(image)
    assert len(stream) == small.length(33, 50)
    assert small.decode(stream, 33, 50).shape == (33, 50, 3)


def test_a_codebook_that_would_fill_the_memory_is_refused_before_it_is_made(priors: dict[str, Prior]) -> None:
    codec = coder(priors["epsilon"], "ddcm", {"T": 2, "K": 1 << 24, "M": 1})
    with pytest.raises(EncodeError, match=r"K = 16777216 atoms of 256 numbers"):
        codec.encode(picture(32))
    with pytest.raises(DecodeError, match="give a smaller K or image"):
        codec.decode(bytes(codec.length(32, 32)), 32, 32)
    with pytest.raises(DecodeError, match="pixels"):
        codec.decode(bytes(codec.length(0, 32)), 0, 32)


def test_the_steps_draw_their_codebooks_over_one_another(small: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two at once were half of a decoder's memory.
    draw, drawn = small._draw, []

    def remembering(atoms: torch.Tensor, step: int) -> torch.Tensor:
        drawn.append(atoms.data_ptr())
        found = draw(atoms, step)
        assert found.data_ptr() == atoms.data_ptr()
        return found

    monkeypatch.setattr(small, "_draw", remembering)
    stream = small.encode(picture(32))
    steps = small.coded_steps(32, 32)
    assert len(drawn) == steps > 1
    assert len(set(drawn)) == 1
    small.decode_batch([stream, bytes(len(stream))], 32, 32)
    assert len(drawn) == 2 * steps
    assert len(set(drawn[steps:])) == 1


def test_the_random_numbers_of_others_are_left_alone(small: Published) -> None:
    before = torch.random.get_rng_state()
    small.decode(small.encode(picture(32)), 32, 32)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("method", ["turbo", "robust", "ddcm"])
def test_half_precision_is_the_published_one(method: str, tmp_path: Path) -> None:
    prior = load_prior(str(save_tiny_pipeline(tmp_path)), dtype="float16")
    codec = coder(prior, method, {"T": 5, "K": 64, "M": 3})
    # Published: everything in half precision, the VAE too, which robustkit's own codecs run in float32 on a CPU.
    assert codec.vae.dtype == torch.float16
    assert prior.vae.dtype == torch.float32
    assert codec.decode(codec.encode(picture(32)), 32, 32).std() > 10


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("ddcm", {"T": 1, "K": 64}),
        ("ddcm", {"T": 1001, "K": 64}),
        ("ddcm", {"T": 5, "K": 63}),
        ("ddcm", {"T": 5, "K": 64, "M": 0}),
        ("ddcm", {"T": 5, "K": 64, "M": 2, "C": 0}),
        ("robust", {"T": 163, "K": 64, "M": 2}),
    ],
)
def test_settings_out_of_range_are_named(kind: str, wrong: dict[str, int], priors: dict[str, Prior]) -> None:
    with pytest.raises(ValueError, match=r"^(T|K|M|C) = \d+"):
        coder(priors["epsilon"], kind, wrong)


# -- as codecs ---------------------------------------------------------------------------------------------


RAW = {"codebook": "reference", "container": "raw", "size": (32, 32), "T": 6, "M": 5, "K": 64}


@pytest.mark.parametrize(("kind", "method"), [(TurboDDCM, "turbo"), (RobustTurboDDCM, "robust")])
def test_the_codecs_write_the_published_streams(kind: type[TurboDDCM], method: str, tmp_path: Path) -> None:
    golden = next(g for g in GOLDEN if g.method == method and g.settings["T"] == 6)
    codec = kind(**RAW, prior=str(save_tiny_pipeline(tmp_path)))
    # Without N: the published rule, which gave the golden streams theirs.
    stream = codec.encode(picture(32, golden.image))
    assert hashlib.sha256(stream).hexdigest() == golden.stream
    decoded = codec.decode(stream)
    assert decoded.shape == (32, 32, 3)
    refused, again = codec.decode_batch([stream[1:], stream])
    assert isinstance(refused, DecodeError)
    assert np.array_equal(again, decoded)
    settings = codec.describe()["settings"]
    assert "N=by rule" in settings
    assert "codebook=reference" in settings


def test_ddcm_writes_the_published_streams(tmp_path: Path) -> None:
    golden = next(g for g in GOLDEN if g.method == "ddcm" and g.prediction == "epsilon" and g.settings["M"] == 2)
    settings = {"codebook": "reference", "container": "raw", "size": (golden.side, golden.side), **golden.settings}
    codec = DDCM(**settings, prior=str(save_tiny_pipeline(tmp_path)))
    stream = codec.encode(picture(golden.side, golden.image))
    assert hashlib.sha256(stream).hexdigest() == golden.stream
    assert codec.decode(stream).shape == (golden.side, golden.side, 3)
    with pytest.raises(EncodeError, match="weights with codebook 'reference'"):
        codec.encode(picture(golden.side, golden.image), np.ones((golden.side, golden.side)))
    with pytest.raises(ValueError, match="container='framed'"):
        DDCM(**settings | {"container": "framed"})


@pytest.mark.parametrize("kind", [TurboDDCM, RobustTurboDDCM])
def test_the_layout_names_every_bit(kind: type[TurboDDCM], tmp_path: Path) -> None:
    codec = kind(**RAW, prior=str(save_tiny_pipeline(tmp_path)))
    stream = codec.encode(picture(32))
    for bitstream in (stream, stream[1:], b""):
        layout = codec.layout(bitstream)
        covered = [bit for region in layout for bit in range(region.start, region.stop)]
        assert covered == list(range(8 * len(bitstream)))
    names = [region.name for region in codec.layout(stream)]
    assert names[0] == "padding"
    assert names[1] == ("step 0 subset rank" if kind is TurboDDCM else "step 0 atom 0 index")
    assert names[-1] == f"step {2 if kind is TurboDDCM else 4} atom 4 sign"


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"container": "framed"}, "container='framed'"),
        ({"selection": "sections"}, "selection 'sections'"),
        ({"protect": 0.5}, "protect=0.5"),
        ({"M": None}, "M=None"),
    ],
)
def test_settings_that_the_published_streams_lack_are_named(given_: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        RobustTurboDDCM(**(RAW | given_))  # type: ignore[arg-type]


def test_only_a_stable_diffusion_pipeline_has_published_streams() -> None:
    with pytest.raises(ValueError, match="of Stable Diffusion pipelines"):
        RobustTurboDDCM(**RAW)  # type: ignore[arg-type]


def test_only_published_number_formats_are_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype torch\.bfloat16"):
        RobustTurboDDCM(**RAW, prior=str(save_tiny_pipeline(tmp_path)), dtype="bfloat16")


def test_a_decoder_is_told_the_size(tmp_path: Path) -> None:
    folder = str(save_tiny_pipeline(tmp_path))
    stream = TurboDDCM(**RAW, prior=folder).encode(picture(32))
    with pytest.raises(DecodeError, match="size="):
        TurboDDCM(**(RAW | {"size": None}), prior=folder).decode(stream)
