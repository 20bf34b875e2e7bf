"""A certificate as the Markdown of a CI job's summary: verdict first, in GitHub's dialect."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from robustkit.certificates import shown
from robustkit.certificates.model import Certificate
from robustkit.judging.finding import Verdict

#: Bytes that GitHub takes of one step's summary.
MOST = 1 << 20
#: Rows of each table.
_ROWS = 200
_CUT = "\n\n*Cut here: a job's summary may have 1 MiB. The page `certificate.html` has the rest.*\n"
#: What Markdown, GitHub's extensions of it and HTML read as more than itself. As entities they are letters.
_MARKUP = re.compile(r"[\\`*_{}\[\]<>()#!|~$@&:^\"'=+]|(?<=www)\.", re.IGNORECASE)
_ICONS = {
    **dict.fromkeys(("kept", "not disproved"), "✅"),
    **dict.fromkeys(("broken", "blocked"), "❌"),
    **dict.fromkeys(("unproved", "error", "waived"), "⚠️"),
}
_BAD = (Verdict.BROKEN, Verdict.BLOCKED, Verdict.ERROR, Verdict.UNPROVED, Verdict.WAIVED)


def render(certificate: Certificate) -> str:
    """The summary: at most :data:`MOST` bytes as UTF-8; where it was cut, its last line says so."""
    lines = list(_lines(certificate))
    kept: list[str] = []
    size = 0
    for line in lines:
        size += len(line.encode("utf-8", "replace")) + 1
        if size > MOST - len(_CUT.encode()):
            return "\n".join(kept) + _CUT
        kept.append(line)
    return "\n".join(kept) + "\n"


def plain(text: str, most: int = shown.CELL) -> str:
    """Text of anybody's as Markdown that shows it and does nothing else, in one line."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", shown.text(text, most))


def _code(text: str, most: int = shown.LONG) -> str:
    return f"<code>{plain(text, most)}</code>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    found, more = shown.capped(rows, _ROWS)
    if not found:
        return
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in found)
    if more:
        yield ""
        yield f"and {more:,} more"
    yield ""


def _lines(c: Certificate) -> Iterable[str]:
    word = "certified" if c.certified else "not certified"
    yield f"## {'✅' if c.certified else '❌' if c.verdict == 'does not conform' else '⚠️'} {plain(c.codec)}: {word}"
    yield ""
    yield plain(c.sentence, shown.LONG)
    yield ""
    if c.blockers and not c.certified:
        yield "What stands against a certificate:"
        yield ""
        found, more = shown.capped(c.blockers, _ROWS)
        yield from (f"- {plain(blocker, shown.LONG)}" for blocker in found)
        if more:
            yield f"- and {more:,} more"
        yield ""
    yield from _table(
        ("damage", f"{'certified' if c.certified else 'proved'} up to", "stopped at", "speaks of"),
        (
            (
                plain(s.ladder),
                plain(shown.highest(s)) if s.highest is not None else "nothing",
                plain(s.stopped_at or shown.NOTHING),
                plain(s.estimand),
            )
            for s in c.certified_severities
        ),
    )
    bad = [line for line in c.lines if line.verdict in _BAD]
    if bad:
        yield "### What does not hold"
        yield ""
        yield from _table(
            ("claim", "severity", "measured", "declared", "verdict"),
            (
                (
                    plain(line.title),
                    plain(line.severity),
                    plain(line.measured),
                    plain(line.declared),
                    f"{_ICONS.get(line.verdict, '')} {plain(line.verdict)}".strip(),
                )
                for line in bad
            ),
        )
    if c.counterexamples:
        yield "### Counterexamples"
        yield ""
        found, more = shown.capped(c.counterexamples, 20)
        for example in found:
            said = plain(example.message.strip().partition("\n")[0])
            yield f"- {_code(example.claim)}: {plain(example.outcome)}" + (f": {said}" if said else "")
            yield f"  {_code(example.command)}" if example.command else "  (withheld)"
        if more:
            yield f"- and {more:,} more"
        yield ""
    if c.channels:
        yield "### Trials"
        yield ""
        unit = f" ({plain(c.metric_unit)})" if c.metric_unit else ""
        yield from _table(
            ("channel", "trials", f"mean loss{unit}", "refused", "silently wrong", "failed"),
            (
                (
                    plain(r.channel),
                    f"{(total := sum(r.outcomes.values())):,}",
                    shown.number(r.mean_drop),
                    shown.share(r.outcomes.get("refused", 0), total),
                    shown.share(r.silent, total),
                    f"{shown.failed(r.outcomes):,}",
                )
                for r in c.channels
            ),
        )
    yield f"By {plain(c.kit)}; corpus {_code(c.corpus.digest[:16])}, seed {c.corpus.seed}; {plain(c.lock.said)}"
    if c.command:
        yield ""
        yield f"Again: {_code(c.command)}"
