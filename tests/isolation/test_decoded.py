"""Kinds of failure: two streams that show one defect are of one kind, two defects are of two."""

import pytest

from robustkit.isolation import Decoded
from robustkit.outcome import Failure, Outcome


@pytest.mark.parametrize(
    ("outcome", "messages", "detail"),
    [
        (Outcome.CRASHED, ["died of SIGSEGV\nFatal Python error", "died of SIGSEGV"], "died of SIGSEGV"),
        (
            Outcome.RAISED,
            ["IndexError: index 7 is out of range (x.py:12 in f)", "IndexError: (9) (x.py:12 in f)"],
            "IndexError (x.py:12 in f)",
        ),
        (Outcome.RAISED, ["KeyError: 'a'", "KeyError: 'b'"], "KeyError"),
        (Outcome.MISSHAPEN, ["decode returned 64 x 8 x 3", "decode returned 9 x 1 x 3"], "decode returned N x N x N"),
        (Outcome.HUNG, ["not done after 30 s", "not done after 30 s\nFile x"], ""),
        (Outcome.EXHAUSTED, ["took more than the limit", ""], ""),
    ],
)
def test_one_defect_is_one_kind_of_failure(outcome, messages, detail):
    assert {Decoded(None, outcome, message).failure for message in messages} == {Failure(outcome, detail)}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ((Outcome.CRASHED, "died of SIGSEGV"), (Outcome.CRASHED, "died of SIGABRT")),
        ((Outcome.RAISED, "IndexError: x (a.py:1 in f)"), (Outcome.RAISED, "IndexError: x (a.py:2 in f)")),
        ((Outcome.RAISED, "IndexError: x (a.py:1 in f)"), (Outcome.RAISED, "KeyError: x (a.py:1 in f)")),
        ((Outcome.CRASHED, "x"), (Outcome.HUNG, "x")),
    ],
)
def test_two_defects_are_two_kinds(one, two):
    assert Decoded(None, *one).failure != Decoded(None, *two).failure


@pytest.mark.parametrize("outcome", [None, Outcome.REFUSED])
def test_an_image_and_a_refusal_are_no_failure(outcome):
    assert Decoded(None, outcome, "message").failure is None
