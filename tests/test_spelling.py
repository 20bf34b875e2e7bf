"""How people spell things: whatever the text is, it gives a value or a SpellingError."""

from __future__ import annotations

import contextlib
import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import RobustkitError
from robustkit.spelling import SpellingError, names, nearest, settings, settings_of, size, toml_value

#: Text as a command line may give it, and text that comes near to being read.
TEXT = st.one_of(
    st.text(),
    st.text(alphabet="[]{}()=:,.\"'#\n 019eEx_-kKiBb", max_size=40),
    st.from_regex(r"[0-9]+(\.[0-9]+)?\s*([KMG]i?B?|B)?", fullmatch=True),
)
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)
NAMES = st.sampled_from(["jpeg", "pkg.mod:Codec", "pkg.mod", "jpeg+rs(255,223)", "q=80.toml", "webp"])


def test_a_spelling_error_is_a_robustkit_error():
    assert issubclass(SpellingError, RobustkitError)
    assert issubclass(SpellingError, ValueError)


# --- values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80", 80),
        ("1.5", 1.5),
        ("false", False),
        ('"80"', "80"),
        ("[1, [2, 3]]", [1, [2, 3]]),
        ("{a = 1}", {"a": 1}),
        ("4:4:4", "4:4:4"),
        ("tolerate", "tolerate"),
        ("True", "True"),
        ("", ""),
        ("1979-13-45", "1979-13-45"),
        ("1\nother = 2", "1\nother = 2"),
        ("[1,\n2]", [1, 2]),
    ],
)
def test_a_value_is_toml_s_or_else_the_text(text, value):
    found = toml_value(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text", ["[" * 2000, "[" * 2000 + "]" * 2000, "{a=" * 2000, "9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000]
)
def test_a_hostile_value_is_an_error_that_can_be_read(text):
    with pytest.raises(SpellingError) as caught:
        toml_value(text)
    assert len(str(caught.value)) < 200


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False), st.lists(st.integers())))
def test_values_come_back_as_toml_writes_them(value):
    text = str(value).lower() if isinstance(value, bool) else str(value)
    assert toml_value(text) == value


# --- sizes


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("0", 0),
        ("4096", 4096),
        ("12B", 12),
        ("4GiB", 4 * 2**30),
        ("800MiB", 800 * 2**20),
        ("512KiB", 512 * 2**10),
        ("1.5GiB", 3 * 2**29),
        (" 2 GiB ", 2 * 2**30),
        ("800M", 800 * 2**20),
        ("800mb", 800 * 2**20),
        ("0.3KiB", 307),
        ("1.5", 1),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_a_size_is_in_bytes(text, bytes_):
    assert size(text) == bytes_


@pytest.mark.parametrize(
    "text",
    ["", "lots", "5 potatoes", "-1", "1e9", "4TiB", "GiB", "1..5G", "0x10", "4 G i B", "٣GiB", "9" * 5000, "inf"],
)
def test_what_is_no_size_is_an_error_with_the_way_out(text):
    with pytest.raises(SpellingError, match="write a size like 4GiB") as caught:
        size(text)
    assert str(caught.value).startswith(repr(text)[:20])
    assert len(str(caught.value)) < 200


def test_sizes_are_bounded():
    assert size(str(2**63 - 1)) == 2**63 - 1
    for text in (str(2**63), "9999999999999GiB"):
        with pytest.raises(SpellingError, match="more than any memory"):
            size(text)
    # It would be 0, which is no limit at all.
    with pytest.raises(SpellingError, match="less than a byte"):
        size("0.5")


@given(st.integers(0, 2**33 - 1), st.sampled_from(["", "B", "K", "KB", "KiB", "M", "MB", "MiB", "G", "GB", "GiB"]))
def test_every_unit_is_a_power_of_1024(number, unit):
    power = " KMG".index((unit.replace("B", "") or " ")[0])
    assert size(f"{number}{unit}") == size(f"{number} {unit.lower()}") == number * 1024**power


@given(st.integers(0, 2**40))
def test_a_size_written_in_a_larger_unit_comes_back(eighths):
    assert size(f"{eighths / 8:.3f}KiB") == eighths * 128


# --- lists of names


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("jpeg", ["jpeg"]),
        ("jpeg,webp", ["jpeg", "webp"]),
        (" jpeg , ,webp,", ["jpeg", "webp"]),
        ("jpeg+rs(255,223),webp", ["jpeg+rs(255,223)", "webp"]),
        ("a(1,(2,3),4),b", ["a(1,(2,3),4)", "b"]),
        ("a),b", ["a)", "b"]),
        ("", []),
    ],
)
def test_names_are_parted_by_commas_outside_parentheses(text, found):
    assert names(text) == found


