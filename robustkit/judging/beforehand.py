"""What judges is imported before the first codec runs: a codec's constructor has the rights to edit these files."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
from collections.abc import Iterable

import robustkit.judging

#: Imported late elsewhere, so that those who judge nothing need not wait for them.
_LATE = (
    *("scipy.ndimage", "jinja2", "PIL.Image", "PIL.PngImagePlugin", "PIL.JpegImagePlugin"),
    *("robustkit.images", "robustkit.minimise", "robustkit.statistics"),
)
#: Imported at a run's end by hypothesis's own plugin for pytest, where that is there.
_BY_PLUGIN = {"_hypothesis_pytestplugin": ("hypothesis.strategies", "robustkit.strategies")}


def load(more: Iterable[str] = ()) -> None:
    """Import every module of ``robustkit.judging``, what they import late, and ``more``."""
    ours = [found.name for found in pkgutil.iter_modules(robustkit.judging.__path__, "robustkit.judging.")]
    theirs = [name for plugin, names in _BY_PLUGIN.items() if plugin in sys.modules for name in names]
    for name in (*ours, *_LATE, *theirs, *more):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
