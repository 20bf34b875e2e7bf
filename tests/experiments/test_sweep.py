"""Sweeps end to end, with real codecs in real processes: stopped, resumed, shared out, damaged."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage

from robustkit import quality
from robustkit.cli import main
from robustkit.experiments import identity, keep, merge, pictures, plan, rows, run, status, store, sweep
from robustkit.images import photographs, sets
from robustkit.quality import MetricUnavailable

SAID = {
    "codecs": ["jpeg", "png"],
    "channels": ["bsc"],
    "bers": [1e-4, 1e-3],
    "trials": 12,
    "metrics": ["psnr", "ssim"],
}
#: Clean decodes and trials of two codecs and two images.
ROWS = 2 * 2 * (1 + 2 * 12)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, image in list(photographs(64).items())[:2]:
        PillowImage.fromarray(image).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def wanted(images):
    return plan.make({**SAID, "images": str(images)})


@pytest.fixture(scope="module")
def experiment(wanted):
    found, speeds = identity.examine(wanted, pictures.find(wanted.images, None), timed=True)
    assert all(speed.decode > 0 and speed.encode > 0 for speed in speeds.values())
    return found


@pytest.fixture(scope="module")
def undisturbed(experiment, wanted, tmp_path_factory):
    """A sweep that nothing happened to, and the bytes of its rows."""
    folder = tmp_path_factory.mktemp("undisturbed") / "rows"
    ended = sweep.sweep(folder, sweep.begin(folder, experiment), wanted)
    assert (ended.written, ended.done, ended.failed, ended.given_up) == (ROWS, ROWS, {}, {})
    return folder, compacted(folder)


def compacted(folder):
    out = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:8]}")
    merge.merge([folder], out)
    data = (out / store.ROWS).read_bytes()
    shutil.rmtree(out)
    return data


def cli(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def test_rows_say_what_was_run(undisturbed, images):
    found = store.read(undisturbed[0]).to_pylist()
    assert len(found) == ROWS
    clean = [row for row in found if row["trial"] == -1]
    assert {(row["entry"], row["image"]) for row in clean} == {
        (codec, image.name) for codec in ("jpeg", "png") for image in images.iterdir()
    }
    assert all(
        (row["channel"], row["outcome"], row["flips"], row["severity"]) == ("clean", "intact", 0, 0) for row in clean
    )
    trials = [row for row in found if row["trial"] >= 0]
    assert {row["channel"] for row in trials} == {"bsc(ber=0.0001)", "bsc(ber=0.001)"}
    for row in trials:
        there = row["outcome"] in ("intact", "degraded")
        assert (row["psnr"] is not None, row["ssim"] is not None) == (there, there)
        assert (row["region"] is not None) == (row["flips"] > 0)
        assert row["bpp"] == row["stream_bytes"] * 8 / 64**2
    assert {row["outcome"] for row in trials} >= {"intact", "degraded", "refused"}
    said = rows.metrics_of(store.read(undisturbed[0]))
    assert list(said) == ["psnr", "ssim"]
    assert said == {name: quality.METRICS[name].record() for name in said}
    # Each trial is what the codec's own subject makes of it alone.
    assert len({row["stream_digest"] for row in found}) == 4


def test_a_sweep_that_was_stopped_goes_on_and_its_rows_are_the_same(
    undisturbed, experiment, wanted, tmp_path, monkeypatch
):
    folder = tmp_path / "rows"
    experiment = sweep.begin(folder, experiment)
    written = store.write_part
    left = [2]

    def stops(where, found):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return written(where, found)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(store, "write_part", stops)
        with pytest.raises(KeyboardInterrupt):
            sweep.sweep(folder, experiment, wanted)
    kept = store.read(folder).num_rows
    assert 0 < kept < ROWS
    found = status.status(folder)
    assert not found.complete
    assert sum(codec.done for codec in found.codecs) == kept
    assert found.flights == []
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises((sweep.SweepError, store.RowsError), match="No space left on device"):
            sweep.sweep(folder, experiment, wanted)
    # A part that is cut is named, and when it is gone its trials are run again.
    part = store.parts(folder)[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(store.RowsError, match=part.name):
        sweep.sweep(folder, experiment, wanted)
    part.unlink()
    ended = sweep.sweep(folder, experiment, wanted)
    assert ended.done == ROWS
    assert compacted(folder) == undisturbed[1]
    assert status.status(folder).complete
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "parts", "streams"]
    again = sweep.sweep(folder, experiment, wanted)
    assert (again.written, again.done) == (0, ROWS)


def test_shares_merge_into_the_same_rows_and_are_exported(undisturbed, experiment, wanted, tmp_path):
    shares = [tmp_path / f"share-{share}" for share in (1, 2)]
    for share, folder in enumerate(shares, start=1):
        sweep.sweep(folder, sweep.begin(folder, experiment), wanted, shard=(share, 2))
    out = tmp_path / "whole"
    # One of them twice: equal duplicates are dropped.
    assert f"{ROWS} rows" in cli("merge", *shares, undisturbed[0], "--out", out).output
    assert (out / store.ROWS).read_bytes() == undisturbed[1]
    assert "complete" in cli("status", out, "--points").output
    said = json.loads(cli("status", out, "--json").output)
    assert [(c["label"], c["planned"], c["done"]) for c in said["codecs"]] == [("jpeg", 50, 50), ("png", 50, 50)]
    cli("export", out, "--csv", tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(lines) == 1 + ROWS
    assert lines[0].startswith('"entry","codec","settings"')
    assert "is there already" in cli("merge", *shares, "--out", out, code=1).output


def test_another_experiment_s_folder_is_refused_and_what_differs_is_named(
    undisturbed, experiment, wanted, images, tmp_path
):
    folder = undisturbed[0]

    def refused(changed):
        with pytest.raises(identity.ExperimentError) as caught:
            sweep.begin(folder, changed)
        assert "Give --out another folder" in str(caught.value)
        return str(caught.value)

    other = {**experiment.__dict__}
    moved = tuple(picture._replace(digest="0") if not i else picture for i, picture in enumerate(experiment.pictures))
    assert f"images ({moved[0].name})" in refused(identity.Experiment(**{**other, "pictures": moved}))
    jpeg, png = experiment.entries
    newer = identity.Resolved(jpeg.entry, "", jpeg.name, "0", {**jpeg.parts, "sources": "0"})
    assert "jpeg: sources" in refused(identity.Experiment(**{**other, "entries": (newer, png)}))
    seeded = plan.make({**SAID, "images": str(images), "seed": 1})
    assert "seed" in refused(identity.Experiment(**{**other, "plan": seeded}))
    assert compacted(folder) == undisturbed[1]
    something = tmp_path / "something"
    something.mkdir()
    (something / "thesis.tex").touch()
    with pytest.raises(identity.ExperimentError, match="holds something else"):
        sweep.begin(something, experiment)


def test_more_trials_and_codecs_go_into_the_same_folder(undisturbed, experiment, images, tmp_path):
    folder = tmp_path / "rows"
    shutil.copytree(undisturbed[0], folder)
    more = plan.make({**SAID, "images": str(images), "trials": 14, "codecs": ["png"]})
    found = identity.Experiment(**{**experiment.__dict__, "plan": more, "entries": experiment.entries[1:]})
    ended = sweep.sweep(folder, sweep.begin(folder, found), more)
    assert ended.written == 2 * 2 * 2
    told = {codec.label: (codec.planned, codec.done) for codec in status.status(folder).codecs}
    assert told == {"jpeg": (58, 50), "png": (58, 58)}
    assert store.read(folder).num_rows == ROWS + 8


def test_the_worst_and_the_median_trials_are_kept(undisturbed, experiment, images, tmp_path):
    folder = tmp_path / "rows"
    shutil.copytree(undisturbed[0], folder)
    kept = plan.make({**SAID, "images": str(images), "codecs": ["jpeg"], "keep": ["worst:1", "median:1"]})
    found = identity.Experiment(**{**experiment.__dict__, "plan": kept, "entries": experiment.entries[:1]})
    sweep.sweep(folder, sweep.begin(folder, found), kept)
    known = {tuple(row[name] for name in rows.KEY): row for row in store.read(folder).to_pylist()}
    there = list(keep.read(folder))
    assert len({k.stream for k in there}) == len(there)
    assert sum("worst 1" in k.why for k in there) == sum("median 1" in k.why for k in there) == 2 * 2
    for each in there:
        row = known[tuple(each.row[name] for name in rows.KEY)]
        assert (each.picture is not None) == (row["psnr"] is not None)
        if "worst 1" in each.why:
            others = [r["psnr"] for key, r in known.items() if key[:3] == tuple(each.row[n] for n in rows.KEY[:3])]
            assert row["psnr"] is None or row["psnr"] == min(others)
        if each.picture is not None:
            with PillowImage.open(each.picture) as picture:
                assert picture.size == (64, 64)
    assert keep.chosen([{"trial": n, "psnr": v} for n, v in enumerate([3.0, None, 1.0])], "psnr", [("worst", 2)]) == {
        1: ["worst 1"],
        2: ["worst 2"],
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--codec", "jpeg", "--ber", "2"], "ber = 2.0 is out of range"),
        (["--codec", "jpeg", "--ber", "x"], "--ber x: that is no number"),
        (["--preset", "papers"], "no preset is named 'papers'"),
        (["--codec", "jpag", "--ber", "1e-3"], "did you mean jpeg"),
        (["--codec", "jpeg", "--ber", "1e-3", "--images", "nowhere"], "nowhere is not a folder"),
        (["--codec", "jpeg", "--ber", "1e-3", "--images", "kodak24"], "--allow-downloads"),
        (["--codec", "jpeg", "--ber", "1e-3", "--images", "."], "no image in"),
        (["--codec", "jpeg", "--ber", "1e-3", "--shard", "3/2"], "write I/N"),
        (["--codec", "jpeg", "--ber", "1e-3", "--until", "failures=1", "--shard", "1/2"], "exclude each other"),
        (["--codec", "jpeg", "--ber", "1e-3", "--set", "png:quality=1"], "not among the codecs"),
        (["--codec", "jpeg", "--ber", "1e-3", "--target-bpp", "jpeg"], "write CODEC=BPP"),
        ([], "no codec"),
    ],
)
def test_wrong_usage_is_said(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(sets.CACHE, str(tmp_path / "nothing"))
    assert said in cli("sweep", *arguments, "--out", tmp_path / "out", code=2).output
    assert not (tmp_path / "out").exists()


def test_an_image_that_a_codec_refuses_has_no_rows_and_a_reason(images, tmp_path):
    out = tmp_path / "out"
    flags = ("--codec", "jpeg", "--set", "max_pixels=100", "--ber", "1e-3", "--images", images, "--out", out)
    assert "has no rows: the codec refuses the image" in cli("sweep", *flags, code=1).output
    text = cli("status", out).output
    assert "complete but for what failed" in text
    assert text.count("failed: the codec refuses the image: 64x64 is 4096 pixels") == 2


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    text = cli(
        "sweep", "--codec", "jpeg", "--ber", "1e-3", "--images", tmp_path, "--out", tmp_path / "o", code=2
    ).output
    assert "broken.png can't be read as an image" in " ".join(text.split())


def test_images_are_found_by_their_numbers_and_read_when_they_are_needed(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("10.png", "2.png", "more/1.png"):
        PillowImage.new("RGB", (12, 9), (1, 2, 3)).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    notes = []
    found = pictures.find(str(tmp_path), 8, notes.append)
    assert [picture.name for picture in found] == ["2.png", "10.png", "more/1.png"]
    assert notes == [f"3 images in {tmp_path}; 1 other file left aside"]
    assert found[0].load().shape == (8, 8, 3)
    PillowImage.new("RGB", (12, 9), (1, 2, 4)).save(tmp_path / "2.png")
    with pytest.raises(pictures.ImageError, match="has other pixels than when the experiment began"):
        found[0].load()


def test_a_metric_that_may_be_left_out_is_said_where_it_can_t_run(wanted, experiment, images, monkeypatch):
    asked, notes = plan.make({**SAID, "images": str(images), "metrics": ["psnr", "ssim", "lpips?"]}), []

    def lacking(metric, image):
        if metric == "lpips":
            raise MetricUnavailable("it needs weights: FILE")

    monkeypatch.setattr(quality, "check", lacking)
    found, _ = identity.examine(asked, experiment.pictures, note=notes.append)
    assert found.plan == wanted
    assert notes == ["lpips is left out, it can't run here: it needs weights: FILE"]
    with pytest.raises(MetricUnavailable):
        identity.examine(plan.make({**SAID, "metrics": ["psnr", "lpips"]}), experiment.pictures)


def test_downloads_are_for_images_and_metrics_and_only_where_they_are_allowed(images, monkeypatch):
    fetched, allowed = [], []
    find = sets.find

    def finds(given, *, allow_downloads=False, note=None):
        allowed.append(allow_downloads)
        return find(given, note=note)

    monkeypatch.setattr(sets, "find", finds)

    def fetches(metric):
        fetched.append(metric)
        if metric == unreachable:
            raise MetricUnavailable("no network")

    monkeypatch.setattr(quality, "fetch", fetches)
    flags = ("sweep", "--codec", "png", "--ber", "1e-3", "--images", images, "--metric", "psnr-y", "--metric", "ssim?")
    unreachable = "ssim"
    cli(*flags, "--dry-run")
    cli(*flags, "--dry-run", "--allow-downloads")
    assert (allowed, fetched) == ([False, True], ["psnr_y", "ssim"])
    unreachable = "psnr_y"
    assert "no network" in cli(*flags, "--dry-run", "--allow-downloads", code=1).output


def test_a_plan_is_shown_with_what_can_t_run(tmp_path):
    text = cli(
        "sweep", "--codec", "jpeg", "--codec", "bpg-reference", "--ber", "1e-3", "--crop", "64", "--dry-run"
    ).output
    assert "6 images, 1 channel, 10 trials of each" in text
    assert "can't run here: " in text
    assert "about" in text


def marked(mark):
    """Processes that have the mark in their environment, by their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return found


