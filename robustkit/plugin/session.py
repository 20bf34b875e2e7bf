"""One run over the chosen codecs: what it was asked to do, and the codecs, ready to be examined."""

from __future__ import annotations

import random
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from robustkit.errors import RobustkitError
from robustkit.judging.effort import EFFORTS
from robustkit.judging.finding import ClaimError
from robustkit.plugin.certifying import Certifying
from robustkit.plugin.options import PREFIX, Options, cuda_is_here, on_xdist
from robustkit.plugin.report import Report
from robustkit.registry import CodecSpec, CodecUnavailable
from robustkit.spelling import place, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robustkit.codec import Image
    from robustkit.judging.subject import Subject
    from robustkit.plugin.claim import Waivers

#: Of the search's seed, in what xdist's workers are told.
SEED = "robustkit_seed"
#: And of the trials' seed.
TRIAL_SEED = "robustkit_trial_seed"
#: Of the plugin's modules and what they use, those that are imported late; see robustkit.judging.beforehand.
_LATE = (
    *(
        "robustkit.plugin.claim",
        "robustkit.plugin.fixtures",
        "robustkit.plugin.golden_check",
        "robustkit.plugin.needed",
        "robustkit.plugin.regression_check",
        "robustkit.certificates.collect",
        "robustkit.certificates.worst",
    ),
    *("rich.console", "rich.table", "rich.text", "xdist.scheduler"),
)
#: Where a run that has chosen codecs keeps itself, in pytest's configuration.
RUN: pytest.StashKey[Run] = pytest.StashKey()


