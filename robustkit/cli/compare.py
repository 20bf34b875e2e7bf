"""``robustkit compare``: whether a codec got worse under damage, against what was kept of it, or against another."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from robustkit import channels
from robustkit.channels import Channel, ChannelError
from robustkit.cli import shared
from robustkit.cli.measure import CHANNELS, CORES
from robustkit.errors import RobustkitError
from robustkit.registry import CodecSpec
from robustkit.spelling import names, printable

if TYPE_CHECKING:
    from robustkit.certificates.compare import Comparison
    from robustkit.certificates.pairing import Side
    from robustkit.certificates.sides import Plan
    from robustkit.judging.subject import Subject
    from robustkit.pixels import Image

#: Exit statuses beside those of a comparison.
CANNOT_RUN = shared.CANNOT_RUN
#: Trials of each image and channel where no stored side says how many.
TRIALS = 24
_SETTINGS = re.compile(r"(?P<codec>.+)@(?P<pairs>[A-Za-z_]\w*=.*)", re.DOTALL)


class _CannotRun(click.ClickException):
    """A codec could not run."""

    exit_code = CANNOT_RUN


@click.command(
    "compare",
    cls=shared.JudgingCommand,
    epilog="""\b
Examples:
  robustkit compare certificate/ my_codec:MyCodec
  robustkit compare baseline.jsonl my_codec:MyCodec --propose baseline.jsonl
  robustkit compare main/certificate/ branch/certificate/ --json
  robustkit compare jpeg@quality=75 jpeg@quality=70 --channel "bsc(ber=1e-4)"
  robustkit compare my_codec:MyCodec my_codec:MyCodec --old-path ../before/src --new-path src
