"""The trials that hurt most, with their pictures, so that people see what a figure means."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.certificates import model
from robustkit.certificates.model import CertificateError
from robustkit.certificates.scan import read_json
from robustkit.codec import Image
from robustkit.isolation import fingerprint
from robustkit.judging.finding import Verdict
from robustkit.judging.replay import SUFFIX, Replay, ReplayError, save_replay
from robustkit.judging.subject import Subject, slug
from robustkit.judging.trial import Trial
from robustkit.minimise import describe
from robustkit.outcome import Outcome
from robustkit.spelling import place

#: How many are kept unless somebody asks for more or fewer.
MOST = 12
#: Lines on the damage of each.
_LINES = 6
#: Characters of what a worker said that are kept.
_MESSAGE = 1000
#: Bytes of a file of worst cases that are read, and pixels of a picture in it.
_LARGEST, _PIXELS = 256 << 20, 64 << 20


@dataclass(frozen=True)
class WorstCase:
    """A trial, with its pictures.

    Attributes:
        codec: the codec's own name, which seeds the trial with the next four.
        image, channel, number, seed: as :class:`robustkit.judging.trial.Trial` has them.
        outcome: what happened.
        metric, metric_unit: of quality.
        quality: of the damaged picture; ``None`` without one.
        drop: quality lost against the clean decode; likewise.
        message: what the worker said, cut.
        flips: how many bits flipped.
        damage: which parts of the stream, a line each.
        command: that decodes its stream again; empty where that is not kept.
        original, clean, damaged: pictures, uint8, H x W x 3; ``None`` where nothing of the kind came out.
    """

    codec: str
    image: str
    channel: str
    number: int
    seed: int
    outcome: str
    metric: str
    metric_unit: str
    quality: float | None
    drop: float | None
    message: str
    flips: int
    damage: tuple[str, ...]
    command: str
    original: Image = field(repr=False, compare=False)
    clean: Image | None = field(repr=False, compare=False)
    damaged: Image | None = field(repr=False, compare=False)


def of(
    subject: Subject,
    trials: Iterable[Trial] | None = None,
    *,
    most: int = MOST,
    broken: Collection[str] | None = None,
    directory: Path | None = None,
) -> list[WorstCase]:
    """The worst trials of a codec, decoded once more for their pictures.

    Of each channel the one that cost most, and the first that gave no picture and was not refused. Where those are
    too many, channels whose promise is broken come first, and then the largest losses. Asked a second time, a decoder
    may say something else; outcome and figures are those of the trial.

    Args:
        subject: the codec.
        trials: of its images; by default those of its promises, which are run if they were not.
        most: how many cases.
        broken: channels to show first; by default those of the promises that the trials break.
        directory: where their streams are kept for ``robustkit replay``; by default they are not.

    Raises:
        CleanRoundTripFailed: an image could not be encoded.
    """
    if trials is None:
        trials = [trial for found in subject.promised_trials.values() for trial in found]
        if broken is None:
            broken = {a.severity for a in subject.assessments if a.verdict is Verdict.BROKEN}
    by_channel: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.image in subject.clean:
            by_channel.setdefault(str(trial.channel), []).append(trial)
    chosen: list[Trial] = []
    for found in by_channel.values():
        chosen += [t for t in found if t.outcome.failure][:1]
        pictured = [t for t in found if _lost(t, subject.metric) is not None and t.outcome.has_image]
        worst = max(pictured, key=lambda t: _lost(t, subject.metric) or 0.0, default=None)
        chosen += [worst] if worst is not None and (_lost(worst, subject.metric) or 0.0) > 0 else []

    def rank(trial: Trial) -> tuple[bool, bool, float]:
        lost = _lost(trial, subject.metric)
        return str(trial.channel) not in (broken or ()), not trial.outcome.failure, -(lost or 0.0)

    return [_case(subject, trial, directory) for trial in sorted(chosen, key=rank)[:most]]


def drawing(case: WorstCase) -> str:
    """Python that draws the damage of a case again."""
    return (
        f"robustkit.channels.parse({case.channel!r}).draw(8 * len(stream), layout, "
        f"codec={case.codec!r}, image={case.image!r}, trial={case.number}, seed={case.seed})"
    )


def difference(case: WorstCase) -> tuple[Image | None, int]:
    """How far the damaged picture lies from the clean one, uint8, stretched; and the largest distance in grey levels.

    ``None`` where there are no two pictures of one shape.
    """
    if case.clean is None or case.damaged is None or case.clean.shape != case.damaged.shape:
        return None, 0
    away = np.abs(case.clean.astype(np.int16) - case.damaged)
    largest = int(away.max(initial=0))
    return np.rint(away * (255 / max(largest, 1))).astype(np.uint8), largest


def to_json(case: WorstCase) -> Any:
    """A case in JSON's own types, its pictures as PNG in base64."""
    return model.to_json(
        _Written(
            **{name: getattr(case, name) for name in _FIELDS},
            pictures=tuple(_packed(p) for p in (case.original, case.clean, case.damaged)),
        )
    )


