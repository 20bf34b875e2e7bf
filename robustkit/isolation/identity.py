"""What a loaded codec is made of, by content. Runs in the worker, on request: only there is it known.

Nothing but the standard library is needed. What a codec's own code says of its process it could also forge.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Those of the interpreter and of the C library: the environment names their versions.
_COMMON = re.compile(
    r"/lib-dynload/|/numpy(\.libs)?/|/(ld-|ld\d*\.|lib(c|m|dl|pthread|rt|util|gcc_s|stdc\+\+|python|ffi|bz2|crypto|ssl)[-.\d])"
)
#: Of robustkit itself, what codecs are made of; the kit has a digest of its own.
_OURS = ("robustkit.codecs", "robustkit.priors")


def parts(codec: object, module: str) -> dict[str, str]:
    """By name, kind and SHA-256 with a space between; what can't be read is left out.

    Args:
        codec: loaded.
        module: that it was asked for by.
    """
    found: dict[str, str] = {}
    for package in _packages(codec, module):
        if (sources := _sources(package)) is not None:
            found[sources[0]] = f"package {sources[1]}"
    for path in _libraries():
        if (digest := _digest(path)) is not None:
            found[_short(path)] = f"library {digest}"
    for path in _programs(codec):
        if (digest := _digest(path)) is not None:
            found[os.path.basename(path)] = f"program {digest}"
    for path in _weights(codec):
        if (digest := _digest(path)) is not None:
            name, said = _ours(path) or _short(path), f"weights {digest}"
            # Two folders may have files of one name.
            found[name if found.get(name, said) == said else f"{name} {digest[:8]}"] = said
    return found


def _packages(codec: object, module: str) -> list[str]:
    inner = getattr(codec, "inner", None)
    modules = [module, type(codec).__module__, *([] if inner is None else [type(inner).__module__])]
    found: list[str] = []
    for name in dict.fromkeys(modules):
        package = name.partition(".")[0]
        found += _OURS if package == "robustkit" else [package]
    return list(dict.fromkeys(found))


def _sources(package: str) -> tuple[str, str] | None:
    """The loaded Python files of a package: what they are called together, and the digest over them."""
    whole, count = hashlib.sha256(), 0
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not (name == package or name.startswith(f"{package}.")) or not isinstance(file, str):
            continue
        if (digest := _digest(file)) is not None:
            whole.update(f"{name} {digest}\n".encode(errors="replace"))
            count += 1
    return (f"{package} ({count} {'file' if count == 1 else 'files'})", whole.hexdigest()) if count else None


def _libraries() -> Iterator[str]:
    """Native libraries that this process has loaded; none where the system does not say."""
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text(errors="replace")
        mapped = {line.partition("/")[2] for line in maps.splitlines() if " /" in line}
        for path in sorted(f"/{rest}" for rest in mapped):
            if re.search(r"\.so(\.[\d.]+)?$", path) and not _COMMON.search(path):
                yield path


def _programs(codec: object) -> Iterable[str]:
    """The programs of a codec that is two command lines, and the scripts among their words."""
    found: dict[str, None] = {}
    for one in (codec, getattr(codec, "inner", None)):
        commands = getattr(one, "commands", None)
        for command in (getattr(commands, "encode", ()), getattr(commands, "decode", ())):
            for place, word in enumerate(command):
                path = shutil.which(word) if place == 0 and os.sep not in word else word
                if path is not None and os.path.isfile(path):
                    found[path] = None
    return found


def _weights(codec: object) -> Iterator[str]:
    """The files that a codec says it has read beside its code; of a folder, those in it."""
    for one in (codec, getattr(codec, "inner", None)):
        said = getattr(one, "weight_files", ())
        for given in said if isinstance(said, list | tuple) else (said,):
            if not isinstance(given, str | os.PathLike):
                continue
            path = Path(given)
            inside = path.rglob("*") if path.is_dir() else [path]
            yield from sorted(str(found) for found in inside if found.is_file())


def _ours(path: str) -> str | None:
    """The path inside robustkit, of a file of robustkit's own."""
    with contextlib.suppress(ValueError):
        return f"robustkit/{Path(path).resolve().relative_to(Path(__file__).resolve().parents[1]).as_posix()}"
    return None


def _short(path: str) -> str:
    """The path inside its folder of packages, or the name alone: nobody's machine."""
    for folder in ("/site-packages/", "/dist-packages/"):
        if folder in path:
            return path.rpartition(folder)[2]
    return os.path.basename(path)


def _digest(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
