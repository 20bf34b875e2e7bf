"""Whatever a decoder does to its worker, the answer is one outcome, and the next decode is sound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import hostile
import numpy as np
import pytest
from processes import alive

from robustkit import CodecSpec, CodecUnavailable, DecodeError, EncodeError, Image, Outcome, Region
from robustkit.isolation import CodecWorkers, Decoded, Limits, WorkerError
from robustkit.isolation.process import Worker
from robustkit.isolation.streams import Streams
from robustkit.isolation.workers import _even
from robustkit.registry import Target

QUICK = Limits(seconds=1.5, memory=256 * 2**20, start_seconds=30)
PATIENT = Limits(seconds=30, memory=256 * 2**20, start_seconds=30)

ROOT = Path(__file__).parents[2]


def spec(codec: type, **settings: object) -> CodecSpec:
    return CodecSpec(codec.name, Target("hostile", codec.__qualname__, hostile.__file__), settings)


@pytest.fixture(scope="module")
def picture() -> Image:
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 4, rows + columns], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def stream(picture: Image) -> bytes:
    return hostile.Honest().encode(picture)


@pytest.fixture(scope="module")
def clean(stream: bytes) -> Image:
    return hostile.Honest().decode(stream)


def gone(pids: list[int] | tuple[int, ...]) -> bool:
    until = time.monotonic() + 15
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def damaged(stream: bytes, last: int = 0) -> bytes:
    return stream + bytes([last])


EXPECTED: list[tuple[type, Outcome | None, str]] = [
    (hostile.Honest, None, ""),
    (hostile.Segfault, Outcome.CRASHED, "SIGSEGV"),
    (hostile.Abort, Outcome.CRASHED, "SIGABRT"),
    (hostile.ExitZero, Outcome.CRASHED, "exit status 0"),
    (hostile.KillsItself, Outcome.CRASHED, "SIGKILL"),
    (hostile.LoopsInPython, Outcome.HUNG, "not done after 1.5 s"),
    (hostile.LoopsInC, Outcome.HUNG, "in attack"),
    (hostile.Backtracks, Outcome.HUNG, "in attack"),
    (hostile.IgnoresAlarms, Outcome.HUNG, "not done after 1.5 s"),
    (hostile.FloodsForEver, Outcome.HUNG, "not done after 1.5 s"),
    (hostile.PythonMemoryBomb, Outcome.EXHAUSTED, ""),
    (hostile.HugeAllocation, Outcome.EXHAUSTED, "MemoryError"),
    (hostile.NativeMemoryBomb, Outcome.EXHAUSTED, ""),
    (hostile.PoliteNativeMemoryBomb, Outcome.EXHAUSTED, "std::bad_alloc"),
    (hostile.Recurses, Outcome.RAISED, "RecursionError"),
    (hostile.OverflowsTheStack, Outcome.CRASHED, "SIGSEGV"),
    (hostile.Refuses, Outcome.REFUSED, "damaged"),
    (hostile.Exits, Outcome.RAISED, "SystemExit: 0"),
    (hostile.WrongShape, Outcome.MISSHAPEN, "47 x 64 x 3, the image is 48 x 64 x 3"),
    (hostile.GreyShape, Outcome.MISSHAPEN, "uint8, 48 x 64: give"),
    (hostile.WrongDtype, Outcome.MISSHAPEN, "int64"),
    (hostile.NotANumber, Outcome.MISSHAPEN, "float32, 48 x 64 x 3, with non-finite values"),
    (hostile.ReturnsNone, Outcome.MISSHAPEN, "a NoneType, not a NumPy array"),
    (hostile.ReturnsATrap, Outcome.MISSHAPEN, "a hostile._Trap, not"),
    (hostile.ObjectArray, Outcome.MISSHAPEN, "object"),
    (hostile.Strided, None, ""),
    (hostile.NeverTheSame, None, ""),
    (hostile.IgnoresItsInput, None, ""),
    (hostile.Degrades, None, ""),
    (hostile.Floods, None, ""),
    (hostile.ClosesDescriptors, Outcome.CRASHED, "broke its worker's connection"),
    (hostile.LeaksDescriptors, None, ""),
    (hostile.ReplacesDescriptors, Outcome.CRASHED, "broke its worker's connection"),
    (hostile.Scribbles, Outcome.CRASHED, "wrote to its worker's own connection"),
    (hostile.Moves, None, ""),
    (hostile.LeavesAThread, None, ""),
    (hostile.LeavesAProcess, Outcome.CRASHED, "exit status 3"),
    (hostile.Forks, None, ""),
    (hostile.Warns, None, ""),
]


@pytest.mark.parametrize(("codec", "outcome", "message"), EXPECTED, ids=lambda v: getattr(v, "name", None))
def test_each_misdeed_gets_its_outcome_and_the_next_decode_is_sound(
    codec: type,
    outcome: Outcome | None,
    message: str,
    stream: bytes,
    clean: Image,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # A short limit only where it is the point: on a busy machine anything may take a second.
    limits = QUICK if outcome is Outcome.HUNG else PATIENT
    with CodecWorkers(spec(codec), directory=tmp_path, limits=limits) as workers:
        pids = workers.pids
        if outcome is not Outcome.HUNG:
            assert workers.decode(damaged(stream), shape=(48, 64)).outcome is outcome
        bad = workers.decode(damaged(stream), shape=(48, 64))
        assert bad.outcome is outcome, bad.message
        assert message in bad.message
        assert (bad.image is None) is (outcome is not None)
        good = workers.decode(stream, shape=(48, 64))
        assert good.outcome is None, good.message
        assert good.image is not None
        if codec is not hostile.IgnoresItsInput:
            np.testing.assert_array_equal(good.image, clean)
        kept = [] if bad.stream is None else [bad.stream]
        assert [path for path in tmp_path.iterdir() if path.suffix != ".worker"] == kept
        assert bool(kept) is (outcome is not None and outcome.failure)
        if kept:
            assert kept[0].read_bytes() == damaged(stream)
        pids += workers.pids
    assert gone(pids)
    assert capfd.readouterr() == ("", "")


def test_one_run_survives_every_codec_that_dies(stream: bytes, clean: Image, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.BatchDies), directory=tmp_path, limits=QUICK, workers=2, batch=4) as workers:
        streams = [stream, damaged(stream, 0), stream, damaged(stream, 1), damaged(stream, 2), stream, stream, stream]
        streams += [stream, stream, damaged(stream, 3), stream]
        decoded = workers.decode_many(streams, shape=(48, 64))
        _ = [workers.decode(s) for s in streams[:3]]
    wanted = [None] * len(streams)
    wanted[1], wanted[3], wanted[4], wanted[10] = Outcome.CRASHED, Outcome.HUNG, Outcome.RAISED, Outcome.REFUSED
    assert [d.outcome for d in decoded] == wanted
    for d in decoded:
        if d.outcome is None:
            np.testing.assert_array_equal(d.image, clean)
    assert {d.stream.read_bytes() for d in decoded if d.stream} == {streams[i] for i in (1, 3, 4)}


@pytest.fixture(scope="module")
def raiser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CodecWorkers]:
    with CodecWorkers(spec(hostile.Raises), directory=tmp_path_factory.mktemp("streams"), limits=PATIENT) as workers:
        yield workers


@pytest.mark.parametrize("number", range(len(hostile.EXCEPTIONS)), ids=lambda n: hostile.EXCEPTIONS[n].__name__)
def test_every_exception_is_raised_or_exhausted(number: int, raiser: CodecWorkers, stream: bytes, clean: Image) -> None:
    kind = hostile.EXCEPTIONS[number]
    bad = raiser.decode(damaged(stream, number))
    assert bad.outcome is (Outcome.EXHAUSTED if kind is MemoryError else Outcome.RAISED)
    assert bad.message.startswith(kind.__name__)
    assert "hostile.py:" in bad.message
    assert len(bad.message) < 4000
    np.testing.assert_array_equal(raiser.decode(stream).image, clean)


def test_the_honest_codec_repairs_what_it_claims_to(stream: bytes, clean: Image, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    with CodecWorkers(spec(hostile.Honest), directory=tmp_path, limits=PATIENT) as workers:
        flipped = np.frombuffer(stream, np.uint8) ^ np.packbits(rng.random(8 * len(stream)) < 1e-3)
        np.testing.assert_array_equal(workers.decode(flipped.tobytes()).image, clean)
        assert workers.decode(b"").outcome is Outcome.REFUSED
        assert workers.decode(rng.bytes(5000)).outcome is Outcome.REFUSED


@pytest.mark.parametrize("drop", [0.5, 3.0, 10.0])
def test_the_degrading_codec_loses_what_it_is_told_to(drop: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    smooth = np.kron(rng.integers(60, 200, (32, 32, 3)), np.ones((8, 8, 1)))
    image = (smooth + rng.integers(-20, 21, smooth.shape)).astype(np.uint8)
    with CodecWorkers(spec(hostile.Degrades, drop=drop), directory=tmp_path, limits=PATIENT) as workers:
        stream = workers.encode(image)
        error = [
            float(np.mean((workers.decode(s).image.astype(float) - image) ** 2)) for s in (stream, damaged(stream))
        ]
    assert 10 * np.log10(error[1] / error[0]) == pytest.approx(drop, abs=0.05)


def test_never_the_same_image_twice(stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.NeverTheSame), directory=tmp_path, limits=PATIENT) as workers:
        first, second = workers.decode_many([damaged(stream)] * 2)
    assert not np.array_equal(first.image, second.image)


def test_images_are_the_callers_own(stream: bytes, clean: Image, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.Honest), directory=tmp_path, limits=PATIENT) as workers:
        first = workers.decode(stream).image
        first[:] = 0
        np.testing.assert_array_equal(workers.decode(stream).image, clean)
        assert not first.any()


def test_truncating_the_shared_file_harms_no_one_else(stream: bytes, clean: Image, tmp_path: Path) -> None:
    """Under a memory mapping this would kill the parent with SIGBUS."""
    with CodecWorkers(spec(hostile.TruncatesFiles), directory=tmp_path, limits=QUICK) as workers:
        for _ in range(5):
            assert workers.decode(damaged(stream)).outcome in (None, Outcome.CRASHED)
        np.testing.assert_array_equal(workers.decode(stream).image, clean)


def test_a_thread_left_running_costs_the_worker_and_an_idle_one_does_not(stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.LeavesAThread), directory=tmp_path, limits=PATIENT) as workers:
        (before,) = workers.pids
        workers.decode(stream)
        assert workers.pids == (before,)
        workers.decode(damaged(stream))
        assert workers.pids != (before,)
        assert gone([before])


def test_what_a_decoder_changes_in_its_process_is_undone(stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.Moves), directory=tmp_path, limits=PATIENT) as workers:
        (before,) = workers.pids
        workers.decode(damaged(stream))
        facts = workers.describe()
        time.sleep(0.1)  # the alarm would have gone off by now
        assert workers.decode(stream).outcome is None
        assert workers.pids == (before,)
    assert facts == {
        "directory": os.getcwd(),
        "recursion limit": str(sys.getrecursionlimit()),
        "SIGINT": str(signal.SIG_IGN),
    }


@pytest.mark.parametrize(
    ("how", "replaced"),
    [
        ("CPU time", False),
        ("CPU time for good", os.geteuid() != 0),
        ("files", False),
        ("file size", False),
        ("stack", False),
        ("nice", os.geteuid() != 0),
        ("affinity", False),
        ("policy", True),
        ("umask", False),
        ("rounding", False),
        ("timer", False),
        ("locale", False),
        ("children", False),
        ("faults", True),
    ],
)
def test_nothing_is_left_behind_for_the_next_decode(
    how: str, replaced: bool, stream: bytes, clean: Image, tmp_path: Path
) -> None:
    with CodecWorkers(spec(hostile.Leaves, how=how), directory=tmp_path, limits=PATIENT) as workers:
        before, pids = hostile.Leaves(how=how).describe(), workers.pids
        assert workers.decode(damaged(stream)).outcome is None
        found = workers.describe()
        np.testing.assert_array_equal(workers.decode(stream).image, clean)
        # May a container's root not undo it, a new worker is as good.
        assert workers.pids != pids if replaced else workers.pids == pids or os.geteuid() == 0
    ours = {"RLIMIT_AS", "RLIMIT_CORE", "locale"}
    assert {k: v for k, v in found.items() if k not in ours} == {k: v for k, v in before.items() if k not in ours}
    assert found["locale"] == facts_of_a_new_worker(tmp_path)["locale"]


def facts_of_a_new_worker(directory: Path) -> dict[str, str]:
    with CodecWorkers(spec(hostile.Leaves, how=""), directory=directory, limits=PATIENT) as workers:
        return workers.describe()


def test_a_process_that_the_decoder_started_dies_with_it(stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.LeavesAProcess), directory=tmp_path, limits=PATIENT) as workers:
        bad = workers.decode(damaged(stream))
    assert gone([int(bad.message.split()[-1])])


def test_warnings_of_the_decoder_are_collected_not_raised(stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.Warns), directory=tmp_path, limits=PATIENT) as workers:
        assert workers.decode(damaged(stream)).warnings == ("RuntimeWarning: the index is 171",)
        assert workers.decode(stream).warnings == ()


def test_a_worker_that_died_between_two_decodes_costs_neither(stream: bytes, clean: Image, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.Honest), directory=tmp_path, limits=PATIENT) as workers:
        for number in (signal.SIGKILL, signal.SIGSEGV):
            (pid,) = workers.pids
            os.kill(pid, number)
            # /proc calls a process a zombie from its first thread's end on; this waits for the last one's.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            np.testing.assert_array_equal(workers.decode(stream).image, clean)


def test_the_resident_set_is_watched_where_the_address_space_is_not_capped(stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.NativeMemoryBombOnCuda), directory=tmp_path, limits=PATIENT) as workers:
        bad = workers.decode(damaged(stream))
        assert bad.outcome is Outcome.EXHAUSTED
        assert "limit of 256 MiB" in bad.message
        assert workers.decode(stream).outcome is None


# Batches


def test_a_batch_is_one_call_and_comes_back_in_order(stream: bytes, clean: Image, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.BatchUnlikeSingle), directory=tmp_path, limits=PATIENT) as workers:
        for decoded in workers.decode_many([stream] * 5):
            np.testing.assert_array_equal(decoded.image, clean ^ 1)
        np.testing.assert_array_equal(workers.decode(stream).image, clean)
        assert workers.decode_many([]) == []


def test_each_stream_of_a_batch_has_its_own_outcome(stream: bytes, tmp_path: Path) -> None:
    streams = [stream, damaged(stream, 0), damaged(stream, 1), damaged(stream, 2), stream]
    with CodecWorkers(spec(hostile.BatchMixed), directory=tmp_path, limits=PATIENT) as workers:
        decoded = workers.decode_many(streams, shape=(48, 64))
        odd = workers.decode_many(streams, shape=(48, 65))
    bad = [Outcome.REFUSED, Outcome.MISSHAPEN, Outcome.MISSHAPEN]
    assert [d.outcome for d in decoded] == [None, *bad, None]
    assert [d.outcome for d in odd] == [Outcome.MISSHAPEN, *bad, Outcome.MISSHAPEN]


def test_a_batch_that_fails_without_a_culprit_says_so(stream: bytes, clean: Image, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.BatchTooShort), directory=tmp_path, limits=PATIENT) as workers:
        decoded = workers.decode_many([stream] * 3)
    for d in decoded:
        np.testing.assert_array_equal(d.image, clean)
        assert any("decode_batch of 3 misshapen, none of them alone" in w for w in d.warnings)


@pytest.mark.parametrize(
    ("streams", "workers", "size"),
    [(0, 1, 1), (1, 1, 1), (16, 1, 16), (18, 1, 9), (48, 1, 16), (48, 2, 12), (18, 2, 9), (3, 4, 1), (66, 2, 11)],
)
def test_batches_are_alike_and_no_worker_waits_for_another(streams: int, workers: int, size: int) -> None:
    assert _even(streams, 16, workers) == size


@pytest.mark.parametrize("workers", [1, 3])
def test_results_do_not_depend_on_the_number_of_workers(workers: int, tmp_path: Path) -> None:
    images = [np.full((8, 8 * n, 3), n, dtype=np.uint8) for n in range(1, 12)]
    streams = [hostile.Honest().encode(i) for i in images]
    with CodecWorkers(spec(hostile.Honest), directory=tmp_path, limits=PATIENT, workers=workers) as pool:
        for decoded, image in zip(pool.decode_many(streams), images, strict=True):
            np.testing.assert_array_equal(decoded.image, image)


def test_groups_of_several_shapes_come_back_in_their_places_and_few_of_one_stay_a_batch(tmp_path, monkeypatch) -> None:
    sizes = [(8, 16), (16, 8), (24, 8)]
    groups = [
        ([hostile.Honest().encode(np.full((*size, 3), n, dtype=np.uint8)) for n in range(3)], size) for size in sizes
    ]
    together: list[int] = []
    asked = CodecWorkers._chunk

    def chunk(self, streams, shape):
        together.append(len(streams))
        return asked(self, streams, shape)

    monkeypatch.setattr(CodecWorkers, "_chunk", chunk)
    with CodecWorkers(spec(hostile.Honest), directory=tmp_path, limits=PATIENT, workers=2) as pool:
        found = pool.decode_groups(groups)
        assert pool.decode_groups([]) == []
        pool.decode_groups(groups[:1])
    for (_, size), decoded in zip(groups, found, strict=True):
        assert [d.image.shape[:2] for d in decoded] == [size] * 3
        assert [int(d.image.max()) for d in decoded] == [0, 1, 2]
    assert sorted(together) == [1, 2, 3, 3, 3]


# Everything but decoding


def test_the_rest_of_the_contract_crosses_over(picture: Image, stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.Honest), directory=tmp_path, limits=PATIENT) as workers:
        assert workers.encode(picture) == stream
        assert workers.encode(picture[:, ::2]) == hostile.Honest().encode(picture[:, ::2])
        assert workers.layout(stream) == hostile.Honest().layout(stream)
        assert workers.layout(b"").regions[0] == Region("header", 0, 0, header=True)
        assert workers.describe() == {}
        assert workers.profile() == hostile.Honest.profile
        assert workers.attributes[:4] == ("hostile-honest", "hostile", {}, "cpu")
        with pytest.raises(EncodeError, match="at most 4096 a side"):
            workers.encode(np.zeros((1, 4097, 3), dtype=np.uint8))
        with pytest.raises(ValueError, match="float64"):
            workers.encode(np.zeros((8, 8, 3)))
        with pytest.raises(EncodeError, match="takes no weights"):
            workers.encode(picture, np.ones(picture.shape[:2], dtype=np.uint8))
        with pytest.raises(ValueError, match="float64"):
            workers.encode(picture, np.ones(picture.shape[:2]))


@pytest.mark.parametrize(
    ("how", "message"), [("raise", "ValueError: not that one"), ("crash", "SIGSEGV"), ("text", "str, not bytes")]
)
def test_an_encoder_that_fails_is_a_worker_error(how: str, message: str, picture: Image, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.EncoderFails, how=how), directory=tmp_path, limits=PATIENT) as workers:
        with pytest.raises(WorkerError, match=message):
            workers.encode(picture)
        with pytest.raises(WorkerError, match="layout returned a str" if how != "raise" else "no regions"):
            workers.layout(b"abc")
        if how == "crash":
            with pytest.raises(WorkerError, match="SIGABRT"):
                workers.describe()
        else:
            assert workers.describe() == {"how": how, "numpy": np.__version__}


def test_refusals_cross_over(picture: Image, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.EncoderFails, how="refuse"), directory=tmp_path, limits=PATIENT) as workers:
        with pytest.raises(EncodeError, match="not this one"):
            workers.encode(picture)
        with pytest.raises(DecodeError, match="no regions"):
            workers.layout(b"abc")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "ValueError: no weights"),
        ("crash", "SIGSEGV"),
        ("exit", "exit status 0"),
        ("hang", "not done after 2 s; loading may take as long as one decode, which --robustkit-time-limit"),
        ("profile", "profile is a str, not a robustkit.Profile"),
        ("unknown=1", "unexpected keyword"),
    ],
)
def test_a_codec_that_cannot_be_loaded_says_why(how: str, message: str, tmp_path: Path) -> None:
    settings = {"unknown": 1} if how == "unknown=1" else {"how": how}
    limits = Limits(start_seconds=2 if how == "hang" else 30)
    with pytest.raises(CodecUnavailable, match=message) as caught:
        CodecWorkers(spec(hostile.Unloadable, **settings), directory=tmp_path, limits=limits)
    assert "hostile-unloadable" in str(caught.value)


def test_a_codec_that_misses_something_says_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTILE_MISSING", "pip install libhostile")
    with pytest.raises(CodecUnavailable, match="pip install libhostile"):
        CodecWorkers(spec(hostile.Unloadable, how="missing"), directory=tmp_path, limits=PATIENT)


@pytest.mark.parametrize("value", [object(), float("inf")])
def test_settings_must_cross_over(tmp_path: Path, value: object) -> None:
    with pytest.raises(WorkerError, match="'hostile-degrades' has a setting that is no number"):
        CodecWorkers(spec(hostile.Degrades, drop=value), directory=tmp_path)


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="seconds = 0"):
        Limits(seconds=0)
    with pytest.raises(ValueError, match="memory = -1"):
        Limits(memory=-1)


def test_closed_workers_say_so(stream: bytes, tmp_path: Path) -> None:
    workers = CodecWorkers(spec(hostile.Honest), directory=tmp_path, limits=PATIENT)
    pids = workers.pids
    workers.close()
    workers.close()
    assert gone(pids)
    with pytest.raises(WorkerError, match="closed"):
        workers.decode(stream)


def test_forgotten_workers_end_with_their_owner(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        workers = CodecWorkers(spec(hostile.Honest), directory=tmp_path, limits=PATIENT)
        pids = workers.pids
        del workers
    assert gone(pids)


def test_nothing_that_a_worker_sends_is_believed_unchecked(tmp_path: Path) -> None:
    """A worker that answers another request, or announces more bytes than there are, is replaced."""
    from robustkit.isolation import process, wire

    worker = Worker(spec(hostile.Honest), PATIENT, Streams(tmp_path, "honest").desk())
    try:
        worker.about()
        answer = worker.ask("describe")
        forged = process.Answer(answer.value, [3 << 40], None, 0.0, (), None)
        with pytest.raises(process.WorkerDied, match="announced"):
            worker.images(forged, [(1 << 20, 1 << 20)])
        with pytest.raises(wire.WireError, match="expected a message"):
            _take(b"\x00" * 64)
        with pytest.raises(wire.WireError, match="not JSON"):
            _take(wire._HEAD.pack(b"rkit", 2) + b"{x")
        with pytest.raises(wire.WireError, match="not an object"):
            _take(wire._HEAD.pack(b"rkit", 2) + b"[]")
        assert worker.ask("describe").value == {}
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("twice", "more than one answer"),
        ("infinite", "Infinity is no number"),
        ("nested", "not JSON"),
        ("sparse", "not the image's size"),
        ("sparse but right", "the memory file holds 0"),
        ("another shape", "not the image's size"),
        ("stale", "the memory file holds 0"),
        ("replaces the file", "broke its worker's connection"),
        ("replaces the file by another", "the memory file holds 0"),
        ("before the start", "not a time"),
        ("no time", "NaN is no number"),
        ("for ever", "not a time"),
        ("intact", "intact without an image"),
        ("none", "not 1 results"),
        ("two", "not 1 results"),
        ("texts", "warnings that are no text"),
        ("number", "answer True to another request"),
        ("memory", "not bytes of memory"),
        ("processor", "not a processor's time"),
    ],
)
def test_a_decoder_that_speaks_for_its_worker_has_crashed(
    how: str, message: str, stream: bytes, clean: Image, tmp_path: Path
) -> None:
    with CodecWorkers(spec(hostile.Forges, how=how), directory=tmp_path, limits=PATIENT) as workers:
        workers.decode(stream)
        pids = workers.pids
        bad = workers.decode(damaged(stream), shape=(48, 64))
        assert bad.outcome is Outcome.CRASHED
        assert message in bad.message
        assert workers.pids != pids
        np.testing.assert_array_equal(workers.decode(stream, shape=(48, 64)).image, clean)


def test_a_late_answer_is_never_taken_for_the_next_requests(stream: bytes, clean: Image, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.Forges, how="late"), directory=tmp_path, limits=PATIENT) as workers:
        np.testing.assert_array_equal(workers.decode(damaged(stream), shape=(48, 64)).image, clean)
        bad = workers.decode(damaged(stream), shape=(48, 64))
        assert bad.outcome is Outcome.CRASHED
        assert "to another request" in bad.message
        np.testing.assert_array_equal(workers.decode(stream, shape=(48, 64)).image, clean)


def test_a_size_that_nobody_knows_is_bounded_by_the_memory_limit(stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.Forges, how="sparse"), directory=tmp_path, limits=PATIENT) as workers:
        bad = workers.decode(damaged(stream))
    assert bad.outcome is Outcome.CRASHED
    assert "bytes announced, the limit is 256 MiB" in bad.message


def test_a_constructor_that_speaks_for_its_worker_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(CodecUnavailable, match="it wrote its worker's answer"):
        CodecWorkers(spec(hostile.Forges, how="load"), directory=tmp_path, limits=PATIENT)


def test_an_array_is_what_it_holds_not_what_it_says(stream: bytes, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.LiesAboutItsArray), directory=tmp_path, limits=PATIENT) as workers:
        bad = workers.decode(damaged(stream), shape=(48, 64))
    assert bad.outcome is Outcome.MISSHAPEN
    assert bad.message == "decode returned float32, 1 x 2: give uint8"


def test_a_batch_is_what_it_holds_not_what_it_says(stream: bytes, clean: Image, tmp_path: Path) -> None:
    with CodecWorkers(spec(hostile.LiesAboutItsList), directory=tmp_path, limits=PATIENT) as workers:
        decoded = workers.decode_many([stream] * 3, shape=(48, 64))
    for d in decoded:
        np.testing.assert_array_equal(d.image, clean)
        assert any("decode_batch of 3 misshapen" in w and "of 1, not a list of 3" in w for w in d.warnings)


def _take(data: bytes) -> object:
    from robustkit.isolation import wire

    inbox = wire.Inbox()
    inbox.feed(data)
    return inbox.take()


# The parent's end

PARENT = """
    import sys
    import threading
    sys.path.insert(0, {tests!r})
    import hostile
    from robustkit.isolation import CodecWorkers, Limits
    from robustkit.registry import CodecSpec, Target

    if __name__ == "__main__":
        spec = CodecSpec("hostile", Target("hostile", {codec!r}), {{}})
        stream = hostile.Honest().encode(hostile.np.zeros((8, 8, 3), dtype="uint8"))
        with CodecWorkers(spec, workers=2, directory={directory!r}, limits=Limits(seconds=600)) as workers:
            [workers.decode(stream) for _ in range(4)]
            print(*workers.pids, flush=True)
            threading.Timer(0.3, print, ["decoding"], dict(flush=True)).start()
            {call}
