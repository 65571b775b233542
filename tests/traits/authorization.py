"""Rows: the authorization response, by which the browser comes back."""

from __future__ import annotations

from traits.rows import Row
from traits.steps import LoginFails, LogsIn, Serves
from traits.stub import MISSING, Trait

__all__ = ["ROWS"]

ANOTHER_SERVER = r"issuer"
NO_SUCH_LOGIN = r"no login that was started in this browser"
NOT_THE_SECRETS_FAULT = (r"secret",)


def _refused(code: object, description: str | None = None) -> Trait:
    """Return the trait of a server that refuses the request (RFC 6749 section 4.1.2.1)."""
    words = MISSING if description is None else description
    return Trait(callback={"code": MISSING, "error": code, "error_description": words})


def _error_row(
    code: str, meaning: str, *advice: str, never: tuple[str, ...] = NOT_THE_SECRETS_FAULT
) -> Row:
    return Row(
        name=f"authorize-{code}",
        rule=f"RFC 6749 section 4.1.2.1: {code} means {meaning}.",
        trait=_refused(code),
        steps=(LoginFails((rf"\b{code}\b", *advice), never, is_sent=False),),
    )


ROWS = [
    _error_row(
        "access_denied", "that the user or the server denied the request", r"(start|log in) again"
    ),
    _error_row("invalid_scope", "that the scope is unknown, malformed or too wide", r"scopes"),
    _error_row(
        "invalid_request",
        "that a parameter is missing, unknown or repeated",
        r"authorize_(params|url)|redirect|pkce|parameter",
    ),
    _error_row(
        "unauthorized_client",
        "that this client may not request a code in this way",
        r"\bgrant\b|permit|allow|may not|authorization code",
    ),
    _error_row(
        "unsupported_response_type",
        "that the server issues no code in this way",
        r"\bcode\b|\bgrant\b",
    ),
    _error_row("server_error", "that the server met an unexpected condition", r"again"),
    _error_row("temporarily_unavailable", "that the server is overloaded or in repair", r"again"),
    Row(
        name="authorize-extension-code",
        rule="RFC 6749 section 8.5: a server may define further error codes, such as "
        "login_required of OpenID Connect.",
        trait=_refused("login_required", "the user must log in first"),
        steps=(
            LoginFails((r"\blogin_required\b", r"again"), NOT_THE_SECRETS_FAULT, is_sent=False),
        ),
    ),
    Row(
        name="authorize-malformed-code",
        rule="RFC 6749 section 4.1.2.1: an error code holds no quotation mark, backslash or "
        "control character.",
        trait=_refused('x"onclick=\\\x1b[31m<b>'),
        steps=(LoginFails((r"again",), (r"onclick", r"\[31m", r"<b>"), is_sent=False),),
    ),
    Row(
        name="code-with-reserved-characters",
        rule="RFC 6749 sections 4.1.2 and A.11: a code holds any visible character and the space; "
        "it is decoded once and sent unchanged.",
        trait=Trait(code="4/0AX+%2B%25&=?#;\"'\\ z~"),
        steps=(LogsIn(), Serves()),
    ),
    Row(
        name="unknown-parameters",
        rule="RFC 6749 section 4.1.2: the client ignores parameters that it does not know.",
        trait=Trait(callback={"session_state": "a.b", "scope": "books", "authuser": "0"}),
        steps=(LogsIn(), Serves()),
    ),
    Row(
        name="missing-state",
        rule="RFC 6749 section 4.1.2: the state is required if the request had one; section 10.12 "
        "guards against forged responses by it.",
        trait=Trait(callback={"state": MISSING}),
        steps=(LoginFails((NO_SUCH_LOGIN,), is_sent=False),),
    ),
    Row(
        name="wrong-state",
        rule="RFC 6749 section 4.1.2: the state is the exact value of the request.",
        trait=Trait(callback={"state": "B" * 43}),
        steps=(LoginFails((NO_SUCH_LOGIN,), is_sent=False),),
    ),
    Row(
        name="neither-code-nor-error",
        rule="RFC 6749 section 4.1.2: a response without an error holds the code.",
        trait=Trait(callback={"code": MISSING}),
        steps=(LoginFails((r"neither a code nor an error", r"again"), is_sent=False),),
    ),
    Row(
        name="right-issuer",
        rule="RFC 9207 section 2.4: a client that knows the issuer compares it with iss.",
        trait=Trait(callback={"iss": "STUB/realms/books"}),
        settings={"issuer": "STUB/realms/books"},
        steps=(LogsIn(), Serves()),
    ),
    Row(
        name="another-issuer",
        rule="RFC 9207 section 2.4: a response of another issuer is refused, and its code is not "
        "sent.",
        trait=Trait(callback={"iss": "https://evil.example"}),
        settings={"issuer": "STUB"},
        steps=(LoginFails((ANOTHER_SERVER,), is_sent=False),),
    ),
    Row(
        name="another-issuer-of-an-error",
        rule="RFC 9207 section 2.1: an error response has an issuer too, and another one is "
        "refused.",
        trait=Trait(
            callback={"code": MISSING, "error": "access_denied", "iss": "https://evil.example"}
        ),
        settings={"issuer": "STUB"},
        steps=(LoginFails((ANOTHER_SERVER,), (r"access_denied",), is_sent=False),),
    ),
    Row(
        name="issuer-that-differs-by-a-slash",
        rule="RFC 9207 section 2.4: issuers are compared as strings, character by character.",
        trait=Trait(callback={"iss": "STUB/"}),
        settings={"issuer": "STUB"},
        steps=(LoginFails((ANOTHER_SERVER,), is_sent=False),),
    ),
    Row(
        name="wrong-issuer-setting",
        rule="RFC 9207 section 2.4: the client decides by the issuer that it was configured with, "
        "so a wrong one is named as the cause.",
        trait=Trait(callback={"iss": "STUB"}),
        settings={"issuer": "https://login.example"},
        steps=(LoginFails((ANOTHER_SERVER, r"setting|issuer:"), is_sent=False),),
    ),
    Row(
        name="missing-issuer",
        rule="RFC 9207 section 2.4: a client may accept a response without iss of a server that "
        "does not always send it.",
        settings={"issuer": "STUB"},
        steps=(LogsIn(), Serves()),
    ),
    Row(
        name="issuer-without-a-setting",
        rule="RFC 9207 section 2: iss may have a path; without a configured issuer, only its "
        "origin can be compared.",
        trait=Trait(callback={"iss": "STUB/realms/books"}),
        steps=(LogsIn(), Serves()),
    ),
]
