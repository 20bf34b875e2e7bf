"""The page: whatever stands in a certificate, it is one small file that shows it and does nothing else."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from page_sample import BARE, CASE, CERTIFICATE, CRASHED, SCAN, picture, with_texts

from robustkit.certificates import badge, page, shown, summary
from robustkit.certificates.charts import element
from robustkit.certificates.model import Assessed, ChannelResult

#: Elements without an end.
VOID = {"meta", "img", "br"}
MARKUP = [
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "'><img src=x onerror=alert(1)>",
    "</style>",
    "]]>",
    "&lt;",
]
MARKUP += ["{{ 7*7 }}", "\u202eoverride", "\x1b[31m", "\x00", "\ud800", "a" * 400, "]( javascript:alert(1) )", "| x |"]
TEXTS = st.one_of(
    st.sampled_from(MARKUP), st.text(min_size=1), st.lists(st.sampled_from(MARKUP), min_size=1).map("".join)
)


class Structure(HTMLParser):
    """Elements, with the names of their attributes, as a browser sees them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.seen, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, tuple(name for name, _ in attrs)))
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} {name}={value}"
            if name in ("src", "href"):
                assert value.startswith(("data:image/", "#")), value

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def structure(text):
    found = Structure(text)
    assert not found.open
    return found


@pytest.fixture(scope="module")
def plain():
    """The elements of a page with harmless texts."""
    certificate, more = _all(lambda value: "x" + value)
    return structure(page.render(certificate, **more)).seen


def _all(change):
    return with_texts(CERTIFICATE, change), {"worst": [with_texts(CASE, change)], "scan": with_texts(SCAN, change)}


@example("".join(MARKUP))
@given(TEXTS)
@settings(max_examples=12, deadline=None)
def test_no_text_in_any_field_becomes_markup(plain, text):
    certificate, more = _all(lambda value: text + value)
    found = page.render(certificate, **more)
    assert structure(found).seen == plain
    assert found.count("<script>") == 1
    # What would turn letters around, or steer a terminal, is shown as an escape.
    assert not set(found) & {"\u202e", "\x1b", "\x00", "\ud800"}


@given(st.text(), st.text())
def test_a_charts_texts_and_attributes_are_escaped(text, value):
    found = Structure(str(element("text", text, aria_label=value)))
    assert found.seen == [("text", ("aria-label",))]
    assert "".join(found.text) == text.replace("\r\n", "\n") or "\r" in text or "\x00" in text


def test_what_the_page_loads_and_runs_is_itself():
    found = page.render(CERTIFICATE, worst=[CASE], scan=SCAN)
    assert "default-src 'none'" in found
    assert "unsafe" not in found
    assert not re.search(r"https?://(?!www\.w3\.org)", found)
    assert " style=" not in found


def test_the_verdict_comes_first_and_says_what_stands_against_it():
    refused = replace(CERTIFICATE, certified=False, verdict="not certified", blockers=("the working tree is dirty",))
    found = page.render(refused)
    assert "<title>example: robustness certificate: not certified</title>" in found
    assert found.index("the working tree is dirty") < found.index('<section aria-labelledby="certified">')
    assert "Certified up to BER 1e-4 (bsc), for these images" in page.render(CERTIFICATE)
    first = CERTIFICATE.certified_severities[0]
    both = (first, replace(first, ladder="burst", unit="bits", highest=32.0))
    found = page.render(replace(CERTIFICATE, certified_severities=both))
    assert "Certified up to BER 1e-4 (bsc) and 32 bits (burst), for these images" in found
    many = replace(CERTIFICATE, certified_severities=both + (first,) * 6, certified=False)
    assert shown.severities(many).endswith("and 2 more kinds of damage, for these images")
    assert shown.severities(many).startswith("proved up to BER 1e-4 (bsc), 32 bits (burst), ")
    assert shown.severities(replace(CERTIFICATE, certified_severities=())) == ""
    assert "<title>example: robustness certificate: certified</title>" in page.render(CERTIFICATE)


