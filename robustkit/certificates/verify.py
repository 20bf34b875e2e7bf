"""Verifying a certificate that somebody else made: who signed it, whether it holds together, whether it comes again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from robustkit import __version__
from robustkit.certificates.reading import Presented, shown
from robustkit.certificates.said import Part, State
from robustkit.certificates.statement import STATEMENT
from robustkit.certificates.write import STATEMENTS

#: in-toto's Simple Verification Result,
#: https://github.com/in-toto/attestation/blob/main/spec/predicates/svr.md
RESULT = "https://in-toto.io/attestation/svr/v0.2"
#: What those who read the result know its properties by.
_SCOPE = "ROBUSTKIT"


@dataclass(frozen=True)
class Verified:
    """What verifying came to.

    Attributes:
        authentic, intact, reproduced: the three parts.
    """

    authentic: Part
    intact: Part
    reproduced: Part

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        """All three, in the order in which they are said."""
        return self.authentic, self.intact, self.reproduced

    @property
    def state(self) -> State:
        """What they come to together: wrong if any is, then untold if any is."""
        states = [part.state for part in self.parts]
        return next((state for state in (State.WRONG, State.UNTOLD) if state in states), State.RIGHT)


def result(found: Presented, verified: Verified, *, whole: bool, now: datetime | None = None) -> dict[str, Any]:
    """An in-toto statement on the certificate, with a Simple Verification Result as its predicate.

    Its properties are those that were checked and hold; what is not listed was not checked, or does not hold.

    Args:
        found: the certificate.
        verified: what came of it.
        whole: whether all of its trials were run again.
        now: the time; by default this moment.
    """
    certificate = found.certificate
    at = (now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    policies = [{"name": "profile", "digest": {"sha256": certificate.profile_sha256}}]
    return {
        "_type": STATEMENT,
        "subject": [{"name": STATEMENTS, "digest": {"sha256": hashlib.sha256(found.data).hexdigest()}}],
        "predicateType": RESULT,
        "predicate": {
            "verifier": {"id": f"urn:robustkit:verify:{__version__}", "policies": _real(policies)},
            "timeCreated": at.isoformat().replace("+00:00", "Z"),
            "properties": list(_properties(found, verified, whole=whole)),
            "robustkit_lines": [shown(part, 500) for part in verified.parts],
        },
    }


def _properties(found: Presented, verified: Verified, *, whole: bool) -> Iterator[str]:
    if verified.authentic.state is State.RIGHT:
        yield f"{_SCOPE}_AUTHENTIC"
    if verified.intact.state is State.RIGHT:
        yield f"{_SCOPE}_INTACT"
    if verified.reproduced.state is State.RIGHT:
        yield f"{_SCOPE}_REPRODUCED_{'ALL' if whole else 'SAMPLE'}"
    if verified.state is State.RIGHT and found.certificate.certified:
        yield f"{_SCOPE}_CODEC_CERTIFIED"


def _real(policies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with a digest: a codec may promise nothing."""
    return [policy for policy in policies if re.fullmatch("[0-9a-f]{64}", policy["digest"]["sha256"])]
