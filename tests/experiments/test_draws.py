"""The published channel in a sweep: each trial has its place in one stream of random numbers for a whole run."""

import numpy as np
import pytest

from robustkit.channels import ChannelError
from robustkit.experiments import draws, identity, pictures, plan, publisheddraws, run, store, sweep
from robustkit.experiments.draws import Draws, PublishedBSC

SIZES = {"1.png": 900, "2.png": 1100}
BERS = [1e-3, 1e-2]


def test_a_trial_s_flips_are_those_of_the_run_in_order(tmp_path):
    path = draws.draw(tmp_path, SIZES, BERS, 3)
    assert draws.draw(tmp_path, SIZES, BERS, 3) == path
    assert not list(tmp_path.glob("*.tmp"))
    found, names = Draws(path), list(SIZES)
    for level, trial, image, flips in publisheddraws.flips(list(SIZES.values()), BERS, 3):
        bits = 8 * SIZES[names[image]]
        channel = PublishedBSC(BERS[level], found)
        drawn = channel.draw(bits, codec="any", image=names[image], trial=trial, seed=77)
        assert drawn == publisheddraws.pattern(flips, bits)
    # The first numbers of the legacy stream, counted from a byte's lowest bit.
    first = np.random.RandomState(123).random_sample(7200) < BERS[0]
    drawn = np.unpackbits(np.packbits(first, bitorder="little")).nonzero()[0]
    assert np.array_equal(found.pattern(BERS[0], 0, "1.png", 7200).flips, drawn)


def test_another_size_or_a_trial_of_no_run_is_an_error(tmp_path):
    found = Draws(draws.draw(tmp_path, SIZES, BERS, 3))
    with pytest.raises(ChannelError, match="has 901 bytes, and had 900"):
        found.pattern(1e-3, 0, "1.png", 8 * 901)
    for ber, trial, image in ((1e-3, 3, "1.png"), (1e-4, 0, "1.png"), (1e-3, 0, "3.png")):
        with pytest.raises(ChannelError, match="none of this run's"):
            found.pattern(ber, trial, image, 7200)


def test_a_sweep_over_the_published_channel_draws_from_the_sizes_of_its_streams(tmp_path):
    said = {"codecs": ["jpeg"], "channels": ["published-bsc"], "bers": BERS, "trials": 2, "crop": 64}
    wanted = plan.make(said)
    found, _ = identity.examine(wanted, pictures.find(wanted.images, 64)[:3])
    folder = tmp_path / "rows"
    ended = sweep.sweep(folder, sweep.begin(folder, found), wanted)
    assert (ended.done, ended.given_up) == (3 * (1 + 2 * 2), {})
    rows = store.read(folder).to_pylist()
    sizes = {row["image"]: row["stream_bytes"] for row in rows if row["trial"] < 0}
    names = [picture.name for picture in found.pictures]
    counts = {
        (f"published-bsc(ber={BERS[level]})", trial, names[image]): len(flips)
        for level, trial, image, flips in publisheddraws.flips([sizes[name] for name in names], BERS, 2)
    }
    trials = [row for row in rows if row["trial"] >= 0]
    assert {(row["channel"], row["trial"], row["image"]): row["flips"] for row in trials} == counts
    assert {(row["kind"], row["seed"]) for row in trials} == {("published-bsc", 123)}
    assert len(list((folder / run.DRAWS).glob("*.json"))) == 1
    # Another number of trials is another run, with other damage.
    more = plan.make({**said, "trials": 3})
    with pytest.raises(identity.ExperimentError, match="published run"):
        sweep.begin(folder, identity.Experiment(**{**found.__dict__, "plan": more}))
