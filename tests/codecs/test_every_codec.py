"""What holds for every codec that can run here: its profile is tight, and a thousand damaged streams do no harm."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import suites

from robustkit import Promise, channels, registry
from robustkit.images import photographs
from robustkit.isolation import CodecWorkers
from robustkit.judging.finding import NOT_PROVED

CONFORMANCE = str(suites.CONFORMANCE)
CLASSICAL = ("avif", "bpg", "heic", "jpeg", "jpeg-restart", "jpeg-xl", "jpeg2000", "png", "webp")
#: PNG and JPEG XL refuse nearly all damaged streams, which leaves no loss to tighten.
LOSING = (*(name for name in CLASSICAL if name not in ("png", "jpeg-xl")), "hyperprior-small-hardened")


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSING)
def test_a_profile_tighter_by_a_fifth_fails(name: str, pytester: pytest.Pytester) -> None:
    # In a worker: pytester forgets what is imported meanwhile, and torch can't be imported twice.
    with CodecWorkers(registry.get(name).spec(), directory=pytester.path / "streams") as workers:
        profile = workers.profile()
    assert profile is not None
    tighter = replace(
        profile,
        promises=tuple(
            Promise(p.channel, mean_drop=0.8 * p.mean_drop, p5_drop=0.8 * p.p5_drop, corrupted=0.8 * p.corrupted)
            for p in profile.promises
        ),
        refused=0.8 * profile.refused,
        expected_refused=None,
    )
    file = pytester.makefile(".toml", promises=tighter.to_toml())
    damage = ("-k", "clean or degrades or corrupted or refused")
    options = (*damage, "--robustkit-profile", str(file), "--robustkit-unproved=fail")
    result = pytester.runpytest_subprocess(CONFORMANCE, "--codec", name, *options)
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, NOT_PROVED)
    # Some are beyond the tighter limits, others not far enough within.
    assert re.search(rf"^{name}: (does not conform|not proved): ", result.stdout.str(), re.MULTILINE)
    result.stdout.no_fnmatch_line("*FAILED *test_clean*")


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSICAL)
def test_a_thousand_damaged_streams_of_512x512_lose_no_trial_and_no_memory(name: str, tmp_path: Path) -> None:
    image = np.tile(photographs(crop=256)["coffee"], (2, 2, 1))
    damage = [
        channels.parse(text)
        for text in ("bsc(ber=1e-5)", "bsc(ber=1e-4)", "burst(length=32)", "header-burst(length=8)")
    ]
    resident = []
    with CodecWorkers(registry.get(name).spec(), directory=tmp_path) as workers:
        stream = workers.encode(image)
        layout = workers.layout(stream)
        (pid,) = workers.pids
        for hundred in range(10):
            patterns = [
                damage[n % 4].sample(layout.bits, channels.generator(name, "coffee", "soak", 100 * hundred + n), layout)
                for n in range(100)
            ]
            decoded = workers.decode_many([p.apply(stream) for p in patterns], shape=(512, 512))
            assert len(decoded) == 100
            assert not [d.message for d in decoded if d.outcome is not None and d.outcome.failure]
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            resident.append(pages * 4096 / 2**20)
        assert workers.pids == (pid,)
    # The first hundred may still fill caches.
    assert max(resident[1:]) < resident[0] + 32, resident
    until = time.monotonic() + 15
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert not list(tmp_path.iterdir())
