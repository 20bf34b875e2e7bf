"""Runs the command line, and writes codecs for it to load."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from click.testing import CliRunner

from robustkit.cli import main


def cli(*arguments, status=0, stdin=None):
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)
    assert result.exit_code == status, result.output
    if result.exception is not None:
        assert isinstance(result.exception, SystemExit), result.exc_info
    return result


def module(folder, name, body):
    text = "from robustkit import *\nimport numpy as np\n" + textwrap.dedent(body)
    (folder / f"{name}.py").write_text(text)


BROKEN = """
class Broken(Codec):
    name = "broken"
    family = "test"
    def encode(self, image):
        raise {encode}
    def decode(self, bitstream):
        {decode}
"""


#: Runs the command line where some modules can't be imported, as if they weren't installed.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from robustkit.cli import main
main(prog_name="robustkit")
"""


def without(modules, *arguments):
    program = [sys.executable, "-c", WITHOUT.format(modules=modules), *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
