"""How people spell things, read in one place: values and settings, sizes, lists of names, and names that are wrong;
and how text and paths of anybody's are shown.

Command lines, pytest options and codec files all read by these rules. The text is anybody's: whatever it is, it gives
a value or a :class:`SpellingError`.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from robustkit.errors import RobustkitError

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([KMG])i?B?|B)?", re.IGNORECASE)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
#: How deep tables and lists may lie in one another, in what somebody hands in.
_DEEPEST = 64
#: Of a size as text; no size that a machine can have is longer.
_LONGEST_SIZE = 64


class SpellingError(RobustkitError, ValueError):
    """Text that can't be read; the message begins with it and says how to write it."""


def toml_value(text: str) -> Any:
    """The value as TOML writes it (``1.0``, ``false``, ``[1, 2]``, ``"1.0"``), else the text itself.

    Raises:
        SpellingError: it is nested too deeply, or a number of thousands of digits.
    """
    try:
        found = tomllib.loads(f"value = {text}")
        # Python reads a long number in hexadecimal, but can't write it: no message could show it.
        repr(found)
    except tomllib.TOMLDecodeError:
        return text
    except RecursionError as error:
        raise SpellingError(f"{_shown(text)} is nested too deeply") from error
    except ValueError as error:
        raise SpellingError(f"{_shown(text)}: a number has too many digits") from error
    # A line break could begin another key.
    return found["value"] if len(found) == 1 else text


def json_value(text: str) -> Any:
    """The value of JSON whose numbers are finite and whose strings can be written as UTF-8.

    Raises:
        SpellingError: it is no such JSON, nested too deeply, or has a number of thousands of digits.
    """
    try:
        found = json.loads(text)
        check_nesting(found)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError as error:
        raise SpellingError("nested too deeply") from error
    except ValueError as error:
        raise SpellingError(str(error)) from error
    return found


def check_nesting(value: Any, most: int = _DEEPEST) -> None:
    """Raise SpellingError where tables and lists lie in one another deeper than any message could show."""
    if most < 0:
        raise SpellingError("nested too deeply")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        check_nesting(item, most - 1)


def size(text: str) -> int:
    """Bytes: ``4GiB``, ``800MiB``, ``512KiB``, ``1.5GiB``, or a number of them.

    A unit is a power of 1024 in any spelling: ``800M`` and ``800mb`` are 800 MiB. Fractions of a byte are cut off.

    Raises:
        SpellingError: it is no size, more than 2^63 - 1 bytes, or less than a byte and not 0.
    """
    found = _SIZE.fullmatch(text.strip()) if len(text) <= _LONGEST_SIZE else None
    if found is None:
        raise SpellingError(f"{_shown(text)}: write a size like 4GiB, 800MiB, or a number of bytes")
    exact = Fraction(found[1]) * _UNITS.get((found[2] or "").upper(), 1)
    if exact >= 2**63:
        raise SpellingError(f"{_shown(text)} is more than any memory: write a size like 4GiB or 800MiB")
    if 0 < exact < 1:
        # 0 stands for no limit: a limit that was meant must not become none.
        raise SpellingError(f"{_shown(text)} is less than a byte: write a size like 4GiB or 800MiB")
    return int(exact)


def names(text: str) -> list[str]:
    """The names between commas, but not those within parentheses: ``jpeg+rs(255,223),webp`` are two."""
    found, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character == "(":
            depth += 1
        elif character == ")":
            depth = max(depth - 1, 0)
        elif character == "," and depth == 0:
            found.append(text[start:at])
            start = at + 1
    found.append(text[start:])
    return [name.strip() for name in found if name.strip()]


def settings(pairs: Iterable[str], codecs: Iterable[str], *, option: str = "--set") -> dict[str, dict[str, Any]]:
    """Settings of the codecs called ``codecs``, from ``KEY=VALUE`` for all of them or ``NAME:KEY=VALUE`` for one.

    Args:
        pairs: as they were given.
        codecs: the names of the codecs that were chosen.
        option: what the user gave them with, for messages.

    Returns:
        name -> key -> value, as :func:`toml_value` reads it; each codec has an entry.

    Raises:
        SpellingError: a pair has another form, NAME isn't among ``codecs``, or one codec is given a key twice.
    """
    chosen: dict[str, dict[str, Any]] = {name: {} for name in codecs}
    for pair in pairs:
        shown = f"{option} {_cut(pair)}"
        owner, key, value = _parted(pair, chosen)
        if not key.isidentifier():
            raise SpellingError(f"{shown}: write KEY=VALUE, or NAME:KEY=VALUE for the codec called NAME")
        if owner and owner not in chosen:
            raise SpellingError(f"{shown}: {_shown(owner)} is not among the codecs {', '.join(chosen)}")
        try:
            read = toml_value(value)
        except SpellingError as error:
            raise SpellingError(f"{option} {key}: {error}") from error
        for name in [owner] if owner else chosen:
            if key in chosen[name]:
                raise SpellingError(f"{shown}: {key} is given twice for {name}")
            chosen[name][key] = read
    return chosen


def settings_of(codec: str, pairs: Iterable[str], *, option: str = "--set") -> dict[str, Any]:
    """:func:`settings` where one codec was chosen: its own."""
    return settings(pairs, [codec], option=option)[codec]


def owner(pair: str, codecs: Iterable[str]) -> str:
    """The codec that a setting names, empty where it is for all; ``codecs`` are the names that there are."""
    return _parted(pair, codecs)[0]


def place(path: Path) -> str:
    """``path`` as a person would type it: from the working directory on, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def printable(text: str, *, lines: bool = True) -> str:
    """``text``, whoever wrote it, with all that would steer a terminal or can't be encoded written as an escape.

    Args:
        lines: whether it may have several lines.
    """
    allowed = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in allowed else c.encode("unicode-escape").decode("ascii") for c in text)


def nearest(wrong: str, known: Iterable[str], *, cutoff: float = 0.5, otherwise: str | None = None) -> str:
    """How a message about an unknown name ends: ``did you mean bsc, burst?``, or else ``known: ...``.

    Args:
        wrong: the name that nothing has.
        known: the names that there are.
        cutoff: how like ``wrong`` a name must be, 0 to 1, as :func:`difflib.get_close_matches` measures it.
        otherwise: what to say where no name is near, instead of listing all.
    """
    there = sorted(known)
    near = difflib.get_close_matches(wrong, there, n=3, cutoff=cutoff)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"known: {', '.join(there) or 'none'}" if otherwise is None else otherwise


def _parted(pair: str, codecs: Iterable[str]) -> tuple[str, str, str]:
    """Owner, key and value of a setting; no key where it has another form."""
    # The names that there are come first: they may hold a colon, package.module:attribute, or even an equals sign.
    for name in sorted(codecs, key=len, reverse=True):
        if pair.lstrip().startswith(f"{name}:"):
            key, equals, value = pair.lstrip()[len(name) + 1 :].partition("=")
            if equals and key.strip().isidentifier():
                return name, key.strip(), value.strip()
    left, equals, value = pair.partition("=")
    owner, colon, key = (part.strip() for part in left.rpartition(":"))
    return owner, key if equals and bool(owner) == bool(colon) else "", value.strip()


def _shown(text: str) -> str:
    return repr(_cut(text))


def _cut(text: str) -> str:
    """``text`` for a message, not longer than a person would read."""
    return text if len(text) <= 80 else f"{text[:80]}..."
