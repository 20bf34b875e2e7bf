"""The pytest plugin: its hooks. What they do is in :mod:`robustkit.plugin`.

It is loaded in every pytest run of an environment with robustkit, so nothing heavy is imported before a codec is
chosen, and nothing changes in runs that choose none.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator
from typing import Any

import pytest

from robustkit.plugin import options
from robustkit.registry import Registry, registry


class Hooks:
    """Hooks that a user's conftest may implement."""

    @pytest.hookspec
    def pytest_robustkit_codecs(self, registry: Registry) -> None:
        """Register codecs for this run: ``registry.register(MyCodec)``. Called where ``--codec`` is given."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> Generator[None, None, None]:
    try:
        yield
    except (ValueError, argparse.ArgumentError) as error:
        if "--codec" not in str(error):
            raise
        raise pytest.UsageError(
            f"a conftest.py has an option --codec, as robustkit does ({error}): "
            "rename it, or leave robustkit out of this project's runs with -p no:robustkit"
        ) from error
    # Only now has each conftest had its say.
    options.refuse_old_names(parser, args)


@pytest.hookimpl(tryfirst=True)  # before Hypothesis's own, which loads its profile
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "robustkit_claim(id): the claim about a codec that a check examines")
    if not config.getoption("--codec"):
        return
    from robustkit.plugin.session import RUN, Run
    from robustkit.plugin.xdist import Spread

    options.refuse_effort_by_hypothesis(config)
    try:
        config.hook.pytest_robustkit_codecs(registry=registry)
    except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:  # the latter two of importorskip
        raise pytest.UsageError(f"pytest_robustkit_codecs: {type(error).__name__}: {error}") from error
    config.stash[RUN] = run = Run(config)
    config.pluginmanager.register(run.report, "robustkit-report")
    config.pluginmanager.register(Spread(run.seed, run.trial_seed, run.certifying.parts), "robustkit-spread")
    config.pluginmanager.register(run.certifying, "robustkit-certifying")


def pytest_unconfigure(config: pytest.Config) -> None:
    if (run := _run(config)) is not None:
        run.close_all()


def pytest_sessionstart(session: pytest.Session) -> None:
    if (run := _run(session.config)) is not None:
        run.start()


def pytest_report_header(config: pytest.Config) -> list[str]:
    run = _run(config)
    return [] if run is None else run.header()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Nothing to look at where nobody has imported the fixtures.
    if any("codec" in getattr(getattr(item, "callspec", None), "params", {}) for item in items):
        from robustkit.plugin.needed import look_at

        look_at(items, config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    from robustkit.plugin.needed import hear_of

    hear_of(node)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    result = yield
    if _run(pyfuncitem.config) is not None:
        from robustkit.plugin.claim import CLAIM

        if (found := pyfuncitem.stash.get(CLAIM, None)) is not None:
            found.settle()
    return result


def _run(config: pytest.Config) -> Any:
    if not config.getoption("--codec"):
        return None
    from robustkit.plugin.session import RUN

    return config.stash.get(RUN, None)
