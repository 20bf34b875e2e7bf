"""How texts from outside and figures are shown to people: cut, with nothing in them that steers what shows them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from robustkit import channels
from robustkit.certificates.model import Assessed, Certificate, Certified, ChannelResult
from robustkit.channels import Channel, ChannelError
from robustkit.outcome import Outcome
from robustkit.spelling import printable

#: Characters of a text in a cell, and of a message or a file that has room of its own.
CELL, LONG = 200, 1000
#: Kinds of damage that a line names.
KINDS = 6
#: What the parameter that grades a channel is, in words.
_GRADES: Mapping[str, str] = {
    "ber": "bit error rate",
    "length": "burst length in bits",
    "keep": "largest share of the bytes cut off",
    "rate": "share of the bytes erased",
}
_FEW = 0.01
#: Where there is no figure.
NOTHING = "\N{EN DASH}"


def text(value: str, most: int = CELL, *, lines: bool = False) -> str:
    """``value`` with control and bidirectional characters as escapes, and what is over ``most`` characters counted."""
    head = value[:most]
    escaped = head if head.isprintable() else printable(head, lines=lines)
    if len(value) <= most and len(escaped) <= 2 * most:
        return escaped
    left = len(value) - most
    return f"{escaped[:most]}… ({left:,} more characters)" if left > 0 else f"{escaped[:most]}…"


def number(value: float | None, digits: int = 2) -> str:
    """A measured figure; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def level(value: float | None) -> str:
    """A severity, as short as it is exact: 1e-4, 0.05, 32."""
    if value is None:
        return NOTHING
    if value and abs(value) < _FEW:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def share(part: float, whole: float) -> str:
    """A share in per cent, which is 0% or 100% only where it is that exactly."""
    if not whole:
        return NOTHING
    found = part / whole
    if 0 < found < 0.001:
        return "<0.1%"
    if 0.999 < found < 1:
        return ">99.9%"
    return f"{100 * found:.1f}".rstrip("0").rstrip(".") + "%"


def count(many: int, one: str, more: str = "") -> str:
    """``many`` things, in words."""
    return f"{many:,} {one if many == 1 else more or one + 's'}"


def with_unit(figure: str, unit: str) -> str:
    """A figure with its unit, if it has one."""
    return f"{figure} {unit}" if unit and figure != NOTHING else figure


def highest(found: Certified) -> str:
    """A certified severity, as a badge and a table have it: "BER 1e-4", "32 bits", "50% of the stream"."""
    if found.highest is not None and found.unit.startswith("share of "):
        return f"{100 * found.highest:g}% {found.unit.removeprefix('share ')}"
    parts = (found.unit, level(found.highest))
    return " ".join(parts if found.unit == "BER" else reversed(parts)).strip()


def leading(certificate: Certificate) -> Certified | None:
    """The certified severity that stands for the certificate: of random flips, if there is one, else the first."""
    proved = [found for found in certificate.certified_severities if found.highest is not None]
    return next((found for found in proved if found.ladder == "bsc"), proved[0] if proved else None)


def severities(certificate: Certificate) -> str:
    """Up to where each kind of damage is certified, or of what is not certified proved, in a line; empty for nothing.

    Such as "certified up to BER 1e-4 (bsc) and 32 bits (burst), for these images".
    """
    proved = [found for found in certificate.certified_severities if found.highest is not None]
    if not proved:
        return ""
    named = [f"{text(highest(found), CELL)} ({text(found.ladder, CELL)})" for found in proved[:KINDS]]
    if len(proved) > KINDS:
        named.append(count(len(proved) - KINDS, "more kind of damage", "more kinds of damage"))
    listed = " and ".join(part for part in (", ".join(named[:-1]), named[-1]) if part)
    of = " and ".join(dict.fromkeys(found.estimand for found in proved))
    return f"{'certified' if certificate.certified else 'proved'} up to {listed}, for {of}"


def parsed(name: str) -> Channel | None:
    """The channel that ``name`` spells; ``None`` for a name that this version doesn't know."""
    try:
        return channels.parse(name[:LONG])
    except ChannelError:
        return None


def ladders(results: Iterable[ChannelResult]) -> list[tuple[str, str, list[ChannelResult]]]:
    """Results that differ in severity alone, together: title, what the severity is, and they, from mild to harsh."""
    known: dict[Channel, ChannelResult] = {}
    others: dict[str, list[ChannelResult]] = {}
    for result in results:
        channel = parsed(result.channel)
        if channel is None or channel in known:
            others.setdefault(result.kind, []).append(result)
        else:
            known[channel] = result
    found = [
        (_title(rungs), _GRADES.get(rungs[0].graded_by, "severity"), [known[channel] for channel in rungs])
        for rungs in channels.ladders(known)
    ]
    return found + [(kind, "severity", sorted(some, key=lambda r: r.severity)) for kind, some in others.items()]


def _title(rungs: list[Channel]) -> str:
    """What the channels of a ladder share."""
    first = rungs[0]
    name, _, inside = first.name.partition("(")
    rest = [p.strip() for p in inside.rstrip(")").split(",") if not p.strip().startswith(f"{first.graded_by}=")]
    return f"{name} ({', '.join(rest)})" if any(rest) else name


def promise(assessments: Iterable[Assessed], channel: str) -> Assessed | None:
    """What is promised of the mean loss under a channel, judged; ``None`` where nothing is."""
    return next((a for a in assessments if a.quantity == "mean_drop" and a.severity == channel), None)


def clean_quality(certificate: Certificate) -> float | None:
    """Mean quality of the clean decodes; ``None`` without images."""
    found = [image.quality for image in certificate.corpus.images]
    return math.fsum(found) / len(found) if found else None


def outcomes(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """How often each outcome came, from the best to the worst; what is no outcome counts as "other"."""
    found = [(outcome.value, counts.get(outcome.value, 0)) for outcome in Outcome]
    other = sum(many for name, many in counts.items() if name not in {o.value for o in Outcome})
    return [(name, many) for name, many in [*found, ("other", other)] if many > 0]


def capped(items: Iterable[Any], most: int) -> tuple[list[Any], int]:
    """The first ``most``, and how many more there are."""
    every = list(items)
    return every[:most], max(0, len(every) - most)


def failed(counts: Mapping[str, int]) -> int:
    """How many trials ended in neither a picture nor a refusal."""
    return sum(many for name, many in counts.items() if name not in ("intact", "degraded", "refused"))
