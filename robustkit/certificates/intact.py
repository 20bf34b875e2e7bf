"""Whether a certificate holds together: its digests, its rows of trials, and every figure that follows from them.

Whoever changes a figure must change the rows, and whoever changes the rows must change what the codec did; the former
is found here, the latter by running trials again.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from robustkit import quality
from robustkit.certificates import badge, collect, corpus, follows, power, statement, summary, trials
from robustkit.certificates.collect import kit_digest
from robustkit.certificates.lock import profile_digest
from robustkit.certificates.model import Certificate, CertificateError, ErrorRate, Photograph, TrialRow
from robustkit.certificates.reading import Presented, plain, shown
from robustkit.certificates.rounding import allowed
from robustkit.certificates.said import Part, State
from robustkit.certificates.write import BADGE, ENDPOINT, PAGE, SUMMARY
from robustkit.channels import Channel, ChannelError, parse
from robustkit.judging import assess
from robustkit.judging.assess import Rule
from robustkit.judging.effort import EFFORTS
from robustkit.judging.finding import Verdict, states
from robustkit.judging.replay import LARGEST_STREAM, SUFFIX
from robustkit.judging.trial import Trial
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.profile import Profile, ProfileError
from robustkit.quality import Metric, MetricUnavailable, UnknownMetric

#: Of each kind of fault so many are named.
_NAMED = 3
#: Figures that were added up in another order.
_CLOSE = 1e-9
#: Trials that are simulated for error rates, at the most: a nightly run's, ten times over.
_MOST_SIMULATED = 5_000_000
#: Bits of the streams whose damage is drawn again, at the most, and of one of them: a nightly run's take a minute.
_MOST_DRAWN, _LONGEST_DRAWN = 1 << 28, 1 << 23
#: Whose exact tests, where they were made, err by themselves.
_RECORDED = "degradation.regression"
#: No trial has such a number.
_MOST_ROUNDS = 1 << 20


def intact(found: Presented) -> Part:
    """Whether the digests, the rows and the figures agree.

    Args:
        found: as :func:`robustkit.certificates.reading.read` gives it, which has checked the schema and that the test
            result follows from the figures.
    """
    certificate, rows = found.certificate, found.rows
    promised: Profile | None = None
    metric: Metric | None = None
    wrong, untold = list(_digests(certificate)), ""
    try:
        promised, metric = profile_of(certificate), quality.METRICS[certificate.metric]
    except CertificateError as error:
        wrong.append(str(error))
    except UnknownMetric:
        wrong.append(f"metric {shown(certificate.metric)!r} is unknown to this robustkit")
    except MetricUnavailable as error:
        untold = f"not all can be told here: {shown(error, 200)}"
    if metric is not None and metric.higher_is_better != certificate.higher_is_better:
        wrong.append(f"the direction of {certificate.metric} is turned round")
    if metric is not None and metric.unit != certificate.metric_unit:
        wrong.append(f"the unit of {certificate.metric} is {shown(certificate.metric_unit)!r}, not {metric.unit!r}")
    given = [] if promised is None else [str(promise.channel) for promise in promised.promises]
    missing = [channel for channel in given if channel not in certificate.corpus.channels]
    if missing:
        wrong.append(f"{missing[0]} is promised, and the corpus does not have it")
    wrong += [*follows.verdict(certificate, promising=bool(given)), *follows.claims(certificate)]
    wrong += [*follows.rates(certificate), *_counterexamples(found)]
    if found.where.is_dir():
        wrong += _files(found)
    if rows is None:
        state = State.WRONG if wrong else State.UNTOLD
        return Part("intact", state, f"statements alone: {trials.FILE} is not here", tuple(wrong))
    channels, faults = _channels(certificate)
    of_rows = [*_root(certificate, rows), *_rows(certificate, rows), *_tolerated(certificate, rows)]
    wrong += [*faults, *of_rows]
    # What judging and drawing say, of which another robustkit, or another NumPy, may say otherwise.
    judged = [*follows.titles(certificate), *follows.effort(certificate), *follows.clean(certificate, promised)]
    drawn: list[str] = []
    notes, views = list(_unchecked(found)), _views(found)
    same = certificate.kit_sha256 == kit_digest()
    if same:
        wrong += [f"{name} is not what the certificate says: changed" for name in views]
    elif views:
        notes.append(f"not checked: {', '.join(views)}, which another robustkit made, or somebody changed")
    if not faults and not of_rows:
        # Of rows that can't be right no figure follows.
        tried = _by_channel(certificate, rows, channels)
        # Somebody's numbers may be as large as they like.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong += [*_outcomes(certificate, rows, channels), *follows.failures(certificate, rows)]
            drawn += _drawn(certificate, rows, channels)
            if not rows:
                wrong += _without_rows(certificate)
            elif promised is not None and metric is not None and not missing:
                judged += _judged(certificate, promised, tried)
    alike = same and certificate.environment.get("numpy") == np.__version__
    wrong += [*(judged if same else ()), *(drawn if alike else ())]
    otherwise = [*(() if same else judged), *(() if alike else drawn)]
    if otherwise and not wrong:
        made = f"another robustkit, {shown(certificate.kit)}" if not same else "this robustkit with another NumPy"
        said = f"made by {made}, and this one {'judges' if judged else 'draws'} otherwise"
        return Part("intact", State.UNTOLD, said, tuple(otherwise), tuple(notes))
    if wrong:
        what = f"{len(wrong)} thing{'s' if len(wrong) > 1 else ''} wrong"
        return Part("intact", State.WRONG, f"no: {what}", tuple(wrong), tuple(notes))
    if untold:
        return Part("intact", State.UNTOLD, untold, (), tuple(notes))
    said = f"yes: schema, digests, Merkle root over {len(rows)} trials, and the figures follow from them"
    return Part("intact", State.RIGHT, said, (), tuple(notes))


def profile_of(certificate: Certificate) -> Profile | None:
    """The promises, ``None`` where there are none.

    Raises:
        CertificateError: they are no profile.
    """
    if not certificate.profile:
        return None
    try:
        return Profile.from_mapping(tomllib.loads(certificate.profile))
    except (ValueError, ProfileError, RecursionError) as error:
        raise CertificateError(f"the profile can't be read: {shown(error, 200)}") from error


def _digests(certificate: Certificate) -> Iterator[str]:
    if profile_digest(certificate.profile) != certificate.profile_sha256:
        yield "the profile is not the one that its digest is of: edited"
    if corpus.digest_of(certificate.corpus) != certificate.corpus.digest:
        yield "the corpus is not the one that its digest is of: edited"


def _counterexamples(found: Presented) -> Iterator[str]:
    """Streams in ``replay/`` that are not those that the certificate names."""
    for shows in found.certificate.counterexamples:
        if not shows.replay or shows.replay not in found.replays:
            continue
        name = shows.replay.removesuffix(SUFFIX) + ".bin" if shows.replay.endswith(SUFFIX) else shows.replay
        if name not in found.replays:
            yield f"{shown(name)} is missing: the stream of a counterexample"
        elif hashlib.sha256(plain(found.where / name, LARGEST_STREAM)).hexdigest() != shows.stream:
            yield f"{shown(name)} is another stream than the counterexample's"


def _files(found: Presented) -> Iterator[str]:
    """Files of the folder that are others than the certificate names, or not there, or that it does not name."""
    stated = found.certificate.files
    there = [*([PAGE] if PAGE in found.views else []), *found.replays]
    for name in there:
        data = found.views[PAGE] if name == PAGE else plain(found.where / name, LARGEST_STREAM)
        if name not in stated:
            yield f"{shown(name)} is not among the certificate's files: added"
        elif hashlib.sha256(data).hexdigest() != stated[name]:
            yield f"{shown(name)} is not the file that the certificate names: changed"
    for name in stated:
        if name not in there:
            yield f"{shown(name)} is missing: a file of the certificate"


def _channels(certificate: Certificate) -> tuple[dict[str, Channel], list[str]]:
    """The channels of the corpus by their names, and what is wrong with them."""
    found, wrong = {}, []
    for name in certificate.corpus.channels:
        try:
            channel = parse(name)
        except ChannelError as error:
            wrong.append(f"channel {shown(name)!r} of the corpus: {shown(error, 200)}")
            continue
        if str(channel) != name:
            wrong.append(f"channel {shown(name)!r} of the corpus is spelt {channel}")
        found[name] = channel
    if len(set(certificate.corpus.channels)) != len(certificate.corpus.channels):
        wrong.append("the corpus has a channel twice")
    if len({image.name for image in certificate.corpus.images}) != len(certificate.corpus.images):
        wrong.append("the corpus has two images of one name")
    return found, wrong


def _root(certificate: Certificate, rows: Sequence[TrialRow]) -> Iterator[str]:
    if len(rows) != certificate.trials_count:
        some = "missing" if len(rows) < certificate.trials_count else "too many"
        gap = abs(certificate.trials_count - len(rows))
        yield f"{gap} row{'s' if gap > 1 else ''} {some}: {len(rows)} of {certificate.trials_count} trials are there"
    try:
        ordered = trials.ordered(rows, certificate.corpus.channels)
    except CertificateError as error:
        yield shown(error, 300)
        return
    if ordered != tuple(rows):
        yield "the rows stand in another order than a certificate's"
    try:
        root = trials.root(rows)
    except CertificateError:
        yield "a row has a number or a text that no certificate holds: it has no canonical form"
        return
    if root != certificate.trials_root:
        yield "the rows are not those that the certificate was made of: another Merkle root"


def _rows(certificate: Certificate, rows: Sequence[TrialRow]) -> list[str]:
    """What is wrong with single rows, the first few of each kind."""
    images = {image.name: image for image in certificate.corpus.images}
    faults: dict[str, list[str]] = {}
    rounds: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for fault in _row(certificate, row, images.get(row.image)):
            faults.setdefault(fault, []).append(f"{row.channel}, {row.image}, trial {row.number}")
        # Sorted by number: the next one of its image must be the number of those before.
        if row.number != rounds[row.channel, row.image]:
            faults.setdefault("a trial before it is missing", []).append(
                f"{row.channel}, {row.image}, trial {row.number}"
            )
        rounds[row.channel, row.image] += 1
    wrong = [f"{fault}: {_some(where)}" for fault, where in faults.items()]
    for channel in certificate.corpus.channels:
        counts = {name: rounds[channel, name] for name in images}
        if len(set(counts.values())) > 1:
            least = min(counts, key=lambda name: counts[name])
            wrong.append(f"a row is missing: {shown(channel)} has fewer trials of {shown(least)} than of other images")
    if rows and max(rounds.values()) > certificate.corpus.rounds:
        wrong.append(f"more trials of an image than the corpus allows: {max(rounds.values())}")
    return wrong


def _row(certificate: Certificate, row: TrialRow, image: Photograph | None) -> Iterator[str]:
    if image is None:
        yield "a trial of an image that is not in the corpus"
        return
    if row.seed != certificate.corpus.seed:
        yield f"a row from another seed than {certificate.corpus.seed}"
    if not 0 <= row.number < _MOST_ROUNDS or row.flips < 0:
        yield "a row with a negative or a senseless number"
    try:
        outcome = Outcome(row.outcome)
    except ValueError:
        yield "an outcome that there is not"
        return
    numbers = (row.quality, row.drop, row.pixels)
    if any((value is not None) != outcome.has_image for value in numbers):
        yield f"a row of outcome {outcome} with the figures of another"
        return
    if row.tolerated and outcome is not Outcome.DEGRADED:
        yield f"a row of outcome {outcome} whose pixels are said to be within the tolerance"
    if (row.failure is not None) != outcome.failure:
        yield f"a row of outcome {outcome} with another's failure"
    if outcome.has_image and (row.pixels == image.pixels) != (outcome is Outcome.INTACT):
        yield f"a row of outcome {outcome} whose pixels say otherwise"
    if row.stream == image.stream and outcome is not Outcome.INTACT:
        yield "a row with the clean stream, which is not intact"
    if row.quality is not None and row.drop is not None:
        lost = image.quality - row.quality if certificate.higher_is_better else row.quality - image.quality
        if not _close(lost, row.drop):
            yield "a row whose drop is not the clean quality less its own"


def _tolerated(certificate: Certificate, rows: Sequence[TrialRow]) -> Iterator[str]:
    """Rows whose pixels are said to be within the codec's tolerance, and whose PSNR is not; of other metrics nothing
    follows."""
    tolerance = certificate.tolerance
    if not 0 <= tolerance.mean <= tolerance.maximum <= 255:
        yield f"the tolerance is {tolerance.maximum:g} at worst and {tolerance.mean:g} on average, which is none"
    elif certificate.metric == "psnr":
        clean = {image.name: image.quality for image in certificate.corpus.images}
        strays = [
            f"{row.channel}, {row.image}, trial {row.number}"
            for row in rows
            if row.tolerated and row.quality is not None and row.image in clean
            for least, most in [allowed("psnr", clean[row.image], (tolerance.maximum, tolerance.mean))]
            if not least - _CLOSE <= row.quality <= most + _CLOSE
        ]
        if strays:
            yield f"a row within the tolerance whose quality is beyond it: {_some(strays)}"


def _some(where: Sequence[str]) -> str:
    more = f" and {len(where) - _NAMED} more" if len(where) > _NAMED else ""
    return shown("; ".join(where[:_NAMED]), 300) + more


def _trial(certificate: Certificate, row: TrialRow, channel: Channel) -> Trial:
    """The trial that a row tells of; what no judgement needs is left out."""
    metric = certificate.metric
    return Trial(
        certificate.codec,
        row.image,
        channel,
        row.number,
        row.seed,
        ErrorPattern(0),
        Outcome(row.outcome),
        0.0,
        0.0,
        {} if row.quality is None else {metric: row.quality},
        {} if row.drop is None else {metric: row.drop},
    )


def _outcomes(certificate: Certificate, rows: Sequence[TrialRow], channels: Mapping[str, Channel]) -> Iterator[str]:
    """What the table of channels says, and the rows don't."""
    clean = {image.name: image.stream for image in certificate.corpus.images}
    if [result.channel for result in certificate.channels] != [
        c for c in channels if any(r.channel == c for r in rows)
    ]:
        yield "the channels' results are of other channels than the trials"
        return
    for result in certificate.channels:
        here = [row for row in rows if row.channel == result.channel]
        qualities = [row.quality for row in here if row.quality is not None]
        drops = [row.drop for row in here if row.drop is not None]
        counts = Counter(row.outcome for row in here)
        channel = channels[result.channel]
        said = {outcome: number for outcome, number in result.outcomes.items() if number}
        for name, stated, true in (
            ("outcomes", said, dict(counts)),
            ("kind", result.kind, channel.kind),
            ("severity", result.severity, channel.severity),
            ("harmless", result.harmless, sum(row.stream == clean[row.image] for row in here)),
            ("silent", result.silent, counts[Outcome.DEGRADED] - sum(row.tolerated for row in here)),
            ("mean_drop", result.mean_drop, float(np.mean(drops)) if drops else None),
            ("quality", result.quality, float(np.mean(qualities)) if qualities else None),
        ):
            if not _same(stated, true):
                yield f"{result.channel}: {name} is {shown(stated)}, and from the trials {shown(true)}"


