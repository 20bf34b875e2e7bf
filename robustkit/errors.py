"""The one base of all errors that robustkit raises on purpose."""

from __future__ import annotations


class RobustkitError(Exception):
    """Base of every public error: ``except robustkit.RobustkitError`` catches what robustkit says, and no bug of its own."""
