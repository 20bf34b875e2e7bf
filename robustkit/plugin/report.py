"""The report: findings gathered from the checks' reports, the final table, and one line on each codec."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Generator, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustkit.judging.finding import (
    CLAIMS,
    NOT_PROVED,
    OWN,
    Finding,
    RunVerdict,
    Verdict,
    check_claim,
    own_claim,
    run_verdict,
)
from robustkit.registry import CodecSpec
from robustkit.spelling import place, printable

if TYPE_CHECKING:
    from robustkit.judging.waivers import Waiver

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


#: Verdicts with which a check may end well.
_PASSING = (Verdict.KEPT, Verdict.NOT_DISPROVED, Verdict.NOTED, Verdict.SKIPPED, Verdict.WAIVED)
#: Of what a finding quotes.
_LONGEST = 300
_COLOURS = {
    Verdict.KEPT: "green",
    Verdict.NOT_DISPROVED: "green",
    Verdict.NOTED: "",
    **dict.fromkeys((Verdict.SKIPPED, Verdict.BLOCKED, Verdict.WAIVED, Verdict.UNPROVED), "yellow"),
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
        waivers: that the tester accepts, in the order of their files.
        unproved_fails: whether a promise that is not proved fails the run.

    Attributes:
        about: what the run depends on, for the JUnit report.
        loosened: what the profile allows beyond the promises of each codec.
        promising: whether each codec promises anything under damage.
        own_waivers: what each codec declares itself, where the tester accepts that.
        unasked: why a codec could not be asked, at the start, what its verdict depends on.
    """

    def __init__(
        self, specs: Iterable[CodecSpec], waivers: Sequence[Waiver] = (), *, unproved_fails: bool = True
    ) -> None:
        self.specs = list(specs)
        self.about: dict[str, str] = {}
        self.loosened: dict[str, list[str]] = {}
        self.promising: dict[str, bool] = {}
        self.own_waivers: dict[str, Sequence[Waiver]] = {}
        self.unasked: dict[str, str] = {}
        self._waivers = waivers
        self._today = date.today()
        #: Of each check, by the process that ran it and the check's id.
        self._rows: dict[tuple[str, str], list[Finding]] = {}
        self._again: dict[str, dict[str, None]] = {}
        self._strange = 0
        self._unproved_fails = unproved_fails
        #: Phases that failed, and those of them that say no worse than that a promise is not proved.
        self._failed = self._only_unproved = 0
        self._cut_short = False

    @property
    def findings(self) -> list[Finding]:
        """All lines, in the order of the checks."""
        return [row for rows in self._rows.values() for row in rows]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Forget what a check found when it was run before: a plugin may run it again."""
        item.user_properties[:] = [(key, value) for key, value in item.user_properties if key != PROPERTY]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Make a finding of how the check ended, and escapes of what no terminal, XML file or controller can take."""
        report = yield
        if any(key == CHECK for key, _ in report.user_properties):
            for finding in _ending(item, call):
                record(item, finding)
                report.user_properties.append(item.user_properties[-1])
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
        if report.failed and report.when not in ("setup", "call", "teardown"):
            self._strange += 1  # it took its process along
        checks = [json.loads(str(value)) for key, value in report.user_properties if key == CHECK]
        self._failed += report.failed
        if not checks:
            return
        codec, claim, title = checks[-1]
        key = str(getattr(report, "worker_id", "")), report.nodeid
        if report.outcome not in ("passed", "failed", "skipped"):
            # To be run again, says pytest-rerunfailures.
            self._again.setdefault(codec, {})[title] = None
            self._rows.pop(key, None)
            return
        # Each phase's report carries the findings of those before it.
        rows = [Finding.from_json(str(v)) for k, v in report.user_properties if k == PROPERTY]
        bad = {row.verdict for row in rows if row.verdict not in _PASSING}
        self._only_unproved += report.failed and bad == {Verdict.UNPROVED}
        if report.failed and not bad:
            rows.append(Finding(codec, claim, title, "", _last_line(str(report.longreprtext)), "", Verdict.ERROR))
        if rows:
            self._rows[key] = rows

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notice what could not be collected."""
        self._strange += report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Tell the JUnit report and, where pytest has nothing against a run that must fail, the exit status."""
        if hasattr(session.config, "workerinput") or session.config.getoption("collectonly", False):
            return
        self._cut_short = bool(session.shouldfail or session.shouldstop)
        verdicts = self.verdicts(int(exitstatus))
        if exitstatus == pytest.ExitCode.OK and any(verdict.fails for verdict in verdicts.values()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        only_unproved = self._failed > 0 and self._failed == self._only_unproved
        if exitstatus == pytest.ExitCode.TESTS_FAILED and only_unproved and not self._cut_short:
            session.exitstatus = NOT_PROVED
        for plugin in session.config.pluginmanager.get_plugins():
            # What pytest's fixture record_testsuite_property calls; here no fixture is at hand.
            if callable(tell := getattr(plugin, "add_global_property", None)):
                for name, value in self.about.items():
                    tell(f"{PROPERTY}.{name}", printable(value, lines=False))
                for codec, verdict in verdicts.items():
                    tell(f"{PROPERTY}.verdict.{codec}", printable(verdict.text, lines=False))

    def verdicts(self, exitstatus: int) -> dict[str, RunVerdict]:
        """What the run says of each codec that a check examined."""
        found = {}
        for spec in self.specs:
            rows = [row for row in self.findings if row.codec == spec.name]
            if rows:
                found[spec.name] = run_verdict(
                    spec.name,
                    rows,
                    promising=self.promising.get(spec.name, True),
                    loosened=self.loosened.get(spec.name, []),
                    trouble=self._trouble(exitstatus, spec.name),
                    unproved_fails=self._unproved_fails,
                )
        return found

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        """Print the table and the verdicts."""
        usage_error = exitstatus == pytest.ExitCode.USAGE_ERROR
        if terminalreporter.config.getoption("collectonly") or (usage_error and not self._rows):
            return
        terminalreporter.section("robustkit")
        # Into a file or a CI log there is no terminal to ask how wide it is.
        width = min(terminalreporter._tw.fullwidth, 160) if sys.stdout.isatty() else 120
        terminalreporter.write(self._table(width, colour=terminalreporter._tw.hasmarkup))
        verdicts = self.verdicts(int(exitstatus))
        advice = [f"{row.codec}: {row.severity}: {row.measured}: {row.advice}" for row in self.findings if row.advice]
        for line in [*([] if self._unproved_fails else advice), *self._on_waivers()]:
            terminalreporter.write_line(printable(line, lines=False), yellow=True)
        for spec in self.specs:
            if spec.name not in verdicts:
                terminalreporter.write_line(f"{spec.name}: not checked: no test examined it", red=True, bold=True)
                continue
            verdict = verdicts[spec.name]
            colour = {"green": verdict.good, "yellow": not verdict.good and not verdict.fails, "red": verdict.fails}
            terminalreporter.write_line(printable(verdict.text, lines=False), bold=True, **colour)

    def _on_waivers(self) -> list[str]:
        """Lines on waivers that held once, and on those that nothing needed, where all claims were examined."""
        own = [waiver for waivers in self.own_waivers.values() for waiver in waivers]
        waivers = list(dict.fromkeys([*self._waivers, *own]))
        lines = [f"waiver out of date since {w.until}: {w}" for w in waivers if not w.holds(self._today)]
        examined = [CLAIMS.keys() <= {row.claim for row in self.findings if row.codec == s.name} for s in self.specs]
        if not all(examined):
            return lines
        used = {row.waiver for row in self.findings}
        return lines + [f"waiver not needed: {w}" for w in waivers if w.holds(self._today) and str(w) not in used]

    def _trouble(self, exitstatus: int, codec: str) -> str | None:
        """Why the run says less than its findings do."""
        if exitstatus == pytest.ExitCode.INTERRUPTED or self._cut_short:
            return "the run was cut short"
        # Tests that fail have their line: those of this suite in the table, those of another are no codec's business.
        # What is left did not collect, or took its worker along.
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, NOT_PROVED) or self._strange:
            return f"the run did not end well (exit status {exitstatus})"
        if codec in self.unasked:
            return self.unasked[codec]
        if again := self._again.get(codec):
            return f"run again after a failure: {', '.join(again)}"
        return None

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
                    Text(row.word, style=_COLOURS.get(row.verdict, "red")),
                )
                last = row.claim
            console.print(table)
            console.print()
        return out.getvalue()