def _drawn(certificate: Certificate, rows: Sequence[TrialRow], channels: Mapping[str, Channel]) -> list[str]:
    """Rows whose damage is not what their codec, image, number and seed draw: another seed's, chosen for its luck.

    How many bits flip shows that without the codec. Of channels that need a stream's layout nothing is known here, and
    only so much is drawn as takes no time.
    """
    bits = {image.name: 8 * image.stream_bytes for image in certificate.corpus.images}
    strays, spent = [], 0
    for row in random.sample(rows, len(rows)):
        long = bits[row.image]
        if not 0 <= long <= _LONGEST_DRAWN or spent + long > _MOST_DRAWN:
            continue
        spent += long
        try:
            pattern = channels[row.channel].draw(
                long, codec=certificate.codec, image=row.image, trial=row.number, seed=row.seed
            )
        except ChannelError:
            continue
        if len(pattern.flips) != row.flips:
            strays.append((row.channel, row.image, row.number))
    named = [f"{channel}, {image}, trial {number}" for channel, image, number in sorted(strays)]
    return [f"a row with other damage than its seed draws: {_some(named)}"] if named else []


def _without_rows(certificate: Certificate) -> Iterator[str]:
    proved = any(one.highest is not None for one in certificate.certified_severities)
    if certificate.channels or certificate.assessments or certificate.error_rates or proved:
        yield "figures of trials, and there are no trials"
    if certificate.certified:
        yield "certified, and there are no trials"


