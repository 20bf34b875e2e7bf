"""Trials of a certificate, run again from their seeds, with the codec that whoever verifies has named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.certificates.collect import artifacts, kit_digest
from robustkit.certificates.intact import profile_of
from robustkit.certificates.lock import settings_of
from robustkit.certificates.model import Certificate, Photograph, TrialRow
from robustkit.certificates.reading import shown
from robustkit.certificates.rounding import allowed
from robustkit.certificates.said import Part, State
from robustkit.channels import ChannelError, parse
from robustkit.codec import Image
from robustkit.images import ImageError, centre_crop
from robustkit.isolation import Limits, WorkerError, fingerprint
from robustkit.judging.effort import EFFORTS
from robustkit.judging.subject import CleanRoundTripFailed, Job, Subject, quiet
from robustkit.judging.trial import Trial
from robustkit.outcome import Outcome
from robustkit.quality import MetricUnavailable, UnknownMetric
from robustkit.registry import CodecSpec

#: Trials of a sample, unless another number is asked for: a codec that does otherwise in one of eight trials is caught
#: by all but one of 24 samples.
SAMPLE = 24
#: Of each kind of difference so many trials are named.
_NAMED = 3
#: By how much a metric may differ on the same pixels: sums are added up in another order elsewhere.
_SAME_PIXELS = 1e-6
#: What depends on how fast a machine is, and how large.
_OF_THE_MACHINE = (Outcome.HUNG, Outcome.EXHAUSTED)


class Match(StrEnum):
    """How a trial compares with its row."""

    SAME = "the same"  #: stream, outcome, pixels and quality
    TOLERATED = "within the declared tolerance"  #: other pixels, no further off than the codec says they may be
    INCOMPARABLE = "not comparable on this machine"  #: other clean streams, or a limit of time or memory
    DIFFERENT = "different"


@dataclass(frozen=True)
class Compared:
    """A trial beside its row.

    Attributes:
        row: the certificate's.
        match: how they compare.
        why: what differs; empty for the same.
    """

    row: TrialRow
    match: Match
    why: str = ""


def sampled(rows: Sequence[TrialRow], count: int | None, seed: int) -> list[TrialRow]:
    """Rows to run again, in their order: ``count`` of them at random, or all of them for ``None``."""
    if count is None or count >= len(rows):
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), size=count, replace=False)
    return [rows[at] for at in sorted(chosen.tolist())]


def matched(wanted: Iterable[Photograph], given: Iterable[tuple[str, Image]]) -> dict[str, Image]:
    """Images of a corpus among ``given``, by their pixels: whole, or the middle square of the recorded size.

    Args:
        wanted: of the corpus.
        given: names, which do not matter, and uint8 images, H x W x 3.

    Returns:
        The corpus's name -> the image, for those that were found.
    """
    missing = {photo.sha256: photo for photo in wanted}
    found: dict[str, Image] = {}
    for name, image in given:
        sides = {photo.height for photo in missing.values() if photo.height == photo.width}
        for side in (None, *sorted(sides)):
            try:
                cut = image if side is None else centre_crop(image, side, name)
            except ImageError:
                continue
            if (photo := missing.pop(fingerprint(cut), None)) is not None:
                found[photo.name] = cut
        if not missing:
            break
    return found


def compared(
    row: TrialRow,
    image: Photograph,
    trial: Trial,
    *,
    clean: str,
    stream: str,
    pixels: str | None,
    metric: str,
    tolerance: tuple[float, float],
) -> Compared:
    """A row beside the trial that was run again.

    Args:
        row: the certificate's.
        image: of the certificate's corpus.
        trial: run here.
        clean: digest of the clean stream here.
        stream: digest of the damaged stream here.
        pixels: digest of the decoded image here; ``None`` without one.
        metric: of quality.
        tolerance: of the codec; (0, 0) for one that computes alike everywhere.
    """
    exact = not any(tolerance)
    if clean != image.stream:
        return Compared(row, Match.DIFFERENT if exact else Match.INCOMPARABLE, "another clean stream")
    if stream != row.stream:
        return Compared(row, Match.DIFFERENT, "another damaged stream: another seed, channel or number")
    there, here = Outcome(row.outcome), trial.outcome
    if there is not here and not (there.has_image and here.has_image and not exact):
        slow = there in _OF_THE_MACHINE or here in _OF_THE_MACHINE
        return Compared(row, Match.INCOMPARABLE if slow else Match.DIFFERENT, f"{there} there, {here} here")
    if not here.has_image:
        return Compared(row, Match.SAME)
    measured = trial.metrics[metric]
    assert row.quality is not None
    said = f"{metric} {row.quality:.4f} there, {measured:.4f} here"
    if pixels == row.pixels:
        if abs(measured - row.quality) > _SAME_PIXELS:
            return Compared(row, Match.DIFFERENT, f"the same pixels, and {said}")
        if row.tolerated and not trial.tolerated:
            return Compared(row, Match.DIFFERENT, "within the codec's tolerance there, another picture here")
        return Compared(row, Match.SAME)
    least, most = allowed(metric, row.quality, tolerance)
    near = not exact and least - _SAME_PIXELS <= measured <= most + _SAME_PIXELS
    return Compared(row, Match.TOLERATED if near else Match.DIFFERENT, f"other pixels, {said}")


def reproduced(
    certificate: Certificate,
    rows: Sequence[TrialRow],
    spec: CodecSpec,
    images: Mapping[str, Image],
    *,
    directory: Path,
    sample: int | None = SAMPLE,
    seed: int = 0,
    limits: Limits | None = None,
    tolerated: bool = False,
    any_version: bool = False,
    progress: Callable[[str], None] = quiet,
) -> Part:
    """Run trials of a certificate again, and compare them with their rows.

    Args:
        certificate, rows: intact ones.
        spec: the codec that the user named.
        images: of the corpus, as :func:`matched` finds them.
        directory: where streams are kept meanwhile.
        sample: how many trials; ``None`` for all.
        seed: of the sample.
        limits: time and memory of one decode.
        tolerated: whether differences within the codec's tolerance are good enough.
        any_version: whether the codec may be another version of the certified one.
        progress: told now and then.

    Raises:
        CodecUnavailable: the codec can't be loaded.
    """
    if not rows:
        return Part("reproduced", State.UNTOLD, "nothing to reproduce: the certificate has no trials")
    here = [row for row in rows if row.image in images]
    absent = sorted({image.name for image in certificate.corpus.images} - set(images))
    notes = [f"not here, so their trials were left out: {shown(', '.join(absent), 200)}"] if absent else []
    if not here:
        way_out = "give them with --images"
        return Part(
            "reproduced", State.UNTOLD, f"none of the certificate's images is here: {way_out}", (), tuple(notes)
        )
    chosen = sampled(here, sample, seed)
    effort = EFFORTS.get(certificate.corpus.effort, EFFORTS["quick"])
    made = Subject(
        spec,
        images=images,
        directory=directory,
        profile=profile_of(certificate),
        metric=certificate.metric,
        trials=max(1, certificate.corpus.rounds),
        effort=effort,
        limits=limits,
        seed=certificate.corpus.seed,
        progress=progress,
    )
    with contextlib.closing(made) as subject:
        others = list(_others(certificate, subject))
        if subject.own_name != certificate.codec:
            said = f"no: another codec, {shown(subject.own_name)}, not {shown(certificate.codec)}"
            return Part("reproduced", State.WRONG, said, tuple(others), tuple(notes))
        try:
            subject.check_metric()
            found = list(_run(certificate, chosen, subject))
        except ChannelError as error:
            # The certificate's codec could be damaged so, and this one can't.
            return Part("reproduced", State.WRONG, f"no: {shown(error, 200)}", tuple(others), tuple(notes))
        except (MetricUnavailable, UnknownMetric, ValueError) as error:
            return Part("reproduced", State.UNTOLD, f"{certificate.metric} can't be measured here: {shown(error, 200)}")
        except CleanRoundTripFailed as failed:
            if failed.clean is not None and failed.clean.decoded.outcome in _OF_THE_MACHINE:
                said = f"{Match.INCOMPARABLE}: {shown(failed, 200)}"
                return Part("reproduced", State.UNTOLD, said, tuple(others), tuple(notes))
            return Part("reproduced", State.WRONG, f"no: {shown(failed, 200)}", tuple(others), tuple(notes))
        except WorkerError as error:
            return Part("reproduced", State.UNTOLD, f"the codec's process failed: {shown(error, 200)}", tuple(others))
        # Afterwards, as when it was certified: by then all that it needs is loaded.
        files, libraries = _versions(certificate, subject)
    of_these = f"{len(here)}{' of these images' if absent else ''}"
    whole = f"all {of_these}" if len(chosen) == len(here) else f"a sample of {of_these}, seed {seed}"
    version = [f"another version of the codec: {what}" for what in files]
    (notes.extend if any_version else others.extend)(version)
    notes += [f"another library: {what}" for what in libraries]
    if not certificate.subject:
        notes.append("the certificate does not say which files were judged: no version was compared")
    if certificate.kit_sha256 != kit_digest():
        notes.append(f"another robustkit than the one that made it, {shown(certificate.kit)}")
    return _told(found, tuple(others), whole, tuple(notes), tolerated=tolerated)


def _run(certificate: Certificate, chosen: Sequence[TrialRow], subject: Subject) -> Iterator[Compared]:
    photographs = {image.name: image for image in certificate.corpus.images}
    tolerance = subject.workers.attributes.tolerance
    pixels: dict[Job, str] = {}

    def keep(trial: Trial, image: Image) -> None:
        pixels[Job(trial.image, trial.channel, trial.number)] = fingerprint(image)

    jobs = [Job(row.image, parse(row.channel), row.number) for row in chosen]
    clean = {name: hashlib.sha256(found.bitstream).hexdigest() for name, found in subject.clean.items()}
    for row, job, trial in zip(chosen, jobs, subject.run(jobs, keep=keep), strict=True):
        damaged = trial.pattern.apply(subject.clean[row.image].bitstream)
        yield compared(
            row,
            photographs[row.image],
            trial,
            clean=clean[row.image],
            stream=hashlib.sha256(damaged).hexdigest(),
            pixels=pixels.pop(job, None),
            metric=certificate.metric,
            tolerance=tolerance,
        )


def _others(certificate: Certificate, subject: Subject) -> Iterator[str]:
    """What is other here than the certificate says, a line each: what was certified is then not what was run."""
    settings = settings_of(subject)
    if _json(settings) != _json(certificate.settings):
        yield f"other settings: {shown(certificate.settings)} there, {shown(settings)} here"
    prior = subject.workers.describe().get("prior", "")
    if prior != certificate.prior:
        yield f"another prior: {shown(certificate.prior or 'none')} there, {shown(prior or 'none')} here"
    there, here = (certificate.tolerance.maximum, certificate.tolerance.mean), subject.tolerance
    if there != here:
        yield f"another tolerance, in grey levels at worst and on average: {there} there, {here} here"
    promised, declared = profile_of(certificate), subject.declared
    if certificate.certified and promised is not None and declared is not None:
        # A certificate with a looser profile says so, and certifies nothing.
        if looser := promised.loosened_from(declared):
            yield f"an edited profile: it allows more than the codec promises here: {shown('; '.join(looser), 200)}"
    elif certificate.certified and promised is None and declared is not None:
        yield "an edited profile: the codec promises something here, and the certificate nothing"


def _versions(certificate: Certificate, subject: Subject) -> tuple[list[str], list[str]]:
    """Files of the codec that are others here, and its libraries that are."""
    loaded = artifacts(subject)
    here = {_plain(part.name): part for part in loaded}
    # Weights lie in whatever folder, under whatever name.
    weights = {part.sha256 for part in loaded if part.kind == "weights"}
    codec: list[str] = []
    libraries: list[str] = []
    for part in certificate.subject:
        name = _plain(part.name)
        found = here.get(name)
        if (found is not None and found.sha256 == part.sha256) or (part.kind == "weights" and part.sha256 in weights):
            continue
        what = f"{shown(name)}, {part.kind}, has other content" if found else f"{shown(name)}, {part.kind}, is not here"
        (libraries if part.kind == "library" else codec).append(what)
    return codec, libraries


def _plain(name: str) -> str:
    """An artifact's name without the number of its files, which depends on what has been loaded."""
    return re.sub(r" \(\d+ files?\)$", "", name)


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return text


