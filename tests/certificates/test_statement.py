"""The two statements: written canonically, read from anywhere, and refused with the reason where anything is off."""

import json
from dataclasses import replace
from pathlib import Path

import example_certificate as example
import pytest
from hypothesis import given, settings
from test_model import CERTIFICATES

from robustkit.certificates import canonical, schema, statement
from robustkit.certificates.model import PREDICATE, VERSION, Artifact, CertificateError, to_json

SCHEMA = Path(schema.__file__).with_name(schema.FILE)


def changed(change, certificate=None):
    """The two lines, with the second statement changed and canonical again."""
    first, second = statement.dumps(certificate or example.certificate()).splitlines()
    found = json.loads(second)
    change(found)
    return first + b"\n" + canonical.dumps(found) + b"\n"


def test_the_published_schema_is_that_of_the_records():
    assert SCHEMA.read_text(encoding="utf-8") == schema.text(), "python -m robustkit.certificates.schema prints it"


@pytest.mark.parametrize("made", [example.certificate(), example.broken(), example.certificate(subject=())])
def test_a_certificate_comes_back(made):
    data = statement.dumps(made)
    assert statement.loads(data) == made
    assert statement.dumps(statement.loads(data)) == data


@settings(max_examples=10, deadline=None)
@given(CERTIFICATES)
def test_the_schema_takes_what_the_records_take(made):
    schema.check(to_json(replace(made, version=VERSION)))


def test_both_are_statements_of_in_toto_about_the_same_subjects():
    first, second = map(json.loads, statement.dumps(example.certificate()).splitlines())
    assert [found["predicateType"] for found in (first, second)] == [statement.TEST_RESULT, PREDICATE]
    assert first["subject"] == second["subject"]
    assert {found["_type"] for found in (first, second)} == {"https://in-toto.io/Statement/v1"}
    assert all(len(part["digest"]["sha256"]) == 64 for part in first["subject"])
    assert {part["name"] for part in first["predicate"]["configuration"]} >= {"profile", "corpus", "environment"}


def lines(**verdicts):
    whole = example.certificate()
    return tuple(
        replace(line, verdict=verdicts.get(line.claim.replace(".", "_"), line.verdict)) for line in whole.lines
    )


@pytest.mark.parametrize(
    ("verdicts", "certified", "result", "where"),
    [
        ({}, True, "PASSED", "passedTests"),
        ({"degradation_quality": "unproved"}, False, "WARNED", "warnedTests"),
        ({"degradation_quality": "waived"}, False, "WARNED", "warnedTests"),
        ({"degradation_quality": "broken"}, False, "FAILED", "failedTests"),
        ({"degradation_quality": "error"}, False, "FAILED", "failedTests"),
    ],
)
def test_the_result_says_which_claims_passed_and_which_not(verdicts, certified, result, where):
    made = example.certificate(lines=lines(**verdicts), certified=certified)
    predicate = statement.result_statement(made)["predicate"]
    assert predicate["result"] == result
    assert "degradation.quality" in predicate[where]


def test_what_is_not_certified_is_no_pass_even_where_every_claim_holds():
    made = example.certificate(certified=False, blockers=("a dirty working tree",))
    assert statement.result_statement(made)["predicate"]["result"] == "WARNED"


def test_an_unidentified_subject_is_named_so():
    (part,) = statement.subjects(example.certificate(subject=()))
    assert part["name"] == "unidentified: example"


def test_a_skipped_claim_is_in_no_list():
    made = example.certificate(lines=lines(**{"golden_matches": "skipped"}))
    assert "golden.matches" not in json.dumps(statement.result_statement(made)["predicate"])


@pytest.mark.parametrize("number", [1.0, 1e21, 2.0**60, -(2.0**60), 5e-324, 0.1, -0.0])
def test_a_number_comes_back_through_canonical_json(number):
    made = example.certificate(lines=(replace(example.certificate().lines[0], numbers={"n": number}),))
    assert statement.loads(statement.dumps(made)).lines[0].numbers["n"] == number


def test_a_seed_beyond_what_json_holds_is_refused_with_the_way_out():
    corpus = replace(example.certificate().corpus, seed=2**64 - 1)
    with pytest.raises(CertificateError, match="maximum"):
        statement.dumps(example.certificate(corpus=corpus))
    with pytest.raises(CertificateError, match="--robustkit-trial-seed"):
        canonical.dumps({"seed": 2**64 - 1})


def test_half_a_character_is_refused():
    with pytest.raises(CertificateError, match="canonical form"):
        statement.dumps(example.certificate(sentence="\ud800"))


REFUSED = {
    "nothing": (b"", "two lines"),
    "one line": (b"{}\n", "two lines"),
    "cut short": (statement.dumps(example.certificate())[:-100], "two lines|no JSON"),
    "no text": (b"\xff\n\xff\n", "no JSON"),
    "deep": (b"[" * 10_000 + b"\n" + b"[" * 10_000 + b"\n", "no JSON"),
    "a key twice": (b'{"_type":1,"_type":1}\n{}\n', "twice"),
    "no number": (b"[NaN]\n{}\n", "NaN"),
    "a list": (b"[]\n[]\n", "no in-toto statement"),
    "spaces": (statement.dumps(example.certificate()).replace(b":", b": ", 1), "not canonical"),
    "a huge number": (b"[" + b"9" * 5000 + b"]\n{}\n", "no JSON"),
    "too long": (b" " * (statement.MOST_BYTES + 1), "bytes"),
    "a figure": (changed(lambda s: s["predicate"].update(certified=False)), "does not follow"),
    "a subject": (changed(lambda s: s["subject"].clear()), "subject"),
    "a field": (changed(lambda s: s["predicate"].update(more=1)), "schema"),
    "a type": (changed(lambda s: s["predicate"]["corpus"].update(seed="0")), r"corpus\.seed"),
    "a version": (changed(lambda s: s["predicate"].update(version=2)), "version 2"),
    "a predicate": (changed(lambda s: s.update(predicateType="urn:other")), "urn:other"),
    "no object": (changed(lambda s: s.update(predicate=[])), "version None"),
    "a verdict": (changed(lambda s: s["predicate"]["lines"][0].update(verdict="great")), "no verdict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_certificate_is_refused_by_name(name):
    data, said = REFUSED[name]
    with pytest.raises(CertificateError, match=said):
        statement.loads(data)


def test_another_subject_is_another_statement():
    first, _ = statement.dumps(example.certificate()).splitlines()
    _, second = statement.dumps(example.certificate(subject=(Artifact("x", "package", "0" * 64),))).splitlines()
    with pytest.raises(CertificateError, match="the test result does not follow from the certificate: other subject"):
        statement.loads(first + b"\n" + second + b"\n")
