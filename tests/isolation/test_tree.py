"""What a decoder leaves behind is undone, ended or counted, and nothing that it has started outlives its worker."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import hostile
import numpy as np
import pytest
from processes import alive

from robustkit import CodecSpec, Outcome
from robustkit.isolation import CodecWorkers, Limits, streams, tree
from robustkit.registry import Target

LIMITS = Limits(seconds=30, memory=256 * 2**20, start_seconds=30)

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="what is left is found in /proc")


def pool(directory: Path, *, limits: Limits = LIMITS, **settings: object) -> CodecWorkers:
    spec = CodecSpec(hostile.LeavesMore.name, Target("hostile", "LeavesMore", hostile.__file__), settings)
    return CodecWorkers(spec, directory=directory / "streams", limits=limits)


@pytest.fixture(scope="module")
def stream() -> bytes:
    return hostile.Honest().encode(np.full((48, 64, 3), 99, dtype=np.uint8))


def gone(note: Path) -> bool:
    """Whether processes that were noted have ended, and there were any."""
    pids = [int(word) for word in note.read_text().split()]
    until = time.monotonic() + 15
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return bool(pids) and not any(map(alive, pids))


@pytest.mark.parametrize("how", ["environment", "C environment"])
def test_variables_are_put_back(how: str, stream: bytes, tmp_path: Path) -> None:
    with pool(tmp_path, how=how) as workers:
        before, pids = workers.describe(), workers.pids
        assert workers.decode(stream + b"x").outcome is None
        # Facts are asked for once.
        workers._description = None
        assert workers.describe() == before
        assert workers.pids == pids
        assert workers.replaced == {}
    assert before["LEFT in C"] == "None"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("orphan", "left a process behind"),
        ("child", "left a process behind"),
        ("POSIX timer", "left a timer running"),
        ("busy thread", "left the thread 'Thread (_spin)' running"),
    ],
)
def test_a_worker_is_replaced_for_what_was_left_and_the_reason_counted(
    how: str, reason: str, stream: bytes, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    with pool(tmp_path, how=how, note=str(note)) as workers:
        (first,) = workers.pids
        workers.decode(stream)
        assert workers.pids == (first,)
        times = 2 if how == "orphan" else 1
        for n in range(times):
            assert workers.decode(stream + bytes([n])).outcome is None
        assert workers.decode(stream).outcome is None
        assert workers.replaced == {reason: times}
        assert workers.suspects == {reason: tuple(map(streams.digest, (stream, stream + b"\0")))}
        if how in ("orphan", "child"):
            assert len(note.read_text().split()) == times
            assert gone(note)


@pytest.mark.parametrize("how", ["kept", "pool", "a server"])
def test_what_a_codec_keeps_on_purpose_is_left_alone(how: str, stream: bytes, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pool(tmp_path, how=how, note=str(note)) as workers:
        pids = workers.pids
        for _ in range(3):
            assert workers.decode(stream + b"x").outcome is None
        assert workers.replaced == {}
        assert workers.pids == pids
    if how == "a server":
        assert gone(note)


def test_what_a_dying_decoder_has_left_ends_with_it(stream: bytes, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pool(tmp_path, how="orphan and crash", note=str(note)) as workers:
        assert workers.decode(stream + b"x").outcome is Outcome.CRASHED
        assert gone(note)


def test_a_death_between_two_decodes_is_counted_with_what_came_before(stream: bytes, tmp_path: Path) -> None:
    with pool(tmp_path, how="late death") as workers:
        reason = "died of SIGABRT between two decodes"
        assert workers.decode(stream + b"\0").outcome is None
        time.sleep(0.6)
        assert workers.decode(stream).outcome is None
        assert workers.replaced == {reason: 1}
        assert workers.suspects == {reason: (streams.digest(stream + b"\0"),)}
        workers.decode(stream + b"x")
        time.sleep(0.6)
        workers.close()
        assert workers.replaced == {reason: 2}


def test_a_death_names_what_the_process_had_decoded_before(stream: bytes, tmp_path: Path) -> None:
    spec = CodecSpec(hostile.Abort.name, Target("hostile", "Abort", hostile.__file__))
    with CodecWorkers(spec, directory=tmp_path, limits=LIMITS) as workers:
        assert workers.decode(stream + b"x").after == ()
        for _ in range(9):
            assert workers.decode(stream).after == ()
        assert workers.decode(stream + b"y").after == 8 * (streams.digest(stream),)
        assert workers.decode(stream + b"y").after == ()
        assert workers.replaced == {}


def test_a_leak_costs_the_worker_and_no_innocent_stream(stream: bytes, tmp_path: Path) -> None:
    with pool(tmp_path, how="leak") as workers:
        assert {workers.decode(stream + b"x").outcome for _ in range(40)} == {None}
        assert workers.replaced == {"its memory grew by about 4 MiB a decode": 2}


# Reaping


def _trace(pid: int) -> subprocess.Popen[bytes]:
    """A process that traces ``pid`` from the moment that it says so."""
    code = """
        import ctypes, sys, time
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        PTRACE_SEIZE = 0x4206
        print(libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None), flush=True)
        time.sleep(600)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(pid)], stdout=subprocess.PIPE)


