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
    "metrics": ("pyiqa", "torchmetrics", "torch_fidelity"),
    "images": ("pooch",),
    "experiments": ("pyarrow", "dask", "distributed", "matplotlib", "bjontegaard"),
    "certificates": ("jsonschema", "pyarrow", "rfc8785"),
}
#: By module or package of codecs, the extra that brings all they need, of those that bring one of it.
_OF_CODECS: Mapping[str, str] = {
    "robustkit.codecs.learned": "learned",
    "robustkit.codecs.official": "learned",
    "robustkit.codecs.rcc": "rcc",
}


def way_out(package: str | None, asker: str = "") -> str | None:
    """What to install where ``package`` can't be imported, or ``None`` if no extra brings it.

    Args:
        package: as ``ModuleNotFoundError`` names it.
        asker: the module that wants it. Where several extras bring the package, the one that is named brings all else
            that the module needs.
    """
    bringing = [extra for extra, packages in EXTRAS.items() if package in packages]
    if not bringing:
        return None
    own = next((extra for codecs, extra in _OF_CODECS.items() if f"{asker}.".startswith(f"{codecs}.")), None)
    return f"{package} is missing: pip install 'robustkit[{own if own in bringing else bringing[0]}]'"


def missing(*packages: str) -> str | None:
    """The way out of the first of ``packages`` that is not installed, or ``None`` if all are. Nothing is imported."""
    return next((way_out(package) for package in packages if not _is_there(package)), None)


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
