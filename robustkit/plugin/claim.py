"""A claim: where a check of the suite puts what it measured, and what fails the check in the end."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import NoReturn

import pytest

from robustkit.isolation import Decoded
from robustkit.judging.assess import Assessment
from robustkit.judging.evidence import Evidence, first_line, replay_folder
from robustkit.judging.finding import Finding, Verdict
from robustkit.judging.search import SearchResult
from robustkit.judging.shrink import Counterexample
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Clean, Trial
from robustkit.judging.waivers import Waiver
from robustkit.outcome import Failure, Outcome
from robustkit.patterns import ErrorPattern
from robustkit.plugin.options import PREFIX

#: Where a check keeps its claim, so that it is settled in the end, however the check came by it.
CLAIM: pytest.StashKey[Claim] = pytest.StashKey()


class Explained(pytest.fail.Exception):  # type: ignore[misc, name-defined]
    """A check fails, and its findings say why: whatever else ends a check is no word about the codec."""


def fail(text: str) -> NoReturn:
    """Fail a check whose findings say why."""
    raise Explained(text, pytrace=False)


@dataclass(frozen=True)
class Waivers:
    """What may be waived in a run.

    Attributes:
        accepted: by whoever tests the codec; the codec's own among them, if so.
        declared: the codec's own, accepted or not.
        today: when the run began.
    """

    accepted: Sequence[Waiver] = ()
    declared: Sequence[Waiver] = ()
    today: date = field(default_factory=date.today)

    def find(self, claim: str, failure: Failure | None, digest: str) -> tuple[Waiver | None, list[str]]:
        """The waiver that accepts a failure, or ``None`` and lines on those that would, if they held."""
        fitting = [w for w in self.accepted if w.fits(claim, failure, digest)]
        for waiver in fitting:
            if waiver.holds(self.today):
                return waiver, []
        said = [f"the waiver for it held until {waiver.until}: {waiver}" for waiver in fitting]
        said += [
            f"the codec declares it a known defect, {waiver.reason}; {PREFIX}waivers codec accepts that"
            for waiver in self.declared
            if waiver not in self.accepted and waiver.holds(self.today) and waiver.fits(claim, failure, digest)
        ]
        return None, said[:1]


class Claim:
    """What one check measured: findings for the final table, and the failure's message.

    The check fails at its end if any finding is broken, or if there is none at all; and if one is unproved, where that
    is to fail.

    Args:
        codec: under test.
        identity, title: of the claim.
        record: called with each finding.
        report_dir: where streams to replay go.
        waivers: of failures that are accepted.
        other_images: options of the run by which its images are others than those that the codec's promises speak of.
        unproved_fails: whether the check fails where a promise is not proved.
    """

    def __init__(
        self,
        codec: Subject,
        identity: str,
        title: str,
        *,
        record: Callable[[Finding], None],
        report_dir: Path,
        waivers: Waivers | None = None,
        other_images: Sequence[str] = (),
        unproved_fails: bool = True,
    ) -> None:
        self.codec = codec
        self.identity = identity
        self.title = title
        self._record = record
        self._evidence = Evidence(codec, identity, title, replay_folder(report_dir, codec.spec))
        self._findings: list[Finding] = []
        self._failures: list[tuple[list[str], str | None]] = []
        self._waivers = Waivers() if waivers is None else waivers
        self._other_images = other_images
        self._unproved_fails = unproved_fails

    @property
    def ways_out(self) -> list[str]:
        """What to do where a clean figure misses its promise, and the images are not those that it speaks of."""
        if not self._other_images:
            return []
        options = shlex.join(self._other_images)
        return [
            "the promise is not about these images; measure one that is, and judge by it:",
            f"robustkit measure --codec {shlex.quote(self.codec.name)} {options} --out FILE, then {PREFIX}profile FILE",
        ]

    def note(
        self,
        verdict: Verdict,
        measured: str,
        declared: str = "",
        *,
        severity: str = "",
        numbers: Mapping[str, float] | None = None,
        waiver: str = "",
        advice: str = "",
    ) -> None:
        """Put a line into the final table and, as JSON, into the JUnit report.

        Args:
            measured, declared: in words, with units.
            severity: how hard the stream was hit, or what was looked at.
            numbers: what was measured, for machines.
            waiver: what accepts the failure, where the verdict is waived.
            advice: what would decide it, where it is unproved.
        """
        name, claim = self.codec.name, self.identity
        finding = Finding(name, claim, self.title, severity, measured, declared, verdict, numbers or {}, waiver, advice)
        self._findings.append(finding)
        self._record(finding)

    def kept(
        self, measured: str, declared: str = "", *, severity: str = "", numbers: Mapping[str, float] | None = None
    ) -> None:
        """The claim holds at this severity."""
        self.note(Verdict.KEPT, measured, declared, severity=severity, numbers=numbers)

    def broken(
        self,
        measured: str,
        declared: str = "",
        *,
        severity: str = "",
        why: Sequence[str] = (),
        last: str | None = None,
        verdict: Verdict = Verdict.BROKEN,
        numbers: Mapping[str, float] | None = None,
        failure: Failure | None = None,
        stream: bytes = b"",
    ) -> None:
        """The claim does not hold at this severity; the check fails, unless a waiver accepts that.

        Args:
            failure: of the decoder, where that is what broke it.
            stream: that it failed on.
            why: lines that explain.
            last: the command that shows it again; it ends the message.
            measured, declared, severity, verdict, numbers: as :meth:`note` takes them.
        """
        digest = hashlib.sha256(stream).hexdigest() if failure is not None else ""
        waiver, more = self._waivers.find(self.identity, failure, digest)
        if waiver is not None:
            declared = f"{declared}; waived: {waiver.reason}" if declared else f"waived: {waiver.reason}"
            found = first_line(measured)
            self.note(Verdict.WAIVED, found, declared, severity=severity, numbers=numbers, waiver=str(waiver))
            return
        self.note(verdict, first_line(measured), declared, severity=severity, numbers=numbers)
        head = f"{severity}: " if severity else ""
        tail = f"; declared: {declared}" if declared else ""
        first, *rest = measured.splitlines()
        self._failures.append(([f"  {head}{first}{tail}", *(f"    {line}" for line in [*rest, *why, *more])], last))

    def judge(self, assessment: Assessment) -> None:
        """Put an assessment into the table; where it is broken, show the worst trial reduced to what matters."""
        measured, declared, severity = assessment.measured, assessment.declared, assessment.severity
        numbers, worst = assessment.numbers, assessment.worst
        if assessment.verdict.good or worst is None:
            self.note(assessment.verdict, measured, declared, severity=severity, numbers=numbers)
        elif assessment.verdict is Verdict.UNPROVED:
            self._unproved(assessment, self._evidence.trial(worst))
        else:
            why = list(assessment.why)
            if assessment.offends is None:
                last = self._evidence.trial(worst)
            else:
                lines, last = self._evidence.least(worst, assessment.offends)
                why += lines
            self.broken(measured, declared, severity=severity, numbers=numbers, why=why, last=last)

    def _unproved(self, assessment: Assessment, last: str) -> None:
        measured, declared, severity, advice = (
            *(assessment.measured, assessment.declared),
            *(assessment.severity, assessment.advice),
        )
        self.note(Verdict.UNPROVED, measured, declared, severity=severity, numbers=assessment.numbers, advice=advice)
        if self._unproved_fails:
            lines = [f"  {severity}: {measured}; declared: {declared}", f"    {advice}"]
            self._failures.append((lines, last))

    def settle(self) -> None:
        """Fail if anything was broken, or nothing measured."""
        if not self._failures:
            # What a check of one's own put into the table by itself.
            fails = [Verdict.BROKEN, Verdict.ERROR, *([Verdict.UNPROVED] if self._unproved_fails else [])]
            bad = [f for f in self._findings if f.verdict in fails]
            self._failures += [([f"  {f.verdict}: {f.measured}"], None) for f in bad]
        if self._failures:
            worse = {f.verdict for f in self._findings} & {Verdict.BROKEN, Verdict.UNPROVED, Verdict.ERROR}
            said = "is not proved" if worse == {Verdict.UNPROVED} else "does not hold"
            lines = [f"{self.codec.name}: {self.title}: {said}"]
            for text, _ in self._failures:
                lines += text
            lines += [last for _, last in self._failures if last is not None][:1]
            fail("\n".join(lines))
        if not self._findings:
            pytest.fail(f"{self.codec.name}: {self.title}: the check measured nothing", pytrace=False)

    def survives(self, result: SearchResult, *, severity: str = "") -> None:
        """Judge a search: no stream may crash the decoder. Each kind of failure has its line, the worst first."""
        if not result.planned or not result.streams:
            pytest.skip(f"the streams of {self.codec.name} have nothing to damage so")
        numbers = {"streams": float(result.streams), **{str(o): float(n) for o, n in result.outcomes.items()}}
        if not result.kinds:
            self.kept(str(result), "no failure", severity=severity, numbers=numbers)
            return
        self.note(Verdict.NOTED, str(result), severity=severity, numbers=numbers)
        seen: Counter[Outcome] = Counter()
        for kind in result.kinds:
            outcome = kind.failure.outcome
            seen[outcome] += 1
            name = f"{outcome}-{seen[outcome]}" if seen[outcome] > 1 else str(outcome)
            last = self._evidence.counterexample(kind.example, name)
            why = self._evidence.explain(kind.example, least=kind.least)
            self.broken(
                f"{kind.count:,} stream{'' if kind.count == 1 else 's'}: {first_line(kind.example.decoded.message)}",
                "no failure",
                severity=str(outcome),
                why=why if kind is result.kinds[0] else [*why, last],
                last=last,
                numbers={"failures": float(kind.count)},
                failure=kind.failure,
                stream=kind.example.stream,
            )

    def trials_survive(self, trials: Sequence[Trial]) -> None:
        """Judge trials: none may crash the decoder."""
        failed = [t for t in trials if t.outcome.failure]
        if not failed:
            self.kept(f"0 of {len(trials)} trials", "no failure", numbers={"trials": float(len(trials))})
            return
        by_waiver: dict[Waiver | None, list[Trial]] = {}
        for trial in failed:
            by_waiver.setdefault(self._waiver(trial), []).append(trial)
        for waiver, found in by_waiver.items():
            worst = found[0]
            failure, stream = self._failure(worst)
            why: list[str] = []
            last = None
            if waiver is None:
                why, last = self._evidence.least(worst, _same_outcome(worst))
            self.broken(
                f"{len(found)} of {len(trials)} trials: {', '.join(sorted({t.outcome.value for t in found}))}",
                "no failure",
                severity=str(worst.channel),
                why=why,
                last=last,
                numbers={"trials": float(len(trials)), "failures": float(len(found))},
                failure=failure,
                stream=stream,
            )

    def _failure(self, trial: Trial) -> tuple[Failure | None, bytes]:
        """Which kind of failure a trial shows, and the stream that it came of."""
        stream = trial.pattern.apply(self.codec.clean[trial.image].bitstream)
        return Decoded(None, trial.outcome, trial.message).failure, stream

    def _waiver(self, trial: Trial) -> Waiver | None:
        failure, stream = self._failure(trial)
        return self._waivers.find(self.identity, failure, hashlib.sha256(stream).hexdigest())[0]

    def replay_counterexample(self, found: Counterexample, name: str = "") -> str:
        """Keep the stream, and say how to decode it again; ``name`` tells it from others of this claim."""
        return self._evidence.counterexample(found, name)

    def replay_trial(self, trial: Trial) -> str:
        """Keep the trial's stream, and say how to decode it again."""
        return self._evidence.trial(trial)

    def replay_clean(self, clean: Clean, pattern: ErrorPattern | None = None) -> str:
        """Keep a clean stream, or the one that ``pattern`` makes of it, and say how to decode it again."""
        return self._evidence.clean(clean, pattern)


def _same_outcome(trial: Trial) -> Callable[[Trial], bool]:
    return lambda other: other.outcome is trial.outcome
