"""Golden files that nobody could record yet: their check is skipped with the command, and only theirs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robustkit.plugin.golden_check import SHIPPED, UNRECORDED, GoldenCheck
from robustkit.registry import registry

COMMAND = "pytest conformance --codec NAME -k golden --robustkit-golden-update"


def check_of(name: str, device: str, *, given: Path | None = None) -> GoldenCheck:
    """The check of a codec of robustkit's on a device that need not be here."""
    workers = SimpleNamespace(profile=lambda: object())
    subject: Any = SimpleNamespace(
        name=name, own_name=name, device=device, spec=registry.get(name).spec(), workers=workers, known_defects={}
    )
    return GoldenCheck(subject, given=given, command=COMMAND, updating=False, report_dir=Path("report"))


@pytest.mark.parametrize(("name", "device"), sorted(UNRECORDED))
def test_what_nobody_recorded_yet_is_skipped_with_the_command_that_does(name: str, device: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"of {name} on {device} yet; record them here: {COMMAND}"):
        check_of(name, device)._manifest()
    # Once they are there, they are compared, and the codec is on this list no more.
    assert not (SHIPPED / name / device).exists()
    assert (SHIPPED / name / "cpu").is_dir()


def test_a_folder_of_ones_own_must_have_them(tmp_path: Path) -> None:
    (name, device), *_ = UNRECORDED
    with pytest.raises(pytest.fail.Exception, match="missing golden"):
        check_of(name, device, given=tmp_path)._manifest()


def test_files_that_are_gone_are_missed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("robustkit.plugin.golden_check.SHIPPED", tmp_path)
    with pytest.raises(pytest.fail.Exception, match="missing golden"):
        check_of("turbo-ddcm", "cuda")._manifest()
