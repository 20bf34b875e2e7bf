"""compressai's codecs: each through its real coder, what damage does to it, and what hardening changes."""

import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit import CodecUnavailable, DecodeError, EncodeError, ErrorPattern, Outcome, load_codec, registry
from robustkit.channels import BSC
from robustkit.codecs import learned
from robustkit.images import photographs
from robustkit.isolation import CodecWorkers
from robustkit.judging.waivers import declared

PAYLOAD = BSC(1e-2, region="payload")
#: Small widths of each architecture, so that it runs in a moment: (class of compressai, arguments).
SMALL = {
    "bmshj2018-factorized": ("google", "FactorizedPrior", (16, 24)),
    "bmshj2018-hyperprior": ("google", "ScaleHyperprior", (16, 24)),
    "mbt2018-mean": ("google", "MeanScaleHyperprior", (16, 24)),
    "mbt2018": ("google", "JointAutoregressiveHierarchicalPriors", (16, 24)),
    "cheng2020-anchor": ("waseda", "Cheng2020Anchor", (16,)),
    "cheng2020-attn": ("waseda", "Cheng2020Attention", (16,)),
    "elic2022": ("sensetime", "Elic2022Official", (16,)),
}


@pytest.fixture(scope="module")
def image():
    return photographs()["chelsea"][:64, :96]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of untrained weights, made when asked for."""
    folder = tmp_path_factory.mktemp("weights")

    def make(name):
        path = folder / f"{name}.pth.tar"
        if not path.exists():
            module, kind, widths = SMALL[name]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(1)
                model = getattr(importlib.import_module(f"compressai.models.{module}"), kind)(*widths)
                model.update(force=True)
            torch.save({"state_dict": model.state_dict()}, path)
        return str(path)

    return make


@pytest.mark.parametrize("hardened", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_every_architecture_codes_through_its_real_coder(name, hardened, weights, image):
    codec = load_codec(name, weights=weights(name), hardened=hardened)
    assert [str(path) for path in codec.weight_files] == [weights(name)]
    stream = codec.encode(image)
    decoded = codec.decode(stream)
    assert decoded.shape == image.shape
    assert np.array_equal(codec.decode(stream), decoded)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        padded = torch.nn.functional.pad(pixels, (0, 32, 0, 0), mode="replicate")
        strings = codec.model.compress(padded)
        direct = codec.model.decompress(strings["strings"], strings["shape"])["x_hat"]
    expected = (direct[0, :, :64, :96].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(decoded, expected)
    assert [bytes(p[0]) for p in strings["strings"]] == list(codec_parts(stream, codec))
    assert sum(r.stop - r.start for r in codec.layout(stream)) == 8 * len(stream)


def codec_parts(stream, codec):
    from robustkit.codecs.frame import Frame

    return Frame.unpack(stream, identity=codec.identity, writer="", max_pixels=1 << 22).parts


#: Without and with a hyperprior; the others, which differ in their networks, take five seconds each.
QUICK = ("bmshj2018-factorized",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)
def test_a_hardened_codec_survives_what_reads_beyond_the_stream(name, weights, image, tmp_path):
    """Whatever the payload says, the decode ends in an image or a refusal, and the worker lives."""
    spec = registry.get(name).spec(weights=weights(name), hardened=True)
    with CodecWorkers(spec, directory=tmp_path) as workers:
        stream = workers.encode(image)
        layout = workers.layout(stream)
        before = workers.pids
        payload = layout.bits_of(header=False)
        patterns = [PAYLOAD.sample(8 * len(stream), np.random.default_rng(i), layout) for i in range(4)]
        patterns += [ErrorPattern(8 * len(stream), payload), ErrorPattern(8 * len(stream), payload[::2])]
        for pattern in patterns:
            decoded = workers.decode(pattern.apply(stream), shape=image.shape[:2])
            assert decoded.outcome in (None, Outcome.REFUSED), decoded.message
            again = workers.decode(pattern.apply(stream), shape=image.shape[:2])
            assert np.array_equal(decoded.image, again.image) if decoded.image is not None else again.image is None
        assert workers.pids == before


@pytest.mark.slow
def test_the_known_defect_shows_without_hardening(tmp_path):
    """InterDigitalInc/CompressAI issue 300: damaged streams of an untrained mbt2018-mean read beyond their buffers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from compressai.models import MeanScaleHyperprior

        torch.manual_seed(1)
        # Wide enough for reading to leave the heap.
        model = MeanScaleHyperprior(16, 640)
        model.update(force=True)
    torch.save(model.state_dict(), tmp_path / "wide.pth")
    photograph = photographs()["chelsea"]
    seeds = []
    for hardened in (False, True):
        spec = registry.get("mbt2018-mean").spec(weights=str(tmp_path / "wide.pth"), hardened=hardened)
        with CodecWorkers(spec, directory=tmp_path) as workers:
            known = workers.attributes.known_defects
            assert known.get("crashed") == (None if hardened else learned.ISSUE)
            assert bool(declared("hyperprior-small", known)) != hardened
            stream = workers.encode(photograph)
            layout = workers.layout(stream)
            # The bare codec until it crashes, the hardened one through the same damage.
            for seed in seeds if hardened else range(3):
                hit = PAYLOAD.sample(8 * len(stream), np.random.default_rng(seed), layout).apply(stream)
                outcome = workers.decode(hit, shape=photograph.shape[:2]).outcome
                if hardened:
                    assert outcome in (None, Outcome.REFUSED)
                else:
                    seeds.append(seed)
                    if outcome is Outcome.CRASHED:
                        break
            else:
                assert hardened, "three damaged streams did the bare codec no harm"
            # Each crash costs its trial alone.
            assert workers.decode(stream, shape=photograph.shape[:2]).image is not None


