"""Codecs described in TOML: ``--codec codec.toml``. Two command lines, or a registered codec with its settings."""

from __future__ import annotations

import math
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from robustkit.errors import RobustkitError
from robustkit.profile import Profile, ProfileError
from robustkit.spelling import SpellingError, check_nesting, size

#: Endings of the scripts that an interpreter is given.
SCRIPTS = (".py", ".sh", ".pl", ".rb", ".js", ".mjs", ".lua", ".jar", ".R", ".jl", ".php")
#: Types of image that a command may read or write.
IMAGE_TYPES = (".png", ".ppm", ".bmp", ".tif")
#: No limit in seconds is longer: a year, which a clock can add.
LONGEST = 366 * 24 * 3600


class CodecFileError(RobustkitError, ValueError):
    """A codec file that can't be used; the message names the file, the key, and what is allowed."""


@dataclass(frozen=True)
class Commands:
    """A codec that is two command lines. Paths and ``quality`` stand where ``{input}``, ``{output}``, ``{quality}`` do.

    Attributes:
        name: the codec's.
        encode: program and arguments that turn an image into a stream.
        decode: the same the other way.
        family: for reports.
        image: type of the image that ``encode`` reads, by its file's ending.
        stream: ending of the stream's file.
        decoded: type of the image that ``decode`` writes.
        quality: what ``{quality}`` stands for.
        seconds: longest that either may run.
        memory: largest address space of either, in bytes; 0 for no limit.
        refused: exit statuses that refuse a stream or an image; "any" for all that leave no image. Neither makes a
            refusal of an exception that nobody caught, of a sanitizer's report, or of a signal that a shell reports.
        image_statuses: exit statuses of ``decode`` whose image counts, as that of 0 always does: it came with a
            warning. One of them that is in ``refused`` too refuses where there is no image.
        reduce_depth: take an image of 16 bits a sample, and leave its lower bits; otherwise it is misshapen.
        layout: name of a registered codec whose layout names the fields of these streams, so that damage can be aimed
            at headers; none where it is empty.
        version: program and arguments that print the version, for reports.
        install: how to get the programs, for whoever lacks them.
    """

    name: str
    encode: tuple[str, ...]
    decode: tuple[str, ...]
    family: str = "command line"
    image: str = ".png"
    stream: str = ".bin"
    decoded: str = ".png"
    quality: float | str = ""
    seconds: float = 20.0
    memory: int = 0
    refused: tuple[int, ...] | str = (1,)
    image_statuses: tuple[int, ...] = ()
    reduce_depth: bool = False
    layout: str = ""
    version: tuple[str, ...] = ()
    install: str = ""


@dataclass(frozen=True)
class CodecFile:
    """What a codec file says.

    Attributes:
        codec: name of a registered codec; empty where there are command lines.
        commands: the command lines' settings, as :class:`Commands` takes them.
        settings: of the registered codec.
        profile: what the command lines promise, as :meth:`Profile.from_mapping` reads it.
        python: interpreter of the workers, where it is not this one.
    """

    codec: str = ""
    commands: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] | None = None
    python: str | None = None