def _by_channel(
    certificate: Certificate, rows: Sequence[TrialRow], channels: Mapping[str, Channel]
) -> dict[Channel, list[Trial]]:
    """The trials as they were run: a round's images side by side, in the order of their shapes."""
    names = _names(certificate)
    place = {name: at for at, name in enumerate(names)}
    found: dict[Channel, list[Trial]] = {channel: [] for channel in channels.values()}
    for row in sorted(rows, key=lambda row: (place[row.image], row.number)):
        channel = channels[row.channel]
        found[channel].append(_trial(certificate, row, channel))
    return found


def _names(certificate: Certificate) -> list[str]:
    return [image.name for image in sorted(certificate.corpus.images, key=lambda i: (i.height, i.width))]


def _judged(certificate: Certificate, promised: Profile, tried: Mapping[Channel, Sequence[Trial]]) -> list[str]:
    """Assessments, certified severities and error rates that the trials don't come to."""
    names = _names(certificate)
    mine = {promise.channel: tried.get(promise.channel, []) for promise in promised.promises}
    most = certificate.corpus.rounds * len(names)
    if certificate.corpus.effort in EFFORTS:
        most = max(most, EFFORTS[certificate.corpus.effort].trials)
    rule = Rule.of(promised, most)
    found = assess.assess(promised, mine, names, certificate.metric, rule)
    true = [collect.assessed(one, len(names)) for one in found]
    stated = [(one.quantity, one.severity) for one in certificate.assessments]
    if stated != [(one.quantity, one.severity) for one in true]:
        return ["the assessments are of other promises than the profile's"]
    wrong: list[str] = []
    for said, is_so in zip(certificate.assessments, true, strict=True):
        wrong += _differing(f"{said.quantity} of {said.severity}", said, is_so)
    severities = list(collect.certified(mine, found))
    if [one.ladder for one in certificate.certified_severities] != [one.ladder for one in severities]:
        wrong.append("the certified severities are of other channels than the profile's")
    else:
        for severity, other in zip(certificate.certified_severities, severities, strict=True):
            wrong += _differing(f"certified severity of {severity.ladder}", severity, other)
    if certificate.error_rates and _simulated(certificate) <= _MOST_SIMULATED:
        rates: Sequence[ErrorRate] = power.rates(
            promised, mine, certificate.metric, rule, rounds=certificate.corpus.rounds
        )
        claims = states(statement.finding(certificate, line) for line in certificate.lines)
        if claims.get(_RECORDED) not in (None, Verdict.SKIPPED):
            rates = power.compared(rates)
        if [rate.what for rate in certificate.error_rates] != [rate.what for rate in rates]:
            wrong.append("the error rates are of other things than this robustkit's")
        else:
            for rate, again in zip(certificate.error_rates, rates, strict=True):
                wrong += _differing(f"error rate, {rate.what}", rate, again)
    return wrong


