"""What workers of test_hook.py load: without torch, which takes them seconds."""

from __future__ import annotations

import numpy as np

from robustkit import Codec


class Counting:
    """A hook that counts."""

    def __init__(self) -> None:
        self.step, self.count = 1, 0

    def set(self, step: int) -> None:
        self.step = step

    def around(self) -> Counting:
        return self

    def __enter__(self) -> None:
        self.count += self.step

    def __exit__(self, *_: object) -> None:
        pass

    def told(self) -> dict[str, int]:
        return {"count": self.count}


class Astray(Codec):
    """Says of its tolerance what makes no sense."""

    name = "astray"
    family = "test"

    def __init__(self, tolerance: object) -> None:
        self.tolerance = tolerance  # type: ignore[assignment, misc]

    def encode(self, image):
        return b""

    def decode(self, bitstream):
        return np.zeros((1, 1, 3), np.uint8)
