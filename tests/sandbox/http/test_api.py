"""Connections and the accounting API: responses, errors and limits."""

from __future__ import annotations

import asyncio
import base64
import json
import re

import pytest
from support.sandbox_caller import NEW_CLIENT, ORGANISATIONS, START, Caller

from xots.sandbox import Client, Limits, Sandbox, SandboxOptions, Switches, User

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
    """Times have seven fractional digits and no Z, and a name may be null."""
    response = await caller.api("/connections", sandbox.log_in().access_token)
    assert [list(row) for row in response.json] == [
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
    assert [row["tenantName"] for row in response.json] == [
        "One Ltd",
        "Two & <Sons>",
        None,
        "The Practice",
    ]
    assert [row["tenantType"] for row in response.json] == ["ORGANISATION"] * 3 + ["PRACTICE"]
    assert response.json[0]["createdDateUtc"] == "2026-11-01T12:00:00.0000000"


async def test_auth_event_id_selects_the_connections_of_one_consent(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A second consent to a connection keeps its id and changes its event."""
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


async def test_with_the_switch_each_list_starts_with_another_connection(
    caller: Caller, sandbox: Sandbox
) -> None:
    """A client that relies on the first connection fails with it."""
    sandbox.identity.switches = Switches(shuffle_connections=True)
    token = sandbox.log_in().access_token
    lists = [
        [row["id"] for row in (await caller.api("/connections", token)).json] for _ in range(2)
    ]
    assert lists[0][0] != lists[1][0]
    assert sorted(lists[0]) == sorted(lists[1])


async def test_a_connection_is_deleted_once(caller: Caller, sandbox: Sandbox) -> None:
    """Deleting is 204, then 404. The tokens stay valid, without access to the tenant."""
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


async def test_all_consents_of_a_user_share_their_connections(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Each token lists the connections of all consents, and can delete those of another one. A
    token of another app or user cannot."""
    first, second = sandbox.log_in(tenant_ids=[ONE]), sandbox.log_in(tenant_ids=[TWO])
    other = sandbox.log_in(client_id=NEW_CLIENT.client_id, scopes=["offline_access"])
    [one, two] = (await caller.api("/connections", first.access_token)).json
    assert (await caller.api("/connections", second.access_token)).json == [one, two]
    path = f"/connections/{one['id']}"
    assert (await caller.api(path, other.access_token, method="DELETE")).status == 404
    assert (await caller.api(path, second.access_token, method="DELETE")).status == 204
    assert (await caller.api("/connections", first.access_token)).json == [two]
    assert (await caller.refresh(first.refresh_token)).status == 200


@pytest.mark.parametrize("event_is_claimed", [True, False])
async def test_an_access_token_names_its_user_and_its_consent(
    caller: Caller, sandbox: Sandbox, event_is_claimed: bool
) -> None:
    """The event is that of the connections that the consent included. A switch leaves it out."""
    sandbox.identity.switches = Switches(omit_authentication_event_id=not event_is_claimed)
    token = sandbox.log_in(tenant_ids=[ONE]).access_token
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    [listed] = (await caller.api("/connections", token)).json
    assert claims["xero_userid"] == User().user_id
    expected = listed["authEventId"] if event_is_claimed else None
    assert claims.get("authentication_event_id") == expected


async def test_with_the_switch_a_consent_ends_with_its_last_connection(
    caller: Caller, sandbox: Sandbox
) -> None:
    """Xero does not document it. The consents that include a connected organisation live on."""
    sandbox.identity.switches = Switches(consents_end_without_connections=True)
    tokens = [sandbox.log_in(tenant_ids=ticked) for ticked in ([ONE], [ONE, TWO], [TWO])]
    for tenant_id, statuses in ((ONE, [400, 200, 200]), (TWO, [400, 400, 400])):
        listed = (await caller.api("/connections", tokens[0].access_token)).json
        [found] = [row["id"] for row in listed if row["tenantId"] == tenant_id]
        path = f"/connections/{found}"
        assert (await caller.api(path, tokens[0].access_token, method="DELETE")).status == 204
        refreshes = [await caller.refresh(one.refresh_token) for one in tokens]
        assert [refresh.status for refresh in refreshes] == statuses


async def test_an_expired_access_token_is_401_token_expired(
    caller: Caller, sandbox: Sandbox
) -> None:
    """The error has Xero's form and the time. In its last second the token is still valid."""
    token = sandbox.log_in().access_token
    sandbox.clock.advance(1799)
    assert (await caller.api("/connections", token)).status == 200
    sandbox.clock.advance(1)
    for path in ("/connections", "/api.xro/2.0/Invoices"):
        response = await caller.api(path, token, ONE)
        assert response.status == 401
        assert_error(
            response.json, "Unauthorized", 401, "TokenExpired: token expired at 11/01/2026 12:30:00"
        )


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer nonsense", "Basic abc"])
async def test_a_missing_or_unknown_access_token_is_401(caller: Caller, header: str) -> None:
    """Every endpoint of the API requires a valid one."""
    for method, path in (
        ("GET", "/connections"),
        ("DELETE", "/connections/x"),
        ("GET", "/api.xro/2.0/Contacts"),
    ):
        response = await caller.send(method, path, headers={"Authorization": header})
        assert response.status == 401
        assert_error(response.json, "Unauthorized", 401, "AuthenticationUnsuccessful")


@pytest.mark.parametrize("tenant_id", [TWO, PRACTICE, "nonsense", None])
async def test_a_wrong_tenant_is_403_authentication_unsuccessful(
    caller: Caller, sandbox: Sandbox, tenant_id: str | None
) -> None:
    """The tenant is not connected, has no accounting data, is unknown, or is missing."""
    token = sandbox.log_in(tenant_ids=[ONE, PRACTICE]).access_token
    response = await caller.api("/api.xro/2.0/Invoices", token, tenant_id)
    assert response.status == 403
    assert_error(response.json, "Forbidden", 403, "AuthenticationUnsuccessful")


SCOPES = [
    ("Invoices", {"accounting.transactions", "accounting.invoices"}),
    ("Contacts", {"accounting.contacts"}),
    ("Organisation", {"accounting.settings"}),
]


@pytest.mark.parametrize(("resource", "opening"), SCOPES)
async def test_a_missing_scope_is_401_authorization_unsuccessful(
    caller: Caller, sandbox: Sandbox, resource: str, opening: set[str]
) -> None:
    """Each resource accepts its own scopes only, with and without ``.read``."""
    for scope in (
        "accounting.transactions",
        "accounting.invoices",
        "accounting.contacts",
        "accounting.settings",
    ):
        for form in (scope, f"{scope}.read"):
            sandbox.identity.register(Client(form, "secret"))
            token = sandbox.log_in([form], client_id=form).access_token
            response = await caller.api(f"/api.xro/2.0/{resource}", token, ONE)
            if scope in opening:
                assert response.status == 200
            else:
                assert_error(response.json, "Unauthorized", 401, "AuthorizationUnsuccessful")


async def test_the_accounting_data_fit_together(caller: Caller, sandbox: Sandbox) -> None:
    """Invoices name existing contacts, and each organisation has its own data."""
    token = sandbox.log_in(
        ["accounting.settings", "accounting.contacts", "accounting.invoices"]
    ).access_token

    async def read(resource: str, tenant_id: str) -> list[dict[str, object]]:
        response = (await caller.api(f"/api.xro/2.0/{resource}", token, tenant_id)).json
        assert response["Status"] == "OK"
        rows: list[dict[str, object]] = response[
            "Organisations" if resource == "Organisation" else resource
        ]
        return rows

    [organisation] = await read("Organisation", ONE)
    assert (organisation["Name"], organisation["OrganisationID"]) == ("One Ltd", ONE)
    contacts = {row["ContactID"] for row in await read("Contacts", ONE)}
    invoices = await read("Invoices", ONE)
    assert {row["Contact"]["ContactID"] for row in invoices} <= contacts  # type: ignore[index]
    assert invoices[0]["Date"] == "/Date(1789948800000+0000)/"
    assert {row["InvoiceID"] for row in invoices}.isdisjoint(
        row["InvoiceID"] for row in await read("Invoices", TWO)
    )


async def test_the_headers_tell_the_remaining_calls(caller: Caller, sandbox: Sandbox) -> None:
    """They count for the tenant's day and minute, and for the app's minute."""
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
    """The response has the limit and the seconds to wait. Each tenant has limits of its own."""
    async with Sandbox(SandboxOptions(port=0, limits=limits), clock=lambda: START) as sandbox:
        caller = Caller(sandbox)
        one, two = (organisation.tenant_id for organisation in sandbox.options.organisations)
        sandbox.identity.switches = Switches(access_token_life_seconds=10**6)
        token = sandbox.log_in().access_token
        for _ in range(2):
            assert (await caller.api("/api.xro/2.0/Invoices", token, one)).status == 200
            sandbox.clock.advance(5)
        response = await caller.api("/api.xro/2.0/Invoices", token, one)
        assert response.status == 429
        assert (response.headers["x-rate-limit-problem"], response.headers["retry-after"]) == (
            problem,
            str(wait),
        )
        other = await caller.api("/api.xro/2.0/Invoices", token, two)
        assert other.status == (429 if problem == "appminute" else 200)
        sandbox.clock.advance(wait)
        assert (await caller.api("/api.xro/2.0/Invoices", token, one)).status == 200


async def test_more_than_five_calls_at_once_are_throttled(caller: Caller, sandbox: Sandbox) -> None:
    """The sixth call is a 429 while the five run, and succeeds after them."""
    token, tenant_id = sandbox.log_in().access_token, ORGANISATIONS[0].tenant_id
    rule = sandbox.add_fault("accounting:every:hold-after")
    tasks = [
        asyncio.create_task(caller.api("/api.xro/2.0/Invoices", token, tenant_id)) for _ in range(5)
    ]
    await sandbox.held(5)
    sandbox.faults.remove(rule)
    sixth = await caller.api("/api.xro/2.0/Invoices", token, tenant_id)
    assert (sixth.status, sixth.headers["x-rate-limit-problem"]) == (429, "concurrent")
    sandbox.release()
    assert [response.status for response in await asyncio.gather(*tasks)] == [200] * 5
    assert (await caller.api("/api.xro/2.0/Invoices", token, tenant_id)).status == 200
