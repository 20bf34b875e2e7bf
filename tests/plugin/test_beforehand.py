"""What judges a codec is in memory before the codec's constructor can lay hands on its files."""

import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
from PIL import Image as PillowImage
from suites import CODECS

import robustkit.conformance

#: Keeps the names of the modules that came after the first worker.
WITNESS = """
    import subprocess
    import sys

    before = None
    start = subprocess.Popen.__init__

    def watched(self, args, *more, **named):
        global before
        if before is None and "robustkit.isolation.child" in str(args):
            before = set(sys.modules)
        start(self, args, *more, **named)

    subprocess.Popen.__init__ = watched

    def pytest_unconfigure(config):
        with open("late.txt", "w") as file:
            file.write("\\n".join(sorted(set(sys.modules) - before)))
        # Half a second that each run would wait for.
        assert "scipy.stats" not in sys.modules
"""


def late(folder, *arguments):
    (folder / "codecs_here.py").write_text(CODECS)
    (folder / "witness.py").write_text(dedent(WITNESS))
    (folder / "images").mkdir()
    rows, columns = np.mgrid[0:64, 0:64]
    pixels = np.stack([rows * 4, columns * 4, rows + columns], axis=2).astype(np.uint8)
    PillowImage.fromarray(pixels).save(folder / "images" / "one.png")
    command = [sys.executable, "-m", "pytest", "-p", "witness", "-p", "no:cacheprovider", *arguments]
    options = ["--robustkit-images=images", "--robustkit-trials=2", "--robustkit-max-examples=2"]
    done = subprocess.run(
        [*command, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "promises are not proved" in done.stdout, done.stdout + done.stderr
    return (folder / "late.txt").read_text().split()


@pytest.mark.parametrize(
    "suite",
    [
        ["--pyargs", "robustkit.conformance"],
        pytest.param(["suite"], marks=pytest.mark.slow),
        ["suite/test_clean.py", "suite/test_degradation.py"],
    ],
)
def test_nothing_that_judges_is_imported_after_a_codec_was_built(suite, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "suite").symlink_to(robustkit.conformance.__path__[0])
    found = late(tmp_path, "--codec=codecs_here:Plain", *suite)
    judging = ("robustkit", "scipy", "numpy", "hypothesis", "jinja2", "rich", "PIL")
    # Parts that hypothesis and rich keep to themselves come as they need them.
    judges = [name for name in found if name.split(".")[0] in judging and "._" not in name]
    assert judges == []
    assert [name for name in found if name.partition(".")[0] == "suite"] == []
