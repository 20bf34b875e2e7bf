"""A certificate's folder has what the closed list has, and nothing else is touched."""

import hashlib
from dataclasses import replace

import example_certificate as example
import pytest

from robustkit.certificates import statement, trials, write
from robustkit.certificates.model import CertificateError


def test_the_folder_has_the_certificate_its_rows_and_what_shows_its_failures(tmp_path):
    crashing = tmp_path / "crashing"
    crashing.write_bytes(b"boom")
    folder = tmp_path / "made" / "certificate"
    write.write(example.broken(), example.rows(), folder, replay={"crash.bin": crashing})
    assert {path.name for path in folder.iterdir()} <= set(write.FILES)
    found = statement.loads((folder / write.STATEMENTS).read_bytes())
    assert found == replace(example.broken(), files=write.digests(folder))
    assert found.files["replay/crash.bin"] == hashlib.sha256(b"boom").hexdigest()
    assert found.files[write.PAGE] == hashlib.sha256((folder / write.PAGE).read_bytes()).hexdigest()
    assert trials.root(trials.read(folder / trials.FILE)) == found.trials_root != ""
    assert (folder / write.REPLAY / "crash.bin").read_bytes() == b"boom"
    # Again, and nothing is left of the former.
    write.write(example.certificate(), example.rows(), folder)
    assert not (folder / write.REPLAY).exists()
    again = statement.loads((folder / write.STATEMENTS).read_bytes())
    assert again == example.certificate(files=write.digests(folder))
    assert set(again.files) == {write.PAGE}


def test_a_folder_with_anything_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / write.SUMMARY).write_text("mine")
    with pytest.raises(CertificateError, match=r"thesis\.tex"):
        write.write(example.certificate(), example.rows(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.tex", write.SUMMARY}


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CertificateError, match="can't be written"):
        write.write(example.certificate(), example.rows(), tmp_path / "file" / "certificate")
