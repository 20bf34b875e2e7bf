"""The page of a certificate, and of a run that fails: one HTML file that loads nothing.

Every text from outside goes through one door: the template escapes what it prints, and :func:`_finished` has cut it and
made control and bidirectional characters visible before. How much is shown is capped, so that a codec that fails in
every way with the longest messages still makes a page that a browser opens at once.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup, escape

from robustkit.certificates import charts, shown
from robustkit.certificates import worst as worst_cases
from robustkit.certificates.model import Certificate
from robustkit.certificates.scan import Scan
from robustkit.certificates.worst import WorstCase
from robustkit.codec import Image
from robustkit.judging.finding import Said, Verdict

if TYPE_CHECKING:
    from jinja2 import Environment

#: Bytes of a page, and of the pictures in it.
MOST, PICTURES = 5_000_000, 3_000_000
#: How many of each are shown.
LINES, EXAMPLES, DAMAGE, CHANNELS, LADDERS, CASES = 200, 40, 10, 40, 24, 24
ARTIFACTS, IMAGES, ENVIRONMENT, BLOCKERS, RATES, PARTS, PROFILE = 100, 100, 40, 30, 40, 100, 12_000
#: Anchor and title of each section, and what it needs to be there.
_SECTIONS = (
    ("certified", "Severities", "certified"),
    ("quality", "Quality against damage", "ladders"),
    ("outcomes", "Outcomes", "outcomes"),
    ("map", "Vulnerability map", "scan"),
    ("worst", "Worst cases", "cases"),
    ("claims", "Claims", "lines"),
    ("examples", "Counterexamples", "examples"),
    ("instrument", "The instrument", "rates"),
    ("identity", "What was judged", ""),
)
#: Longest side of a picture in pixels.
SIDE = 256

_ICONS = {
    **dict.fromkeys((Verdict.KEPT, Verdict.NOT_DISPROVED), "✓"),
    **dict.fromkeys((Verdict.BROKEN, Verdict.BLOCKED), "✕"),
    **dict.fromkeys((Verdict.UNPROVED, Verdict.ERROR, Verdict.WAIVED), "!"),
}
_TONES = {"✓": "good", "✕": "bad", "!": "open"}
#: From the worst to the best, for sorting.
_RANKS = (
    *(Verdict.BROKEN, Verdict.BLOCKED, Verdict.ERROR, Verdict.UNPROVED, Verdict.WAIVED),
    *(Verdict.NOT_DISPROVED, Verdict.KEPT, Verdict.NOTED, Verdict.SKIPPED),
)
_OUTCOMES = {
    "intact": "the clean picture",
    "degraded": "another picture of the right size",
    "refused": "the decoder said that the stream is damaged",
    "unstable": "another process decoded something else",
    "misshapen": "no picture of the right size",
    "raised": "an exception that is no refusal",
    "crashed": "the process died",
    "hung": "over the time limit",
    "exhausted": "over the memory limit",
    "other": "an outcome that this version doesn't know",
}


def render(
    certificate: Certificate,
    *,
    worst: Sequence[WorstCase] = (),
    scan: Scan | None = None,
    kind: Literal["certificate", "report"] | None = None,
) -> str:
    """The page, at most :data:`MOST` bytes as UTF-8.

    Args:
        certificate: what it says; of a run's report, whatever there is.
        worst: trials with their pictures, the first ones first; those that don't fit are counted.
        scan: the vulnerability map, if there is one.
        kind: what the page calls itself; by default a report where no row of a trial is vouched for.
    """
    if kind is None:
        kind = "certificate" if certificate.trials_root else "report"
    found = _context(certificate, kind, scan)
    template = _environment().get_template("certificate.html")
    bare = len(template.render(found, cases=[], cases_left=0, sections=[]).encode("utf-8", "replace"))
    cases, left = _cases(worst, min(PICTURES, MOST - bare))
    found |= {"cases": cases, "cases_left": left}
    sections = [(anchor, title) for anchor, title, name in _SECTIONS if not name or found[name]]
    page: str = template.render(found, sections=sections)
    return page.encode("utf-8", "replace").decode("utf-8")


def _context(c: Certificate, kind: str, scan: Scan | None) -> dict[str, Any]:
    """All that the template prints, but for the worst cases."""
    style, script = _asset("certificate.css"), _asset("certificate.js")
    tone, mark = ("good", "✓") if c.certified else ("bad", "✕") if c.verdict == Said.BROKEN else ("open", "!")
    if kind == "report" and c.verdict == Said.CONFORMS:
        tone, mark = "good", "✓"
    found: dict[str, Any] = {
        "c": c,
        "kind": kind,
        "policy": _policy(style, script),
        "style": Markup(style),
        "script": Markup(script),
        "patterns": charts.patterns(),
        "tone": tone,
        "mark": mark,
        "status": _status(c, kind),
        "headline": _headline(c, kind),
        "facts": _facts(c),
        "metric": shown.with_unit(c.metric, f"({c.metric_unit})" if c.metric_unit else ""),
        "promising": any(a.quantity == "mean_drop" for a in c.assessments),
        "legend": {name: charts.mark(name) for name in ("kept", "broken", "open", "promise", "interval", "clean")},
        "scan": scan,
        "severities": "Certified severities" if c.certified else "Proved severities",
    }
    blockers = () if c.certified else c.blockers
    for name, items, most in (
        ("blockers", blockers, BLOCKERS),
        ("certified", c.certified_severities, LADDERS),
        ("rates", c.error_rates, RATES),
        ("artifacts", c.subject, ARTIFACTS),
        ("images", c.corpus.images, IMAGES),
        ("environment", sorted(c.environment.items()), ENVIRONMENT),
        ("ladders", _ladders(c), LADDERS),
        ("examples", c.counterexamples, EXAMPLES),
        ("scan_parts", () if scan is None else scan.regions, PARTS),
        ("lines", c.lines, LINES),
    ):
        found[name], left = shown.capped(items, most)
        found["scan_left" if name == "scan_parts" else f"{name}_left"] = left
    found["lines"] = sorted(c.lines, key=lambda line: _rank(line.verdict))[:LINES]
    found["examples"] = [
        {"it": example, "damage": damage, "left": left}
        for example in found["examples"]
        for damage, left in [shown.capped(example.damage, DAMAGE)]
    ]
    profile = shown.text(c.profile, PROFILE, lines=True)
    found["profile"] = Markup(escape(profile))
    found["quality_rows"] = [
        {
            "result": result,
            "trials": sum(result.outcomes.values()),
            "promise": shown.promise(c.assessments, result.channel),
        }
        for result in c.channels[:CHANNELS]
    ]
    found |= _outcomes(c)
    if scan is not None:
        most_lost = max((part.mean_drop for part in scan.regions if part.mean_drop is not None), default=0.0)
        found["map"] = charts.vulnerability("map-words", scan)
        found["scan_unit"] = f", losses in {scan.metric_unit}" if scan.metric_unit else ""
        found["scan_parts"] = [
            {
                "it": part,
                "bar": charts.bar(part.mean_drop, most_lost),
                "harmed": part.worst_bit is not None and bool(part.refused or part.failed or part.worst_drop),
            }
            for part in found["scan_parts"]
        ]
    return found


def _cases(worst: Sequence[WorstCase], room: int) -> tuple[list[dict[str, Any]], int]:
    """Worst cases that fit into ``room`` bytes, and how many don't."""
    cases: list[dict[str, Any]] = []
    for case in worst[:CASES]:
        pictures = _pictures(case)
        room -= sum(len(p["data"]) for p in pictures) + 12 * shown.LONG
        if room < 0:
            break
        damage, left = shown.capped(case.damage, DAMAGE)
        cases.append(
            {
                "it": case,
                "unit": f" {case.metric_unit}" if case.metric_unit else "",
                "pictures": pictures,
                "drawing": worst_cases.drawing(case),
                "damage": [*damage, *([f"and {left} more lines"] if left else [])],
            }
        )
    return cases, len(worst) - len(cases)


