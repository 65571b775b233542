"""The steps of a row: what a user, a program or time does, and what the product must show then."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from html import unescape
from typing import Any, Protocol

import msgspec
import pytest
from support.web import BROWSER, WANTS_PAGE, origin
from traits.stub import Stub

from xots.sandbox.person import Page, Person
from xots.server import Server
from xots.testing import FakeClock

__all__ = [
    "LoginFails",
    "LogsIn",
    "MayLeaveTo",
    "Passes",
    "Recovers",
    "RefreshFails",
    "Refreshes",
    "Revokes",
    "Sends",
    "Serves",
    "ServesNothing",
    "Spent",
    "Stage",
    "Step",
    "Tenants",
    "foreign_words",
]

OF_XERO = re.compile(r"[^.;\n]*(?:\bXero\b|granular|2 March 2026)[^.;\n]*")
"""A sentence with words that are wrong about another identity server."""

MAX_ATTEMPTS = 50
"""Upper bound on the requests until work in the background shows."""


@dataclass(frozen=True)
class Stage:
    """The servers, the user and the program of a row."""

    stub: Stub
    server: Server
    clock: FakeClock
    person: Person
    send: Callable[..., Awaitable[Any]]
    expected_log: Any
    caplog: pytest.LogCaptureFixture
    texts: list[str] = field(default_factory=list)
    """The texts about errors and ends, as users and programs have seen them."""

    def tell(self, text: str, patterns: tuple[str, ...], never: tuple[str, ...] = ()) -> None:
        """Note a text that was shown, and check it."""
        self.texts.append(text)
        for pattern in patterns:
            assert re.search(pattern, text, re.IGNORECASE), f"{pattern!r} is not in: {text}"
        for pattern in never:
            assert not re.search(pattern, text, re.IGNORECASE), f"{pattern!r} is in: {text}"

    async def request(self, method: str, path: str, headers: Mapping[str, str] = {}) -> Any:
        """Send a request as a program does."""
        body = "" if method == "POST" else None
        return await self.send(method, f"{origin(self.server)}{path}", dict(headers), body)

    async def log_in(self) -> Page:
        """Press the button on ``/home``. The user agrees, so the browser comes back."""
        home = await self.person.open(f"{origin(self.server)}/home")
        return await self.person.submit(home)

    def logged(self) -> str:
        """Return the lines of the log, from INFO up."""
        records = [one for one in self.caplog.records if one.name.partition(".")[0] == "xots"]
        return "\n".join(one.getMessage() for one in records if one.levelno >= logging.INFO)


def shown(page: str) -> str:
    """Return the text of a page, without the header and the footer of all pages."""
    main = re.search(r"<main>(.*)</main>", page, re.DOTALL)
    assert main is not None
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", main[1])).split())


class Step(Protocol):
    """One step."""

    async def run(self, stage: Stage) -> None:
        """Carry it out and check the result."""


# ---------- the login


@dataclass(frozen=True)
class LogsIn:
    """The login succeeds."""

    warns: str = ""
    """The pattern of a line in the log that says what is wrong nevertheless."""

    async def run(self, stage: Stage) -> None:
        if self.warns:
            stage.expected_log(self.warns)
        page = await stage.log_in()
        assert (page.status, page.url) == (200, f"{origin(stage.server)}/home"), shown(page.text)
        stage.texts.append(shown(page.text))


@dataclass(frozen=True)
class LoginFails:
    """The login fails, with an explanation on a page and in the log."""

    patterns: tuple[str, ...]
    never: tuple[str, ...] = ()
    is_sent: bool = True
    """False if no code may be sent to the token endpoint."""

    async def run(self, stage: Stage) -> None:
        stage.expected_log.perhaps(r"^WARNING xots: default: login failed: ")
        stage.expected_log(r"^WARNING xots\.web: GET /code: ")
        page = await stage.log_in()
        assert page.status == 400, shown(page.text)
        stage.tell(shown(page.text), self.patterns, self.never)
        assert 'href="/home"' in page.text
        assert bool(stage.stub.grants) <= self.is_sent
        assert (await stage.request("GET", "/token")).status == 401


@dataclass(frozen=True)
class Sends:
    """The last authorization request had these parameters; None: not at all."""

    parameters: Mapping[str, str | None]

    async def run(self, stage: Stage) -> None:
        sent = stage.stub.authorizations[-1]
        found = {name: sent.get(name) for name in self.parameters}
        assert found == self.parameters, f"sent: {found}"


@dataclass(frozen=True)
class MayLeaveTo:
    """The policy of ``/home`` lets the browser follow the login's form to the other origin."""

    async def run(self, stage: Stage) -> None:
        policy = (await stage.request("GET", "/home", BROWSER)).headers["Content-Security-Policy"]
        found = re.search(r"form-action ([^;]*)", policy)
        sources = found[1].split() if found else ["*"]
        assert {stage.stub.elsewhere, "http:", "*"}.intersection(sources), policy


# ---------- tokens


@dataclass(frozen=True)
class Serves:
    """``/token`` serves the token that was issued last, with these members."""

    members: Mapping[str, object] = field(default_factory=dict)
    soon: bool = False
    """True if the members follow from work in the background."""
    problem: bool = False
    """True if ``tenantProblem`` says why there is no organisation."""

    async def run(self, stage: Stage) -> None:
        for _ in range(MAX_ATTEMPTS if self.soon else 1):
            response = await stage.request("GET", "/token")
            assert response.status == 200, response.text
            if self.members.items() <= response.json.items():
                break
        found = response.json
        assert found["accessToken"] == f"access-{stage.stub.issued}"
        assert found["expiresIn"] > 0
        expected = {"scopes": ["offline_access", "books"], **self.members}
        served = {name: found.get(name) for name in expected}
        assert _comparable(served) == _comparable(expected), f"served: {served}"
        if self.problem:
            stage.tell(found["tenantProblem"], (r"organisation|tenant",))


