"""``robustkit verify``: a certificate that somebody else made, checked, and a part of it run again."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustkit.cli import shared
from robustkit.registry import CodecUnavailable
from robustkit.spelling import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robustkit.certificates.model import Certificate
    from robustkit.certificates.reading import Presented
    from robustkit.certificates.said import Part
    from robustkit.codec import Image

#: Exit statuses, as those of ``robustkit compare``.
RIGHT, WRONG, CANT_RUN, UNTOLD = 0, 1, shared.CANNOT_RUN, 3


@click.command(
    "verify",
    cls=shared.JudgingCommand,
    epilog="""\b
Examples:
  robustkit verify certificate
  robustkit verify certificate --codec jpeg --all --out result.intoto.json
  robustkit verify certificate --codec my_codec:MyCodec --images photos \\
    --certificate-identity https://github.com/me/my_codec/.github/workflows/robustness.yml@refs/heads/main \\
    --certificate-oidc-issuer https://token.actions.githubusercontent.com
\b
Exit status:
  0  all that was asked for was checked, and is right
  1  something is wrong: it is no certificate, was tampered with, or does not come again
  2  the codec can't run here
  3  something that was asked for can't be told here
  4  wrong usage
""",
)
@click.option("--codec", metavar="NAME", help="Run trials again with this codec. Without it no codec is imported.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="A setting of the codec; repeatable.")
@click.option("--codec-path", "paths", metavar="DIR", multiple=True, help="A folder to import it from; repeatable.",
              type=click.Path(exists=True, file_okay=False, resolve_path=True))  # fmt: skip
@click.option("--images", metavar="DIR|SET", default="skimage", show_default=True,
              help="Where the certificate's images are, whole or already cut; told by their pixels.")  # fmt: skip
@click.option("--allow-downloads", is_flag=True, help="Fetch a set of images that is not on this machine.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="So many trials, drawn at random (24).")
@click.option("--all", "whole", is_flag=True, help="All trials.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of the sample; by default another each time.")
@click.option("--tolerated", is_flag=True,
              help="Differences within the codec's declared tolerance are good enough for exit status 0.")  # fmt: skip
@click.option("--any-version", is_flag=True,
              help="Another version of the codec will do for exit status 0, if the trials come again.")  # fmt: skip
@click.option("--bundle", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The Sigstore bundle that signs it, where that is not beside it.")  # fmt: skip
@click.option("--certificate-identity", "identity", metavar="WHO", help="Who must have signed it.")
@click.option("--certificate-oidc-issuer", "issuer", metavar="URL", help="Who must say so.")
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", default=30.0,
              show_default=True, help="For one decode.")  # fmt: skip
@click.option("--out", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="Write what was found as an in-toto verification result (SVR v0.2).")  # fmt: skip
@click.argument("place", metavar="DIR|FILE", type=click.Path(exists=True, path_type=Path))
def command(
    place: Path,
    codec: str | None,
    settings: tuple[str, ...],
    paths: tuple[str, ...],
    images: str,
    allow_downloads: bool,
    sample: int | None,
    whole: bool,
    seed: int | None,
    tolerated: bool,
    any_version: bool,
    bundle: Path | None,
    identity: str | None,
    issuer: str | None,
    time_limit: float,
    out: Path | None,
) -> None:
    """Check a certificate: who signed it, whether it holds together, and whether its trials come again.

    DIR is a certificate's folder; FILE is its certificate.intoto.jsonl alone, without the trials. Nothing in it is
    believed or run: the codec is the one that you name.
    """
    _usage(place, codec, settings, sample, whole, seed, identity, issuer, out)
    shared.needs("jsonschema", "pyarrow", "rfc8785")
    from robustkit.certificates.authentic import authentic
    from robustkit.certificates.intact import intact
    from robustkit.certificates.model import CertificateError
    from robustkit.certificates.reading import read, shown
    from robustkit.certificates.said import Part, State
    from robustkit.certificates.shown import severities
    from robustkit.certificates.verify import Verified, result

    try:
        found = read(place)
        holds = intact(found)
    except CertificateError as error:
        raise click.ClickException(f"refused: {printable(str(error), lines=False)}") from error
    who = authentic(found.data, bundle if bundle is not None else found.bundle, identity=identity, issuer=issuer)
    if codec is None:
        again = Part("reproduced", State.UNASKED, "not asked for: --codec NAME runs trials again")
    elif holds.state is not State.RIGHT or found.rows is None:
        again = Part("reproduced", State.UNTOLD, "not run: what is to be reproduced is not intact")
    else:
        sys.path += [path for path in paths if path not in sys.path]
        again = _again(
            found,
            codec,
            settings,
            _images(found.certificate, images, allow_downloads=allow_downloads),
            sample=sample,
            whole=whole,
            seed=seed,
            seconds=time_limit,
            tolerated=tolerated,
            any_version=any_version,
        )
    verified = Verified(who, holds, again)
    for part in verified.parts:
        _say(part)
    click.echo(f"it says:    {shown(found.certificate.sentence, 300)}")
    if up_to := severities(found.certificate):
        click.echo(f"            {shown(up_to, 600)}")
    if out is not None:
        text = json.dumps(result(found, verified, whole=whole), indent=2, sort_keys=True) + "\n"
        shared.write(str(out), text.encode())
    sys.exit({State.RIGHT: RIGHT, State.WRONG: WRONG, State.UNTOLD: UNTOLD}[verified.state])


def _usage(
    place: Path,
    codec: str | None,
    settings: tuple[str, ...],
    sample: int | None,
    whole: bool,
    seed: int | None,
    identity: str | None,
    issuer: str | None,
    out: Path | None,
) -> None:
    if codec is None and (settings or sample or whole or seed is not None):
        raise click.UsageError("--set, --sample, --all and --seed need --codec")
    if whole and (sample or seed is not None):
        raise click.UsageError("--all leaves nothing to --sample and --seed")
    if (identity is None) != (issuer is None):
        raise click.UsageError("--certificate-identity and --certificate-oidc-issuer go together")
    if out is not None and place.is_dir() and out.resolve().is_relative_to(place.resolve()):
        raise click.UsageError("--out lies in the certificate's folder, which takes no other files")


def _images(certificate: Certificate, given: str, *, allow_downloads: bool) -> dict[str, Image]:
    """The certificate's images among those given, by their pixels."""
    from robustkit.certificates.reproduce import matched

    corpus = certificate.corpus.images
    sides = sorted({image.height for image in corpus if image.height == image.width})
    if given != "skimage":
        there: Mapping[str, Image] = shared.images(given, crop=None, allow_downloads=allow_downloads)
        return matched(corpus, there.items())
    found: dict[str, Image] = {}
    for side in sides:
        # No photograph is as large as what somebody may claim; those that are too small raise no alarm.
        with_side = [image for image in corpus if image.height == image.width == side]
        try:
            there = shared.images(given, crop=side, allow_downloads=allow_downloads)
        except click.UsageError:
            continue
        found |= matched(with_side, there.items())
    return found


