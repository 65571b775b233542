"""The cookies of a login: sealed for one name, one browser and ten minutes."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from support.web import begin, changed, origin, query, verifies

from xots.keeping.login import LOGIN_TIMEOUT
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from xots.sandbox.person import Person
from xots.sealing import Sealer
from xots.secret import Secret
from xots.server import Server
from xots.web.login_cookie import (
    FORM_COOKIE,
    Form,
    Login,
    cookie_name,
    open_form,
    open_logins,
    seal,
    superseded,
)
from xots.xero.protocol import Credentials

NewServer = Callable[..., Awaitable[Server]]

REFUSED_AT_CODE = r"WARNING xots\.web: GET /code: "

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CREDENTIALS = Credentials(client_id="client", client_secret=Secret("secret-canary"))
FORM = Form(credentials=CREDENTIALS, tenant_id=None, at=NOW)


def login(at: datetime = NOW) -> Login:
    return Login(
        state=Secret("state-canary"),
        verifier=Secret("verifier-canary"),
        credentials=CREDENTIALS,
        tenant_id="tenant",
        scopes=("offline_access",),
        scopes_configured=(),
        redirect_uri="http://localhost:5001/code",
        at=at,
    )


def sealed(sealer: Sealer, name: str, content: Form | Login) -> dict[str, str]:
    return {name: seal(sealer, name, content).decode()}


# ---------- the pure functions


def test_a_sealed_cookie_opens_to_its_content() -> None:
    """The form and each login, with their secrets."""
    sealer, name = Sealer.for_this_process(), cookie_name("state-canary")
    cookies = sealed(sealer, FORM_COOKIE, FORM) | sealed(sealer, name, login())
    assert open_form(sealer, cookies, NOW) == FORM
    assert open_logins(sealer, cookies, NOW) == {name: login()}


@pytest.mark.parametrize(
    ("age", "opens"),
    [
        (timedelta(seconds=-1), False),
        (timedelta(0), True),
        (LOGIN_TIMEOUT - timedelta(seconds=1), True),
        (LOGIN_TIMEOUT, False),
    ],
)
def test_a_cookie_expires_with_the_login(age: timedelta, opens: bool) -> None:
    """The server decides, whether or not the browser still sends the cookie."""
    sealer = Sealer.for_this_process()
    found = open_form(sealer, sealed(sealer, FORM_COOKIE, FORM), NOW + age)
    assert (found is not None) is opens


def test_a_cookie_opens_only_with_its_sealer_and_name() -> None:
    """Anything else reads as no cookie."""
    sealer, other = Sealer.for_this_process(), Sealer.for_this_process()
    form = sealed(sealer, FORM_COOKIE, FORM)
    assert open_form(other, form, NOW) is None
    assert open_form(sealer, {}, NOW) is None
    assert open_form(sealer, {FORM_COOKIE: "not sealed"}, NOW) is None
    moved = {cookie_name("another"): value for value in form.values()}
    assert open_logins(sealer, moved, NOW) == {}


def test_the_logins_are_in_the_order_of_their_start() -> None:
    """So the oldest are superseded first."""
    sealer, cookies = Sealer.for_this_process(), dict[str, str]()
    for seconds in (3, 1, 4, 0, 2):
        name = cookie_name(f"{seconds}")
        cookies |= sealed(sealer, name, login(NOW + timedelta(seconds=seconds)))
    logins = open_logins(sealer, cookies, NOW + timedelta(minutes=1))
    assert list(logins) == [cookie_name(f"{seconds}") for seconds in range(5)]
    assert superseded(logins) == [cookie_name("0"), cookie_name("1")]
    assert superseded(list(logins)[:3]) == []


def test_no_repr_shows_a_secret() -> None:
    """Neither the form's nor the login's."""
    assert "canary" not in repr(FORM) + repr(login())


# ---------- expiry


async def test_an_expired_state_is_refused(
    server: Server, person: Person, clock: Any, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """After 11 minutes a login has expired, even if its code is fresh."""
    expected_log(REFUSED_AT_CODE)
    consent = await begin(person, server)
    clock.advance(11 * 60)
    page = await person.open(await decide(consent))
    assert page.status == 400
    assert "10 minutes" in page.text
    assert await token_of(server) is None


async def test_a_login_of_nine_minutes_is_in_time(
    server: Server, person: Person, clock: Any, decide: Any, token_of: Any
) -> None:
    """A user may have to look for a password."""
    consent = await begin(person, server)
    clock.advance(9 * 60)
    assert (await person.open(await decide(consent))).status == 200
    assert await token_of(server) is not None


async def test_many_abandoned_logins_do_not_prevent_the_next(
    server: Server, person: Person, token_of: Any
) -> None:
    """Their cookies do not accumulate until the browser's requests are too large."""
    for _ in range(12):
        page = await begin(person, server)
    assert sum(len(value) for value in person.cookies["localhost"].values()) < 8192
    assert (await person.consent(page)).status == 200
    assert await token_of(server) is not None


# ---------- one browser and one name


async def test_the_state_of_another_browser_is_refused(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """An attacker cannot connect a victim's programs to the attacker's Xero (RFC 9700 section
    2.1)."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    victim = Person()
    assert (await victim.open(callback)).status == 400
    await begin(victim, server)
    assert (await victim.open(callback)).status == 400
    assert await token_of(server) is None
    assert (await person.open(callback)).status == 200


async def test_a_cookie_of_another_server_or_name_is_refused(
    server: Server,
    new_server: NewServer,
    credentials: Any,
    person: Person,
    decide: Any,
    expected_log: Any,
) -> None:
    """A login's cookie opens only at its own server and under its own name."""
    expected_log(REFUSED_AT_CODE)
    other = await new_server(**credentials)
    callback = await decide(await begin(person, server))
    assert (await person.open(callback.replace(str(server.port), str(other.port)))).status == 400
    [(name, sealed)] = person.cookies["localhost"].items()
    state = "B" * 16 + query(callback)["state"][16:]
    person.cookies["localhost"] = {name[:-16] + "B" * 16: sealed}
    assert (await person.open(changed(callback, state=state))).status == 400


# ---------- attributes and content


async def test_the_cookies_are_protected_and_unreadable(new_server: NewServer, send: Any) -> None:
    """HttpOnly, SameSite=Lax, ten minutes; they show neither secret nor state nor verifier."""
    server = await new_server()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    form = urlencode({"client_id": DEFAULT_CLIENT_ID, "client_secret": DEFAULT_CLIENT_SECRET})
    posted = await send("POST", f"{origin(server)}/login", headers, form)
    [form_cookie] = posted.headers.get_list("Set-Cookie")
    started = await send(
        "POST", f"{origin(server)}/home", {"Cookie": form_cookie.partition(";")[0]}, ""
    )
    [started_cookie] = started.headers.get_list("Set-Cookie")
    requested = query(started.headers["Location"])
    for cookie in (form_cookie, started_cookie):
        value, *attributes = cookie.split("; ")
        settings = {
            name.lower(): setting for name, _, setting in (one.partition("=") for one in attributes)
        }
        assert "httponly" in settings
        assert settings["samesite"] == "Lax"
        assert settings["path"] == "/"
        assert 0 < int(settings["max-age"]) <= 600
        assert "domain" not in settings
        sealed = value.partition("=")[2]
        for shown in (sealed, base64.urlsafe_b64decode(sealed.strip('"')).decode("latin-1")):
            assert DEFAULT_CLIENT_SECRET not in shown
            assert DEFAULT_CLIENT_ID not in shown
            assert requested["state"] not in shown
            assert not verifies(shown, requested["code_challenge"])
