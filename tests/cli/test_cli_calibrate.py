"""``robustkit calibrate-prior`` where it can't run; tests/priors measures with it."""

from __future__ import annotations

import pytest
from command_line import without


@pytest.mark.parametrize(("module", "extra"), [("torch", "rcc"), ("diffusers", "diffusers")])
def test_what_is_not_installed_is_said_with_the_way_to_get_it(tmp_path, module, extra):
    done = without([module], "calibrate-prior", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {module} is missing: pip install 'robustkit[{extra}]'\n"