def _again(
    found: Presented,
    codec: str,
    settings: tuple[str, ...],
    images: dict[str, Image],
    *,
    sample: int | None,
    whole: bool,
    seed: int | None,
    seconds: float,
    tolerated: bool,
    any_version: bool,
) -> Part:
    from robustkit.certificates.reproduce import SAMPLE, reproduced
    from robustkit.isolation import Limits

    assert found.rows is not None
    spec = shared.spec_of(codec, settings)
    with (
        tempfile.TemporaryDirectory(prefix="robustkit-verify-") as directory,
        shared.progress("running trials") as tell,
    ):
        try:
            return reproduced(
                found.certificate,
                found.rows,
                spec,
                images,
                directory=Path(directory),
                sample=None if whole else sample or SAMPLE,
                # Whoever made the certificate must not know which trials are looked at.
                seed=secrets.randbelow(1 << 31) if seed is None else seed,
                limits=Limits(seconds=seconds),
                tolerated=tolerated,
                any_version=any_version,
                progress=lambda text: tell(printable(text, lines=False)),
            )
        except CodecUnavailable as error:
            click.echo(f"Error: {printable(str(error))}", err=True)
            sys.exit(CANT_RUN)


def _say(part: Part) -> None:
    from robustkit.certificates.reading import shown

    click.echo(shown(part, 600))
    for line in part.wrong:
        click.echo(f"  {shown(line, 700)}")
    for line in part.notes:
        click.echo(f"  note: {shown(line, 700)}")
