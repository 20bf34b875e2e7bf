"""``python -m robustkit`` is the command ``robustkit``."""

from robustkit.cli import main

main(prog_name="robustkit")
