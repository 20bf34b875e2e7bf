"""Other programs' work makes no decode hang, and a decode that hangs is found all the same."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit import patience
from robustkit.codecs.programs import Programs
from robustkit.isolation import CodecWorkers, Limits
from robustkit.outcome import Outcome
from robustkit.patience import MOST, Deadline, Spent, own
from robustkit.registry import CodecSpec, Target

NOTHING = Spent(0.0, 0.0)
some_seconds = st.floats(min_value=0.0, max_value=1e4)

#: Decodes on one processor alone: for a third of a second, for ever, or asleep for ever, as the stream says.
CODEC = """
import os, time
import numpy as np

class Busy:
    name = "busy"

    def encode(self, image):
        return b"short"

    def decode(self, stream):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        if stream == b"asleep":
            time.sleep(1e6)
        started = time.thread_time()
        while stream == b"endless" or time.thread_time() - started < 0.33:
            pass
        return np.zeros((8, 8, 3), np.uint8)
"""


@given(some_seconds, some_seconds, some_seconds, st.integers(1, 64))
def test_no_more_than_the_time_and_no_less_than_the_processors_could_do(seconds, processor, waited, cores):
    had = own(seconds, NOTHING, Spent(processor, waited), cores)
    assert 0.0 <= had <= seconds
    assert had >= min(seconds, processor / cores)
    assert had == seconds or had >= seconds - waited


@pytest.mark.parametrize(
    ("seconds", "now", "cores", "had"),
    [
        (30.0, NOTHING, 2, 30.0),  # asleep, or nothing known
        (30.0, Spent(30.0, 0.0), 1, 30.0),
        (30.0, Spent(10.0, 20.0), 1, 10.0),  # one thread, a third of a processor
        (30.0, Spent(10.0, 40.0), 2, 5.0),  # threads that wait for one another
        (30.0, Spent(60.0, 420.0), 2, 30.0),  # 16 busy threads that have both processors
        (30.0, Spent(60.0, -1.0), 4, 30.0),  # a thread has ended, and its waiting is not known
    ],
)
def test_what_a_worker_has_had(seconds, now, cores, had):
    assert own(seconds, NOTHING, now, cores) == had


def clock(monkeypatch, *, share):
    """A machine on which a lone thread has a share of one processor."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(patience.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(
        patience, "spent", lambda _: Spent(share * (now.seconds - 100.0), (1 - share) * (now.seconds - 100.0))
    )
    return now


@pytest.mark.parametrize(("share", "end"), [(1.0, 1.0), (0.25, 4.0), (0.01, MOST)])
def test_a_deadline_moves_until_the_worker_has_had_its_time(monkeypatch, share, end):
    now = clock(monkeypatch, share=share)
    deadline = Deadline(1.0, lambda _: ())
    deadline.note(1)
    assert not deadline.reached(1)
    looks = 0
    while not deadline.reached(1):
        now.seconds = deadline.at
        looks += 1
    assert now.seconds - 100.0 == pytest.approx(end, abs=0.05)
    assert looks < 60


def test_without_a_first_look_the_clock_decides(monkeypatch):
    now = clock(monkeypatch, share=0.1)
    deadline = Deadline(1.0, lambda _: ())
    now.seconds += 1.0
    assert deadline.reached(1)


@pytest.fixture
def workers(tmp_path, monkeypatch):
    (tmp_path / "busy_codec.py").write_text(CODEC)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = CodecSpec("busy_codec:Busy", Target("busy_codec", "Busy"), {})
    with CodecWorkers(spec, limits=Limits(seconds=1.0), directory=tmp_path) as workers:
        yield workers


@pytest.fixture
def crowd():
    """Eight programs that want the processor that the codec decodes on, each with a share of its own."""
    program = textwrap.dedent(
        """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(flush=True)
        while True:
            pass
        """
    )
    many = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
        for _ in range(8)
    ]
    try:
        for one in many:
            assert one.stdout.readline()
        yield
    finally:
        for one in many:
            one.send_signal(signal.SIGKILL)
            one.wait()
            one.stdout.close()


needs_linux = pytest.mark.skipif(
    not os.path.exists("/proc/self/schedstat"), reason="the kernel does not say how long a thread waited"
)


@needs_linux
def test_a_crowded_processor_makes_no_decode_hang(workers, crowd):
    found = workers.decode(b"short")
    assert found.outcome is None, found.message
    assert np.array_equal(found.image, np.zeros((8, 8, 3), np.uint8))
    assert found.seconds > 1.0


@needs_linux
@pytest.mark.parametrize("stream", [pytest.param(b"endless", marks=pytest.mark.slow), b"asleep"])
def test_what_hangs_is_found_on_a_crowded_processor(workers, crowd, stream):
    started = time.monotonic()
    assert workers.decode(stream).outcome is Outcome.HUNG
    assert time.monotonic() - started > 1.0


@needs_linux
def test_a_crowded_processor_makes_no_program_hang(tmp_path, crowd):
    """Codecs that are command lines have a limit of their own."""
    (tmp_path / "work").mkdir()
    work = (
        "import os, time; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); started = time.thread_time();"
        " [None for _ in iter(lambda: time.thread_time() - started < 0.33, False)]"
    )
    began = time.monotonic()
    ended = Programs().run([sys.executable, "-S", "-c", work], str(tmp_path), seconds=1.0, largest=1 << 20)
    assert (ended.status, ended.tail) == (0, "")
    assert time.monotonic() - began > 1.0
