"""The record as JSON, in this format and the older ones.

The JSON carries a format number. This version writes ``FORMAT`` and converts the older ones when it
reads them. A newer format is refused, since writing it back would drop fields of the newer version.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ..secret import Secret, concealed
from .account import FORMAT, Account

__all__ = ["UnknownFormat", "decode", "encode", "format_of"]


class UnknownFormat(ValueError):
    """The record is not one that this version reads. The message says why."""


class _Header(msgspec.Struct):
    """The number of the format. Records of format 1 had none."""

    format: int = 1


def encode(account: Account) -> bytes:
    """Return the record as JSON with its secrets in clear: for sealing, and for nothing else."""
    return msgspec.json.encode(account, enc_hook=_reveal)


def decode(data: bytes) -> Account:
    """Return the record that ``encode`` wrote, in this format or an older one.

    Raises:
        UnknownFormat: a newer version wrote it, or it is no record. Unknown fields are refused
            too: dropping them at the next write would lose them.
    """
    try:
        found = msgspec.json.decode(data, type=_Header).format
        converted = CONVERSIONS[found](json.loads(data)) if found in CONVERSIONS else None
        account = None if found > FORMAT else _decoded(json.dumps(converted) if converted else data)
    except (msgspec.MsgspecError, AttributeError, TypeError, ValueError, RecursionError) as error:
        # The error's text may quote a token of the record.
        kind = type(error).__name__
        raise UnknownFormat(f"not a record that this version of xots reads ({kind})") from None
    if account is None:
        raise UnknownFormat(
            f"written by a newer version of xots (record format {found}, this process reads up to "
            f"{FORMAT}): upgrade this process"
        )
    return account


def format_of(data: bytes) -> int:
    """Return the number of the format of a record that ``decode`` reads."""
    return msgspec.json.decode(data, type=_Header).format


def _decoded(data: bytes | str) -> Account:
    return msgspec.json.decode(data, type=Account, dec_hook=concealed)


RENAMED_SINCE_1 = {
    "rivals": "fallbacks",
    "dropped": "tombstones",
    "dropped_ever": "tombstones_ever",
    "unrotated": "responses_without_token",
    "tries": "failed_attempts",
    "scopes_asked": "scopes_requested",
    "scopes_set": "scopes_configured",
    "stamped": "set_first_spent",
    "doubted": "also_open",
}
"""The old and new names of fields, of the record and of its intent. ``notices_sent`` was
dropped."""


def _from_format_1(record: dict[str, Any]) -> dict[str, Any]:
    converted = _with_organisation(_renamed(record))
    converted.pop("notices_sent", None)
    if converted.get("responses_without_token", 0) > 1 and "intent" not in converted:
        converted |= {"responses_without_token": 0, "rotates": False}
    if "intent" in converted:
        converted["intent"] = _renamed(converted["intent"])
    return converted


def _with_organisation(record: dict[str, Any]) -> dict[str, Any]:
    """Before format 4, the record held no list: the organisation counts as listed."""
    tenant_id = record.get("tenant_id")
    listed = {"organisations": [{"tenant_id": tenant_id}]} if tenant_id else {}
    return _with_new_fields(record | listed)


def _with_new_fields(record: dict[str, Any]) -> dict[str, Any]:
    """Formats 3 to 5 only add fields, with defaults: format 3 ``RefreshToken.may_be_in_flight``,
    format 4 those of ``Account`` from ``xero_userid`` on, format 5 ``RefreshToken.resent``,
    ``code`` and ``without_user`` of ``Problem``, and ``without_user`` and ``lists_without_tenant``
    of ``Account``."""
    return record | {"format": FORMAT}


CONVERSIONS = {
    1: _from_format_1,
    2: _with_organisation,
    3: _with_organisation,
    4: _with_new_fields,
}
"""What turns a record of each older format into one of this format."""


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED_SINCE_1.get(name, name): value for name, value in fields.items()}


def _reveal(value: object) -> str:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(f"{type(value).__name__} does not belong in a record")
