"""Golden reconstructions: the same bits and, within a tolerance, the same pixels as when somebody last looked."""

import pytest

from robustkit.plugin.claim import Claim
from robustkit.plugin.golden_check import GoldenCheck


@pytest.mark.robustkit_claim("golden.matches")
def test_golden_reconstructions_match(golden: GoldenCheck, claim: Claim) -> None:
    """Catches a change that nobody meant: other bits from the encoder, other pixels from the decoder."""
    golden.check(claim)


@pytest.mark.robustkit_claim("golden.no-orphans")
def test_golden_has_no_orphans(golden: GoldenCheck, claim: Claim) -> None:
    """Catches golden files that nothing compares any more."""
    golden.check_orphans(claim)
