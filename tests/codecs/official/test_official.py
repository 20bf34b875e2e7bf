"""Adapters to the authors' own code, against stand-ins that have its call signatures (``standins/README.md``)."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from suites import lean

from robustkit import CodecUnavailable, EncodeError, Outcome, load_codec, registry
from robustkit.codecs.frame import Frame
from robustkit.images import photographs
from robustkit.isolation import CodecWorkers

ROOT = Path(__file__).parents[3]
STANDINS = Path(__file__).parent / "standins"
NAMES = ("cdc", "hific", "ms-illm", "perco", "psc-official", "stablecodec")
#: cdc's imports take seconds in each process.
SLOW_TO_IMPORT = [pytest.param(name, marks=[pytest.mark.slow] if name == "cdc" else []) for name in NAMES]


def picture(name, height=200, width=170):
    """A photograph of that size, or of the one that the codec takes."""
    photograph = photographs()["coffee"]
    return photograph.repeat(2, axis=0).repeat(2, axis=1) if name == "psc-official" else photograph[:height, :width]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of each codec that make it run: a stand-in's folder, and files of weights."""
    folder = tmp_path_factory.mktemp("weights")
    scale = {"scale": torch.ones(1)}
    torch.save(scale, folder / "ms-illm.pth")
    arguments = {"normalize_input_image": True, "model_type": "compression_gan"}
    torch.save({"model_state_dict": scale, "args": arguments}, folder / "hific.pth")
    torch.save({"state_dict_codec": scale}, folder / "stablecodec.pth")
    torch.save({}, folder / "elic.pth")
    torch.save(
        {"ema": {"ema_model.denoise_fn.scale": torch.ones(1), "ema_model.context_fn.prior._medians": MEDIANS}},
        folder / "cdc.pth",
    )
    (folder / "perco").mkdir()
    (folder / "perco" / "model_index.json").write_text("{}")
    (folder / "psc-official" / "stabilityai" / "stable-diffusion-2-1-base").mkdir(parents=True)
    (folder / "sd-turbo" / "unet").mkdir(parents=True)
    (folder / "sd-turbo" / "unet" / "config.json").write_text("{}")

    def of(name):
        weights = folder / (name if name in ("perco", "psc-official") else f"{name}.pth")
        found = {"checkout": str(STANDINS / name), "weights": str(weights)}
        if name == "stablecodec":
            found |= {"elic": str(folder / "elic.pth"), "sd_turbo": str(folder / "sd-turbo")}
        return found

    return of


#: Settings that the stand-ins expect, and no files.
CHOSEN = {"perco": {"rate": 0.0313, "caption": "a cup of coffee"}, "cdc": {"steps": 5}}
MEDIANS = torch.full((1, 2, 1, 1), 0.25)


@pytest.fixture(scope="module")
def workers(settings, tmp_path_factory):
    """A codec on its stand-in in a worker of its own: the authors' modules collide with one another's.

    Loading takes seconds, so tests share the worker.
    """
    opened = {}

    def start(name, **more):
        key = name, *more.items()
        if key not in opened:
            chosen = {**settings(name), **CHOSEN.get(name, {}), **more}
            opened[key] = CodecWorkers(registry.get(name).spec(**chosen), directory=tmp_path_factory.mktemp("streams"))
        return opened[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STANDINS))
        yield start
    for pool in opened.values():
        pool.close()


