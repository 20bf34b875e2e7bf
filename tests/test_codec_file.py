"""Codecs in TOML files: two command lines, or a registered codec with settings; and workers of another interpreter."""

import contextlib
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustkit import CodecUnavailable, DecodeError, EncodeError, Outcome, UnknownCodec, load_codec, registry
from robustkit.codec_file import CodecFileError, read
from robustkit.isolation import CodecWorkers, Limits

EXAMPLES = Path(__file__).parent.parent / "examples"

# A codec of two programs: the stream is the PPM file itself; the decoder obeys the stream's first word.
ENCODER = """
import sys
image = open(sys.argv[1], "rb").read()
if len(image) < 100:
    sys.exit("too small")
open(sys.argv[2], "wb").write(b"fine" + image)
"""
DECODER = r"""
import os, shutil, signal, sys, time
stream = open(sys.argv[1], "rb").read()
order, image = stream[:4], stream[4:]
if order == b"deny":
    sys.exit("I refuse: a broken stream")
if order == b"odd ":
    sys.exit(3)
if order == b"segv":
    os.kill(os.getpid(), signal.SIGSEGV)
if order == b"hang":
    time.sleep(60)
if order == b"eats":
    whole = [b"x" * (1 << 20) for _ in range(100000)]
if order == b"talk":
    for _ in range(1000):
        print("words" * 1000)
if order == b"huge":
    with open(sys.argv[2], "wb") as file:
        file.truncate(1 << 40)
if order == b"none":
    sys.exit(0)
if order == b"oops":
    image[1 << 40]
if order == b"lack":
    raise MemoryError
if order == b"asan":
    print("=" * 65 + "\n==4711==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x1", file=sys.stderr)
    sys.exit(1)
if order == b"deep":
    head = b"P6\n20 12\n65535\n"
    image = head + bytes(20 * 12 * 6)
if order in (b"fifo", b"sock", b"fold", b"devi", b"gone"):
    {
        b"fifo": lambda: os.mkfifo(sys.argv[2]),
        b"sock": lambda: __import__("socket").socket(1).bind(os.path.basename(sys.argv[2])),
        b"fold": lambda: os.makedirs(sys.argv[2] + "/full/of/folders"),
        b"devi": lambda: os.symlink("/dev/zero", sys.argv[2]),
        b"gone": lambda: shutil.rmtree(os.path.dirname(os.path.dirname(sys.argv[2]))),
    }[order]()
    sys.exit(0)
if order == b"long":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with open(sys.argv[2], "wb") as file:
        file.truncate(1 << 40)
if order == b"warn":
    print("premature end of data")
    open(sys.argv[2], "wb").write(image)
    sys.exit(2)
if order == b"lies":
    sys.exit(2)
open(sys.argv[2], "wb").write(image)
"""


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


@pytest.fixture
def described(tmp_path):
    """A codec file of two Python programs; further lines are added to it."""
    (tmp_path / "encoder.py").write_text(ENCODER)
    (tmp_path / "decoder.py").write_text(DECODER)

    def write(more=""):
        path = tmp_path / "codec.toml"
        path.write_text(
            f"""
            name = "two-programs"
            encode = ["{sys.executable}", "{tmp_path}/encoder.py", "{{input}}", "{{output}}"]
            decode = "{sys.executable} {tmp_path}/decoder.py {{input}} {{output}}"
            image = ".ppm"
            decoded = ".ppm"
            {more}
            """
        )
        return str(path)

    return write


def test_a_file_of_two_command_lines_is_a_codec(described, image):
    codec = load_codec(described('family = "example"\nversion = "python3 --version"'))
    assert (codec.name, codec.family) == ("two-programs", "example")
    assert np.array_equal(codec.decode(codec.encode(image)), image)
    assert codec.describe()["python3"].startswith("Python 3")
    assert codec.profile is None


