"""Makes ``rows.parquet`` and ``grey.json``: real trials of real codecs on small crops, for tests of figures and tables.

``python tests/experiments/make_rows.py`` takes some minutes. The trials are seeded, so the rows are the same again.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from robustkit import channels, quality, registry
from robustkit.experiments import rows
from robustkit.images import photographs
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Clean, Trial

HERE = Path(__file__).parent
CROP = 64
TRIALS = 4
METRICS = ("psnr", "ssim")
CHANNELS = (
    *(f"bsc(ber={ber})" for ber in ("0.0001", "0.001", "0.01", "0.1")),
    *(f"gilbert-elliott(ber=0.001, burst={burst})" for burst in (4, 32, 128)),
    "truncation(keep=0.5)",
)
#: By label, codec and settings: codecs at their own rates, three ladders of rates, and one codec without loss.
ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("jpeg", {}),
    "png": ("png", {}),
    "webp": ("webp", {}),
    "robust-turbo-ddcm": ("robust-turbo-ddcm", {}),
    **{f"jpeg@q{q}": ("jpeg", {"quality": q}) for q in (10, 30, 60, 85)},
    **{f"jpeg2000@q{q}": ("jpeg2000", {"quality": q}) for q in (25, 30, 35, 40)},
    **{f"jpeg+rs(255,191)@q{q}": ("jpeg+rs(255,191)", {"quality": q}) for q in (10, 30, 60)},
}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def about(entry: str, codec: str, settings: dict[str, Any], clean: Clean) -> dict[str, Any]:
    return {
        "entry": entry,
        "codec": codec,
        "settings": json.dumps(settings, sort_keys=True),
        "codec_digest": sha(codec.encode())[:12],
        "image": clean.image,
        "image_digest": sha(clean.original.tobytes())[:12],
        "height": clean.shape[0],
        "width": clean.shape[1],
        "stream_digest": sha(clean.bitstream)[:12],
        "stream_bytes": len(clean.bitstream),
        "bpp": clean.bpp,
    }


def of_clean(clean: Clean) -> dict[str, Any]:
    return {
        **{"channel": rows.CLEAN, "kind": rows.CLEAN, "severity": 0.0, "trial": rows.CLEAN_TRIAL, "seed": 0},
        **{"flips": 0, "region": None, "outcome": "intact", "failure": None, "seconds": 0.0, "memory": None},
        **measured(clean, clean.decoded.image),
    }


def of_trial(trial: Trial, clean: Clean, image: np.ndarray | None) -> dict[str, Any]:
    return {
        "channel": str(trial.channel),
        "kind": trial.channel.kind,
        "severity": trial.channel.severity,
        "trial": trial.number,
        "seed": trial.seed,
        "flips": len(trial.pattern.flips),
        "region": None,
        "outcome": trial.outcome.value,
        "failure": str(trial.outcome) if trial.outcome.failure else None,
        "seconds": 0.0,
        "memory": None,
        **(measured(clean, image) if trial.outcome.has_image else {}),
    }


def measured(clean: Clean, image: np.ndarray | None) -> dict[str, float]:
    assert image is not None
    return {metric: quality.measure(metric, clean.original, image) for metric in METRICS}


def rows_of(entry: str, codec: str, settings: dict[str, Any], directory: Path) -> Iterator[dict[str, Any]]:
    spec = registry.get(codec).spec(**settings)
    with closing(Subject(spec, images=photographs(CROP), directory=directory, metric="psnr", trials=TRIALS)) as subject:
        for clean in subject.clean.values():
            yield {**about(entry, codec, settings, clean), **of_clean(clean)}
        for channel in map(channels.parse, CHANNELS):
            images: dict[tuple[str, int], np.ndarray] = {}

            def keep(trial: Trial, image: np.ndarray, images: dict[tuple[str, int], np.ndarray] = images) -> None:
                images[trial.image, trial.number] = image

            for trial in subject.run(subject.jobs(channel), keep=keep):
                clean = subject.clean[trial.image]
                yield {
                    **about(entry, codec, settings, clean),
                    **of_trial(trial, clean, images.get((trial.image, trial.number))),
                }


def grey() -> dict[str, dict[str, float]]:
    """What a mid-grey image scores, by metric and image."""
    originals = photographs(CROP)
    return {
        metric: {name: quality.measure(metric, image, np.full_like(image, 128)) for name, image in originals.items()}
        for metric in METRICS
    }


def main() -> None:
    said = {metric: {"package": "robustkit", "direction": "higher", "weights": [], "version": ""} for metric in METRICS}
    made: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        for entry, (codec, settings) in ENTRIES.items():
            made += list(rows_of(entry, codec, settings, Path(directory)))
            print(entry, len(made), flush=True)
    found = rows.ordered(rows.table(made, rows.schema(said)))
    pq.write_table(found, HERE / "rows.parquet", compression="zstd", write_statistics=False)
    (HERE / "grey.json").write_text(json.dumps(grey(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
