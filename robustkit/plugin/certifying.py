"""Certificates, and the page of a run that fails: parts left by the processes that ran a codec, gathered at the end."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustkit import extras
from robustkit.errors import RobustkitError
from robustkit.plugin.options import OPTIONS, PREFIX
from robustkit.spelling import place, printable

if TYPE_CHECKING:
    from robustkit.certificates.collect import Part, Run
    from robustkit.certificates.lock import Found
    from robustkit.certificates.model import Certificate
    from robustkit.certificates.scan import Scan
    from robustkit.certificates.worst import WorstCase
    from robustkit.judging.subject import Subject
    from robustkit.plugin import session
    from robustkit.registry import CodecSpec

#: Of the folder of parts, in what xdist's workers are told.
PARTS = "robustkit_parts"
#: The page of a run that fails, in the report folder.
PAGE = "index.html"
#: Worst cases on the page of a run that was asked for none: they are decoded once more.
_FEW = 6
#: Options that leave something out of what an effort stands for.
_LESS = ("max-examples", "trials")
_PART, _WORST, _SCAN, _TROUBLE = ".part.json", ".worst.json", ".scan.json", ".trouble"


class Certifying:
    """What a run does about certificates, beside judging.

    Args:
        run: which.

    Attributes:
        folder: where certificates are wanted; ``None`` where they are not.
        parts: where processes leave what they know.
    """

    def __init__(self, run: session.Run) -> None:
        self._run = run
        options = run.options
        self.folder, self._withheld, self._map = options.certificate, options.withholding, options.map
        given = getattr(run.config, "workerinput", {}).get(PARTS)
        unique = f"parts-{os.getpid()}-{time.time_ns():x}"
        self.parts = Path(given) if given is not None else options.report_dir / unique
        self._started = _now()
        self._dirty: dict[str, str | None] = {}
        self._lock: Found | None = None
        self._said: list[tuple[str, bool]] = []
        if self.folder is None and (self._withheld or self._map):
            name = options.named("withhold-reproducers" if self._withheld else "map")
            raise pytest.UsageError(f"{name} is about a certificate: give {PREFIX}certificate DIR, too")

    def begin(self) -> None:
        """Before anything runs: can certificates be written, and what does git say?

        Raises:
            pytest.UsageError: they can't.
        """
        if self.folder is None:
            return
        if said := extras.missing("jsonschema", "pyarrow", "rfc8785"):
            raise pytest.UsageError(f"{self._run.options.named('certificate')}: {said}")
        from robustkit.certificates import lock, tree, write
        from robustkit.certificates.model import CertificateError

        try:
            for spec in self._run.specs:
                write.usable(self._of(spec))
        except CertificateError as error:
            raise pytest.UsageError(f"{self._run.options.named('certificate')}: {error}") from error
        self._lock = lock.find(self._run.config.invocation_params.dir)
        self._dirty = {spec.name: tree.dirty(tree.folder_of(spec)) for spec in self._run.specs}

    def leave(self, subject: Subject, *, failed: bool) -> None:
        """Leave what this process knows of a codec whose checks are done; the codec's processes still run.

        Args:
            failed: whether any check failed here, so that the run will have a page.
        """
        stem = self.parts / f"{_stem(subject.name)}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
        try:
            self._leave(subject, stem, failed)
        except Exception as error:
            # Whatever it is, the checks have been made: what is missing is named, and blocks a certificate.
            with contextlib.suppress(OSError):
                self.parts.mkdir(parents=True, exist_ok=True)
                stem.with_name(stem.name + _TROUBLE).write_text(printable(f"{type(error).__name__}: {error}"[:500]))

    def _leave(self, subject: Subject, stem: Path, failed: bool) -> None:
        from robustkit.certificates import collect, scan, worst

        certifying = self.folder is not None
        part = collect.part_of(subject, effort=self._run.options.effort, certifying=certifying)
        if part is None:
            return
        self.parts.mkdir(parents=True, exist_ok=True)
        part.write(stem.with_name(stem.name + _PART))
        if not part.judged or not (certifying or failed):
            return
        trials = [trial for found in subject.judged.values() for trial in found]
        broken = {found.severity for found in part.assessments if found.verdict == "broken"}
        if not certifying:
            # One that hangs would hang again.
            trials = [trial for trial in trials if trial.outcome.has_image]
        most = worst.MOST if certifying else _FEW
        directory = None if self._withheld else self._run.options.report_dir / "replay" / "worst"
        cases = worst.of(subject, trials, most=most, broken=broken, directory=directory)
        worst.write(stem.with_name(stem.name + _WORST), cases)
        if self._map:
            scan.write(stem.with_name(stem.name + _SCAN), scan.run(subject, self._map))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Gather the parts: certificates where they are wanted, and a page where the run fails."""
        config = session.config
        if hasattr(config, "workerinput") or config.getoption("collectonly", False):
            return
        status = int(session.exitstatus)
        try:
            self._gather(status)
        except (OSError, RobustkitError) as error:
            self._said.append(
                (f"robustkit: no certificate: {error}" if self.folder else f"robustkit: no page: {error}", True)
            )
            if self.folder is not None and status == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        finally:
            shutil.rmtree(self.parts, ignore_errors=True)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name what was written."""
        for line, bad in self._said:
            terminalreporter.write_line(printable(line, lines=False), red=bad)

    def _gather(self, status: int) -> None:
        from robustkit.judging.finding import NOT_PROVED

        ended = status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, NOT_PROVED)
        stale = self._run.options.report_dir / PAGE
        if not ended or (self.folder is None and status == pytest.ExitCode.OK):
            if ended:
                stale.unlink(missing_ok=True)
            return
        verdicts = self._run.report.verdicts(status)
        failing: list[str] = []
        for spec in self._run.specs:
            if spec.name in verdicts:
                failing += self._one(spec, verdicts[spec.name])
        if status == pytest.ExitCode.OK:
            stale.unlink(missing_ok=True)
        elif failing:
            from robustkit.certificates import write

            # Of several codecs that fail, the first one's is the one to begin with; each has a page of its own name.
            write.put(stale, failing[0].encode("utf-8", "replace"))
            self._said.append((f"robustkit: what failed, as a page: {place(stale)}", False))

    def _one(self, spec: CodecSpec, verdict: Any) -> list[str]:
        """Write a codec's certificate, if that is wanted; its page, if it fails."""
        from robustkit.certificates import collect, page, write

        part, cases, scan, trouble = self._parts_of(spec)
        if part is None:
            if self.folder is not None:
                said = f": {trouble[0]}" if trouble else ", no clean round trip worked"
                self._said.append((f"robustkit: no certificate of {spec.name}{said}", True))
            return []
        run = self._about(spec, verdict, trouble)
        certificate = collect.certificate(part, run)
        if self.folder is not None:
            folder = self._of(spec)
            used = {example.replay.removeprefix("replay/") for example in certificate.counterexamples if example.replay}
            streams = {name.removesuffix(".replay.json") + ".bin" for name in used}
            files = {name: Path(path) for name, path in part.files.items() if name in used | streams}
            certificate = write.write(certificate, part.rows, folder, worst=cases, scan=scan, replay=files)
            self._say(certificate, folder)
        return [page.render(certificate, worst=cases, scan=scan, kind="report")] if verdict.fails else []

    def _say(self, certificate: Certificate, folder: Path) -> None:
        said = "certified" if certificate.certified else "not certified"
        self._said.append((f"robustkit: {certificate.asked}: {said}: {place(folder)}", False))
        self._said += [(f"  {line}", False) for line in certificate.blockers]

    def _parts_of(self, spec: CodecSpec) -> tuple[Part | None, list[WorstCase], Scan | None, list[str]]:
        from robustkit.certificates import collect, scan, worst

        stem = _stem(spec.name)
        found = sorted(self.parts.glob(f"{stem}-*{_PART}"))
        parts = [collect.Part.read(path) for path in found]
        cases = [case for path in sorted(self.parts.glob(f"{stem}-*{_WORST}")) for case in worst.read(path)]
        scans = [scan.read(path) for path in sorted(self.parts.glob(f"{stem}-*{_SCAN}"))]
        trouble = [path.read_text() for path in sorted(self.parts.glob(f"{stem}-*{_TROUBLE}"))]
        said = [f"a part of the certificate could not be made: {text}" for text in trouble]
        return collect.joined(parts), cases, scans[0] if scans else None, said

    def _about(self, spec: CodecSpec, verdict: Any, trouble: list[str]) -> Run:
        from robustkit.certificates import collect

        run = self._run
        return collect.Run(
            asked=spec.name,
            findings=[finding for finding in run.report.findings if finding.codec == spec.name],
            verdict=verdict,
            loosened=run.report.loosened.get(spec.name, []),
            other_images=run.other_images,
            dirty=self._dirty.get(spec.name),
            lock=self._lock,
            effort=run.options.effort,
            device=run.options.device,
            started=self._started,
            finished=_now(),
            command=self._command(spec),
            withheld=self._withheld,
            trouble=trouble,
            less=[option.flag for option in OPTIONS if option.name in _LESS and run.options.is_given(option.name)],
            hashed=self.folder is not None,
        )

    def _command(self, spec: CodecSpec) -> str:
        run = self._run
        words = ["robustkit", "certify", spec.name, "--out", "DIR", "--effort", run.options.effort]
        for key, value in spec.settings.items():
            if isinstance(value, str | int | float | bool) and key != "device":
                words += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
        return shlex.join([*words, "--trial-seed", str(run.trial_seed)])

    def _of(self, spec: CodecSpec) -> Path:
        """Where a codec's certificate goes: of several, a folder each."""
        assert self.folder is not None
        return self.folder if len(self._run.specs) == 1 else self.folder / _slug(spec.name)


def _slug(text: str) -> str:
    from robustkit.judging.subject import slug

    return slug(text)


def _stem(name: str) -> str:
    """A file's name that is no other codec's."""
    return f"{_slug(name)[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
