"""Profiles survive TOML, refuse what isn't a promise, and notice when they were loosened."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import Profile, ProfileError, Promise
from robustkit.channels import BSC, Burst

numbers = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1)
named = (
    st.builds(BSC, shares) | st.builds(Burst, st.integers(1, 10**6)) | st.builds(BSC, shares, region=st.just("header"))
)
text = st.text(st.characters(codec="utf-8"), max_size=12)
profiles = st.builds(
    Profile,
    bpp=st.floats(0, 1e9),
    quality=numbers,
    refused=shares,
    metric=text,
    slowdown=st.floats(1, 1e9),
    memory_growth=st.floats(1, 1e9),
    promises=st.lists(
        st.builds(Promise, channel=named, mean_drop=numbers, p5_drop=numbers, corrupted=shares),
        max_size=4,
        unique_by=lambda p: p.channel,
    ).map(tuple),
)
DECLARED = Profile(
    bpp=0.4,
    quality=28.5,
    refused=0.01,
    promises=(Promise("bsc(ber=0.001)", 0.3, 1.0), Promise("bsc(ber=0.01)", 2.0, 4.0, corrupted=0.1)),
)
TOML = """
bpp = 0.4
quality = 28.5
refused = 0.01

[[promises]]
channel = "bsc(ber=0.001)"
mean_drop = 0.3
p5_drop = 1

