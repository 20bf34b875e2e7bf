"""Records go through JSON and come back the same; anything else is refused by name."""

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit.certificates.model import Certificate, CertificateError, Certified, TrialRow, from_json, to_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
)
PLAIN = {
    str: st.text(max_size=9),
    int: st.integers(0, 2**53 - 1),
    float: st.floats(-1e9, 1e9),
    bool: st.booleans(),
    type(None): st.none(),
}


def records(kind):
    """Any record of that type, and small."""
    if is_dataclass(kind):
        return st.builds(kind, **{name: records(hint) for name, hint in get_type_hints(kind).items()})
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return st.sampled_from(inner)
    if get_origin(kind) is tuple:
        return st.lists(records(inner[0]), max_size=1).map(tuple)
    if get_origin(kind) is Mapping:
        return st.dictionaries(PLAIN[str], records(inner[1]), max_size=1)
    return st.one_of(*map(records, inner)) if inner else PLAIN[kind]


CERTIFICATES = records(Certificate)


@given(CERTIFICATES)
def test_a_certificate_survives_json(certificate):
    text = json.dumps(to_json(certificate), allow_nan=False)
    assert from_json(Certificate, json.loads(text)) == certificate


@given(CERTIFICATES, st.data())
def test_a_certificate_with_another_field_another_type_or_a_field_less_is_refused_by_name(certificate, data):
    found = to_json(certificate)
    name = data.draw(st.sampled_from(sorted(found)))
    for changed in ({**found, name: {"no": ["such", name]}}, {k: v for k, v in found.items() if k != name}):
        if changed.get(name) == {"no": ["such", name]} and isinstance(found[name], dict):
            changed[name] = 7
        with pytest.raises(CertificateError, match=name):
            from_json(Certificate, changed)
    with pytest.raises(CertificateError, match="unknown field 'surplus'"):
        from_json(Certificate, {**found, "surplus": 1})


@given(JSON)
def test_anything_else_is_refused(value):
    for kind in (Certificate, Certified, TrialRow):
        with pytest.raises(CertificateError):
            from_json(kind, value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400, "1", True])
def test_a_number_is_a_finite_number(number):
    row = {"ladder": "bsc", "unit": "BER", "highest": number, "channel": None, "stopped_at": None}
    with pytest.raises(CertificateError, match="highest"):
        from_json(Certified, {**row, "estimand": "these images"})


def test_what_is_not_finite_is_not_written():
    with pytest.raises(CertificateError, match="nan"):
        to_json(Certified("bsc", "BER", float("nan"), None, None))
