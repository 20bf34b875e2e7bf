"""Certificates of real runs: in one process, spread over several, of a codec that fails, and with a lock."""

import json
import subprocess
import sys
import types
from dataclasses import replace

import pytest
from sharing import made_once
from suites import CODECS, make_suite

from robustkit.certificates import collect, corpus, lock, reading, statement, trials, write
from robustkit.certificates.intact import intact
from robustkit.certificates.model import CertificateError
from robustkit.certificates.said import State
from robustkit.channels import parse
from robustkit.judging.finding import CLAIMS

SMALL = ["--robustkit-max-examples", "8", "--robustkit-trials", "12", "-p", "no:cacheprovider", "-q"]
TIMEOUT = 300


def git(folder, *words):
    given = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *given, *words], cwd=folder, check=True, capture_output=True, timeout=60)


def run(folder, *words):
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    return done.returncode, done.stdout + done.stderr


def in_one_process(folder):
    """Two codecs of a user's, one of which crashes."""
    make_suite(folder)
    status, said = run(
        folder, "pytest", "conformance", "--codec", "plain,touchy", "--robustkit-certificate", "out", *SMALL
    )
    (folder / "said.txt").write_text(f"{status}\n{said}")


def over_several(folder):
    """A codec in a repository, registered before; the checks spread over two processes."""
    (folder / "mine.py").write_text(CODECS)
    (folder / ".gitignore").write_text("__pycache__\nrobustkit-report\nout\nlock.txt\nsaid.txt\n.hypothesis\n")
    git(folder, "init", "-q")
    locked = run(folder, "robustkit", "lock", "mine:Plain", "--effort", "quick")
    (folder / "lock.txt").write_text(f"{locked}")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "what is certified")
    certify = ["robustkit", "certify", "mine:Plain", "--out", "out", "--effort", "quick", "--map", "40"]
    # Not fewer trials: those are what is registered.
    status, said = run(folder, *certify, "--", "-n", "2", "--robustkit-max-examples", "8")
    (folder / "said.txt").write_text(f"{status}\n{said}")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_once(tmp_path_factory, "certified", {"one": in_one_process, "several": over_several})


@pytest.fixture(scope="module")
def one(made):
    return made[0]


@pytest.fixture(scope="module")
def several(made):
    return made[1]


def read(folder):
    return statement.loads((folder / write.STATEMENTS).read_bytes())


def test_each_codec_has_a_folder_with_the_closed_list(one):
    for name in ("plain", "touchy"):
        there = {path.name for path in (one / "out" / name).iterdir()}
        assert there <= set(write.FILES)
        assert there >= set(write.FILES) - {write.REPLAY}
    assert {path.name for path in (one / "out").iterdir()} == {"plain", "touchy"}


def test_the_figures_of_a_certificate_agree_with_one_another(one):
    for name in ("plain", "touchy"):
        found = read(one / "out" / name)
        rows = trials.read(one / "out" / name / trials.FILE)
        assert len(rows) == found.trials_count > 0
        assert trials.root(rows) == found.trials_root
        assert trials.ordered(rows, found.corpus.channels) == rows
        assert corpus.digest_of(found.corpus) == found.corpus.digest
        assert set(found.corpus.channels) == {row.channel for row in rows} == {c.channel for c in found.channels}
        for result in found.channels:
            here = [row for row in rows if row.channel == result.channel]
            assert sum(result.outcomes.values()) == len(here)
            assert all(count == sum(row.outcome == end for row in here) for end, count in result.outcomes.items())
        clean = {image.name: image for image in found.corpus.images}
        for row in rows:
            assert (row.pixels is None) == (row.quality is None) == (row.drop is None)
            assert (row.pixels == clean[row.image].pixels) == (row.outcome == "intact")
            assert (row.flips == 0) == (row.stream == clean[row.image].stream)


