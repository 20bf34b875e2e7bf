"""Tools that measure which lines run start in workers too: these go on as they would, and leave such a tool nothing."""

import os
from pathlib import Path

import numpy as np
import pytest

from robustkit import Codec, CodecSpec, DecodeError
from robustkit.isolation import CodecWorkers
from robustkit.registry import Target

#: What coverage's file in site-packages does in each process that has its variable: it traces, and writes at the end.
TOOL = """
import atexit, os, sys, threading
if os.environ.get("COVERAGE_PROCESS_START") and "COV_CORE_SOURCE" in os.environ:
    folder, lines = os.environ["COV_CORE_DATAFILE"], set()
    def trace(frame, event, argument):
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace
    def write():
        with open(os.path.join(folder, f"data.{os.getpid()}"), "w") as file:
            file.write(repr(sorted(lines)))
    with open(os.path.join(folder, f"started.{os.getpid()}"), "w"):
        pass
    atexit.register(write)
    threading.settrace(trace)
    sys.settrace(trace)
"""


class Plain(Codec):
    """Stores the pixels of images eight wide; refuses what is no number of rows, and crashes on an empty stream."""

    name = "plain"
    family = "test"

    def encode(self, image):
        return image.tobytes()

    def decode(self, bitstream):
        if not bitstream:
            os.abort()
        if len(bitstream) % 24:
            raise DecodeError("a part of a row")
        return np.frombuffer(bitstream, np.uint8).reshape(-1, 8, 3)


def answers(directory: Path) -> tuple[list[object], set[int], dict[str, int]]:
    """What comes of some streams, whose processes those were, and why any of them was replaced."""
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    spec = CodecSpec("plain", Target(__name__, "Plain", __file__))
    found: list[object] = []
    with CodecWorkers(spec, workers=2, directory=directory) as workers:
        stream, pids = workers.encode(image), {*workers.pids}
        for decoded in [*map(workers.decode, (stream, stream[:7], b"")), *workers.decode_many([stream] * 4)]:
            pixels = None if decoded.image is None else decoded.image.tobytes()
            found.append((pixels, decoded.outcome, decoded.message.partition("\n")[0], decoded.warnings))
        workers.restart()
        found.append(workers.decode(stream).outcome)
        return found, pids | {*workers.pids}, dict(workers.replaced)


def test_a_tool_that_measures_coverage_disturbs_no_worker_and_hears_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _, _ = answers(tmp_path / "before")
    (tmp_path / "sitecustomize.py").write_text(TOOL)
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("COVERAGE_PROCESS_START", str(tmp_path / ".coveragerc"))
    monkeypatch.setenv("COV_CORE_SOURCE", str(tmp_path))
    monkeypatch.setenv("COV_CORE_DATAFILE", str(data))
    found, pids, replaced = answers(tmp_path / "after")
    assert found == before
    assert replaced == {}
    started = {int(path.suffix[1:]) for path in data.glob("started.*")}
    # They were traced, the first and the one that took its place, and none wrote down what it had run.
    assert len(pids & started) >= 2
    assert not [path for path in data.glob("data.*") if int(path.suffix[1:]) in pids]
