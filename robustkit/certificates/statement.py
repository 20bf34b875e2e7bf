"""The two in-toto Statements of a certificate, a line of canonical JSON each: written, and read from anywhere.

The first has the predicate that any policy engine reads: passed, warned or failed, and which claims. The second has all
figures. The first follows from the second, so a reader compares.
"""

from __future__ import annotations

from typing import Any

from robustkit.certificates import canonical, schema
from robustkit.certificates.model import PREDICATE, VERSION, Certificate, CertificateError, Line, from_json, to_json
from robustkit.judging.finding import Finding, Verdict, states

STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
#: No certificate of ours is so long, in bytes.
MOST_BYTES = 32 * 1024 * 1024

_FAILED = (Verdict.BROKEN, Verdict.BLOCKED, Verdict.ERROR)
_WARNED = (Verdict.UNPROVED, Verdict.WAIVED)


def result_statement(certificate: Certificate) -> dict[str, Any]:
    """The statement with the predicate test-result v0.1.

    A claim that is broken, or could not be checked, has failed; one that is unproved or waived is a warning. The whole
    is PASSED only for what is certified.
    """
    claims = states(finding(certificate, line) for line in certificate.lines)
    failed = [claim for claim, verdict in claims.items() if verdict in _FAILED]
    warned = [claim for claim, verdict in claims.items() if verdict in _WARNED]
    passed = [claim for claim, verdict in claims.items() if verdict.good]
    predicate = {
        "result": "FAILED" if failed else "PASSED" if certificate.certified else "WARNED",
        "configuration": configuration(certificate),
        "passedTests": passed,
        "warnedTests": warned,
        "failedTests": failed,
    }
    return _statement(certificate, TEST_RESULT, predicate)


def figures_statement(certificate: Certificate) -> dict[str, Any]:
    """The statement with all figures: its predicate is the certificate."""
    return _statement(certificate, PREDICATE, to_json(certificate))


def subjects(certificate: Certificate) -> list[dict[str, Any]]:
    """What was judged, as resource descriptors. An in-toto statement is about something with a digest, so what could
    not be identified is named so, with the digest of the clean streams that it wrote."""
    if certificate.subject:
        return [
            {"name": part.name, "digest": {"sha256": part.sha256}, "annotations": {"kind": part.kind}}
            for part in certificate.subject
        ]
    seen = [certificate.codec, certificate.settings, *(image.stream for image in certificate.corpus.images)]
    return [{"name": f"unidentified: {certificate.codec}", "digest": {"sha256": canonical.digest(seen)}}]


def configuration(certificate: Certificate) -> list[dict[str, Any]]:
    """What the result depends on beside the codec, as resource descriptors."""
    environment = dict(certificate.environment)
    found = [
        {"name": "profile", "digest": {"sha256": certificate.profile_sha256}},
        {"name": "corpus", "digest": {"sha256": certificate.corpus.digest}},
        {"name": f"robustkit {certificate.kit}", "digest": {"sha256": certificate.kit_sha256}},
        {"name": "environment", "digest": {"sha256": canonical.digest(environment)}, "annotations": environment},
    ]
    if certificate.prior:
        prior = {"sha256": canonical.digest(certificate.prior)}
        found.append({"name": "prior", "digest": prior, "annotations": {"prior": certificate.prior}})
    return found


def finding(certificate: Certificate, line: Line) -> Finding:
    """The finding that a line is of.

    Raises:
        CertificateError: its verdict is none.
    """
    try:
        verdict = Verdict(line.verdict)
    except ValueError:
        raise CertificateError(f"{line.verdict[:40]!r} of claim {line.claim[:40]!r} is no verdict") from None
    return Finding(
        certificate.asked,
        line.claim,
        line.title,
        line.severity,
        line.measured,
        line.declared,
        verdict,
        line.numbers,
        line.waiver,
        line.advice,
    )


def dumps(certificate: Certificate) -> bytes:
    """Both statements, a line each.

    Raises:
        CertificateError: something in it has no canonical form, or does not fit the schema.
    """
    schema.check(to_json(certificate))
    return b"".join(
        canonical.dumps(made) + b"\n" for made in (result_statement(certificate), figures_statement(certificate))
    )


def loads(data: bytes) -> Certificate:
    """The certificate that :func:`dumps` wrote. Nothing is run, and nothing is believed: any bytes may be given.

    Args:
        data: the file's bytes.

    Raises:
        CertificateError: it is none, or one of another version, or its two statements don't agree; the message says
            which.
    """
    if len(data) > MOST_BYTES:
        raise CertificateError(f"{len(data):,} bytes are no certificate: there may be {MOST_BYTES:,}")
    lines = data.split(b"\n")
    if len(lines) != 3 or lines[2]:
        raise CertificateError(f"a certificate has two lines, each ended; this has {len(data.splitlines())}")
    first, second = (
        _read(line, kind, f"line {number}")
        for number, (line, kind) in enumerate(zip(lines[:2], (TEST_RESULT, PREDICATE), strict=True), 1)
    )
    predicate = second["predicate"]
    version = predicate.get("version") if isinstance(predicate, dict) else None
    if version != VERSION:
        raise CertificateError(
            f"a certificate of version {str(version)[:20]}; this robustkit reads version {VERSION}: use the robustkit "
            "that made it, or a newer one"
        )
    schema.check(predicate)
    certificate = from_json(Certificate, predicate)
    for name, found, made in (
        ("the statement with all figures", second, figures_statement(certificate)),
        ("the test result", first, result_statement(certificate)),
    ):
        if differing := [key for key in made if found[key] != made[key]]:
            raise CertificateError(f"{name} does not follow from the certificate: other {', '.join(differing)}")
    return certificate


def _statement(certificate: Certificate, kind: str, predicate: Any) -> dict[str, Any]:
    return {"_type": STATEMENT, "subject": subjects(certificate), "predicateType": kind, "predicate": predicate}


def _read(line: bytes, kind: str, where: str) -> dict[str, Any]:
    found = canonical.loads(line, where)
    if not isinstance(found, dict) or set(found) != {"_type", "subject", "predicateType", "predicate"}:
        raise CertificateError(f"{where} is no in-toto statement")
    if found["_type"] != STATEMENT:
        raise CertificateError(f"{where} is a statement of type {str(found['_type'])[:60]!r}, not {STATEMENT!r}")
    if found["predicateType"] != kind:
        raise CertificateError(
            f"{where} has the predicate {str(found['predicateType'])[:60]!r}, not {kind!r}: "
            "use the robustkit that made it"
        )
    return found
