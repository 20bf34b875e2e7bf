"""The one base of all errors that robustkit raises on purpose."""

from __future__ import annotations


class RobustkitError(Exception):
    """Base of every public error: ``except RobustkitError`` catches what robustkit says, and no bug of its own."""
