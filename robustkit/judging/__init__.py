"""Judging a codec without pytest: trials, searches, bounds against promises, findings.

``subject`` runs trials, ``assess`` holds them against promises, ``search`` looks for counterexamples, ``propose``
finds the tightest promises that are proved, and ``finding`` has the claims, the verdicts and what a whole run says.
"""
