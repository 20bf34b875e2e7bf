"""A certificate is read as hostile input: a clear refusal, nothing run, nothing written."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sharing import made_once
from small_certificate import make, rewrite

from robustkit.certificates import canonical, reading, statement, trials
from robustkit.certificates import intact as checking
from robustkit.certificates.intact import intact
from robustkit.certificates.model import CertificateError, Counterexample
from robustkit.certificates.reading import inside, read, shown
from robustkit.certificates.said import State

STATEMENTS = "certificate.intoto.jsonl"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_once(tmp_path_factory, "small-certificate", {"it": make})[0] / "certificate"


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "certificate")


def refused(folder, says):
    with pytest.raises(CertificateError, match=says):
        read(folder)


def test_a_certificate_is_read_as_it_was_written(made):
    found = read(made)
    assert found.certificate.codec == "small-jpeg"
    assert found.rows is not None
    assert len(found.rows) == found.certificate.trials_count == 32
    assert (found.bundle, found.replays) == (None, ())
    assert intact(found).state is State.RIGHT


def test_statements_alone_are_read_and_leave_the_trials_untold(made):
    found = read(made / STATEMENTS)
    assert found.rows is None
    part = intact(found)
    assert part.state is State.UNTOLD
    assert "trials.parquet is not here" in part.said


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_the_statements_is_refused(made, tmp_path, data):
    whole = (made / STATEMENTS).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    (tmp_path / STATEMENTS).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    try:
        found = read(tmp_path / STATEMENTS)
    except CertificateError:
        return
    # A figure for another: what is read then is a certificate of another form, and no other file's.
    assert statement.dumps(found.certificate) == found.data != whole


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_the_trials_is_refused_or_found(made, tmp_path, monkeypatch, data):
    monkeypatch.setattr(checking, "_MOST_SIMULATED", 0)
    folder = tmp_path / "c"
    shutil.copytree(made, folder, dirs_exist_ok=True)
    whole = (made / trials.FILE).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    (folder / trials.FILE).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    try:
        found = read(folder)
    except CertificateError:
        return
    # Parquet has bytes that say nothing, such as who wrote it; the rows are the same then, or the root is another.
    assert (found.rows == read(made).rows) == (intact(found).state is State.RIGHT)


@pytest.mark.parametrize("name", [STATEMENTS, trials.FILE])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_what_was_cut_short_is_refused(copy, name, share):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: int(share * len(whole))])
    refused(copy, name.partition(".")[0])


@pytest.mark.parametrize(("name", "says"), [(STATEMENTS, "larger than 16 MiB"), (trials.FILE, "larger than 64 MiB")])
def test_a_hundred_megabytes_are_refused_before_they_are_read(copy, name, says):
    os.truncate(copy / name, 100 << 20)
    refused(copy, says)


def test_a_deep_nest_is_refused_and_no_stack_overflows(copy):
    (copy / STATEMENTS).write_bytes(b"[" * 10_000 + b"]" * 10_000 + b"\n" + b'{"a":' * 10_000 + b"\n")
    refused(copy, "nested too deep")


def test_a_key_that_is_there_twice_is_refused(copy):
    whole = (copy / STATEMENTS).read_bytes()
    (copy / STATEMENTS).write_bytes(whole.replace(b'{"_type":', b'{"_type":"x","_type":', 1))
    refused(copy, "twice")


def test_another_version_is_refused_with_the_way_out(copy):
    first, second = (copy / STATEMENTS).read_bytes().splitlines()
    changed = canonical.loads(second, "it")
    changed["predicate"]["version"] = 2
    (copy / STATEMENTS).write_bytes(first + b"\n" + canonical.dumps(changed) + b"\n")
    refused(copy, "version 2; this robustkit reads version 1")


def test_a_test_result_that_does_not_follow_is_refused(copy):
    whole = (copy / STATEMENTS).read_bytes()
    (copy / STATEMENTS).write_bytes(whole.replace(b'"result":"WARNED"', b'"result":"PASSED"', 1))
    refused(copy, "test result does not follow")


def naming(path):
    shows = Counterexample("decode.survives.bursts", "crashed", "", "0" * 64, (), path, "")
    return lambda found: replace(found, counterexamples=(shows,))


@pytest.mark.parametrize(
    "path",
    [
        "replay/../../../etc/passwd",
        "/etc/passwd",
        "../x.bin",
        "replay/..\\x",
        "replay",
        "replay//x",
        "C:/x",
        "replay/\n",
    ],
)
def test_a_path_that_leads_out_of_the_folder_is_refused(copy, path):
    rewrite(copy, naming(path))
    assert not inside(path)
    refused(copy, "which is no file in replay/")
    rewrite(copy, lambda found: replace(found, counterexamples=(), files={**found.files, path: "0" * 64}))
    refused(copy, "which is no file in replay/")


def test_a_replay_file_that_is_named_must_be_there(copy):
    rewrite(copy, naming("replay/a.replay.json"))
    refused(copy, "has no such file")
    (copy / "replay").mkdir()
    (copy / "replay" / "a.replay.json").write_text("{}")
    assert read(copy).replays == ("replay/a.replay.json",)


def test_a_file_that_no_certificate_has_is_refused(copy):
    (copy / "run-me.sh").write_text("")
    refused(copy, "'run-me.sh', which no certificate has")


def test_replay_has_replay_files_and_streams_alone(copy):
    (copy / "replay").mkdir()
    (copy / "replay" / "conftest.py").write_text("")
    refused(copy, "is no replay file, nor a stream")


def test_links_are_refused(copy, tmp_path):
    (copy / "summary.md").unlink()
    (copy / "summary.md").symlink_to("/etc/hostname")
    refused(copy, "is no plain file")
    (copy / "summary.md").unlink()
    (copy / "replay").mkdir()
    (copy / "replay" / "a.bin").symlink_to("/dev/zero")
    refused(copy, "is a link")
    shutil.rmtree(copy / "replay")
    (copy / "replay").symlink_to(tmp_path)
    refused(copy, "is no folder, or a link")
    (copy / "replay").unlink()
    (copy / trials.FILE).rename(tmp_path / "elsewhere")
    (copy / trials.FILE).symlink_to(tmp_path / "elsewhere")
    refused(copy, "is no plain file")


def test_a_pipe_is_not_waited_for(copy):
    (copy / trials.FILE).unlink()
    os.mkfifo(copy / trials.FILE)
    refused(copy, "is no plain file")


def test_a_folder_with_too_much_or_nothing_in_it_is_none(copy, tmp_path, monkeypatch):
    refused(tmp_path, "it is no certificate")
    monkeypatch.setattr(reading, "MOST_ENTRIES", 1)
    refused(copy, "more files than a certificate")


def test_more_than_can_be_checked_is_refused(copy, monkeypatch):
    monkeypatch.setattr(reading, "MOST_WORK", 63)
    refused(copy, "more trials of more images than can be checked")


def test_trials_that_are_spoken_of_must_be_there(copy):
    (copy / trials.FILE).unlink()
    refused(copy, "has no trials.parquet")


def test_anybodys_text_is_shown_in_one_line_and_steers_no_terminal():
    assert shown("a\x1b[2J\nb") == "a\\x1b[2J\\nb"
    assert len(shown("x" * 500)) == 83