def test_the_encoder_may_refuse_an_image(described):
    with pytest.raises(EncodeError, match="too small"):
        load_codec(described()).encode(np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize(
    ("order", "outcome", "words"),
    [
        (b"fine", None, ""),
        (b"talk", None, ""),
        (b"deny", Outcome.REFUSED, "I refuse: a broken stream"),
        (b"odd ", Outcome.RAISED, "status 3, which is no refusal"),
        (b"segv", Outcome.CRASHED, "SIGSEGV"),
        (b"hang", Outcome.HUNG, "more than 1 s"),
        (b"eats", Outcome.EXHAUSTED, "of 200"),
        (b"huge", Outcome.EXHAUSTED, "more than 256 MiB"),
        (b"long", Outcome.EXHAUSTED, "more than 256 MiB"),
        (b"oops", Outcome.RAISED, "status 1, by an exception: Traceback"),
        (b"lack", Outcome.EXHAUSTED, "MemoryError"),
        (b"asan", Outcome.CRASHED, "AddressSanitizer: heap-buffer-overflow"),
        (b"deep", Outcome.MISSHAPEN, "16 bits a sample"),
        (b"fifo", Outcome.MISSHAPEN, "left a pipe where image.ppm belongs"),
        (b"sock", Outcome.MISSHAPEN, "left a socket where image.ppm belongs"),
        (b"fold", Outcome.MISSHAPEN, "left a folder where image.ppm belongs"),
        (b"devi", Outcome.MISSHAPEN, "left a device where image.ppm belongs"),
        (b"gone", Outcome.MISSHAPEN, "left no image.ppm"),
        (b"none", Outcome.MISSHAPEN, "left no image.ppm"),
    ],
)
def test_what_a_program_does_is_the_outcome(described, image, tmp_path, order, outcome, words):
    path = described('seconds = 1\nmemory = "200MiB"')
    with CodecWorkers(registry.get(path).spec(), directory=tmp_path / "streams") as workers:
        stream = workers.encode(image)
        before = workers.pids
        decoded = workers.decode(order + stream[4:], shape=image.shape[:2])
        assert (decoded.outcome, words in decoded.message) == (outcome, True), decoded.message
        # The worker lives on: the program was a process of its own.
        assert workers.pids == before
        assert np.array_equal(workers.decode(stream).image, image)


@pytest.mark.parametrize(
    ("order", "more", "outcome", "words"),
    [
        (b"warn", "", Outcome.RAISED, "status 2, which is no refusal: premature end"),
        (b"warn", "image_statuses = [0, 2]", None, ""),
        (b"deep", "reduce_depth = true", None, ""),
        (b"lies", "image_statuses = [2]", Outcome.MISSHAPEN, "ended with 2 and left no image.ppm"),
        (b"lies", "image_statuses = [2]\nrefused = [2]", Outcome.REFUSED, "status 2"),
        (b"lies", "image_statuses = [2]\nrefused = 'any'", Outcome.REFUSED, "status 2"),
        (b"warn", "image_statuses = [2]\nrefused = 'any'", None, ""),
        (b"warn", "refused = 'any'", Outcome.REFUSED, "premature end"),
        (b"odd ", "refused = 'any'", Outcome.REFUSED, "status 3"),
        (b"deny", "refused = []", Outcome.RAISED, "status 1, which is no refusal"),
        (b"oops", "refused = 'any'", Outcome.RAISED, "by an exception"),
        (b"oops", "image_statuses = [1]", Outcome.RAISED, "by an exception"),
        (b"segv", "refused = 'any'", Outcome.CRASHED, "SIGSEGV"),
    ],
)
def test_exit_statuses_are_what_the_file_says(described, image, tmp_path, order, more, outcome, words):
    with CodecWorkers(registry.get(described(more)).spec(), directory=tmp_path / "streams") as workers:
        stream = workers.encode(image)
        decoded = workers.decode(order + stream[4:], shape=image.shape[:2])
        assert (decoded.outcome, words in decoded.message) == (outcome, True), decoded.message
        if order == b"deep":
            assert decoded.image.shape == image.shape
        elif outcome is None:
            assert np.array_equal(decoded.image, image)
            (said,) = decoded.warnings
            assert "left an image and ended with status 2: premature end of data" in said


@pytest.mark.parametrize(
    ("status", "more", "outcome", "words"),
    [
        (139, "refused = 'any'", Outcome.CRASHED, "SIGSEGV below it (status 139)"),
        (139, "refused = [139]", Outcome.REFUSED, "status 139"),
        (134, "", Outcome.CRASHED, "SIGABRT"),
        (130, "refused = 'any'", Outcome.REFUSED, ""),
    ],
)
def test_a_shell_s_report_of_a_signal_is_a_crash(tmp_path, image, status, more, outcome, words):
    path = tmp_path / "codec.toml"
    path.write_text(
        f'name = "x"\nencode = ["cp", "{{input}}", "{{output}}"]\n'
        f'decode = ["sh", "-c", "exit {status}", "{{input}}", "{{output}}"]\n{more}'
    )
    with CodecWorkers(registry.get(str(path)).spec(), directory=tmp_path / "streams") as workers:
        decoded = workers.decode(workers.encode(image))
    assert (decoded.outcome, words in decoded.message) == (outcome, True), decoded.message


def test_a_size_that_is_not_the_images_is_misshapen(described, image, tmp_path):
    with CodecWorkers(registry.get(described()).spec(), directory=tmp_path / "streams") as workers:
        stream = workers.encode(image)
        decoded = workers.decode(stream.replace(b"20 12", b"12 20"), shape=(12, 20))
    assert decoded.outcome is Outcome.MISSHAPEN


def test_a_program_ends_with_its_worker(described, image, tmp_path):
    """A hanging program must not outlive the run that gave it up."""
    with CodecWorkers(
        registry.get(described()).spec(), directory=tmp_path / "streams", limits=Limits(seconds=0.5)
    ) as workers:
        stream = workers.encode(image)
        assert workers.decode(b"hang" + stream[4:]).outcome is Outcome.HUNG
    processes = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"{tmp_path}/decoder.py" not in processes


def test_a_file_may_promise(described):
    path = described(
        'quality = 5\n[profile]\nbpp = 30\nquality = 90\n[[profile.promises]]\nchannel = "bsc(ber=1e-3)"\n'
        "mean_drop = 1\np5_drop = 2"
    )
    assert load_codec(path).profile.promises[0].mean_drop == 1
    assert load_codec(path, quality=5).profile is not None
    assert load_codec(path, quality=6).profile is None


def test_a_borrowed_layout_names_the_fields():
    codec = load_codec("jpeg")
    stream = codec.encode(np.zeros((16, 16, 3), np.uint8))
    commands = {"name": "x", "encode": ["true"], "decode": ["true"], "layout": "jpeg"}
    borrowed = (
        registry.get("jpeg").target.__class__("robustkit.codecs.command", "CommandLine").resolve()(commands=commands)
    )
    assert borrowed.layout(stream) == codec.layout(stream)


def test_missing_programs_are_named(described):
    path = described('install = "apt install x"').replace("codec.toml", "other.toml")
    Path(path).write_text(
        'name = "x"\nencode = "no-such-encoder {input} {output}"\ndecode = "no-such-decoder {input} {output}"\n'
        'install = "apt install nothing"'
    )
    with pytest.raises(
        CodecUnavailable, match="no-such-encoder and no-such-decoder are not on the PATH: apt install noth"
    ):
        load_codec(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "Invalid value"),
        ('name = "x"', "encode is missing"),
        ('nmae = "x"', "unknown key 'nmae'; known: name, encode"),
        ('name = "x"\nencode = "a {input}"\ndecode = "b {input} {output}"', "encode = 'a {input}' has no {output}"),
        ('name = "x"\nencode = "a \'{input} {output}"\ndecode = "b"', "No closing quotation"),
        ('name = "x"\nencode = []\ndecode = "b"', "encode is empty"),
        ('name = "x"\nencode = 5\ndecode = "b"', "encode = 5: give a command line"),
        ("@\nimage = '.gif'", "image = '.gif': give one of .png"),
        ("@\nstream = 'webp'", "stream = 'webp': give an ending"),
        ("@\nseconds = 0", "seconds = 0: give a positive number"),
        ("@\nmemory = '5 potatoes'", "memory = '5 potatoes': write a size like 4GiB, 800MiB"),
        ("@\nmemory = '99999999999GiB'", "is more than any memory"),
        ("@\nrefused = [0]", "refused = [0]: give a list of exit statuses, 1 to 255, or 'any'"),
        ("@\nreduce_depth = 8", "reduce_depth = 8: give true or false"),
        ("@\nrefused = 'all'", "refused = 'all': give a list of exit statuses, 1 to 255, or 'any'"),
        ("@\nimage_statuses = [256]", "image_statuses = [256]: give a list of exit statuses, 0 to 255"),
        ("@\npython = 'no/such/python'", "is no program"),
        ("@\n[profile]\nbpp = 'x'", "bpp = 'x' is not a number"),
        ("codec = 'jpeg'\nname = 'x'", "unknown key 'name' beside codec"),
        ("codec = 'jpeg'\n[profile]\nbpp = 1\nquality = 2", "--profile FILE"),
        ("codec = 'jepg'", "no codec named 'jepg': did you mean jpeg"),
        ("codec = 'other.toml'", "give a registered codec"),
        ("codec = 'codec.toml+rs(255,223)'", "give a registered codec"),
        ("@\nlayout = 'codec.toml'", "layout = 'codec.toml': give a registered codec"),
        ("@\nlayout = 'codec.toml+rs(255,223)'", "give a registered codec"),
        ("@\npython = 'a\\u0000b'".replace("'", '"'), "without a null character"),
        ("@\nversion = 'a\\u0000b'".replace("'", '"'), "a null character can't be in a command line"),
        ("@\nseconds = inf", "seconds = inf: give a positive number"),
        ("x = " + "[" * 2000, "nested too deeply"),
        ("x = " + "[" * 200 + "]" * 200, "nested too deeply"),
        ("x = " + "9" * 5000, "digits"),
        ("x = 0x" + "f" * 5000, "digits"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "codec.toml"
    path.write_text(text.replace("@", 'name = "x"\nencode = "a {input} {output}"\ndecode = "b {input} {output}"'))
    with pytest.raises(UnknownCodec) as raised:
        registry.get(str(path))
    assert str(path) in str(raised.value.args[0])
    assert message in str(raised.value.args[0])


KEYS = (
    *("name", "encode", "decode", "family", "image", "stream", "decoded", "quality", "seconds", "memory", "refused"),
    *("layout", "version", "install", "python", "profile", "codec", "settings", "other"),
)
toml_words = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=6).map(json.dumps),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "[1]", "{}", "[{}]", "1979-05-27", '"a {input} {output}"', '"9007199254740993GiB"']),
    st.sampled_from(["9" * 400, "[" * 300, '"\\u0000"', '"codec.toml"', "{promises = [{}]}", "{bpp = 1, quality = 2}"]),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(st.sampled_from(KEYS), toml_words, max_size=6),
    whole=st.booleans(),
    tail=st.text(st.characters(codec="utf-8"), max_size=5),
)
def test_any_text_is_a_codec_or_a_reason(tmp_path, rows, whole, tail):
    path = tmp_path / "codec.toml"
    if whole:
        rows = {"name": '"x"', "encode": '"a {input} {output}"', "decode": '"b {input} {output}"', **rows}
    path.write_text("\n".join(f"{key} = {value}" for key, value in rows.items()) + f"\n{tail}", encoding="utf-8")
    with contextlib.suppress(UnknownCodec):
        assert registry.get(str(path)).name == str(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CodecFileError, match="No such file"):
        read(tmp_path / "nothing.toml")


