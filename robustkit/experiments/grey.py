"""What a mid-grey image scores against each original: the charge for a trial that gave no image."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import quality
from robustkit.experiments import store
from robustkit.experiments.identity import Experiment, ExperimentError
from robustkit.experiments.pictures import Picture
from robustkit.experiments.results import ResultsError
from robustkit.images import ImageError

#: The grey: half of 255, rounded up.
LEVEL = 128
#: Where scores are kept in an experiment's folder, so that slow metrics are asked once.
FILE = "mid-grey.json"


def scores(
    folder: Path, images: Iterable[str], metrics: Iterable[str]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Scores of the mid-grey image, by metric and image.

    The originals are read again, and are the experiment's own only if their pixels are.

    Args:
        folder: of an experiment.
        images: names of those that are needed.
        metrics: of single images.

    Returns:
        What is known, and for what is not one sentence each.

    Raises:
        ResultsError: scores that are kept in the folder can't be read.
    """
    wanted, names = list(images), list(metrics)
    if not wanted or not names:
        return {}, []
    try:
        experiment = Experiment.read(folder)
    except ExperimentError as error:
        return {}, [f"What a mid-grey image scores is not known: {error}"]
    kept = _read(folder / FILE)
    before = json.dumps(kept)
    found: dict[str, dict[str, float]] = {}
    notes: dict[str, None] = {}
    pictures = {picture.name: picture for picture in experiment.pictures}
    for name in wanted:
        if name not in pictures:
            continue
        for metric in names:
            # A metric of another version is another metric.
            said = json.dumps([metric, experiment.metrics.get(metric)], sort_keys=True)
            known = kept.setdefault(said, {})
            if (digest := pictures[name].digest) not in known:
                try:
                    known[digest] = _score(metric, pictures[name])
                except (ImageError, quality.MetricUnavailable, quality.UnknownMetric, ValueError) as error:
                    notes[f"What a mid-grey image scores in {metric} is not known: {error}"] = None
                    continue
            found.setdefault(metric, {})[name] = known[digest]
    if json.dumps(kept) == before:
        return found, list(notes)
    # A folder that can't be written to is as good to draw from.
    with contextlib.suppress(store.RowsError):
        store.write_bytes(folder / FILE, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode())
    return found, list(notes)


def _score(metric: str, picture: Picture) -> float:
    original = picture.load()
    return float(quality.measure(metric, original, np.full_like(original, LEVEL)))


def _read(path: Path) -> dict[str, dict[str, float]]:
    if not path.exists():
        return {}
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return {str(said): _numbers(values) for said, values in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ResultsError(f"{path} can't be read ({error}): remove it, and it is made again") from error


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    found = {str(digest): float(value) for digest, value in values.items()}
    if not all(map(math.isfinite, found.values())):
        raise ValueError("a score is no finite number")
    return found
