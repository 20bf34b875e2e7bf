"""Waivers: failures that somebody knows and accepts, each with the place where it is reported.

A codec declares its known defects; whoever tests it accepts them, or failures of the tester's own choice. Nothing that
a codec says of itself makes a failing claim pass.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from robustkit.errors import RobustkitError
from robustkit.judging.finding import ClaimError, check_claim
from robustkit.outcome import Failure, Outcome
from robustkit.spelling import SpellingError, check_nesting, nearest

_KEYS = ("codec", "claim", "outcome", "detail", "stream", "reason", "until")
#: Before a stream's digest, where a codec declares one.
_STREAM = "stream:"
_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_UNTIL = re.compile(r"(?P<reason>.*\S)\s+until (?P<day>\d{4}-\d\d-\d\d)", re.DOTALL)
_LONGEST = 500


class WaiverError(RobustkitError, ValueError):
    """A file of waivers that can't be read; the message names the waiver, the key, and what is wrong with it."""


@dataclass(frozen=True)
class Waiver:
    """A failure that is accepted, told by a claim, an outcome or a stream; where it has several, all must fit.

    Attributes:
        reason: where the failure is reported, usually a link.
        claim: id of the claim that it breaks.
        outcome: that the decoder's failure has.
        detail: words of :attr:`robustkit.outcome.Failure.detail`, such as "SIGSEGV" or "IndexError"; needs an outcome.
        stream: the first hexadecimal digits, 16 or more, of the SHA-256 of the stream that it fails on.
        until: the last day on which it holds.
        codec: the only codec that it is for, as ``--codec`` names it; empty for any.

    Raises:
        WaiverError: nothing tells the failure, or a part can't be right.
    """

    reason: str
    claim: str = ""
    outcome: Outcome | None = None
    detail: str = ""
    stream: str = ""
    until: date | None = None
    codec: str = ""

    def __post_init__(self) -> None:
        if not self.reason.strip() or len(self.reason) > _LONGEST or not self.reason.isprintable():
            raise WaiverError(f"reason: say in one line of at most {_LONGEST} characters where it is reported")
        if self.claim:
            try:
                check_claim(self.claim)
            except ClaimError as error:
                raise WaiverError(f"claim: {error}") from error
        if self.outcome is not None and not self.outcome.failure:
            raise WaiverError(f"outcome: {self.outcome.value} is no failure; {_failures()}")
        if self.detail and self.outcome is None:
            raise WaiverError("detail needs an outcome beside it")
        if self.stream and not _DIGEST.fullmatch(self.stream):
            raise WaiverError(
                f"stream: {self.stream[:80]!r} must be 16 to 64 hexadecimal digits, in lower case, of a SHA-256"
            )
        if not (self.claim or self.outcome or self.stream):
            raise WaiverError("give a claim, an outcome or a stream")

    def __str__(self) -> str:
        told = f"{_STREAM}{self.stream[:16]}" if self.stream else ""
        if self.outcome is not None:
            told = f"{Failure(self.outcome, self.detail)}" + (f" of {told}" if told else "")
        if self.claim:
            told = f"{self.claim}: {told}" if told else self.claim
        return f"{told}, {self.reason}"

    def holds(self, today: date) -> bool:
        """Whether it still counts."""
        return self.until is None or today <= self.until

    def fits(self, claim: str, failure: Failure | None = None, digest: str = "") -> bool:
        """Whether it is about this failure.

        Args:
            claim: id of the claim that is broken.
            failure: of the decoder, where that is what broke it.
            digest: SHA-256 of the stream that it failed on, in hexadecimal.
        """
        if self.claim and self.claim != claim:
            return False
        if self.stream and not digest.startswith(self.stream):
            return False
        if self.outcome is None:
            return True
        if failure is None or failure.outcome is not self.outcome:
            return False
        return not self.detail or _has_words(failure.detail, self.detail)


def declared(codec: str, known: Mapping[str, str]) -> tuple[Waiver, ...]:
    """What a codec declares as its known defects, as waivers that somebody may accept.

    Args:
        codec: its name, for messages.
        known: where each is reported, by an outcome ("crashed"), an outcome with what tells it ("crashed: SIGSEGV"),
            a claim's id, or a stream ("stream:" and 16 or more digits of its SHA-256). " until 2030-12-31" may follow.

    Raises:
        ClaimError: a key is nothing of these, or nothing that fails.
    """
    return tuple(_declared(codec, key, reason) for key, reason in known.items())


