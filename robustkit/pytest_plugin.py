"""The pytest plugin: options, the ``codec`` and ``claim`` fixtures, and the final table of what was measured.

It is loaded in every pytest run of an environment with robustkit, so nothing heavy is imported before a codec is
chosen, and nothing changes in runs that choose none.
"""

from __future__ import annotations

import io
import json
import math
import random
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from robustkit.patterns import ErrorPattern
from robustkit.profile import Profile, ProfileError
from robustkit.registry import CodecSpec, CodecUnavailable, DuplicateCodec, Registry, UnknownCodec, registry

if TYPE_CHECKING:
    from robustkit import golden_files
    from robustkit.codec import Image
    from robustkit.isolation import CodecWorkers, Decoded, Limits
    from robustkit.outcome import Outcome
    from robustkit.trial import Clean, CodecUnderTest, Counterexample, SearchResult, Trial


@dataclass(frozen=True)
class Effort:
    """What one Hypothesis profile spends.

    Attributes:
        trials: for each severity of a promise, over all images. Fewer than 59 prove no 5th percentile.
        examples: damaged streams for each claim that Hypothesis searches.
        shrink_seconds: for making one counterexample smaller.
    """

    trials: int
    examples: int
    shrink_seconds: float


EFFORTS = {
    "quick": Effort(trials=60, examples=25, shrink_seconds=30),
    "ci": Effort(trials=120, examples=100, shrink_seconds=120),
    "nightly": Effort(trials=600, examples=2000, shrink_seconds=600),
}
PROPERTY = "robustkit"
REPORT_DIR = "robustkit-report"
NEEDS_CODEC = (
    "these tests examine a codec, and none was chosen: give --codec NAME "
    "(`robustkit codecs` lists them; --codec package.module:attribute and --codec A,B work too)"
)


class Hooks:
    """Hooks that a user's conftest may implement."""

    @pytest.hookspec
    def pytest_robustkit_codecs(self, registry: Registry) -> None:
        """Register codecs for this run: ``registry.register(MyCodec)``."""


class _NoCodec:
    """Stands where a codec should have been chosen."""


@dataclass(frozen=True)
class Finding:
    """One line of the final table.

    Attributes:
        codec, claim: about which codec, which check.
        severity: how hard the stream was hit, or what was looked at.
        measured, declared: in words, with units.
        verdict: "kept", "broken", "unproved", "noted" (nothing was promised), "blocked", "skipped", "error".
        numbers: what was measured, for machines.
    """

    codec: str
    claim: str
    severity: str
    measured: str
    declared: str
    verdict: str
    numbers: Mapping[str, float] | None = None


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("robustkit", "robustkit: what happens to a codec when bits flip?")
    group.addoption(
        "--codec",
        action="append",
        default=[],
        metavar="NAME",
        help="codec to examine; several with commas or by repeating; package.module:attribute, "
        "codec.toml and NAME+rs(255,223) work too",
    )
    group.addoption(
        "--set",
        action="append",
        default=[],
        dest="robustkit_settings",
        metavar="[NAME:]KEY=VALUE",
        help="a setting of the codec, or of the one called NAME; the value as TOML writes it",
    )
    group.addoption(
        "--profile",
        metavar="FILE",
        dest="robustkit_profile",
        help="TOML file of promises to judge by, in place of the codec's own; a looser one can't certify",
    )
    group.addoption("--images", metavar="DIR", help="folder of images to use in place of scikit-image's photographs")
    group.addoption("--crop", type=int, metavar="N", help="centre-crop images to N x N pixels (photographs: 256)")
    group.addoption(
        "--trials",
        type=int,
        metavar="N",
        help="trials for each image and severity (by --hypothesis-profile, over all images: "
        + ", ".join(f"{name} {effort.trials}" for name, effort in EFFORTS.items())
        + ")",
    )
    group.addoption(
        "--max-examples",
        type=int,
        metavar="N",
        help="damaged streams that Hypothesis tries for each claim (by --hypothesis-profile: "
        + ", ".join(f"{name} {effort.examples}" for name, effort in EFFORTS.items())
        + ")",
    )
    group.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where the codec computes")
    group.addoption("--time-limit", type=float, metavar="SECONDS", help="for one decode")
    group.addoption("--memory-limit", metavar="SIZE", help="of a decoding process, such as 4GiB or 800MiB; 0 for none")
    group.addoption(
        "--golden-update",
        action="store_true",
        help="record the golden reconstructions anew, and fail once so that somebody looks at them",
    )
    group.addoption("--golden-dir", metavar="DIR", help="where golden reconstructions live")
    group.addoption(
        "--report-dir",
        default=REPORT_DIR,
        metavar="DIR",
        help="where streams to replay and pictures are written (default: %(default)s)",
    )


