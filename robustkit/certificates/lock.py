"""``robustkit.lock``: what is promised and tried, written down and committed before a run."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustkit.certificates import corpus, tree
from robustkit.certificates.model import CertificateError, Lock
from robustkit.judging.subject import Subject
from robustkit.spelling import place

FILE = "robustkit.lock"
VERSION = 1
#: No lock of ours is so long, in bytes.
_LARGEST = 1 << 20
_BARE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


@dataclass(frozen=True)
class Entry:
    """What a lock has of one codec.

    Attributes:
        codec: its own name.
        settings: as JSON.
        profile: digest of its promises.
        corpus: digest of the definition below.
        effort: its name.
        images: by name, the digests of their pixels.
        channels: in the profile's order.
        seed: of the trials.
        rounds: trials of each image and channel, at the most.
    """

    codec: str
    settings: str
    profile: str
    corpus: str
    effort: str
    images: Mapping[str, str]
    channels: tuple[str, ...]
    seed: int
    rounds: int


@dataclass(frozen=True)
class Found:
    """A lock that lay there when a run began.

    Attributes:
        path: of the file.
        data: its bytes.
        commit: that has it so; empty where none has.
    """

    path: Path
    data: bytes
    commit: str


def profile_digest(toml: str) -> str:
    """SHA-256 of promises as TOML."""
    return hashlib.sha256(toml.encode()).hexdigest()


def settings_of(subject: Subject) -> str:
    """A codec's settings as JSON, the same for the same settings."""
    return json.dumps(dict(subject.spec.settings), sort_keys=True, default=str)


def entry(subject: Subject, effort: str) -> Entry:
    """What a lock says of a codec; its worker is asked for its promises, and nothing is encoded."""
    found: Any = corpus.of_subject(subject)
    toml = "" if subject.profile is None else subject.profile.to_toml()
    return Entry(
        subject.own_name,
        settings_of(subject),
        profile_digest(toml),
        corpus.digest(found),
        effort,
        found["images"],
        tuple(found["channels"]),
        found["seed"],
        found["rounds"],
    )


def dumps(entries: Mapping[str, Entry]) -> str:
    """A lock as TOML: by name, as codecs are asked for, an entry."""
    lines = [
        "# What is promised and tried, written down before it is tried. Commit this file before the run.",
        f"version = {VERSION}",
    ]
    for name, found in sorted(entries.items()):
        lines += ["", f"[codecs.{_key(name)}]"]
        lines += [
            f"{key} = {_text(getattr(found, key))}" for key in ("codec", "settings", "profile", "corpus", "effort")
        ]
        lines += [f"seed = {found.seed}", f"rounds = {found.rounds}"]
        lines += ["channels = [", *(f"    {_text(channel)}," for channel in found.channels), "]"]
        lines += ["", f"[codecs.{_key(name)}.images]"]
        lines += [f"{_key(image)} = {_text(digest)}" for image, digest in sorted(found.images.items())]
    return "\n".join(lines) + "\n"


def loads(data: bytes, where: str = FILE) -> dict[str, Entry]:
    """Read a lock.

    Raises:
        CertificateError: it is none; the message says what is wrong.
    """
    if len(data) > _LARGEST:
        raise CertificateError(f"{where} has {len(data):,} bytes; a lock has {_LARGEST:,} at the most")
    try:
        read = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"{where} is no lock: {str(error)[:200]}") from error
    if read.get("version") != VERSION or set(read) != {"version", "codecs"} or not isinstance(read["codecs"], dict):
        raise CertificateError(f"{where} is no lock of version {VERSION}: write it anew with `robustkit lock`")
    return {name: _entry(found, f"{where}: {name}") for name, found in read["codecs"].items()}


def find(folder: Path) -> Found | None:
    """The lock in a folder, as it is now: ask before a run, so that what is committed is committed before it."""
    path = folder / FILE
    try:
        data = path.read_bytes()
    except OSError:
        return None
    known = tree.committed(path)
    return Found(path, data, "" if known is None else known.commit)


def judged(found: Found | None, name: str, ours: Entry) -> tuple[Lock, list[str]]:
    """What a certificate says of its lock, and how that disagrees with the run, if it does.

    Args:
        found: before the run.
        name: of the codec, as it was asked for.
        ours: what the run did.
    """
    if found is None:
        return Lock(), []
    digest = hashlib.sha256(found.data).hexdigest()
    try:
        theirs = loads(found.data, place(found.path)).get(name)
    except CertificateError as error:
        return Lock(said=f"declared with the result: {error}"), [str(error)]
    if theirs is None:
        return Lock(said=f"declared with the result: {FILE} has nothing of {name}"), []
    differing = [key for key in Entry.__dataclass_fields__ if getattr(theirs, key) != getattr(ours, key)]
    if differing:
        said = f"{FILE} disagrees with the run: other {', '.join(differing)}"
        return Lock(said=f"declared with the result: {said}", sha256=digest), [said]
    if not found.commit:
        return Lock(said=f"declared with the result: {FILE} agrees with it, but was not committed", sha256=digest), []
    return Lock(True, f"registered before the run, in {FILE} of commit {found.commit}", found.commit, digest), []


def _entry(found: Any, where: str) -> Entry:
    kinds: dict[str, Any] = {
        "codec": str,
        "settings": str,
        "profile": str,
        "corpus": str,
        "effort": str,
        "images": dict,
    }
    kinds |= {"channels": list, "seed": int, "rounds": int}
    if not isinstance(found, dict) or set(found) != set(kinds):
        raise CertificateError(f"{where}: give {', '.join(kinds)}, and nothing else")
    for key, kind in kinds.items():
        inner = found[key].values() if kind is dict else found[key] if kind is list else ()
        if type(found[key]) is not kind or not all(isinstance(part, str) for part in inner):
            raise CertificateError(f"{where}: {key} is of another type")
    return Entry(**{**found, "channels": tuple(found["channels"])})


def _key(name: str) -> str:
    return name if name and set(name) <= set(_BARE) else _text(name)


def _text(text: str) -> str:
    # JSON's strings are TOML's, but for the last control character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