def read(file: Path) -> tuple[Waiver, ...]:
    """The waivers of a TOML file, each a table ``[[waivers]]``.

    Raises:
        WaiverError: unreadable, no TOML, an unknown key, or a value that can't be right.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        check_nesting(data)
    except (OSError, ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError | SpellingError) else f"{error}"
        raise WaiverError(f"{file}: {why[:_LONGEST]}") from error
    for key in data:
        if key != "waivers":
            raise WaiverError(f"{file}: unknown key {key[:80]!r}: {nearest(key, ['waivers'], cutoff=0.6)}")
    tables = data.get("waivers")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise WaiverError(f"{file}: give waivers, each a table [[waivers]]")
    found = []
    for number, table in enumerate(tables, 1):
        try:
            found.append(_of(table))
        except WaiverError as error:
            raise WaiverError(f"{file}: waiver {number}: {error}") from error
    return tuple(found)


def accepted(waivers: Iterable[Waiver], codec: str) -> tuple[Waiver, ...]:
    """Those that are for the codec called ``codec``."""
    return tuple(waiver for waiver in waivers if waiver.codec in ("", codec))


def _of(table: Mapping[str, Any]) -> Waiver:
    for key, value in table.items():
        if key not in _KEYS:
            raise WaiverError(f"unknown key {key[:80]!r}: {nearest(key, _KEYS)}")
        if not isinstance(value, str) and not (key == "until" and isinstance(value, date)):
            raise WaiverError(f"{key} must be {'a day, as 2030-12-31' if key == 'until' else 'a string'}")
    if "reason" not in table:
        raise WaiverError("reason is missing: say where it is reported")
    texts = {key: table.get(key, "") for key in ("reason", "claim", "detail", "stream", "codec")}
    if empty := [key for key, value in table.items() if value == ""]:
        raise WaiverError(f"{empty[0]} is empty")
    outcome = _outcome(table["outcome"]) if "outcome" in table else None
    return Waiver(**texts, outcome=outcome, until=_day(table["until"]) if "until" in table else None)


def _outcome(text: str) -> Outcome:
    try:
        return Outcome(text)
    except ValueError:
        failing = [outcome.value for outcome in Outcome if outcome.failure]
        raise WaiverError(f"no outcome is called {text[:80]!r}: {nearest(text, failing)}") from None


def _day(found: str | date) -> date:
    if isinstance(found, str):
        try:
            return date.fromisoformat(found)
        except ValueError as error:
            raise WaiverError(f"until: {found[:80]!r} is no day, as 2030-12-31") from error
    if isinstance(found, datetime):
        raise WaiverError("until must be a day, as 2030-12-31, without a time")
    return found


def _declared(codec: str, key: str, reason: str) -> Waiver:
    def refuse(hint: object) -> ClaimError:
        return ClaimError(f"codec {codec!r}: known_defects has {key!r}: {hint}")

    outcome, _, detail = key.partition(": ")
    parts: dict[str, Any]
    if outcome in list(Outcome):
        parts = {"outcome": Outcome(outcome), "detail": detail}
    elif key.startswith(_STREAM):
        parts = {"stream": key.removeprefix(_STREAM)}
    else:
        try:
            check_claim(key)
        except ClaimError as error:
            failing = [o.value for o in Outcome if o.failure]
            raise refuse(nearest(outcome, failing, otherwise=f"{error}; {_failures()}")) from error
        parts = {"claim": key}
    try:
        if dated := _UNTIL.fullmatch(reason):
            reason, parts["until"] = dated["reason"], _day(dated["day"])
        return Waiver(reason, **parts)
    except WaiverError as error:
        raise refuse(error) from error


def _failures() -> str:
    return f"outcomes that fail: {', '.join(outcome.value for outcome in Outcome if outcome.failure)}"


def _has_words(text: str, words: str) -> bool:
    """Whether ``text`` has ``words``, one after the other and none of them cut."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None
