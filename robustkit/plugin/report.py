"""The report: findings gathered from the checks' reports, the final table, and one line on each codec."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Generator, Iterable, Mapping
from typing import Any

import pytest

from robustkit.judging.finding import CLAIMS, OWN, Finding, Verdict, check_claim, own_claim, run_verdict
from robustkit.registry import CodecSpec
from robustkit.spelling import printable

#: Of the user properties that carry findings, in the JUnit report too.
PROPERTY = "robustkit"
#: Of the user property that says which codec and claim a check examines.
CHECK = f"{PROPERTY}.check"

#: ``@pytest.mark.robustkit_claim("decode.deterministic")``: the claim that a check examines.
MARKER = "robustkit_claim"


def claim_of(item: pytest.Item) -> tuple[str, str]:
    """Id and title of the claim that a check examines: by its marker, or else by its function's name.

    Raises:
        ClaimError: the marker names no claim.
    """
    marker = item.get_closest_marker(MARKER)
    if marker is None or not marker.args:
        return own_claim(getattr(item, "originalname", None) or item.name)
    identity = str(marker.args[0])
    check_claim(identity)
    return identity, CLAIMS.get(identity, identity.removeprefix(OWN).replace("-", " "))


#: Of the verdicts on one claim, the later one tells.
_WORSE = (Verdict.SKIPPED, Verdict.KEPT, Verdict.KNOWN, Verdict.BLOCKED, Verdict.BROKEN)
_COLOURS = {
    Verdict.KEPT: "green",
    Verdict.NOTED: "",
    **dict.fromkeys((Verdict.SKIPPED, Verdict.BLOCKED, Verdict.KNOWN), "yellow"),
}


def tag(item: pytest.Item, codec: str) -> None:
    """Say in a check's reports which codec and claim it examines.

    Raises:
        ClaimError: its marker names no claim.
    """
    item.user_properties.append((CHECK, json.dumps([codec, *claim_of(item)])))


def record(item: pytest.Item, finding: Finding) -> None:
    """Put a finding into a check's reports."""
    item.user_properties.append((PROPERTY, finding.to_json()))


