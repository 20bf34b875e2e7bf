"""Who signed a certificate, by Sigstore; robustkit signs nothing, keeps no keys, and says no more than was checked.

The package ``sigstore`` (https://github.com/sigstore/sigstore-python) does all of the checking: the certificate of
Fulcio, the transparency log and the signature. It fetches Sigstore's root of trust, so this alone reaches the network.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

from robustkit.certificates.model import CertificateError
from robustkit.certificates.reading import MOST_BUNDLE, plain, shown
from robustkit.certificates.said import Part, State
from robustkit.errors import RobustkitError
from robustkit.spelling import json_value

#: Of the payload of a DSSE envelope, where that is an in-toto statement.
_PAYLOAD = "application/vnd.in-toto+json"


class SignatureError(RobustkitError, ValueError):
    """A signature that is not what it should be; the message says why."""


def authentic(data: bytes, bundle: Path | None, *, identity: str | None = None, issuer: str | None = None) -> Part:
    """Whether somebody signed the statements, and who.

    Args:
        data: the statements' bytes.
        bundle: a Sigstore bundle: of the bytes (``sigstore sign``), or an attestation with their digest as its subject
            (``actions/attest``, ``sigstore attest``); ``None`` for none.
        identity: who must have signed: a workflow's address, a mail address.
        issuer: of that identity: the OpenID provider's address.
    """
    asked = identity is not None or issuer is not None
    if bundle is None:
        if asked:
            return Part("authentic", State.WRONG, "unsigned, and a signature was asked for")
        return Part("authentic", State.UNASKED, "unsigned")
    try:
        text = plain(bundle, MOST_BUNDLE).decode("utf-8")
        enveloped = _is_envelope(text)
    except (CertificateError, UnicodeError, SignatureError) as error:
        return Part("authentic", State.WRONG, f"its signature can't be read: {shown(error, 300)}")
    try:
        models, verify = importlib.import_module("sigstore.models"), importlib.import_module("sigstore.verify")
        policies = importlib.import_module("sigstore.verify.policy")
    except ImportError:
        return _unchecked("pip install sigstore", asked)
    if identity is None or issuer is None:
        return _unchecked("say whose it must be: --certificate-identity and --certificate-oidc-issuer", asked)
    try:
        verifier = verify.Verifier.production()
    except Exception as error:  # its errors, and those of what it fetches with, have no common base
        return _unchecked(f"Sigstore's root of trust can't be had: {shown(error, 200)}", asked)
    try:
        policy = policies.Identity(identity=identity, issuer=issuer)
        _check(models.Bundle.from_json(text), verifier, policy, data, enveloped=enveloped)
    except SignatureError as error:
        return Part("authentic", State.WRONG, shown(error, 300))
    except Exception as error:  # whatever a reader of somebody's bundle comes to is no signature
        return Part("authentic", State.WRONG, f"the signature does not hold: {shown(error, 300)}")
    return Part("authentic", State.RIGHT, f"signed by {shown(identity, 200)}, as {shown(issuer, 200)} says")


def _check(bundle: Any, verifier: Any, policy: Any, data: bytes, *, enveloped: bool) -> None:
    if not enveloped:
        verifier.verify_artifact(input_=data, bundle=bundle, policy=policy)
        return
    kind, payload = verifier.verify_dsse(bundle=bundle, policy=policy)
    if kind != _PAYLOAD:
        raise SignatureError(f"the signature is of something else: {kind!r}")
    statement = json_value(bytes(payload).decode("utf-8"))
    subjects = statement.get("subject") if isinstance(statement, dict) else None
    digests = [s.get("digest") for s in subjects if isinstance(s, dict)] if isinstance(subjects, list) else []
    wanted = hashlib.sha256(data).hexdigest()
    if not any(isinstance(digest, dict) and digest.get("sha256") == wanted for digest in digests):
        raise SignatureError("the signature is of another file than this certificate")


def _is_envelope(text: str) -> bool:
    """Whether a bundle holds an attestation, rather than a signature of the file's bytes."""
    try:
        found = json_value(text)
    except ValueError as error:
        raise SignatureError(f"no JSON: {error}") from error
    if not isinstance(found, dict) or ("dsseEnvelope" in found) == ("messageSignature" in found):
        raise SignatureError("it is no Sigstore bundle")
    return "dsseEnvelope" in found


def _unchecked(why: str, asked: bool) -> Part:
    return Part("authentic", State.UNTOLD if asked else State.UNASKED, f"signed, not checked: {why}")
