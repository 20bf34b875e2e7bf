"""``robustkit verify``: three lines, exit statuses, and nothing run that was not named."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import jsonschema
import pytest
from command_line import cli, without
from sharing import made_once
from small_certificate import CODEC, make, rewrite

from robustkit.certificates import trials
from robustkit.certificates.model import Line


@pytest.fixture(scope="module")
def it(tmp_path_factory):
    return made_once(tmp_path_factory, "small-certificate", {"it": make})[0]


@pytest.fixture
def copy(it, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    return shutil.copytree(it / "certificate", tmp_path / "certificate")


def again(it, copy, *arguments, codec=CODEC, status=0):
    return cli("verify", copy, "--codec", codec, "--codec-path", it / "codec", *arguments, status=status)


def test_three_lines_and_what_the_certificate_says(it, copy):
    lines = cli("verify", copy).stdout.splitlines()
    assert lines == [
        "authentic:  unsigned",
        "intact:     yes: schema, digests, Merkle root over 32 trials, and the figures follow from them",
        "  note: not checked: what certificate.html shows; it is the file that the certificate names",
        "reproduced: not asked for: --codec NAME runs trials again",
        "it says:    small_codec:Small: not certified: 1 of 1 claims hold; others were left out",
        "            proved up to BER 5e-4 (bsc) and 32 bits (burst), for these images",
    ]


def test_a_tampered_page_ends_with_1_and_is_named(it, copy):
    page = copy / "certificate.html"
    page.write_bytes(page.read_bytes().replace(b"not certified", b"certified"))
    result = again(it, copy, status=1)
    assert "certificate.html is not the file that the certificate names: changed" in result.stdout
    assert "reproduced: not run" in result.stdout


#: In-toto's Simple Verification Result 0.2, as its specification has it.
RESULT = {
    "type": "object",
    "required": ["_type", "subject", "predicateType", "predicate"],
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "predicateType": {"const": "https://in-toto.io/attestation/svr/v0.2"},
        "subject": {
            "type": "array",
            "minItems": 1,
            "items": {
                "required": ["digest"],
                "properties": {
                    "digest": {"required": ["sha256"], "additionalProperties": {"pattern": "^[0-9a-f]{64}$"}}
                },
            },
        },
        "predicate": {
            "required": ["verifier", "timeCreated", "properties"],
            "properties": {
                "verifier": {
                    "required": ["id", "policies"],
                    "properties": {"id": {"type": "string"}, "policies": {"type": "array"}},
                },
                "timeCreated": {"type": "string", "pattern": "^[0-9-]{10}T[0-9:]{8}Z$"},
                "properties": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
}


def test_a_sample_is_run_again_and_the_result_is_written(it, copy, tmp_path):
    out = tmp_path / "result.json"
    result = again(it, copy, "--sample", "4", "--seed", "1", "--out", out)
    assert "reproduced: 4 of 4 re-run trials come again (a sample of 32, seed 1)" in result.stdout
    found = json.loads(out.read_text())
    jsonschema.validate(found, RESULT)
    assert found["predicate"]["properties"] == ["ROBUSTKIT_INTACT", "ROBUSTKIT_REPRODUCED_SAMPLE"]
    assert found["predicate"]["robustkit_lines"][0] == "authentic:  unsigned"


def test_a_tampered_certificate_ends_with_1_and_its_result_says_nothing_of_it(it, copy, tmp_path):
    rewrite(copy, lambda found: replace(found, channels=(replace(found.channels[0], silent=0), *found.channels[1:])))
    out = tmp_path / "result.json"
    result = again(it, copy, "--out", out, status=1)
    assert "intact:     no: 1 thing wrong\n  bsc(ber=0.0005): silent is 0, and from the trials" in result.stdout
    assert "reproduced: not run: what is to be reproduced is not intact" in result.stdout
    assert json.loads(out.read_text())["predicate"]["properties"] == []


@pytest.mark.slow
def test_another_version_of_the_codec_ends_with_1_and_names_trials(it, copy):
    result = again(it, copy, "--all", codec="small_codec:Faithless", status=1)
    assert "reproduced: no: " in result.stdout
    assert "other pixels, psnr" in result.stdout


def test_what_stays_within_the_tolerance_ends_with_3(it, copy):
    result = again(it, copy, "--all", codec="small_codec:Rounding", status=3)
    assert "within the declared tolerance" in result.stdout


def test_what_is_no_certificate_is_refused_and_nothing_is_written(it, copy, tmp_path):
    (copy / "certificate.intoto.jsonl").write_bytes(b"{}\n{}\n")
    result = again(it, copy, "--out", tmp_path / "result.json", status=1)
    assert result.stderr.startswith("Error: refused: ")
    assert result.stdout == ""
    assert not (tmp_path / "result.json").exists()


def test_statements_alone_can_not_be_told_intact(copy):
    result = cli("verify", copy / "certificate.intoto.jsonl", status=3)
    assert "intact:     statements alone: trials.parquet is not here" in result.stdout


def test_no_codec_is_imported_that_the_user_has_not_named(it, copy, tmp_path, monkeypatch):
    marker = tmp_path / "imported"
    (tmp_path / "trap.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    rewrite(
        copy,
        lambda found: replace(found, asked="trap:Codec", sentence=found.sentence.replace(found.asked, "trap:Codec")),
    )
    cli("verify", copy)
    assert not marker.exists()


def test_what_a_certificate_says_steers_no_terminal(copy):
    said = "\x1b]0;owned\x07<script>alert(1)</script>\u202e"
    line = Line("decode.deterministic", said, said, said, said, "kept")
    rewrite(copy, lambda found: replace(found, sentence=said, codec=said, lines=(line,)))
    result = cli("verify", copy, status=1)
    assert not set("\x1b\x07\u202e") & set(result.output)
    assert "it says:    \\x1b]0;owned\\x07<script>alert(1)</script>\\u202e" in result.stdout


def test_a_codec_that_can_not_run_here_ends_with_2(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "a_module_that_is_gone" in cli("verify", copy, "--codec", "a_module_that_is_gone:Codec", status=2).stderr


def test_images_that_are_not_here_end_with_3(it, copy, tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (70, 70)).save(tmp_path / "photos" / "black.png")
    result = again(it, copy, "--images", tmp_path / "photos", status=3)
    assert "none of the certificate's images is here: give them with --images" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--all",), "need --codec"),
        (("--codec", "jpeg", "--all", "--sample", "3"), "--all leaves nothing"),
        (("--certificate-identity", "me"), "go together"),
        (("--codec", "no-such-codec"), "no-such-codec"),
        (("--sample", "0"), "--sample"),
    ],
)
def test_wrong_usage_ends_with_4(copy, arguments, says):
    assert says in cli("verify", copy, *arguments, status=4).stderr


def test_the_result_does_not_go_into_the_folder(copy):
    assert "takes no other files" in cli("verify", copy, "--out", copy / "x.json", status=4).stderr


def test_without_its_packages_the_way_out_is_named(copy):
    result = without(("pyarrow",), "verify", copy)
    assert result.returncode == 1
    assert "pip install 'robustkit[" in result.stderr


def test_a_missing_row_is_named(copy):
    rows = trials.read(copy / trials.FILE)
    trials.write(copy / trials.FILE, rows[1:])
    assert "1 row missing: 31 of 32 trials are there" in cli("verify", copy, status=1).stdout


def test_a_mistake_of_the_command_itself_says_nothing_of_the_certificate(copy, monkeypatch):
    def mistaken(path):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("robustkit.certificates.reading.read", mistaken)
    assert "ZeroDivisionError: ours" in cli("verify", copy, status=2).stderr
