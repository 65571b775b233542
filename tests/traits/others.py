"""Rows: revocation, lists of organisations, and the grant of the client's own credentials."""

from __future__ import annotations

from traits.rows import Row
from traits.steps import (
    LoginFails,
    LogsIn,
    Passes,
    Refreshes,
    Revokes,
    Serves,
    ServesNothing,
    Spent,
    Step,
    Tenants,
)
from traits.stub import MISSING, TENANT, Reply, Shape, Trait, error, json_reply, plain

__all__ = ["ROWS"]

BOM = b"\xef\xbb\xbf"
OTHER = "11111111-2222-4333-8444-555555555555"
UNREADABLE = Reply(b"<html>down</html>", 500, {"Content-Type": "text/html"})


def _revocation(name: str, rule: str, reply: Reply, step: Step) -> Row:
    return Row(name=name, rule=rule, trait=Trait(revocation=reply), steps=(LogsIn(), step))


REVOCATION = [
    _revocation(
        "revocation-200",
        "RFC 7009 section 2.2: status 200 confirms the revocation, with any body.",
        Reply(b"revoked"),
        Revokes("revoked"),
    ),
    _revocation(
        "revocation-204",
        "RFC 9110 section 15.3.5: a 204 is a success without a body.",
        Reply(status=204),
        Revokes("revoked"),
    ),
    _revocation(
        "revocation-unsupported-token-type",
        "RFC 7009 section 2.2.1: unsupported_token_type means that nothing was revoked.",
        json_reply({"error": "unsupported_token_type"}, 400),
        Revokes("revocation-pending", logs=(r"\bunsupported_token_type\b",), status=202),
    ),
    _revocation(
        "revocation-503",
        "RFC 7009 section 2.2.1: after a 503 the client must assume that the token still exists, "
        "and may try again.",
        json_reply({"error": "busy"}, 503, Retry_After="60"),
        Revokes("revocation-pending", status=202),
    ),
    _revocation(
        "revocation-invalid-client",
        "RFC 7009 section 2.2.1 and RFC 6749 section 5.2: a client that is not authenticated "
        "revokes nothing.",
        json_reply({"error": "invalid_client"}, 401, WWW_Authenticate='Basic realm="id"'),
        Revokes("revocation-pending", logs=(r"\binvalid_client\b",), status=202),
    ),
    Row(
        name="no-revocation-endpoint",
        rule="RFC 7009 section 2: a server need not revoke; then the login is forgotten here only, "
        "and the response says so.",
        settings={"revoke_url": ""},
        steps=(LogsIn(), Revokes("ended", (r"here only",))),
    ),
    Row(
        name="no-revocation-endpoint-on-the-page",
        rule="RFC 7009 section 2: a server need not revoke; then the page says that the login is "
        "forgotten here only.",
        settings={"revoke_url": ""},
        steps=(LogsIn(), Revokes("ended", (r"here only",), on_page=True)),
    ),
]


def _list(name: str, rule: str, reply: Reply, *steps: Step, **settings: str) -> Row:
    """Return the row of a server with this list of organisations."""
    return Row(
        name=f"organisations-{name}",
        rule=rule,
        trait=Trait(lists=(reply,)),
        settings={"connections_url": "STUB/connections", **settings},
        steps=steps,
    )


