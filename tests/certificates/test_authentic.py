"""Signatures: no more is said than was checked, and without the package nothing is."""

from __future__ import annotations

import hashlib
import json
import sys
import types

import pytest

from robustkit.certificates.authentic import authentic
from robustkit.certificates.said import State

DATA = b"statements\n"
WHO, ISSUER = "https://github.com/me/it/.github/workflows/ci.yml@refs/heads/main", "https://issuer.example"
SIGNED = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "messageSignature": {"signature": "AA=="}}
ATTESTED = {"mediaType": SIGNED["mediaType"], "dsseEnvelope": {"payload": "e30="}}


def bundle(folder, content=SIGNED):
    file = folder / "certificate.intoto.jsonl.sigstore.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def statement(digest):
    return json.dumps({"subject": [{"name": "certificate.intoto.jsonl", "digest": {"sha256": digest}}]}).encode()


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "sigstore", None)


class Failed(Exception):
    pass


@pytest.fixture
def sigstore(monkeypatch):
    """A stand-in with the package's interface: it holds a bundle good that ``state`` says is."""
    state = {"good": True, "network": True, "asked": [], "payload": ("application/vnd.in-toto+json", b"{}")}

    class Bundle:
        @staticmethod
        def from_json(raw):
            return json.loads(raw)

    class Verifier:
        @classmethod
        def production(cls):
            if not state["network"]:
                raise ConnectionError("no network")
            return cls()

        def verify_artifact(self, input_, bundle, policy):
            state["asked"].append((input_, policy.identity, policy.issuer))
            if not state["good"]:
                raise Failed("signature is invalid for input")

        def verify_dsse(self, bundle, policy):
            self.verify_artifact(None, bundle, policy)
            return state["payload"]

    class Identity:
        def __init__(self, *, identity, issuer=None):
            self.identity, self.issuer = identity, issuer

    parts = {"models": {"Bundle": Bundle}, "verify": {"Verifier": Verifier}, "verify.policy": {"Identity": Identity}}
    monkeypatch.setitem(sys.modules, "sigstore", types.ModuleType("sigstore"))
    for name, content in parts.items():
        module = types.ModuleType(f"sigstore.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"sigstore.{name}", module)
    return state


def test_without_a_signature_it_is_unsigned():
    part = authentic(DATA, None)
    assert (part.state, str(part)) == (State.UNASKED, "authentic:  unsigned")


def test_a_signature_that_was_asked_for_must_be_there():
    part = authentic(DATA, None, identity=WHO, issuer=ISSUER)
    assert (part.state, part.said) == (State.WRONG, "unsigned, and a signature was asked for")


def test_without_the_package_a_signature_is_not_checked(absent, tmp_path):
    part = authentic(DATA, bundle(tmp_path))
    assert (part.state, part.said) == (State.UNASKED, "signed, not checked: pip install sigstore")
    assert authentic(DATA, bundle(tmp_path), identity=WHO, issuer=ISSUER).state is State.UNTOLD


def test_without_an_identity_a_signature_says_nothing(sigstore, tmp_path):
    part = authentic(DATA, bundle(tmp_path))
    assert part.state is State.UNASKED
    assert part.said.startswith("signed, not checked: say whose it must be")
    assert sigstore["asked"] == []


def test_a_signature_of_the_bytes_that_holds(sigstore, tmp_path):
    part = authentic(DATA, bundle(tmp_path), identity=WHO, issuer=ISSUER)
    assert (part.state, part.said) == (State.RIGHT, f"signed by {WHO}, as {ISSUER} says")
    assert sigstore["asked"] == [(DATA, WHO, ISSUER)]


def test_a_signature_that_does_not_hold(sigstore, tmp_path):
    sigstore["good"] = False
    part = authentic(DATA, bundle(tmp_path), identity=WHO, issuer=ISSUER)
    assert (part.state, part.said) == (State.WRONG, "the signature does not hold: signature is invalid for input")


def test_an_attestation_must_be_of_this_certificate(sigstore, tmp_path):
    sigstore["payload"] = ("application/vnd.in-toto+json", statement(hashlib.sha256(DATA).hexdigest()))
    file = bundle(tmp_path, ATTESTED)
    assert authentic(DATA, file, identity=WHO, issuer=ISSUER).state is State.RIGHT
    part = authentic(DATA + b"more", file, identity=WHO, issuer=ISSUER)
    assert (part.state, part.said) == (State.WRONG, "the signature is of another file than this certificate")
    sigstore["payload"] = ("text/plain", statement(hashlib.sha256(DATA).hexdigest()))
    assert authentic(DATA, file, identity=WHO, issuer=ISSUER).state is State.WRONG


def test_without_a_network_it_can_not_be_told(sigstore, tmp_path):
    sigstore["network"] = False
    part = authentic(DATA, bundle(tmp_path), identity=WHO, issuer=ISSUER)
    assert part.state is State.UNTOLD
    assert "root of trust can't be had: no network" in part.said


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "[" * 10_000, json.dumps({**SIGNED, **ATTESTED}), '{"messageSignature": NaN}']
)
def test_what_is_no_bundle_is_no_signature(sigstore, tmp_path, content):
    part = authentic(DATA, bundle(tmp_path, content), identity=WHO, issuer=ISSUER)
    assert part.state is State.WRONG
    assert part.said.startswith("its signature can't be read")
