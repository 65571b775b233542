"""Rows: successful responses of the token endpoint, at a login and at a refresh."""

from __future__ import annotations

import gzip
import json
from urllib.parse import urlencode

from traits.rows import Row
from traits.steps import (
    LoginFails,
    LogsIn,
    Passes,
    Refreshes,
    Serves,
    ServesNothing,
    Step,
)
from traits.stub import MISSING, Members, Reply, Trait

__all__ = ["ROWS"]

BOM = b"\xef\xbb\xbf"
BOMB_BYTES = 4 << 20
"""Four times the cap on a response."""

JSON = {"Content-Type": "application/json"}
GZIP = {**JSON, "Content-Encoding": "gzip"}
ELSEWHERE = "/elsewhere"
NOT_A_TOKEN = (r"\btoken\b", r"log in again")


def _gzip_bomb(tokens: bytes) -> Reply:
    return Reply(gzip.compress(tokens + b" " * BOMB_BYTES, compresslevel=1), headers=GZIP)


def _form(tokens: bytes) -> Reply:
    body = urlencode(json.loads(tokens)).encode()
    return Reply(body, headers={"Content-Type": "application/x-www-form-urlencoded"})


def _member(name: str, rule: str, tokens: Members, *steps: Step) -> Row:
    """Return the row of a server with these members in each token response."""
    return Row(name=name, rule=rule, trait=Trait(tokens=tokens), steps=steps)


def _scope(name: str, rule: str, scope: object, *granted: str) -> Row:
    return _member(
        f"scope-{name}", rule, {"scope": scope}, LogsIn(), Serves({"scopes": list(granted)})
    )


def _fewer(name: str, rule: str, scope: object) -> Row:
    return _member(f"scope-{name}", rule, {"scope": scope}, LoginFails((r"scopes?", r"\bbooks\b")))


def _lifetime(name: str, rule: str, expires_in: object, *steps: Step) -> Row:
    return _member(f"expires-in-{name}", rule, {"expires_in": expires_in}, LogsIn(), *steps)


ASKED = ("offline_access", "books")

SCOPES = [
    _scope(
        "string",
        "RFC 6749 section 3.3: scopes are separated by spaces, in any order.",
        "books offline_access",
        "books",
        "offline_access",
    ),
    _scope(
        "array",
        "RFC 6749 section 5.1 demands a string; some servers send an array, whose meaning is "
        "clear.",
        ["offline_access", "books"],
        *ASKED,
    ),
    _scope(
        "with-commas",
        "RFC 6749 section 3.3 demands spaces; some servers send commas, whose meaning is clear.",
        "offline_access,books",
        *ASKED,
    ),
    _scope(
        "missing",
        "RFC 6749 section 5.1: a response without scope grants the requested one.",
        MISSING,
        *ASKED,
    ),
    _scope(
        "null",
        "RFC 6749 section 5.1: null names no scope, so it grants the requested one.",
        None,
        *ASKED,
    ),
    _fewer(
        "empty",
        "RFC 6749 sections 3.3 and 5.1: a scope that differs from the requested one is named, and "
        "an empty one names nothing of it.",
        "",
    ),
    _fewer(
        "narrower",
        "RFC 6749 section 3.3: a server may grant less than requested; then the client says what "
        "is missing.",
        "offline_access",
    ),
    _fewer(
        "in-another-case",
        "RFC 6749 section 3.3: scopes depend on case, so another case is another scope.",
        "offline_access Books",
    ),
    _scope(
        "wider",
        "RFC 6749 section 3.3: a server may grant other scopes than requested, and names them.",
        "books ledgers offline_access",
        "books",
        "ledgers",
        "offline_access",
    ),
    _scope(
        "without-offline-access",
        "RFC 6749 section 5.1: a refresh token that came is issued, whatever scope says.",
        "books",
        "books",
    ),
    Row(
        name="scope-narrower-at-a-refresh",
        rule="RFC 6749 sections 6 and 3.3: a refresh may bring a narrower scope, which is then "
        "that of the access token.",
        trait=Trait(refreshed={"scope": "offline_access"}),
        steps=(LogsIn(), Serves(), Refreshes("refresh-1"), Serves({"scopes": ["offline_access"]})),
    ),
    Row(
        name="scope-missing-at-a-refresh",
        rule="RFC 6749 section 6: a refresh without a scope keeps the one that the user granted.",
        trait=Trait(tokens={"scope": "offline_access books ledgers"}, refreshed={"scope": MISSING}),
        steps=(
            LogsIn(),
            Refreshes("refresh-1"),
            Serves({"scopes": ["offline_access", "books", "ledgers"]}),
        ),
    ),
]

