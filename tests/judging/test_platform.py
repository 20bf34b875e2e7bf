"""Cross-platform decode and jitter: a decoder that hangs on floats is found, a sound one passes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from textwrap import dedent

import numpy as np
import pytest
from suites import CONFORMANCE, lean

from robustkit.isolation import Decoded
from robustkit.judging import crossplatform, jitter
from robustkit.judging.crossplatform import Arithmetic, Match, apart, compared
from robustkit.judging.jitter import AMOUNTS, Shaker
from robustkit.judging.trial import Clean
from robustkit.layout import Layout
from robustkit.outcome import Outcome
from robustkit.registry import CodecSpec, CodecUnavailable, Target

PICTURE = np.random.default_rng(4).integers(30, 220, (16, 16, 3)).astype(np.uint8)
NOISE = np.random.default_rng(5).integers(0, 256, PICTURE.shape, np.uint8)

#: Two codecs whose decoders compute with torch. The stream of one is its pixels, masked by what a network's floats are
#: to the last bit; the other's is plain, and floats only scale the picture.
CODECS = dedent(
    '''
    import numpy as np
    import torch
    from robustkit import Codec, DecodeError

    GENERATOR = torch.Generator().manual_seed(3)
    IMAGES = torch.randint(-1000, 1000, (1, 8, 32, 32), generator=GENERATOR) / 777
    WEIGHTS = torch.randint(-1000, 1000, (8, 8, 3, 3), generator=GENERATOR) / 777


    class Sound(Codec):
        """Sends pixels, and brightens and darkens them again by floats."""

        name = "sound"
        family = "test"

        def mask(self, count):
            return np.zeros(count, np.uint8)

        def encode(self, image):
            pixels = np.ascontiguousarray(image).reshape(-1)
            return np.array(image.shape[:2], ">u2").tobytes() + (pixels ^ self.mask(len(pixels))).tobytes()

        def decode(self, bitstream):
            height, width = (int(n) for n in np.frombuffer(bitstream[:4].ljust(4, b"\\0"), ">u2"))
            pixels = np.frombuffer(bitstream[4:], np.uint8)
            if not len(pixels) or len(pixels) != 3 * height * width:
                raise DecodeError("another size")
            image = torch.from_numpy(pixels ^ self.mask(len(pixels))).float().div(255).exp().log().mul(255)
            return image.round().clamp(0, 255).to(torch.uint8).numpy().reshape(height, width, 3)


    class Swaying(Sound):
        """Takes what comes next from floats, as an entropy coder does that a network drives."""

        name = "swaying"

        def mask(self, count):
            with torch.inference_mode():
                found = torch.nn.functional.silu(torch.conv2d(IMAGES, WEIGHTS, padding=1) / 50)
            last = int(found.contiguous().view(torch.int32).sum())
            return np.random.default_rng(abs(last)).integers(0, 256, count, dtype=np.uint8)
    '''
)


@pytest.mark.slow
def test_a_decoder_that_hangs_on_floats_is_found_and_a_sound_one_passes(tmp_path):
    if crossplatform.capabilities() == ("default",):
        pytest.skip("this processor has no instructions that PyTorch could leave aside")
    (tmp_path / "mine.py").write_text(CODECS)
    codecs = "mine:Sound,mine:Swaying"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(CONFORMANCE / "test_platform.py"), "--codec", codecs, "--junitxml=j.xml",
         "--robustkit-crop=32", *lean("-q", f"--rootdir={tmp_path}")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[tuple[str, str], list[dict]] = {}
    for entry in ElementTree.parse(tmp_path / "j.xml").iter("property"):
        if entry.attrib["name"] == "robustkit":
            line = json.loads(entry.attrib["value"])
            found.setdefault((line["codec"], line["claim"]), []).append(line)
    platforms, jitters = "decode.cross-platform", "decode.jitter"
    assert {line["verdict"] for line in found["mine:Sound", platforms]} == {"kept"}
    rows = [line["severity"] for line in found["mine:Sound", platforms]]
    assert rows[:1] == ["default, 1 thread"]
    assert rows[-1:] == ["default, 2 threads, no oneDNN"]
    first, *more = found["mine:Sound", jitters]
    assert (first["severity"], first["verdict"]) == ("1 ulp", "kept")
    assert first["numbers"]["operations"] == 4.0
    assert [line["verdict"] for line in more] == ["noted"]
    assert "broken" in {line["verdict"] for line in found["mine:Swaying", platforms]}
    (line,) = found["mine:Swaying", jitters]
    assert (line["severity"], line["verdict"]) == ("1 ulp", "broken")
    assert "up to 2" in line["measured"]
    assert line["numbers"]["loss"] > 10
    assert "robustkit exchange make" in done.stdout


def test_where_torch_is_there_and_the_floats_are_not_its_own_nothing_is_said(tmp_path):
    (tmp_path / "mine.py").write_text(
        dedent(
            """
            import numpy as np
            import torch
            from robustkit import Codec


            class Aside(Codec):
                name = "aside"
                family = "test"

                def encode(self, image):
                    return bytes(image.shape[:2]) + image.tobytes()

                def decode(self, bitstream):
                    height, width, *rest = bitstream
                    pixels = np.array(rest, np.uint8)
                    found = np.exp(np.log(pixels + 1.0)) - 1
                    return found.round().astype(np.uint8).reshape(height, width, 3)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(CONFORMANCE / "test_platform.py"), "--codec", "mine:Aside", "-k", "ulp",
         "--robustkit-crop=32", *lean("-q", "-rs", f"--rootdir={tmp_path}")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "no result of torch's is a float, and no other library's floats can be jittered" in done.stdout, done.stdout
    assert "1 skipped" in done.stdout


