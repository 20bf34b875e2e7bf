"""Laws of channels: names that round-trip, unbiased and repeatable draws, a cost in proportion to the flips."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from robustkit import Layout, Region
from robustkit.channels import (
    BSC,
    CHANNELS,
    Burst,
    ByteErasure,
    GilbertElliott,
    Truncation,
    generator,
    ladders,
    parse,
)

rates = st.floats(0, 1)
parts = st.sampled_from([None, "header", "payload"])
bscs = st.builds(BSC, rates, region=parts)
gilbert_elliotts = st.builds(
    lambda share, stretch, bad, good: GilbertElliott(
        good * bad + share * bad * (1 - good), max(1.0, share / (1 - share) * 1.1) * stretch, bad, good * bad
    ),
    st.floats(0, 0.99),
    st.floats(1, 1e4),
    st.floats(0.01, 1),
    st.just(0.0) | st.floats(0, 0.5),
)
channels = st.one_of(
    bscs,
    gilbert_elliotts,
    st.builds(Burst, st.integers(1, 10**6), region=parts),
    st.builds(Truncation, st.floats(0, 1, exclude_max=True)),
    st.builds(ByteErasure, rates),
)


def header_of(bits: int, header: int) -> Layout:
    return Layout((Region("magic", 0, header, header=True),), bits)


def unlikely(hits: int, trials: int, rate: float) -> bool:
    return stats.binomtest(hits, trials, rate).pvalue < 1e-4


@given(channels)
def test_a_name_round_trips(channel):
    assert parse(str(channel)) == channel
    assert str(parse(str(channel))) == channel.name


@pytest.mark.parametrize(
    ("text", "channel", "name"),
    [
        ("bsc(ber=1e-3)", BSC(0.001), "bsc(ber=0.001)"),
        (" header-bsc ( ber = .01 ) ", BSC(0.01, region="header"), "header-bsc(ber=0.01)"),
        ("payload-burst(length=32)", Burst(32, region="payload"), "payload-burst(length=32)"),
        (
            "gilbert-elliott(burst=16,ber=1e-3)",
            GilbertElliott(0.001, 16),
            "gilbert-elliott(ber=0.001, burst=16)",
        ),
        (
            "gilbert-elliott(ber=0.1, burst=2.5, bad=1)",
            GilbertElliott(0.1, 2.5, 1),
            "gilbert-elliott(ber=0.1, burst=2.5, bad=1)",
        ),
        ("truncation(keep=0.5)", Truncation(0.5), "truncation(keep=0.5)"),
        ("byte-erasure(rate=1e-2)", ByteErasure(np.float64(0.01)), "byte-erasure(rate=0.01)"),
    ],
)
def test_names_have_one_canonical_spelling(text, channel, name):
    assert parse(text) == channel
    assert str(channel) == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bcs(ber=1)", "no channel is named 'bcs': did you mean bsc"),
        ("header-brust(length=3)", "did you mean header-burst"),
        ("header-truncation(keep=.1)", "no channel is named 'header-truncation'"),
        ("noise(x=1)", "known: bsc, burst, byte-erasure, gilbert-elliott"),
        ("bsc(bre=1)", "bsc has no parameter 'bre': did you mean ber"),
        ("bsc(region=header)", "no parameter 'region'"),
        ("bsc(0.1)", "no parameter '0.1': known: ber"),
        ("bsc()", "ber is missing"),
        ("gilbert-elliott(ber=0.1)", "burst is missing"),
        ("bsc(ber=1, ber=1)", "ber is given twice"),
        ("bsc(ber=high)", "ber = 'high' is not a number"),
        ("burst(length=1.5)", "length = '1.5' is not an integer"),
        ("bsc", "write it like bsc"),
        ("bsc(ber=1)(ber=1)", "can't be read"),
        ("__import__('os')(x=1)", "can't be read"),
        ("", "can't be read"),
        ("bsc(ber=1.1)", "ber = 1.1 is out of range: give 0 to 1"),
        ("bsc(ber=-0.1)", "out of range"),
        ("bsc(ber=nan)", "out of range"),
        ("burst(length=0)", "an integer of at least 1"),
        ("truncation(keep=1)", "cuts nothing off"),
        ("byte-erasure(rate=2)", "out of range"),
        ("gilbert-elliott(ber=0.5, burst=4)", "must be below bad = 0.5"),
        ("gilbert-elliott(ber=0.1, burst=0.5)", "at least 1"),
        ("gilbert-elliott(ber=0.1, burst=inf)", "at least 1"),
        ("gilbert-elliott(ber=0.4, burst=2)", "give burst = 4 or more"),
        ("gilbert-elliott(ber=0.1, burst=9, good=0.2)", "must be at least good = 0.2"),
        ("gilbert-elliott(ber=0.1, burst=9, good=2)", "good = 2.0 is out of range"),
    ],
)
def test_what_cannot_be_read_says_why(text, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        parse(text)


@given(channels, st.integers(0, 2000), st.integers(0, 5))
@example(GilbertElliott(ber=5e-324, burst=2.0, bad=1.0), 1, 0)
def test_damage_stays_in_the_stream_and_repeats(channel, length, trial):
    bits = 8 * length
    if isinstance(channel, (BSC, Burst)) and channel.region and bits < 16:
        channel = type(channel)(channel.severity if isinstance(channel, BSC) else channel.length)
    layout = header_of(bits, min(8, bits))
    rng = generator("codec", "image", str(channel), trial)
    pattern = channel.sample(bits, rng, layout)
    assert pattern.bits == bits
    assert (np.diff(pattern.flips) > 0).all()
    assert len(pattern.apply(bytes(length))) == (length if pattern.keep is None else pattern.keep)
    assert pattern == channel.sample(bits, generator("codec", "image", str(channel), trial), layout)


GOLDEN = {
    "bsc(ber=0.01)": ([23, 106, 131, 213, 238, 296, 351, 396, 421, 506, 675, 789], None),
    "header-bsc(ber=0.2)": ([3, 6, 15, 19, 20, 22, 35, 38, 39], None),
    "payload-bsc(ber=0.02)": ([90, 141, 233, 261, 278, 403, 422, 436, 469, 499, 528, 534, 657, 737], None),
    "gilbert-elliott(ber=0.02, burst=8)": ([102, 104, 106, 189, 288, 290, 291, 293], None),
    "burst(length=12)": ([19, 21, 24, 25, 26, 29, 30], None),
    "header-burst(length=6)": ([16, 17, 18, 21], None),
    "truncation(keep=0.25)": ([], 71),
    "byte-erasure(rate=0.05)": ([584, 585, 586, 587, 591, 753, 754, 757, 758, 759, 770, 771, 772], None),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_seeding_never_changes(name):
    pattern = parse(name).sample(800, generator("jpeg", "astronaut", name, 3, seed=7), header_of(800, 40))
    assert (pattern.flips.tolist(), pattern.keep) == GOLDEN[name]


def test_the_generator_is_philox_with_a_stable_key():
    rng = generator("jpeg", "astronaut", "bsc(ber=0.001)", 0)
    assert type(rng.bit_generator) is np.random.Philox
    assert rng.bit_generator.random_raw(2).tolist() == [7331082098076740465, 9075259578149120397]


def test_each_of_the_five_names_changes_the_draws():
    first = ("a", "bc", "d", 1, 0)
    variants = [
        first,
        ("ab", "c", "d", 1, 0),
        ("a", "b", "cd", 1, 0),
        ("a", "bc", "d", 11, 0),
        ("a", "bc", "d", 1, 1),
        ('a", "bc', "", "d", 1, 0),
    ]
    drawn = {generator(*names, seed=seed).random() for *names, seed in variants}
    assert len(drawn) == len(variants)


@pytest.mark.parametrize("ber", [1e-4, 0.003, 0.1, 0.5, 0.9])
def test_bsc_flips_each_bit_with_the_same_rate(ber):
    bits, trials = 1000, 400
    rng = generator("", "", "test", 0)
    flips = [BSC(ber).sample(bits, rng).flips for _ in range(trials)]
    assert not unlikely(sum(map(len, flips)), bits * trials, ber)
    # The counts must scatter as binomial ones do, and no place may be favoured.
    counts = np.array([len(f) for f in flips])
    spread = (trials - 1) * counts.var(ddof=1) / (bits * ber * (1 - ber))
    assert 1e-4 < stats.chi2.cdf(spread, trials - 1) < 1 - 1e-4
    first = sum(int((f < bits // 10).sum()) for f in flips)
    assert not unlikely(first, bits // 10 * trials, ber)


@pytest.mark.parametrize("rate", [0.003, 0.3])
def test_gaps_between_flips_are_geometric(rate):
    flips = BSC(rate).sample(3_000_000 if rate < 0.1 else 100_000, generator("", "", "gaps", 1)).flips
    gaps = np.diff(flips) - 1
    edges = np.unique(stats.geom.ppf(np.linspace(0.05, 0.95, 19), rate, loc=-1))
    shares = np.diff(stats.geom.cdf(np.concatenate([[-1], edges, [np.inf]]), rate, loc=-1))
    seen = np.bincount(np.searchsorted(edges, gaps), minlength=len(shares))
    assert stats.chisquare(seen, shares * len(gaps)).pvalue > 1e-4


def test_bsc_at_the_ends_of_its_range():
    rng = generator("", "", "ends", 0)
    assert BSC(0).sample(1000, rng).harmless
    assert len(BSC(1).sample(1000, rng).flips) == 1000


def test_bsc_costs_in_proportion_to_the_flips():
    bits = 10**9
    tracemalloc.start()
    try:
        flips = BSC(1e-6).sample(bits, generator("", "", "sparse", 0)).flips
        bursts = GilbertElliott(1e-6, 50).sample(bits, generator("", "", "sparse", 1)).flips
        layout = Layout((Region("magic", 0, 99, header=True), Region("size", 5000, 5032, header=True)), bits)
        payload = BSC(1e-6, region="payload").sample(bits, generator("", "", "sparse", 0), layout).flips
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not unlikely(len(flips), bits, 1e-6)
    assert not unlikely(len(payload), bits, 1e-6)
    assert 300 < len(bursts) < 3000
    assert peak < 4 << 20


@pytest.mark.parametrize(("ber", "burst", "bad"), [(0.01, 16, 0.5), (0.1, 8, 1), (0.4, 4, 0.5), (0.002, 1, 0.1)])
def test_gilbert_elliott_has_its_mean_rate_and_burst_length(ber, burst, bad):
    bits, trials = 4000, 300
    rng = generator("", "", "gilbert-elliott", 0)
    flips = [GilbertElliott(ber, burst, bad).sample(bits, rng).flips for _ in range(trials)]
    counts = np.array([len(f) for f in flips])
    off = (counts.mean() - bits * ber) / (counts.std(ddof=1) / trials**0.5)
    assert abs(off) < 4
    # Stationary from the first bit on.
    assert not unlikely(sum(0 in f[:1] for f in flips), trials, ber)
    # Within the bad state the next bit flips too with P(stay bad) * bad, beyond it by chance.
    to_good, share = 1 / burst, ber / bad
    to_bad = to_good * share / (1 - share)
    stay_bad = 1 - to_good
    pairs = sum(int((np.diff(f) == 1).sum()) for f in flips)
    expected = bits * trials * ber * stay_bad * bad
    assert to_bad <= 1 + 1e-9
    if expected > 1000:
        assert pairs == pytest.approx(expected, rel=0.1)
    else:
        assert pairs < 50


@pytest.mark.parametrize(
    ("ber", "burst", "bad", "good"), [(0.05, 16, 0.5, 0.01), (0.02, 8, 1, 0.019), (0.3, 9, 0.4, 0.2)]
)
def test_elliott_s_good_state_has_errors_too(ber, burst, bad, good):
    bits, trials = 4000, 300
    rng = generator("", "", "elliott", 0)
    flips = [GilbertElliott(ber, burst, bad, good).sample(bits, rng).flips for _ in range(trials)]
    counts = np.array([len(f) for f in flips])
    assert abs(counts.mean() - bits * ber) < 4 * counts.std(ddof=1) / trials**0.5
    # Both of two neighbours flip: within a state at its rate squared, across a change at both rates.
    share, to_good = (ber - good) / (bad - good), 1 / burst
    change = share * to_good
    stay_bad, stay_good = share - change, 1 - share - change
    expected = bits * trials * (stay_bad * bad**2 + stay_good * good**2 + 2 * change * bad * good)
    pairs = sum(int((np.diff(f) == 1).sum()) for f in flips)
    assert pairs == pytest.approx(expected, rel=0.1)


def test_without_bursts_the_good_state_is_a_symmetric_channel():
    flips = GilbertElliott(0.01, 8, good=0.01).sample(100_000, generator("", "", "none", 0)).flips
    assert not unlikely(len(flips), 100_000, 0.01)


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.booleans()).map(lambda t: (*sorted(t[:2]), t[2])),
        max_size=8,
    )
)
def test_the_parts_of_a_layout_are_its_bits(regions):
    layout = Layout(tuple(Region("x", *region) for region in regions), 60)
    header = {bit for start, stop, named in regions if named for bit in range(start, stop)}
    assert layout.bits_of(header=True).tolist() == sorted(header)
    assert layout.bits_of(header=False).tolist() == sorted(set(range(60)) - header)
    assert len(layout.part(header=True)) == len(header)


def test_a_solid_burst_has_geometric_length():
    flips = GilbertElliott(0.001, 20, bad=1).sample(4_000_000, generator("", "", "solid", 0)).flips
    ends = np.flatnonzero(np.diff(flips) > 1)
    lengths = np.diff(ends)
    assert lengths.mean() == pytest.approx(20, abs=4 * 20 / len(lengths) ** 0.5)


def test_a_burst_spans_its_length_anywhere():
    rng = generator("", "", "burst", 0)
    patterns = [Burst(9).sample(100, rng).flips for _ in range(2000)]
    assert {int(f[-1] - f[0]) for f in patterns} == {8}
    starts = np.bincount([f[0] for f in patterns], minlength=92)
    assert len(starts) == 92
    assert stats.chisquare(starts).pvalue > 1e-4
    assert not unlikely(sum(len(f) - 2 for f in patterns), 7 * 2000, 0.5)


def test_a_burst_longer_than_the_stream_hits_it_from_end_to_end():
    rng = generator("", "", "burst", 0)
    flips = Burst(1000).sample(64, rng).flips
    assert (flips[0], flips[-1]) == (0, 63)
    assert len(Burst(1).sample(8, rng).flips) == 1


def test_a_truncation_draws_any_cut_it_may():
    rng = generator("", "", "truncation", 0)
    kept = np.bincount([Truncation(0.3).sample(80, rng).keep for _ in range(2000)], minlength=10)
    assert kept[:3].sum() == 0
    assert len(kept) == 10
    assert stats.chisquare(kept[3:]).pvalue > 1e-4


def test_an_erased_byte_is_any_byte():
    rng = generator("", "", "erasure", 0)
    stream = bytes(20_000)
    damaged = np.frombuffer(ByteErasure(0.25).sample(160_000, rng).apply(stream), dtype=np.uint8)
    assert not unlikely(int((damaged > 0).sum()), 20_000, 0.25 * 255 / 256)
    seen = np.bincount(damaged, minlength=256)[1:]
    assert stats.chisquare(seen).pvalue > 1e-4


@pytest.mark.parametrize("channel", [BSC(0.5, region="header"), Burst(50, region="header")])
def test_a_part_of_the_stream_is_hit_alone(channel):
    regions = (Region("magic", 3, 20, header=True), Region("size", 90, 99, header=True))
    layout = Layout(regions, 400)
    header = set(layout.bits_of(header=True).tolist())
    rng = generator("", "", "parts", 0)
    hit = set()
    for _ in range(60):
        hit |= set(channel.sample(400, rng, layout).flips.tolist())
    assert hit == header
    payload = type(channel)(0.5 if isinstance(channel, BSC) else 50, region="payload")
    assert not header & set(payload.sample(400, rng, layout).flips.tolist())


def test_a_part_needs_a_layout_that_names_it():
    rng = generator("", "", "parts", 0)
    channel = BSC(0.5, region="header")
    with pytest.raises(ValueError, match=r"header-bsc\(ber=0.5\) needs the stream's layout"):
        channel.sample(80, rng)
    with pytest.raises(ValueError, match="layout is of 160 bits, the stream has 80"):
        channel.sample(80, rng, header_of(160, 8))
    with pytest.raises(ValueError, match="names no header bits"):
        channel.sample(80, rng, Layout((), 80))
    with pytest.raises(ValueError, match="names no payload bits"):
        Burst(3, region="payload").sample(80, rng, header_of(80, 80))
    with pytest.raises(ValueError, match="region = 'tail'"):
        BSC(0.5, region="tail")


@pytest.mark.parametrize("name", ["bsc(ber=0.5)", "gilbert-elliott(ber=0.1, burst=3)", "burst(length=3)"])
def test_an_empty_stream_takes_no_damage(name):
    assert parse(name).sample(0, generator("", "", "", 0)).harmless


def test_ladders_rise_in_damage_and_differ_in_nothing_else():
    names = [
        "bsc(ber=0.01)",
        "truncation(keep=0.9)",
        "bsc(ber=0.0001)",
        "header-bsc(ber=0.1)",
        "gilbert-elliott(ber=0.01, burst=16)",
        "truncation(keep=0.5)",
        "gilbert-elliott(ber=0.001, burst=16)",
        "gilbert-elliott(ber=0.001, burst=64)",
        "bsc(ber=0.01)",
    ]
    assert [[str(c) for c in rungs] for rungs in ladders(map(parse, names))] == [
        ["bsc(ber=0.0001)", "bsc(ber=0.01)"],
        ["truncation(keep=0.9)", "truncation(keep=0.5)"],
        ["header-bsc(ber=0.1)"],
        ["gilbert-elliott(ber=0.001, burst=16)", "gilbert-elliott(ber=0.01, burst=16)"],
        ["gilbert-elliott(ber=0.001, burst=64)"],
    ]


def test_every_kind_is_known_by_its_name():
    assert {kind: cls.kind for kind, cls in CHANNELS.items()} == {kind: kind for kind in CHANNELS}


def test_no_number_image_codec_channel_or_seed_draws_what_another_does():
    """Trials that repeat would be counted as if each said something new."""
    given = [("jpeg", "cat", "bsc(ber=0.5)", number, seed) for number in range(2000) for seed in (0, 1)]
    given += [(codec, "cat", "bsc(ber=0.5)", 0, 0) for codec in ("png", "jpeg ")]
    given += [("jpeg", image, "bsc(ber=0.5)", 0, 0) for image in ("dog", "ca")]
    given += [("jpeg", "cat", "bsc(ber=0.25)", 0, 0), ("jpeg", "cat", "bsc(ber=0.5)", 2**40, 0)]
    first = {generator(*names, seed=seed).integers(1 << 62) for *names, seed in given}
    assert len(first) == len(given)


def test_a_part_is_named_and_numbers_are_python_s_own():
    for kind, value in ((BSC, 0.5), (Burst, 3)):
        with pytest.raises(TypeError):
            kind(value, "header")
    assert type(Burst(np.int64(3)).length) is int
    assert type(BSC(np.float32(0.5)).ber) is float
    assert str(Burst(np.int64(3))) == "burst(length=3)"
