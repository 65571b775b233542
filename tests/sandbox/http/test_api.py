"""Connections and the accounting API: their forms, their errors and their limits."""

from __future__ import annotations

import re

import pytest
from support.sandbox_caller import ORGANISATIONS, START, Caller

from xots.sandbox import Client, Limits, Sandbox, SandboxOptions, Switches

ONE, TWO, NAMELESS, PRACTICE = (organisation.tenant_id for organisation in ORGANISATIONS)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def assert_error(content: dict[str, object], title: str, status: int, detail: str) -> None:
    assert list(content) == ["Type", "Title", "Status", "Detail", "Instance", "Extensions"]
    assert UUID.fullmatch(str(content.pop("Instance")))
    assert content == {
        "Type": None,
        "Title": title,
        "Status": status,
        "Detail": detail,
        "Extensions": {},
    }


async def test_connections_are_a_bare_array_in_xeros_form(caller: Caller, sandbox: Sandbox) -> None:
    """Seven fractional digits, no Z, and a name that may be null."""
    answer = await caller.api("/connections", sandbox.log_in().access_token)
    assert [list(row) for row in answer.json] == [
        [
            "id",
            "authEventId",
            "tenantId",
            "tenantType",
            "tenantName",
            "createdDateUtc",
            "updatedDateUtc",
        ]
    ] * len(ORGANISATIONS)
    assert [row["tenantName"] for row in answer.json] == [
        "One Ltd",
        "Two & <Sons>",
        None,
        "The Practice",
    ]
    assert [row["tenantType"] for row in answer.json] == ["ORGANISATION"] * 3 + ["PRACTICE"]
    assert answer.json[0]["createdDateUtc"] == "2026-11-01T12:00:00.0000000"


