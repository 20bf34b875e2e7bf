"""Evidence: failing streams kept on disk, with the command that decodes each again, and lines that explain them."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from robustkit.isolation import WorkerError, fingerprint
from robustkit.judging.replay import SUFFIX, Replay, ReplayError, save_replay
from robustkit.judging.shrink import Counterexample
from robustkit.judging.subject import Subject, slug
from robustkit.judging.trial import Clean, Trial
from robustkit.minimise import describe
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.registry import CodecSpec, CodecUnavailable
from robustkit.spelling import place

_CUT_SHORT = " (shrinking was cut short)"


@dataclass(frozen=True)
class Kept:
    """A failing stream that was kept for replay.

    Attributes:
        claim: id of the claim that it was kept for.
        outcome: what happened.
        message: what the worker said.
        stream: SHA-256 of the stream.
        damage: what was done to it, a line each.
        file: the replay file; ``None`` where it could not be written.
    """

    claim: str
    outcome: Outcome
    message: str
    stream: str
    damage: tuple[str, ...]
    file: Path | None


def first_line(text: str) -> str:
    """The first line of what a worker said, cut to a line's length."""
    return text.strip().splitlines()[0][:200] if text.strip() else "no message"


def replay_folder(directory: Path, spec: CodecSpec) -> Path:
    """Where a codec's replay files go: settings that were given have a folder of their own.

    Args:
        directory: the report folder.
        spec: the codec and its settings.
    """
    name = slug(spec.name)
    if spec.settings:
        text = json.dumps(dict(spec.settings), sort_keys=True, default=str)
        name = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return directory / "replay" / name


class Evidence:
    """Keeps the streams that one claim about one codec was broken by.

    Where one can't be kept, on a full disk, the reason stands in the command's place: what was found stays found.

    Args:
        subject: the codec.
        claim: the claim's id.
        title: the claim in words, which the files are named by.
        directory: where replay files go.
    """

    def __init__(self, subject: Subject, claim: str, title: str, directory: Path) -> None:
        self.subject = subject
        self.claim = claim
        self.title = title
        self.directory = directory

    def counterexample(self, found: Counterexample, name: str = "") -> str:
        """Keep what the search found; returns the command that decodes it again, as do the next two.

        Args:
            name: tells its file from those of other counterexamples to the claim.
        """
        return self._keep(found.clean, found.pattern, found.stream, found.outcome, found.decoded.message, name)

    def trial(self, trial: Trial) -> str:
        """Keep a trial's stream."""
        clean = self.subject.clean[trial.image]
        stream = trial.pattern.apply(clean.bitstream)
        name = f"{trial.image}-{trial.channel}-{trial.number}"
        return self._keep(clean, trial.pattern, stream, trial.outcome, trial.message, name)

    def clean(self, clean: Clean, pattern: ErrorPattern | None = None) -> str:
        """Keep a clean stream, or the one that ``pattern`` makes of it."""
        if pattern is None:
            pattern = ErrorPattern(clean.bits)
        stream = pattern.apply(clean.bitstream)
        decoded = self.subject.workers.decode(stream, shape=clean.shape)
        return self._keep(clean, pattern, stream, clean.judge(decoded), decoded.message)

    def explain(self, found: Counterexample, *, least: bool = True) -> list[str]:
        """What a counterexample hits, line by line.

        Args:
            least: whether no smaller one was left to try.
        """
        if found.clean is None or found.pattern is None:
            shown = found.stream[:24].hex(" ") + (" ..." if len(found.stream) > 24 else "")
            return [f"{len(found.stream)} bytes{_CUT_SHORT * (not least)}: {shown or 'the empty stream'}"]
        said = "the least damage that does it" if least else f"damage that does it{_CUT_SHORT}"
        return [
            f"{found.clean.image}, {found.clean.shape[1]}x{found.clean.shape[0]}; {said}:",
            *(f"  {line}" for line in describe(found.pattern, found.clean.layout)),
        ]

    def least(self, trial: Trial, offends: Callable[[Trial], bool]) -> tuple[list[str], str]:
        """Reduce a trial to the flips that matter: lines that explain it, and the command that shows it again."""
        try:
            least = self.subject.smallest(trial, offends)
        except (OSError, CodecUnavailable, WorkerError) as error:
            return [f"photograph {trial.image}, trial {trial.number}; not reduced: {error}"], self.trial(trial)
        clean = self.subject.clean[trial.image]
        drop = least.drop(self.subject.metric)
        lost = f", {drop:.2f} lost" if drop is not None else ""
        lines = [
            f"photograph {trial.image}, trial {trial.number}: {least.outcome}{lost} with this damage alone:",
            *(f"  {line}" for line in describe(least.pattern, clean.layout)),
        ]
        if least.message:
            lines.insert(1, f"  {first_line(least.message)}")
        return lines, self.trial(least)

    def _keep(
        self,
        clean: Clean | None,
        pattern: ErrorPattern | None,
        stream: bytes,
        outcome: Outcome,
        message: str,
        name: str = "",
    ) -> str:
        reference = clean.decoded.image if clean is not None else None
        replay = Replay(
            self.subject.spec,
            stream,
            outcome,
            message,
            shape=clean.shape if clean is not None else None,
            clean=None if reference is None else fingerprint(reference),
            limits=self.subject.limits,
            pattern=pattern,
            regions=() if clean is None or pattern is None else tuple(describe(pattern, clean.layout)),
            claim=self.claim,
        )
        file: Path | None = self.directory / (slug("-".join(filter(None, [self.title, name]))) + SUFFIX)
        try:
            assert file is not None
            save_replay(file, replay)
        except (OSError, ReplayError) as error:
            file = None
            return f"not kept for replay: {error}"
        finally:
            digest = hashlib.sha256(stream).hexdigest()
            self.subject.kept.append(Kept(self.claim, outcome, message, digest, replay.regions, file))
        return f"robustkit replay {shlex.quote(place(file))}"
