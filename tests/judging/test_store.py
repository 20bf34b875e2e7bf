"""Trials on disk: a run that was stopped goes on, and nothing of one codec is taken for another's."""

import json
import os
import resource
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from robustkit import registry
from robustkit.channels import BSC, Burst
from robustkit.isolation import Limits
from robustkit.judging.store import StoreError, TrialStore
from robustkit.judging.subject import Job, Subject
from robustkit.outcome import Outcome
from robustkit.registry import CodecSpec, Target

#: Stores images of 12 x 12 after a byte that must stay zero, and leaves a mark for each decode.
CODEC = dedent(
    """
    from pathlib import Path

    import numpy as np
    from robustkit import Codec, DecodeError


    class Stored(Codec):
        name = "stored"
        family = "test"

        def __init__(self, *, level=0):
            self.level = level

        def encode(self, image):
            return b"\\0" + image.tobytes()

        def decode(self, bitstream):
            with Path(__file__).with_name("decodes").open("a") as file:
                file.write("x")
            if bitstream[:1] != b"\\0":
                raise DecodeError("the first byte is not zero")
            return np.frombuffer(bitstream[1:], np.uint8).reshape(12, 12, 3)
    """
)
IMAGES = {name: np.full((12, 12, 3), level, dtype=np.uint8) for name, level in (("dark", 10), ("light", 100))}
NOISE = BSC(0.02)


