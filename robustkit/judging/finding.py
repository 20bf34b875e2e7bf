"""Claims and their stable ids, verdicts, findings, and what a run as a whole says of a codec."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    NOT_DISPROVED = "not disproved"  #: nothing speaks against a limit that is too small for the effort to prove
    BROKEN = "broken"  #: there is a counterexample, or the whole interval is beyond the limit
    UNPROVED = "unproved"  #: the limit is inside the interval: more trials may tell
    NOTED = "noted"  #: measured, and nothing was promised
    WAIVED = "waived"  #: it fails, and the tester has accepted that
    BLOCKED = "blocked"  #: the clean round trip fails, so nothing else can be said
    SKIPPED = "skipped"  #: not checked, with the reason
    ERROR = "error"  #: it could not be checked: the trouble is the kit's, the machine's or the run's

    @property
    def good(self) -> bool:
        """Whether a claim may show it and still hold."""
        return self in (Verdict.KEPT, Verdict.NOT_DISPROVED, Verdict.NOTED)


#: Exit status of a run in which no claim is broken, and a promise is not proved. pytest's own are 0 to 5.
NOT_PROVED = 10

#: Of several lines on one claim, the one that stands last here tells.
_WORSE = (
    *(Verdict.SKIPPED, Verdict.NOTED, Verdict.KEPT, Verdict.NOT_DISPROVED, Verdict.WAIVED),
    *(Verdict.UNPROVED, Verdict.ERROR, Verdict.BLOCKED, Verdict.BROKEN),
)

#: The suite's claims: stable ids, which files and machines name, and titles, which people read.
CLAIMS: Mapping[str, str] = {
    "clean.round-trip": "clean round trip meets the declared quality and rate",
    "clean.odd-sizes": "odd sizes come back as they were",
    "clean.large-image": "a large image comes back as it was",
    "encode.deterministic": "encoding is deterministic",
    "decode.deterministic": "decoding is deterministic",
    "decode.needs-only-the-stream": "decoding needs nothing but the stream",
    "decode.batch-equals-single": "decoding a batch equals decoding singly",
    "decode.cross-platform": "another platform decodes the same",
    "decode.jitter": "one ulp does not desynchronise",
    "layout.names-every-bit": "layout names every bit",
    "layout.payload-matters": "payload bits change the picture",
    "degradation.quality": "quality degrades within the declared thresholds",
    "degradation.corrupted": "corrupted share stays within the declared",
    "degradation.refused": "refused share stays within the declared",
    "decode.survives.trials": "trials never crash the decoder",
    "degradation.monotone": "more damage is never better",
    "degradation.regression": "golden drops are not exceeded",
    "golden.matches": "golden reconstructions match",
    "golden.no-orphans": "golden has no orphans",
    "decode.survives.bit-flips": "decode survives bit flips",
    "decode.survives.bursts": "decode survives bursts",
    "decode.survives.header-flips": "decode survives header flips",
    "decode.survives.header-bits": "decode survives each flip of its header",
    "decode.survives.truncation": "decode survives truncation",
    "decode.survives.appended-bytes": "decode survives appended bytes",
    "decode.survives.mixed-damage": "decode survives mixed damage",
    "decode.survives.garbage": "decode survives garbage",
    "decode.survives.empty-stream": "decode survives the empty stream",
    "decode.bounded-work": "damage makes no decode much slower or larger",
    "decode.leaves-nothing-behind": "decoding leaves no damage behind",
}
#: Compared with what was recorded, if anything was, and so no promise.
_RECORDED = "degradation.regression"
_PROMISES = tuple(claim for claim in CLAIMS if claim.startswith("degradation.") and claim != _RECORDED)
_SEARCHES = frozenset(c for c in CLAIMS if c.startswith("decode.survives.") and c != "decode.survives.trials")
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
        waiver: what accepts the failure, and where it is reported, where the verdict is waived.
        advice: what would decide it, where it is unproved.
    """

    codec: str
    claim: str
    title: str
    severity: str
    measured: str
    declared: str
    verdict: Verdict
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    waiver: str = ""
    advice: str = ""

    def __post_init__(self) -> None:
        finite = {k: float(v) if v is not None and math.isfinite(v) else None for k, v in self.numbers.items()}
        object.__setattr__(self, "numbers", finite)

    @property
    def word(self) -> str:
        """The verdict as the table has it; of a share that is not disproved, with what is still possible."""
        high = self.numbers.get("high")
        if self.verdict is not Verdict.NOT_DISPROVED or high is None or "share" not in self.declared:
            return self.verdict
        return f"{self.verdict} (up to {high:.1%})"

    def to_json(self) -> str:
        """The finding as JSON that every reader takes: no NaN, no Infinity."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Finding:
        """Read what :meth:`to_json` wrote."""
        data = json.loads(text)
        return cls(**{**data, "verdict": Verdict(data["verdict"])})


class Said(StrEnum):
    """What a run may say of a codec."""

    CONFORMS = "conforms"  #: every claim of the suite holds, or was skipped with its reason; no promise is unproved
    NO_PROMISES = "no promises"  #: nothing was promised under damage, and nothing was found
    BROKEN = "does not conform"  #: the codec breaks a claim
    UNPROVED = "not proved"  #: no claim is broken, and the trials don't prove every promise
    NOT_CERTIFIED = "not certified"  #: a part was left out, could not be checked, or is accepted though it fails


@dataclass(frozen=True)
class RunVerdict:
    """What a run says of one codec.

    Attributes:
        text: in one line.
        said: which of the few things that can be said.
        fails: whether the run must not end with exit status 0. What the tester chose, a part, a waiver or a looser
            profile, certifies nothing and fails nothing.
    """

    text: str
    said: Said
    fails: bool

    @property
    def good(self) -> bool:
        """Whether that is good news."""
        return self.said in (Said.CONFORMS, Said.NO_PROMISES)


def states(findings: Iterable[Finding]) -> dict[str, Verdict]:
    """The state of each claim by its id: the worst of its lines."""
    found: dict[str, Verdict] = {}
    for finding in findings:
        found[finding.claim] = max(found.get(finding.claim, finding.verdict), finding.verdict, key=_WORSE.index)
    return found


def run_verdict(
    codec: str,
    findings: Iterable[Finding],
    *,
    promising: bool = True,
    loosened: Sequence[str] = (),
    trouble: str | None = None,
    unproved_fails: bool = True,
) -> RunVerdict:
    """What all findings on one codec say together.

    Args:
        codec: as it was asked for.
        findings: all lines; a claim of the suite without any was left out.
        promising: whether the codec promises anything under damage.
        loosened: what the profile allows beyond the codec's own promises.
        trouble: why the run as a whole can't be trusted, if so.
        unproved_fails: whether the run fails where a promise is not proved, and nothing worse is found.
    """
    lines = list(findings)
    claims = states(lines)
    count = Counter(claims.values())
    total, skipped = len(claims), count[Verdict.SKIPPED]
    held, unproved = sum(number for verdict, number in count.items() if verdict.good), _unproved(lines)
    aside = f" ({skipped} not checked)" if skipped else ""
    parts = [
        (count[Verdict.BROKEN], f"{count[Verdict.BROKEN]} of {total} claims broken"),
        (count[Verdict.BLOCKED], f"{count[Verdict.BLOCKED]} of {total} blocked by the clean round trip"),
        (count[Verdict.ERROR], f"{count[Verdict.ERROR]} of {total} claims could not be checked: {_reasons(lines)}"),
        (unproved, f"{unproved} promise{'s are' if unproved > 1 else ' is'} not proved"),
        (count[Verdict.WAIVED], f"{count[Verdict.WAIVED]} of {total} claims waived ({_waivers(lines)})"),
    ]
    said = [text for number, text in parts if number]
    if trouble is not None:
        said.append(trouble)
    if loosened:
        said.append(f"loosened profile: {'; '.join(loosened)}")

    def verdict(kind: Said, text: str, *, fails: bool = False) -> RunVerdict:
        return RunVerdict(f"{codec}: {kind}: {text}{aside}", kind, fails)

    if count[Verdict.BROKEN] or count[Verdict.BLOCKED]:
        return verdict(Said.BROKEN, "; ".join(said), fails=True)
    if unproved and not count[Verdict.ERROR] and trouble is None:
        return verdict(Said.UNPROVED, "; ".join(said), fails=unproved_fails)
    fails = bool(count[Verdict.ERROR] or trouble is not None)
    if total == skipped:
        return verdict(Said.NOT_CERTIFIED, "; ".join([*said, "nothing was checked"]), fails=fails)
    if not CLAIMS.keys() <= claims.keys():
        said.append(f"{held} of {total - skipped} claims hold; others were left out")
    if promising and (bare := [c for c in _PROMISES if claims.get(c) is Verdict.SKIPPED]):
        said.append(f"promises were not judged: {', '.join(bare)}")
    streams = _streams(lines)
    if not promising and not streams and not said:
        said.append("no stream was searched")
    if said:
        return verdict(Said.NOT_CERTIFIED, "; ".join(said), fails=fails)
    if not promising:
        return verdict(Said.NO_PROMISES, f"nothing found in {streams} streams")
    return verdict(Said.CONFORMS, f"{held} of {total} claims hold")


def _unproved(findings: Iterable[Finding]) -> int:
    """How many promises are unproved and no worse."""
    return len({f.severity or f.claim for f in findings if f.verdict is Verdict.UNPROVED})


def _reasons(findings: Iterable[Finding], most: int = 2) -> str:
    reasons = list(dict.fromkeys(f.measured for f in findings if f.verdict is Verdict.ERROR))
    more = f"; and {len(reasons) - most} more reasons" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more


def _waivers(findings: Iterable[Finding]) -> str:
    return ", ".join(dict.fromkeys(f.waiver for f in findings if f.verdict is Verdict.WAIVED))


def _streams(findings: Iterable[Finding]) -> int:
    """How many damaged streams the searches decoded."""
    return sum(
        int(f.numbers["streams"] or 0)
        if "streams" in f.numbers
        else int(sum(f.numbers.get(outcome) or 0 for outcome in Outcome))
        for f in findings
        if f.claim in _SEARCHES
    )