async def test_auth_event_id_filters_to_what_one_consent_touched(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A connection that is consented to again keeps its id, and belongs to the new event."""
    before = sandbox.log_in(tenant_ids=[ONE, TWO])
    [one, two] = (await caller.api("/connections", before.access_token)).json
    sandbox.clock.advance(60)
    tokens = sandbox.log_in(tenant_ids=[TWO, NAMELESS])
    listed = (await caller.api("/connections", tokens.access_token)).json
    event = listed[-1]["authEventId"]
    filtered = (await caller.api(f"/connections?authEventId={event}", tokens.access_token)).json
    assert [row["tenantId"] for row in listed] == [ONE, TWO, NAMELESS]
    assert [row["tenantId"] for row in filtered] == [TWO, NAMELESS]
    assert filtered[0]["id"] == two["id"]
    assert filtered[0]["createdDateUtc"] < filtered[0]["updatedDateUtc"]
    assert listed[0] == one


async def test_by_switch_the_first_connection_changes_between_calls(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Nobody may rely on the first of the list."""
    sandbox.identity.switches = Switches(shuffle_connections=True)
    token = sandbox.log_in().access_token
    lists = [
        [row["id"] for row in (await caller.api("/connections", token)).json] for _ in range(2)
    ]
    assert lists[0][0] != lists[1][0]
    assert sorted(lists[0]) == sorted(lists[1])


async def test_a_connection_is_deleted_once(caller: Caller, sandbox: Sandbox) -> None:
    """204, then 404; the tokens live on, and the tenant is closed."""
    tokens = sandbox.log_in()
    [first, *_] = (await caller.api("/connections", tokens.access_token)).json
    path = f"/connections/{first['id']}"
    statuses = [
        (await caller.api(path, tokens.access_token, method="DELETE")).status for _ in range(2)
    ]
    assert statuses == [204, 404]
    assert (
        len((await caller.api("/connections", tokens.access_token)).json) == len(ORGANISATIONS) - 1
    )
    assert (
        await caller.api("/api.xro/2.0/Invoices", tokens.access_token, first["tenantId"])
    ).status == 403
    assert (await caller.refresh(tokens.refresh_token)).status == 200


async def test_an_expired_token_is_401_token_expired(caller: Caller, sandbox: Sandbox) -> None:
    """In Xero's form, with the time; the last second of its life still counts."""
    token = sandbox.log_in().access_token
    sandbox.clock.advance(1799)
    assert (await caller.api("/connections", token)).status == 200
    sandbox.clock.advance(1)
    for path in ("/connections", "/api.xro/2.0/Invoices"):
        answer = await caller.api(path, token, ONE)
        assert answer.status == 401
        assert_error(
            answer.json, "Unauthorized", 401, "TokenExpired: token expired at 11/01/2026 12:30:00"
        )


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer nonsense", "Basic abc"])
async def test_no_token_or_an_unknown_one_is_401(caller: Caller, header: str) -> None:
    """Every endpoint of the API wants one."""
    for method, path in (
        ("GET", "/connections"),
        ("DELETE", "/connections/x"),
        ("GET", "/api.xro/2.0/Contacts"),
    ):
        answer = await caller.send(method, path, headers={"Authorization": header})
        assert answer.status == 401
        assert_error(answer.json, "Unauthorized", 401, "AuthenticationUnsuccessful")


@pytest.mark.parametrize("tenant_id", [TWO, PRACTICE, "nonsense", None])
async def test_a_wrong_tenant_is_403_authentication_unsuccessful(
    caller: Caller, sandbox: Sandbox, tenant_id: str | None
) -> None:
    """One that isn't connected, one without books, one that isn't there, and none."""
    token = sandbox.log_in(tenant_ids=[ONE, PRACTICE]).access_token
    answer = await caller.api("/api.xro/2.0/Invoices", token, tenant_id)
    assert answer.status == 403
    assert_error(answer.json, "Forbidden", 403, "AuthenticationUnsuccessful")


SCOPES = [
    ("Invoices", {"accounting.transactions", "accounting.invoices"}),
    ("Contacts", {"accounting.contacts"}),
    ("Organisation", {"accounting.settings"}),
]


@pytest.mark.parametrize(("resource", "opening"), SCOPES)
async def test_a_lacking_scope_is_401_authorization_unsuccessful(
    caller: Caller, sandbox: Sandbox, resource: str, opening: set[str]
) -> None:
    """Each resource opens to its own scopes, with and without .read, and to no other's."""
    for scope in (
        "accounting.transactions",
        "accounting.invoices",
        "accounting.contacts",
        "accounting.settings",
    ):
        for form in (scope, f"{scope}.read"):
            sandbox.identity.register(Client(form, "secret"))
            token = sandbox.log_in([form], client_id=form).access_token
            answer = await caller.api(f"/api.xro/2.0/{resource}", token, ONE)
            if scope in opening:
                assert answer.status == 200
            else:
                assert_error(answer.json, "Unauthorized", 401, "AuthorizationUnsuccessful")


async def test_the_books_have_something_real_to_print(caller: Caller, sandbox: Sandbox) -> None:
    """Organisation, contacts and invoices fit together, and each organisation has its own."""
    token = sandbox.log_in(
        ["accounting.settings", "accounting.contacts", "accounting.invoices"]
    ).access_token

    async def ask(resource: str, tenant_id: str) -> list[dict[str, object]]:
        answer = (await caller.api(f"/api.xro/2.0/{resource}", token, tenant_id)).json
        assert answer["Status"] == "OK"
        rows: list[dict[str, object]] = answer[
            "Organisations" if resource == "Organisation" else resource
        ]
        return rows

    [organisation] = await ask("Organisation", ONE)
    assert (organisation["Name"], organisation["OrganisationID"]) == ("One Ltd", ONE)
    contacts = {row["ContactID"] for row in await ask("Contacts", ONE)}
    invoices = await ask("Invoices", ONE)
    assert {row["Contact"]["ContactID"] for row in invoices} <= contacts  # type: ignore[index]
    assert invoices[0]["Date"] == "/Date(1789948800000+0000)/"
    assert {row["InvoiceID"] for row in invoices}.isdisjoint(
        row["InvoiceID"] for row in await ask("Invoices", TWO)
    )


async def test_the_answers_tell_what_remains_of_the_limits(
    caller: Caller, sandbox: Sandbox
) -> None:
    """The tenant's day and minute, and the app's minute."""
    token = sandbox.log_in().access_token
    await caller.api("/api.xro/2.0/Invoices", token, TWO)
    headers = (await caller.api("/api.xro/2.0/Invoices", token, ONE)).headers
    names = ("x-daylimit-remaining", "x-minlimit-remaining", "x-appminlimit-remaining")
    assert [headers[name] for name in names] == ["4999", "59", "9998"]


@pytest.mark.parametrize(
    ("limits", "problem", "wait"),
    [
        (Limits(per_minute=2), "minute", 50),
        (Limits(per_day=2), "day", 86390),
        (Limits(app_per_minute=2), "appminute", 50),
    ],
)
async def test_a_call_over_a_limit_is_429_until_the_window_has_passed(
    limits: Limits, problem: str, wait: int
) -> None:
    """With the limit's name and the seconds to wait; the other tenant has a limit of its own."""
    async with Sandbox(SandboxOptions(port=0, limits=limits), clock=lambda: START) as sandbox:
        caller = Caller(sandbox)
        one, two = (organisation.tenant_id for organisation in sandbox.options.organisations)
        sandbox.identity.switches = Switches(access_token_life_seconds=10**6)
        token = sandbox.log_in().access_token
        for _ in range(2):
            assert (await caller.api("/api.xro/2.0/Invoices", token, one)).status == 200
            sandbox.clock.advance(5)
        answer = await caller.api("/api.xro/2.0/Invoices", token, one)
        assert answer.status == 429
        assert (answer.headers["x-rate-limit-problem"], answer.headers["retry-after"]) == (
            problem,
            str(wait),
        )
        other = await caller.api("/api.xro/2.0/Invoices", token, two)
        assert other.status == (429 if problem == "appminute" else 200)
        sandbox.clock.advance(wait)
        assert (await caller.api("/api.xro/2.0/Invoices", token, one)).status == 200