def read(path: str | os.PathLike[str]) -> CodecFile:
    """Read a codec file.

    Raises:
        CodecFileError: it is not there, not TOML, has an unknown key, lacks one, or has a value out of range.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        check_nesting(data)
        # Python reads a long number in hexadecimal, but can't write it: no message could show it.
        repr(data)
    except RecursionError as error:
        raise CodecFileError(f"{path}: nested too deeply") from error
    except (OSError, ValueError) as error:
        raise CodecFileError(f"{path}: {error}") from error
    try:
        return _checked(data, Path(path).absolute().parent)
    except (CodecFileError, ProfileError) as error:
        raise CodecFileError(f"{path}: {error}") from error


def _checked(data: dict[str, Any], folder: Path) -> CodecFile:
    python, profile = data.pop("python", None), data.pop("profile", None)
    if python is not None:
        found = folder / Path(_text("python", python)).expanduser()
        if not os.access(found, os.X_OK) or found.is_dir():
            raise CodecFileError(f"python = {python!r}: {found} is no program")
        python = str(found)
    if profile is not None:
        if not isinstance(profile, dict):
            raise CodecFileError("profile is a table: [profile], with [[profile.promises]]")
        Profile.from_mapping(profile)
    if "codec" in data:
        codec, settings = _text("codec", data.pop("codec")), data.pop("settings", {})
        if data:
            raise CodecFileError(f"unknown key {next(iter(data))!r} beside codec; known: settings, python")
        if profile is not None:
            raise CodecFileError(f"{codec} has its own promises: judge by others with --profile FILE, not [profile]")
        if not isinstance(settings, dict):
            raise CodecFileError("settings is a table: [settings]")
        return CodecFile(codec=codec, settings=settings, python=python)
    return CodecFile(commands=_commands(data, folder), profile=profile, python=python)


def _commands(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    known = [f.name for f in fields(Commands)]
    for key in data:
        if key not in known:
            raise CodecFileError(f"unknown key {key!r}; known: {', '.join([*known, 'profile', 'python'])}, or codec")
    for key in ("name", "encode", "decode"):
        if key not in data:
            raise CodecFileError(f"{key} is missing: give name, encode and decode (or codec = NAME, to set one up)")
    read: dict[str, Any] = {
        key: _text(key, data[key]) for key in ("name", "family", "layout", "install") if key in data
    }
    for key in ("encode", "decode", "version"):
        if key in data:
            read[key] = [_placed(w, folder, i == 0) for i, w in enumerate(_command(key, data[key]))]
    for key in ("image", "decoded"):
        if key in data:
            read[key] = _text(key, data[key])
            if read[key] not in IMAGE_TYPES:
                raise CodecFileError(f"{key} = {read[key]!r}: give one of {', '.join(IMAGE_TYPES)}")
    if "stream" in data:
        read["stream"] = _text("stream", data["stream"])
        if not re.fullmatch(r"\.[A-Za-z0-9]+", read["stream"]):
            raise CodecFileError(f"stream = {read['stream']!r}: give an ending like '.webp'")
    if "quality" in data:
        read["quality"] = data["quality"]
        if not isinstance(read["quality"], int | float | str):
            raise CodecFileError(f"quality = {read['quality']!r}: give a number or a string")
    if "reduce_depth" in data:
        read["reduce_depth"] = data["reduce_depth"]
        if not isinstance(read["reduce_depth"], bool):
            raise CodecFileError(f"reduce_depth = {read['reduce_depth']!r}: give true or false")
    if "seconds" in data:
        read["seconds"] = data["seconds"]
        if not isinstance(read["seconds"], int | float) or not 0 < read["seconds"] < math.inf:
            raise CodecFileError(f"seconds = {read['seconds']!r}: give a positive number")
        read["seconds"] = min(read["seconds"], LONGEST)
    if "layout" in read and ".toml" in read["layout"]:
        raise CodecFileError(f"layout = {read['layout']!r}: give a registered codec, not a file")
    if "memory" in data:
        try:
            read["memory"] = size(_text("memory", data["memory"]))
        except SpellingError as error:
            raise CodecFileError(f"memory = {error}") from error
    if "refused" in data:
        read["refused"] = data["refused"]
        if read["refused"] != "any":
            _statuses("refused", data["refused"], 1, ", or 'any'")
    if "image_statuses" in data:
        read["image_statuses"] = data["image_statuses"]
        _statuses("image_statuses", data["image_statuses"], 0)
    return read


def is_script(word: str) -> bool:
    """Whether a word of a command line names a script for an interpreter: ``enc.py`` of ``python3 enc.py``."""
    return word.endswith(SCRIPTS) and not word.startswith("-") and not re.search(r"[\s{}=]", os.path.basename(word))


def _placed(word: str, folder: Path, program: bool) -> str:
    """A relative path as one that holds in any folder: beside the codec's file, or else in the working directory.

    Programs run in a folder of their own. A word is a path if it is a program with a slash or a script; or if it has a
    slash and something is there.
    """
    if os.path.isabs(word) or word.startswith("-") or (not program and "{" in word):
        return word
    there = [place for place in (folder / word, Path.cwd() / word) if os.path.lexists(place)]
    if "/" in word:
        path = bool(there) or program or word.startswith(("./", "../")) or is_script(word)
    else:
        path = not program and is_script(word)
    return os.path.normpath(there[0] if there else folder / word) if path else word


def _statuses(key: str, value: object, least: int, more: str = "") -> None:
    if not isinstance(value, list) or not all(type(s) is int and least <= s <= 255 for s in value):
        raise CodecFileError(f"{key} = {value!r}: give a list of exit statuses, {least} to 255{more}")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise CodecFileError(f"{key} = {value!r}: give a string" + " without a null character" * ("\0" in str(value)))
    return value


def _command(key: str, value: object) -> list[str]:
    """Program and arguments, given as a list or as a shell would write them (no shell runs)."""
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise CodecFileError(f"{key} = {value!r}: {error}") from error
    elif isinstance(value, list) and all(isinstance(word, str) for word in value):
        words = list(value)
    else:
        raise CodecFileError(f"{key} = {value!r}: give a command line, as a string or a list of strings")
    if not words:
        raise CodecFileError(f"{key} is empty: give a command line")
    if any("\0" in word for word in words):
        raise CodecFileError(f"{key} = {value!r}: a null character can't be in a command line")
    for place in () if key == "version" else ("{input}", "{output}"):
        if not any(place in word for word in words):
            raise CodecFileError(f"{key} = {value!r} has no {place}")
    return words
