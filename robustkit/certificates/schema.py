"""The JSON Schema of a certificate: made from its records, and published beside them as ``schema.json``."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from robustkit.certificates.canonical import LARGEST
from robustkit.certificates.model import PREDICATE, VERSION, Certificate, CertificateError
from robustkit.extras import way_out

#: Of the published file, in the package.
FILE = "schema.json"
_PLAIN: Mapping[Any, Mapping[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": -LARGEST, "maximum": LARGEST},
    float: {"type": "number"},
}


def generate() -> dict[str, Any]:
    """The schema of :class:`~robustkit.certificates.model.Certificate` as JSON, by the records alone."""
    definitions: dict[str, Any] = {}
    whole = _of(Certificate, definitions)
    definitions["Certificate"]["properties"]["version"] = {"const": VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": PREDICATE,
        "title": "A certificate of robustkit: the predicate of its in-toto statement",
        **whole,
        "$defs": dict(sorted(definitions.items())),
    }


def text() -> str:
    """The schema as the published file has it."""
    return json.dumps(generate(), indent=1) + "\n"


def check(value: Any) -> None:
    """Hold what may be a certificate against the published schema.

    Args:
        value: as a JSON reader gives it.

    Raises:
        CertificateError: it does not fit; the message says where. Or a package is missing.
    """
    first = min(_validator().iter_errors(value), key=lambda error: list(map(str, error.absolute_path)), default=None)
    if first is not None:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first.absolute_path)
        raise CertificateError(f"certificate{where[:200]} does not fit the schema: {first.message[:200]}")


@cache
def _validator() -> Any:
    try:
        from jsonschema import Draft202012Validator
    except ModuleNotFoundError as error:
        raise CertificateError(f"certificates need a package: {way_out(error.name)}") from error
    published = resources.files("robustkit.certificates").joinpath(FILE).read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(published))


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if is_dataclass(kind):
        name = str(kind.__name__)  # type: ignore[union-attr]
        if name not in definitions:
            definitions[name] = {}
            hints = get_type_hints(kind)
            definitions[name] = {
                "type": "object",
                "properties": {field: _of(hint, definitions) for field, hint in hints.items()},
                "required": list(hints),
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(part, definitions) for part in inner if part is not type(None)] + [{"type": "null"}]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": _of(inner[0], definitions)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _of(inner[1], definitions)}
    return dict(_PLAIN[kind])


if __name__ == "__main__":
    print(text(), end="")
