"""``robustkit compare`` with codecs that it runs, and with baselines that it wrote."""

import json
import sys

import pytest
from command_line import cli, module, without

#: 8 x 8 blocks, a byte a colour; ``loss`` moves some pictures, and ``extra`` are bytes that nobody reads.
STEPS = """
    class Steps(Codec):
        name = "steps"
        profile = Profile(bpp=24.0, quality=10.0, promises=(Promise("bsc(ber=0.001)", mean_drop=9.0, p5_drop=20.0),))

        def __init__(self, *, extra=0, loss=0, crash=False, fine=False):
            self.extra, self.loss, self.crash, self.fine = extra, loss, crash, fine

        def encode(self, image):
            size = image.shape[0].to_bytes(2) + image.shape[1].to_bytes(2)
            blocks = image[:: 2 if self.fine else 8, :: 2 if self.fine else 8]
            return size + bytes([sum(size) % 256]) + bytes(self.extra) + blocks.tobytes()

        def decode(self, bitstream):
            size, check, body = bitstream[:4], bitstream[4:5], bitstream[5 + self.extra :]
            if not check or sum(size) % 256 != check[0]:
                raise DecodeError("the header is damaged")
            height, width = int.from_bytes(size[:2]), int.from_bytes(size[2:])
            step = 2 if self.fine else 8
            rows, columns = -(-height // step), -(-width // step)
            if len(body) != 3 * rows * columns:
                raise DecodeError("the payload has another length")
            blocks = np.frombuffer(body, np.uint8).reshape(rows, columns, 3)
            image = blocks.repeat(step, axis=0).repeat(step, axis=1)[:height, :width]
            if self.loss and sum(body) % 2:
                image = np.roll(image, self.loss, axis=0)
            if self.crash and sum(body) % 7 == 0:
                raise RuntimeError("seven")
            return image
"""
QUICK = ("--crop", "64", "--workers", "1")


@pytest.fixture
def steps(here):
    module(here, "steps", STEPS)
    return here


def compared(*arguments, status):
    found = json.loads(cli("compare", *arguments, *QUICK, "--json", status=status).stdout)
    assert found["status"] == status
    return found


def test_a_codec_is_run_against_a_baseline_that_it_proposed(steps):
    # It promises one channel, so that is what is tried.
    first = cli("compare", "steps:Steps", "steps:Steps", *QUICK, "--trials", "6", "--propose", "base.jsonl")
    assert "steps: unchanged: 6 clean streams and 36 trials are the same" in first.stdout
    assert "commit it" in first.stderr
    text = (steps / "base.jsonl").read_text()
    assert len(text.splitlines()) == 37
    # No codec is imported where none is named.
    assert compared("base.jsonl", "base.jsonl", status=0)["said"] == "unchanged"
    assert "steps" not in sys.modules
    assert compared("base.jsonl", "steps:Steps", "--propose", "again.jsonl", status=0)["said"] == "unchanged"
    assert (steps / "again.jsonl").read_text().splitlines()[1:] == text.splitlines()[1:]
    crashing = compared("base.jsonl", "steps:Steps@crash=true", status=1)
    assert crashing["said"] in ("broken", "regression")
    # Streams that are longer by some bytes have no pairs.
    longer = compared("base.jsonl", "steps:Steps@extra=1", status=0)
    assert {item["way"] for item in longer["items"] if item["quantity"] == "mean drop of hit streams"} == {"unpaired"}


def test_a_loss_under_damage_alarms_and_comes_again_with_fresh_seeds(steps):
    found = compared("steps:Steps", "steps:Steps@loss=3", "--trials", "8", status=1)
    assert found["said"] in ("regression", "broken")
    assert "clean quality" in found["sentence"] or found["repeated"]


def test_two_codecs_of_one_name_come_from_two_folders(steps, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    module(other, "steps", STEPS.replace("extra=0, loss=0", "extra=8, loss=0"))
    arguments = ("steps:Steps", "steps:Steps", "--trials", "4", "--channel", "bsc(ber=0.001)")
    found = compared(*arguments, "--new-path", other, status=1)
    rate = next(item for item in found["items"] if item["what"] == "rate")
    assert (rate["word"], rate["why"]) == ("worse", ["+4.06%"])
    assert not any(str(other) in entry for entry in sys.path)


def test_the_table_and_the_sentence_are_for_people(steps):
    result = cli("compare", "steps:Steps", "steps:Steps@fine=true", *QUICK, "--trials", "4", status=1)
    assert result.stdout.splitlines()[0].split() == [*("what", "measured", "OLD", "NEW", "compared", "verdict")]
    last = result.stdout.splitlines()[-1]
    assert last.startswith("steps: regression: rate (mean bpp)")
    assert "better: clean quality (mean psnr)" in last


def test_wrong_usage_is_status_4_and_a_codec_that_cannot_run_2(steps):
    def said(*arguments, status):
        return cli("compare", *arguments, status=status).stderr

    (steps / "folder").mkdir()
    assert "is no codec" in said("folder", "jpeg", status=4)
    assert "--propose a baseline" in said("nowhere.jsonl", "jpeg", status=4)
    assert "there is no certificate/" in said("certificate/", "jpeg", status=4)
    assert "did you mean" in said("jpag", "jpeg", status=4)
    assert "Missing argument" in said("jpeg", status=4)
    assert "can't be read" in said("jpeg", "jpeg", "--channel", "bsk", status=4)
    assert "can't be imported" in said("nosuch:Codec", "jpeg", "--crop", "64", status=2)
    (steps / "bad.jsonl").write_text('{"kind": "robustkit baseline", "version": 1}\n')
    assert "lacks" in said("bad.jsonl", "jpeg", status=4)
    (steps / "bad.jsonl").write_text("[" * 100_000 + "\n")
    assert "nested too deeply" in said("bad.jsonl", "jpeg", status=4)
    (steps / "bad.jsonl").write_text("{}")
    assert "cut off" in said("bad.jsonl", "jpeg", status=4)


def test_a_baseline_of_other_images_measures_nothing(steps):
    cli("compare", "steps:Steps", "steps:Steps", *QUICK, "--trials", "2", "--propose", "base.jsonl")
    found = json.loads(cli("compare", "base.jsonl", "steps:Steps", "--crop", "48", "--json", status=5).stdout)
    assert "no image in common" in found["sentence"]


def test_a_codec_whose_round_trip_fails_is_broken_and_as_baseline_it_cannot_run(steps):
    module(steps, "broken", STEPS.replace("size = image", "raise RuntimeError('no')", 1))
    arguments = ("--trials", "2", "--channel", "bsc(ber=0.001)")
    assert compared("steps:Steps", "broken:Steps", *arguments, status=1)["said"] == "broken"
    cli("compare", "broken:Steps", "steps:Steps", *QUICK, *arguments, status=2)


def test_codecs_and_baselines_need_the_core_alone(steps):
    arguments = ("steps:Steps", "steps:Steps", *QUICK, "--trials", "2", "--propose", "base.jsonl")
    done = without(["jsonschema", "pyarrow", "rfc8785", "torch"], "compare", *arguments)
    assert done.returncode == 0, done.stderr
    assert "steps: unchanged" in done.stdout