"""


@pytest.mark.parametrize("call", ["workers.decode(stream + b'x')", "workers.decode_many([stream + b'x'] * 4)"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_no_process_outlives_its_parent(number: signal.Signals, call: str, tmp_path: Path) -> None:
    """Even one that loops in C with the interpreter's lock held."""
    script = tmp_path / "parent.py"
    code = PARENT.format(
        tests=str(ROOT / "tests" / "quality"), codec="LoopsInC", directory=str(tmp_path / "streams"), call=call
    )
    script.write_text(textwrap.dedent(code))
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        try:
            pids = [int(p) for p in parent.stdout.readline().split()]
            assert len(pids) == 2
            assert parent.stdout.readline() == "decoding\n"
            assert all(map(alive, pids))
            parent.send_signal(number)
            parent.wait(timeout=30)
        finally:
            parent.kill()
    assert parent.returncode != 0
    assert gone(pids)
    # The stream that was being decoded is on disk for whoever looks for the cause; after Ctrl-C nothing is.
    assert any((tmp_path / "streams").iterdir()) is (number is not signal.SIGINT)


def test_workers_start_whatever_thread_asks(stream: bytes, tmp_path: Path) -> None:
    """Linux ties a process that asks for its parent's death signal to the thread that started it."""
    import threading

    found: list[CodecWorkers] = []
    thread = threading.Thread(
        target=lambda: found.append(CodecWorkers(spec(hostile.Honest), directory=tmp_path, limits=PATIENT))
    )
    thread.start()
    thread.join()
    (workers,) = found
    with workers:
        pids = workers.pids
        time.sleep(0.2)
        assert all(map(alive, pids))
        assert workers.decode(stream).outcome is None
        assert workers.pids == pids


