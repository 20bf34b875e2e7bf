"""Waivers fit what they name and nothing else, end with their day, and are read strictly."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import Outcome
from robustkit.judging.finding import CLAIMS, ClaimError
from robustkit.judging.waivers import Waiver, WaiverError, accepted, declared, read
from robustkit.outcome import Failure

DIGEST = "0123456789abcdef" * 4
SEGV = Failure(Outcome.CRASHED, "died of SIGSEGV")
RAISED = Failure(Outcome.RAISED, "IndexError (codec.py:3 in decode)")


@pytest.mark.parametrize(
    ("waiver", "failure", "fits"),
    [
        (Waiver("x", outcome=Outcome.CRASHED), SEGV, True),
        (Waiver("x", outcome=Outcome.CRASHED), RAISED, False),
        (Waiver("x", outcome=Outcome.CRASHED), None, False),
        (Waiver("x", outcome=Outcome.CRASHED, detail="SIGSEGV"), SEGV, True),
        (Waiver("x", outcome=Outcome.CRASHED, detail="died of SIGSEGV"), SEGV, True),
        (Waiver("x", outcome=Outcome.CRASHED, detail="SIGSEG"), SEGV, False),
        (Waiver("x", outcome=Outcome.CRASHED, detail="SIGABRT"), SEGV, False),
        (Waiver("x", outcome=Outcome.RAISED, detail="IndexError"), RAISED, True),
        (Waiver("x", outcome=Outcome.RAISED, detail="codec.py:3 in decode"), RAISED, True),
        (Waiver("x", outcome=Outcome.RAISED, detail="Error"), RAISED, False),
        (Waiver("x", stream=DIGEST[:16]), SEGV, True),
        (Waiver("x", stream=DIGEST[1:17]), SEGV, False),
        (Waiver("x", claim="decode.survives.bursts"), None, True),
        (Waiver("x", claim="decode.survives.garbage"), SEGV, False),
        (Waiver("x", claim="decode.survives.bursts", outcome=Outcome.HUNG), SEGV, False),
        (Waiver("x", claim="decode.survives.bursts", outcome=Outcome.CRASHED, stream=DIGEST), SEGV, True),
    ],
)
def test_a_waiver_fits_what_it_names(waiver, failure, fits):
    assert waiver.fits("decode.survives.bursts", failure, DIGEST if failure else "") is fits


def test_a_waiver_ends_with_its_day_and_may_be_for_one_codec():
    dated = Waiver("x", outcome=Outcome.HUNG, until=date(2030, 12, 31), codec="mine")
    assert dated.holds(date(2030, 12, 31))
    assert not dated.holds(date(2031, 1, 1))
    assert accepted([dated], "mine") == (dated,)
    assert accepted([dated], "other") == ()


def test_a_codec_declares_outcomes_details_streams_and_claims():
    found = declared(
        "mine",
        {
            "crashed": "a",
            "raised: IndexError": "b until 2030-12-31",
            f"stream:{DIGEST}": "c",
            "decode.survives.bursts": "d",
            "own.mine": "e",
        },
    )
    assert found == (
        Waiver("a", outcome=Outcome.CRASHED),
        Waiver("b", outcome=Outcome.RAISED, detail="IndexError", until=date(2030, 12, 31)),
        Waiver("c", stream=DIGEST),
        Waiver("d", claim="decode.survives.bursts"),
        Waiver("e", claim="own.mine"),
    )


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("crash", "did you mean crashed"),
        ("crash: SIGSEGV", "did you mean crashed"),
        ("refused", "outcomes that fail: unstable, misshapen, raised, crashed, hung, exhausted"),
        ("nonsense", "no claim has the id 'nonsense'"),
        ("decode survives bursts", "its id is 'decode.survives.bursts'"),
        ("stream:0123", "16 to 64 hexadecimal digits"),
    ],
)
def test_a_known_defect_that_nothing_would_match_is_refused(key, says):
    with pytest.raises(ClaimError, match=says) as caught:
        declared("mine", {key: "https://example.org"})
    assert f"codec 'mine': known_defects has {key!r}" in str(caught.value)
    with pytest.raises(ClaimError, match="until"):
        declared("mine", {"crashed": "x until 2030-13-31"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"give waivers, each a table \[\[waivers\]\]"),
        ("waivers = 3", "give waivers"),
        ("waivers = []", "give waivers"),
        ("waiver = []", "unknown key 'waiver': did you mean waivers"),
        ('[[waivers]]\noutcome = "crashed"', "waiver 1: reason is missing"),
        ('[[waivers]]\nreason = "x"', "waiver 1: give a claim, an outcome or a stream"),
        ('[[waivers]]\nreason = ""\noutcome = "hung"', "reason is empty"),
        ('[[waivers]]\nreason = "x"\noutcome = "crash"', "did you mean crashed"),
        ('[[waivers]]\nreason = "x"\noutcome = "refused"', "refused is no failure"),
        ('[[waivers]]\nreason = "x"\nreson = "x"', "unknown key 'reson': did you mean reason"),
        ('[[waivers]]\nreason = "x"\nclaim = "decode.survives.burst"', "did you mean decode.survives.bursts"),
        ('[[waivers]]\nreason = "x"\nstream = "ABCDEF0123456789"', "16 to 64 hexadecimal digits"),
        ('[[waivers]]\nreason = "x"\ndetail = "SIGSEGV"\nstream = "0123456789abcdef"', "detail needs an outcome"),
        ('[[waivers]]\nreason = "x"\noutcome = 3', "outcome must be a string"),
        ('[[waivers]]\nreason = "x"\noutcome = "hung"\nuntil = 2030-12-31T00:00:00', "without a time"),
        ('[[waivers]]\nreason = "x"\noutcome = "hung"\nuntil = 12:00:00', "until must be a day"),
        ('[[waivers]]\nreason = "x"\noutcome = "hung"\nuntil = "soon"', "'soon' is no day"),
        ('[[waivers]]\nreason = "\\u001b[32m"\noutcome = "hung"', "say in one line"),
        (f"waivers = {'[' * 3000}", "nested too deeply"),
        (f"waivers = {'9' * 5000}", "waivers.toml"),
    ],
)
def test_a_file_is_read_strictly(tmp_path, text, says):
    file = tmp_path / "waivers.toml"
    file.write_text(text)
    with pytest.raises(WaiverError, match=says) as caught:
        read(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_no_text_or_is_not_there_is_refused(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0")
    for name in ("binary.toml", "nowhere.toml"):
        with pytest.raises(WaiverError, match=name):
            read(tmp_path / name)


VALUES = st.text(max_size=20) | st.sampled_from([*CLAIMS, *(o.value for o in Outcome), DIGEST, "2030-12-31"])
TABLES = st.dictionaries(st.sampled_from(["reason", "claim", "outcome", "detail", "stream", "until", "codec"]), VALUES)


@given(TABLES)
def test_whatever_a_table_holds_gives_waivers_or_the_error_that_is_declared(tmp_path_factory, table):
    import json

    file = tmp_path_factory.mktemp("waivers") / "waivers.toml"
    rows = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    file.write_text("\n".join(["[[waivers]]", *rows]), encoding="utf-8", errors="surrogatepass")
    try:
        (waiver,) = read(file)
    except WaiverError:
        return
    assert waiver.reason
    assert waiver.claim or waiver.outcome or waiver.stream
