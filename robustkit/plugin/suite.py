"""The suite's own modules, imported before the first codec runs, as those that judge are."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = "robustkit.conformance"


def load(arguments: Iterable[str]) -> None:
    """Import the suite, so that pytest finds it imported when it collects.

    Args:
        arguments: files and folders that pytest was given. The suite is known by their names, too: a link to it, as a
            checkout has one, makes other modules of the same files.
    """
    package = importlib.import_module(_PACKAGE)
    folder = Path(package.__path__[0])
    names = [found.name for found in pkgutil.iter_modules([str(folder)])]
    modules = {name: importlib.import_module(f"{_PACKAGE}.{name}") for name in names}
    for link in {_folder(argument) for argument in arguments}:
        with contextlib.suppress(OSError):
            if not os.path.samefile(link, folder) or (link.parent / "__init__.py").exists():
                continue
            sys.modules.setdefault(link.name, package)
            for name, module in modules.items():
                sys.modules.setdefault(f"{link.name}.{name}", module)


def _folder(argument: str) -> Path:
    """The folder that an argument names, or that its file lies in; links stay links."""
    path = Path(os.path.abspath(argument.partition("::")[0]))
    return path.parent if path.suffix == ".py" else path
