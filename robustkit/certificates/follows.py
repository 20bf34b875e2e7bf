"""What a certificate says of claims, held against its own figures: a finding follows from assessments, a verdict from
findings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from robustkit.certificates.model import Certificate, CertificateError, TrialRow
from robustkit.certificates.reading import shown
from robustkit.certificates.statement import finding
from robustkit.judging.effort import EFFORTS
from robustkit.judging.finding import CLAIMS, Said, Verdict, run_verdict
from robustkit.outcome import Outcome
from robustkit.profile import Profile

#: By claim, the quantities that its lines are of, as the suite puts them there.
_QUANTITIES = {
    "degradation.quality": ("mean_drop", "p5_drop", "catastrophes"),
    "degradation.corrupted": ("corrupted",),
    "degradation.refused": ("refused",),
    "degradation.monotone": ("gain",),
}
#: Verdicts that a run has if, and only if, its findings come to them.
_EXACT = {Said.CONFORMS, Said.NO_PROMISES, Said.BROKEN}
_CLEAN = "clean.round-trip"
#: Figures that were added up in another order.
_CLOSE = 1e-9
_SURVIVES = "decode.survives.trials"
#: What a line may say of an assessment; a waived one is broken.
_JUDGED = (Verdict.KEPT, Verdict.NOT_DISPROVED, Verdict.UNPROVED, Verdict.BROKEN)


def claims(certificate: Certificate) -> Iterator[str]:
    """Lines that the assessments don't say, and assessments that no line has, by claim."""
    for claim, quantities in _QUANTITIES.items():
        here = [line for line in certificate.lines if line.claim == claim]
        lines = Counter(
            (line.severity, shown(line.measured), Verdict.BROKEN if line.verdict == Verdict.WAIVED else line.verdict)
            for line in here
            if line.verdict in (*_JUDGED, Verdict.WAIVED)
        )
        if not lines:
            # Left out, or it could not be checked: the verdict knows.
            continue
        true = Counter(
            (one.severity, shown(one.measured), one.verdict)
            for one in certificate.assessments
            if one.quantity in quantities and one.verdict in _JUDGED
        )
        for severity, measured, verdict in (lines - true).elements():
            yield f"claim {claim}, {shown(severity)}: {verdict!s}, {measured}: no assessment says so"
        for severity, measured, verdict in (true - lines).elements():
            yield f"claim {claim}, {shown(severity)}: no line has its assessment: {verdict!s}, {measured}"


def rates(certificate: Certificate) -> Iterator[str]:
    """Rates that are not what streams and sizes come to."""
    for image in certificate.corpus.images:
        rate = 8 * image.stream_bytes / max(1, image.height * image.width)
        if not math.isclose(rate, image.bpp, rel_tol=_CLOSE):
            yield f"{shown(image.name)}: bpp is {image.bpp:g}, and by its stream and size {rate:g}"


def clean(certificate: Certificate, profile: Profile | None) -> Iterator[str]:
    """What is said of undamaged images, and their figures don't say."""
    images = certificate.corpus.images
    if profile is None or not images:
        return
    quality, rate = (
        math.fsum(values) / len(images) for values in zip(*((i.quality, i.bpp) for i in images), strict=True)
    )
    worse = profile.quality - quality if certificate.higher_is_better else quality - profile.quality
    found = {certificate.metric: (quality, "quality", worse), "rate": (rate, "bpp", rate - profile.bpp)}
    for line in certificate.lines:
        if line.claim != _CLEAN or line.severity not in found:
            continue
        mean, name, beyond = found[line.severity]
        stated = line.numbers.get(name)
        if stated is None or not math.isclose(stated, mean, rel_tol=_CLOSE):
            yield f"claim {_CLEAN}: its mean {name} is {stated}, and that of the images {mean:g}"
        if (
            abs(beyond) > _CLOSE
            and line.verdict in (Verdict.KEPT, Verdict.BROKEN)
            and (beyond > 0) == (line.verdict == Verdict.KEPT)
        ):
            yield f"claim {_CLEAN}, {shown(line.severity)}: {line.verdict}, and the images' mean is {mean:g}"


def titles(certificate: Certificate) -> Iterator[str]:
    """Lines that call their claim something else."""
    for line in certificate.lines:
        if line.claim in CLAIMS and line.title != CLAIMS[line.claim]:
            yield f"claim {line.claim} is called {shown(line.title)}, and is {CLAIMS[line.claim]}"


def effort(certificate: Certificate) -> Iterator[str]:
    """That it is certified by fewer trials than its effort has."""
    found = certificate.corpus
    if not certificate.certified:
        return
    if found.effort not in EFFORTS:
        yield f"certified with the effort {shown(found.effort)}, which there is not"
    elif found.rounds * max(1, len(found.images)) < EFFORTS[found.effort].trials:
        yield f"certified with {found.rounds} trials of an image, which is less than the effort {found.effort} has"


def failures(certificate: Certificate, rows: Sequence[TrialRow]) -> Iterator[str]:
    """That no trial failed, said although one did."""
    failed = [row for row in rows if Outcome(row.outcome).failure]
    said = {line.verdict for line in certificate.lines if line.claim == _SURVIVES}
    if failed and said and said <= {Verdict.KEPT, Verdict.NOTED}:
        yield f"claim {_SURVIVES} is kept, and {len(failed)} trials failed"


def verdict(certificate: Certificate, *, promising: bool) -> Iterator[str]:
    """What the certificate as a whole says, and the findings don't.

    A run may say less than its findings do, of a looser profile for instance, and never more.
    """
    if certificate.certified == bool(certificate.blockers):
        yield "certified and blocked at once" if certificate.certified else "not certified, and nothing blocks it"
    if certificate.counterexamples and certificate.certified:
        yield "certified, although a counterexample is listed"
    try:
        findings = [finding(certificate, line) for line in certificate.lines]
    except CertificateError as error:
        yield shown(error, 200)
        return
    found = run_verdict(certificate.asked, findings, promising=promising)
    whole = found.text if certificate.verdict in (Said.CONFORMS, Said.NO_PROMISES) else ""
    heads = f"{certificate.asked}: {certificate.verdict}: ", f"{certificate.asked}: not checked"
    if not certificate.sentence.startswith(heads):
        yield f"its sentence is of another codec or verdict: {shown(certificate.sentence)}"
    elif whole and certificate.verdict == found.said and certificate.sentence != whole:
        yield f"its sentence is {shown(certificate.sentence)}, and its claims come to {shown(whole)}"
    if certificate.verdict not in list(Said):
        yield f"its verdict is {shown(certificate.verdict)!r}, which is none"
    elif certificate.verdict != found.said and {certificate.verdict, found.said} & _EXACT:
        yield f"its verdict is {certificate.verdict!r}, and its claims come to {str(found.said)!r}"
    if certificate.certified and not found.good:
        yield f"certified, although its claims come to {str(found.said)!r}"
