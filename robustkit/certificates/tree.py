"""What git says: whether a codec's sources are as they were committed, and which commit has a file."""

from __future__ import annotations

import importlib.machinery
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from robustkit.registry import CodecSpec

_SECONDS = 30


@dataclass(frozen=True)
class Committed:
    """A file as git has it.

    Attributes:
        commit: the last that changed it.
        data: its bytes there.
    """

    commit: str
    data: bytes


def folder_of(spec: CodecSpec) -> Path | None:
    """Where a codec's sources lie; nothing is imported for this. ``None`` where they are installed, or not found."""
    file = spec.target.file or _file(spec.target.module)
    if file is None or {"site-packages", "dist-packages"} & set(Path(file).parts):
        return None
    return Path(file).resolve().parent


def dirty(folder: Path | None) -> str | None:
    """What is not committed in the repository that ``folder`` lies in; ``None`` where all is, or there is none.

    Files that git does not know count where they lie beside the codec and are Python's.
    """
    if folder is None or not _inside(folder):
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    unknown = _git(folder, "ls-files", "--others", "--exclude-standard", "--", "*.py")
    if changed is None or unknown is None:
        return "git can't say what is committed"
    lines = [*(line[3:] for line in changed.splitlines()), *unknown.splitlines()]
    if not lines:
        return None
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    return f"{lines[0]}{more} not committed"


def committed(file: Path) -> Committed | None:
    """A file as the checked-out commit has it; ``None`` where it is not committed, or changed since."""
    folder = file.resolve().parent
    if not file.is_file() or not _inside(folder):
        return None
    commit = _git(folder, "log", "-1", "--format=%H", "--", file.name)
    data = _run(folder, "show", f"HEAD:./{file.name}")
    if not commit or data is None or data != file.read_bytes():
        return None
    return Committed(commit.strip(), data)


def _inside(folder: Path) -> bool:
    return (_git(folder, "rev-parse", "--is-inside-work-tree") or "").strip() == "true"


def _file(module: str) -> str | None:
    """The file of the topmost package of a module, found without importing it."""
    name = module.partition(".")[0]
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if isinstance(loaded, str):
        return loaded
    spec = importlib.machinery.PathFinder.find_spec(name, [entry or os.getcwd() for entry in sys.path])
    return None if spec is None else spec.origin


def _git(folder: Path, *words: str) -> str | None:
    found = _run(folder, *words)
    return None if found is None else found.decode("utf-8", "replace")


def _run(folder: Path, *words: str) -> bytes | None:
    # Variables that a hook of git's sets would lead elsewhere.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", os.fspath(folder), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, env=environment, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
