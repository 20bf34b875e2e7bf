"""Kinds of failure: two streams that show one defect are of one kind, two defects are of two."""

import hashlib

import numpy as np
import pytest

from robustkit.isolation import Decoded
from robustkit.isolation.decoded import fingerprint
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


def test_what_is_not_known_of_a_decode_is_nothing():
    decoded = Decoded(None, Outcome.REFUSED)
    assert (decoded.message, decoded.seconds, decoded.memory, decoded.warnings) == ("", 0, 0, ())


IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def test_a_fingerprint_is_of_shape_and_pixels():
    assert fingerprint(IMAGE) == hashlib.sha256(b"2,4,3:" + bytes(range(24))).hexdigest()
    assert fingerprint(IMAGE[:, ::-1]) == fingerprint(IMAGE[:, ::-1].copy())
    assert len({fingerprint(i) for i in (IMAGE, IMAGE.reshape(4, 2, 3), IMAGE[::-1], IMAGE ^ 1)}) == 4


@pytest.mark.parametrize("made", [np.ndarray.copy, fingerprint])
def test_intact_is_the_clean_decode_and_nothing_else(made):
    decoded = Decoded(IMAGE, None)
    assert decoded.judged(made(IMAGE)) is Outcome.INTACT
    assert decoded.judged(made(IMAGE ^ 1)) is Outcome.DEGRADED
    assert decoded.judged(made(IMAGE.reshape(4, 2, 3))) is Outcome.DEGRADED
    assert decoded.judged(None) is Outcome.DEGRADED
    assert Decoded(None, Outcome.HUNG).judged(made(IMAGE)) is Outcome.HUNG


def test_a_kind_s_detail_is_short():
    long = "x" * 500
    assert len(Decoded(None, Outcome.CRASHED, long).failure.detail) == 120
    assert len(Decoded(None, Outcome.RAISED, f"{long}: y").failure.detail) == 120


def test_by_default_a_decode_took_no_time():
    assert (Decoded(None, None).seconds, Decoded(None, None).message) == (0.0, "")


def test_what_was_not_measured_cost_nothing():
    decoded = Decoded(None, Outcome.REFUSED)
    assert (decoded.seconds, decoded.processor, decoded.memory) == (0.0, 0.0, 0)
