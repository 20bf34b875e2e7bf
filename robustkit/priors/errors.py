"""What loading a prior may raise, without torch."""

from __future__ import annotations

from robustkit.errors import RobustkitError


class PriorError(RobustkitError, ValueError):
    """A prior that can't be loaded; the message says which, why, and what would load."""


class PriorUnavailable(ModuleNotFoundError, PriorError):
    """A prior that needs a package which is not installed: ``name`` is the package, the message says how to get it."""
