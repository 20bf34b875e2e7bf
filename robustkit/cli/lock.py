"""``robustkit lock``: what will be promised and tried, written down before it is."""

from __future__ import annotations

import random
import tempfile
from contextlib import closing
from pathlib import Path

import click

from robustkit.cli import shared
from robustkit.errors import RobustkitError
from robustkit.isolation import WorkerError
from robustkit.judging.effort import EFFORTS
from robustkit.registry import CodecUnavailable


@click.command(
    "lock",
    epilog="""\b
Examples:
  robustkit lock jpeg --effort ci
  robustkit lock my_codec:MyCodec --set quality=50 --effort nightly
""",
)
@click.argument("codec", metavar="CODEC")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True,
              help="A setting of the codec, the value as TOML writes it; repeatable.")  # fmt: skip
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="ci", show_default=True, help="Of the run to come.")
@click.option("--trial-seed", type=click.IntRange(0, 2**53 - 1), metavar="N",
              help="Seed of the trials.  [default: 0, and with the effort nightly a new one]")  # fmt: skip
@click.option("--profile", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="Promises in place of the codec's own.")  # fmt: skip
def command(codec: str, settings: tuple[str, ...], effort: str, trial_seed: int | None, profile: Path | None) -> None:
    """Write what a certificate of CODEC will be of into robustkit.lock, here: promises, images, channels and seed.

    Commit the file, then run `robustkit certify` here: the certificate says in which commit it was registered. Entries
    of other codecs in the file stay.
    """
    from robustkit import images
    from robustkit.certificates import lock
    from robustkit.certificates.write import put
    from robustkit.judging.subject import Subject
    from robustkit.profile import Profile, ProfileError

    spec = shared.spec_of(codec, settings)
    new = random.SystemRandom().getrandbits(32) if effort == "nightly" else 0
    path = Path.cwd() / lock.FILE
    try:
        entries = lock.loads(path.read_bytes()) if path.exists() else {}
        promises = None if profile is None else Profile.from_toml(profile)
        with (
            tempfile.TemporaryDirectory(prefix="robustkit-") as folder,
            closing(
                Subject(
                    spec,
                    images=images.photographs(),
                    directory=Path(folder),
                    profile=promises,
                    effort=EFFORTS[effort],
                    seed=new if trial_seed is None else trial_seed,
                )
            ) as subject,
            shared.progress(f"asking {codec}"),
        ):
            found = lock.entry(subject, effort)
        put(path, lock.dumps({**entries, spec.name: found}).encode())
    except (OSError, CodecUnavailable, WorkerError, ProfileError, RobustkitError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"{lock.FILE}: {spec.name}: {len(found.channels)} channels, {len(found.images)} images, seed {found.seed}"
    )
    click.echo("commit it before the run that it speaks of")