LIFETIMES = [
    _lifetime(
        "number",
        "RFC 6749 section 5.1: expires_in is the lifetime in seconds.",
        600,
        Serves({"expiresIn": 600}),
    ),
    _lifetime(
        "string",
        "RFC 6749 section A.14 defines digits; some servers send them as a string.",
        "600",
        Serves({"expiresIn": 600}),
    ),
    _lifetime(
        "float",
        "RFC 6749 section 5.1: JSON has one kind of number, so 600.0 is 600.",
        600.0,
        Serves({"expiresIn": 600}),
    ),
    _lifetime(
        "missing",
        "RFC 6749 section 5.1: expires_in is recommended only; the client assumes a default.",
        MISSING,
        Serves(),
        Refreshes("refresh-1"),
    ),
    _lifetime(
        "null",
        "RFC 6749 section 5.1: null is no number, as if expires_in were missing.",
        None,
        Serves(),
    ),
    _lifetime(
        "zero",
        "RFC 6749 section 5.1: a token whose lifetime is 0 is dead when it arrives.",
        0,
        ServesNothing(503),
    ),
    _lifetime(
        "negative",
        "RFC 6749 section A.14: a lifetime has no sign; a token that ended in the past is dead.",
        -5,
        ServesNothing(503),
    ),
    _lifetime(
        "huge",
        "RFC 6749 section A.14 sets no bound on the digits; the client sets its own.",
        10**30,
        Serves(),
        Refreshes("refresh-1"),
    ),
]

TOKENS = [
    _member(
        "token-type-lower-case",
        "RFC 6749 section 5.1: the token type does not depend on case.",
        {"token_type": "bearer"},
        LogsIn(),
        Serves({"tokenType": "bearer"}),
    ),
    _member(
        "token-type-missing",
        "RFC 6749 section 5.1 requires token_type; without one, RFC 6750 is what a client speaks.",
        {"token_type": MISSING},
        LogsIn(),
        Serves({"tokenType": "Bearer"}),
    ),
    _member(
        "token-type-mac",
        "RFC 6749 section 7.1: a program must know another type, so it is told of it.",
        {"token_type": "mac"},
        LogsIn(),
        Serves({"tokenType": "mac"}),
    ),
    _member(
        "token-type-uri",
        "RFC 6749 section 8.1: a type may be a URI; it is not passed off as Bearer.",
        {"token_type": "urn:example:pop-2"},
        LogsIn(),
        Serves({"tokenType": "urn:example:pop-2"}),
    ),
    _member(
        "members-that-are-unknown",
        "RFC 6749 section 5.1: the client ignores members that it does not know.",
        {"ext_expires_in": 7200, "user": {"roles": [1, {"a": None}]}, "id_token": "a.b.c"},
        LogsIn(),
        Serves(),
        Refreshes("refresh-1"),
    ),
    _member(
        "no-refresh-token",
        "RFC 6749 section 5.1: the refresh token is optional; without one the login would end with "
        "its access token, so it is refused.",
        {"refresh_token": MISSING},
        LoginFails((r"no refresh token", r"scope|authorize_params")),
    ),
    _member(
        "refresh-token-with-reserved-characters",
        "RFC 6749 section A.17 and appendix B: a refresh token holds any visible character, and is "
        "sent form-encoded.",
        {"refresh_token": "1//0g+%2B&=?#;\"'\\~"},
        LogsIn(),
        Refreshes("1//0g+%2B&=?#;\"'\\~"),
        Serves(),
    ),
    _member(
        "refresh-token-with-a-space",
        "RFC 6749 section A.17: a refresh token may hold spaces; they belong to it.",
        {"refresh_token": "two words "},
        LogsIn(),
        Refreshes("two words "),
        Serves(),
    ),
    Row(
        name="refresh-without-a-new-token",
        rule="RFC 6749 section 6: without a new refresh token, the old one stays valid.",
        trait=Trait(refreshed={"refresh_token": MISSING}),
        steps=(
            LogsIn(),
            Refreshes("refresh-1"),
            Serves(),
            Passes(60),
            Passes(1700),
            Serves(),
            Refreshes("refresh-1"),
        ),
    ),
    Row(
        name="refresh-with-the-same-token",
        rule="RFC 6749 section 6: the server may issue the same refresh token again.",
        trait=Trait(tokens={"refresh_token": "refresh-0"}),
        steps=(LogsIn(), Refreshes("refresh-0"), Serves(), Refreshes("refresh-0"), Serves()),
    ),
    Row(
        name="refresh-with-a-new-token",
        rule="RFC 6749 section 6: a new refresh token replaces the old one, which is discarded.",
        trait=Trait(strict=True),
        settings={"grace": "0"},
        steps=(LogsIn(), Refreshes("refresh-1"), Serves(), Refreshes("refresh-2"), Serves()),
    ),
]

