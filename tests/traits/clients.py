"""Rows: how the client authenticates and asks, and the endpoints that it asks."""

from __future__ import annotations

from traits.rows import Row
from traits.steps import LoginFails, LogsIn, MayLeaveTo, Refreshes, Revokes, Sends, Serves
from traits.stub import Trait

__all__ = ["ROWS"]

ALL_IS_WELL = (LogsIn(), Serves(), Refreshes("refresh-1"), Serves(), Revokes("revoked"))

NO_SECRET = {"client_secret": None}

ROWS = [
    Row(
        name="basic-with-reserved-characters",
        rule="RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined for "
        "HTTP Basic.",
        trait=Trait(client_id="books:+%41&=/?", client_secret="s:e+c/r%65=t&?~\u00e9"),
        steps=ALL_IS_WELL,
    ),
    Row(
        name="client-secret-post",
        rule="RFC 6749 section 2.3.1: a server may take id and secret in the body, and section 2.3 "
        "permits one way in each request.",
        trait=Trait(auth="post"),
        settings={"client_auth": "post"},
        steps=ALL_IS_WELL,
    ),
    Row(
        name="client-secret-post-with-reserved-characters",
        rule="RFC 6749 section 2.3.1 and appendix B: in the body, id and secret are form-encoded "
        "once, as every parameter.",
        trait=Trait(auth="post", client_id="books:+%41&=/?", client_secret="s:e+c/r%65=t&?~"),
        settings={"client_auth": "post"},
        steps=ALL_IS_WELL,
    ),
    Row(
        name="basic-refused-by-a-server-of-post",
        rule="RFC 6749 section 5.2: invalid_client also means an unsupported method of "
        "authentication.",
        trait=Trait(auth="post"),
        steps=(LoginFails((r"invalid_client", r"secret", r"client_auth", r"log in again")),),
    ),
    Row(
        name="public-client-with-pkce",
        rule="RFC 6749 section 3.2.1 and RFC 7636 section 4.5: a client without a secret sends its "
        "id in the body, and the code verifier.",
        trait=Trait(auth="none"),
        settings=NO_SECRET,
        steps=ALL_IS_WELL,
    ),
    Row(
        name="client-auth-none",
        rule="RFC 6749 section 2.3: a public client must not rely on a secret, so a known one is "
        "not sent.",
        trait=Trait(auth="none"),
        settings={"client_auth": "none"},
        steps=ALL_IS_WELL,
    ),
    Row(
        name="without-pkce",
        rule="RFC 6749 section 4.1.1 knows no PKCE: a server may refuse its parameters.",
        trait=Trait(pkce=False),
        settings={"pkce": "false"},
        steps=ALL_IS_WELL,
    ),
    Row(
        name="endpoints-with-a-query",
        rule="RFC 6749 sections 3.1 and 3.2: the query of an endpoint's URL must be retained.",
        trait=Trait(own_query={"policy": "b2c_1", "tenant": "a b&c"}),
        settings={
            "authorize_url": "STUB/authorize?policy=b2c_1&tenant=a+b%26c",
            "token_url": "STUB/token?policy=b2c_1&tenant=a+b%26c",
            "revoke_url": "STUB/revoke?policy=b2c_1&tenant=a+b%26c",
        },
        steps=ALL_IS_WELL,
    ),
    Row(
        name="further-parameters",
        rule="RFC 6749 section 8.2: a server may define further parameters of the authorization "
        "request.",
        settings={"authorize_params": "prompt=consent"},
        steps=(LogsIn(), Sends({"prompt": "consent"}), Serves()),
    ),
    Row(
        name="further-parameters-beside-a-query",
        rule="RFC 6749 section 3.1 and appendix B: parameters are added to the query, each "
        "form-encoded.",
        trait=Trait(own_query={"policy": "b2c_1"}),
        settings={
            "authorize_url": "STUB/authorize?policy=b2c_1",
            "token_url": "STUB/token?policy=b2c_1",
            "authorize_params": "audience=https%3A%2F%2Fapi.example%2F%3Fa%3D1%26b&login_hint=a+b",
        },
        steps=(
            LogsIn(),
            Sends({"audience": "https://api.example/?a=1&b", "login_hint": "a b"}),
            Serves(),
        ),
    ),
    Row(
        name="no-scope-requested",
        rule="RFC 6749 section 3.3: the scope is optional, and an empty value is none.",
        trait=Trait(scope=None),
        settings={"scopes": ""},
        steps=(LogsIn(), Sends({"scope": None}), Serves({"scopes": []}), Refreshes("refresh-1")),
    ),
    Row(
        name="no-scope-requested-and-one-granted",
        rule="RFC 6749 section 3.3: without a requested scope the server may use a default, and "
        "then names it.",
        trait=Trait(scope=None, tokens={"scope": "books"}),
        settings={"scopes": ""},
        steps=(LogsIn(), Sends({"scope": None}), Serves({"scopes": ["books"]})),
    ),
    Row(
        name="no-offline-access-requested",
        rule="RFC 6749 section 1.5: the server decides if it issues a refresh token; no scope of "
        "that RFC asks for one.",
        trait=Trait(scope="books"),
        settings={"scopes": "books"},
        steps=(LogsIn(), Serves({"scopes": ["books"]}), Refreshes("refresh-1")),
    ),
    Row(
        name="login-page-on-another-origin",
        rule="RFC 6749 section 3.1 leaves the way of the login open, and RFC 9110 section 15.4 "
        "lets it redirect.",
        trait=Trait(login_elsewhere=True),
        steps=(MayLeaveTo(), LogsIn(), Serves()),
    ),
]
