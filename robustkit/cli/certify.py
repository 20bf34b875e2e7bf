"""``robustkit certify``: the conformance suite's verdict on a codec as a certificate, without pytest's output."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from robustkit.cli import shared
from robustkit.judging.effort import EFFORTS

#: Lines of pytest's output that are shown where no certificate came out.
_TAIL = 30


@click.command(
    "certify",
    epilog="""\b
Examples:
  robustkit certify jpeg --out certificate --effort ci
  robustkit certify my_codec:MyCodec --set quality=50 --out certificate -- -n auto
""",
)
@click.argument("codec", metavar="CODEC")
@click.argument("more", metavar="[-- PYTEST ARGUMENTS]", nargs=-1, type=click.UNPROCESSED)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The certificate's folder.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True,
              help="A setting of the codec, the value as TOML writes it; repeatable.")  # fmt: skip
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="ci", show_default=True, help="How much to try.")
@click.option("--trial-seed", type=click.IntRange(min=0), metavar="N",
              help="Seed of the trials.  [default: that of robustkit.lock, or the effort's]")  # fmt: skip
@click.option("--profile", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Promises in place of the codec's own; looser ones certify nothing.")  # fmt: skip
@click.option("--map", "flips", type=click.IntRange(min=1), metavar="N",
              help="Flip N single bits for the map of what costs how much.")  # fmt: skip
@click.option("--withhold-reproducers", is_flag=True, help="Leave crashing streams out, and keep only their digests.")
def command(
    codec: str,
    more: tuple[str, ...],
    out: Path,
    settings: tuple[str, ...],
    effort: str,
    trial_seed: int | None,
    profile: Path | None,
    flips: int | None,
    withhold_reproducers: bool,
) -> None:
    """Judge CODEC by the conformance suite, and write what it says as a certificate into DIR.

    It is what `pytest --pyargs robustkit.conformance --robustkit-certificate DIR` writes, and ends with the same exit
    status. What keeps the codec from being certified is listed.
    """
    shared.needs("jsonschema", "pyarrow", "rfc8785")
    spec = shared.spec_of(codec, settings)
    seed = _locked_seed(spec.name) if trial_seed is None else trial_seed
    given = [word for pair in settings for word in ("--robustkit-set", pair)]
    given += ["--robustkit-effort", effort, "--robustkit-certificate", str(out)]
    given += [] if seed is None else ["--robustkit-trial-seed", str(seed)]
    given += [] if profile is None else ["--robustkit-profile", str(profile)]
    given += [] if flips is None else ["--robustkit-map", str(flips)]
    given += ["--robustkit-withhold-reproducers"] if withhold_reproducers else []
    words = ["-m", "pytest", "-p", "no:cacheprovider", "--color=no", "--pyargs", "robustkit.conformance"]
    status, tail = _run([sys.executable, *words, "--codec", codec, *given, *more], codec)
    about = _written(out) if status not in (2, 3, 4, 5) else None
    if about is None:
        click.echo("\n".join(tail), err=True)
        click.echo("No certificate was written.", err=True)
        sys.exit(status or 1)
    click.echo(about["sentence"])
    for line in about["blockers"]:
        click.echo(f"  {line}")
    click.echo(f"{'certified' if about['certified'] else 'not certified'}: {out}")
    click.echo(f"its page: {out / 'certificate.html'}")
    sys.exit(status)


def _run(command: list[str], codec: str) -> tuple[int, list[str]]:
    """Run pytest without its output; its exit status, and the end of what it said."""
    said: list[str] = []
    with (
        shared.progress(f"judging {codec}") as tell,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True, errors="replace"
        ) as pytest,
    ):
        assert pytest.stdout is not None
        try:
            for line in pytest.stdout:
                said.append(line.rstrip("\n"))
                if found := re.search(r"\[ *(\d+%)\]", line):
                    tell(f"judging {codec}: {found[1]} of the checks")
        except KeyboardInterrupt:
            # It has had the same signal, and ends its workers.
            pytest.wait()
            raise
        status = pytest.wait()
        errors.seek(0)
        return status, [*said[-_TAIL:], *errors.read().splitlines()[-_TAIL:]]


def _written(out: Path) -> dict[str, Any] | None:
    from robustkit.certificates.write import STATEMENTS

    try:
        lines = (out / STATEMENTS).read_text(encoding="utf-8").splitlines()
        found: dict[str, Any] = json.loads(lines[1])["predicate"]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    return found


def _locked_seed(name: str) -> int | None:
    from robustkit.certificates import lock
    from robustkit.certificates.model import CertificateError

    found = lock.find(Path.cwd())
    if found is None:
        return None
    try:
        entry = lock.loads(found.data).get(name)
    except CertificateError as error:
        raise click.ClickException(str(error)) from error
    return None if entry is None else entry.seed
