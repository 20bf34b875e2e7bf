"""A certificate in two words, for a README: SVG of its own, and the endpoint that shields.io reads."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import escape

from robustkit.certificates import shown
from robustkit.certificates.model import Certificate
from robustkit.judging.finding import Said

LABEL = "robustness"
#: Dark enough for white letters.
_GREEN, _AMBER, _RED, _GREY = "2e7d32", "8a5a00", "b3261e", "4d4d4d"
#: Longest text of a badge.
_LONGEST = 60
#: Width of letters of Verdana at 11 pixels, roughly; of others.
_NARROW, _WIDE = "fijlrtI.,:;'|!()[] -1", "mwMW@%"


class Badge(NamedTuple):
    """What a badge says.

    Attributes:
        message: the right half.
        colour: of it, as six hexadecimal digits.
    """

    message: str
    colour: str


def of(certificate: Certificate) -> Badge:
    """What the badge of a certificate says."""
    if certificate.certified:
        found = shown.leading(certificate)
        return Badge("certified" if found is None else f"{shown.text(shown.highest(found), 40)} certified", _GREEN)
    if certificate.verdict == Said.BROKEN:
        return Badge("does not conform", _RED)
    if certificate.verdict == Said.NO_PROMISES:
        return Badge("no promises", _GREY)
    return Badge("not certified", _AMBER)


def endpoint(certificate: Certificate) -> dict[str, str | int]:
    """The badge as shields.io's endpoint has it: https://shields.io/badges/endpoint-badge."""
    badge = of(certificate)
    return {"schemaVersion": 1, "label": LABEL, "message": badge.message, "color": badge.colour}


def svg(certificate: Certificate) -> str:
    """The badge as an SVG file."""
    badge = of(certificate)
    message = badge.message[:_LONGEST]
    left, right = _width(LABEL) + 12, _width(message) + 12
    wide = left + right
    title = escape(f"{LABEL}: {message}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="20" viewBox="0 0 {wide} 20" role="img" '
        f'aria-label="{title}"><title>{title}</title>'
        f'<clipPath id="r"><rect width="{wide}" height="20" rx="3"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{left}" height="20" fill="#4d4d4d"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="#{badge.colour}"/></g>'
        '<g fill="#fff" font-family="Verdana,Geneva,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2:g}" y="14" textLength="{left - 12}">{escape(LABEL)}</text>'
        f'<text x="{left + right / 2:g}" y="14" textLength="{right - 12}">{escape(message)}</text></g></svg>\n'
    )


def _width(text: str) -> int:
    return round(sum(4.6 if c in _NARROW else 10.5 if c in _WIDE else 7.1 for c in text))
