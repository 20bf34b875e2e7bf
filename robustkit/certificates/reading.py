"""A certificate as somebody hands it in: read as hostile input. Nothing of it is run, and nothing is written."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from robustkit.certificates import statement, trials
from robustkit.certificates.model import Certificate, CertificateError, TrialRow
from robustkit.certificates.write import BADGE, ENDPOINT, FILES, PAGE, REPLAY, STATEMENTS, SUMMARY
from robustkit.spelling import printable

#: A signature of the statements, by Sigstore; what ``sigstore sign`` calls it.
BUNDLE = f"{STATEMENTS}.sigstore.json"
#: Bytes of the largest statements, signature, page and replay file that are read; replay files of one certificate, and
#: entries of a folder that are looked at.
MOST_STATEMENTS, MOST_BUNDLE, MOST_OTHER, MOST_REPLAYS, MOST_ENTRIES = 1 << 24, 1 << 22, 1 << 24, 20_000, 64
#: Trials times images; beyond it a check would take hours.
MOST_WORK = 1 << 28
#: What is made from the certificate alone, for people.
VIEWS = (PAGE, SUMMARY, BADGE, ENDPOINT)
#: Characters of anybody's text in a line of ours.
_SHOWN = 80


@dataclass(frozen=True)
class Presented:
    """A certificate as it was handed in, each part well-formed.

    Attributes:
        where: its folder, or its statements alone.
        data: the statements' bytes, which a signature is of.
        certificate: what they say.
        rows: of its trials; ``None`` where the statements came alone.
        views: the page, the summary and the badge, by file name, as far as they are there.
        replays: files in ``replay/``, as paths inside the folder.
        bundle: the signature beside the statements, if there is one.
    """

    where: Path
    data: bytes = field(repr=False)
    certificate: Certificate = field(repr=False)
    rows: tuple[TrialRow, ...] | None = field(repr=False)
    views: Mapping[str, bytes] = field(repr=False, default_factory=dict)
    replays: tuple[str, ...] = ()
    bundle: Path | None = None


def shown(text: object, most: int = _SHOWN) -> str:
    """Anybody's text as part of one line: cut, and without what would steer a terminal."""
    found = str(text)
    return printable(found if len(found) <= most else f"{found[:most]}...", lines=False)


def read(path: Path) -> Presented:
    """Read a certificate's folder, or its file of statements alone.

    Raises:
        CertificateError: it is none: not a plain file or folder, a file that does not belong there, a link, a path that
            leads out of the folder, cut short, too large, nested too deeply, of another version, or not in the one
            form that a certificate has. The message names the file.
    """
    if path.is_dir():
        return _folder(path)
    data = plain(path, MOST_STATEMENTS)
    found = _certificate(data, path)
    beside = path.with_name(f"{path.name}.sigstore.json")
    return Presented(path, data, found, None, bundle=beside if os.path.lexists(beside) else None)


def plain(file: Path, most: int) -> bytes:
    """The bytes of a plain file that is no link.

    Raises:
        CertificateError: it is missing, something else, or larger than ``most`` bytes, which is found out before it is
            read.
    """
    try:
        found = file.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise CertificateError(f"{shown(file, 300)} is no plain file: links, folders and devices are not read")
        if found.st_size <= most:
            with file.open("rb") as opened:
                data = opened.read(most + 1)
            if len(data) <= most:
                return data
    except (OSError, ValueError) as error:
        if isinstance(error, CertificateError):
            raise
        why = error.strerror if isinstance(error, OSError) else "its name has a character that no file has"
        raise CertificateError(f"{shown(file, 300)} can't be read: {why}") from error
    raise CertificateError(f"{shown(file, 300)} is larger than {most >> 20} MiB: no certificate's is")


def inside(name: str) -> bool:
    """Whether a path names a file in ``replay/`` and nothing beyond, on any system."""
    parts = PurePosixPath(name).parts
    if not name.isprintable() or "\\" in name or ":" in name or name != "/".join(parts):
        return False
    return len(parts) > 1 and parts[0] == REPLAY and not {".", ".."} & set(parts)


def _folder(folder: Path) -> Presented:
    names = _entries(folder)
    if STATEMENTS not in names:
        raise CertificateError(f"{shown(folder, 300)} has no {STATEMENTS}: it is no certificate")
    if strange := [name for name in names if name not in (*FILES, BUNDLE)]:
        raise CertificateError(
            f"{shown(folder, 300)} has {shown(strange[0])!r}, which no certificate has: move it elsewhere"
        )
    data = plain(folder / STATEMENTS, MOST_STATEMENTS)
    found = _certificate(data, folder / STATEMENTS)
    rows = None
    if trials.FILE in names:
        # Looked at before anything of it is read.
        plain(folder / trials.FILE, trials.MOST_BYTES)
        rows = trials.read(folder / trials.FILE)
    elif found.trials_count:
        raise CertificateError(f"{shown(folder, 300)} has no {trials.FILE}, and its certificate speaks of trials")
    if rows is not None and len(rows) * len(found.corpus.images) > MOST_WORK:
        raise CertificateError(f"{shown(folder, 300)} has more trials of more images than can be checked")
    views = {name: plain(folder / name, MOST_OTHER) for name in VIEWS if name in names}
    replays = _replays(folder / REPLAY) if REPLAY in names else ()
    for shows in found.counterexamples:
        if shows.replay and shows.replay not in replays:
            raise CertificateError(f"the certificate names {shown(shows.replay)!r}, and {REPLAY}/ has no such file")
    return Presented(folder, data, found, rows, views, replays, folder / BUNDLE if BUNDLE in names else None)


def _certificate(data: bytes, file: Path) -> Certificate:
    try:
        found = statement.loads(data)
    except CertificateError as error:
        raise CertificateError(f"{shown(file, 300)}: {shown(error, 500)}") from error
    named = [*(shows.replay for shows in found.counterexamples if shows.replay), *(set(found.files) - {PAGE})]
    for name in named:
        if not inside(name):
            raise CertificateError(f"{shown(file, 300)} names {shown(name)!r}, which is no file in {REPLAY}/")
    return found


def _entries(folder: Path) -> list[str]:
    """The names in a folder, few of them."""
    names: list[str] = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                names.append(entry.name)
                if len(names) > MOST_ENTRIES:
                    raise CertificateError(f"{shown(folder, 300)} has more files than a certificate: it is none")
    except OSError as error:
        raise CertificateError(f"{shown(folder, 300)} can't be read: {error.strerror}") from error
    return sorted(names)


def _replays(folder: Path) -> tuple[str, ...]:
    """The files below ``replay/``, none of them a link."""
    if folder.is_symlink() or not folder.is_dir():
        raise CertificateError(f"{shown(folder, 300)} is no folder, or a link")
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            entry = Path(place, name)
            mode = entry.lstat().st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise CertificateError(f"{shown(entry, 300)} is a link, or no plain file")
        found += [Path(REPLAY, Path(place, name).relative_to(folder)).as_posix() for name in names]
        if len(found) > MOST_REPLAYS:
            raise CertificateError(f"{shown(folder, 300)} has more than {MOST_REPLAYS:,} files")
    if strange := [name for name in found if not inside(name) or not name.endswith((".replay.json", ".bin"))]:
        raise CertificateError(f"{shown(strange[0], 200)!r} is no replay file, nor a stream")
    return tuple(sorted(found))
