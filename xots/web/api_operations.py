"""What the endpoints take and return, for ``/openapi.json``. Pure.

The routes, the methods, the scopes and the problem types come from the code: see ``openapi``. Here
is what only a hand can say.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from .api_schemas import Schema

__all__ = ["OPERATIONS", "PARAMETERS", "Operation", "Response"]

NOTHING: Mapping[str, str] = MappingProxyType({})


class Response(NamedTuple):
    """A response that is no problem, or a problem's status with other content too."""

    description: str
    content: Mapping[str, str] = NOTHING
    """The name of the schema of each media type."""
    has_location: bool = False


class Operation(NamedTuple):
    """One method of one path."""

    summary: str
    responses: Mapping[int, Response]
    """The responses by status."""
    problems: tuple[int, ...] = ()
    """The statuses of its problems, apart from those that every operation of its kind has."""
    parameters: tuple[str, ...] = ()
    """The names of ``PARAMETERS`` that it takes in its query."""
    body: Mapping[str, str] = NOTHING
    """The name of the schema of each media type of its body."""
    needs_body: bool = False


def _query(schema: Schema, description: str) -> dict[str, object]:
    return {"schema": schema, "description": description}


TEXT: Schema = {"type": "string"}
ONCE: Schema = {"type": "string", "minLength": 1}

PARAMETERS: Mapping[str, Mapping[str, object]] = {
    "min_ttl": _query(
        {"type": "integer", "minimum": 0, "maximum": 999_999},
        "the seconds that the access token must live longer; more than nine tenths of a lifetime "
        "count as nine tenths",
    ),
    "tenant": _query(ONCE, "the id or the name of the organisation whose tenantId is returned"),
    "all": _query(
        {"type": "string", "enum": ["true"]},
        "also end the logins of the accounts that share the client and the Xero user",
    ),
    "state": _query(TEXT, "the state of the login (RFC 6749 section 4.1.2)"),
    "code": _query(TEXT, "the authorization code"),
    "iss": _query(TEXT, "the issuer (RFC 9207)"),
    "error": _query(TEXT, "the code of an error (RFC 6749 section 4.1.2.1)"),
    "error_description": _query(TEXT, "its description"),
}
"""The parameters in queries, by name. Each may be given once."""

PAGE = {"text/html": "Text"}
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"


def _json(schema: str) -> dict[str, str]:
    return {JSON: schema}


def _redirect(target: str) -> Response:
    return Response(f"Redirect to {target}.", has_location=True)


BUTTON = Response("A page with a button, for a browser.", PAGE)
HEALTH = {code: Response("The health of the login.", _json("Health")) for code in (200, 401, 503)}
PENDING = Response("Xero has not confirmed the end yet.", _json("Ended") | PAGE)
ENDED = {200: Response("The login has ended.", _json("Ended") | PAGE), 202: PENDING}
LOGGED_OUT = {
    200: Response("The login has ended, and something may remain at Xero.", _json("Ended") | PAGE),
    202: PENDING,
    303: _redirect("the form for the credentials, or the list of accounts"),
}

FORM_PAGE = {
    "GET": Operation(
        summary="Show the form for the client's credentials",
        responses={200: Response("The form.", PAGE), 303: _redirect("/home")},
    ),
    "POST": Operation(
        summary="Enter the client's credentials",
        responses={303: _redirect("/home")},
        problems=(409,),
        body={FORM: "CredentialsForm"},
        needs_body=True,
    ),
}

OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "/token": {
        "GET": Operation(
            summary="Get an access token",
            responses={200: Response("An access token.", _json("Token") | {"text/plain": "Text"})},
            problems=(404, 409, 502),
            parameters=("min_ttl", "tenant"),
        )
    },
    "/livez": {
        "GET": Operation(summary="Tell if an access token can be served now", responses=HEALTH)
    },
    "/ping": {
        "GET": Operation(
            summary="Tell if the process is alive",
            responses={200: Response("The process is alive.", _json("Ready"))},
        )
    },
    "/ready": {
        "GET": Operation(
            summary="Tell if this process can receive requests",
            responses={
                200: Response("It can.", _json("Ready")),
                503: Response("It can't.", _json("Ready")),
            },
        )
    },
    "/status": {
        "GET": Operation(
            summary="Show the state of the login",
            responses={200: Response("The state, without secrets.", _json("Status") | PAGE)},
        )
    },
    "/tenants": {
        "GET": Operation(
            summary="List the organisations of the login",
            responses={200: Response("The organisations, as Xero lists them.", _json("Tenants"))},
            problems=(404, 502),
        )
    },
    "/refresh": {
        "GET": Operation(
            summary="Refresh now; a browser gets a page with a button",
            responses={200: BUTTON, 303: _redirect("/token or /home")},
            problems=(405,),
        ),
        "POST": Operation(summary="Refresh now", responses={303: _redirect("/token or /home")}),
    },
    "/revoke": {
        "GET": Operation(
            summary="End the login and keep the credentials; a browser gets a page with a button",
            responses=ENDED,
            problems=(405, 409),
            parameters=("all",),
        ),
        "POST": Operation(
            summary="End the login and keep the credentials",
            responses=ENDED,
            problems=(409,),
            parameters=("all",),
            body={FORM: "EndForm"},
        ),
    },
    "/logout": {
        "GET": Operation(
            summary="End the login and drop the credentials; a browser gets a page with a button",
            responses=LOGGED_OUT,
            problems=(405, 409),
            parameters=("all",),
        ),
        "POST": Operation(
            summary="End the login and drop the credentials",
            responses=LOGGED_OUT,
            problems=(409,),
            parameters=("all",),
            body={FORM: "EndForm"},
        ),
    },
    "/": FORM_PAGE,
    "/login": FORM_PAGE,
    "/home": {
        "GET": Operation(
            summary="Show the state of the login, and the buttons of a user",
            responses={
                200: Response("The page.", PAGE),
                303: _redirect("the form for the credentials"),
            },
        ),
        "POST": Operation(
            summary="Start a login; or choose the organisation, if tenant_id names one",
            responses={303: _redirect("the identity server, or a page of this server")},
            problems=(404, 409, 502),
            body={FORM: "HomeForm"},
        ),
    },
    "/code": {
        "GET": Operation(
            summary="Finish a login: the redirect URI",
            responses={303: _redirect("/home")},
            problems=(404, 409, 429),
            parameters=("state", "code", "iss", "error", "error_description"),
        )
    },
    "/accounts": {
        "GET": Operation(
            summary="List the accounts",
            responses={200: Response("The accounts.", _json("Accounts") | PAGE)},
        ),
        "POST": Operation(
            summary="Add an account",
            responses={
                201: Response("It is added.", _json("Added"), has_location=True),
                303: _redirect("the page of the account, for a browser"),
            },
            problems=(409,),
            body={JSON: "NewAccount", FORM: "NewAccount"},
            needs_body=True,
        ),
    },
    "/remove": {
        "GET": Operation(
            summary="Show a button that removes the account",
            responses={200: BUTTON},
            problems=(405,),
        ),
        "POST": Operation(
            summary="End the login of an account that was added at run time, and remove it",
            responses={
                200: Response("It is removed.", _json("Removed") | PAGE),
                303: _redirect("/accounts, for a browser"),
            },
            problems=(409,),
        ),
    },
    "/style.css": {
        "GET": Operation(
            summary="Get the style sheet of the pages",
            responses={200: Response("The style sheet.", {"text/css": "Text"})},
        )
    },
    "/openapi.json": {
        "GET": Operation(
            summary="Get this document",
            responses={200: Response("This document.", _json("OpenApi"))},
        )
    },
}
"""The operations by path and method. HEAD, where it is supported, is that of GET."""
