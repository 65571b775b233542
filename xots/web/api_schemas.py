"""The JSON of requests and responses, as schemas for ``/openapi.json``. Pure.

A later version may add fields to a response. The tests check that this one has no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..keeping.ending import EndResult
from ..lifecycle.outlook import Need, Retrying
from ..lifecycle.policy import Grant
from ..lifecycle.schedule import State
from ..xero.protocol import SCOPE_SETS
from .guard import ACCOUNT_NAME

__all__ = ["SCHEMAS", "Schema", "problem_schema", "reference"]

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
WORD: Schema = {"type": "string", "pattern": r"^\S{0,512}$"}
SECRET: Schema = {**WORD, "format": "password"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TIME: Schema = {"type": "string", "format": "date-time"}
NAME: Schema = {"type": "string", "pattern": f"^{ACCOUNT_NAME}$"}


def reference(kind: str, name: str) -> dict[str, str]:
    """Return a reference to a component of the document."""
    return {"$ref": f"#/components/{kind}/{name}"}


def one_of(values: Iterable[str]) -> dict[str, Any]:
    """Return the schema of one of these texts."""
    return {"type": "string", "enum": list(values)}


def or_null(schema: Schema) -> dict[str, Any]:
    """Return the schema of a value that may be missing."""
    return {"anyOf": [schema, {"type": "null"}]}


def list_of(schema: Schema) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": schema}


def record(optional: Mapping[str, Schema] | None = None, **fields: Schema) -> dict[str, Any]:
    """Return the schema of an object with these fields.

    Args:
        optional: the fields that it may lack.
        fields: those that it always has.
    """
    return {
        "type": "object",
        "properties": {**fields, **(optional or {})},
        "required": list(fields),
    }


# ---------- problems

ORGANISATION = record(id=TEXT, name=or_null(TEXT))


def problem_schema(status: int, names: Iterable[str], *, has_organisations: bool) -> Schema:
    """Return the schema of a problem (RFC 9457).

    Args:
        status: its status.
        names: the last parts of the values of ``type``.
        has_organisations: it may list organisations to choose from.
    """
    return record(
        {"detail": TEXT} | ({"organisations": list_of(ORGANISATION)} if has_organisations else {}),
        type=one_of(f"urn:xots:{name}" for name in names),
        title=TEXT,
        status={"type": "integer", "const": status},
    )


# ---------- responses

TOKEN = record(
    {"tenantProblem": TEXT},
    accessToken=TEXT,
    tokenType=TEXT,
    expiresAt=TIME,
    expiresIn={"type": "integer"},
    scopes=list_of(TEXT),
    tenantId=or_null(TEXT),
)

HEALTH_FIELDS: Mapping[str, Schema] = {
    "healthy": BOOLEAN,
    "state": one_of(State),
    "reason": or_null(TEXT),
    "access_token_expiry_utc": or_null(TIME),
    "refresh_token_expiry_utc": or_null(TIME),
}

READS = record(reader=TEXT, count=COUNT, first_at=TIME, last_at=TIME)

STATUS = record(
    explanation=list_of(TEXT),
    **HEALTH_FIELDS,
    access_token=or_null(TEXT),
    refresh_token=or_null(TEXT),
    account=NAME,
    grant=one_of(Grant),
    client_id=or_null(TEXT),
    tenant_id=or_null(TEXT),
    tenant_problem=or_null(TEXT),
    scopes=list_of(TEXT),
    consented_at=or_null(TIME),
    refreshed_at=or_null(TIME),
    refreshed_by=or_null(TEXT),
    failed_attempts=COUNT,
    last_problem=or_null(TEXT),
    last_problem_at=or_null(TIME),
    retry_not_before=or_null(TIME),
    retrying=or_null(one_of(Retrying)),
    next_attempt_at=or_null(TIME),
    grace_ends_at=or_null(TIME),
    grace_seconds_left=or_null(COUNT),
    login_needed_at=or_null(TIME),
    attention_for=or_null(one_of(Need)),
    revocation_pending=BOOLEAN,
    store=one_of(("ok", "degraded")),
    unsaved=BOOLEAN,
    clock_skew=or_null(TEXT),
    redirect_uri=TEXT,
    version=TEXT,
    readers=list_of(READS),
)

TENANT: Schema = {
    "type": "object",
    "description": "The identity server chooses the fields. Only tenantId is always there.",
    "properties": {"tenantId": TEXT},
    "required": ["tenantId"],
    "additionalProperties": True,
}

ENDED_STATUS = one_of([*(one for one in EndResult if one is not EndResult.FORGOTTEN), "ended"])

ENDED = record(
    {
        "detail": TEXT,
        "shared_with": list_of(NAME),
        "user_unknown": list_of(NAME),
        "remaining": list_of(record(tenant_id=TEXT, name=or_null(TEXT))),
        "accounts": {"type": "object", "additionalProperties": ENDED_STATUS},
    },
    status=ENDED_STATUS,
)

ACCOUNT = record(
    name=NAME,
    source=TEXT,
    is_fixed=BOOLEAN,
    state=one_of(State),
    organisation=or_null(TEXT),
    login_needed_at=or_null(TIME),
    attention_for=or_null(one_of(Need)),
    problem=or_null(TEXT),
    shares_with=list_of(NAME),
)

# ---------- requests

CREDENTIALS = {"client_id": WORD, "client_secret": SECRET, "tenant_id": WORD}

SCHEMAS: Mapping[str, Schema] = {
    "Token": TOKEN,
    "Health": record(**HEALTH_FIELDS),
    "Ready": record(ready=BOOLEAN),
    "Status": STATUS,
    "Tenants": list_of(TENANT),
    "Ended": ENDED,
    "Accounts": record(accounts=list_of(ACCOUNT)),
    "Added": record(status={"const": "added"}, account=NAME, needs_login=BOOLEAN),
    "Removed": record({"detail": TEXT}, status={"const": "removed"}, account=NAME),
    "OpenApi": {"type": "object"},
    "Text": TEXT,
    "CredentialsForm": {
        "type": "object",
        "properties": CREDENTIALS,
        "required": ["client_id"],
    },
    "HomeForm": {
        "type": "object",
        "properties": {"tenant_id": TEXT, "scopes": one_of(["", *SCOPE_SETS])},
    },
    "EndForm": {"type": "object", "properties": {"all": one_of(["true"])}},
    "NewAccount": {
        **record({**CREDENTIALS, "scopes": TEXT}, name={**NAME, "not": {"pattern": "^lease-"}}),
        "additionalProperties": False,
    },
}
"""The schemas by name, apart from those of the problems."""