@pytest.hookimpl(tryfirst=True)  # before Hypothesis's own, which loads the profile
def pytest_configure(config: pytest.Config) -> None:
    _register_profiles(config)
    try:
        config.hook.pytest_robustkit_codecs(registry=registry)
    except (DuplicateCodec, TypeError) as error:
        raise pytest.UsageError(f"pytest_robustkit_codecs: {error}") from error
    chosen = [name.strip() for given in config.getoption("--codec") for name in _names(given) if name.strip()]
    suite = Suite(config, _specs(config, list(dict.fromkeys(chosen)))) if chosen else None
    if suite is not None:
        config.pluginmanager.register(suite, "robustkit-suite")
    config.pluginmanager.register(_fixtures(suite), "robustkit-fixtures")
    config.pluginmanager.register(CodecNeeded(), "robustkit-codec-needed")


def _names(given: str) -> list[str]:
    """The names between commas, but not those within parentheses: ``jpeg+rs(255,223),webp``."""
    return re.split(r",(?![^()]*\))", given)


def _register_profiles(config: pytest.Config) -> None:
    name = config.getoption("--hypothesis-profile", None)
    if name not in EFFORTS:
        return
    from hypothesis import errors, settings

    try:
        settings.get_profile(name)
    except errors.InvalidArgument:
        settings.register_profile(name, max_examples=EFFORTS[name].examples, deadline=None)


def _specs(config: pytest.Config, names: list[str]) -> list[CodecSpec]:
    settings: dict[str, dict[str, Any]] = {name: {} for name in names}
    if config.getoption("--device") == "cuda":
        for mine in settings.values():
            mine["device"] = "cuda"
    for text in config.getoption("robustkit_settings"):
        left, equals, value = text.partition("=")
        # A codec's name may hold a colon itself, package.module:attribute.
        owner, _, key = left.strip().rpartition(":")
        if not equals or not key.isidentifier():
            raise pytest.UsageError(f"--set {text}: write KEY=VALUE, or NAME:KEY=VALUE for one of the codecs")
        if owner and owner not in settings:
            raise pytest.UsageError(f"--set {text}: {owner!r} is not among the codecs {', '.join(names)}")
        for name in [owner] if owner else names:
            settings[name][key] = _value(value.strip())
    try:
        return [registry.get(name).spec(**settings[name]) for name in names]
    except (UnknownCodec, DuplicateCodec) as error:
        raise pytest.UsageError(str(error.args[0])) from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _bytes(text: str) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B?|B)?\s*", text, re.IGNORECASE)
    if found is None:
        raise pytest.UsageError(f"--memory-limit {text}: write a size like 4GiB, 800MiB, or 0 for none")
    unit = (found[2] or "B")[0].upper()
    return int(float(found[1]) * {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30}[unit])


def _on_xdist(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput") or bool(
        config.getoption("numprocesses", None) or config.getoption("tx", None)
    )


class CodecNeeded:
    """Ends the run where tests examine a codec and none was chosen: such a run must not be green."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if not any(isinstance(_chosen(item), _NoCodec) for item in items):
            return
        if hasattr(config, "workeroutput"):
            # A worker can't end the run: it tells the controller.
            config.workeroutput["robustkit_needs_codec"] = True
            items.clear()
            return
        raise pytest.UsageError(NEEDS_CODEC)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        if getattr(node, "workeroutput", {}).get("robustkit_needs_codec"):
            raise pytest.UsageError(NEEDS_CODEC)


def _chosen(item: pytest.Item) -> CodecSpec | _NoCodec | None:
    callspec = getattr(item, "callspec", None)
    value = callspec.params.get("codec") if callspec is not None else None
    return value if isinstance(value, CodecSpec | _NoCodec) else None


def _title(item: pytest.Item) -> str:
    name = getattr(item, "originalname", None) or item.name
    return str(name).removeprefix("test_").replace("_", " ")


def _fixtures(suite: Suite | None) -> object:
    params = (
        [pytest.param(spec, id=spec.name) for spec in suite.specs] if suite else [pytest.param(_NoCodec(), id="none")]
    )

    @pytest.fixture(scope="session", params=params)
    def codec(request: pytest.FixtureRequest) -> Generator[CodecUnderTest, None, None]:
        """The codec under test, one after the other of those chosen with --codec."""
        assert suite is not None
        if suite.no_device:
            pytest.skip(suite.no_device)
        subject = suite.subject(request.param)
        try:
            yield subject
        finally:
            suite.close(subject)

    @pytest.fixture
    def sound_codec(codec: CodecUnderTest) -> CodecUnderTest:
        """The codec under test, if its clean round trip is what it declares; all else is blocked."""
        reason = codec.unsound
        if reason is not None:
            # What else a dying worker said is with the clean round trip, once.
            pytest.fail(f"blocked: the clean round trip fails: {_first_line(reason)}", pytrace=False)
        return codec

    @pytest.fixture
    def promised(sound_codec: CodecUnderTest) -> CodecUnderTest:
        """The codec under test, if it declares promises or --profile gives some."""
        if sound_codec.profile is None or not sound_codec.profile.promises:
            pytest.skip(
                f"{sound_codec.name} promises nothing under damage: give the class a profile, or --profile FILE"
            )
        return sound_codec

    @pytest.fixture
    def golden(request: pytest.FixtureRequest, sound_codec: CodecUnderTest) -> Generator[Golden, None, None]:
        """The codec's golden reconstructions."""
        assert suite is not None
        # Golden files lie beside the suite, in a checkout as in the wheel.
        beside = request.path.parent.parent / "golden"
        with Golden(suite, sound_codec, beside) as found:
            yield found

    @pytest.fixture
    def claim(request: pytest.FixtureRequest, codec: CodecUnderTest) -> Claim:
        """Where a check puts what it measured."""
        assert suite is not None
        return Claim(request.node, codec, suite)

    # A module, since pytest frowns on session fixtures that are methods.
    fixtures = ModuleType("robustkit_fixtures")
    for found in (codec, sound_codec, promised, golden, claim):
        setattr(fixtures, found.__name__, found)
    return fixtures