def left_of(mark):
    """Those that are still there when all had time to end."""
    deadline = time.monotonic() + 20
    while (found := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
@pytest.mark.parametrize("victim", ["sweep", "decoder", "runner", "ctrl-c"])
def test_a_process_that_is_killed_changes_no_row_and_leaves_no_orphan(victim, undisturbed, images, tmp_path):
    folder, mark = tmp_path / "rows", uuid.uuid4().hex
    flags = ["--codec", "jpeg", "--codec", "png", "--ber", "1e-4,1e-3", "--trials", "12", "--images", images]
    metrics = ["--metric", "psnr", "--metric", "ssim"]
    command = [sys.executable, "-m", "robustkit", "sweep", *flags, *metrics, "--jobs", "2", "--out", folder]

    def start():
        environment = {**os.environ, "ROBUSTKIT_TEST_MARK": mark}
        return subprocess.Popen([str(c) for c in command], env=environment, stderr=subprocess.PIPE, text=True)

    process = start()
    word = {"decoder": "isolation.child", "runner": "experiments.run"}.get(victim)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        there = [pid for pid, line in marked(mark).items() if word and word in line]
        # A decoder is worth killing once runners are at work.
        at_work = (folder / run.STREAMS).exists()
        if process.poll() is not None or (at_work and (there or word is None)):
            break
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()
    if word is None:
        process.send_signal(signal.SIGINT if victim == "ctrl-c" else signal.SIGKILL)
    else:
        os.kill(there[-1], signal.SIGKILL)
    text = process.communicate(timeout=300)[1]
    if word is None:
        assert process.returncode == (130 if victim == "ctrl-c" else -signal.SIGKILL), text
        assert left_of(mark) == {}
    # A decoder that was killed while it loaded gives its codec up, for this run.
    if word is None or "was given up" in text:
        process = start()
        text = process.communicate(timeout=300)[1]
    assert process.returncode == 0, text
    assert compacted(folder) == undisturbed[1]
    assert left_of(mark) == {}
    assert not (folder / run.WORK).exists()
    assert not (folder / sweep.FLIGHT).exists()