def _told(
    found: Sequence[Compared], others: tuple[str, ...], whole: str, notes: tuple[str, ...], *, tolerated: bool
) -> Part:
    count = Counter(one.match for one in found)
    same = count[Match.SAME]
    said = f"{same} of {len(found)} re-run trials come again ({whole})"
    parts = [f"{count[match]} {match}" for match in (Match.TOLERATED, Match.INCOMPARABLE) if count[match]]
    wrong = tuple(_lines(found, Match.DIFFERENT))
    notes = (*notes, *_lines(found, Match.TOLERATED), *_lines(found, Match.INCOMPARABLE))
    if wrong:
        text = "; ".join([f"no: {count[Match.DIFFERENT]} of {len(found)} re-run trials differ ({whole})", *parts])
        return Part("reproduced", State.WRONG, text, (*others, *wrong), notes)
    text = "; ".join([said, *parts])
    if others:
        # The trials agree, but of something else than what the certificate is of.
        return Part("reproduced", State.UNTOLD, f"{text}, but not of the certified codec", others, notes)
    enough = same + (count[Match.TOLERATED] if tolerated else 0)
    return Part("reproduced", State.RIGHT if enough == len(found) else State.UNTOLD, text, (), notes)


def _lines(found: Sequence[Compared], match: Match) -> Iterator[str]:
    """The trials that compare so, by what differs, a few of each named."""
    kinds: dict[str, list[Compared]] = {}
    for one in found:
        if one.match is match:
            kinds.setdefault(one.why.partition(",")[0], []).append(one)
    for ones in kinds.values():
        named = "; ".join(
            f"{one.row.channel}, {one.row.image}, trial {one.row.number}: {one.why}" for one in ones[:_NAMED]
        )
        more = f"; and {len(ones) - _NAMED} more" if len(ones) > _NAMED else ""
        head = "" if match is Match.DIFFERENT else f"{match}: "
        yield head + shown(named, 600) + more
