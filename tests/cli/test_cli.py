"""The command line as a whole: its help, and what it costs to import."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from command_line import cli


@pytest.mark.parametrize(
    "command",
    [
        *("codecs", "encode", "decode", "corrupt", "measure", "match-rate", "sweep", "status", "merge", "export"),
        *("lock", "certify", "replay", "statuses", "calibrate-prior"),
    ],
)
def test_help_teaches_by_example(command):
    text = cli(command, "--help").stdout
    assert re.search(rf"Examples:\n +robustkit {command}\b", text)
    assert command in cli("-h").stdout


def test_importing_the_command_line_is_light():
    program = "import sys, robustkit.cli; assert not {'torch', 'PIL', 'pyiqa', 'skimage'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
