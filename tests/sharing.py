"""What several tests look at is made once, also where xdist's workers run them side by side."""

import os
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

PATIENCE = 300


def made_once(factory: pytest.TempPathFactory, name: str, parts: Mapping[str, Callable[[Path], None]]) -> list[Path]:
    """A folder for each part, made by the worker that comes first to it.

    Workers that come together make different parts, and wait for what the others make.
    """
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    root.mkdir(exist_ok=True)
    for part, make in parts.items():
        try:
            (root / part).mkdir()
        except FileExistsError:
            continue
        said = ""
        try:
            make(root / part)
        except BaseException:
            said = traceback.format_exc()
            raise
        finally:
            (root / f"{part}.ending").write_text(said)
            (root / f"{part}.ending").rename(root / f"{part}.ended")
    for part in parts:
        ended, end = root / f"{part}.ended", time.monotonic() + PATIENCE
        while not ended.exists():
            if time.monotonic() > end:
                pytest.fail(f"{name}: {part} was not made within {PATIENCE} s")
            time.sleep(0.1)
        if said := ended.read_text():
            pytest.fail(f"{name}: {part} could not be made:\n{said}", pytrace=False)
    return [root / part for part in parts]
