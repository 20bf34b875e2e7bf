"""Chunks on a cluster of dask.distributed's: a real scheduler, and real workers of which one is killed midway."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from robustkit.experiments import backends, identity, pictures, plan, rows, store, sweep
from robustkit.images import photographs

pytestmark = pytest.mark.slow
SAID = {"codecs": ["jpeg"], "channels": ["bsc"], "bers": [1e-4, 1e-3, 1e-2], "trials": 20}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Address of a scheduler, and two worker processes without nannies: who kills one has killed it."""
    # Nothing that dask would ask of a network, and no settings of a user's.
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path / "dask"), "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, started = f"tcp://127.0.0.1:{port}", []

    def start(module, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        started.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL))
        return started[-1]

    try:
        start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        quiet = ("--no-nanny", "--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1", "--death-timeout", "60")
        workers = [start("dask_worker", address, *quiet) for _ in range(2)]
        yield address, workers
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def examined(folder):
    for name, image in list(photographs(64).items())[:2]:
        PillowImage.fromarray(image).save(folder / f"{name}.png")
    wanted = plan.make({**SAID, "images": str(folder)})
    return wanted, identity.examine(wanted, pictures.find(wanted.images, None))[0]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_is_killed_loses_no_row_and_doubles_none(cluster, tmp_path, monkeypatch):
    address, workers = cluster
    (tmp_path / "images").mkdir()
    wanted, found = examined(tmp_path / "images")
    here, there = tmp_path / "here", tmp_path / "there"
    sweep.sweep(here, sweep.begin(here, found), wanted)
    # Small chunks, so that there is a middle.
    monkeypatch.setattr("robustkit.experiments.scheduler.SECONDS", 0.02)
    killed = []

    def tell(progress):
        if progress.written and not killed:
            workers[0].send_signal(signal.SIGKILL)
            killed.append(progress.done)

    ended = sweep.sweep(there, sweep.begin(there, found), wanted, scheduler=address, tell=tell)
    total = 2 * (1 + 3 * 20)
    assert killed
    assert killed[0] < total
    assert (ended.done, ended.failed, ended.given_up) == (total, {}, {})
    assert workers[0].wait(timeout=10) == -signal.SIGKILL
    one, two = (rows.without_timings(store.read(folder)) for folder in (here, there))
    assert two.equals(one)
    # No row twice, in whichever part.
    assert sum(store._part(path).num_rows for path in store.parts(there)) == total
    store.write_compacted(here / "whole", store.read(here))
    store.write_compacted(there / "whole", store.read(there))
    assert (here / "whole" / store.ROWS).read_bytes() == (there / "whole" / store.ROWS).read_bytes()


def test_where_no_scheduler_answers_is_said(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "Client", _refuses)
    with pytest.raises(backends.BackendError, match="no scheduler of dask's answers there: nobody"):
        backends.Dask(Path(tmp_path), "tcp://127.0.0.1:9")


def _refuses(*_, **__):
    raise OSError("nobody")