def _simulated(certificate: Certificate) -> int:
    """How many trials the error rates take to simulate."""
    return certificate.corpus.rounds * len(certificate.corpus.images) * power.RUNS


def _differing(what: str, stated: Any, true: Any) -> Iterator[str]:
    """The fields in which two records differ, by name."""
    for one in fields(stated):
        said, is_so = getattr(stated, one.name), getattr(true, one.name)
        if not _same(said, is_so):
            yield f"{shown(what, 120)}: {one.name} is {shown(said)}, and from the trials {shown(is_so)}"


def _views(found: Presented) -> list[str]:
    """Files for people that are others than this robustkit makes of the certificate."""
    certificate = found.certificate
    made: dict[str, Callable[[], bytes]] = {
        SUMMARY: lambda: summary.render(certificate).encode("utf-8", "replace"),
        BADGE: lambda: badge.svg(certificate).encode("utf-8", "replace"),
        ENDPOINT: lambda: (json.dumps(badge.endpoint(certificate), indent=1) + "\n").encode(),
    }
    return [name for name, make in made.items() if name in found.views and found.views[name] != make()]


def _unchecked(found: Presented) -> Iterator[str]:
    """What could not be checked, or is not there, as notes."""
    page = found.views.get(PAGE)
    if page is not None and hashlib.sha256(page).hexdigest() == found.certificate.files.get(PAGE):
        yield f"not checked: what {PAGE} shows; it is the file that the certificate names"
    if found.certificate.lock.registered:
        yield f"not checked: what was written down before the run: {shown(found.certificate.lock.said, 200)}"
    if found.certificate.error_rates and _simulated(found.certificate) > _MOST_SIMULATED:
        yield "not checked: the error rates, which would take too long to simulate"


def _same(stated: object, true: object) -> bool:
    if isinstance(stated, float) and isinstance(true, int | float):
        return _close(stated, float(true))
    return stated == true


def _close(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=_CLOSE, abs_tol=_CLOSE)
