"""Where chunks are run: here, in processes of this machine, or on a cluster of dask.distributed's.

Each takes chunks while it has a place for them, and tells what came of one as soon as one is done.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import queue
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from robustkit.errors import RobustkitError
from robustkit.experiments import run
from robustkit.experiments.tasks import Chunk, Report
from robustkit.extras import missing

#: So often is a chunk run that a process died of before it counts as failed.
ATTEMPTS = 3
#: Chunks that wait at a thread of a cluster's, so that it need not wait for one.
_AHEAD = 2


class BackendError(RobustkitError, RuntimeError):
    """Chunks can't be run there; the message says why."""


class Backend(ABC):
    """Where chunks are run.

    Args:
        folder: of the experiment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abstractmethod
    def places(self) -> int:
        """How many chunks it takes at a time."""

    @property
    @abstractmethod
    def running(self) -> list[Chunk]:
        """The chunks that it has taken and told nothing of."""

    @abstractmethod
    def submit(self, chunk: Chunk) -> None:
        """Take a chunk."""

    @abstractmethod
    def wait(self) -> tuple[Chunk, Report]:
        """A chunk that is done, and what came of it."""

    @abstractmethod
    def close(self) -> None:
        """End all that runs."""


class Here(Backend):
    """This process, one chunk after another."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._chunks: list[Chunk] = []

    @property
    def places(self) -> int:
        return 1

    @property
    def running(self) -> list[Chunk]:
        return list(self._chunks)

    def submit(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)

    def wait(self) -> tuple[Chunk, Report]:
        chunk = self._chunks[0]
        report = Report.from_json(run.run_chunk(str(self.folder), chunk.to_json()))
        self._chunks.pop(0)
        return chunk, report

    def close(self) -> None:
        run.close_benches()


class _Runner:
    """A process that runs chunks."""

    def __init__(self, folder: Path, number: int, answers: queue.SimpleQueue[tuple[_Runner, str | None]]) -> None:
        self.chunk: Chunk | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-c", _start(), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_device(number)},
            # Ctrl-C is for the process that started it, which ends it then.
            start_new_session=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._listen, args=(answers,), daemon=True).start()

    def _listen(self, answers: queue.SimpleQueue[tuple[_Runner, str | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answers.put((self, line))
        answers.put((self, None))

    def give(self, chunk: Chunk) -> None:
        assert self.process.stdin is not None
        self.chunk = chunk
        # A process that died says so to whoever waits for its answer.
        with contextlib.suppress(OSError):
            self.process.stdin.write(chunk.to_json() + "\n")
            self.process.stdin.flush()

    def close(self) -> None:
        if self.chunk is not None:
            self.process.kill()
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None


def _start() -> str:
    path = [entry or os.getcwd() for entry in sys.path]
    return f"import sys\nsys.path[:] = {path!r}\nfrom robustkit.experiments.run import main\nmain()"


def _device(number: int) -> dict[str, str]:
    """Which GPU a process sees, where there are several."""
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        known = [device.strip() for device in given.split(",") if device.strip()]
    else:
        folder = Path("/proc/driver/nvidia/gpus")
        known = [str(at) for at, _ in enumerate(folder.iterdir())] if folder.is_dir() else []
    return {"CUDA_VISIBLE_DEVICES": known[number % len(known)]} if len(known) > 1 else {}


class Processes(Backend):
    """Processes of this machine; one that dies is replaced, and its chunk run again.

    Args:
        folder: of the experiment.
        jobs: how many.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        super().__init__(folder)
        self._answers: queue.SimpleQueue[tuple[_Runner, str | None]] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._jobs = jobs
        self._runners: list[_Runner] = []
        self._deaths: dict[str, int] = {}

    @property
    def places(self) -> int:
        return self._jobs

    @property
    def running(self) -> list[Chunk]:
        return [runner.chunk for runner in self._runners if runner.chunk is not None]

    def submit(self, chunk: Chunk) -> None:
        idle = [runner for runner in self._runners if runner.chunk is None]
        if not idle:
            idle = [_Runner(self.folder, next(self._numbers), self._answers)]
            self._runners += idle
        idle[0].give(chunk)

    def wait(self) -> tuple[Chunk, Report]:
        while True:
            runner, line = self._answers.get()
            if runner not in self._runners:
                continue
            chunk, runner.chunk = runner.chunk, None
            if line is not None and chunk is not None:
                return chunk, Report.from_json(line)
            self._runners.remove(runner)
            runner.close()
            if chunk is None:
                continue
            self._deaths[chunk.name] = self._deaths.get(chunk.name, 0) + 1
            if self._deaths[chunk.name] >= ATTEMPTS:
                status = runner.process.returncode
                return chunk, Report(error=f"{ATTEMPTS} processes died of it, the last with status {status}")
            self.submit(chunk)

    def close(self) -> None:
        for runner in self._runners:
            runner.close()
        self._runners.clear()


class Dask(Backend):
    """A cluster of dask.distributed's, whose workers see the experiment's folder under the same path.

    Args:
        folder: of the experiment.
        address: of the scheduler, ``tcp://host:8786``.

    Raises:
        BackendError: dask is not installed, nobody answers there, or a worker doesn't see the folder.
    """

    def __init__(self, folder: Path, address: str) -> None:
        super().__init__(folder)
        if lacking := missing("distributed", "dask"):
            raise BackendError(f"--scheduler {address}: {lacking}")
        distributed: Any = importlib.import_module("distributed")
        try:
            self._client: Any = distributed.Client(address, timeout="20s", set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise BackendError(f"--scheduler {address}: no scheduler of dask's answers there: {error}") from error
        self._futures: dict[Any, Chunk] = {}
        self._numbers = itertools.count()
        try:
            seen = self._client.run(os.path.isdir, str(folder))
        except Exception:
            self._client.close()
            raise
        if blind := [worker for worker, there in seen.items() if not there]:
            self._client.close()
            raise BackendError(f"--scheduler {address}: worker {blind[0]} does not see {folder}: give a shared folder")

    @property
    def places(self) -> int:
        # Workers come and go; with none, chunks wait for the first.
        threads: int = sum(self._client.nthreads().values())
        return max(1, _AHEAD * threads)

    @property
    def running(self) -> list[Chunk]:
        return list(self._futures.values())

    def submit(self, chunk: Chunk) -> None:
        key = f"robustkit-{chunk.name}-{next(self._numbers)}"
        text = chunk.to_json()
        self._futures[self._client.submit(run.run_chunk, str(self.folder), text, key=key, pure=False)] = chunk

    def wait(self) -> tuple[Chunk, Report]:
        distributed: Any = importlib.import_module("distributed")
        with self._client.as_current():
            done, _ = distributed.wait(list(self._futures), return_when="FIRST_COMPLETED")
        future = next(iter(done))
        chunk = self._futures.pop(future)
        if future.status == "finished":
            return chunk, Report.from_json(future.result())
        return chunk, Report(error=f"dask gave it up: {future.exception()}")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._client.cancel(list(self._futures))
            if not self._futures:
                self._client.run(run.close_benches)
        self._client.close()