def _pictures(case: WorstCase) -> list[dict[str, Any]]:
    away, largest = worst_cases.difference(case)
    drawn: list[tuple[str, Image | None, str]] = [
        ("original", case.original, f"{case.image}, the original"),
        ("clean", case.clean, f"{case.image}, decoded from the clean stream"),
        ("damaged", case.damaged, f"{case.image}, decoded from the damaged stream"),
        (
            f"difference, up to {largest} of 255" if away is not None else "difference",
            away,
            f"difference between the clean and the damaged picture of {case.image}",
        ),
    ]
    found: list[dict[str, Any]] = []
    for caption, picture, alt in drawn:
        if picture is None:
            said = f"no picture: {case.outcome}" if caption == "damaged" else "nothing to compare"
            found.append({"data": Markup(""), "caption": caption, "alt": said})
            continue
        data, width, height = _shrunk(picture)
        found.append({"data": data, "caption": caption, "alt": alt, "width": width, "height": height})
    return found


def _shrunk(picture: Image) -> tuple[Markup, int, int]:
    """A picture as a data URI, with the size that it is shown in."""
    from PIL import Image as Pillow
    from PIL import features

    small = Pillow.fromarray(picture)
    small.thumbnail((SIDE, SIDE), Pillow.Resampling.LANCZOS)
    out = io.BytesIO()
    webp = features.check("webp")
    small.save(out, "WEBP", quality=88, method=4) if webp else small.save(out, "PNG", optimize=True)
    data = base64.b64encode(out.getvalue()).decode("ascii")
    return Markup(f"data:image/{'webp' if webp else 'png'};base64,{data}"), small.width, small.height