[[promises]]
channel = "bsc(ber=0.01)"
mean_drop = 2
p5_drop = 4
corrupted = 0.1
"""


@given(profiles)
def test_a_profile_survives_toml(tmp_path_factory, profile):
    path = tmp_path_factory.getbasetemp() / "profile.toml"
    path.write_text(profile.to_toml(), encoding="utf-8", newline="")
    assert Profile.from_toml(path) == profile


def test_a_profile_written_by_hand_is_read(tmp_path):
    path = tmp_path / "profile.toml"
    path.write_text(TOML)
    assert Profile.from_toml(path) == DECLARED


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("bpp = 0.4", "bpp =", "Invalid value"),
        ("bpp = 0.4", "", "profile: required and missing: bpp"),
        (
            "bpp = 0.4",
            "bbp = 0.4",
            "profile: unknown key 'bbp'; known: bpp, quality, refused, metric, slowdown",
        ),
        ("bpp = 0.4", 'bpp = "low"', "profile: bpp = 'low' is not a number"),
        ("bpp = 0.4", "bpp = true", "profile: bpp = True is not a number"),
        ("bpp = 0.4", "bpp = nan", "bpp = nan is not a finite number"),
        ("bpp = 0.4", "bpp = 0.4\nslowdown = 0.5", "slowdown = 0.5 is a number of times: give 1 or more"),
        ("bpp = 0.4", "bpp = -0.1", "bpp = -0.1 is a rate: give 0 or more"),
        ("bpp = 0.4", "bpp = 1" + 400 * "0", "bpp = 10+ is not a finite number"),
        ("bpp = 0.4", "bpp = " + 2000 * "[", "nested|recursion|Invalid value"),
        ("p5_drop = 1", "p5_drop = inf", r"bsc\(ber=0.001\) p5_drop = inf is not a finite number"),
        ("ber=0.001", "bar=0.001", "bsc has no parameter 'bar': did you mean ber"),
        ("ber=0.001", "ber=2", r"bsc: ber = 2.0 is out of range"),
        ("bsc(ber=0.001)", "bcs(ber=0.001)", "no channel is named 'bcs': did you mean bsc"),
        ("ber=0.01", "ber=1e-3", r"channel 'bsc\(ber=0.001\)' is promised twice"),
        ("bpp = 0.4", "bpp = 0.4\nmetric = 3", "metric = 3 is not a string"),
        ("refused = 0.01", "refused = 1.5", "refused = 1.5 is a share: give 0 to 1"),
        ("mean_drop = 0.3", "mean_drop = nan", r"bsc\(ber=0.001\) mean_drop = nan is not a finite number"),
        ("corrupted = 0.1", "corrupted = -1", r"bsc\(ber=0.01\) corrupted = -1 is a share"),
        ("p5_drop = 4", "p5drop = 4", r"promises\[1\]: unknown key 'p5drop'"),
        ("p5_drop = 4", "", r"promises\[1\]: required and missing: p5_drop$"),
        ("ber=0.01", "ber=0.001", "channel 'bsc.*' is promised twice"),
        ('channel = "bsc(ber=0.01)"', "channel = 3", r"promises\[1\]: channel = 3 is not a string"),
    ],
)
def test_what_is_no_profile_says_why_and_where(tmp_path, old, new, says):
    path = tmp_path / "profile.toml"
    assert TOML.count(old) == 1
    path.write_text(TOML.replace(old, new))
    with pytest.raises(ProfileError, match=says) as caught:
        Profile.from_toml(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("promises", ["3", '"bsc"', "[1, 2]", "{ channel = 'x' }"])
def test_promises_are_an_array_of_tables(tmp_path, promises):
    path = tmp_path / "profile.toml"
    path.write_text(f"bpp = 1\nquality = 1\npromises = {promises}\n")
    with pytest.raises(ProfileError, match="array of tables"):
        Profile.from_toml(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"absent\.toml"):
        Profile.from_toml(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match=r"binary\.toml"):
        Profile.from_toml(tmp_path / "binary.toml")


@given(profiles)
def test_a_profile_is_not_looser_than_itself(profile):
    assert profile.loosened_from(profile) == []


def promising(**changes) -> Profile:
    return replace(DECLARED, promises=(replace(DECLARED.promises[0], **changes), DECLARED.promises[1]))


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        (replace(DECLARED, bpp=0.5), ["bpp 0.5 > 0.4"]),
        (replace(DECLARED, quality=28.0), ["quality 28 < 28.5"]),
        (replace(DECLARED, refused=0.02), ["refused 0.02 > 0.01"]),
        (replace(DECLARED, metric="lpips"), ["metric is lpips, declared psnr"]),
        (replace(DECLARED, promises=DECLARED.promises[1:]), ["bsc(ber=0.001) is not promised"]),
        (promising(mean_drop=0.31), ["bsc(ber=0.001) mean_drop 0.31 > 0.3"]),
        (promising(p5_drop=30.0), ["bsc(ber=0.001) p5_drop 30 > 1"]),
        (promising(corrupted=0.5), ["bsc(ber=0.001) corrupted 0.5 > 0"]),
        (replace(DECLARED, bpp=0.3, quality=30.0, refused=0.0), []),
        (replace(DECLARED, slowdown=200.0, memory_growth=2.0), ["slowdown 200 > 100"]),
        (replace(DECLARED, slowdown=2.0, memory_growth=20.0), ["memory_growth 20 > 10"]),
        (promising(mean_drop=0.1), []),
        (replace(DECLARED, promises=(*DECLARED.promises, Promise("burst(length=8)", 1, 2))), []),
    ],
)
def test_loosening_is_noticed_and_tightening_is_not(profile, says):
    assert profile.loosened_from(DECLARED) == says


def test_two_spellings_of_a_channel_are_one_promise():
    """W4: ``bsc(ber=1e-3)`` in a given profile against ``bsc(ber=0.001)`` in the codec's."""
    assert Promise("bsc(ber=1e-3)", 1, 2) == Promise(BSC(0.001), 1, 2)
    given = replace(DECLARED, promises=(Promise("bsc( ber = 1e-3 )", 0.3, 1.0), DECLARED.promises[1]))
    assert given.loosened_from(DECLARED) == []


@given(profiles)
def test_a_profile_survives_json(profile):
    assert Profile.from_mapping(json.loads(json.dumps(profile.to_mapping(), allow_nan=False))) == profile
