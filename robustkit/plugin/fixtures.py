"""The suite's fixtures. They are nowhere but where a ``conftest.py`` says ``from robustkit.plugin.fixtures import *``.

The suite's own does, so that its fixtures meet nobody else's ``codec``, ``golden`` or ``claim``; so can the one beside
checks of your own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robustkit.judging.evidence import first_line
from robustkit.judging.finding import Finding, Verdict
from robustkit.judging.subject import Subject
from robustkit.plugin.claim import CLAIM, Claim, fail
from robustkit.plugin.golden_check import GoldenCheck
from robustkit.plugin.needed import NO_CODEC
from robustkit.plugin.report import claim_of, record
from robustkit.plugin.session import RUN
from robustkit.registry import CodecSpec

__all__ = ["claim", "codec", "golden", "promised", "pytest_generate_tests", "sound_codec"]

_GENERATED = pytest.StashKey[bool]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each check runs for each codec that was chosen with ``--codec``."""
    # Two conftests, one above the other, may both have imported this.
    if "codec" not in metafunc.fixturenames or metafunc.definition.stash.get(_GENERATED, False):
        return
    if not _asks_for_ours(metafunc.definition):
        return
    metafunc.definition.stash[_GENERATED] = True
    run = metafunc.config.stash.get(RUN, None)
    params = [pytest.param(spec, id=spec.name) for spec in run.specs] if run else [pytest.param(NO_CODEC, id="none")]
    metafunc.parametrize("codec", params, indirect=True, scope="session")


def _asks_for_ours(test: pytest.Item) -> bool:
    """Whether a test's ``codec`` is the fixture below: it may have parameters or a fixture of that name itself."""
    for mark in test.iter_markers("parametrize"):
        names = mark.kwargs.get("argnames", mark.args[0] if mark.args else ())
        if "codec" in ([name.strip() for name in names.split(",")] if isinstance(names, str) else names):
            return False
    # pytest has no public way to ask which fixture a name means.
    fixtures = getattr(getattr(test, "_fixtureinfo", None), "name2fixturedefs", {}).get("codec", ())
    for fixture in reversed(fixtures):
        if fixture.func.__module__ == __name__:
            return True
        if fixture.params is not None or "codec" not in fixture.argnames:
            return False
    return True


@pytest.fixture(scope="session")
def codec(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """The codec under test, one after the other of those chosen with --codec."""
    run, spec = request.config.stash.get(RUN, None), getattr(request, "param", None)
    if run is None or not isinstance(spec, CodecSpec):
        pytest.fail(
            "nothing gives the fixture `codec` the codecs of --codec: import pytest_generate_tests from "
            "robustkit.plugin.fixtures beside it, or call it in the pytest_generate_tests of your own",
            pytrace=False,
        )
    if run.no_device:
        pytest.skip(run.no_device)
    subject = run.subject(spec)
    try:
        yield subject
    finally:
        run.certifying.leave(subject, failed=request.session.testsfailed > 0)
        run.close(subject)


@pytest.fixture
def sound_codec(request: pytest.FixtureRequest, codec: Subject) -> Subject:
    """The codec under test, if its clean round trip works; all else is blocked."""
    reason = codec.unsound
    if reason is not None:
        # What else a dying worker said is with the clean round trip, once.
        record(request.node, Finding(codec.name, *claim_of(request.node), "", "", "", Verdict.BLOCKED))
        fail(f"blocked: the clean round trip fails: {first_line(reason)}")
    return codec


@pytest.fixture
def promised(sound_codec: Subject) -> Subject:
    """The codec under test, if it declares promises or --robustkit-profile gives some."""
    if sound_codec.profile is None or not sound_codec.profile.promises:
        pytest.skip(
            f"{sound_codec.name} promises nothing under damage; "
            "give the class a profile (`robustkit measure` proposes one), or --robustkit-profile FILE"
        )
    return sound_codec


@pytest.fixture
def golden(request: pytest.FixtureRequest, sound_codec: Subject) -> Iterator[GoldenCheck]:
    """The codec's golden reconstructions."""
    run = request.config.stash[RUN]
    with GoldenCheck(
        sound_codec,
        given=run.options.golden_dir,
        command=run.recording(sound_codec.name),
        updating=run.options.updating,
        report_dir=run.options.report_dir,
    ) as found:
        yield found


@pytest.fixture
def claim(request: pytest.FixtureRequest, codec: Subject) -> Claim:
    """Where a check puts what it measured."""
    identity, title = claim_of(request.node)
    run = request.config.stash[RUN]
    found = Claim(
        codec,
        identity,
        title,
        record=lambda f: record(request.node, f),
        report_dir=run.options.report_dir,
        waivers=run.waivers_of(codec),
        other_images=run.other_images,
        unproved_fails=run.options.unproved_fails,
    )
    request.node.stash[CLAIM] = found
    return found
