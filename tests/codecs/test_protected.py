"""Codecs under Reed-Solomon protection: what is repaired, what is refused, and what it costs."""

import contextlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robustkit import DecodeError, EncodeError, UnknownCodec, load_codec, registry
from robustkit.channels import BSC, Burst


class Plain:
    """The stream is the pixels."""

    name, family = "plain", "test"

    def encode(self, image):
        if image.shape[1] != 4:
            raise EncodeError("give 4 columns")
        return image.tobytes()

    def decode(self, bitstream):
        if len(bitstream) % 12:
            raise DecodeError("no whole row")
        return np.frombuffer(bitstream, np.uint8).reshape(-1, 4, 3)


@pytest.fixture(scope="module", autouse=True)
def plain():
    registry.register(Plain)
    yield
    registry._entries.pop("plain")


def picture(rows):
    return np.random.default_rng(rows).integers(0, 256, (rows, 4, 3), dtype=np.uint8)


CODES = st.tuples(st.integers(2, 255), st.integers(1, 254), st.integers(1, 20)).filter(lambda c: c[1] < c[0])


@settings(max_examples=30, deadline=None)
@given(CODES, st.integers(1, 60))
@example((255, 223, 16), 60)
def test_a_stream_comes_back(code, rows):
    n, k, depth = code
    codec = load_codec(f"plain+rs({n},{k})+interleave({depth})")
    image = picture(rows)
    stream = codec.encode(image)
    assert len(stream) == image.size + -(-image.size // k) * (n - k)
    assert np.array_equal(codec.decode(stream), image)
    layout = codec.layout(stream)
    assert [r.start for r in layout][1:] == [r.stop for r in layout][:-1]
    assert layout.bits == 8 * len(stream)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(0, 10**9), st.integers(1, 100))
def test_a_burst_within_the_bound_is_repaired_wherever_it_falls(depth, seed, rows):
    codec = load_codec(f"plain+rs(40,30)+interleave({depth})")
    image = picture(rows)
    stream = codec.encode(image)
    # A last group of fewer codewords than the depth repairs less.
    length = 8 * min(depth, len(stream) // 40 or 1) * 5 - 7
    rng = np.random.default_rng(seed)
    if len(stream) <= 40 * depth or len(stream) % (40 * depth) == 0:
        hit = Burst(length=length).sample(8 * len(stream), rng).apply(stream)
        assert np.array_equal(codec.decode(hit), image)


def test_more_errors_than_that_follow_the_policy():
    refuse, through = load_codec("plain+rs(40,30)"), load_codec("plain+rs(40,30)", uncorrectable="pass")
    image = picture(10)
    stream = bytearray(refuse.encode(image))
    for place in range(50, 56):
        stream[place] ^= 0xFF
    with pytest.raises(DecodeError, match="codeword 1 has more than 5 wrong bytes"):
        refuse.decode(bytes(stream))
    wrong = through.decode(bytes(stream)).reshape(-1) != image.reshape(-1)
    assert np.flatnonzero(wrong).tolist() == list(range(40, 46))


@pytest.mark.parametrize(("n", "k"), [(40, 30), (255, 223), (255, 191), (20, 15), (9, 6), (3, 1)])
def test_exactly_what_is_promised_is_repaired_and_one_byte_more_is_refused(n, k):
    """(n - k) / 2 wrong bytes wherever they are, in each codeword at once, the short last one included."""
    codec, image, rng = load_codec(f"plain+rs({n},{k})"), picture(60), np.random.default_rng(n)
    stream = codec.encode(image)
    most = (n - k) // 2
    starts = range(0, len(stream), n)

    def hit(wrong, among):
        damaged = np.frombuffer(stream, np.uint8).copy()
        for start in among:
            places = start + rng.choice(min(n, len(stream) - start), wrong, replace=False)
            damaged[places] ^= rng.integers(1, 256, wrong, dtype=np.uint8)
        return damaged.tobytes()

    said = []
    for _ in range(5):
        assert np.array_equal(codec.decode(hit(most, starts)), image)
        for start in (starts[0], starts[-1]):
            try:
                # A code of little distance may take another codeword for the right one, and then not give the image.
                assert not np.array_equal(codec.decode(hit(most + 1, [start])), image)
            except DecodeError as error:
                said.append((start // n, str(error)))
    assert len(said) >= (10 if n - k > 20 else 0)
    assert all(f"codeword {word} has more than {most} wrong bytes" in text for word, text in said)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_refused_or_decoded(stream):
    for policy in ("refuse", "pass"):
        codec = load_codec("plain+rs(20,15)+interleave(3)", uncorrectable=policy)
        codec.layout(stream)
        with contextlib.suppress(DecodeError):
            assert codec.decode(stream).dtype == np.uint8


def test_a_batch_refuses_what_it_must_and_decodes_the_rest():
    codec = load_codec("plain+rs(40,30)")
    image = picture(10)
    good, cut = codec.encode(image), codec.encode(image)[:-35]
    first, second, third = codec.decode_batch([good, cut, good])
    assert isinstance(second, DecodeError)
    assert np.array_equal(first, image)
    assert np.array_equal(third, image)


def test_protection_saves_what_a_bare_codec_loses():
    """At BER 1e-3 nearly every JPEG is hit; under rs(255,191) every one of these comes back whole."""
    image = np.random.default_rng(3).integers(90, 110, (64, 64, 3), dtype=np.uint8)
    bare, protected = load_codec("jpeg"), load_codec("jpeg+rs(255,191)")
    kinds = {bare: 0, protected: 0}
    for codec in kinds:
        stream, clean = codec.encode(image), codec.decode(codec.encode(image))
        for trial in range(30):
            hit = BSC(ber=1e-3).sample(8 * len(stream), np.random.default_rng(trial)).apply(stream)
            with contextlib.suppress(DecodeError):
                kinds[codec] += np.array_equal(codec.decode(hit), clean)
    assert kinds[bare] < 10
    assert kinds[protected] == 30


def test_regions_name_the_codeword_and_the_field():
    codec = load_codec("jpeg+rs(255,223)")
    layout = codec.layout(codec.encode(np.zeros((16, 16, 3), np.uint8)))
    assert layout.at(0).name == "codeword 0 SOI marker"
    assert layout.at(0).header
    assert layout.at(8 * 254).name == "codeword 0 parity"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jpeg+rs(255,255)", "rs(255,255): give 255 >= n > k >= 1"),
        ("jpeg+rs(256,3)", "give 255 >= n > k >= 1"),
        ("jpeg+rs(9,0)", "give 255 >= n > k >= 1"),
        ("jpeg+rs(9,3)+interleave(0)", "interleave(0): give 1 to 65536"),
    ],
)
def test_codes_that_do_not_exist(name, message):
    with pytest.raises(ValueError, match="give") as raised:
        load_codec(name)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["jpeg+rs(255)", "jpeg+ldpc(3)", "jpge+rs(255,223)"])
def test_names_that_are_none(name):
    with pytest.raises(UnknownCodec, match="did you mean"):
        load_codec(name)


def test_settings_reach_the_codec_within():
    codec = load_codec("jpeg+rs(255,223)", quality=9)
    assert codec.describe()["settings"].startswith("quality=9 ")
    with pytest.raises(ValueError, match="uncorrectable = 'hope': give refuse or pass"):
        load_codec("jpeg+rs(255,223)", uncorrectable="hope")