def test_a_script_can_test_a_codec_of_its_own_and_never_starts_workers_in_workers(tmp_path: Path) -> None:
    guarded = """
        import robustkit
        from robustkit.isolation import CodecWorkers
        import numpy as np

        @robustkit.register
        class Mine(robustkit.Codec):
            name = "mine"
            family = "own"
            def encode(self, image): return image.tobytes()
            def decode(self, bitstream): return np.frombuffer(bitstream, np.uint8).reshape(8, 8, 3)

        def main():
            with CodecWorkers(robustkit.registry.get("mine").spec(), directory="streams") as workers:
                print(workers.decode(bytes(192)).image.shape)
    """
    for name, start, wanted in (
        ("guarded.py", "if __name__ == '__main__': main()", "(8, 8, 3)"),
        ("unguarded.py", "main()", "put that under if __name__ == '__main__'"),
    ):
        script = tmp_path / name
        script.write_text(textwrap.dedent(guarded) + "\n" + start + "\n")
        run = subprocess.run(
            [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert wanted in run.stdout + run.stderr, run.stderr


@pytest.mark.slow
def test_it_works_under_xdist(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(f"""
            import sys
            sys.path.insert(0, {str(ROOT / "tests" / "quality")!r})
            import hostile, os, pytest
            from robustkit import CodecSpec, Outcome
            from robustkit.isolation import CodecWorkers, Limits
            from robustkit.registry import Target

            @pytest.mark.parametrize("n", range(4))
            def test_decodes(n, tmp_path):
                stream = hostile.Honest().encode(hostile.np.zeros((8, 8, 3), dtype="uint8"))
                spec = CodecSpec("hostile", Target("hostile", "Segfault"))
                assert os.environ["PYTEST_XDIST_WORKER_COUNT"] == "2"
                with CodecWorkers(spec, directory=tmp_path, limits=Limits(seconds=30)) as workers:
                    for _ in range(3):
                        assert workers.decode(stream + b"x").outcome is Outcome.CRASHED
                        assert workers.decode(stream).outcome is None
        """)
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "4 passed" in run.stdout, run.stdout + run.stderr


def test_importing_isolation_imports_neither_torch_nor_a_codec() -> None:
    code = (
        "import sys, robustkit.isolation; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'PIL') or m.startswith('robustkit.codecs')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout == "[]\n"


def test_a_result_says_what_it_is() -> None:
    assert Decoded(None, Outcome.HUNG).warnings == ()
    assert Decoded(None, Outcome.HUNG).image is None