class Run:
    """A run of the suite.

    Args:
        config: pytest's.

    Raises:
        pytest.UsageError: an option's value can't be used, or a codec is unknown.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.options = Options(config)
        # A codec of one's own may lie where pytest was started, without a conftest; last, so that it hides nothing.
        if (here := str(config.invocation_params.dir)) not in sys.path:
            sys.path.append(here)
        self.specs = self.options.specs()
        self.waivers = self.options.waivers()
        self.report = Report(self.specs, self.waivers, unproved_fails=self.options.unproved_fails)
        self.limits = self.options.limits()
        self.profile = self.options.profile()
        effort = EFFORTS[self.options.effort]
        self.effort = replace(effort, examples=self.options.examples)
        self.seed = self._search_seed()
        self.trial_seed = self._seed_of_trials()
        self.no_device: str | None = None
        self.facts: dict[str, Mapping[str, str]] = {}
        self._trials, self._crop = self.options.trials, self.options.crop
        self.certifying = Certifying(self)
        self._ready: dict[str, Subject] = {}
        self._images: dict[str, Image] | None = None
        self._image_notes: list[str] = []
        self._last_progress = time.monotonic()
        if self.options.updating and on_xdist(config):
            raise pytest.UsageError(f"{PREFIX}golden-update writes files that the workers of -n share: leave -n out")

    def _search_seed(self) -> int | str:
        given = self.config.getoption("--hypothesis-seed", None)
        if given is not None:
            return int(given) if str(given).lstrip("-").isdecimal() else str(given)
        shared = getattr(self.config, "workerinput", {}).get(SEED)
        if shared is not None:
            return int(shared)
        # The same command gives the same verdict; only the nightly run goes where none has been.
        return random.SystemRandom().getrandbits(32) if self.options.effort == "nightly" else 0

    def _seed_of_trials(self) -> int:
        shared = getattr(self.config, "workerinput", {}).get(TRIAL_SEED)
        given = self.options.trial_seed if shared is None else int(shared)
        if given is not None:
            return given
        return random.SystemRandom().getrandbits(32) if self.options.effort == "nightly" else 0

    @property
    def images(self) -> dict[str, Image]:
        """What to encode, by name."""
        if self._images is None:
            from robustkit import images

            try:
                if self.options.images is not None:
                    self._images = images.from_folder(
                        self.options.images, crop=self._crop, note=self._image_notes.append
                    )
                else:
                    self._images = images.photographs(self._crop if self._crop is not None else 256)
            except (images.ImageError, OSError) as error:
                given = self.options.named("images" if self.options.images is not None else "crop")
                raise pytest.UsageError(f"{given}: {error}") from error
        return self._images

    @property
    def other_images(self) -> list[str]:
        """Options by which the images are others than those that a codec's own promises speak of."""
        if self.options.profile_file is not None:
            return []
        given = [] if self.options.images is None else ["--images", place(self.options.images)]
        return [*given, *([] if self._crop is None else ["--crop", str(self._crop)])]

    def waivers_of(self, subject: Subject) -> Waivers:
        """What may be waived of what a codec does."""
        from robustkit.judging import waivers
        from robustkit.plugin.claim import Waivers

        own = subject.own_waivers
        accepted = waivers.accepted(self.waivers, subject.name)
        return Waivers((*accepted, *(own if self.accepts_own else ())), own)

    @property
    def accepts_own(self) -> bool:
        """Whether the tester accepts what the codecs declare as known defects."""
        return None in self.options.waiver_files

    def subject(self, spec: CodecSpec) -> Subject:
        """The codec, ready to be examined; its processes start when they are needed."""
        from robustkit.judging.subject import Subject

        if spec.name not in self._ready:
            self._ready[spec.name] = Subject(
                spec,
                images=self.images,
                directory=self.options.report_dir,
                profile=self.profile,
                trials=self._trials,
                effort=self.effort,
                search_seed=self.seed,
                limits=self.limits,
                seed=self.trial_seed,
                progress=self.progress,
            )
        return self._ready[spec.name]

    def close(self, subject: Subject) -> None:
        """End the codec's processes."""
        self._ready.pop(subject.name, None)
        subject.close()

    def close_all(self) -> None:
        """End every codec's processes."""
        for subject in list(self._ready.values()):
            self.close(subject)

    def start(self) -> None:
        """Find out, before anything is collected, whether the codecs can run here.

        Raises:
            pytest.UsageError: one can't, or what was asked of it makes no sense.
        """
        if hasattr(self.config, "workerinput") or self.config.getoption("collectonly", False):
            return
        _ = self.images
        self._try_report_dir()
        self.certifying.begin()
        if self.options.device == "cuda" and not cuda_is_here():
            commands = " and ".join(f"`{self.recording(spec.name)}`" for spec in self.specs)
            self.no_device = f"no CUDA device here; {commands} records the golden files on a machine with an NVIDIA GPU"
            return
        from robustkit.isolation import WorkerError
        from robustkit.judging import beforehand
        from robustkit.plugin import suite

        beforehand.load(_LATE)
        suite.load(self.config.args)
        for spec in self.specs:
            subject = self.subject(spec)
            try:
                self._ask(subject)
            except (CodecUnavailable, ClaimError) as error:
                raise pytest.UsageError(str(error)) from error
            except OSError as error:
                # The machine's trouble, no mistake in the command: each check that meets it says so.
                self._unasked(spec, "can't be started now", error)
            except WorkerError as error:
                if spec.settings:
                    given = ", ".join(f"{key}={value!r}" for key, value in spec.settings.items())
                    raise pytest.UsageError(f"codec {spec.name!r} can't be built with {given}: {error}") from error
                self._unasked(spec, "does not describe itself", error)
            if on_xdist(self.config):
                self.close(subject)
        self.report.about = self._about()

    def _unasked(self, spec: CodecSpec, what: str, error: Exception) -> None:
        said = str(error).strip().partition("\n")[0][:200]
        self.facts[spec.name] = {what: said}
        if spec.name not in self.report.promising:
            self.report.unasked[spec.name] = f"the codec {what}: {said}"

    def _ask(self, subject: Subject) -> None:
        """Find out what a verdict on a codec depends on, and whether its images can be measured."""
        name = subject.name
        self.report.loosened[name] = subject.loosened
        self.report.promising[name] = subject.profile is not None and bool(subject.profile.promises)
        self.report.own_waivers[name] = subject.own_waivers if self.accepts_own else ()
        try:
            subject.check_metric()
        except (RobustkitError, ValueError) as error:
            raise pytest.UsageError(f"metric {subject.metric!r} of codec {name!r}: {error}") from error
        self.facts[name] = dict(subject.workers.describe())

    def _about(self) -> dict[str, str]:
        """What the verdicts depend on, for the JUnit report."""
        import platform

        import numpy

        from robustkit import __version__

        facts = {f"codec.{name}": "; ".join(f"{k} {v}" for k, v in told.items()) for name, told in self.facts.items()}
        return {
            "version": __version__,
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "pytest": pytest.__version__,
            "platform": platform.platform(),
            "device": self.options.device,
            "effort": self.options.effort,
            "trials": str(self._trials_per_image),
            "seed": str(self.seed),
            "trial-seed": str(self.trial_seed),
            "images": ", ".join(self.images),
            "promises": self._promises,
            **facts,
        }

    @property
    def _promises(self) -> str:
        file = self.options.profile_file
        return "the codec's own" if file is None else place(file)

    @property
    def _trials_per_image(self) -> int:
        return self._trials or -(-self.effort.trials // len(self.images))

    def _try_report_dir(self) -> None:
        folder = self.options.report_dir
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
        except OSError as error:
            named = self.options.named("report-dir")
            said = f"{named}: can't write into {place(folder)} ({error.strerror}): give a folder that can be written to"
            raise pytest.UsageError(said) from error

    def recording(self, codec: str) -> str:
        """The command that records the golden reconstructions of ``codec``."""
        words = ["pytest", *(["--pyargs"] if self.config.getoption("pyargs", False) else [])]
        words += [a for a in self.config.args if "::" not in a] or ["conformance"]
        words += ["--codec", codec, "-k", "golden", f"{PREFIX}golden-update"]
        if self.options.device != "cpu":
            words += [f"{PREFIX}device", self.options.device]
        if self.options.golden_dir is not None:
            words += [f"{PREFIX}golden-dir", place(self.options.golden_dir)]
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

    def header(self) -> list[str]:
        """Lines on what is judged, and how."""
        from robustkit import __version__

        examples = self.effort.examples
        searches = f"{examples} streams a search" if examples else f"searches of about {self.effort.seconds:g} s"
        lines = [
            f"robustkit: {__version__}; device {self.options.device}; effort {self.options.effort}"
            f" (up to {self._trials_per_image} trials an image, {searches});"
            f" seed {self.seed} (search), {self.trial_seed} (trials); promises: {self._promises}"
        ]
        lines += [f"images: {said}" for said in self._image_notes]
        if self.no_device:
            lines.append(f"robustkit: {self.no_device}")
        for spec in self.specs:
            facts = "; ".join(f"{key} {value}" for key, value in self.facts.get(spec.name, {}).items())
            lines.append(f"codec: {spec.name}" + (f" ({facts})" if facts else ""))
            if loosened := self.report.loosened.get(spec.name):
                lines.append(f"NON-CERTIFYING: loosened profile: {'; '.join(loosened)}")
        return [printable(line, lines=False) for line in lines]