@given(TEXT)
def test_names_lose_no_text(text):
    def letters(of):
        return [c for c in of if c != "," and not c.isspace()]

    assert letters("".join(names(text))) == letters(text)


@given(st.lists(st.from_regex(r"[a-z]+(\([0-9]+,[0-9]+\))?", fullmatch=True)))
def test_joined_names_come_back(parts):
    assert names(",".join(parts)) == parts


# --- settings


def test_a_setting_is_for_all_codecs_or_one():
    assert settings(["a=1", "pkg.mod:Codec:b=x:y"], ["jpeg", "pkg.mod:Codec"]) == {
        "jpeg": {"a": 1},
        "pkg.mod:Codec": {"a": 1, "b": "x:y"},
    }
    assert settings([], ["jpeg"]) == {"jpeg": {}}
    assert settings_of("jpeg", ["a = [1, 2]", "jpeg:b=a=b"]) == {"a": [1, 2], "b": "a=b"}


@pytest.mark.parametrize(
    "pairs",
    [["a=1", "a=2"], ["a=1", "jpeg:a=2"], ["jpeg:a=2", "a=1"], ["jpeg:a=1", "jpeg:a=1"], ["a=1", " a =1"]],
)
def test_a_key_given_twice_for_one_codec_is_an_error(pairs):
    with pytest.raises(SpellingError, match="a is given twice for jpeg"):
        settings(pairs, ["jpeg", "webp"])
    assert settings(["jpeg:a=1", "webp:a=2"], ["jpeg", "webp"]) == {"jpeg": {"a": 1}, "webp": {"a": 2}}


@pytest.mark.parametrize("pair", ["", "a", "=1", "a b=1", "1a=1", ":a=1", "jpeg:=1", "jpeg:a", "a-b=1"])
def test_a_setting_of_another_form_says_the_form_and_the_option(pair):
    with pytest.raises(SpellingError, match=r"^--robustkit-set .*: write KEY=VALUE, or NAME:KEY=VALUE"):
        settings([pair], ["jpeg"], option="--robustkit-set")


def test_a_setting_of_a_codec_that_was_not_chosen_names_those_that_were():
    with pytest.raises(SpellingError, match=r"^--set png:a=1: 'png' is not among the codecs jpeg, webp$"):
        settings(["png:a=1"], ["jpeg", "webp"])


def test_a_setting_s_hostile_value_names_the_option_and_the_key():
    with pytest.raises(SpellingError, match=r"^--set a: '99.*too many digits"):
        settings(["a=" + "9" * 5000], ["jpeg"])


@given(
    st.lists(NAMES, min_size=1, unique=True),
    st.lists(st.tuples(st.none() | NAMES, KEYS, st.integers()), unique_by=lambda t: t[1]),
)
def test_distinct_keys_all_arrive(codecs, given_):
    given_ = [(owner if owner in codecs else None, key, value) for owner, key, value in given_]
    pairs = [f"{key}={value}" if owner is None else f"{owner}:{key}={value}" for owner, key, value in given_]
    assert settings(pairs, codecs) == {
        name: {key: value for owner, key, value in given_ if owner in (None, name)} for name in codecs
    }


# --- names that are wrong


def test_a_wrong_name_gets_the_nearest_or_all():
    assert nearest("brust", ["bsc", "burst"]) == "did you mean burst, bsc?"
    assert nearest("xyz", ["bsc", "burst"]) == "known: bsc, burst"
    assert nearest("xyz", []) == "known: none"
    assert nearest("xyz", ["bsc"], otherwise="bsc is usual") == "bsc is usual"
    assert nearest("jpag", ["jpeg", "jpeg2000", "png"], cutoff=0.3) == "did you mean jpeg, png, jpeg2000?"


@given(TEXT)
def test_no_text_gives_another_error(text):
    for read in (toml_value, size, names, lambda t: settings([t], ["jpeg"]), lambda t: nearest(t, ["jpeg"])):
        with contextlib.suppress(SpellingError):
            repr(read(text))


@given(TEXT)
def test_what_toml_reads_as_one_value_is_that_value(text):
    try:
        expected = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return
    if len(expected) == 1:
        found = toml_value(text)
        nan = isinstance(found, float) and math.isnan(found)
        assert nan or found == expected["value"]
