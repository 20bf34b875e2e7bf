"""Under pytest-xdist: the same seeds for all workers, and the checks of one codec and file in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustkit.plugin.certifying import PARTS
from robustkit.plugin.session import SEED, TRIAL_SEED

#: Files of the suite whose decodes ``test_work.py`` judges, which it can in their own process alone.
_JUDGED_LAST = ("test_degradation.py", "test_regression.py", "test_survival.py")


class Spread:
    """Hooks of a run that xdist spreads over processes.

    Args:
        seed: of the searches.
        trial_seed: of the trials.
        parts: where workers leave what they know of a codec.
    """

    def __init__(self, seed: int | str, trial_seed: int, parts: Path) -> None:
        self._seed = seed
        self._trial_seed = trial_seed
        self._parts = parts

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker the seeds."""
        node.workerinput[SEED] = self._seed
        node.workerinput[TRIAL_SEED] = self._trial_seed
        node.workerinput[PARTS] = str(self._parts)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Under plain ``-n``, keep the checks of one codec and file together: they share trials, run once a process.

        The suite's last file judges all that its searches and trials have decoded, so those three stay together.
        """
        if config.getoption("dist") != "load":
            return None
        from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

        class ByFileAndCodec(LoadScopeScheduling):  # type: ignore[misc]
            def _split_scope(self, nodeid: str) -> str:
                folder, _, file = nodeid.partition("::")[0].rpartition("/")
                return f"{folder}/{'test_work.py' if file in _JUDGED_LAST else file}{nodeid.partition('[')[2]}"

        return ByFileAndCodec(config, log)
