"""Formats of the record: each older one is read; a newer one is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from xots.backends.base import Stored
from xots.backends.memory import MemoryStore
from xots.errors import SealError, StoreUnavailable
from xots.keeping.keeper import TokenKeeper
from xots.keeping.record_store import open_record
from xots.lifecycle.account import (
    FORMAT,
    Account,
    Intent,
    Organisation,
    Problem,
    ProblemKind,
    RefreshToken,
    Revocation,
)
from xots.lifecycle.policy import Policy
from xots.lifecycle.record_json import UnknownFormat, decode, encode
from xots.lifecycle.schedule import (
    Spend,
    State,
    next_step,
    state_of,
)
from xots.sealing import Sealer
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.http import XeroClient
from xots.xero.identity_server import IdentityServer

DATA = Path(__file__).parent / "data"
KEY = Secret("dGhlIGtleSBvZiB0aGUgc3RvcmVkIHRlc3QgcmVjb3I=")
"""The key that sealed the stored record. It protects nothing else."""

STORED = Stored((DATA / "record-format-1.sealed").read_bytes(), "v1")
"""A file of the file store, as the last version without format numbers left it: after a login, four
refreshes, and one whose response was lost."""

STORED_3 = Stored((DATA / "record-format-3.sealed").read_bytes(), "v1")
"""A record as the last version with format 3 sealed it: after a login, three refreshes, and one
whose response was lost and that was started again."""

AT = datetime(2026, 11, 25, 11, 29, tzinfo=UTC)
"""When the refresh with the lost response was started."""


def test_a_stored_record_of_format_1_is_read() -> None:
    """Every part of it means the same as before."""
    account = open_record(Sealer([KEY]), STORED, "default")
    assert (account.generation, account.client_id) == (11, "C0FFEE00C0FFEE00C0FFEE00C0FFEE00")
    assert account.scopes_requested == ("offline_access", "accounting.transactions")
    assert account.scopes_configured == ("offline_access",)
    assert account.current is not None
    assert account.current.first_spent_at == AT
    assert len(account.fallbacks) == 1
    assert account.fallbacks[0].first_spent_at == AT - timedelta(minutes=25)
    assert account.tombstones == ("c11ab1c970cc", "8ddb1fb3d002", "b993c10f0c9d")
    assert account.tombstones_ever == 3
    assert account.intent == Intent(
        by="books-1:4711", began_at=AT, fingerprint="f94a2be6b978", set_first_spent=True
    )
    assert (account.failed_attempts, account.responses_without_token) == (1, 0)
    assert account.problem is not None
    assert account.problem.kind is ProblemKind.UNKNOWN
    assert state_of(account, AT, Policy()) is State.REFRESH_FAILING
    step = next_step(account, AT + timedelta(minutes=1), Policy())
    assert isinstance(step, Spend)
    assert step.token == account.current


def test_a_record_of_format_1_is_written_back_in_this_format() -> None:
    """The next write carries the format's number and loses nothing."""
    account = open_record(Sealer([KEY]), STORED, "default")
    written = encode(account)
    assert json.loads(written)["format"] == FORMAT
    assert decode(written) == account


@pytest.mark.parametrize("older_format", [2, 3, 4])
def test_a_record_of_a_format_from_2_on_is_read(older_format: int) -> None:
    """The formats after it only add fields, with defaults."""
    account = open_record(Sealer([KEY]), STORED, "default")
    older = json.loads(encode(account)) | {"format": older_format}
    assert decode(json.dumps(older).encode()) == account


def test_a_stored_record_of_format_3_is_read() -> None:
    """The login continues, and the fields of format 4 have their defaults."""
    account = open_record(Sealer([KEY]), STORED_3, "default")
    at = datetime(2026, 11, 27, 10, 40, tzinfo=UTC)
    assert (account.generation, account.client_id) == (14, "C0FFEE00C0FFEE00C0FFEE00C0FFEE00")
    assert account.tenant_id == "fe79f7dd-b6d4-4a92-ba7b-538af6289c58"
    assert account.current is not None
    assert account.current.first_spent_at == at
    assert account.current.may_be_in_flight
    assert [token.may_be_in_flight for token in account.fallbacks] == [False, False]
    assert account.intent == Intent(
        by="books-1:4711",
        began_at=at + timedelta(minutes=1),
        fingerprint=account.current.fingerprint,
        set_first_spent=False,
    )
    assert (account.tombstones, account.tombstones_ever) == (("6bcd92e0a280",), 1)
    assert (account.xero_userid, account.auth_event_id) == (None, None)
    assert account.organisations == (Organisation(tenant_id=account.tenant_id),)
    assert (account.listed_at, account.entry, account.removed) == (None, None, False)
    assert (account.refreshes, account.login_states, account.notices) == ((), (), ())
    step = next_step(account, at + timedelta(minutes=2), Policy())
    assert isinstance(step, Spend)
    assert step.token == account.current
    written = encode(account)
    assert json.loads(written)["format"] == FORMAT
    assert decode(written) == account


