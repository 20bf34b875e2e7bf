"""The regression check: a codec's seeded trials beside those that were recorded with its golden files."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from robustkit.channels import Channel, parse
from robustkit.judging import golden_drops, regression
from robustkit.judging.golden_drops import Drops
from robustkit.judging.golden_files import DROPS, GoldenError
from robustkit.judging.regression import Change
from robustkit.judging.subject import Subject
from robustkit.judging.trial import Trial
from robustkit.plugin.claim import Claim
from robustkit.plugin.golden_check import GoldenCheck

#: Differences that a message names.
_NAMED = 5


def check_drops(subject: Subject, golden: GoldenCheck, claim: Claim) -> None:
    """Compare with the golden drops; while updating, record them and fail.

    Where the streams are the same, the damage is that recorded, whatever seed the run's own trials have. Trials go on
    beyond those of the promises only where something differs, and only as long as the effort's searches.
    """
    if golden.updating:
        _record(subject, golden)
    before = _recorded(subject, golden)
    here = golden_drops.measured(subject, {}, golden.settings, before.seed)
    seed = before.seed if regression.paired(before, here) else subject.seed
    first = golden_drops.at_first(before.each, subject.trials_per_image)
    trials = _run(subject, before, first, seed)
    now = golden_drops.measured(subject, trials, golden.settings, seed)
    if not regression.unchanged(before, now):
        more = min(before.each, golden_drops.affordable(subject, subject.effort.seconds))
        trials = _run(subject, before, max(first, more), seed)
        now = golden_drops.measured(subject, trials, golden.settings, seed)
    changes = regression.compare(before, now)
    if not changes:
        pytest.skip("no trial hit a stream, before or now")
    for change in changes:
        _say(change, before, now, trials, golden, claim)
    # A codec with a wider tolerance may rightly give another picture on a machine that looks the same from here.
    if subject.rounds_as_usual:
        _say_ruined(before, now, trials, golden, claim)


def _say(
    change: Change,
    before: Drops,
    now: Drops,
    trials: Mapping[Channel, list[Trial]],
    golden: GoldenCheck,
    claim: Claim,
) -> None:
    allowed = regression.margin(now.metric)
    if change.paired:
        way = f"pairs, {change.moved or 'none'} differ{'s' * (change.moved in (0, 1))}"
    else:
        way = "trials, of other streams or another seed"
    measured = f"mean drop {change.before:.2f}, now {change.now:.2f} ({change.trials} {way})"
    declared = f"no rise beyond {allowed:g}"
    numbers = {
        "before": change.before,
        "now": change.now,
        "margin": allowed,
        "chance": change.chance,
        "trials": float(change.trials),
        "paired": float(change.paired),
        **({} if change.moved is None else {"moved": float(change.moved)}),
    }
    if not change.worse:
        claim.kept(measured, declared, severity=change.channel, numbers=numbers)
        return
    why = [f"by chance in {max(change.chance, 1e-9):.1%} of runs at most, all channels together"]
    if not change.paired:
        why.append("image by image, because streams or the seed are others than those recorded; small losses may")
        why.append("have become more frequent without moving the mean by much")
    why += list(regression.differing(before, now))[:_NAMED]
    last = None
    if change.worst is not None:
        why.append(_trial_said(change.worst, before, now))
        last = claim.replay_trial(_trial(change.worst, trials))
    why.append(f"if the change is meant: {golden.command}")
    claim.broken(measured, declared, severity=change.channel, why=why, last=last, numbers=numbers)


def _say_ruined(
    before: Drops, now: Drops, trials: Mapping[Channel, list[Trial]], golden: GoldenCheck, claim: Claim
) -> None:
    """Where the machine is the one that recorded: trials that lose far more, however many others lose less."""
    found, looked = regression.ruined(before, now)
    if not looked:
        return
    measured = f"{len(found) or 'none'} of {looked} pairs {'loses' if len(found) == 1 else 'lose'} much more"
    limit = regression.ruin(now.metric)
    declared = f"fewer than {regression.RUINED} that lose {limit:g} more, or give no image any more"
    numbers = {"ruined": float(len(found)), "trials": float(looked), "ruin": limit}
    if len(found) < regression.RUINED:
        claim.kept(measured, declared, severity="single trials", numbers=numbers)
        return
    why = ["streams, damage and versions are those recorded: the decoder is another one, or desynchronises here"]
    why += [_trial_said(where, before, now) for where in found[:_NAMED]]
    why.append(f"if the change is meant: {golden.command}")
    last = claim.replay_trial(_trial(found[0], trials))
    claim.broken(measured, declared, severity="single trials", why=why, last=last, numbers=numbers)


def _trial(where: tuple[str, str, int], trials: Mapping[Channel, list[Trial]]) -> Trial:
    channel, image, number = where
    return next(t for t in trials[parse(channel)] if (t.image, t.number) == (image, number))


def _trial_said(where: tuple[str, str, int], before: Drops, now: Drops) -> str:
    channel, image, number = where
    old, new = (_said(side.losses[parse(channel)][image][number]) for side in (before, now))
    return f"photograph {image}, trial {number} of {channel}: {old}, now {new}"


def _said(loss: golden_drops.Loss) -> str:
    return f"{loss:.2f} lost" if isinstance(loss, float) else "unharmed" if loss is None else str(loss)


def _run(subject: Subject, before: Drops, least: int, seed: int) -> dict[Channel, list[Trial]]:
    """The trials of the channels that are promised and were recorded."""
    assert subject.profile is not None
    channels = [p.channel for p in subject.profile.promises if p.channel in before.losses]
    return {channel: golden_drops.trials_of(subject, channel, least, seed) for channel in channels}


def _recorded(subject: Subject, golden: GoldenCheck) -> Drops:
    """What was recorded, if it is of this codec as it is examined here."""
    where = "" if golden.given or golden.kept else " --robustkit-golden-dir DIR"
    how = f"record them: {golden.command}{where}"
    if not (golden.shipped or golden.given):
        pytest.skip(f"no golden drops of {subject.own_name}; {how}")
    try:
        before = golden_drops.read(golden.path)
    except GoldenError as error:
        pytest.fail(f"golden drops: {error}; {how}", pytrace=False)
    if before is None:
        pytest.skip(f"no golden drops of {subject.own_name}; {how}")
    if dict(before.settings) != golden.settings:
        given = ", ".join(f"{k}={v!r}" for k, v in before.settings.items()) or "the default settings"
        pytest.skip(f"the golden drops are of {given}")
    if before.metric != subject.metric:
        pytest.skip(f"the golden drops are in {before.metric}, not in {subject.metric}")
    assert subject.profile is not None
    if not any(promise.channel in before.losses for promise in subject.profile.promises):
        pytest.skip(f"none of the promised channels was recorded; {how}")
    now = golden_drops.measured(subject, {}, golden.settings)
    if not regression.common(before, now):
        pytest.skip("the golden drops are of other images")
    return before


def _record(subject: Subject, golden: GoldenCheck) -> None:
    golden.check_place()
    assert subject.profile is not None
    each = golden_drops.affordable(subject, golden_drops.SECONDS)
    trials = {p.channel: golden_drops.trials_of(subject, p.channel, each) for p in subject.profile.promises}
    broken = next((t for found in trials.values() for t in found if t.outcome.failure), None)
    if broken is not None:
        where = f"photograph {broken.image}, trial {broken.number} of {broken.channel}"
        pytest.fail(f"{subject.name}: no drops recorded: {where} was {broken.outcome}; mend it first", pytrace=False)
    golden_drops.write(golden.path, golden_drops.measured(subject, trials, golden.settings))
    pytest.fail(f"golden drops rewritten in {golden.path / DROPS}: review and run again", pytrace=False)