# -- which arithmetics there are ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse sse2", ("default",)),
        ("fpu avx2 fma", ("default", "avx2")),
        ("fpu avx2", ("default",)),
        ("avx2 fma avx512f avx512bw avx512dq avx512vl", ("default", "avx2", "avx512")),
        ("avx2 fma avx512f", ("default", "avx2")),
    ],
)
def test_the_capabilities_are_those_of_the_processor(monkeypatch, tmp_path, flags, expected):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\nflags\t\t: {flags}\n\nprocessor : 1\n")
    monkeypatch.setattr(crossplatform, "_CPUINFO", file)
    monkeypatch.setattr(crossplatform.platform, "machine", lambda: "x86_64")
    assert crossplatform.capabilities() == expected
    monkeypatch.setattr(crossplatform.platform, "machine", lambda: "aarch64")
    assert crossplatform.capabilities() == ("default",)
    monkeypatch.setattr(crossplatform.platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(crossplatform, "_CPUINFO", tmp_path / "absent")
    assert crossplatform.capabilities() == ("default",)


def test_the_gpu_comes_second_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setattr(crossplatform, "capabilities", lambda: ("default", "avx2"))
    monkeypatch.setattr(crossplatform, "_GPU", tmp_path / "absent")
    assert crossplatform.places() == ["default", "avx2"]
    monkeypatch.setattr(crossplatform, "_GPU", tmp_path)
    assert crossplatform.places() == ["default", "cuda", "avx2"]
    # What was decoded there is held against the processor.
    assert crossplatform.places("cuda") == ["default", "avx2"]


def test_variables_leave_instructions_aside():
    least, most = crossplatform.variables("default"), crossplatform.variables("avx512")
    assert (least["ATEN_CPU_CAPABILITY"], most["ATEN_CPU_CAPABILITY"]) == ("default", "avx512")
    assert least["ONEDNN_MAX_CPU_ISA"] == "SSE41"
    assert "NPY_DISABLE_CPU_FEATURES" not in most
    code = "import numpy as np; print(np.arange(4.0) @ np.arange(4.0))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=least, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("14.0\n", "")


def test_the_codec_is_put_on_another_device():
    spec = CodecSpec("a", Target("m", "A"), {"quality": 3, "device": "cuda"})
    assert crossplatform.on_device(spec, "cpu").settings == {"quality": 3}
    assert crossplatform.on_device(crossplatform.on_device(spec, "cpu"), "cuda").settings == spec.settings


def test_an_arithmetic_in_words():
    assert str(Arithmetic("default")) == "default"
    assert str(Arithmetic("avx2", True, 1)) == "avx2, 1 thread"
    assert str(Arithmetic("avx2", False, 2)) == "avx2, 2 threads, no oneDNN"


# -- what two decodes are to each other -----------------------------------------------------------------------


def changed(by: int, count: int) -> np.ndarray:
    image = PICTURE.copy()
    image.reshape(-1)[:count] += np.uint8(by)
    return image


@pytest.mark.parametrize(
    ("image", "tolerance", "match", "text"),
    [
        (PICTURE, (0, 0), Match.SAME, "same pixels"),
        (changed(1, 1), (0, 0), Match.DESYNCHRONISED, "desynchronised: up to 1 grey level, 0.0013 on average"),
        (changed(2, 8), (2, 0.05), Match.WITHIN, "up to 2 grey levels, 0.0208 on average"),
        (changed(3, 1), (2, 0.05), Match.DESYNCHRONISED, "desynchronised: up to 3 grey levels, 0.00391 on average"),
        (changed(1, 40), (2, 0.05), Match.DESYNCHRONISED, "desynchronised: up to 1 grey level, 0.0521 on average"),
        (PICTURE[:8], (255, 255), Match.DESYNCHRONISED, "desynchronised: an image of 8 x 16"),
    ],
)
def test_images_are_held_against_each_other(image, tolerance, match, text):
    found = apart(PICTURE, image, tolerance)
    assert (found.match, str(found)) == (match, text)


@pytest.mark.parametrize(
    ("outcome", "match"),
    [
        (Outcome.REFUSED, Match.DESYNCHRONISED),
        (Outcome.CRASHED, Match.DESYNCHRONISED),
        (Outcome.RAISED, Match.DESYNCHRONISED),
        (Outcome.HUNG, Match.UNDECIDED),
        (Outcome.EXHAUSTED, Match.UNDECIDED),
    ],
)
def test_no_image_is_no_agreement(outcome, match):
    found = compared(PICTURE, Decoded(None, outcome, "why\nand where"), (255, 255))
    assert (found.match, str(found)) == (match, f"{match}: {outcome}: why")


# -- one process after the other ------------------------------------------------------------------------------


class Pool:
    """Stands for a process with the hook: decodes to what ``image`` says of the settings."""

    def __init__(self, image, *, torch="2", applied=True, seconds=0.01, operations=9, device="cpu"):
        self.image, self.seconds, self.operations, self.torch = image, seconds, operations, torch
        self.settings: dict = {}
        self.given: list[dict] = []
        self.decodes = 0
        self.first = applied
        self.closed = False
        self.attributes = type("Attributes", (), {"device": device})()

    def hook(self, **settings):
        if settings:
            self.settings = settings
            self.given.append(settings)
        applied = self.torch is not None and (self.first or self.decodes > 1)
        return {"torch": self.torch, "applied": applied, "operations": self.operations}

    def decode(self, stream, *, shape):
        self.decodes += 1
        found = self.image(self.settings)
        if isinstance(found, Outcome):
            return Decoded(None, found, "why", self.seconds)
        return Decoded(found, None, "", self.seconds)

    def close(self):
        self.closed = True


STREAMS = [(b"x", (16, 16))]


def test_a_process_decodes_with_and_without_onednn_and_with_one_and_two_threads():
    pool = Pool(lambda s: PICTURE)
    found = [str(arithmetic) for arithmetic, _ in crossplatform.decodes(pool, "avx2", STREAMS)]
    assert found == [
        "avx2, 1 thread",
        "avx2, 2 threads",
        "avx2, 1 thread, no oneDNN",
        "avx2, 2 threads, no oneDNN",
    ]
    assert pool.given == [{"onednn": o, "threads": t} for o, t in ((True, 1), (True, 2), (False, 1), (False, 2))]
    assert pool.decodes == 4


def test_a_slow_decoder_has_two_rows_and_a_late_import_is_decoded_again():
    pool = Pool(lambda s: PICTURE, seconds=2.0, applied=False)
    found = [str(arithmetic) for arithmetic, _ in crossplatform.decodes(pool, "avx2", STREAMS)]
    assert found == ["avx2, 1 thread", "avx2, 2 threads, no oneDNN"]
    assert pool.decodes == 3


def test_without_torch_one_process_is_enough():
    pools = {"default": Pool(lambda s: PICTURE, torch=None), "avx2": Pool(lambda s: PICTURE, torch=None)}
    found = list(crossplatform.matrix(["default", "avx2"], pools.get, STREAMS))
    assert [str(arithmetic) for arithmetic, _ in found] == ["default"]
    assert pools["avx2"].decodes == 0


def test_a_gpu_that_the_codec_has_no_use_for_is_left_out():
    def open_in(place):
        if place == "cuda":
            raise CodecUnavailable("takes no device")
        return Pool(lambda s: PICTURE, seconds=1.0)

    def idle(place):
        return Pool(lambda s: PICTURE, seconds=1.0)

    def there(place):
        return Pool(lambda s: PICTURE, seconds=1.0, device=place)

    for opener, expected in ((open_in, 0), (idle, 0), (there, 1)):
        found = [str(a) for a, _ in crossplatform.matrix(["default", "cuda", "avx2"], opener, STREAMS)]
        assert found.count("cuda") == expected
        assert len(found) == 4 + expected
    with pytest.raises(CodecUnavailable):
        list(crossplatform.matrix(["cuda"], open_in, STREAMS))


# -- jitter ---------------------------------------------------------------------------------------------------


def clean() -> Clean:
    decoded = Decoded(PICTURE, None)
    return Clean("a", changed(4, 700), b"x", Layout((), 8), decoded, {})


def shaken(image, *, seeds=3, **more):
    pool = Pool(image, **more)
    return Shaker(pool, [clean()], (2.0, 0.05), seeds).run(), pool


def amount(settings) -> float:
    return max(settings.get("ulps", 0) * 1e-7, settings.get("relative", 0.0))


def test_whoever_keeps_in_step_with_the_most_jitter_is_asked_no_more():
    found, pool = shaken(lambda s: PICTURE)
    assert [s.difference.match for s in found.least] == [Match.SAME] * 3
    assert (found.beyond, found.lost, found.operations) == (None, None, 9)
    assert str(found.most.amount) == "1e-3"
    assert pool.given == [{"ulps": 0}, *({"ulps": 1, "relative": 0.0, "seed": n} for n in range(3)), pool.given[-1]]


@pytest.mark.parametrize("least", AMOUNTS[1:])
def test_the_least_jitter_that_desynchronises_is_found(least):
    limit = amount({"ulps": least.ulps, "relative": least.relative})
    found, _ = shaken(lambda s: NOISE if amount(s) >= limit else PICTURE)
    assert found.lost.amount == found.beyond.amount == least
    assert found.lost.loss > 5
    assert str(found.lost).startswith("up to ")


def test_a_drift_is_no_loss_of_the_way():
    found, _ = shaken(lambda s: changed(3, 1) if amount(s) >= 1e-5 else PICTURE)
    assert (str(found.beyond.amount), found.lost) == ("1e-5", None)
    assert not found.beyond.lost
    assert abs(found.beyond.loss) < 0.1


def test_the_least_that_strays_and_the_least_that_loses_the_way_are_found_by_halving():
    found, pool = shaken(
        lambda s: changed(50, 300) if amount(s) >= 1e-4 else changed(3, 1) if amount(s) >= 1e-6 else PICTURE, seeds=1
    )
    assert (str(found.beyond.amount), str(found.lost.amount)) == ("1e-6", "1e-4")
    assert not found.beyond.lost
    # Without jitter, the least, the most; then what strays, and what loses its way.
    assert [amount(s) for s in pool.given] == [0.0, 1e-7, 1e-3, 1e-6, 4e-7, 1e-4, 1e-5]


def test_one_ulp_that_is_too_much_shows_in_any_seed():
    found, pool = shaken(lambda s: Outcome.CRASHED if s.get("ulps") == 1 and s["seed"] == 2 else PICTURE)
    assert found.worst.seed == 2
    assert found.worst.difference.match is Match.DESYNCHRONISED
    assert math.isinf(found.lost.loss)
    assert pool.decodes == 4


def test_where_torch_is_missing_nothing_is_jittered():
    found, pool = shaken(lambda s: PICTURE, torch=None)
    assert (found.torch, found.least, pool.decodes) == (False, [], 1)


def test_without_a_float_there_is_no_more_to_try():
    found, pool = shaken(lambda s: PICTURE, operations=0)
    assert (found.operations, len(found.least), pool.decodes) == (0, 3, 4)


def test_slow_decoders_have_fewer_seeds_and_what_hangs_is_undecided():
    found, _ = shaken(lambda s: PICTURE, seeds=8, seconds=1.0)
    assert len(found.least) == 2
    found, _ = shaken(lambda s: Outcome.HUNG if s["ulps"] else PICTURE)
    assert (found.least, found.undecided) == ([], "with jitter of 1 ulp undecided: hung: why")
    found, _ = shaken(lambda s: Outcome.HUNG)
    assert (found.astray, found.undecided) == (False, "without jitter undecided: hung: why")
    found, pool = shaken(lambda s: changed(50, 300))
    assert (found.astray, found.least, pool.decodes) == (True, [], 1)


def test_the_amounts_rise():
    sizes = [max(a.ulps, a.relative / np.finfo(np.float32).eps) for a in AMOUNTS]
    assert sizes == sorted(set(sizes))
    assert str(AMOUNTS[0]) == "1 ulp"
    assert jitter.LOST == 1.0
