"""The processes in which a codec is judged: those that decode, and others that differ from them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from robustkit.codec import Codec
from robustkit.isolation import ARITHMETIC, CodecWorkers, Hook, Limits, WorkerError
from robustkit.isolation.limits import available, resident
from robustkit.isolation.workers import own_cores
from robustkit.judging import beforehand
from robustkit.judging.opinion import HERE, elsewhere
from robustkit.judging.waivers import Waiver, declared
from robustkit.registry import CodecSpec, CodecUnavailable

#: Most processes that decode side by side.
CROWD = 4
#: How many times the time limit a decode may take with few instructions and jittered results.
PATIENCE = 4


class Processes:
    """One codec's worker processes, and what they say of it.

    Args:
        spec: which codec, with which settings.
        directory: where streams are kept.
        limits: time and memory of one decode.
        workers: processes that decode.
    """

    def __init__(self, spec: CodecSpec, *, directory: Path, limits: Limits | None = None, workers: int = 1) -> None:
        self.spec = spec
        self.directory = directory
        self.limits = limits if limits is not None else Limits()
        self._worker_count = workers
        self._processes: list[CodecWorkers] = []
        self._elsewhere: tempfile.TemporaryDirectory[str] | None = None
        self._works_elsewhere = True
        self._crowded = False

    @property
    def name(self) -> str:
        """As it was asked for: ``--codec NAME``."""
        return self.spec.name

    @cached_property
    def own_name(self) -> str:
        """The codec's own name, which seeds its trials and names its golden folder."""
        return self.workers.attributes.name

    @property
    def device(self) -> str:
        """The device class that the codec computes on, as its worker sees it: "cpu", "cuda"."""
        return self.workers.attributes.device

    @cached_property
    def known_defects(self) -> Mapping[str, str]:
        """Where the codec's known defects are reported, by what :func:`robustkit.judging.waivers.declared` reads.

        Raises:
            ClaimError: a key is nothing of it; the message names the nearest.
        """
        return self.workers.attributes.known_defects if self.own_waivers else {}

    @cached_property
    def own_waivers(self) -> tuple[Waiver, ...]:
        """The known defects as waivers, which count for nothing unless whoever tests the codec accepts them.

        Raises:
            ClaimError: as :attr:`known_defects`.
        """
        return declared(self.name, self.workers.attributes.known_defects)

    @cached_property
    def workers(self) -> CodecWorkers:
        """The processes that decode."""
        return self.fresh_workers(workers=self._worker_count)

    def crowd(self) -> bool:
        """Put several processes in place of the one that decodes: they share the cores, each with threads of its own.

        Returns:
            Whether there are several now: not where their number or that of threads was chosen, where there is one
            core, or where memory has less than twice the room.
        """
        if self._worker_count > 1 or "OMP_NUM_THREADS" in os.environ or not self._fit(self.workers):
            return False
        self.workers.close()
        self.workers = self.fresh_workers(workers=_most())
        self._crowded = True
        return True

    def _fit(self, pool: CodecWorkers) -> bool:
        """Whether there are cores for several processes such as those of ``pool``, and twice the memory for them."""
        room, each = available(), max(map(resident, pool.pids), default=0)
        return _most() > 1 and not (room and room < 2 * _most() * each)

    @cached_property
    def elsewhere(self) -> CodecWorkers:
        """A process that differs from the others in all that decoding and encoding must not depend on.

        It works in another directory, unless the codec can't be loaded there. Where :meth:`crowd` has put several in
        place of the one that decodes, and there is room, there are as many of these, each with a share of the cores.
        """
        return self._elsewhere_pool(_most() if self._crowded and self._fit(self.workers) else 1)

    def _elsewhere_pool(self, workers: int) -> CodecWorkers:
        if self._elsewhere is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._elsewhere = tempfile.TemporaryDirectory(
                prefix="elsewhere-", dir=self.directory, ignore_cleanup_errors=True
            )
        if self._works_elsewhere:
            folder = Path(self._elsewhere.name)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                return self.fresh_workers(workers=workers, environment=elsewhere(), directory_of_work=folder)
            except (CodecUnavailable, WorkerError):
                self._works_elsewhere = False
        return self.fresh_workers(workers=workers, environment=elsewhere())

    def bare_elsewhere(self) -> CodecWorkers:
        """:attr:`elsewhere` anew, with none of the files that the processes before have put beside themselves.

        Those in its working directory are removed, if that is its own, and its temporary ones.
        """
        pool = self.elsewhere
        if self._elsewhere is not None and self._works_elsewhere:
            folder = Path(self._elsewhere.name)
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        pool.restart()
        return pool

    @cached_property
    def arithmetic(self) -> CodecWorkers:
        """A process on a CPU, with the fewest instructions, whose floating-point arithmetic can be changed."""
        return self.elsewhere_computing("default")

    def elsewhere_computing(self, place: str) -> CodecWorkers:
        """A process whose arithmetic can be changed: :data:`robustkit.isolation.ARITHMETIC`.

        Args:
            place: "default", "avx2" or "avx512", the instructions that it has; "cuda"; or "here", as they are.

        Raises:
            CodecUnavailable: the codec can't be loaded there.
        """
        from robustkit.judging.crossplatform import on_device, variables

        return self.fresh_workers(
            spec=self.spec if place == "here" else on_device(self.spec, "cuda" if place == "cuda" else "cpu"),
            limits=replace(self.limits, seconds=PATIENCE * self.limits.seconds),
            environment=HERE if place in ("cuda", "here") else {**HERE, **variables(place)},
            hook=ARITHMETIC,
        )

    @property
    def tolerance(self) -> tuple[float, float]:
        """How far the codec's pixels may lie apart between machines, in grey levels: at worst, on average."""
        return self.workers.attributes.tolerance

    @property
    def rounds_as_usual(self) -> bool:
        """Whether the codec's tolerance is that of rounding: no more than a codec has that says nothing of it."""
        return all(own <= usual for own, usual in zip(self.tolerance, Codec.tolerance, strict=True))

    def fresh_workers(
        self,
        *,
        workers: int = 1,
        limits: Limits | None = None,
        environment: Mapping[str, str] = HERE,
        directory_of_work: Path | None = None,
        spec: CodecSpec | None = None,
        hook: Hook | None = None,
    ) -> CodecWorkers:
        """Another pool of processes, sharing nothing with the others; closed with this object at the latest.

        Args:
            workers: how many.
            limits: time and memory of one decode, in place of the subject's.
            environment: variables on top of this process's.
            directory_of_work: where they work; by default here.
            spec: the codec with other settings.
            hook: what they run around each decode.

        Raises:
            CodecUnavailable: the codec can't be loaded; the message says why.
            WorkerError: it was loaded before, and fails in the same way in two more processes.
        """
        beforehand.load()
        loaded_before = bool(self._processes)
        pool = CodecWorkers(
            self.spec if spec is None else spec,
            workers=workers,
            limits=limits if limits is not None else self.limits,
            directory=self.directory / "streams",
            environment=environment,
            directory_of_work=directory_of_work,
            loaded_before=loaded_before and spec is None,
            hook=hook,
        )
        self._processes.append(pool)
        return pool

    def close(self) -> None:
        """End every worker process."""
        while self._processes:
            self._processes.pop().close()
        if self._elsewhere is not None:
            self._elsewhere.cleanup()


def _most() -> int:
    """Processes that share this one's cores."""
    return min(CROWD, own_cores())