class Report:
    """What the checks of one run found, codec by codec.

    Args:
        specs: the codecs, in the order of the table.
    """

    def __init__(self, specs: Iterable[CodecSpec]) -> None:
        self.specs = list(specs)
        self.findings: list[Finding] = []
        self.claims: dict[str, dict[str, Verdict]] = {}
        self.loosened: dict[str, list[str]] = {}
        self._failed = 0
        self.known_defects: dict[str, Mapping[str, str]] = {}

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Forget what a check found when it was run before: a plugin may run it again."""
        item.user_properties[:] = [(key, value) for key, value in item.user_properties if key != PROPERTY]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A codec's words reach a terminal, an XML file, xdist's controller: what they can't take becomes an escape."""
        report = yield
        if any(key == CHECK for key, _ in report.user_properties):
            if isinstance(report.longrepr, tuple):
                path, line, reason = report.longrepr
                report.longrepr = (path, line, printable(reason))
            elif report.longrepr is not None and printable(text := str(report.longrepr)) != text:
                report.longrepr = printable(text)
            if hasattr(report, "wasxfail"):
                report.wasxfail = printable(report.wasxfail)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather what a check measured; under xdist the reports come from the workers."""
        if report.failed and report.when in ("setup", "call", "teardown"):
            self._failed += 1
        if report.outcome not in ("passed", "failed", "skipped"):
            return  # to be run again, says pytest-rerunfailures
        checks = [json.loads(str(value)) for key, value in report.user_properties if key == CHECK]
        if not checks:
            return
        codec, claim, title = checks[-1]
        rows = [Finding.from_json(str(v)) for k, v in report.user_properties if k == PROPERTY]
        # All phases' reports carry the findings: they are taken from the one in which the check ends.
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self.findings += rows
        verdicts = {row.verdict for row in rows}
        if report.failed:
            blocked = report.when == "setup" and Verdict.BLOCKED in verdicts
            self._claim(codec, claim, Verdict.BLOCKED if blocked else Verdict.BROKEN)
            explained = verdicts & {Verdict.BROKEN, Verdict.UNPROVED, Verdict.BLOCKED}
            if not explained or report.when == "teardown":
                measured = _last_line(str(report.longreprtext)).partition(";")[0]
                self.findings.append(Finding(codec, claim, title, "", measured, "", Verdict.ERROR))
        elif report.skipped and hasattr(report, "wasxfail"):
            self._claim(codec, claim, Verdict.KNOWN)
        elif report.skipped:
            self._claim(codec, claim, Verdict.SKIPPED)
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
            reason = reason.removeprefix("Skipped: ").partition(";")[0]
            self.findings.append(Finding(codec, claim, title, "", reason, "", Verdict.SKIPPED))
        elif report.when == "call":
            # With --runxfail, what is known to fail comes as passed.
            self._claim(codec, claim, Verdict.KNOWN if Verdict.KNOWN in verdicts else Verdict.KEPT)

    def _claim(self, codec: str, claim: str, verdict: Verdict) -> None:
        """Several checks may be about one claim: the worst of them tells."""
        claims = self.claims.setdefault(codec, {})
        claims[claim] = max(claims.get(claim, verdict), verdict, key=_WORSE.index)

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        """Print the table and the verdicts."""
        usage_error = exitstatus == pytest.ExitCode.USAGE_ERROR
        if terminalreporter.config.getoption("collectonly") or (usage_error and not self.claims):
            return
        terminalreporter.section("robustkit")
        # Into a file or a CI log there is no terminal to ask how wide it is.
        width = min(terminalreporter._tw.fullwidth, 160) if sys.stdout.isatty() else 120
        terminalreporter.write(self._table(width, colour=terminalreporter._tw.hasmarkup))
        stats = terminalreporter.stats
        for spec in self.specs:
            if not self.claims.get(spec.name):
                terminalreporter.write_line(f"{spec.name}: not checked: no test examined it", red=True, bold=True)
                continue
            found = run_verdict(
                spec.name,
                self.claims[spec.name],
                loosened=self.loosened.get(spec.name, []),
                known_defects=self.known_defects.get(spec.name),
                trouble=self._trouble(int(exitstatus), stats),
                left_out=not CLAIMS.keys() <= self.claims[spec.name].keys(),
            )
            text = printable(found.text, lines=False)
            terminalreporter.write_line(text, green=found.good, red=not found.good, bold=True)

    def _trouble(self, exitstatus: int, stats: Mapping[str, list[Any]]) -> str | None:
        """Why the run did not end well, other than by what the findings say."""
        failed = len(stats.get("failed", [])) + len(stats.get("error", []))
        # Tests that fail have their line: those of this suite in the table, those of another are no codec's business.
        # What is left did not collect, or took its worker along.
        if exitstatus == 0 or (exitstatus == 1 and failed <= self._failed):
            return None
        return f"the run did not end well (exit status {exitstatus})"

    def _table(self, width: int, *, colour: bool) -> str:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        out = io.StringIO()
        console = Console(file=out, width=width, force_terminal=colour, no_color=not colour, highlight=False)
        for spec in self.specs:
            rows = [row for row in self.findings if row.codec == spec.name]
            if not rows:
                continue
            table = Table(title=spec.name, title_justify="left", title_style="bold", pad_edge=False, box=None)
            for column in ("claim", "severity", "measured", "declared", "verdict"):
                table.add_column(column, overflow="fold", header_style="bold")
            last = ""
            for row in rows:
                table.add_row(
                    Text("" if row.claim == last else row.title),
                    Text(printable(row.severity)),
                    Text(printable(row.measured)),
                    Text(printable(row.declared)),
                    Text(row.verdict, style=_COLOURS.get(row.verdict, "red")),
                )
                last = row.claim
            console.print(table)
            console.print()
        return out.getvalue()


def _last_line(text: str) -> str:
    lines = [line.removeprefix("E ").strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
