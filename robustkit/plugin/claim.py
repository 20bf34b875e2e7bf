"""A claim: where a check of the suite puts what it measured, and what fails the check in the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from robustkit.judging.assess import Assessment
from robustkit.judging.evidence import Evidence, first_line
from robustkit.judging.finding import Finding, Verdict
from robustkit.judging.search import SearchResult
from robustkit.judging.shrink import Counterexample
from robustkit.judging.subject import Subject, slug
from robustkit.judging.trial import Clean, Trial
from robustkit.outcome import Failure, Outcome
from robustkit.patterns import ErrorPattern
from robustkit.plugin.options import PREFIX
from robustkit.statistics import trials_to_prove

#: Where a check keeps its claim, so that it is settled in the end, however the check came by it.
CLAIM: pytest.StashKey[Claim] = pytest.StashKey()


class Claim:
    """What one check measured: findings for the final table, and the failure's message.

    The check fails at its end if any finding is broken or unproved, or if there is none at all.

    Args:
        codec: under test.
        identity, title: of the claim.
        record: called with each finding.
        report_dir: where streams to replay go.
    """

    def __init__(
        self, codec: Subject, identity: str, title: str, *, record: Callable[[Finding], None], report_dir: Path
    ) -> None:
        self.codec = codec
        self.identity = identity
        self.title = title
        self._record = record
        self._evidence = Evidence(codec, identity, title, report_dir / "replay" / slug(codec.name))
        self._findings: list[Finding] = []
        self._failures: list[tuple[list[str], str | None]] = []
        self._known: list[str] = []

    def note(
        self,
        verdict: Verdict,
        measured: str,
        declared: str = "",
        *,
        severity: str = "",
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Put a line into the final table and, as JSON, into the JUnit report.

        Args:
            measured, declared: in words, with units.
            severity: how hard the stream was hit, or what was looked at.
            numbers: what was measured, for machines.
        """
        name, claim = self.codec.name, self.identity
        finding = Finding(name, claim, self.title, severity, measured, declared, verdict, numbers or {})
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
        """The claim does not hold at this severity.

        Args:
            failure: of the decoder, where that is what broke it.
            stream: that it failed on.
            why: lines that explain.
            last: the command that shows it again; it ends the message.
            measured, declared, severity, verdict, numbers: as :meth:`note` takes them.
        """
        self.note(verdict, first_line(measured), declared, severity=severity, numbers=numbers)
        head = f"{severity}: " if severity else ""
        tail = f"; declared: {declared}" if declared else ""
        first, *rest = measured.splitlines()
        self._failures.append(([f"  {head}{first}{tail}", *(f"    {line}" for line in [*rest, *why])], last))

    def judge(self, assessment: Assessment) -> None:
        """Put an assessment into the table; where it is broken, show the worst trial reduced to what matters."""
        measured, declared, severity = assessment.measured, assessment.declared, assessment.severity
        numbers, worst = assessment.numbers, assessment.worst
        if assessment.verdict.good or worst is None:
            self.note(assessment.verdict, measured, declared, severity=severity, numbers=numbers)
        elif assessment.verdict is Verdict.UNPROVED:
            least = math.ceil(trials_to_prove(0.05) / len(self.codec.images))
            enough = max(4 * self.codec.trials_per_image, least)
            self.broken(
                measured,
                declared,
                severity=severity,
                numbers=numbers,
                verdict=Verdict.UNPROVED,
                why=[f"too few trials to tell: run with {PREFIX}trials {enough}"],
                last=self._evidence.trial(worst),
            )
        else:
            why = list(assessment.why)
            if assessment.offends is None:
                last = self._evidence.trial(worst)
            else:
                lines, last = self._evidence.least(worst, assessment.offends)
                why += lines
            self.broken(measured, declared, severity=severity, numbers=numbers, why=why, last=last)

    def known(
        self,
        outcome: Outcome,
        measured: str,
        *,
        severity: str = "",
        last: str,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """A failure that the codec declares as a known defect: the claim does not hold, and that is expected.

        Args:
            outcome: which.
            last: the command that shows it again.
            measured, severity, numbers: as :meth:`note` takes them.
        """
        where = self.codec.known_defects[outcome]
        self.note(Verdict.KNOWN, measured, f"no failure; {where}", severity=severity, numbers=numbers)
        self._known.append(f"{measured}; known: {where}\n{last}")

    def settle(self) -> None:
        """Fail if anything was broken, or nothing measured; a known defect fails as expected."""
        if not self._failures:
            # What a check of one's own put into the table by itself.
            bad = [f for f in self._findings if f.verdict in (Verdict.BROKEN, Verdict.UNPROVED, Verdict.ERROR)]
            self._failures += [([f"  {f.verdict}: {f.measured}"], None) for f in bad]
        where = self.codec.known_defects.get(self.identity)
        if self._failures and where is not None:
            self._known += ["\n".join([*text, f"known: {where}"]) for text, _ in self._failures]
        elif self._failures:
            lines = [f"{self.codec.name}: {self.title}: does not hold"]
            for text, _ in self._failures:
                lines += text
            lines += [last for _, last in self._failures if last is not None][:1]
            pytest.fail("\n".join(lines), pytrace=False)
        if self._known:
            pytest.xfail("\n".join(self._known))
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
            measured = f"{kind.count:,} streams: {first_line(kind.example.decoded.message)}"
            count = {"failures": float(kind.count)}
            if outcome in self.codec.known_defects:
                self.known(outcome, measured, severity=str(outcome), last=last, numbers=count)
                continue
            why = self._evidence.explain(kind.example, least=kind.least)
            self.broken(
                measured,
                "no failure",
                severity=str(outcome),
                why=why if kind is result.kinds[0] else [*why, last],
                last=last,
                numbers=count,
                failure=kind.failure,
                stream=kind.example.stream,
            )

    def trials_survive(self, trials: Sequence[Trial]) -> None:
        """Judge trials: none may crash the decoder."""
        known = [t for t in trials if t.outcome in self.codec.known_defects]
        if known:
            first = known[0]
            measured = f"{len(known)} of {len(trials)} trials: {first.outcome}"
            numbers = {"trials": float(len(trials)), "failures": float(len(known))}
            last = self._evidence.trial(first)
            self.known(first.outcome, measured, severity=str(first.channel), last=last, numbers=numbers)
        failed = [t for t in trials if t.outcome.failure and t not in known]
        if not failed:
            if not known:
                self.kept(f"0 of {len(trials)} trials", "no failure", numbers={"trials": float(len(trials))})
            return
        worst = failed[0]
        why, last = self._evidence.least(worst, lambda t: t.outcome is worst.outcome)
        self.broken(
            f"{len(failed)} of {len(trials)} trials: {', '.join(sorted({t.outcome.value for t in failed}))}",
            "no failure",
            severity=str(worst.channel),
            why=why,
            last=last,
            numbers={"trials": float(len(trials)), "failures": float(len(failed))},
        )

    def replay_counterexample(self, found: Counterexample, name: str = "") -> str:
        """Keep the stream, and say how to decode it again; ``name`` tells it from others of this claim."""
        return self._evidence.counterexample(found, name)

    def replay_trial(self, trial: Trial) -> str:
        """Keep the trial's stream, and say how to decode it again."""
        return self._evidence.trial(trial)

    def replay_clean(self, clean: Clean, pattern: ErrorPattern | None = None) -> str:
        """Keep a clean stream, or the one that ``pattern`` makes of it, and say how to decode it again."""
        return self._evidence.clean(clean, pattern)
