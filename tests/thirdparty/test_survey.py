"""What the survey wrote down, the pinned versions and the page for people say the same."""

import json
import re
from pathlib import Path

from thirdparty.codecs import CODECS
from thirdparty.survey import SEEN, table

ROOT = Path(__file__).parents[2]


def test_the_page_shows_what_the_survey_saw():
    page = (ROOT / "docs" / "real-codecs.md").read_text()
    assert table(json.loads(SEEN.read_text())) in page


def test_each_codec_was_surveyed_with_the_pinned_version():
    lines = Path(__file__).with_name("requirements.txt").read_text().splitlines()
    pinned = dict(re.fullmatch(r"([\w-]+)==(\S+)", line).groups() for line in lines if not line.startswith("#"))
    seen = json.loads(SEEN.read_text())
    assert set(seen) == set(CODECS)
    for name, kind in CODECS.items():
        if kind.distribution in pinned:
            assert seen[name]["version"] == pinned[kind.distribution], name
    assert {kind.distribution for kind in CODECS.values()} == {*pinned, "compressai"}
