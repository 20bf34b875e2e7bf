"""The certificates in docs/certificates hold, and trials of theirs come again."""

from pathlib import Path

import pytest
from command_line import cli

from robustkit.certificates import reading

FOLDER = Path(__file__).parents[2] / "docs" / "certificates"
KEPT = sorted(folder.name for folder in FOLDER.iterdir())


def test_there_are_certificates_of_classical_learned_and_generative_codecs():
    assert {"bpg", "hyperprior-small-hardened", "jpeg", "robust-turbo-ddcm", "turbo-ddcm"} == set(KEPT)


@pytest.mark.parametrize("codec", KEPT)
def test_a_kept_certificate_holds_and_certifies(codec):
    assert "intact:     yes: " in cli("verify", FOLDER / codec).stdout
    assert reading.read(FOLDER / codec).certificate.certified


# The codecs may have other files by now, as long as they decode as they did.
@pytest.mark.slow
@pytest.mark.parametrize("codec", KEPT)
def test_trials_of_a_kept_certificate_come_again(codec):
    told = cli("verify", FOLDER / codec, "--codec", codec, "--sample", "4", "--any-version", "--tolerated").stdout
    assert "re-run trials" in told