def _status(c: Certificate, kind: str) -> str:
    if kind == "report":
        return c.verdict
    return "certified" if c.certified else "not certified"


def _headline(c: Certificate, kind: str) -> str:
    if c.certified and kind == "certificate":
        found = shown.severities(c) or "certified, for these images"
        return found[:1].upper() + found[1:]
    return c.sentence if kind == "report" else "Not certified"


def _facts(c: Certificate) -> list[tuple[str, str]]:
    """What is told in figures: label and figure."""
    worst: dict[str, str] = {}
    for line in c.lines:
        worst[line.claim] = min(worst.get(line.claim, line.verdict), line.verdict, key=_rank)
    counts = Counter(worst.values())
    held = counts[Verdict.KEPT] + counts[Verdict.NOT_DISPROVED] + counts[Verdict.NOTED]
    trials = sum(sum(result.outcomes.values()) for result in c.channels)
    rate = [image.bpp for image in c.corpus.images]
    every = held == len(worst)
    found = [
        ("claims, and all hold" if every else "claims hold", str(held) if every else f"{held} of {len(worst)}"),
        ("broken", str(counts[Verdict.BROKEN] + counts[Verdict.BLOCKED])),
        ("not proved", str(counts[Verdict.UNPROVED])),
        ("not checked", str(counts[Verdict.SKIPPED] + counts[Verdict.ERROR])),
    ]
    found = [(label, figure) for label, figure in found if figure != "0" and worst]
    found += [("trials", f"{trials:,}")] if trials else []
    found += [("images", f"{len(rate):,}"), ("bpp on average", f"{math.fsum(rate) / len(rate):.3f}")] if rate else []
    clean = shown.clean_quality(c)
    found += [(f"{c.metric}, clean", shown.with_unit(shown.number(clean), c.metric_unit))] if clean is not None else []
    examples = len(c.counterexamples)
    found += [("counterexample" + "s" * (examples > 1), f"{examples:,}")] if examples else []
    return found


def _ladders(c: Certificate) -> list[dict[str, Any]]:
    clean, up = shown.clean_quality(c), 1 if c.higher_is_better else -1
    metric = shown.with_unit(c.metric, f"({c.metric_unit})" if c.metric_unit else "")
    proved = {s.channel: s.highest for s in c.certified_severities if s.estimand == "these images"}
    found = []
    for index, (title, axis, results) in enumerate(shown.ladders(c.channels)):
        severity = max((s for r in results if (s := proved.get(r.channel)) is not None), default=None)
        name = f"quality-{index}"
        placed = charts.points(results, c.assessments, clean, up)
        found.append(
            {
                "title": title,
                "axis": axis,
                "name": name,
                "chart": charts.quality(
                    name, title, axis, metric, placed, clean, up=up, proved=severity, certified=c.certified
                ),
            }
        )
        if len(found) > LADDERS:
            break
    return found


def _outcomes(c: Certificate) -> dict[str, Any]:
    results, left = shown.capped(c.channels, CHANNELS)
    counted = [dict(shown.outcomes(result.outcomes)) for result in results]
    names = [name for name in charts.OUTCOMES if any(name in found for found in counted)]
    return {
        "outcomes": charts.outcomes("outcomes-words", results) if results else None,
        "silence": charts.silence("silence-words", results) if results else None,
        "channels_left": left,
        "outcome_names": names,
        "outcome_legend": [(name, _OUTCOMES[name], charts.swatch(name)) for name in names],
        "outcome_rows": [
            {
                "channel": result.channel,
                "total": sum(found.values()),
                "counts": [found.get(name, 0) for name in names],
                "silent": result.silent,
                "harmless": result.harmless,
            }
            for result, found in zip(results, counted, strict=True)
        ],
    }


@lru_cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("robustkit", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finished,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "long": lambda text: Markup(escape(shown.text(str(text), shown.LONG, lines=True))),
        "number": shown.number,
        "level": shown.level,
        "percent": lambda part: shown.share(part, 1),
        "highest": shown.highest,
        "icon": lambda word: _ICONS.get(word, "·"),
        "tone": lambda word: _TONES.get(_ICONS.get(word, ""), "soft"),
        "rank": _rank,
        "sortable": lambda value: -1e9 if value is None else value,
    }
    return environment


def _finished(value: Any) -> Any:
    """What the template prints: markup of ours as it is, any text cut and printable; the template escapes it then."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else shown.text(value)


def _rank(verdict: str) -> int:
    return _RANKS.index(Verdict(verdict)) if verdict in list(Verdict) else len(_RANKS)


@lru_cache
def _asset(name: str) -> str:
    return resources.files("robustkit").joinpath("templates", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> Markup:
    """What the page may do: its own style and script by their hash, pictures that it carries; nothing from anywhere."""

    def hashed(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

    return Markup(
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashed(style)}'; "
        f"script-src 'sha256-{hashed(script)}'; base-uri 'none'; form-action 'none'"
    )
