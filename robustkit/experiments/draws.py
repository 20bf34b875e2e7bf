"""The channel ``published-bsc``: one stream of random numbers for a whole run, which each trial has its place in.

What a trial's damage is depends on the sizes of all files of the run before it. So the flips of a run are drawn once,
in order, when all sizes are known, and kept in a file; trials then run in any order.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustkit.channels import BSC, Channel, ChannelError
from robustkit.experiments import publisheddraws
from robustkit.layout import Layout
from robustkit.patterns import ErrorPattern

#: How spellings of the channel begin: ``published-bsc(ber=0.001)``.
PREFIX = "published-"
#: Of the published runs.
SEED = publisheddraws.SEED


class Draws:
    """The flips of one codec's run, read from files as they are needed.

    Args:
        path: as :func:`draw` gave it.
    """

    def __init__(self, path: Path) -> None:
        self._about = json.loads(path.read_text(encoding="utf-8"))
        self._flips = np.load(path.with_suffix(".flips.npy"), mmap_mode="r", allow_pickle=False)
        self._ends = np.load(path.with_suffix(".ends.npy"), allow_pickle=False)
        self._places = {name: place for place, name in enumerate(self._about["images"])}

    def pattern(self, ber: float, trial: int, image: str, bits: int) -> ErrorPattern:
        """The damage of a trial.

        Raises:
            ChannelError: the run has no such trial, or its file had another size.
        """
        about = self._about
        if ber not in about["bers"] or image not in self._places or not 0 <= trial < about["trials"]:
            raise ChannelError(f"published-bsc(ber={ber:g}): trial {trial} of {image} is none of this run's")
        place = self._places[image]
        if bits != 8 * about["sizes"][place]:
            raise ChannelError(
                f"published-bsc(ber={ber:g}): the stream of {image} has {bits // 8} bytes, and had "
                f"{about['sizes'][place]} when the run's damage was drawn: the encoder is not deterministic"
            )
        at = (about["bers"].index(ber) * about["trials"] + trial) * len(about["images"]) + place
        start = 0 if at == 0 else int(self._ends[at - 1])
        return publisheddraws.pattern(np.asarray(self._flips[start : int(self._ends[at])], dtype=np.int64), bits)


def draw(folder: Path, sizes: Mapping[str, int], bers: Sequence[float], trials: int) -> Path:
    """Draw a run's flips and keep them.

    Args:
        folder: where; what is there already for the same run is kept.
        sizes: bytes of the compressed files by image, in the run's order.
        bers: bit error rates in the run's order.
        trials: of each image at each rate.

    Returns:
        The file for :class:`Draws`.

    Raises:
        OSError: it can't be written.
    """
    about: dict[str, Any] = {
        "images": list(sizes),
        "sizes": list(sizes.values()),
        "bers": list(bers),
        "trials": trials,
        "seed": SEED,
    }
    text = json.dumps(about)
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    if path.exists():
        return path
    flips: list[npt.NDArray[np.int32]] = []
    ends: list[int] = []
    for _, _, _, found in publisheddraws.flips(about["sizes"], about["bers"], trials, seed=SEED):
        flips.append(found.astype(np.int32))
        ends.append((ends[-1] if ends else 0) + len(found))
    folder.mkdir(parents=True, exist_ok=True)
    own = f"{os.getpid()}-{secrets.token_hex(4)}"
    for suffix, array in ((".flips.npy", np.concatenate(flips)), (".ends.npy", np.array(ends, dtype=np.int64))):
        # Several processes may be at it at the same time, and write the same.
        aside = path.with_suffix(f"{suffix}.{own}.tmp")
        with aside.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        aside.replace(path.with_suffix(suffix))
    # Last: where it is, the others are whole.
    aside = path.with_suffix(f".json.{own}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path


@dataclass(frozen=True)
class PublishedBSC(Channel):
    """The published bit flips at bit error rate ``ber``, see :mod:`robustkit.experiments.publisheddraws`.

    Attributes:
        ber: 0 to 1.
        draws: of the codec's run; without them the channel has a name and no damage.
    """

    kind = "published-bsc"
    graded_by = "ber"
    ber: float
    draws: Draws | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        return f"{PREFIX}{BSC(self.ber)}"

    def sample(self, bits: int, rng: np.random.Generator, layout: Layout | None = None) -> ErrorPattern:
        """Raise ChannelError: no trial of this channel can be drawn alone."""
        raise ChannelError(f"{self} is drawn for a whole run at once: `robustkit sweep` does that")

    def draw(
        self, bits: int, layout: Layout | None = None, *, codec: str, image: str, trial: int, seed: int = 0
    ) -> ErrorPattern:
        if self.draws is None:
            raise ChannelError(f"{self} is drawn for a whole run at once: `robustkit sweep` does that")
        return self.draws.pattern(self.ber, trial, image, bits)
