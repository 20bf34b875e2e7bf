"""What judges is imported before the first codec runs: a codec's constructor has the rights to edit these files."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Iterable

import robustkit.judging

#: Imported late elsewhere, so that those who judge nothing need not wait for them.
_LATE = (
    *("scipy.ndimage", "jinja2", "PIL.Image", "PIL.PngImagePlugin", "PIL.JpegImagePlugin", "hypothesis.strategies"),
    *("robustkit.images", "robustkit.minimise", "robustkit.statistics", "robustkit.strategies"),
)


def load(more: Iterable[str] = ()) -> None:
    """Import every module of ``robustkit.judging``, what they import late, and ``more``."""
    ours = [found.name for found in pkgutil.iter_modules(robustkit.judging.__path__, "robustkit.judging.")]
    for name in (*ours, *_LATE, *more):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