class Bench:
    """A codec's file, and runs on it with a file of trials."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "stored.py"
        self.source.write_text(CODEC)
        self.path = folder / "trials" / "stored.jsonl"
        self.old = self.path.with_name("stored.jsonl.old")
        self.told: list[str] = []
        self.made: list[Subject] = []
        self.folder = folder

    @property
    def decodes(self) -> int:
        marks = self.folder / "decodes"
        return marks.stat().st_size if marks.exists() else 0

    def subject(self, *, spec=None, settings=None, **more):
        target = Target("stored", "Stored", str(self.source))
        spec = spec or CodecSpec("stored", target, settings or {})
        given = {"images": IMAGES, "trials": 20, **more}
        self.made.append(Subject(spec, directory=self.folder / "streams", **given))
        return self.made[-1]

    def store(self, subject=None, **more):
        return TrialStore(self.path, subject or self.subject(**more), tell=self.told.append)

    def run(self, subject=None, channel=NOISE, **more):
        """How many trials were run, and all trials."""
        store = self.store(subject, **more)
        jobs = store.subject.jobs(channel)
        ran = len(list(store.run(jobs)))
        return ran, store.trials(jobs)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = Bench(tmp_path)
    yield found
    for subject in found.made:
        subject.close()


def timeless(trials):
    return [replace(trial, seconds=0.0) for trial in trials]


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- going on


def test_a_second_run_runs_nothing_and_has_the_same_trials(bench):
    ran, first = bench.run()
    assert ran == 40
    assert {t.outcome for t in first} >= {Outcome.DEGRADED, Outcome.REFUSED}
    written, decodes = bench.path.read_bytes(), bench.decodes
    ran, second = bench.run()
    # To the last digit, patterns and messages too.
    assert (ran, second) == (0, first)
    # The clean round trips alone.
    assert bench.decodes == decodes + len(IMAGES)
    assert bench.path.read_bytes() == written
    assert bench.told == []


def test_stored_trials_are_those_of_a_run_without_a_store(bench):
    subject = bench.subject()
    plain = subject.trials(NOISE)
    bench.run()
    assert timeless(bench.run()[1]) == timeless(plain)


def test_more_trials_and_channels_run_only_what_is_lacking(bench):
    _, few = bench.run(trials=7)
    ran, more = bench.run(trials=9)
    assert ran == 4
    assert [t for t in more if t.number < 7] == few
    # Fewer take the first of each image, which is what the suite does.
    assert bench.run(trials=3) == (0, [t for t in few if t.number < 3])
    assert bench.run(trials=3, channel=Burst(9))[0] == 6
    assert len(bench.store()) == 18 + 6


def test_two_processes_give_the_trials_of_one(bench):
    _, alone = bench.run()
    bench.path.unlink()
    assert timeless(bench.run(workers=2)[1]) == timeless(alone)


@pytest.mark.parametrize("beyond", [0, 100], ids=["between lines", "in a line"])
def test_a_file_that_was_cut_goes_on(bench, beyond):
    _, whole = bench.run()
    lines = bench.path.read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:11])
    bench.path.write_bytes(kept + lines[11][:beyond])
    ran, trials = bench.run()
    assert ran == 30
    assert timeless(trials) == timeless(whole)
    assert bench.path.read_bytes().startswith(kept)
    # The cut line has not spoilt the one behind it.
    assert bench.run() == (0, trials)
    assert len(rows(bench.path)) == 41


def test_a_file_may_be_cut_anywhere_behind_its_first_line(bench):
    subject = bench.subject()
    bench.run(subject)
    whole = bench.path.read_bytes()
    for end in range(whole.index(b"\n") + 1, len(whole), 331):
        bench.path.write_bytes(whole[:end])
        assert len(bench.store(subject)) == whole[:end].count(b"\n") - 1
        assert whole.startswith(bench.path.read_bytes())
        assert bench.path.read_bytes().endswith(b"\n")
    assert bench.told == []


def test_what_was_run_is_kept_when_the_run_is_left(bench):
    store = bench.store()
    running = store.run(store.subject.jobs(NOISE))
    for _ in range(21):
        next(running)
    running.close()
    assert len(bench.store()) == len(store) == 21
    assert bench.run()[0] == 19


def test_a_trial_is_on_disk_when_the_next_batch_is_decoded(bench):
    store = bench.store()
    running = store.run(store.subject.jobs(NOISE))
    for _ in range(17):
        next(running)
    # As it is where the process is killed now.
    assert len(rows(bench.path)) == 1 + 16


def test_a_job_given_twice_is_run_once(bench):
    store = bench.store()
    job = Job("dark", NOISE, 0)
    assert len(list(store.run([job, job]))) == 1
    assert store.missing([job, Job("dark", NOISE, 1)]) == [Job("dark", NOISE, 1)]


def test_a_trial_stored_twice_counts_once(bench):
    _, first = bench.run()
    whole = bench.path.read_bytes()
    bench.path.write_bytes(whole + whole.splitlines(keepends=True)[-1])
    assert bench.run() == (0, first)
    assert bench.path.read_bytes() == whole


# -- other trials


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"settings": {"level": 1}}, "other settings:"),
        ({"metric": "ssim"}, "other metric:"),
        ({"seed": 1}, "other seed:"),
        ({"limits": Limits(seconds=9)}, "other limits:"),
    ],
)
def test_trials_of_another_run_are_put_aside(bench, more, said):
    bench.run()
    before = bench.path.read_bytes()
    ran, trials = bench.run(**more)
    assert ran == 40
    (line,) = bench.told
    assert said in line
    assert "kept as stored.jsonl.old, measuring anew" in line
    assert bench.old.read_bytes() == before
    assert bench.run(**more) == (0, trials)


def test_another_version_of_the_codecs_source_is_another_codec(bench):
    """Also where nothing but damaged streams show it."""
    bench.run()
    bench.source.write_text(CODEC.replace("reshape(12, 12, 3)", "reshape(12, 12, 3) & 127"))
    ran, trials = bench.run()
    assert ran == 40
    assert "other sources of the codec:" in bench.told[0]
    assert bench.old.exists()
    # The first version's file still serves the first version.
    bench.source.write_text(CODEC)
    os.replace(bench.old, bench.path)
    again, first = bench.run()
    assert again == 0
    assert timeless(first) != timeless(trials)


def test_another_release_of_robustkit_is_told_apart(bench, monkeypatch):
    bench.run()
    monkeypatch.setattr("robustkit.judging.store.__version__", "999")
    assert bench.run()[0] == 40
    assert "other version of robustkit:" in bench.told[0]


def test_other_pixels_under_the_same_name_are_another_image(bench):
    _, first = bench.run()
    before = bench.path.read_bytes()
    images = {**IMAGES, "dark": IMAGES["dark"] + 1}
    ran, trials = bench.run(images=images)
    assert ran == 20
    assert [t for t in trials if t.image == "light"] == [t for t in first if t.image == "light"]
    assert "clean decodes of dark: kept as stored.jsonl.old, measuring these anew" in bench.told[0]
    assert bench.old.read_bytes() == before
    assert bench.run(images=images) == (0, trials)


def test_trials_of_images_that_are_not_here_wait_for_them(bench):
    _, first = bench.run()
    light = {"light": IMAGES["light"]}
    assert bench.run(images=light) == (0, [t for t in first if t.image == "light"])
    assert bench.run(images={**light, "grey": IMAGES["dark"] + 50})[0] == 20
    # Also where the file is written anew, for another reason.
    bench.path.write_bytes(bench.path.read_bytes()[:-5])
    assert bench.run(images=light)[0] == 0
    assert bench.run() == (0, first)
    assert bench.told == []


def test_promises_in_a_codec_file_decide_nothing(bench):
    """Measured, and pasted into the file: they can be checked against the trials that they came from."""
    file = bench.folder / "copies.toml"
    text = 'name = "copies"\nencode = "cp {input} {output}"\ndecode = "cp {input} {output}"\ndecoded = ".png"\n'

    def run(more=""):
        file.write_text(text + more)
        spec = registry.get(str(file)).spec()
        return bench.run(spec=spec, images={"dark": IMAGES["dark"]}, trials=3)[0]

    assert run() == 3
    assert run("[profile]\nbpp = 9.0\nquality = 40.0\n") == 0
    assert run("seconds = 9\n") == 3
    assert "other settings" in bench.told[0]


# -- no trials at all


def test_a_file_of_something_else_is_left_alone(bench):
    subject = bench.subject()
    bench.path.parent.mkdir()
    texts = [b"", b"hello\n", b"\x89PNG\r\n\x1a\n\0\0", b"[1, 2]\n", b"{}\n", b'{"trials": 1, "identity": 3}\n']
    for content in (*texts, b"[" * 9999 + b"\n"):
        bench.path.write_bytes(content)
        with pytest.raises(StoreError, match="is no file of trials: remove the file, or name another one"):
            bench.store(subject)
        assert bench.path.read_bytes() == content
    assert not bench.old.exists()


def test_a_file_of_another_version_is_left_alone(bench):
    bench.run()
    content = bench.path.read_bytes().replace(b'"trials": 1', b'"trials": 99')
    bench.path.write_bytes(content)
    with pytest.raises(StoreError, match="of another version of robustkit"):
        bench.store()
    assert bench.path.read_bytes() == content


def test_a_line_that_is_no_trial_is_named(bench):
    subject = bench.subject(trials=2)
    bench.run(subject)
    first, line, *others = bench.path.read_text().splitlines(keepends=True)
    row = json.loads(line)
    assert row["outcome"] == "degraded"
    cases = {
        "no channel is named 'bsk'": {"channel": "bsk(ber=0.01)"},
        "'melted' is not a valid Outcome": {"outcome": "melted"},
        "NaN is no number": {"drops": {"psnr": float("nan")}},
        "Infinity is no number": {"seconds": float("inf")},
        "'3.1' is no measurement": {"metrics": {"psnr": "3.1"}},
        "True is no measurement": {"seconds": True},
        "number = 1.5": {"number": 1.5},
        "number = '1'": {"number": "1"},
        "image = None": {"image": None},
        "message = 3": {"message": 3},
        "drops of ssim for an outcome degraded": {"drops": {"ssim": 0.5}},
        "metrics of psnr for an outcome refused": {"outcome": "refused"},
        "metrics of nothing for an outcome degraded": {"metrics": {}},
    }
    texts = {reason: json.dumps({**row, **change}) for reason, change in cases.items()}
    texts["it has no 'digests'"] = json.dumps({k: v for k, v in row.items() if k != "digests"})
    texts["inf is no measurement"] = json.dumps(row).replace(f'"seconds": {row["seconds"]}', '"seconds": 1e999')
    texts["Expecting value"] = ""
    texts["Extra data"] = json.dumps(row) * 2
    texts["list indices"] = "[]"
    for reason, text in texts.items():
        content = first + text + "\n" + "".join(others)
        bench.path.write_text(content)
        with pytest.raises(StoreError) as failed:
            bench.store(subject)
        assert str(failed.value).startswith(f"{bench.path}, line 2, is no trial (")
        assert reason in str(failed.value)
        assert bench.path.read_text() == content


# -- disks


@contextmanager
def room_for(size):
    """No file may grow beyond ``size`` bytes: a write takes what fits, and fails after that, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_run_and_spoils_nothing(bench):
    subject = bench.subject()
    _, whole = bench.run(subject)
    lines = bench.path.read_bytes().splitlines(keepends=True)
    bench.path.unlink()
    store = bench.store(subject)
    ends = [sum(map(len, lines[:count])) for count in (1, 17, 33)]
    running = store.run(subject.jobs(NOISE))
    with (
        room_for((ends[1] + ends[2]) // 2),
        pytest.raises(StoreError, match=r"stored.jsonl can't be written: File too"),
    ):
        list(running)
    # Of the batch that did not fit there is no part.
    assert len(rows(bench.path)) == 1 + 16
    ran, trials = bench.run(subject)
    assert ran == 24
    assert timeless(trials) == timeless(whole)


def test_a_disk_that_is_full_from_the_start_is_said_before_any_trial(bench):
    subject = bench.subject()
    _ = subject.clean
    with room_for(20), pytest.raises(StoreError, match="can't be written"):
        bench.store(subject)
    assert list(bench.path.parent.iterdir()) == []


def test_a_file_that_was_removed_is_not_begun_without_its_first_line(bench):
    store = bench.store()
    bench.path.unlink()
    with pytest.raises(StoreError, match="can't be written: No such file"):
        list(store.run(store.subject.jobs(NOISE)))
    assert not bench.path.exists()


def test_a_folder_is_no_file(bench):
    bench.path.mkdir(parents=True)
    with pytest.raises(StoreError, match="can't be read: Is a directory"):
        bench.store()
    bench.path = bench.source / "trials.jsonl"
    with pytest.raises(StoreError, match="can't be read: Not a directory"):
        bench.store()