def test_a_run_that_fails_at_once_has_a_report():
    found = page.render(BARE, worst=[CRASHED])
    assert "<title>example: robustness report: does not conform</title>" in found
    assert "encoding failed" in found
    for anchor in ("certified", "quality", "outcomes", "map", "examples", "instrument"):
        assert f'id="{anchor}"' not in found
        assert f'href="#{anchor}"' not in found
    assert "no picture: crashed" in found


def test_each_section_is_in_the_contents_and_each_link_leads_somewhere():
    found = page.render(CERTIFICATE, worst=[CASE], scan=SCAN)
    links = re.findall(r'href="#([\w-]+)"', found)
    ids = re.findall(r' id="([\w-]+)"', found)
    assert len(set(ids)) == len(ids)
    assert set(links) - {"main"} == {
        *("certified", "quality", "outcomes", "map", "worst", "claims", "examples", "instrument", "identity")
    }
    assert set(links) <= set(ids)
    described = re.findall(r'aria-(?:describedby|labelledby)="([\w-]+)"', found)
    assert set(described) <= set(ids)


def test_figures_stand_on_the_page_in_words_too():
    text = " ".join("".join(structure(page.render(CERTIFICATE, worst=[CASE], scan=SCAN)).text).split())
    assert "At 1e-4: 31.05, promised at least 30.25, kept." in text
    assert "bsc(ber=0.001): 100 degraded, 40 refused, 4 crashed." in text
    assert "bsc(ber=0.001): 40 refused, 100 silently wrong, of 144." in text
    assert "simulated, 2,000 runs; 95% interval 99.5% to 99.9%" in text
    assert "at most 0.9%" in text
    assert "draw(8 * len(stream), layout, codec='example', image='astronaut', trial=3, seed=0)" in text


def test_the_worst_codec_makes_a_page_of_bounded_size():
    message = "<&\"'\u202e\x00" * 200_000
    name = '<b>"&' * 300

    def lots(record):
        return (with_texts(record, lambda v: name + v),) * 1000

    certificate = replace(
        with_texts(CERTIFICATE, lambda v: name + v),
        blockers=(message,) * 1000,
        settings=message,
        profile=message,
        sentence=message,
        certified=False,
        lines=lots(CERTIFICATE.lines[2]),
        counterexamples=tuple(
            replace(example, message=message, damage=(message,) * 1000)
            for example in lots(CERTIFICATE.counterexamples[0])
        ),
        channels=lots(CERTIFICATE.channels[1]),
        assessments=lots(CERTIFICATE.assessments[1]),
        certified_severities=lots(CERTIFICATE.certified_severities[0]),
        error_rates=lots(CERTIFICATE.error_rates[0]),
        subject=lots(CERTIFICATE.subject[0]),
        environment={f"{name}{i}": message for i in range(1000)},
        corpus=replace(CERTIFICATE.corpus, images=lots(CERTIFICATE.corpus.images[0])),
    )
    cases = [replace(CASE, message=message, original=picture(i, 256, 256)) for i in range(60)]
    part = with_texts(SCAN.regions[0], lambda v: name + v)
    found = page.render(certificate, worst=cases, scan=replace(SCAN, regions=(part,) * 1000))
    assert len(found.encode()) <= page.MOST
    assert "and 800 more lines" in found
    assert "and 960 more counterexamples" in found
    assert "more worst cases" in found
    assert "1,199,000 more characters" in found
    assert len(summary.render(certificate).encode()) <= summary.MOST


