"""A certificate's folder: a closed list of files, all of them written here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from robustkit.certificates import badge, page, statement, summary, trials
from robustkit.certificates.model import Certificate, CertificateError, TrialRow
from robustkit.certificates.scan import Scan
from robustkit.certificates.worst import WorstCase

STATEMENTS = "certificate.intoto.jsonl"
PAGE = "certificate.html"
SUMMARY = "summary.md"
BADGE = "badge.svg"
ENDPOINT = "badge.json"
REPLAY = "replay"
#: All that a certificate's folder may have.
FILES = (STATEMENTS, trials.FILE, PAGE, SUMMARY, BADGE, ENDPOINT, REPLAY)


def complete(certificate: Certificate, rows: Sequence[TrialRow]) -> tuple[Certificate, tuple[TrialRow, ...]]:
    """The certificate with the root over its rows, and the rows in their order."""
    found = trials.ordered(rows, certificate.corpus.channels)
    return replace(certificate, trials_root=trials.root(found), trials_count=len(found)), found


def write(
    certificate: Certificate,
    rows: Sequence[TrialRow],
    folder: Path,
    *,
    worst: Sequence[WorstCase] = (),
    scan: Scan | None = None,
    replay: Mapping[str, Path] | None = None,
) -> Certificate:
    """Write a certificate's folder; one that is there is replaced, and nothing else is touched.

    Args:
        certificate: the root over its rows and the digests of its files are filled in here.
        rows: of the trials, in any order.
        folder: is made where it is missing. It may have what an earlier certificate left, and nothing else.
        worst, scan: for the page.
        replay: by name inside ``replay/``, the files that show its counterexamples again.

    Returns:
        The certificate as it was written.

    Raises:
        CertificateError: the folder has other files, or can't be written; or the certificate can't be.
    """
    certificate, found = complete(certificate, rows)
    statement.dumps(certificate)
    # It can't have the digest of a statement that has its own.
    html = page.render(certificate, worst=worst, scan=scan, kind="certificate").encode()
    try:
        _clear(folder)
        trials.write(folder / trials.FILE, found)
        for name, source in (replay or {}).items():
            target = folder / REPLAY / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        put(folder / PAGE, html)
        certificate = replace(certificate, files=digests(folder))
        data = statement.dumps(certificate)
        put(folder / SUMMARY, summary.render(certificate).encode("utf-8", "replace"))
        put(folder / BADGE, badge.svg(certificate).encode("utf-8", "replace"))
        put(folder / ENDPOINT, (json.dumps(badge.endpoint(certificate), indent=1) + "\n").encode())
        # Last: a folder with this file is whole.
        put(folder / STATEMENTS, data)
    except OSError as error:
        raise CertificateError(f"{folder}: the certificate can't be written: {error}") from error
    return certificate


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a certificate's folder that do not follow from the certificate, by their paths in it.

    Raises:
        OSError: one can't be read.
    """
    found = [folder / PAGE, *(path for path in (folder / REPLAY).rglob("*") if path.is_file())]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)
    }


def usable(folder: Path) -> None:
    """Find out, before anything runs, whether a certificate may be written there.

    Raises:
        CertificateError: the folder has other files, or is none.
    """
    try:
        there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise CertificateError(f"{folder} can't hold a certificate: {error}") from error
    if strange := [name for name in there if name not in FILES]:
        raise CertificateError(
            f"{folder} has {strange[0]!r}, which no certificate has: give a folder of its own, or an empty one"
        )


def put(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    aside = path.with_name(path.name + ".tmp")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    usable(folder)
    for name in sorted(path.name for path in folder.iterdir()):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
