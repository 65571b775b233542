"""The cookies of a login: sealed for one name, one browser and ten minutes."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

from support.web import begin, changed, origin, query, verifies

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from xots.sandbox.person import Person
from xots.server import Server

NewServer = Callable[..., Awaitable[Server]]

REFUSED_AT_CODE = r"WARNING xots\.web: GET /code: "


# ---------- expiry


async def test_an_expired_state_is_refused(
    server: Server, person: Person, clock: Any, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """A login that takes 11 minutes is over, even if its code is fresh."""
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
    """A person may look for a password."""
    consent = await begin(person, server)
    clock.advance(9 * 60)
    assert (await person.open(await decide(consent))).status == 200
    assert await token_of(server) is not None


async def test_many_abandoned_logins_do_not_hinder_the_next(
    server: Server, person: Person, token_of: Any
) -> None:
    """The cookies of logins that never came back don't pile up until the browser's requests are too large."""
    for _ in range(12):
        page = await begin(person, server)
    assert sum(len(value) for value in person.cookies["localhost"].values()) < 8192
    assert (await person.consent(page)).status == 200
    assert await token_of(server) is not None


# ---------- one browser and one name


async def test_another_browsers_state_is_refused(
    server: Server, person: Person, decide: Any, token_of: Any, expected_log: Any
) -> None:
    """Whoever lures a victim to his own callback does not connect his Xero to the victim's programs."""
    expected_log(REFUSED_AT_CODE)
    callback = await decide(await begin(person, server))
    victim = Person()
    assert (await victim.open(callback)).status == 400
    await begin(victim, server)
    assert (await victim.open(callback)).status == 400
    assert await token_of(server) is None
    assert (await person.open(callback)).status == 200


async def test_a_cookie_that_was_made_elsewhere_is_refused(
    server: Server,
    new_server: NewServer,
    credentials: Any,
    person: Person,
    decide: Any,
    expected_log: Any,
) -> None:
    """A login's cookie opens only where it was sealed; another server's, or one moved to another name, does not."""
    expected_log(REFUSED_AT_CODE)
    other = await new_server(**credentials)
    callback = await decide(await begin(person, server))
    assert (await person.open(callback.replace(str(server.port), str(other.port)))).status == 400
    [(name, sealed)] = person.cookies["localhost"].items()
    state = "B" * 16 + query(callback)["state"][16:]
    person.cookies["localhost"] = {name[:-16] + "B" * 16: sealed}
    assert (await person.open(changed(callback, state=state))).status == 400


# ---------- attributes and content


async def test_cookies_are_for_the_server_only_and_hold_nothing_readable(
    new_server: NewServer, send: Any
) -> None:
    """HttpOnly, SameSite=Lax, for ten minutes at most; neither the secret, the state nor the verifier can be read."""
    server = await new_server()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    form = urlencode({"client_id": DEFAULT_CLIENT_ID, "client_secret": DEFAULT_CLIENT_SECRET})
    posted = await send("POST", f"{origin(server)}/login", headers, form)
    [form_cookie] = posted.headers.get_list("Set-Cookie")
    begun = await send(
        "POST", f"{origin(server)}/home", {"Cookie": form_cookie.partition(";")[0]}, ""
    )
    [login_cookie] = begun.headers.get_list("Set-Cookie")
    asked = query(begun.headers["Location"])
    for cookie in (form_cookie, login_cookie):
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
            assert asked["state"] not in shown
            assert not verifies(shown, asked["code_challenge"])
