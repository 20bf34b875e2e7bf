"""Claims have ids that last, findings are JSON that every reader takes, and only verdicts decide what a run says."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites import TOTAL

from robustkit import Outcome
from robustkit.conformance import test_clean, test_degradation, test_golden, test_large, test_survival
from robustkit.judging.finding import (
    CLAIMS,
    ClaimError,
    Finding,
    Verdict,
    check_claim,
    check_known_defects,
    own_claim,
    run_verdict,
)

SUITE = (test_clean, test_degradation, test_golden, test_large, test_survival)
#: Ids that files of users name: none of them may go.
IDS = """
clean.large-image clean.round-trip decode.batch-equals-single decode.deterministic decode.survives.appended-bytes
decode.survives.bit-flips decode.survives.bursts decode.survives.empty-stream decode.survives.garbage
decode.survives.header-flips decode.survives.mixed-damage decode.survives.trials decode.survives.truncation
degradation.corrupted degradation.monotone degradation.quality degradation.refused encode.deterministic golden.matches
golden.no-orphans layout.names-every-bit layout.payload-matters
"""


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


def test_known_defects_are_outcomes_that_fail_or_claims():
    check_known_defects("mine", {"crashed": "x", "hung": "x", "decode.survives.bursts": "x", "own.mine": "x"})
    for key, says in [
        ("crash", "did you mean crashed"),
        ("refused", "outcomes that fail: unstable, misshapen, raised, crashed, hung, exhausted"),
        ("nonsense", "no claim has the id 'nonsense'"),
        ("decode survives bursts", "its id is 'decode.survives.bursts'"),
    ]:
        with pytest.raises(ClaimError, match=says) as caught:
            check_known_defects("mine", {key: "https://example.org"})
        assert f"codec 'mine': known_defects has {key!r}" in str(caught.value)


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


KEPT, BROKEN, UNPROVED, BLOCKED, SKIPPED, KNOWN, ERROR, NOTED = (
    Verdict(v) for v in ("kept", "broken", "unproved", "blocked", "skipped", "known defect", "error", "noted")
)


@pytest.mark.parametrize(
    ("verdicts", "more", "text", "good"),
    [
        ([KEPT] * TOTAL, {}, f"x: conforms: {TOTAL} of {TOTAL} claims hold", True),
        ([KEPT, NOTED, SKIPPED], {}, "x: conforms: 2 of 3 claims hold (1 not checked)", True),
        ([KEPT, KEPT], {"left_out": True}, "x: 2 of 2 claims hold; others were left out", True),
        ([KEPT, BROKEN], {}, "x: does not conform: 1 of 2 claims broken", False),
        ([KEPT, UNPROVED], {}, "x: does not conform: 1 of 2 claims broken", False),
        ([KEPT, ERROR, SKIPPED], {}, "x: does not conform: 1 of 3 claims broken (1 not checked)", False),
        (
            [BROKEN, BLOCKED, BLOCKED, KNOWN],
            {},
            "x: does not conform: 1 of 4 claims broken, 2 of 4 blocked by the clean round trip, "
            "1 of 4 by known defects",
            False,
        ),
        ([SKIPPED, SKIPPED], {}, "x: not checked (2 not checked)", False),
        ([], {}, "x: not checked", False),
        ([KEPT], {"loosened": ["bpp 3 > 1"]}, "x: non-certifying: loosened profile: bpp 3 > 1", False),
        ([KEPT], {"trouble": "exit status 3"}, "x: not certified: exit status 3", False),
        (
            [KEPT, KNOWN],
            {"known_defects": {"crashed": "https://e.org/1", "hung": "https://e.org/1"}},
            "x: does not conform: 1 of 2 claims broken by known defects (https://e.org/1)",
            False,
        ),
        # A broken claim is said before anything else that is wrong.
        ([BROKEN], {"loosened": ["bpp"], "trouble": "t"}, "x: does not conform: 1 of 1 claims broken", False),
    ],
)
def test_what_a_run_says(verdicts, more, text, good):
    found = run_verdict("x", {f"own.{i}": v for i, v in enumerate(verdicts)}, **more)
    assert (found.text, found.good) == (text, good)


@given(st.lists(st.sampled_from(Verdict)), st.booleans(), st.booleans(), st.booleans())
def test_conforms_is_said_only_of_claims_that_all_hold(verdicts, loosened, trouble, left_out):
    found = run_verdict(
        "x",
        {f"own.{i}": v for i, v in enumerate(verdicts)},
        loosened=["bpp"] if loosened else [],
        trouble="trouble" if trouble else None,
        left_out=left_out,
    )
    sound = bool(set(verdicts) - {SKIPPED}) and set(verdicts) <= {KEPT, NOTED, SKIPPED}
    assert found.good == (sound and not loosened and not trouble)
    assert (": conforms:" in found.text) == (found.good and not left_out)


def test_each_failing_outcome_is_a_failure_and_a_refusal_is_none():
    failures = [outcome.value for outcome in Outcome if outcome.failure]
    assert failures == ["unstable", "misshapen", "raised", "crashed", "hung", "exhausted"]
