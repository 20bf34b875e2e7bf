"""Canonical JSON (RFC 8785): one record has one text, and so one digest.

Its numbers are doubles of IEEE 754, so whole numbers beyond 2^53 are refused, and 1.0 is written as 1.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NoReturn

from robustkit.certificates.model import CertificateError
from robustkit.extras import way_out

#: The largest whole number that every reader of JSON has exactly.
LARGEST = 2**53 - 1


def dumps(value: Any) -> bytes:
    """``value`` as canonical JSON, in UTF-8.

    Args:
        value: of JSON's own types, as :func:`robustkit.certificates.model.to_json` gives it.

    Raises:
        CertificateError: a number or a text in it has no canonical form; or a package is missing.
    """
    try:
        import rfc8785
    except ModuleNotFoundError as error:
        raise CertificateError(f"certificates need a package: {way_out(error.name)}") from error
    try:
        return rfc8785.dumps(value)
    except rfc8785.IntegerDomainError as error:
        raise CertificateError(
            f"a whole number in a certificate is beyond 2^53, which JSON can't hold exactly ({error}): of a seed, give "
            "--robustkit-trial-seed a smaller one"
        ) from error
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise CertificateError(f"a certificate has a value without a canonical form: {error}") from error


def digest(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON, in hexadecimal.

    Raises:
        CertificateError: as :func:`dumps`.
    """
    return hashlib.sha256(dumps(value)).hexdigest()


def loads(text: bytes, what: str) -> Any:
    """Read JSON that somebody else wrote: canonical, no key twice, no number that is none.

    Args:
        text: in UTF-8.
        what: what messages call it.

    Raises:
        CertificateError: it is no JSON, or not canonical.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else str(error)[:120]
        raise CertificateError(f"{what} is no JSON that can be read: {said}") from error
    if dumps(value) != text:
        raise CertificateError(f"{what} is not canonical JSON (RFC 8785): changed, or written by another program")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _whole(text: str) -> int | float:
    # Canonical JSON writes a large float as a whole number.
    return int(text) if len(text) < len(str(LARGEST)) or abs(int(text)) <= LARGEST else float(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