def test_what_real_runs_certify_is_intact(one, several):
    for folder in (one / "out" / "plain", one / "out" / "touchy", several / "out"):
        part = intact(reading.read(folder))
        assert (part.wrong, part.state) == ((), State.RIGHT)


def test_a_row_can_be_drawn_again_from_what_the_certificate_says(one):
    found = read(one / "out" / "plain")
    row = next(row for row in trials.read(one / "out" / "plain" / trials.FILE) if row.flips)
    image = next(image for image in found.corpus.images if image.name == row.image)
    again = parse(row.channel).draw(
        8 * image.stream_bytes, None, codec=found.codec, image=row.image, trial=row.number, seed=row.seed
    )
    assert len(again.flips) == row.flips


def test_what_blocks_is_named(one):
    plain, touchy = (read(one / "out" / name) for name in ("plain", "touchy"))
    assert not plain.certified
    assert not touchy.certified
    assert "less was tried than the effort says: --robustkit-trials --robustkit-max-examples" in plain.blockers
    assert any(line.startswith("counterexample: decode survives") for line in touchy.blockers)
    assert not any(line.startswith(("counterexample", "unidentified", "left out")) for line in plain.blockers)
    assert {line.claim for line in plain.lines} == set(CLAIMS)


def test_counterexamples_lie_in_replay_and_are_named(one):
    found = read(one / "out" / "touchy")
    broken = {line.claim for line in found.lines if line.verdict == "broken"}
    assert found.counterexamples
    for example in found.counterexamples:
        assert example.claim in broken
        assert example.replay.startswith("replay/")
        assert (one / "out" / "touchy" / example.replay).is_file()
    named = {example.replay.removeprefix("replay/") for example in found.counterexamples}
    streams = {name.removesuffix(".replay.json") + ".bin" for name in named}
    assert {path.name for path in (one / "out" / "touchy" / write.REPLAY).iterdir()} == named | streams


def test_a_run_that_fails_leaves_its_page_and_names_it(one):
    status, said = (one / "said.txt").read_text().split("\n", 1)
    assert status == "1"
    page = one / "robustkit-report" / "index.html"
    assert "touchy" in page.read_text()
    assert "robustkit-report/index.html" in said
    assert "touchy: not certified: out/touchy" in said
    assert not list((one / "robustkit-report").glob("parts-*"))


@pytest.mark.parametrize("hashed", [True, False])
def test_only_a_run_that_hashes_files_can_miss_them(hashed):
    part = types.SimpleNamespace(counterexamples=(), promises=("bsc",), judged=True, subject=())
    run = types.SimpleNamespace(
        findings=[], loosened=(), other_images=(), less=(), dirty=None, trouble=("no more",), hashed=hashed
    )
    found = [line for line in collect.blockers(part, run) if line.startswith("unidentified codec")]
    assert len(found) == hashed


def test_a_lock_that_was_committed_before_the_run_is_named_with_its_commit(several):
    found = read(several / "out")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=several, capture_output=True, text=True, check=True).stdout
    assert found.lock.registered
    assert found.lock.commit == head.strip()
    assert found.lock.commit in found.lock.said
    assert found.codec == "plain"
    assert found.asked == "mine:Plain"


def test_a_run_over_several_processes_gives_a_whole_certificate(several):
    found = read(several / "out")
    assert {line.claim for line in found.lines} == set(CLAIMS)
    assert found.blockers == ("less was tried than the effort says: --robustkit-max-examples",)
    assert found.trials_count == len(trials.read(several / "out" / trials.FILE)) > 0
    assert {part.kind for part in found.subject} >= {"package"}
    assert any(part.name.startswith("mine ") for part in found.subject)
    assert {rate.kind for rate in found.error_rates} == {"false alarm", "detection"}
    assert not any(line.startswith("dirty") for line in found.blockers)


def test_certify_says_the_verdict_and_what_blocks_it_and_no_more(several):
    status, said = (several / "said.txt").read_text().split("\n", 1)
    assert status == "0"
    assert said.splitlines() == [
        read(several / "out").sentence,
        "  less was tried than the effort says: --robustkit-max-examples",
        "not certified: out",
        "its page: out/certificate.html",
    ]


