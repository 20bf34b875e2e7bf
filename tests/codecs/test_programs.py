"""Command-line codecs leave nothing behind: no process, no folder, whoever ends whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robustkit import CodecUnavailable, Outcome, load_codec, registry
from robustkit.codecs.programs import ProgramError, Programs
from robustkit.isolation import CodecWorkers, Limits

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
PATIENCE = 20.0

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds lost descendants in /proc")


def codec(folder: Path, decode: str, more: str = "") -> str:
    """A codec file whose streams are PPM files, and whose decoder is a shell's work."""
    script = folder / "decode.sh"
    script.write_text(f"#!/bin/sh\n{decode}\n")
    script.chmod(0o755)
    path = folder / "codec.toml"
    path.write_text(
        'name = "shell"\nencode = ["cp", "{input}", "{output}"]\ndecode = "./decode.sh {input} {output}"\n'
        f'image = ".ppm"\ndecoded = ".ppm"\n{more}'
    )
    return str(path)


def living(mark: str) -> list[int]:
    """Processes with ``mark`` in their command lines."""
    told = subprocess.run(["ps", "-ww", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()[1:]]
    return [int(pid) for pid, state, words in rows if mark in words and not state.startswith("Z")]


def soon(what) -> bool:
    until = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def mark(tmp_path):
    """Stands in the command line of processes that would live for long: a copy of ``sleep``'s own."""
    name = tmp_path / f"sleeper-{os.getpid()}"
    name.symlink_to("/bin/sleep")
    yield str(name)
    for pid in living(str(name)):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@needs_proc
@pytest.mark.parametrize(
    "decode",
    [
        "exec {mark} 1000",
        "{mark} 1000; true",
        "timeout 60 {mark} 1000",
        "setsid {mark} 1000; true",
        "(setsid {mark} 1000 &) ; {mark} 1001",
    ],
)
def test_nothing_of_a_hanging_program_lives_on(tmp_path, scratch, mark, decode):
    path = codec(tmp_path, decode.format(mark=mark), "seconds = 0.7")
    with CodecWorkers(registry.get(path).spec(), directory=tmp_path / "streams") as workers:
        stream = workers.encode(IMAGE)
        decoded = workers.decode(stream)
        assert not living(mark)
        # The worker has a folder there, with nothing in it.
        (folder,) = scratch.iterdir()
        assert not list(folder.iterdir())
    assert not list(scratch.iterdir())
    assert decoded.outcome is Outcome.HUNG
    assert "decode.sh ran for more than 0.7 s, which is what the codec allows it: seconds = 0.7" in decoded.message


@needs_proc
def test_what_a_program_leaves_is_ended_and_told(tmp_path, mark):
    # Out of its group before the program ends, or it would be ended with the group, and leave nothing.
    away = (
        f'setsid sh -c "touch {mark}.up; exec {mark} 1000" </dev/null & while [ ! -e {mark}.up ]; do sleep 0.01; done'
    )
    path = codec(tmp_path, f'{away}; cp "$1" "$2"')
    with CodecWorkers(registry.get(path).spec(), directory=tmp_path / "streams") as workers:
        decoded = workers.decode(workers.encode(IMAGE))
        assert not living(mark)
    assert np.array_equal(decoded.image, IMAGE)
    assert [w for w in decoded.warnings if "decode.sh left 1 of its processes running" in w]


def test_the_runs_limit_ends_a_program_and_says_so(tmp_path, scratch, mark):
    path = codec(tmp_path, f"{mark} 1000; true", "seconds = 60")
    limits = Limits(seconds=1.0)
    with CodecWorkers(registry.get(path).spec(), directory=tmp_path / "streams", limits=limits) as workers:
        stream, before = workers.encode(IMAGE), workers.pids
        decoded = workers.decode(stream)
        assert workers.pids == before
    assert decoded.outcome is Outcome.HUNG
    assert "time limit of this run is 1 s, although the codec allows seconds = 60" in decoded.message
    assert "--robustkit-time-limit" in decoded.message
    assert not list(scratch.iterdir())


@needs_proc
def test_a_killed_worker_takes_its_programs_and_folders_along(tmp_path, scratch, mark):
    """As when pytest is killed: the kernel then kills its workers."""
    path = codec(tmp_path, f"setsid {mark} 1000; true")
    program = (
        "import sys, threading, numpy\n"
        "from robustkit import registry\n"
        "from robustkit.isolation import CodecWorkers\n"
        f"workers = CodecWorkers(registry.get({path!r}).spec(), directory={str(tmp_path / 'streams')!r})\n"
        "stream = workers.encode(numpy.zeros((8, 8, 3), 'u1'))\n"
        "workers.decode(stream)\n"
    )
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        with subprocess.Popen([sys.executable, "-c", program]) as tested:
            try:
                assert soon(lambda: living(mark))
                assert list(scratch.iterdir())
            finally:
                tested.send_signal(number)
        assert soon(lambda: not living(mark))
        assert soon(lambda: not list(scratch.iterdir()))


def test_closing_ends_what_runs(tmp_path, scratch, mark):
    programs = Programs()
    (scratch / "work").mkdir()
    with pytest.raises(ProgramError, match="No such file"):
        programs.run(["no-such-program"], str(scratch), seconds=5, largest=1 << 20)
    ended = programs.run(["sh", "-c", "echo first; echo last >&2; exit 7"], str(scratch), seconds=5, largest=1 << 20)
    assert (ended.status, ended.head, ended.tail, ended.left) == (7, "first\nlast\n", "first\nlast\n", 0)
    assert ended.peak > 0
    (keeper,) = programs._keepers
    programs._close()
    assert keeper._process.returncode == 0


def test_a_keeper_that_is_killed_is_one_failure(tmp_path):
    path = codec(tmp_path, 'if [ -e "$0.once" ]; then cp "$1" "$2"; else touch "$0.once"; kill -9 $PPID; sleep 60; fi')
    with CodecWorkers(registry.get(path).spec(), directory=tmp_path / "streams") as workers:
        stream = workers.encode(IMAGE)
        decoded = workers.decode(stream)
        assert decoded.outcome is Outcome.RAISED
        assert "was ended" in decoded.message
        assert np.array_equal(workers.decode(stream).image, IMAGE)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_relative_programs_lie_beside_the_file_or_here(tmp_path, monkeypatch, elsewhere):
    beside, here = tmp_path / "beside", tmp_path / "here"
    beside.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    folder = here if elsewhere else beside
    (folder / "build").mkdir()
    program = folder / "build" / "enc"
    program.write_text('#!/bin/sh\ncp "$1" "$2"\n')
    (folder / "dec.py").write_text("import shutil, sys\nshutil.copy(sys.argv[1], sys.argv[2])\n")
    path = beside / "codec.toml"
    path.write_text(
        'name = "x"\nencode = "./build/enc {input} {output}"\n'
        f'decode = "{sys.executable} dec.py {{input}} {{output}}"'
    )
    with pytest.raises(CodecUnavailable, match=f"{program} is no program: chmod"):
        load_codec(str(path))
    program.chmod(0o755)
    found = load_codec(str(path))
    assert np.array_equal(found.decode(found.encode(IMAGE)), IMAGE)
    (folder / "dec.py").unlink()
    with pytest.raises(CodecUnavailable, match=r"beside/dec\.py is not there"):
        load_codec(str(path))
