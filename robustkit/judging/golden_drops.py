"""Golden drops on disk: what each seeded trial lost when somebody last recorded, for the regression gate.

One file, ``drops.json``, lies beside a codec's golden files. All that its numbers depend on is in it: the digests of
images and streams, the channels, the seed, the settings and what the codec said of itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit.channels import Channel, parse
from robustkit.isolation import fingerprint
from robustkit.judging.effort import ASIDE
from robustkit.judging.golden_files import DROPS, GoldenError
from robustkit.judging.subject import Job, Subject
from robustkit.judging.trial import Trial
from robustkit.outcome import Outcome
from robustkit.spelling import json_value

VERSION = 1
#: Trials of each image and channel: that a comparison begins with, that are recorded at most, and the seconds of
#: decoding that recording may take.
LEAST, RECORDED, SECONDS = 10, 250, 60.0
#: Bytes of a file that is read at most; those of six images and eight channels have a fiftieth of that.
LARGEST = 1 << 22
#: Digits behind the point of a drop and of a quality.
DIGITS = 4

#: What became of one trial: quality lost, ``None`` for a stream that arrived unharmed, an outcome without an image.
Loss = float | Outcome | None


@dataclass(frozen=True)
class Picture:
    """One image, as a codec had it.

    Attributes:
        image, stream: SHA-256 of the pixels and of the clean stream, in hexadecimal.
        quality: of the clean decode, in the metric's unit.
    """

    image: str
    stream: str
    quality: float


@dataclass(frozen=True)
class Drops:
    """What a codec's seeded trials lost.

    Attributes:
        codec: its own name, which seeds the trials.
        device: the device class.
        metric: of qualities and drops.
        seed: of the trials.
        settings: the codec's.
        facts: what the codec said of itself.
        pictures: the images by name.
        losses: by channel, by image, in the order of the trials' numbers, from 0.
    """

    codec: str
    device: str
    metric: str
    seed: int
    settings: Mapping[str, Any]
    facts: Mapping[str, str]
    pictures: Mapping[str, Picture]
    losses: Mapping[Channel, Mapping[str, tuple[Loss, ...]]]

    @property
    def each(self) -> int:
        """Trials of each image and channel; the fewest, should they differ."""
        return min((len(found) for by_image in self.losses.values() for found in by_image.values()), default=0)


def affordable(subject: Subject, seconds: float) -> int:
    """Trials of each image and channel that decode within ``seconds``: 10 at least, 250 at most."""
    promises = () if subject.profile is None else subject.profile.promises
    once = sum(clean.decoded.seconds + ASIDE for clean in subject.clean.values()) * len(promises)
    return max(LEAST, min(RECORDED, int(seconds / once) if once else RECORDED))


def at_first(recorded: int, rounds: int) -> int:
    """Trials of each image and channel that a comparison begins with: not quite half of a run's rounds.

    They are among those that the promises are judged by, where these take half of what the effort has.

    Args:
        recorded: trials of each that there are.
        rounds: that the effort has at the most.
    """
    return max(LEAST, min(recorded, 5 * rounds // 12))


def trials_of(subject: Subject, channel: Channel, least: int, seed: int | None = None) -> list[Trial]:
    """The trials that the channel's promise is judged by, and what they lack of ``least`` of every image.

    With another ``seed`` than the run's, only the latter, by that seed.
    """
    own = seed is None or seed == subject.seed
    found = {(t.image, t.number): t for t in subject.trials(channel)} if own else {}
    wanted = [(image, number) for image in subject.clean for number in range(least)]
    lacking = [Job(i, channel, n, None if own else seed) for i, n in wanted if (i, n) not in found]
    found |= {(t.image, t.number): t for t in subject.run(lacking)}
    return [found[key] for key in sorted(found)]


def measured(
    subject: Subject,
    trials: Mapping[Channel, Sequence[Trial]],
    settings: Mapping[str, Any],
    seed: int | None = None,
) -> Drops:
    """What these trials of a codec lost.

    Args:
        subject: the codec.
        trials: of each channel, those of one image in the order of their numbers.
        settings: as the file names them.
        seed: of the trials, if it is not the run's.
    """
    metric = subject.metric
    losses: dict[Channel, dict[str, tuple[Loss, ...]]] = {}
    for channel, found in trials.items():
        rows: dict[str, list[Loss]] = {}
        for trial in found:
            rows.setdefault(trial.image, []).append(_loss(trial, metric))
        losses[channel] = {image: tuple(row) for image, row in rows.items()}
    return Drops(
        subject.own_name,
        subject.device,
        metric,
        subject.seed if seed is None else seed,
        dict(settings),
        dict(subject.workers.describe()),
        {
            name: Picture(
                fingerprint(clean.original),
                hashlib.sha256(clean.bitstream).hexdigest(),
                _rounded(clean.metrics[metric]),
            )
            for name, clean in subject.clean.items()
        },
        losses,
    )


def write(folder: Path, drops: Drops) -> Path:
    """Write the file into ``folder``, whole or not at all; the same drops give the same bytes."""
    data = {
        "version": VERSION,
        "codec": drops.codec,
        "device": drops.device,
        "metric": drops.metric,
        "seed": drops.seed,
        "settings": dict(drops.settings),
        "facts": dict(drops.facts),
        "images": {name: vars(picture) for name, picture in drops.pictures.items()},
        "drops": {str(c): {i: list(row) for i, row in rows.items()} for c, rows in drops.losses.items()},
    }
    text = json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"
    # A row of trials belongs on one line.
    text = re.sub(r"\[[^\[\]{}]+\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".")
    with os.fdopen(handle, "wb") as out:
        out.write(text.encode())
    Path(temporary).chmod(0o644)
    os.replace(temporary, folder / DROPS)
    return folder / DROPS


def read(folder: Path) -> Drops | None:
    """Read the file in ``folder``; ``None`` where there is none.

    Raises:
        GoldenError: too large, not JSON, another version, or a value of the wrong kind.
    """
    file = folder / DROPS
    try:
        with file.open("rb") as opened:
            raw = opened.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise GoldenError(f"{file} is larger than {LARGEST} bytes: record it anew")
        data = json_value(raw.decode("utf-8"))
    except FileNotFoundError:
        return None
    except GoldenError:
        raise
    except (OSError, ValueError) as error:
        raise GoldenError(f"{file} can't be read: {error}") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise GoldenError(f"{file} is no file of golden drops of version {VERSION}: record it anew")
    try:
        return Drops(
            _text(data["codec"]),
            _text(data["device"]),
            _text(data["metric"]),
            _integer(data["seed"]),
            dict(data["settings"]),
            {str(k): str(v) for k, v in data["facts"].items()},
            {
                str(name): Picture(_digest(found["image"]), _digest(found["stream"]), _number(found["quality"]))
                for name, found in data["images"].items()
            },
            {parse(name): _rows(rows, data["images"]) for name, rows in data["drops"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GoldenError(f"{file} is damaged ({type(error).__name__}: {error}): record it anew") from error


def _loss(trial: Trial, metric: str) -> Loss:
    if trial.pattern.harmless:
        return None
    drop = trial.drop(metric)
    return trial.outcome if drop is None else _rounded(drop)


def _rounded(value: float) -> float:
    # Not -0.0, which would be another text.
    return round(value, DIGITS) + 0.0


def _rows(rows: Mapping[str, Iterable[Any]], images: Mapping[str, Any]) -> dict[str, tuple[Loss, ...]]:
    if unknown := rows.keys() - images.keys():
        raise ValueError(f"drops of {sorted(unknown)[0]!r}, which is none of the images")
    return {image: tuple(_read_loss(value) for value in row) for image, row in rows.items()}


def _read_loss(value: Any) -> Loss:
    if value is None:
        return None
    if isinstance(value, str):
        outcome = Outcome(value)
        if outcome.has_image:
            raise ValueError(f"{value!r} has an image, and a drop")
        return outcome
    return _number(value)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e6:
        raise ValueError(f"{value!r} is no drop or quality")
    return float(value)


def _integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError(f"{value!r} is no seed")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or re.fullmatch(r"[0-9a-f]{64}", value) is None:
        raise ValueError(f"{value!r} is no SHA-256 in hexadecimal")
    return value
