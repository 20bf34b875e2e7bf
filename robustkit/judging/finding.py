"""Claims and their stable ids, verdicts, findings, and what a run as a whole says of a codec."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from robustkit.errors import RobustkitError
from robustkit.outcome import Outcome
from robustkit.spelling import nearest


class ClaimError(RobustkitError, ValueError):
    """A name that is no claim's id; the message gives the id that was meant."""


class Verdict(StrEnum):
    """What is said of a claim, or of one line of it."""

    KEPT = "kept"  #: it holds; of a promise, the whole interval is within the limit
    BROKEN = "broken"  #: there is a counterexample, or the whole interval is beyond the limit
    UNPROVED = "unproved"  #: the limit is inside the interval: more images or trials would tell
    NOTED = "noted"  #: measured, and nothing was promised
    KNOWN = "known defect"  #: it fails as the codec says it does
    BLOCKED = "blocked"  #: the clean round trip fails, so nothing else can be said
    SKIPPED = "skipped"  #: not checked, with the reason
    ERROR = "error"  #: the check itself failed

    @property
    def good(self) -> bool:
        """Whether a claim may show it and still hold."""
        return self in (Verdict.KEPT, Verdict.NOTED)


#: The suite's claims: stable ids, which files and machines name, and titles, which people read.
CLAIMS: Mapping[str, str] = {
    "clean.round-trip": "clean round trip meets the declared quality and rate",
    "clean.large-image": "a large image comes back as it was",
    "encode.deterministic": "encoding is deterministic",
    "decode.deterministic": "decoding is deterministic",
    "decode.batch-equals-single": "decoding a batch equals decoding singly",
    "layout.names-every-bit": "layout names every bit",
    "layout.payload-matters": "layout tells header from payload",
    "degradation.quality": "quality degrades within the declared thresholds",
    "degradation.corrupted": "corrupted share stays within the declared",
    "degradation.refused": "refused share stays within the declared",
    "decode.survives.trials": "trials never crash the decoder",
    "degradation.monotone": "more damage is never better",
    "golden.matches": "golden reconstructions match",
    "golden.no-orphans": "golden has no orphans",
    "decode.survives.bit-flips": "decode survives bit flips",
    "decode.survives.bursts": "decode survives bursts",
    "decode.survives.header-flips": "decode survives header flips",
    "decode.survives.truncation": "decode survives truncation",
    "decode.survives.appended-bytes": "decode survives appended bytes",
    "decode.survives.mixed-damage": "decode survives mixed damage",
    "decode.survives.garbage": "decode survives garbage",
    "decode.survives.empty-stream": "decode survives the empty stream",
}
#: Before the ids of checks that somebody wrote for a codec of their own.
OWN = "own."


def own_claim(function: str) -> tuple[str, str]:
    """Id and title of a check that names no claim, from its function's name."""
    words = function.removeprefix("test_")
    return OWN + (re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "check"), words.replace("_", " ")


def check_claim(name: str) -> None:
    """Refuse what is no claim's id.

    Raises:
        ClaimError: the message gives the id of a title, or the nearest ids.
    """
    if name in CLAIMS or name.startswith(OWN):
        return
    for identity, title in CLAIMS.items():
        if name == title:
            raise ClaimError(f"{name!r} is a claim's title; its id is {identity!r}")
    raise ClaimError(f"no claim has the id {name!r}: {nearest(name, CLAIMS)}")


def check_known_defects(codec: str, known: Mapping[str, str]) -> None:
    """Refuse known defects that nothing would ever match.

    Raises:
        ClaimError: a key is neither a failing outcome nor a claim's id.
    """
    failures = [outcome.value for outcome in Outcome if outcome.failure]
    for key in known:
        if key in failures:
            continue
        try:
            check_claim(key)
        except ClaimError as error:
            listed = f"outcomes that fail: {', '.join(failures)}"
            passing = key in list(Outcome)
            hint = listed if passing else nearest(key, failures, otherwise=f"{error}; {listed}")
            raise ClaimError(f"codec {codec!r}: known_defects has {key!r}: {hint}") from error


@dataclass(frozen=True)
class Finding:
    """One line of what was found out about a codec.

    Attributes:
        codec: as it was asked for.
        claim: the claim's id.
        title: the claim in words.
        severity: how hard the stream was hit, or what was looked at.
        measured, declared: in words, with units.
        verdict: of this line.
        numbers: what was measured, for machines; ``None`` for a number that is not finite.
    """

    codec: str
    claim: str
    title: str
    severity: str
    measured: str
    declared: str
    verdict: Verdict
    numbers: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        finite = {k: float(v) if v is not None and math.isfinite(v) else None for k, v in self.numbers.items()}
        object.__setattr__(self, "numbers", finite)

    def to_json(self) -> str:
        """The finding as JSON that every reader takes: no NaN, no Infinity."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Finding:
        """Read what :meth:`to_json` wrote."""
        data = json.loads(text)
        return cls(**{**data, "verdict": Verdict(data["verdict"])})


@dataclass(frozen=True)
class RunVerdict:
    """What a run says of one codec.

    Attributes:
        text: in one line.
        good: whether that is good news.
    """

    text: str
    good: bool


def run_verdict(
    codec: str,
    claims: Mapping[str, Verdict],
    *,
    loosened: tuple[str, ...] | list[str] = (),
    known_defects: Mapping[str, str] | None = None,
    trouble: str | None = None,
    left_out: bool = False,
) -> RunVerdict:
    """What all claims of one codec say together.

    Args:
        codec: as it was asked for.
        claims: the verdict of each claim by its id; unproved and error count as broken.
        loosened: what the profile allows beyond the codec's own promises.
        known_defects: the codec's own.
        trouble: why the run as a whole can't be trusted, if so.
        left_out: whether parts of the suite were.
    """
    verdicts = list(claims.values())
    blocked, skipped, known = (verdicts.count(v) for v in (Verdict.BLOCKED, Verdict.SKIPPED, Verdict.KNOWN))
    broken = sum(v in (Verdict.BROKEN, Verdict.UNPROVED, Verdict.ERROR) for v in verdicts)
    total, checked = len(verdicts), len(verdicts) - skipped
    aside = f" ({skipped} not checked)" if skipped else ""
    if broken or blocked:
        parts = [f"{broken} of {total} claims broken"] if broken else []
        parts += [f"{blocked} of {total} blocked by the clean round trip"] if blocked else []
        parts += [f"{known} of {total} by known defects"] if known else []
        return RunVerdict(f"{codec}: does not conform: {', '.join(parts)}{aside}", False)
    if not checked:
        return RunVerdict(f"{codec}: not checked{aside}", False)
    if loosened:
        return RunVerdict(f"{codec}: non-certifying: loosened profile: {'; '.join(loosened)}", False)
    if trouble is not None:
        return RunVerdict(f"{codec}: not certified: {trouble}", False)
    if known:
        reports = ", ".join(dict.fromkeys((known_defects or {}).values()))
        said = f"{codec}: does not conform: {known} of {total} claims broken by known defects ({reports}){aside}"
        return RunVerdict(said, False)
    if left_out:
        return RunVerdict(f"{codec}: {checked} of {checked} claims hold; others were left out{aside}", True)
    return RunVerdict(f"{codec}: conforms: {checked} of {total} claims hold{aside}", True)
