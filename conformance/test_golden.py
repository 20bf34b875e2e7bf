"""Golden reconstructions: the same bits and, within a tolerance, the same pixels as when somebody last looked."""


def test_golden_reconstructions_match(golden, claim):
    """Catches a change that nobody meant: other bits from the encoder, other pixels from the decoder."""
    golden.check(claim)


def test_golden_has_no_orphans(golden, claim):
    """Catches golden files that nothing compares any more."""
    golden.check_orphans(claim)