def _comparable(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return members of ``/token`` without what does not matter: the order of scopes (RFC 6749
    section 3.3), and the case of the token type (section 5.1)."""
    found = {**members, "scopes": sorted(members["scopes"])}
    if "tokenType" in found:
        found["tokenType"] = found["tokenType"].casefold()
    return found


@dataclass(frozen=True)
class ServesNothing:
    """``/token`` serves no token."""

    status: int
    patterns: tuple[str, ...] = ()

    async def run(self, stage: Stage) -> None:
        stage.expected_log.perhaps(r"^WARNING xots")
        response = await stage.request("GET", "/token")
        assert response.status == self.status, response.text
        stage.tell(response.json["detail"], self.patterns)
        assert ("Retry-After" in response.headers) == (self.status == 503)


@dataclass(frozen=True)
class Passes:
    """Time passes, and a tick comes."""

    seconds: float
    lost: bool = False
    """True if the login is lost then."""

    async def run(self, stage: Stage) -> None:
        stage.expected_log.perhaps(r"^WARNING xots: default: ")
        if self.lost:
            stage.expected_log(r"^ERROR xots: default: the login is lost")
        stage.clock.advance(self.seconds)
        await stage.server.rotation.tick()


@dataclass(frozen=True)
class Refreshes:
    """A user's refresh sends this refresh token, once, and brings a new access token."""

    token: str

    async def run(self, stage: Stage) -> None:
        stage.expected_log.perhaps(r"^WARNING xots: default: ")
        before, issued = len(stage.stub.spent), stage.stub.issued
        response = await stage.request("POST", "/refresh")
        assert response.status == 303, response.text
        assert stage.stub.spent[before:] == [self.token]
        assert stage.stub.issued == issued + 1


@dataclass(frozen=True)
class Recovers:
    """After failed refreshes, this same refresh token has brought a new access token, by itself or
    at a user's refresh."""

    token: str

    async def run(self, stage: Stage) -> None:
        stage.expected_log.perhaps(r"^WARNING xots: default: ")
        if stage.stub.issued == 1:
            assert (await stage.request("POST", "/refresh")).status == 303
        assert stage.stub.issued == 2
        assert set(stage.stub.spent) == {self.token}


@dataclass(frozen=True)
class Spent:
    """These refresh tokens were sent so far, and no others."""

    tokens: tuple[str, ...] = ()

    async def run(self, stage: Stage) -> None:
        assert tuple(stage.stub.spent) == self.tokens


@dataclass(frozen=True)
class RefreshFails:
    """A user's refresh fails, with an explanation."""

    patterns: tuple[str, ...]
    status: int = 503
    never: tuple[str, ...] = ()
    retry_after: int | None = None
    """The least ``Retry-After`` in seconds; jitter comes on top."""

    async def run(self, stage: Stage) -> None:
        stage.expected_log.perhaps(r"^(WARNING|ERROR) xots")
        response = await stage.request("POST", "/refresh")
        assert response.status == self.status, response.text
        stage.tell(response.json["detail"], self.patterns, self.never)
        if self.retry_after is not None:
            seconds = int(response.headers["Retry-After"])
            assert self.retry_after <= seconds <= self.retry_after + 5, f"Retry-After: {seconds}"


# ---------- organisations, and the end


@dataclass(frozen=True)
class Tenants:
    """``/tenants`` lists these organisations, or answers with an error."""

    ids: tuple[str, ...] = ()
    status: int = 200
    retry_after: int | None = None

    async def run(self, stage: Stage) -> None:
        stage.expected_log.perhaps(r"^WARNING xots")
        response = await stage.request("GET", "/tenants")
        assert response.status == self.status, response.text
        if self.status == 200:
            listed = msgspec.json.decode(response.body)
            assert tuple(one["tenantId"] for one in listed) == self.ids, f"listed: {listed}"
        else:
            stage.tell(response.json["detail"], ())
        if self.retry_after is not None:
            seconds = response.headers.get("Retry-After")
            assert seconds == str(self.retry_after), f"Retry-After: {seconds}"


@dataclass(frozen=True)
class Revokes:
    """``/revoke`` ends the login here, and says what became of it at the identity server."""

    result: str
    """The ``status`` in the response."""
    patterns: tuple[str, ...] = ()
    """They are in the response, and in the log too."""
    logs: tuple[str, ...] = ()
    """Further patterns in the log."""
    status: int = 200
    on_page: bool = False

    async def run(self, stage: Stage) -> None:
        stage.expected_log.perhaps(r"^WARNING xots: default: ")
        if self.on_page:
            headers = {**WANTS_PAGE, "Origin": origin(stage.server)}
            response = await stage.request("POST", "/revoke", headers)
            text = shown(response.text)
        else:
            response = await stage.request("POST", "/revoke")
            assert response.json["status"] == self.result
            text = response.json.get("detail", "")
        assert response.status == self.status
        stage.tell(text, self.patterns)
        for pattern in (*self.patterns, *self.logs):
            assert re.search(pattern, stage.logged(), re.IGNORECASE), f"not logged: {pattern!r}"
        assert (await stage.request("GET", "/token")).status == 401


def foreign_words(text: str) -> list[str]:
    """Return the sentences of a text that fit Xero only."""
    return OF_XERO.findall(text)
