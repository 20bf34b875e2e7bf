"""Claims have ids that last, findings are JSON that every reader takes, and only verdicts decide what a run says."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from suites import TOTAL

from robustkit import Outcome
from robustkit.conformance import (
    test_clean,
    test_degradation,
    test_golden,
    test_large,
    test_platform,
    test_regression,
    test_survival,
    test_work,
)
from robustkit.judging.finding import (
    CLAIMS,
    ClaimError,
    Finding,
    Said,
    Verdict,
    check_claim,
    own_claim,
    run_verdict,
    states,
)

SUITE = (
    test_clean,
    test_degradation,
    test_golden,
    test_large,
    test_platform,
    test_regression,
    test_survival,
    test_work,
)
#: Ids that files of users name: none of them may go.
IDS = """
clean.large-image clean.odd-sizes clean.round-trip decode.batch-equals-single decode.bounded-work
decode.cross-platform decode.deterministic decode.jitter decode.leaves-nothing-behind
decode.needs-only-the-stream decode.survives.appended-bytes
decode.survives.bit-flips decode.survives.bursts decode.survives.empty-stream decode.survives.garbage
decode.survives.header-bits decode.survives.header-flips decode.survives.mixed-damage decode.survives.trials
decode.survives.truncation degradation.corrupted degradation.monotone degradation.quality degradation.refused
degradation.regression encode.deterministic golden.matches golden.no-orphans layout.names-every-bit
layout.payload-matters
"""


def test_a_share_that_is_not_disproved_says_what_is_still_possible():
    def word(verdict, declared):
        return Finding("x", "degradation.corrupted", "", "", "", declared, verdict, {"high": 0.045}).word

    assert word(Verdict.NOT_DISPROVED, "share at most 0") == "not disproved (up to 4.5%)"
    assert word(Verdict.NOT_DISPROVED, "no gain beyond noise") == "not disproved"
    assert word(Verdict.KEPT, "share at most 0") == "kept"


def test_ids_stay():
    assert sorted(CLAIMS) == IDS.split()


def test_each_check_of_the_suite_names_a_claim_of_its_own():
    named = {}
    for module in SUITE:
        for name, function in vars(module).items():
            if name.startswith("test_"):
                (marker,) = [m for m in function.pytestmark if m.name == "robustkit_claim"]
                named[marker.args[0]] = name
    assert set(named) == set(CLAIMS)
    assert len(named) == TOTAL
    # The titles are what the checks were called by before they had ids, so old files can be told the new name.
    for identity, function in named.items():
        assert CLAIMS[identity] == function.removeprefix("test_").replace("_", " ")


@pytest.mark.parametrize("identity", CLAIMS)
def test_an_old_title_is_refused_with_the_id(identity):
    check_claim(identity)
    with pytest.raises(ClaimError, match=f"its id is '{identity}'"):
        check_claim(CLAIMS[identity])


def test_a_name_that_is_nearly_an_id_is_refused_with_it():
    with pytest.raises(ClaimError, match=r"did you mean decode\.survives\.bursts"):
        check_claim("decode.survives.burst")
    with pytest.raises(ClaimError, match="known: "):
        check_claim("?")


@given(st.text())
def test_a_check_of_ones_own_has_an_id_whatever_it_is_called(function):
    identity, _ = own_claim(f"test_{function}")
    check_claim(identity)
    assert identity.isascii()


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


@given(st.dictionaries(st.text(), st.floats() | st.none()), st.text(), st.sampled_from(Verdict))
def test_a_finding_is_json_with_numbers_and_comes_back(numbers, text, verdict):
    finding = Finding("jpeg", "clean.round-trip", "title", text, text, text, verdict, numbers)
    written = json.loads(finding.to_json(), parse_constant=refuse)
    assert {k for k, v in written["numbers"].items() if v is None} == {
        k for k, v in numbers.items() if v is None or not math.isfinite(v)
    }
    assert Finding.from_json(finding.to_json()) == finding


KEPT, BROKEN, UNPROVED, BLOCKED, SKIPPED, WAIVED, ERROR, NOTED = (
    Verdict(v) for v in ("kept", "broken", "unproved", "blocked", "skipped", "waived", "error", "noted")
)
GOOD = {KEPT, NOTED}
#: Said of a part.
PART = "others were left out"
#: How many claims the searches examine.
SEARCHES = sum(claim.startswith("decode.survives.") for claim in set(CLAIMS) - {"decode.survives.trials"})


def line(claim, verdict, severity=""):
    """A line of a claim; each has a reason and a waiver, to be quoted where the verdict is of that kind."""
    streams = {"streams": 25.0} if verdict is KEPT else {}
    return Finding("x", claim, claim, severity, "no space left", "", verdict, streams, "crashed, https://e.org/1")


def suite(**others):
    """A line kept for each claim of the suite, but for ``others``."""
    verdicts = dict.fromkeys(CLAIMS, KEPT) | {k.replace("__", ".").replace("_", "-"): v for k, v in others.items()}
    return [line(claim, verdict) for claim, verdict in verdicts.items() if verdict is not None]


@pytest.mark.parametrize(
    ("findings", "more", "text", "fails"),
    [
        (suite(), {}, f"x: conforms: {TOTAL} of {TOTAL} claims hold", False),
        (suite(own__mine=NOTED), {}, f"x: conforms: {TOTAL + 1} of {TOTAL + 1} claims hold", False),
        (
            suite(golden__matches=SKIPPED),
            {},
            f"x: conforms: {TOTAL - 1} of {TOTAL} claims hold (1 not checked)",
            False,
        ),
        ([line("a", KEPT), line("b", KEPT)], {}, f"x: not certified: 2 of 2 claims hold; {PART}", False),
        (suite(decode__deterministic=BROKEN), {}, f"x: does not conform: 1 of {TOTAL} claims broken", True),
        (
            [line("a", UNPROVED, "bsc"), line("a", UNPROVED, "burst"), line("b", UNPROVED, "bsc")],
            {},
            "x: not proved: 2 promises are not proved",
            True,
        ),
        (suite(degradation__quality=UNPROVED), {}, "x: not proved: 1 promise is not proved", True),
        (
            suite(degradation__quality=ERROR),
            {},
            f"x: not certified: 1 of {TOTAL} claims could not be checked: no space left",
            True,
        ),
        (
            suite(degradation__quality=ERROR, degradation__corrupted=UNPROVED, golden__matches=SKIPPED),
            {},
            f"x: not certified: 1 of {TOTAL} claims could not be checked: no space left; 1 promise is not proved "
            "(1 not checked)",
            True,
        ),
        (
            [line("a", BROKEN), line("b", BLOCKED), line("c", BLOCKED), line("d", WAIVED), line("e", ERROR)],
            {},
            "x: does not conform: 1 of 5 claims broken; 2 of 5 blocked by the clean round trip; "
            "1 of 5 claims could not be checked: no space left; 1 of 5 claims waived (crashed, https://e.org/1)",
            True,
        ),
        ([line("a", SKIPPED)], {}, "x: not certified: nothing was checked (1 not checked)", False),
        ([], {}, "x: not certified: nothing was checked", False),
        (suite(), {"loosened": ["bpp 3 > 1"]}, "x: not certified: loosened profile: bpp 3 > 1", False),
        (suite(), {"trouble": "the run was cut short"}, "x: not certified: the run was cut short", True),
        (
            suite(decode__survives__bursts=WAIVED),
            {},
            f"x: not certified: 1 of {TOTAL} claims waived (crashed, https://e.org/1)",
            False,
        ),
        # A broken claim is said before anything else that is wrong.
        (
            [line("a", BROKEN)],
            {"loosened": ["bpp"], "trouble": "t"},
            "x: does not conform: 1 of 1 claims broken; t; loosened profile: bpp",
            True,
        ),
        (
            suite(degradation__quality=SKIPPED),
            {},
            "x: not certified: promises were not judged: degradation.quality (1 not checked)",
            False,
        ),
        (
            suite(degradation__quality=SKIPPED),
            {"promising": False},
            f"x: no promises: nothing found in {25 * SEARCHES} streams (1 not checked)",
            False,
        ),
    ],
)
def test_what_a_run_says(findings, more, text, fails):
    found = run_verdict("x", findings, **more)
    assert (found.text, found.fails) == (text, fails)


def test_the_streams_of_a_search_are_counted_by_outcome_where_it_gives_no_sum():
    findings = [line(claim, NOTED) for claim in CLAIMS if claim != "decode.survives.bursts"]
    counts = {"intact": 3.0, "refused": 20.0, "seconds": 7.0}
    findings.append(Finding("x", "decode.survives.bursts", "", "", "", "", KEPT, counts))
    assert "nothing found in 23 streams" in run_verdict("x", findings, promising=False).text
    assert run_verdict("x", findings[:-1], promising=False).said is Said.NOT_CERTIFIED
    none = [line(claim, NOTED) for claim in CLAIMS]
    assert run_verdict("x", none, promising=False).text == "x: not certified: no stream was searched"


#: What may have become of each claim of the suite, several lines of it or none, and of some that are not the suite's.
RUNS = st.fixed_dictionaries(
    {}, optional={claim: st.sets(st.sampled_from(Verdict), min_size=1) for claim in (*CLAIMS, "own.a", "own.b")}
) | st.fixed_dictionaries({claim: st.sets(st.sampled_from([KEPT, NOTED, SKIPPED]), min_size=1) for claim in CLAIMS})
MORE = st.fixed_dictionaries(
    {
        "promising": st.booleans(),
        "loosened": st.sampled_from([[], [], ["bpp"]]),
        "trouble": st.sampled_from([None, None, "trouble"]),
    }
)


#: What has nothing to be compared with, because nothing was recorded, leaves no promise unjudged.
PROMISES = [claim for claim in CLAIMS if claim.startswith("degradation.") and claim != "degradation.regression"]
UNRECORDED = {claim: {KEPT} for claim in CLAIMS} | {"degradation.regression": {SKIPPED}}


def lines(run):
    return [line(claim, verdict, severity=verdict.value) for claim, verdicts in run.items() for verdict in verdicts]


@given(RUNS, MORE)
@example(UNRECORDED, {"promising": True, "loosened": [], "trouble": None})
def test_what_a_run_may_say(run, more):
    found = run_verdict("x", lines(run), **more)
    seen = set().union(*run.values())
    # Of the whole suite, where all holds.
    whole = run.keys() >= CLAIMS.keys() and seen <= {*GOOD, SKIPPED} and not more["loosened"] and not more["trouble"]
    if found.said is Said.CONFORMS:
        assert whole
        assert more["promising"]
        assert all(run[claim] & GOOD for claim in PROMISES)
    if found.said is Said.NO_PROMISES:
        assert whole
        assert not more["promising"]
        assert any(KEPT in run[claim] for claim in CLAIMS if claim.startswith("decode.survives."))
    assert found.good == (found.said in (Said.CONFORMS, Said.NO_PROMISES))
    # Only what the codec breaks makes it not conform.
    assert (found.said is Said.BROKEN) == bool(seen & {BROKEN, BLOCKED})
    if found.said is Said.UNPROVED:
        assert UNPROVED in seen
        assert ERROR not in seen
    # A run fails by what is broken, unproved or unchecked, and by nothing that the tester chose.
    assert found.fails == bool(seen & {BROKEN, BLOCKED, UNPROVED, ERROR} or more["trouble"])
    assert found.text.startswith(f"x: {found.said}: ")
    assert [kind for kind in Said if f": {kind}: " in found.text] == [found.said]
    assert "\n" not in found.text


@given(RUNS, MORE, st.sampled_from(sorted(CLAIMS)), st.sampled_from([BROKEN, ERROR, UNPROVED, WAIVED]), st.randoms())
def test_a_finding_more_makes_no_verdict_better_and_their_order_makes_none_other(run, more, claim, verdict, random):
    findings = [*lines(run), line(claim, verdict)]
    after = run_verdict("x", findings, **more)
    assert not after.good
    assert verdict is not BROKEN or after.said is Said.BROKEN
    shuffled = random.sample(findings, len(findings))
    assert run_verdict("x", shuffled, **more).said is after.said
    assert states(shuffled) == states(findings)


def test_each_failing_outcome_is_a_failure_and_a_refusal_is_none():
    failures = [outcome.value for outcome in Outcome if outcome.failure]
    assert failures == ["unstable", "misshapen", "raised", "crashed", "hung", "exhausted"]
