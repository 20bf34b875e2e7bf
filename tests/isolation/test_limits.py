"""What one decode may take, and how it is told that it took more memory than that."""

import errno
import os
import resource
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from robustkit.isolation import Limits, limits

MIB = 2**20


def in_a_process(*lines: str) -> str:
    """What lines of Python print in a process of their own, whose limits nobody else needs."""
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_by_default_a_decode_has_half_a_minute_and_4_gib():
    assert Limits() == Limits(seconds=30.0, memory=4 * 2**30, start_seconds=120.0)


def test_loading_may_take_as_long_as_a_decode_and_two_minutes_at_least():
    """So that a codec with much to load can be tested: there is no option for that alone."""
    assert [Limits(seconds=seconds).start_seconds for seconds in (1.0, 120.0, 600.0)] == [120.0, 120.0, 600.0]
    assert Limits(seconds=600.0, start_seconds=2.0).start_seconds == 2.0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seconds": 0}, "seconds = 0: give a time above 0"),
        ({"seconds": float("nan")}, "seconds = nan"),
        ({"start_seconds": -1.0}, "start_seconds = -1.0"),
        ({"memory": -1}, "memory = -1: give bytes, or 0"),
    ],
)
def test_limits_that_no_decode_could_keep_are_refused(given, says):
    with pytest.raises(ValueError, match=says):
        Limits(**given)


def test_the_least_limits_are_taken():
    assert Limits(seconds=1e-3, memory=0, start_seconds=1e-3).memory == 0


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("MemTotal: 9 kB\nMemFree: 8 kB\nMemAvailable:    7 kB\n", 7 * 1024),
        ("MemTotal: 9 kB\n", 0),
        ("MemAvailable: much kB\n", 0),
        (None, 0),
    ],
)
def test_memory_for_new_processes_is_what_the_system_says_or_unknown(said, found, monkeypatch):
    def read(path, **more):
        assert str(path) == "/proc/meminfo"
        if said is None:
            raise FileNotFoundError(path)
        return said

    monkeypatch.setattr("pathlib.Path.read_text", read)
    assert limits.available() == found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says it")
def test_the_resident_set_is_what_the_process_touched():
    before = limits.resident()
    held = bytearray(os.urandom(MIB)) * 64
    after = limits.resident()
    assert 60 * MIB < after - before < 80 * MIB
    assert len(held) == 64 * MIB
    assert limits.resident(os.getpid()) == pytest.approx(after, abs=8 * MIB)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert wait_for(lambda: 0 < limits.resident(child.pid) < after)
    finally:
        child.communicate(b"\n")
    assert limits.resident(child.pid) == 0


def wait_for(condition):
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says it")
def test_the_address_space_is_capped_above_what_is_there():
    printed = in_a_process(
        "import os, resource",
        "from robustkit.isolation import limits",
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()",
        "cap = limits.cap_address_space(64 << 20)",
        "assert resource.getrlimit(resource.RLIMIT_AS)[0] == cap, 'the cap is not set'",
        "print((cap - size - os.cpu_count() * (72 << 20)) / 2**20)",
        "limit = cap - size",
        "try:",
        "    bytearray(limit + (64 << 20))",
        "except MemoryError:",
        "    print('out')",
        "bytearray(32 << 20)",
    )
    beyond, said = printed.split()
    assert 60 < float(beyond) < 68
    assert said == "out"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says it")
def test_a_lower_limit_that_the_process_has_stays():
    printed = in_a_process(
        "import resource",
        "from robustkit.isolation import limits",
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))",
        "print(limits.cap_address_space(1 << 40) == 3 << 30, resource.getrlimit(resource.RLIMIT_AS)[1] == 3 << 30)",
    )
    assert printed == "True True"


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "no"), True),
        (OSError(errno.ENOENT, "out of memory"), False),
        (RuntimeError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("index out of range"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_exceptions_say_that_memory_ran_out(error, out):
    assert limits.is_out_of_memory(error, str(error)) == out


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("terminate called after throwing an instance of 'std::bad_alloc'", True),
        ("memory allocation of 17 bytes failed", True),
        ("Unable to allocate 3 TiB", True),
        ("assertion failed", False),
        ("", False),
    ],
)
def test_which_last_words_say_that_memory_ran_out(text, out):
    assert limits.says_out_of_memory(text) == out


def test_the_kernel_s_kills_are_counted(monkeypatch, tmp_path):
    class Proc(type(tmp_path)):
        def read_text(self, **_):
            assert str(self) == "/proc/vmstat"
            return "nr_free 3\noom_kill 17\noom_kill_other 4\n"

    monkeypatch.setattr(limits, "Path", Proc)
    assert limits.kernel_kills() == 17
    monkeypatch.setattr(Proc, "read_text", lambda self, **_: "nr_free 3\n")
    assert limits.kernel_kills() == 0

    def none(self, **_):
        raise FileNotFoundError

    monkeypatch.setattr(Proc, "read_text", none)
    assert limits.kernel_kills() == 0


def test_the_peak_is_in_bytes(monkeypatch):
    usage = SimpleNamespace(ru_maxrss=3)
    monkeypatch.setattr(sys, "platform", "linux")
    assert limits.peak_bytes(usage) == 3072
    monkeypatch.setattr(sys, "platform", "darwin")
    assert limits.peak_bytes(usage) == 3
    assert limits.peak_bytes(resource.getrusage(resource.RUSAGE_SELF)) > 0


@pytest.mark.parametrize(
    ("own", "all_threads", "ended", "busy"), [(3, 4, 0, 3), (1, 8, 0, 4), (0, 0, 2, 2), (1, 1, 2, 3)]
)
def test_busy_is_ones_own_thread_or_a_share_of_the_cores_and_what_has_ended(monkeypatch, own, all_threads, ended, busy):
    clocks = {"thread": 10.0, "process": 20.0, "children": 30.0}
    monkeypatch.setattr(limits.time, "thread_time", lambda: clocks["thread"])
    monkeypatch.setattr(limits.time, "process_time", lambda: clocks["process"])
    usage = lambda _: SimpleNamespace(ru_utime=clocks["children"] - 3.0, ru_stime=3.0)  # noqa: E731
    monkeypatch.setattr(limits.resource, "getrusage", usage)
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: {4, 5}, raising=False)
    work = limits.Busy()
    for name, more in zip(clocks, (own, all_threads, ended), strict=True):
        clocks[name] += more
    assert work.seconds() == busy


def test_who_sleeps_is_not_busy_and_who_ran_a_program_is():
    work = limits.Busy()
    time.sleep(0.2)
    assert work.seconds() < 0.1
    work = limits.Busy()
    spend = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", spend], check=True)
    assert work.seconds() >= 0.3