def test_a_worker_that_cannot_be_reaped_is_given_up(
    stream: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "PATIENCE", 1.0)
    spec = CodecSpec(hostile.LoopsInC.name, Target("hostile", "LoopsInC", hostile.__file__))
    with CodecWorkers(spec, directory=tmp_path, limits=Limits(seconds=1.0, start_seconds=30)) as workers:
        (pid,) = workers.pids
        workers.decode(stream)
        with _trace(pid) as tracer:
            try:
                if tracer.stdout.readline() != b"0\n":
                    pytest.skip("this system lets no process trace another")
                with pytest.warns(RuntimeWarning, match=rf"process {pid} was killed and does not end") as caught:
                    assert workers.decode(stream + b"x").outcome is Outcome.HUNG
                assert len(caught) == 1
                assert workers.decode(stream).outcome is None
                assert pid in tree._given_up
            finally:
                tracer.kill()
        until = time.monotonic() + 15
        while pid in tree._given_up and time.monotonic() < until:
            tree._collect()
        assert pid not in tree._given_up


def test_a_parent_that_ignores_its_children_hears_of_their_deaths(stream: bytes, tmp_path: Path) -> None:
    """As one that nohup or a careless supervisor has started with SIGCHLD ignored."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        spec = CodecSpec(hostile.Abort.name, Target("hostile", "Abort", hostile.__file__))
        with CodecWorkers(spec, directory=tmp_path, limits=LIMITS) as workers:
            for _ in range(2):
                bad = workers.decode(stream + b"x")
                assert bad.outcome is Outcome.CRASHED
                assert "index < size" in bad.message
                assert workers.decode(stream).outcome is None
    finally:
        signal.signal(signal.SIGCHLD, before)


# The parent's end


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_nothing_outlives_a_killed_parent(number: signal.Signals, stream: bytes, tmp_path: Path) -> None:
    """Not even a process in a session of its own, whose parent has ended."""
    note, script = tmp_path / "note", tmp_path / "parent.py"
    code = f"""
        import sys, time
        sys.path.insert(0, {os.path.dirname(hostile.__file__)!r})
        from robustkit.isolation import CodecWorkers
        from robustkit.registry import CodecSpec, Target

        if __name__ == "__main__":
            spec = CodecSpec("hostile", Target("hostile", "LeavesMore"), dict(how="a server", note={str(note)!r}))
            with CodecWorkers(spec, directory={str(tmp_path / "streams")!r}):
                print("ready", flush=True)
                time.sleep(600)
    """
    script.write_text(textwrap.dedent(code))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout.readline() == "ready\n"
            assert all(alive(int(pid)) for pid in note.read_text().split())
            parent.send_signal(number)
            parent.wait(timeout=30)
        finally:
            parent.kill()
    assert gone(note)


def test_pages_that_two_processes_share_count_once() -> None:
    held = ctypes.create_string_buffer(64 << 20)
    ctypes.memset(held, 1, len(held))
    before = tree.held(os.getpid())
    copy = os.fork()
    if not copy:
        time.sleep(60)
        os._exit(0)
    try:
        assert copy in tree.descendants(os.getpid())
        assert abs(tree.held(os.getpid()) - before) < 16 << 20
    finally:
        os.kill(copy, signal.SIGKILL)
        os.waitpid(copy, 0)