""",
)
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True,
              help="A setting of each codec that is run, the value as TOML writes it; repeatable. NAME@KEY=VALUE "
              "sets it for one.")  # fmt: skip
@click.option("--old-path", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
              help="Folder that the codec OLD is imported from, before all others.")  # fmt: skip
@click.option("--new-path", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
              help="The same of NEW.")  # fmt: skip
@shared.image_options
@click.option("--channel", "texts", metavar="CHANNEL", multiple=True,
              help="Damage such as bsc(ber=1e-3), of two codecs; repeatable.  [default: what OLD promises, else NEW, "
              "else eight kinds]")  # fmt: skip
@click.option("--trials", type=click.IntRange(min=1), metavar="N",
              help=f"For each image and channel, of two codecs.  [default: {TRIALS}]")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Of the trials of two codecs.  [default: 0]")
@click.option("--metric", metavar="NAME", help="Of quality, of two codecs.  [default: OLD's profile's, or psnr]")
@click.option("--margin", type=click.FloatRange(min=0), metavar="LOSS",
              help="What may be lost without an alarm, in the metric's unit.  [default: 0.02 dB, "
              "else 0.001]")  # fmt: skip
@click.option("--rate-margin", type=click.FloatRange(min=0), default=0.01, show_default=True, metavar="SHARE",
              help="By how much clean streams may grow without an alarm.")  # fmt: skip
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True,
              metavar="SECONDS", help="For one decode.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), default=CORES, show_default="one a core", metavar="N",
              help="Decoding processes.")  # fmt: skip
@click.option("--propose", "proposed", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write what NEW measured as a baseline, to be committed if the change is meant.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON in place of the table.")
def command(old: str, new: str, **options: Any) -> None:
    """Compare a codec with what was kept of it: did it get worse under damage, and what got better?

    OLD and NEW are certificates (the folder, or its .jsonl beside trials.parquet), baselines that --propose wrote, or
    codecs, which are run: a name, package.module:attribute, codec.toml, each with settings as NAME@KEY=VALUE,KEY=VALUE.
    A codec beside a stored side goes through that side's own trials. No codec is imported but those named here.

    What is equal by digest is unchanged, without statistics. Trials of equal damage are compared in pairs, others image
    by image. An alarm needs a loss beyond the margin that is significant as well; where both sides can be run, it has
    to come again with fresh seeds.

    Exit status: 0 no regression, 1 regression or broken, 2 a codec could not run, 3 undecided, 4 wrong usage,
    5 nothing was measured.
    """
    _run(old, new, **options)


def _run(
    old: str,
    new: str,
    *,
    settings: tuple[str, ...],
    old_path: Path | None,
    new_path: Path | None,
    images: str,
    crop: int | None,
    allow_downloads: bool,
    texts: tuple[str, ...],
    trials: int | None,
    seed: int | None,
    metric: str | None,
    margin: float | None,
    rate_margin: float,
    time_limit: float,
    workers: int,
    proposed: Path | None,
    as_json: bool,
) -> NoReturn:
    from robustkit.certificates.compare import Comparison, Said, compare
    from robustkit.certificates.model import CertificateError
    from robustkit.certificates.sides import propose
    from robustkit.judging.subject import CleanRoundTripFailed

    before, now = _named("OLD", old, old_path), _named("NEW", new, new_path)
    stored = [side for side in (before, now) if isinstance(side, _Stored)]
    if stored and (texts or trials or seed is not None or metric):
        raise click.UsageError(
            f"{stored[0].label} says which trials are run: leave out --channel, --trials, --seed and --metric"
        )
    if len(stored) == 2 and settings:
        raise click.UsageError("--set is for codecs, and both sides are stored")
    try:
        given = list(dict.fromkeys(channels.parse(text) for text in texts))
    except ChannelError as error:
        raise click.UsageError(printable(str(error))) from error
    codecs = [side for side in (before, now) if isinstance(side, _Codec)]
    specs = {side.role: side.spec(settings) for side in codecs}
    found = _images(images, crop, allow_downloads, stored) if codecs else {}
    with tempfile.TemporaryDirectory(prefix="robustkit-") as directory, shared.progress("comparing") as tell:
        runs: dict[str, _Run] = {}
        measured = stored[0].side.metric if stored else metric
        try:
            for side in codecs:
                runs[side.role] = run = _Run(
                    side, specs[side.role], found, measured, Path(directory), time_limit, workers, tell
                )
                measured = run.metric()
            old_run, new_run = runs.get("OLD"), runs.get("NEW")
            plan = _plan(stored, old_run, new_run, given, trials or TRIALS, seed or 0)
            first = before.side if isinstance(before, _Stored) else _ran(old_run, plan)
            try:
                second = now.side if isinstance(now, _Stored) else _ran(new_run, plan)
            except CleanRoundTripFailed as failed:
                _end(Comparison(before.label, now.label, Said.BROKEN, f"{now.label}: broken: {failed}"), as_json)

            def again() -> tuple[Side, Side]:
                tell("an alarm: again with fresh seeds")
                fresh = replace(plan, seed=plan.seed + 1)
                return _ran(old_run, fresh), _ran(new_run, fresh)

            comparison = compare(
                first,
                second,
                margin=margin,
                rate_margin=rate_margin,
                again=None if stored else again,
            )
            if proposed is not None and comparison.said is not Said.NOTHING:
                propose(proposed, second)
                click.echo(f"{proposed}: NEW's trials as a baseline; commit it if the change is meant", err=True)
        except CertificateError as error:
            raise click.UsageError(printable(str(error))) from error
        except (RobustkitError, OSError, ValueError) as error:
            raise _CannotRun(printable(str(error))) from error
        finally:
            for run in runs.values():
                run.close()
    _end(comparison, as_json)


# -- what OLD and NEW name


@dataclass(frozen=True)
class _Stored:
    """A side on disk."""

    label: str
    side: Side


@dataclass(frozen=True)
class _Codec:
    """A side that is run: a codec, settings of its own, and where it is imported from."""

    role: str
    label: str
    codec: str
    pairs: tuple[str, ...]
    path: Path | None

    def spec(self, shared_pairs: Sequence[str]) -> CodecSpec:
        own = [pair.partition("=")[0].strip() for pair in self.pairs]
        others = [pair for pair in shared_pairs if pair.partition("=")[0].strip() not in own]
        return shared.spec_of(self.codec, (*others, *self.pairs))


def _named(role: str, text: str, path: Path | None) -> _Stored | _Codec:
    from robustkit.certificates.model import CertificateError
    from robustkit.certificates.sides import is_stored, load

    if is_stored(text):
        if path is not None:
            raise click.UsageError(f"--{role.lower()}-path is for codecs, and {role} is stored")
        try:
            side = load(Path(text))
        except CertificateError as error:
            raise click.UsageError(printable(str(error))) from error
        return _Stored(text, side)
    if text.endswith(".jsonl") or (text.endswith("/") and not Path(text).exists()):
        raise click.UsageError(
            f"{role}: there is no {printable(text)}: `robustkit certify` writes a certificate, and --propose a baseline"
        )
    parted = _SETTINGS.fullmatch(text)
    codec, pairs = (parted["codec"], tuple(names(parted["pairs"]))) if parted else (text, ())
    known = ":" in codec or codec.endswith(".toml")
    if not known and ("/" in codec or Path(codec).is_dir()) and not _registered(codec):
        raise click.UsageError(f"{role}: {printable(text)} has no certificate.intoto.jsonl, and is no codec")
    return _Codec(role, text, codec, pairs, path)


def _registered(codec: str) -> bool:
    from robustkit.registry import UnknownCodec, registry

    try:
        registry.get(codec)
    except UnknownCodec:
        return False
    return True


def _images(given: str, crop: int | None, allow_downloads: bool, stored: Sequence[_Stored]) -> Mapping[str, Image]:
    """The images that codecs are run on; of the size that the stored side has, unless one is given."""
    if crop is None and stored:
        sizes = {side for photo in stored[0].side.photographs for side in (photo.height, photo.width)}
        crop = sizes.pop() if len(sizes) == 1 else None
    return shared.images(given, crop=crop, allow_downloads=allow_downloads)


# -- what is run


class _Run:
    """One codec, ready to go through trials, more than once."""

    def __init__(
        self,
        codec: _Codec,
        spec: CodecSpec,
        images: Mapping[str, Image],
        metric: str | None,
        directory: Path,
        seconds: float,
        workers: int,
        tell: Callable[[str], None],
    ) -> None:
        from robustkit.isolation import Limits
        from robustkit.judging.subject import Subject

        self.codec = codec
        self.tell = tell
        self.subject: Subject = Subject(
            spec,
            images=images,
            directory=directory / codec.role.lower(),
            metric=metric,
            limits=Limits(seconds=seconds),
            workers=workers,
            progress=lambda line: tell(f"{codec.label}: {line}"),
        )

    def metric(self) -> str:
        """Of quality: the given one, or the codec's own; it can measure the images."""
        from robustkit.certificates.sides import first_in_path

        with first_in_path(self.codec.path):
            self.subject.check_metric()
            return self.subject.metric

    def promised(self) -> list[Channel]:
        """The channels that the codec makes promises of."""
        from robustkit.certificates.sides import first_in_path

        with first_in_path(self.codec.path):
            declared = self.subject.declared
        return [] if declared is None else list(dict.fromkeys(promise.channel for promise in declared.promises))

    def close(self) -> None:
        self.subject.close()