BODIES = [
    Row(
        name="response-with-a-byte-order-mark",
        rule="RFC 8259 section 8.1: a parser may ignore a byte order mark instead of an error.",
        trait=Trait(exchange=lambda tokens: Reply(BOM + tokens, headers=JSON)),
        steps=(LogsIn(), Serves()),
    ),
    Row(
        name="response-in-gzip",
        rule="RFC 9110 section 12.5.3: a server may disregard Accept-Encoding; Content-Encoding "
        "says so.",
        trait=Trait(exchange=lambda tokens: Reply(gzip.compress(tokens), headers=GZIP)),
        steps=(LogsIn(), Serves()),
    ),
    Row(
        name="response-in-gzip-at-a-refresh",
        rule="RFC 9110 section 8.4: the coding of each response is undone before it is read.",
        trait=Trait(refreshes=(lambda tokens: Reply(gzip.compress(tokens), headers=GZIP),)),
        steps=(LogsIn(), Refreshes("refresh-1"), Serves(), Refreshes("refresh-2")),
    ),
    Row(
        name="response-is-a-gzip-bomb",
        rule="RFC 9110 section 17.5: a client limits what it processes, however small it arrives.",
        trait=Trait(exchange=_gzip_bomb),
        steps=(LoginFails(NOT_A_TOKEN[1:]),),
    ),
    Row(
        name="response-in-incomplete-gzip",
        rule="RFC 9112 section 8: a body that ends too early is incomplete, and holds no tokens.",
        trait=Trait(exchange=lambda tokens: Reply(gzip.compress(tokens)[:-12], headers=GZIP)),
        steps=(LoginFails(NOT_A_TOKEN[1:]),),
    ),
    Row(
        name="response-with-another-media-type",
        rule="RFC 9110 section 8.3: a client may look at the content if the media type is wrong; "
        "RFC 6749 section 5.1 names application/json.",
        trait=Trait(exchange=lambda tokens: Reply(tokens, headers={"Content-Type": "text/html"})),
        steps=(LogsIn(), Serves()),
    ),
    Row(
        name="response-with-status-201",
        rule="RFC 9110 section 15: a client treats a status that it does not expect as the first "
        "of its class, and RFC 6749 section 5.1 names 200.",
        trait=Trait(exchange=lambda tokens: Reply(tokens, 201, JSON)),
        steps=(LogsIn(), Serves()),
    ),
    Row(
        name="response-is-html",
        rule="RFC 6749 section 5.1: the tokens come as JSON; a page of a proxy holds none.",
        trait=Trait(
            exchange=lambda tokens: Reply(
                b"<html>" + tokens + b"</html>", headers={"Content-Type": "text/html"}
            )
        ),
        steps=(LoginFails(NOT_A_TOKEN),),
    ),
    Row(
        name="response-is-a-form",
        rule="RFC 6749 section 5.1: the tokens come as JSON, not as a form.",
        trait=Trait(exchange=_form),
        steps=(LoginFails(NOT_A_TOKEN),),
    ),
    Row(
        name="response-is-a-redirect",
        rule="RFC 9110 section 15.4.8: a client must not repeat a POST by itself elsewhere: code "
        "and secret go to the token endpoint only.",
        trait=Trait(exchange=lambda tokens: Reply(b"", 307, {"Location": ELSEWHERE})),
        steps=(LoginFails((r"307", r"log in again")),),
    ),
]

ROWS = [*SCOPES, *LIFETIMES, *TOKENS, *BODIES]