class Claim:
    """What one check measured: findings for the final table, and the failure's message.

    The check fails at its end if any finding is broken or unproved, or if there is none at all.
    """

    def __init__(self, item: pytest.Item, codec: CodecUnderTest, suite: Suite) -> None:
        self.item = item
        self.codec = codec
        self.suite = suite
        self.title = _title(item)
        self._findings: list[Finding] = []
        self._failures: list[tuple[list[str], str | None]] = []
        self._known: list[str] = []

    @property
    def replay_dir(self) -> Path:
        """Where this check keeps streams to replay."""
        from robustkit.trial import slug

        return self.suite.report_dir / "replay" / slug(self.codec.name)

    def note(
        self,
        verdict: str,
        measured: str,
        declared: str = "",
        *,
        severity: str = "",
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """Put a line into the final table and, as JSON, into the JUnit report."""
        finding = Finding(self.codec.name, self.title, severity, measured, declared, verdict, numbers)
        self._findings.append(finding)
        self.item.user_properties.append((PROPERTY, json.dumps(asdict(finding), sort_keys=True)))

    def kept(self, measured: str, declared: str = "", **more: Any) -> None:
        """The claim holds at this severity."""
        self.note("kept", measured, declared, **more)

    def broken(
        self,
        measured: str,
        declared: str = "",
        *,
        severity: str = "",
        why: list[str] | None = None,
        last: str | None = None,
        verdict: str = "broken",
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        """The claim does not hold at this severity.

        Args:
            why: lines that explain.
            last: the command that shows it again; it ends the message.
        """
        self.note(verdict, _first_line(measured), declared, severity=severity, numbers=numbers)
        head = f"{severity}: " if severity else ""
        tail = f"; declared: {declared}" if declared else ""
        first, *rest = measured.splitlines()
        self._failures.append(([f"  {head}{first}{tail}", *(f"    {line}" for line in [*rest, *(why or [])])], last))

    def unproved(self, measured: str, declared: str, *, trial: Trial, **more: Any) -> None:
        """The trials were too few to tell; ``trial`` is the one to look at."""
        from robustkit.statistics import trials_to_prove

        least = math.ceil(trials_to_prove(0.05) / len(self.codec.images))
        enough = max(4 * self.codec.trials_per_image, least)
        self.broken(
            measured,
            declared,
            verdict="unproved",
            why=[f"too few trials to tell: run with --trials {enough}"],
            last=self.replay_trial(trial),
            **more,
        )

    def known(self, outcome: Outcome, measured: str, *, severity: str = "", last: str, **more: Any) -> None:
        """A failure that the codec declares as a known defect: the claim does not hold, and that is expected.

        Args:
            last: the command that shows it again.
        """
        where = self.codec.known_defects[outcome]
        self.note("known defect", measured, f"no failure; {where}", severity=severity, **more)
        self._known.append(f"{measured}; known: {where}\n{last}")

    def settle(self) -> None:
        """Fail if anything was broken, or nothing measured; a known defect fails as expected."""
        where = self.codec.known_defects.get(self.title)
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
        """Judge a search: no stream may crash the decoder."""
        seen = ", ".join(f"{count} {outcome}" for outcome, count in sorted(result.outcomes.items()))
        numbers = {str(outcome): float(count) for outcome, count in result.outcomes.items()}
        for outcome, example in result.known.items():
            last = self.replay_counterexample(example)
            self.known(outcome, f"{result.streams} streams: {seen}", severity=severity, last=last, numbers=numbers)
        if result.counterexample is None:
            if not result.known:
                self.kept(f"{result.streams} streams: {seen}", "no failure", severity=severity, numbers=numbers)
            return
        found = result.counterexample
        self.broken(
            f"{found.decoded.outcome}: {_first_line(found.decoded.message)}",
            "no failure",
            severity=severity,
            why=self._explain(found),
            last=self.replay_counterexample(found),
            numbers=numbers,
        )

    def _explain(self, found: Counterexample) -> list[str]:
        from robustkit.minimise import describe

        if found.clean is None or found.pattern is None:
            shown = found.stream[:24].hex(" ") + (" ..." if len(found.stream) > 24 else "")
            return [f"{len(found.stream)} bytes: {shown or 'the empty stream'}"]
        return [
            f"{found.clean.image}, {found.clean.shape[1]}x{found.clean.shape[0]}; the least damage that does it:",
            *(f"  {line}" for line in describe(found.pattern, found.clean.layout)),
        ]

    def replay_counterexample(self, found: Counterexample) -> str:
        """Keep the stream, and say how to decode it again."""
        assert found.decoded.outcome is not None
        return self._replay(found.clean, found.pattern, found.stream, found.decoded.outcome, found.decoded.message)

    def replay_trial(self, trial: Trial) -> str:
        """Keep the trial's stream, and say how to decode it again."""
        clean = self.codec.clean[trial.image]
        stream = trial.pattern.apply(clean.bitstream)
        return self._replay(
            clean, trial.pattern, stream, trial.outcome, trial.message, f"{trial.channel}-{trial.number}"
        )

    def replay_clean(self, clean: Clean, pattern: ErrorPattern | None = None) -> str:
        """Keep a clean stream, or the one that ``pattern`` makes of it, and say how to decode it again."""
        if pattern is None:
            pattern = ErrorPattern(clean.bits)
        stream = pattern.apply(clean.bitstream)
        decoded = self.codec.workers.decode(stream, shape=clean.shape)
        return self._replay(clean, pattern, stream, clean.judge(decoded), decoded.message)

    def _replay(
        self,
        clean: Clean | None,
        pattern: ErrorPattern | None,
        stream: bytes,
        outcome: Outcome,
        message: str,
        name: str = "",
    ) -> str:
        from robustkit.isolation import Limits
        from robustkit.minimise import describe
        from robustkit.replay import SUFFIX, Replay, fingerprint, save_replay
        from robustkit.trial import slug

        reference = clean.decoded.image if clean is not None else None
        replay = Replay(
            self.codec.spec,
            stream,
            outcome,
            message,
            shape=clean.shape if clean is not None else None,
            clean=None if reference is None else fingerprint(reference),
            limits=self.suite.limits or Limits(),
            pattern=pattern,
            regions=() if clean is None or pattern is None else tuple(describe(pattern, clean.layout)),
            claim=self.title,
        )
        file = save_replay(self.replay_dir / (slug("-".join(filter(None, [self.title, name]))) + SUFFIX), replay)
        return f"robustkit replay {shlex.quote(str(file))}"

    def worst(self, trial: Trial, still: Callable[[Trial], bool]) -> tuple[list[str], str]:
        """Reduce a trial to the flips that matter: lines that explain it, and how to see it again."""
        from robustkit.minimise import describe

        least = self.codec.smallest(trial, still, budget=self.suite.minimise_budget)
        clean = self.codec.clean[trial.image]
        lost = f", {least.drop:.2f} lost" if least.drop is not None else ""
        lines = [
            f"photograph {trial.image}, trial {trial.number}: {least.outcome}{lost} with this damage alone:",
            *(f"  {line}" for line in describe(least.pattern, clean.layout)),
        ]
        if least.message:
            lines.insert(1, f"  {_first_line(least.message)}")
        return lines, self.replay_trial(least)


class Golden:
    """The golden reconstructions of one codec, on one device class."""

    def __init__(self, suite: Suite, codec: CodecUnderTest, beside: Path) -> None:
        from robustkit import golden_files

        self.suite = suite
        self.codec = codec
        given = suite.config.getoption("--golden-dir")
        self.root = Path(given) if given is not None else _shown(beside)
        self.path = golden_files.folder(self.root, codec.own_name, codec.device)
        self.settings = {k: v for k, v in codec.spec.settings.items() if k != "device"}
        # Of its own codecs robustkit keeps files of those that make promises and always decode alike.
        promising = codec.workers.profile() is not None and not codec.known_defects
        self.own = promising and any(e.name == codec.own_name and e.origin == "robustkit" for e in registry)
        self._pools: list[CodecWorkers] = []

    def __enter__(self) -> Golden:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.close()

    def check(self, claim: Claim) -> None:
        """Compare with the golden files; with ``--golden-update``, record them and fail."""
        from robustkit import golden_files, images

        photographs = images.photographs(golden_files.CROP)
        if self.suite.updating:
            if not self.own and self.suite.config.getoption("--golden-dir") is None:
                pytest.fail(f"{self.codec.name}: say where its golden files live: --golden-dir DIR", pytrace=False)
            try:
                golden_files.record(self.path, self._subject(repeats=True), photographs)
            except golden_files.GoldenError as error:
                pytest.fail(f"{self.codec.name}: nothing recorded: {error}", pytrace=False)
            pytest.fail(f"golden rewritten in {self.path}: review and run again", pytrace=False)
        manifest = self._manifest()
        subject = self._subject()
        mismatches = golden_files.compare(self.path, manifest, subject, photographs)
        count = sum(len(p.reconstructions) for p in manifest.photographs)
        recorded = manifest.facts.get("device", "another device")
        if not mismatches:
            claim.kept(
                f"{len(manifest.photographs)} bitstreams, {count} reconstructions",
                (
                    "same bits"
                    if golden_files.same_device_class(manifest, subject)
                    else f"recorded on {recorded}: same length"
                )
                + f"; pixels within {manifest.tolerance.maximum:g}, {manifest.tolerance.mean:.3g} on average",
            )
            return
        from robustkit.trial import slug

        report = self.suite.report_dir / "golden" / slug(self.codec.name) / self.codec.device
        page = golden_files.write_report(report, mismatches, codec=self.codec.name, device=self.codec.device)
        why = []
        for mismatch in mismatches[:10]:
            shown = golden_files.picture(report, mismatch)
            why.append(f"{mismatch.file} {mismatch.what}" + (f"  {shown}" if shown.is_file() else ""))
        if len(mismatches) > 10:
            why.append(f"and {len(mismatches) - 10} more")
        why += self._changes(manifest)
        why += [f"all of them: {page}", f"if the change is meant: {self.suite.command(self.codec.name)}"]
        last = self._replay(claim, manifest, mismatches[0], photographs)
        claim.broken(f"{len(mismatches)} golden files differ", "none", why=why, last=last)

    def check_orphans(self, claim: Claim) -> None:
        """Fail for files that the manifest does not name, and folders of no device."""
        from robustkit import golden_files

        manifest = self._manifest()
        stray = golden_files.orphans(self.path, manifest)
        stray += sorted(p for p in self.path.parent.iterdir() if p.name not in ("cpu", "cuda"))
        if stray:
            named = [str(p) for p in stray]
            claim.broken(f"{len(stray)} files that nothing compares", "none", why=[*named, "remove them"])
        else:
            claim.kept(f"{len(manifest.files())} files, all named in the manifest", "no orphan")

    def _manifest(self) -> golden_files.Manifest:
        from robustkit import golden_files

        command = self.suite.command(self.codec.name)
        if not self.path.is_dir():
            if self.own:
                pytest.fail(f"missing golden: {self.path} is not there; record it: {command}", pytrace=False)
            where = "" if self.suite.config.getoption("--golden-dir") else " --golden-dir DIR"
            pytest.skip(f"no golden reconstructions of {self.codec.own_name}; record them: {command}{where}")
        try:
            manifest = golden_files.read(self.path)
        except golden_files.GoldenError as error:
            pytest.fail(f"missing golden: {error}; record it: {command}", pytrace=False)
        if manifest.settings != self.settings:
            given = ", ".join(f"{k}={v!r}" for k, v in manifest.settings.items()) or "the default settings"
            pytest.skip(f"the golden reconstructions are of {given}")
        return manifest

    def _subject(self, *, repeats: bool = False) -> golden_files.Subject:
        from robustkit import golden_files

        def batched(pool: CodecWorkers) -> golden_files.Decode:
            def decode(bitstreams: Sequence[bytes], *, shape: tuple[int, int]) -> list[Image | Outcome]:
                return [_image(d) for d in pool.decode_many(bitstreams, shape=shape)]

            return decode

        def singly(pool: CodecWorkers) -> golden_files.Decode:
            def decode(bitstreams: Sequence[bytes], *, shape: tuple[int, int]) -> list[Image | Outcome]:
                return [_image(pool.decode(b, shape=shape)) for b in bitstreams]

            return decode

        workers = self.codec.workers
        again: list[golden_files.Decode] = []
        if repeats:
            # Two workers share the cores, so that this pool's native threads split their sums another way.
            self._pools.append(self.codec.fresh_workers(workers=2))
            again = [singly(workers), singly(self._pools[-1]), batched(self._pools[-1])]
        return golden_files.Subject(
            codec=self.codec.own_name,
            device=self.codec.device,
            settings=self.settings,
            facts=dict(workers.describe()),
            encode=workers.encode,
            layout=workers.layout,
            decode=batched(workers),
            repeats=again,
        )

    def _changes(self, manifest: golden_files.Manifest) -> list[str]:
        """What the codec says of itself now, and did not when the files were recorded."""
        now = self.codec.workers.describe()
        return [
            f"recorded with {key} {manifest.facts.get(key, 'unknown')}, now {now.get(key, 'unknown')}"
            for key in sorted(manifest.facts.keys() | now.keys())
            if manifest.facts.get(key) != now.get(key)
        ]

    def _replay(
        self,
        claim: Claim,
        manifest: golden_files.Manifest,
        mismatch: golden_files.Mismatch,
        photographs: Mapping[str, Image],
    ) -> str | None:
        from robustkit.trial import CleanRoundTripFailed

        if mismatch.photograph not in photographs:
            return None
        try:
            clean = self.codec.round_trip(mismatch.photograph, photographs[mismatch.photograph])
            if mismatch.reconstruction is None:
                return claim.replay_clean(clean)
            return claim.replay_clean(clean, mismatch.reconstruction.error_pattern(clean.bits))
        except (CleanRoundTripFailed, ValueError):
            # The encoder has changed so much that the golden pattern fits its streams no longer.
            return None


def _image(decoded: Decoded) -> Image | Outcome:
    if decoded.outcome is not None:
        return decoded.outcome
    assert decoded.image is not None
    return decoded.image


class Suite:
    """One run over the chosen codecs: what it was asked to do, what it found out, and the table at its end."""

    #: Decodes spent on reducing one failing trial.
    minimise_budget = 64

    def __init__(self, config: pytest.Config, specs: list[CodecSpec]) -> None:
        self.config = config
        self.specs = specs
        self.device: str = config.getoption("--device")
        self.updating: bool = config.getoption("--golden-update")
        self.report_dir = Path(config.getoption("--report-dir"))
        self.limits = _limits(config)
        self.profile = _profile(config)
        name = config.getoption("--hypothesis-profile", None) or "quick"
        self.profile_name = name
        effort = EFFORTS.get(name, EFFORTS["quick"])
        self.effort = replace(
            effort,
            examples=_at_least_one(config, "--max-examples") or _examples(name) or effort.examples,
        )
        self._trials = _at_least_one(config, "--trials")
        self.seed = self._search_seed()
        self.no_device: str | None = None
        self.facts: dict[str, Mapping[str, str]] = {}
        self.loosened: dict[str, list[str]] = {}
        self.known_defects: dict[str, Mapping[str, str]] = {}
        self.findings: list[Finding] = []
        self.outcomes: dict[tuple[str, str], str] = {}
        self._ready: dict[str, CodecUnderTest] = {}
        self._images: dict[str, Image] | None = None
        self._last_progress = time.monotonic()
        _at_least_one(config, "--crop")
        if self.updating and _on_xdist(config):
            raise pytest.UsageError("--golden-update writes files that the workers of -n share: leave -n out")

    def _search_seed(self) -> int | str:
        given = self.config.getoption("--hypothesis-seed", None)
        if given is not None:
            return int(given) if str(given).lstrip("-").isdigit() else str(given)
        shared = getattr(self.config, "workerinput", {}).get("robustkit_seed")
        if shared is not None:
            return int(shared)
        # The same command gives the same verdict; only the nightly run goes where none has been.
        return random.SystemRandom().getrandbits(32) if self.profile_name == "nightly" else 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["robustkit_seed"] = self.seed

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Under plain ``-n``, keep the checks of one codec and file together: they share trials, run once a process."""
        if config.getoption("dist") != "load":
            return None
        from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

        class ByFileAndCodec(LoadScopeScheduling):  # type: ignore[misc]
            def _split_scope(self, nodeid: str) -> str:
                return nodeid.partition("::")[0] + nodeid.partition("[")[2]

        return ByFileAndCodec(config, log)

    @property
    def images(self) -> dict[str, Image]:
        """What to encode, by name."""
        if self._images is None:
            from robustkit import images

            folder, crop = self.config.getoption("--images"), self.config.getoption("--crop")
            try:
                if folder is not None:
                    self._images = images.from_folder(folder, crop=crop)
                else:
                    self._images = images.photographs(crop if crop is not None else 256)
            except images.ImageError as error:
                raise pytest.UsageError(str(error)) from error
        return self._images

    @property
    def trials(self) -> int:
        """Trials for each image and severity."""
        return self._trials or math.ceil(self.effort.trials / len(self.images))

    def subject(self, spec: CodecSpec) -> CodecUnderTest:
        """The codec, ready to be examined; its processes start when they are needed."""
        from robustkit.trial import CodecUnderTest, SearchEffort

        if spec.name not in self._ready:
            self._ready[spec.name] = CodecUnderTest(
                spec,
                images=self.images,
                directory=self.report_dir,
                profile=self.profile,
                trials=self.trials,
                effort=SearchEffort(self.effort.examples, self.seed, self.effort.shrink_seconds),
                limits=self.limits,
                device=self.device,
                progress=self.progress,
            )
        return self._ready[spec.name]

    def close(self, subject: CodecUnderTest) -> None:
        """End the codec's processes."""
        self._ready.pop(subject.name, None)
        subject.close()

    def pytest_sessionstart(self) -> None:
        """Find out, before anything is collected, whether the codecs can run here."""
        if hasattr(self.config, "workerinput") or self.config.getoption("collectonly", False):
            return
        _ = self.images
        if self.device == "cuda" and not _cuda_is_here():
            commands = " and ".join(f"`{self.command(spec.name)}`" for spec in self.specs)
            self.no_device = f"no CUDA device here; {commands} records the golden files on a machine with an NVIDIA GPU"
            return
        for spec in self.specs:
            subject = self.subject(spec)
            try:
                self.facts[spec.name] = dict(subject.workers.describe())
                self.loosened[spec.name] = subject.loosened
                self.known_defects[spec.name] = subject.known_defects
            except CodecUnavailable as error:
                raise pytest.UsageError(str(error)) from error
            except Exception as error:
                if spec.settings:
                    given = ", ".join(f"{key}={value!r}" for key, value in spec.settings.items())
                    raise pytest.UsageError(f"codec {spec.name!r} can't be built with {given}: {error}") from error
                # A codec whose constructor dies is a finding, not a mistake in the command.
                self.facts[spec.name] = {"does not start": _first_line(str(error))}
            if _on_xdist(self.config):
                self.close(subject)

    def pytest_unconfigure(self) -> None:
        for subject in list(self._ready.values()):
            self.close(subject)

    def command(self, codec: str) -> str:
        """The command that records the golden reconstructions of ``codec``."""
        words = ["pytest", *(["--pyargs"] if self.config.getoption("pyargs", False) else [])]
        words += [a for a in self.config.args if "::" not in a] or ["conformance"]
        words += ["--codec", codec, "-k", "golden", "--golden-update"]
        if self.device != "cpu":
            words += ["--device", self.device]
        if self.config.getoption("--golden-dir") is not None:
            words += ["--golden-dir", self.config.getoption("--golden-dir")]
        return shlex.join(words)

    def progress(self, text: str) -> None:
        """Show that a long check is getting on, a line every ten seconds at most."""
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or hasattr(self.config, "workerinput") or time.monotonic() - self._last_progress < 10:
            return
        self._last_progress = time.monotonic()
        capture: Any = self.config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            reporter.write(f" [{text}] ", flush=True)
            return
        with capture.global_and_fixture_disabled():
            reporter.write(f" [{text}] ", flush=True)

    def pytest_report_header(self) -> list[str]:
        from robustkit import __version__

        loosened = {name: looser for name, looser in self.loosened.items() if looser}
        promises = self.config.getoption("robustkit_profile") or "the codec's own"
        lines = [
            f"robustkit: {__version__}; device {self.device}; effort {self.profile_name}"
            f" ({self.trials} trials an image, {self.effort.examples} examples);"
            f" seed {self.seed} (search), 0 (trials); promises: {promises}"
        ]
        if self.no_device:
            lines.append(f"robustkit: {self.no_device}")
        for spec in self.specs:
            facts = "; ".join(f"{key} {value}" for key, value in self.facts.get(spec.name, {}).items())
            lines.append(f"codec: {spec.name}" + (f" ({facts})" if facts else ""))
            if spec.name in loosened:
                lines.append(f"NON-CERTIFYING: loosened profile: {'; '.join(loosened[spec.name])}")
        return lines

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            chosen = _chosen(item)
            if isinstance(chosen, CodecSpec):
                item.user_properties.append((f"{PROPERTY}.check", json.dumps([chosen.name, _title(item)])))

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        result = yield
        claim = pyfuncitem.funcargs.get("claim")
        if isinstance(claim, Claim):
            claim.settle()
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather what the checks measured; under xdist the reports come from the workers."""
        check: tuple[str, str] | None = None
        for key, value in report.user_properties:
            if key == f"{PROPERTY}.check":
                codec, title = json.loads(str(value))
                check = (codec, title)
        if check is None:
            return
        rows = [Finding(**json.loads(str(v))) for k, v in report.user_properties if k == PROPERTY]
        if report.when == "call":
            self.findings += rows
        if report.failed:
            text = str(report.longreprtext).strip()
            blocked = report.when == "setup" and "blocked:" in text
            self.outcomes[check] = "blocked" if blocked else "broken"
            if not any(row.verdict in ("broken", "unproved") for row in rows) or report.when != "call":
                measured = "" if blocked else _last_line(text).partition(";")[0]
                self.findings.append(Finding(*check, "", measured, "", "blocked" if blocked else "error"))
        elif report.skipped and hasattr(report, "wasxfail"):
            self.outcomes[check] = "known"
        elif report.skipped:
            self.outcomes[check] = "skipped"
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
            reason = reason.removeprefix("Skipped: ").partition(";")[0]
            self.findings.append(Finding(*check, "", reason, "", "skipped"))
        elif report.when == "call":
            self.outcomes.setdefault(check, "kept")

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        if not self.outcomes:
            return
        terminalreporter.section("robustkit")
        # Into a file or a CI log there is no terminal to ask how wide it is.
        width = min(terminalreporter._tw.fullwidth, 160) if sys.stdout.isatty() else 120
        terminalreporter.write(self._table(width, colour=terminalreporter._tw.hasmarkup))
        for spec in self.specs:
            line, good = self.verdict(spec.name, int(exitstatus), terminalreporter.stats)
            terminalreporter.write_line(line, green=good, red=not good, bold=True)

    def _table(self, width: int, *, colour: bool) -> str:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        colours = {"kept": "green", "noted": "", **dict.fromkeys(("skipped", "blocked", "known defect"), "yellow")}
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
                    Text("" if row.claim == last else row.claim),
                    Text(row.severity),
                    Text(row.measured),
                    Text(row.declared),
                    Text(row.verdict, style=colours.get(row.verdict, "red")),
                )
                last = row.claim
            console.print(table)
            console.print()
        return out.getvalue()

    def verdict(self, codec: str, exitstatus: int, stats: Mapping[str, list[Any]]) -> tuple[str, bool]:
        """One line on one codec, and whether it is good news."""
        mine = [state for (name, _), state in self.outcomes.items() if name == codec]
        broken, blocked, skipped, known = (mine.count(s) for s in ("broken", "blocked", "skipped", "known"))
        checked = len(mine) - skipped
        aside = f" ({skipped} not checked)" if skipped else ""
        if broken or blocked:
            parts = [f"{broken} of {len(mine)} claims broken"] if broken else []
            parts += [f"{blocked} of {len(mine)} blocked by the clean round trip"] if blocked else []
            parts += [f"{known} of {len(mine)} by known defects"] if known else []
            return f"{codec}: does not conform: {', '.join(parts)}{aside}", False
        if not checked:
            return f"{codec}: not checked{aside}", False
        if self.loosened.get(codec):
            return f"{codec}: non-certifying: loosened profile: {'; '.join(self.loosened[codec])}", False
        failed = len(stats.get("failed", [])) + len(stats.get("error", []))
        explained = sum(state in ("broken", "blocked") for state in self.outcomes.values())
        if exitstatus != 0 and not (exitstatus == 1 and failed <= explained):
            return f"{codec}: not certified: the run did not end well (exit status {exitstatus})", False
        if known:
            reports = ", ".join(dict.fromkeys(self.known_defects.get(codec, {}).values()))
            return (
                f"{codec}: does not conform: {known} of {len(mine)} claims broken by known defects ({reports}){aside}",
                False,
            )
        if stats.get("deselected"):
            return f"{codec}: {checked} of {checked} claims hold; others were deselected{aside}", True
        return f"{codec}: conforms: {checked} of {len(mine)} claims hold{aside}", True


def _limits(config: pytest.Config) -> Limits | None:
    seconds, memory = config.getoption("--time-limit"), config.getoption("--memory-limit")
    if seconds is None and memory is None:
        return None
    from robustkit.isolation import Limits

    given: dict[str, Any] = {}
    if seconds is not None:
        given["seconds"] = seconds
    if memory is not None:
        given["memory"] = _bytes(memory)
    try:
        return Limits(**given)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def _profile(config: pytest.Config) -> Profile | None:
    file = config.getoption("robustkit_profile")
    if file is None:
        return None
    from robustkit import channels

    try:
        profile = Profile.from_toml(file)
        for promise in profile.promises:
            channels.parse(promise.channel)
    except (ProfileError, ValueError) as error:
        raise pytest.UsageError(f"--profile: {error}") from error
    return profile


def _at_least_one(config: pytest.Config, option: str) -> int | None:
    value: int | None = config.getoption(option)
    if value is not None and value < 1:
        raise pytest.UsageError(f"{option} {value}: give at least 1")
    return value


def _examples(name: str) -> int | None:
    """How many examples a profile of the user's own asks for."""
    if name in EFFORTS:
        return None
    from hypothesis import errors, settings

    try:
        return int(settings.get_profile(name).max_examples)
    except errors.InvalidArgument as error:
        raise pytest.UsageError(f"--hypothesis-profile {name}: {error}") from error


def _cuda_is_here() -> bool:
    # Asked of another process: torch has no business in this one.
    probe = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", probe], check=False, capture_output=True).returncode == 0


def _shown(path: Path) -> Path:
    """``path`` as a person would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _last_line(text: str) -> str:
    lines = [line.removeprefix("E ").strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "no message"