ORGANISATIONS = [
    _list(
        "with-a-tenant-id-only",
        "RFC 8259 section 4: an object has any members; only the one that is used is required.",
        json_reply([{"tenantId": TENANT}]),
        LogsIn(),
        Serves({"tenantId": TENANT, "tenantProblem": None}),
        Tenants((TENANT,)),
    ),
    _list(
        "with-nulls",
        "RFC 8259 section 3: null is the absence of a value.",
        json_reply([{"id": None, "tenantId": TENANT, "tenantType": None, "tenantName": None}]),
        LogsIn(),
        Serves({"tenantId": TENANT}),
        Tenants((TENANT,)),
    ),
    _list(
        "with-a-byte-order-mark",
        "RFC 8259 section 8.1: a parser may ignore a byte order mark instead of an error.",
        Reply(BOM + json_reply([{"id": "c1", "tenantId": TENANT}]).body),
        LogsIn(),
        Serves({"tenantId": TENANT}),
        Tenants((TENANT,)),
    ),
    _list(
        "with-bad-entries",
        "RFC 8259 section 5: the values of an array are independent; one that cannot be used costs "
        "no other, and is reported.",
        json_reply(["x", None, {"tenantId": 5}, {"tenantId": TENANT}, {"tenantName": "none"}]),
        LogsIn(warns=r"^WARNING xots"),
        Serves({"tenantId": TENANT}),
        Tenants((TENANT,)),
    ),
    _list(
        "with-an-invalid-id",
        "RFC 9110 section 5.5: a header's value holds no line ends, so such an id is never served.",
        json_reply([{"tenantId": f"{TENANT}\r\nX: y"}]),
        LogsIn(warns=r"^WARNING xots"),
        Serves({"tenantId": None}),
        Tenants(()),
    ),
    _list(
        "without-any",
        "RFC 8259 section 5: an array may be empty.",
        json_reply([]),
        LogsIn(),
        Serves({"tenantId": None}),
        Tenants(()),
    ),
    _list(
        "without-the-chosen-one",
        "RFC 6750 section 3.1: a token is refused outside of what it was issued for, so a wrong "
        "organisation is refused at once.",
        json_reply([{"tenantId": TENANT}]),
        LoginFails((r"organisation", TENANT)),
        tenant_id=OTHER,
    ),
    Row(
        name="organisations-with-429",
        rule="RFC 6585 section 4: Retry-After of a 429 says how long to wait, also to the program "
        "behind.",
        trait=Trait(
            lists=(
                json_reply([{"tenantId": TENANT}]),
                json_reply({}, 429, Retry_After="77"),
            )
        ),
        settings={"connections_url": "STUB/connections"},
        steps=(
            LogsIn(),
            Serves({"tenantId": TENANT}),
            Passes(60),
            Tenants(status=503, retry_after=77),
        ),
    ),
    Row(
        name="organisations-unreadable-at-the-login",
        rule="RFC 9110 section 15.6: a failure of the server says nothing about the organisation, "
        "so a chosen one is not served until a list was read.",
        trait=Trait(lists=(UNREADABLE, json_reply([{"tenantId": TENANT}]))),
        settings={"connections_url": "STUB/connections", "tenant_id": TENANT},
        steps=(
            LogsIn(warns=r"^WARNING xots"),
            Serves({"tenantId": None}, problem=True),
            Passes(60),
            Refreshes("refresh-1"),
            Serves({"tenantId": TENANT, "tenantProblem": None}, soon=True),
        ),
    ),
]

NO_USER = {"grant": "client_credentials"}


def _own(
    name: str, rule: str, *steps: Step, exchange: Shape = plain, scope: str | None = "books"
) -> Row:
    """Return the row of a client that uses its own credentials."""
    return Row(
        name=f"client-credentials-{name}",
        rule=rule,
        trait=Trait(scope=scope, exchange=exchange, tokens={"refresh_token": MISSING}),
        settings={**NO_USER, "scopes": scope or ""},
        steps=steps,
    )


CLIENT_CREDENTIALS = [
    _own(
        "with-a-scope",
        "RFC 6749 section 4.4.2: the client sends the scope with its own credentials, and no user "
        "logs in.",
        Serves({"scopes": ["books"], "tokenType": "Bearer", "expiresIn": 1800}),
    ),
    _own(
        "without-a-scope",
        "RFC 6749 section 4.4.2: the scope is optional.",
        Serves({"scopes": []}),
        scope=None,
    ),
    _own(
        "expire",
        "RFC 6749 section 4.4.3: no refresh token is issued; the client requests the next token "
        "as it did the first.",
        Serves({"scopes": ["books"]}),
        Passes(1800),
        Serves({"expiresIn": 1800, "scopes": ["books"]}),
    ),
    Row(
        name="client-credentials-with-a-refresh-token",
        rule="RFC 6749 section 4.4.3: a refresh token should not come; one that does is not used.",
        trait=Trait(scope="books"),
        settings={**NO_USER, "scopes": "books"},
        steps=(
            Serves({"scopes": ["books"]}),
            Passes(1800),
            Serves({"scopes": ["books"]}),
            Spent(),
        ),
    ),
    _own(
        "invalid-client",
        "RFC 6749 section 5.2: invalid_client is about id and secret; an operator must act.",
        ServesNothing(503, (r"\binvalid_client\b", r"secret")),
        exchange=error("invalid_client", 401, WWW_Authenticate='Basic realm="id"'),
    ),
    _own(
        "unauthorized-client",
        "RFC 6749 section 5.2: unauthorized_client means that this client may not use this grant.",
        ServesNothing(503, (r"\bunauthorized_client\b",)),
        exchange=error("unauthorized_client"),
    ),
    Row(
        name="client-credentials-in-the-body",
        rule="RFC 6749 sections 4.4.2 and 2.3.1: the client authenticates as at any request for "
        "tokens.",
        trait=Trait(scope="books", auth="post", tokens={"refresh_token": MISSING}),
        settings={**NO_USER, "scopes": "books", "client_auth": "post"},
        steps=(Serves({"scopes": ["books"]}),),
    ),
]

ROWS = [*REVOCATION, *ORGANISATIONS, *CLIENT_CREDENTIALS]