def from_json(value: Any, where: str = "worst case") -> WorstCase:
    """The case that :func:`to_json` wrote.

    Raises:
        CertificateError: it is none; the message names the field.
    """
    found = model.from_json(_Written, value, where)
    if len(found.pictures) != 3:
        raise CertificateError(f"{where}.pictures has {len(found.pictures)} of 3")
    original, clean, damaged = (_unpacked(text, f"{where}.pictures[{i}]") for i, text in enumerate(found.pictures))
    if original is None:
        raise CertificateError(f"{where}.pictures[0] is empty: a case has an original")
    values = {name: getattr(found, name) for name in _FIELDS}
    return WorstCase(**values, original=original, clean=clean, damaged=damaged)


def write(path: Path, cases: Sequence[WorstCase]) -> None:
    """Put cases into a file, for whoever makes the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([to_json(case) for case in cases], allow_nan=False), encoding="utf-8")


def read(path: Path) -> list[WorstCase]:
    """The cases in a file.

    Raises:
        CertificateError: there are none, or no such.
    """
    value = read_json(path, _LARGEST)
    if not isinstance(value, list):
        raise CertificateError(f"{path} is no list of worst cases")
    return [from_json(one, f"worst case {index}") for index, one in enumerate(value)]


@dataclass(frozen=True)
class _Written:
    """As a file has it."""

    codec: str
    image: str
    channel: str
    number: int
    seed: int
    outcome: str
    metric: str
    metric_unit: str
    quality: float | None
    drop: float | None
    message: str
    flips: int
    damage: tuple[str, ...]
    command: str
    pictures: tuple[str, ...]


_FIELDS = tuple(name for name in _Written.__dataclass_fields__ if name != "pictures")


def _packed(picture: Image | None) -> str:
    from PIL import Image as Pillow

    if picture is None:
        return ""
    out = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(picture)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode("ascii")


def _unpacked(text: str, where: str) -> Image | None:
    from PIL import Image as Pillow

    if not text:
        return None
    try:
        data = base64.b64decode(text, validate=True)
        with Pillow.open(io.BytesIO(data), formats=["PNG"]) as opened:
            if opened.mode != "RGB" or opened.width * opened.height > _PIXELS:
                raise CertificateError(f"{where} is no RGB picture of at most {_PIXELS} pixels")
            return np.array(opened, dtype=np.uint8)
    except CertificateError:
        raise
    except (binascii.Error, ValueError) as error:
        raise CertificateError(f"{where} is no picture: {error}") from error
    except Exception as error:  # Pillow's readers raise whatever the parts of a damaged file lead to
        raise CertificateError(f"{where} is no PNG: {error}") from error


def _lost(trial: Trial, metric: str) -> float | None:
    found = trial.drop(metric)
    return found if found is not None and math.isfinite(found) else None


def _case(subject: Subject, trial: Trial, directory: Path | None) -> WorstCase:
    from robustkit import quality

    clean = subject.clean[trial.image]
    stream = trial.pattern.apply(clean.bitstream)
    damaged = None
    if trial.outcome.has_image or trial.outcome is Outcome.UNSTABLE:
        # The others gave no picture, and one that hangs would hang again.
        (decoded,) = subject.once.decode_many([stream], shape=clean.shape)
        damaged = decoded.image
    measured = trial.metrics.get(subject.metric)
    damage = describe(trial.pattern, clean.layout, most=_LINES)
    return WorstCase(
        trial.codec,
        trial.image,
        str(trial.channel),
        trial.number,
        trial.seed,
        trial.outcome.value,
        subject.metric,
        quality.METRICS[subject.metric].unit,
        measured if measured is not None and math.isfinite(measured) else None,
        _lost(trial, subject.metric),
        trial.message[:_MESSAGE],
        len(trial.pattern.flips),
        tuple(damage),
        "" if directory is None else _kept(subject, trial, stream, tuple(damage), directory),
        clean.original,
        clean.decoded.image,
        damaged,
    )


def _kept(subject: Subject, trial: Trial, stream: bytes, damage: tuple[str, ...], directory: Path) -> str:
    """The command that decodes a stream again, which is kept; empty where a full disk or a strange setting forbids."""
    clean = subject.clean[trial.image]
    replay = Replay(
        subject.spec,
        stream,
        trial.outcome,
        trial.message,
        shape=clean.shape,
        clean=None if clean.decoded.image is None else fingerprint(clean.decoded.image),
        limits=subject.limits,
        pattern=trial.pattern,
        regions=damage,
    )
    name = slug(f"worst-{trial.image}-{trial.channel}-{trial.number}")
    try:
        file = save_replay(directory / (name + SUFFIX), replay)
    except (OSError, ReplayError):
        return ""
    return f"robustkit replay {shlex.quote(place(file))}"