def test_a_lock_comes_back_and_says_what_differs(several, tmp_path):
    data = (several / lock.FILE).read_bytes()
    (ours,) = lock.loads(data).values()
    assert lock.loads(lock.dumps({"mine:Plain": ours}).encode()) == {"mine:Plain": ours}
    found = lock.Found(several / lock.FILE, data, "c0ffee")
    said, blocked = lock.judged(found, "mine:Plain", ours)
    assert said.registered
    assert not blocked
    said, blocked = lock.judged(found, "mine:Plain", replace(ours, seed=7, profile="other"))
    assert not said.registered
    assert blocked == ["robustkit.lock disagrees with the run: other profile, seed"]
    said, blocked = lock.judged(replace(found, commit=""), "mine:Plain", ours)
    assert (said.registered, blocked) == (False, [])
    assert "not committed" in said.said
    assert lock.judged(None, "mine:Plain", ours)[0].said == "declared with the result"
    assert "nothing of other" in lock.judged(found, "other", ours)[0].said


@pytest.mark.parametrize(
    "text",
    ["", "version = 2\ncodecs = {}", "version = 1", "version = 1\ncodecs = 3", "\0", "version = 1\n[codecs]\nx = {}"],
)
def test_what_is_no_lock_is_refused(text):
    with pytest.raises(CertificateError, match=r"robustkit\.lock"):
        lock.loads(text.encode())


def test_a_changed_or_unknown_source_is_a_dirty_tree(tmp_path):
    from robustkit.certificates import tree

    (tmp_path / "mine.py").write_text("")
    assert tree.dirty(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert tree.dirty(tmp_path) == "mine.py not committed"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "mine")
    assert tree.dirty(tmp_path) is None
    (tmp_path / "notes.txt").write_text("of no consequence")
    assert tree.dirty(tmp_path) is None
    assert tree.committed(tmp_path / "notes.txt") is None
    assert tree.committed(tmp_path / "mine.py").data == b""
    (tmp_path / "mine.py").write_text("changed")
    assert tree.dirty(tmp_path) == "mine.py not committed"
    assert tree.committed(tmp_path / "mine.py") is None
    assert tree.dirty(None) is None


def test_reproducers_can_be_withheld_and_a_folder_with_other_files_is_refused_at_once(tmp_path):
    make_suite(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    words = ["pytest", "conformance", "--codec", "dead", *SMALL, "-k", "clean_round_trip or empty"]
    status, said = run(tmp_path, *words, "--robustkit-certificate", "thesis")
    assert status == 4
    assert "chapter.tex" in said
    status, said = run(tmp_path, *words, "--robustkit-withhold-reproducers")
    assert status == 4
    assert "--robustkit-withhold-reproducers is about a certificate" in said
    # No clean round trip works: there is nothing to certify, and that is said.
    status, said = run(tmp_path, *words, "--robustkit-certificate", "out")
    assert status == 1
    assert "no certificate of dead" in said


def test_withheld_streams_leave_their_digests(tmp_path):
    make_suite(tmp_path)
    words = [
        "pytest",
        "conformance",
        "--codec",
        "touchy",
        *SMALL,
        "-k",
        "test_survival",
        "--robustkit-certificate",
        "out",
    ]
    run(tmp_path, *words, "--robustkit-withhold-reproducers")
    found = read(tmp_path / "out")
    assert not (tmp_path / "out" / write.REPLAY).exists()
    assert found.counterexamples
    assert all(len(example.stream) == 64 and not example.replay for example in found.counterexamples)
    assert not any(example.damage or example.command for example in found.counterexamples)
    assert any(line.startswith("left out: ") for line in found.blockers)
    assert json.loads((tmp_path / "out" / write.ENDPOINT).read_text())["schemaVersion"] == 1