def test_each_renamed_field_of_format_1_is_converted() -> None:
    """A field that was never written is dropped."""
    spent = {
        "value": "r0",
        "obtained_at": "2026-11-25T09:00:00Z",
        "refused_at": "2026-11-25T09:01:00Z",
    }
    old = {
        "generation": 4,
        "client_id": "c",
        "revocation": "forget",
        "rivals": [spent],
        "dropped": ["f1"],
        "dropped_ever": 7,
        "unrotated": 2,
        "tries": 3,
        "scopes_asked": ["a"],
        "scopes_set": ["b"],
        "intent": {
            "by": "h:1",
            "began_at": "2026-11-25T09:00:00Z",
            "fingerprint": "f",
            "stamped": True,
            "doubted": "g",
        },
        "problem": {"kind": "client-refused", "detail": "x", "at": "2026-11-25T09:00:00Z"},
        "notices_sent": ["n"],
    }
    at = datetime(2026, 11, 25, 9, tzinfo=UTC)
    assert decode(json.dumps(old).encode()) == Account(
        generation=4,
        client_id="c",
        revocation=Revocation.FORGET_CREDENTIALS,
        fallbacks=(
            RefreshToken(value=Secret("r0"), obtained_at=at, refused_at=at + timedelta(minutes=1)),
        ),
        tombstones=("f1",),
        tombstones_ever=7,
        responses_without_token=2,
        failed_attempts=3,
        scopes_requested=("a",),
        scopes_configured=("b",),
        intent=Intent(by="h:1", began_at=at, fingerprint="f", set_first_spent=True, also_open="g"),
        problem=Problem(kind=ProblemKind.CLIENT_REFUSED, detail="x", at=at),
    )


@pytest.mark.parametrize(
    "data",
    [
        *[b"", b"[]", b"null", b"1", b'{"format": 0}', b'{"format": "2"}', b'{"intent": 1}'],
        *[b"\xff", b'{"x": "\xff"}', b'{"unrotated": "x"}', b'{"unrotated": [1]}'],
        *[b'{"x": ' + b"9" * 5000 + b"}", b'{"x": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"],
    ],
)
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    """Each raises the same kind of error, without the traceback of a parser."""
    with pytest.raises(UnknownFormat):
        decode(data)


@pytest.mark.safeguard(
    file="lifecycle/record_json.py",
    old="None if found > FORMAT else ",
    new="",
    protects_from="an error that does not say that this process is to be upgraded",
)
def test_a_newer_format_says_that_this_process_is_to_be_upgraded() -> None:
    """This version does not know its fields."""
    newer = json.dumps({"format": FORMAT + 1, "generation": {"any": "thing"}}).encode()
    with pytest.raises(UnknownFormat, match=r"newer version of xots.*upgrade this process"):
        decode(newer)


async def test_a_record_of_a_newer_version_is_never_overwritten() -> None:
    """A process serves its cached token, reports why it cannot refresh, and writes nothing."""
    clock, store, sealer = FakeClock(AT), MemoryStore(), Sealer([KEY])
    version = await store.swap("default", STORED.value, expected=None)
    xero = XeroClient(IdentityServer(token_url="http://127.0.0.1:1/token"), clock=clock)
    account = open_record(sealer, STORED, "default")
    here = IdentityServer(token_url=account.token_url or "")
    keeper = TokenKeeper(store, XeroClient(here, clock=clock), sealer, clock=clock)
    await keeper.start()
    cached = await keeper.token()
    newer = json.dumps({"format": FORMAT + 1, "generation": 99}).encode()
    sealed = sealer.seal(newer, "account", {"name": "default"})
    version = await store.swap("default", sealed, expected=version)
    clock.advance(minutes=2)
    await keeper.maintain()
    assert keeper.store_problem is not None
    assert "upgrade this process" in keeper.store_problem
    assert await keeper.token() == cached
    with pytest.raises(SealError, match="upgrade this process"):
        await keeper.follow()
    with pytest.raises((SealError, StoreUnavailable)):
        await keeper.end(forget=False)
    stored = await store.read("default")
    assert stored == Stored(sealed, version)
    await keeper.close()
    xero.close()


@pytest.mark.parametrize(("unrotated", "expected"), [(1, (1, True)), (2, (0, False))])
def test_format_1_knows_a_server_without_rotation_by_its_second_response(
    unrotated: int, expected: tuple[int, bool]
) -> None:
    """One response without a refresh token may have lost it."""
    account = decode(json.dumps({"unrotated": unrotated}).encode())
    assert (account.responses_without_token, account.rotates) == expected


def test_a_secret_that_is_no_text_makes_a_record_unreadable() -> None:
    """It is an error of the record, and not of the program."""
    with pytest.raises(UnknownFormat):
        decode(b'{"client_secret": 7}')