def test_severities_without_a_place_on_an_axis_are_drawn_all_the_same():
    channels = (
        ChannelResult("bsc(ber=0)", "bsc", 0.0, {}, 0, 0, None, None),
        ChannelResult("bsc(ber=1)", "bsc", 1.0, {"no such outcome": 3}, 0, 0, 1e300, -1e300),
        ChannelResult("my own", "my own", -3.0, {"hung": 1}, 0, 0, None, 1e-300),
    )
    promise = Assessed("mean_drop", "bsc(ber=1)", None, None, None, None, "noted", "", "", 0, 0)
    found = page.render(replace(CERTIFICATE, channels=channels, assessments=(promise,)))
    assert "nan" not in found.lower().replace("unan", "")
    assert "an outcome that this version doesn&#39;t know" in found
    lower = replace(CERTIFICATE, higher_is_better=False, corpus=replace(CERTIFICATE.corpus, images=()))
    assert "less is better, so the axis runs downwards" in page.render(lower)


@pytest.mark.parametrize(
    ("value", "said"),
    [(1e-4, "1e-4"), (0.05, "0.05"), (32, "32"), (2.5e-6, "2.5e-6"), (0.0, "0"), (None, shown.NOTHING)],
)
def test_a_severity_is_short(value, said):
    assert shown.level(value) == said


@pytest.mark.parametrize(
    ("unit", "value", "said"),
    [
        ("BER", 1e-4, "BER 1e-4"),
        ("bits", 32.0, "32 bits"),
        ("share of the stream", 0.5, "50% of the stream"),
        ("", 2, "2"),
    ],
)
def test_a_certified_severity_reads_like_a_figure(unit, value, said):
    assert shown.highest(replace(CERTIFICATE.certified_severities[0], unit=unit, highest=value)) == said


@pytest.mark.parametrize(
    ("part", "said"), [(0, "0%"), (1, "100%"), (1e-6, "<0.1%"), (0.99999, ">99.9%"), (0.5, "50%"), (0.125, "12.5%")]
)
def test_a_share_is_nothing_or_all_only_where_it_is(part, said):
    assert shown.share(part, 1) == said


def test_the_summary_says_the_verdict_first_and_what_does_not_hold():
    broken = replace(CERTIFICATE, certified=False, verdict="does not conform", blockers=("a broken claim",))
    lines = summary.render(broken).splitlines()
    assert lines[0] == "## ❌ example: not certified"
    assert "- a broken claim" in lines
    assert any("mean drop 9.1" in line and "❌ broken" in line for line in lines)
    assert not any("mean drop 0.20" in line for line in lines)
    assert summary.render(CERTIFICATE).startswith("## ✅ example: certified")


@given(TEXTS)
def test_no_text_becomes_markdown(text):
    said = summary.plain(text, 300)
    assert not re.search(r"[<>|`*_\[\]#@\n\\]|://|www\.", re.sub(r"&#\d+;", "", said), re.IGNORECASE)


def test_a_summary_is_cut_at_a_line_and_says_so(monkeypatch):
    monkeypatch.setattr(summary, "MOST", 700)
    found = summary.render(CERTIFICATE)
    assert len(found.encode()) <= 700
    assert found.endswith("*Cut here: a job's summary may have 1 MiB. The page `certificate.html` has the rest.*\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "BER 1e-4 certified"),
        ({"certified_severities": ()}, "certified"),
        ({"certified": False, "verdict": "not proved"}, "not certified"),
        ({"certified": False, "verdict": "does not conform"}, "does not conform"),
        ({"certified": False, "verdict": "no promises"}, "no promises"),
    ],
)
def test_a_badge_says_it_in_two_words(changes, message):
    certificate = replace(CERTIFICATE, **changes)
    found = badge.endpoint(certificate)
    assert json.loads(json.dumps(found)) == found
    assert (found["schemaVersion"], found["label"], found["message"]) == (1, "robustness", message)
    svg = structure(badge.svg(certificate))
    assert f"robustness: {message}" in "".join(svg.text)
    assert ("svg", ("xmlns", "width", "height", "viewbox", "role", "aria-label")) in svg.seen


@given(TEXTS)
def test_no_text_becomes_part_of_a_badge(text):
    proved = replace(CERTIFICATE.certified_severities[0], unit=text)
    svg = badge.svg(replace(CERTIFICATE, certified_severities=(proved,)))
    assert structure(svg).seen == structure(badge.svg(CERTIFICATE)).seen
