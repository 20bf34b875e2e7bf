"""Which extra of robustkit brings a package, and what to say where one is missing: once."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

#: By extra, the packages that it brings and code here imports, by the names they are imported by. Where several bring
#: one, the first is named.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "protection": ("reedsolo",),
    "rcc": ("torch", "safetensors", "constriction", "gmpy2", "reedsolo"),
    "diffusers": ("diffusers", "transformers"),
    "learned": ("compressai", "torch", "safetensors"),
    "bpg": ("av",),
    "heic": ("pillow_heif",),
    "jpeg-xl": ("pillow_jxl",),
    "metrics": ("pyiqa",),
}


def way_out(package: str | None, asker: str = "") -> str | None:
    """What to install where ``package`` can't be imported, or ``None`` if no extra brings it.

    Args:
        package: as ``ModuleNotFoundError`` names it.
        asker: the module that wants it. If it belongs to an extra, as ``robustkit.codecs.rcc.turbo`` does by its name,
            that one is named: it brings all that the module needs.
    """
    bringing = [extra for extra, packages in EXTRAS.items() if package in packages]
    if not bringing:
        return None
    own = [extra for extra in bringing if extra in asker.split(".")]
    return f"{package} is missing: pip install 'robustkit[{(own or bringing)[0]}]'"


def missing(*packages: str) -> str | None:
    """The way out of the first of ``packages`` that is not installed, or ``None`` if all are. Nothing is imported."""
    return next((way_out(package) for package in packages if not _is_there(package)), None)


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
