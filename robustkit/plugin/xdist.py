"""Under pytest-xdist: one seed for all workers, and the checks of one codec and file in one process."""

from __future__ import annotations

from typing import Any

import pytest

from robustkit.plugin.session import SEED


class Spread:
    """Hooks of a run that xdist spreads over processes.

    Args:
        seed: of the searches.
    """

    def __init__(self, seed: int | str) -> None:
        self._seed = seed

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker the seed."""
        node.workerinput[SEED] = self._seed

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Under plain ``-n``, keep the checks of one codec and file together: they share trials, run once a process."""
        if config.getoption("dist") != "load":
            return None
        from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

        class ByFileAndCodec(LoadScopeScheduling):  # type: ignore[misc]
            def _split_scope(self, nodeid: str) -> str:
                return nodeid.partition("::")[0] + nodeid.partition("[")[2]

        return ByFileAndCodec(config, log)