def _ran(run: _Run | None, plan: Plan) -> Side:
    from robustkit.certificates.sides import first_in_path
    from robustkit.certificates.sides import run as run_side

    assert run is not None
    with first_in_path(run.codec.path):
        return run_side(run.subject, plan, label=run.codec.label, tell=run.tell)


def _plan(
    stored: Sequence[_Stored],
    old: _Run | None,
    new: _Run | None,
    given: Sequence[Channel],
    trials: int,
    seed: int,
) -> Plan:
    """The trials of the stored side, or what two codecs go through."""
    from robustkit.certificates.sides import Plan, first_in_path

    if stored:
        # Nothing is run where both are stored, nor where there is nothing to compare with.
        return Plan.like(stored[0].side) if len(stored) == 1 and stored[0].side.rows else Plan(None, 0, {})
    assert old is not None
    assert new is not None
    wanted = list(given) or old.promised() or new.promised() or _fitting(old)
    with first_in_path(old.codec.path):
        name = old.subject.workers.attributes.name
    jobs = {c: [(image, number) for image in old.subject.images for number in range(trials)] for c in wanted}
    return Plan(name, seed, jobs)


def _fitting(run: _Run) -> list[Channel]:
    """The usual channels, but for those that the codec's layout has no part for."""
    from robustkit.certificates.sides import first_in_path
    from robustkit.judging.subject import Job

    found = []
    with first_in_path(run.codec.path):
        image = next(iter(run.subject.clean))
        for channel in map(channels.parse, CHANNELS):
            try:
                run.subject.pattern(Job(image, channel, 0))
            except ChannelError:
                continue
            found.append(channel)
    return found


# -- what is said


def _end(comparison: Comparison, as_json: bool) -> NoReturn:
    if as_json:
        found = {**asdict(comparison), "status": comparison.status}
        click.echo(json.dumps(found, indent=1, allow_nan=False))
    else:
        _show(comparison)
    sys.exit(comparison.status)


def _show(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Wide where nobody watches, so that a table in a log is whole.
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    if comparison.items:
        table = Table(box=None, pad_edge=False)
        for column in ("what", "measured", "OLD", "NEW", "compared", "verdict"):
            table.add_column(column, overflow="fold")
        for item in comparison.items:
            cells = (item.what, item.quantity, item.old, item.new, item.way, str(item.word))
            table.add_row(*(Text(printable(cell)) for cell in cells))
        console.print(table)
        click.echo()
    for item in comparison.items:
        for line in item.why:
            click.echo(printable(f"{item.what}: {line}"))
    for note in comparison.notes:
        click.echo(printable(note))
    if comparison.repeated:
        click.echo("the alarm was tried again with fresh seeds")
    click.echo(printable(comparison.sentence))
