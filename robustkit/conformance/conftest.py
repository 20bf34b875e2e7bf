"""The suite's fixtures; the conftest beside checks of your own can have them by the same line."""

from robustkit.plugin.fixtures import *  # noqa: F403
