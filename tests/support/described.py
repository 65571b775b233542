"""The OpenAPI document as an oracle: does it describe a response?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from xots.web.app import openapi_document

__all__ = ["faults_of", "resolved"]

ANYWHERE = frozenset({400, 401, 403, 421, 500, 503})
"""The statuses at a path, or with a method, that is not listed, apart from 404 and 405."""


def strict(schema: Any) -> Any:
    """Return a schema that permits no other fields than those that it names."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {**closed, **{name: strict(part) for name, part in schema.items()}}


@cache
def _validator(reference: str) -> Draft202012Validator:
    components = strict(openapi_document()["components"])
    return Draft202012Validator(
        {"$ref": reference, "components": components}, format_checker=FormatChecker()
    )


@cache
def _paths() -> list[tuple[re.Pattern[str], Mapping[str, Any]]]:
    document = openapi_document()
    account = document["components"]["parameters"]["account"]["schema"]["pattern"].strip("^$")
    return [
        (re.compile(re.escape(path).replace(r"\{account\}", account)), item)
        for path, item in document["paths"].items()
    ]


def resolved(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a part of the document, or the component to which it refers."""
    if "$ref" not in part:
        return part
    kind, name = part["$ref"].split("/")[-2:]
    component: Mapping[str, Any] = openapi_document()["components"][kind][name]
    return component


def faults_of(
    method: str, path: str, status: int, headers: Mapping[str, str], body: bytes
) -> list[str]:
    """Return what the document does not say of a response.

    Args:
        method: that of the request.
        path: that of the request, without the query.
        status: that of the response.
        headers: those of the response, by names without case.
        body: its body; for HEAD, that of GET.
    """
    where = f"{method} {path}: {status}"
    response = _response(method, path, status)
    kind, _, _ = headers.get("Content-Type", "").partition(";")
    if response is None:
        is_worker = (method, status, kind) == ("GET", 200, "text/javascript")
        return [] if is_worker else [f"{where} is not described"]
    needed = [name for name, one in response.get("headers", {}).items() if one["required"]]
    faults = [f"{where} has no {name}" for name in needed if name not in headers]
    content = response.get("content", {})
    if kind not in content:
        return faults if not (kind or body) else [*faults, f"{where} has the type {kind!r}"]
    if kind.endswith("json"):
        faults += [
            f"{where}: {fault}" for fault in _json_faults(content[kind]["schema"]["$ref"], body)
        ]
    return faults


def _response(method: str, path: str, status: int) -> Mapping[str, Any] | None:
    """Return the description of a response; None if there is none."""
    item = next((item for pattern, item in _paths() if pattern.fullmatch(path)), None)
    name = method.lower() if method.isupper() else ""
    if item is not None and name in item:
        found = item[name]["responses"].get(str(status))
        return None if found is None else resolved(found)
    refused = 404 if item is None else 405
    if status not in {*ANYWHERE, refused}:
        return None
    return resolved({"$ref": f"#/components/responses/Problem{status}"})


@lru_cache(maxsize=10_000)
def _json_faults(reference: str, body: bytes) -> list[str]:
    try:
        value = json.loads(body)
    except ValueError:
        return ["it is not JSON"]
    errors = _validator(reference).iter_errors(value)
    return [f"{error.json_path}: {error.message}"[:500] for error in errors]