@pytest.fixture(scope="module")
def small():
    return load_codec("hyperprior-small-hardened")


def test_the_small_hyperprior_is_worth_having(small):
    rates, qualities = [], []
    for photograph in photographs().values():
        stream = small.encode(photograph)
        error = np.mean((small.decode(stream).astype(float) - photograph) ** 2)
        rates.append(8 * len(stream) / photograph[..., 0].size)
        qualities.append(10 * np.log10(255**2 / error))
    assert 0.25 <= np.mean(rates) <= 0.5
    assert np.mean(qualities) >= 27
    assert learned.SMALL.stat().st_size <= 8e6


def test_hardened_and_bare_write_the_same_stream(small, image):
    bare = load_codec("hyperprior-small")
    stream = small.encode(image)
    assert bare.encode(image) == stream
    assert np.array_equal(bare.decode(stream), small.decode(stream))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 130), st.integers(1, 130))
def test_any_size_comes_back(height, width):
    codec = load_codec_once()
    image = np.full((height, width, 3), 120, np.uint8)
    assert codec.decode(codec.encode(image)).shape == image.shape


def load_codec_once(kept=[]):  # noqa: B006
    if not kept:
        kept.append(load_codec("hyperprior-small-hardened"))
    return kept[0]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_refused_and_have_a_layout(stream):
    codec = load_codec_once()
    assert sum(r.stop - r.start for r in codec.layout(stream)) == 8 * len(stream)
    with pytest.raises(DecodeError):
        codec.decode(stream)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s[:-1], "where the header announces"),
        (lambda s: s + b"x", "where the header announces"),
        (lambda s: bytes([s[0] ^ 1]) + s[1:], "not a frame"),
        (lambda s: s[:8] + bytes([s[8] ^ 1]) + s[9:], "fails its check"),
        (lambda s: s[:10], "too few for a header"),
        (lambda s: b"", "too few for a header"),
    ],
)
def test_a_damaged_frame_is_refused(small, image, damage, message):
    with pytest.raises(DecodeError, match=message):
        small.decode(damage(small.encode(image)))


def test_other_weights_are_refused(small, image, weights):
    stream = load_codec("mbt2018-mean", weights=weights("mbt2018-mean")).encode(image)
    with pytest.raises(DecodeError, match="written by a codec or weights"):
        small.decode(stream)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((8, 8), np.uint8), "uint8 array of 8 x 8: give uint8, height x width x 3$"),
        (np.zeros((8, 8, 4), np.uint8), "uint8 array of 8 x 8 x 4: give"),
        (np.zeros((8, 8, 3), np.uint16), "uint16"),
        (np.zeros((0, 8, 3), np.uint8), "each side has 1 to 65535"),
        (np.zeros((3000, 3000, 3), np.uint8), "above max_pixels"),
    ],
)
def test_an_image_that_is_refused(small, picture, message):
    with pytest.raises(EncodeError, match=message):
        small.encode(picture)


def test_absent_weights_say_where_they_go(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CodecUnavailable) as raised:
        load_codec("bmshj2018-hyperprior", quality=2)
    for words in (
        "bmshj2018-hyperprior-2-93677231.pth.tar",
        "about 20 MB",
        str(tmp_path),
        "weights=PATH",
        "weights=hub",
    ):
        assert words in str(raised.value)
    with pytest.raises(CodecUnavailable, match="zoo has no weights of elic2022"):
        load_codec("elic2022")


def test_a_file_that_holds_no_weights(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"nothing")
    with pytest.raises(CodecUnavailable, match="holds no weights that can be read"):
        load_codec("mbt2018-mean", weights=str(tmp_path / "x.pth"))
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "y.pth")
    with pytest.raises(CodecUnavailable, match="does not hold weights of mbt2018-mean"):
        load_codec("mbt2018-mean", weights=str(tmp_path / "y.pth"))
    with pytest.raises(CodecUnavailable, match="is not there"):
        load_codec("mbt2018-mean", weights=str(tmp_path / "z.pth"))


def test_code_in_a_file_of_weights_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CodecUnavailable, match="holds no weights that can be read"):
        load_codec("mbt2018-mean", weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("given_settings", [{"quality": 9}, {"quality": 0}, {"metric": "psnr"}])
def test_settings_out_of_range(given_settings, weights):
    with pytest.raises(ValueError, match="give"):
        load_codec("mbt2018-mean", weights=weights("mbt2018-mean"), **given_settings)


@pytest.mark.slow
def test_training_writes_what_the_codec_loads(tmp_path):
    from click.testing import CliRunner
    from PIL import Image

    from robustkit.priors.train_hyperprior import main

    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        for number, photograph in enumerate(photographs().values()):
            Image.fromarray(photograph).save(tmp_path / folder / f"{number}.png")
    out = tmp_path / "out.safetensors"
    for iterations in ("6", "10"):
        options = [
            "--iterations",
            iterations,
            "--widths",
            "8,12",
            "--batch",
            "2",
            "--every",
            "3",
            "--crop",
            "64",
        ]
        done = CliRunner().invoke(main, [str(tmp_path), "--out", str(out), *options], catch_exceptions=False)
        assert done.exit_code == 0
    assert "resumed at iteration 6" in done.output
    image = photographs()["coffee"]
    codec = load_codec("hyperprior-small-hardened", weights=str(out))
    assert codec.profile is None
    assert codec.decode(codec.encode(image)).shape == image.shape