@pytest.fixture(autouse=True, scope="module")
def with_packages(tmp_path_factory):
    """Empty modules in place of the packages that are named and not installed."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ("autograd", "einops", "lpips", "peft", "torchac", "transformers", "vector_quantize_pytorch"):
        if importlib.util.find_spec(name) is None:
            (folder / f"{name}.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield


@pytest.mark.parametrize("name", SLOW_TO_IMPORT)
def test_the_published_functions_are_called_as_published(name, workers):
    image = picture(name)
    pool = workers(name)
    stream = pool.encode(image)
    decoded = pool.decode(stream, shape=image.shape[:2])
    assert decoded.outcome is None, decoded.message
    block = 16 if name == "psc-official" else 8
    rows, columns = (side // block for side in image.shape[:2])
    blocks = image[: rows * block, : columns * block].reshape(rows, block, columns, block, 3).mean(axis=(1, 3))
    shown = decoded.image[: rows * block : block, : columns * block : block]
    assert np.abs(shown.astype(float) - blocks).max() <= (8 if name == "cdc" else 1.5)
    assert pool.attributes.family == "generative"
    assert str(STANDINS / name) in pool.describe()["checkout"]


@pytest.mark.parametrize("name", SLOW_TO_IMPORT)
def test_what_the_authors_code_raises_is_an_outcome_and_a_wrong_frame_a_refusal(name, workers):
    image = picture(name, 192, 192)
    pool = workers(name)
    stream = pool.encode(image)
    layout = pool.layout(stream)
    assert [r.name for r in layout if not r.header] == list(registry.get(name).target.resolve().parts)
    header = layout.bits_of(header=True)
    damaged = np.frombuffer(stream, np.uint8).copy()
    damaged[header[-1] // 8] ^= 1
    assert pool.decode(damaged.tobytes()).outcome is Outcome.REFUSED
    assert pool.decode(stream[:-1]).outcome is Outcome.REFUSED
    assert pool.decode(b"").outcome is Outcome.REFUSED
    # A frame that is whole around a part of another length: the network's own business.
    identity = stream[3:7]
    frame = Frame.unpack(stream, identity=identity, writer=name, max_pixels=1 << 22)
    size = image.shape[:2]
    parts = tuple(part[:-4] if len(part) > 40 else part for part in frame.parts)
    # cdc's guarded coder finds zeros there, and psc's adapter knows how many measurements there are.
    expected = {"cdc": (None,), "psc-official": (Outcome.REFUSED,)}.get(name, (Outcome.RAISED,))
    assert pool.decode(Frame(identity, *size, parts).pack()).outcome in expected
    assert pool.decode(Frame(identity, *size, (*parts, b"more")).pack()).outcome is Outcome.REFUSED
    assert pool.decode(stream).image is not None


def test_perco_unpacks_no_caption_that_is_damaged_or_endless(workers):
    pool = workers("perco")
    stream = pool.encode(picture("perco", 64, 64))
    frame = Frame.unpack(stream, identity=stream[3:7], writer="", max_pixels=1 << 22)
    for caption in (b"not zlib", zlib.compress(b"\xff"), zlib.compress(bytes(10**8))):
        decoded = pool.decode(Frame(frame.identity, 64, 64, (caption, frame.parts[1])).pack())
        # The stand-in takes one caption alone, which four thousand zeros are not.
        assert decoded.outcome in (Outcome.REFUSED, Outcome.RAISED)
        assert "damaged" in decoded.message or "AssertionError" in decoded.message


def test_psc_takes_one_size(workers):
    with pytest.raises(EncodeError, match="512x512 alone: crop"):
        workers("psc-official").encode(picture("hific"))


def test_hific_refuses_half_words(workers):
    pool = workers("hific")
    stream = pool.encode(photographs()["coffee"])
    frame = Frame.unpack(stream, identity=stream[3:7], writer="", max_pixels=1 << 22)
    halved = Frame(frame.identity, 256, 256, (frame.parts[0], frame.parts[1][:-2])).pack()
    decoded = pool.decode(halved)
    assert (decoded.outcome, "whole words" in decoded.message) == (Outcome.REFUSED, True)


@pytest.mark.parametrize(("name", "side"), [("hific", 64), ("ms-illm", 32), ("stablecodec", 128)])
def test_an_image_too_small_for_the_network(name, side, workers):
    with pytest.raises(EncodeError, match=f"sides of {side + 1} pixels or more"):
        workers(name).encode(np.zeros((side, 300, 3), np.uint8))


@pytest.mark.parametrize("name", SLOW_TO_IMPORT)
def test_what_is_missing_is_named_in_turn(name, settings, tmp_path):
    given = settings(name)
    with pytest.raises(CodecUnavailable, match=r"git clone https://github.com/.* --set checkout=FOLDER; and give "):
        load_codec(name)
    with pytest.raises(CodecUnavailable, match="is no folder: git clone"):
        load_codec(name, checkout=str(tmp_path / "none"))
    for place in [key for key in given if key != "checkout"]:
        with pytest.raises(CodecUnavailable, match=f"--set {place}=PATH"):
            load_codec(name, **{key: value for key, value in given.items() if key != place})
        with pytest.raises(CodecUnavailable, match=f"{place} = .* is not there"):
            load_codec(name, **{**given, place: str(tmp_path / "none")})


def test_a_checkout_of_something_else_says_what_failed(workers, tmp_path):
    with pytest.raises(CodecUnavailable, match=r"ms-illm.*neuralcompression.*signatures were read at .* 3f122808"):
        workers("ms-illm", checkout=str(tmp_path))


def test_pickled_weights_are_not_trusted(workers, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"args": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CodecUnavailable, match="trust_weights=true"):
        workers("ms-illm", weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_suite_runs_on_it(name, settings, tmp_path):
    """The whole way: a codec file, workers, the frame, the checks."""
    chosen = settings(name) | CHOSEN.get(name, {})
    lines = [f'codec = "{name}"', "[settings]", *(f"{k} = {json.dumps(v)}" for k, v in chosen.items())]
    (tmp_path / f"{name}.toml").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pytest", str(ROOT / "conformance"), "--codec", str(tmp_path / f"{name}.toml")]
    for title, photograph in list(photographs().items())[:2]:
        grown = photograph.repeat(2, axis=0).repeat(2, axis=1) if name == "psc-official" else photograph[:192, :192]
        Image.fromarray(grown).save(tmp_path / f"{title}.png")
    more = [
        "-k",
        # What other platforms and other places do is for the suite's own tests: it takes many processes.
        "not golden and not survives and not platform and not ulp",
        "--robustkit-images",
        str(tmp_path),
        *lean(),
        "--rootdir",
        str(tmp_path),
    ]
    search = [str(STANDINS), *filter(None, [os.environ.get("PYTHONPATH")]), *(p for p in sys.path if "packages" in p)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    done = subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # One takes images of one size alone, and a larger one takes long on a busy machine.
    assert re.search(rf"{name}\.toml: not certified: (1[01]) of \1 claims hold", done.stdout), done.stdout