def _ending(item: pytest.Item, call: pytest.CallInfo[None]) -> list[Finding]:
    """What the end of one phase of a check says, beyond the findings that the check has recorded."""
    from robustkit.plugin.claim import Explained

    error = None if call.excinfo is None else call.excinfo.value
    codec, claim, title = next(json.loads(str(v)) for k, v in item.user_properties if k == CHECK)

    def finding(measured: str, verdict: Verdict) -> list[Finding]:
        return [Finding(codec, claim, title, "", printable(measured, lines=False)[:_LONGEST], "", verdict)]

    if error is None:
        silent = call.when == "call" and all(key != PROPERTY for key, _ in item.user_properties)
        return finding("the check passed", Verdict.KEPT) if silent else []
    if isinstance(error, Explained):
        return []
    if isinstance(error, pytest.skip.Exception):
        return finding(f"{error.msg}".partition(";")[0], Verdict.SKIPPED)
    if isinstance(error, pytest.fail.Exception):
        return finding(_last_line(f"{error.msg}").partition(";")[0], Verdict.ERROR)
    told = f"{type(error).__name__}: {_of_folder(error)}".removesuffix(": ")
    # The codec's own doing is what its worker says of it, and what a check of the user's own asserts.
    from robustkit.codec import DecodeError, EncodeError
    from robustkit.isolation import WorkerError

    of_codec = (WorkerError, EncodeError, DecodeError, *([AssertionError] if claim.startswith(OWN) else []))
    by_codec = isinstance(error, of_codec) and call.when == "call"
    return finding(_first_line(told), Verdict.BROKEN if by_codec else Verdict.ERROR)


def _of_folder(error: BaseException) -> str:
    """An error's text; of a file that is gone or can't be written, with its folder, so that a reason is said once."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return f"{error.strerror}: {place(Path(error.filename).parent)}"
    return f"{error}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _last_line(text: str) -> str:
    lines = [line.removeprefix("E ").strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