def test_a_file_sets_up_a_registered_codec(tmp_path, image):
    path = tmp_path / "mine.toml"
    path.write_text('codec = "jpeg"\n[settings]\nquality = 7')
    assert load_codec(str(path)).describe()["settings"].startswith("quality=7 ")
    assert load_codec(f"{path}+rs(255,191)").inner.describe()["settings"].startswith("quality=7 ")


@pytest.fixture
def other_python(tmp_path):
    """Another environment's interpreter, with NumPy and nothing else."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    origin = Path(np.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (origin / name).exists():
            (site / name).symlink_to(origin / name)
    return folder / "bin" / "python"


def test_a_worker_may_run_under_another_interpreter(other_python, tmp_path, image):
    (tmp_path / "foreign.py").write_text(
        "import sys, numpy\n"
        "class Foreign:\n"
        "    name, family = 'foreign', 'example'\n"
        "    def encode(self, image): return bytes([image.shape[0]]) + image.tobytes()\n"
        "    def decode(self, stream):\n"
        "        from robustkit import DecodeError\n"
        "        if not stream: raise DecodeError('empty')\n"
        "        return numpy.frombuffer(stream[1:], 'u1').reshape(stream[0], -1, 3)\n"
        "    def describe(self): return {'prefix': sys.prefix, 'modules': ' '.join(sys.modules)}\n"
    )
    spec = (
        registry.get("jpeg")
        .spec()
        .__class__(
            "foreign",
            registry.get("jpeg").target.__class__("foreign", "Foreign", str(tmp_path / "foreign.py")),
            python=str(other_python),
        )
    )
    with CodecWorkers(spec, directory=tmp_path / "streams") as workers:
        facts = workers.describe()
        stream = workers.encode(image)
        assert np.array_equal(workers.decode(stream).image, image)
        assert workers.decode(b"").outcome is Outcome.REFUSED
    assert Path(facts["prefix"]).resolve() == other_python.parent.parent.resolve()
    assert "hypothesis" not in facts["modules"]


def test_a_codec_that_the_other_interpreter_lacks(other_python, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f'codec = "jpeg"\npython = "{other_python}"')
    with (
        pytest.raises(CodecUnavailable, match="PIL"),
        CodecWorkers(registry.get(str(path)).spec(), directory=tmp_path / "streams"),
    ):
        pass


@pytest.mark.parametrize("name", ["cwebp", "openjpeg", "cjxl"])
def test_the_examples_run_where_their_programs_are(name, tmp_path):
    described = read(EXAMPLES / f"{name}.toml")
    programs = [described.commands[key][0] for key in ("encode", "decode")]
    if absent := [p for p in programs if shutil.which(p) is None]:
        pytest.skip(f"{' and '.join(absent)} not installed: {described.commands['install']}")
    image = np.full((64, 64, 3), 90, np.uint8)
    codec = load_codec(str(EXAMPLES / f"{name}.toml"))
    stream = codec.encode(image)
    assert np.abs(codec.decode(stream).astype(int) - image).max() <= 2
    assert codec.layout(stream).bits_of(header=True).size
    with pytest.raises(DecodeError):
        codec.decode(stream[: len(stream) // 3])
