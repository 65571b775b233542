"""The cookies of a login: sealed for one name, one browser and ten minutes."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support.web import begin, changed, one_form, origin, query, verifies

from xots.keeping.login import LOGIN_TIMEOUT
from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from xots.sandbox.person import Person
from xots.sealing import Sealer
from xots.secret import Secret
from xots.server import Server
from xots.testing import FakeClock
from xots.web.login_cookie import MAX_LOGINS, MAX_TOTAL_BYTES, Form, Login, LoginCookies
from xots.web.refusals import MAX_HEAD_BYTES
from xots.xero.protocol import Credentials

NewServer = Callable[..., Awaitable[Server]]

REFUSED_AT_CODE = r"WARNING xots\.web: GET /code: "

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CREDENTIALS = Credentials(client_id="client", client_secret=Secret("secret-canary"))
TOKEN_URL = "https://id.example/token"
FORM = Form(credentials=CREDENTIALS, token_url=TOKEN_URL, tenant_id=None, at=NOW)


def login(at: datetime = NOW, state: str = "state-canary-of-20-characters") -> Login:
    return Login(
        state=Secret(state),
        verifier=Secret("verifier-canary"),
        token_url=TOKEN_URL,
        credentials=CREDENTIALS,
        tenant_id="tenant",
        scopes=("offline_access",),
        scopes_configured=(),
        redirect_uri="http://localhost:5001/code",
        replaces=None,
        at=at,
    )


# ---------- the pure functions


SEALER = Sealer.for_this_process()


def read(
    cookies: dict[str, str],
    now: datetime = NOW,
    sealer: Sealer = SEALER,
    redirect_uri: str = "http://localhost:5001/code",
) -> LoginCookies:
    """Return the cookies as a server reads them."""
    return LoginCookies(sealer=sealer, redirect_uri=redirect_uri, values=cookies, now=now)


def kept(*contents: Form | Login, account: str = "default", **server: Any) -> dict[str, str]:
    """Return the browser's cookies after a server has set these, one after the other."""
    cookies: dict[str, str] = {}
    for content in contents:
        new = read(cookies, **server).new(account, content)
        assert new is not None
        for name in new.replaced:
            del cookies[name]
        cookies[new.name] = new.value.decode()
    return cookies


def test_a_sealed_cookie_opens_to_its_content() -> None:
    """The form and each login, with their secrets."""
    cookies = read(kept(FORM, login()))
    assert cookies.form("default") == FORM
    assert cookies.logins("default") == [login()]
    assert cookies.started(login().state) == ("default", login())


@pytest.mark.safeguard(
    file="web/login_cookie.py",
    old="        return content if self.now - content.at < LOGIN_TIMEOUT else None\n",
    new="        return content\n",
    protects_from="a login that can be finished for ever",
)
@pytest.mark.parametrize(
    ("age", "opens"),
    [
        (timedelta(days=-400), True),
        (timedelta(seconds=-10), True),
        (timedelta(0), True),
        (LOGIN_TIMEOUT - timedelta(seconds=1), True),
        (LOGIN_TIMEOUT, False),
    ],
)
def test_a_cookie_expires_with_the_login(age: timedelta, opens: bool) -> None:
    """The server decides, whether or not the browser still sends the cookie. A clock that is
    behind, or was set back, does not matter."""
    found = read(kept(FORM, login()), NOW + age)
    assert (found.form("default") is not None) is opens
    assert (found.started(login().state) is not None) is opens


def test_a_cookie_opens_only_with_its_sealer_and_name() -> None:
    """Anything else reads as no cookie."""
    cookies = kept(FORM, login())
    other = read(cookies, sealer=Sealer.for_this_process())
    assert (other.form("default"), other.logins("default")) == (None, [])
    assert read({}).form("default") is None
    [form, started] = cookies
    for moved in ({form: "not sealed"}, {form: cookies[started], started: cookies[form]}):
        assert read(moved).form("default") is None
        assert read(moved).logins("default") == []


FAR = "http://localhost:5002/code"


@pytest.mark.safeguard(
    file="web/login_cookie.py",
    old='{kind}{sha256(self.redirect_uri.encode()).hexdigest()[:12]}-"',
    new='{kind}"',
    protects_from="two servers on localhost that overwrite each other's logins",
)
def test_servers_with_one_key_never_read_replace_or_count_each_others_cookies() -> None:
    """Their names differ, and a cookie under the other one's name does not open."""
    ours, theirs = kept(FORM, login()), kept(FORM, login(), redirect_uri=FAR)
    assert not set(ours) & set(theirs)
    there = read(ours, redirect_uri=FAR)
    assert (there.form("default"), there.started(login().state)) == (None, None)
    renamed = dict(zip(theirs, ours.values(), strict=True))
    there = read(renamed, redirect_uri=FAR)
    assert (there.form("default"), there.started(login().state)) == (None, None)
    full = dict.fromkeys(theirs, "x" * MAX_TOTAL_BYTES)
    new = read(full).new("default", FORM)
    assert new is not None
    assert new.replaced == []


def test_accounts_never_read_each_others_cookies() -> None:
    """A form of one account is not the credentials of another one, whatever its cookie's name."""
    cookies = kept(FORM, login(), account="one")
    for account in ("two", "on", "one-", "-one"):
        assert read(cookies).form(account) is None
        assert read(cookies).logins(account) == []
    assert read(cookies).started(login().state) == ("one", login())
    renamed = {name.replace("-one", "-two"): value for name, value in cookies.items()}
    assert (read(renamed).form("two"), read(renamed).started(login().state)) == (None, None)


def test_a_further_login_replaces_the_oldest_of_its_account() -> None:
    """Four of one account are in progress at once in one browser."""
    states = [f"{number:016}-canary" for number in range(6)]
    order = (3, 1, 4, 0, 2, 5)
    started = [login(NOW + timedelta(seconds=at), states[at]) for at in order]
    cookies = kept(*started, now=NOW) | kept(login(), account="other")
    assert [one.state.reveal() for one in read(cookies).logins("default")] == states[2:]
    assert read(cookies).logins("other") == [login()]


@pytest.mark.safeguard(
    file="web/login_cookie.py",
    old="            if left < 0:\n",
    new="            if False:\n",
    protects_from="a browser whose requests have too many cookies (431)",
)
def test_the_cookies_of_all_accounts_stay_within_one_bound() -> None:
    """The oldest are replaced, and unreadable ones first. Two servers fill half of a request."""
    large = Credentials(client_id=500 * "i", client_secret=Secret(500 * "s"))
    cookies = dict.fromkeys(kept(FORM, account="unreadable"), "x" * 3000)
    for number in range(20):
        now = NOW + timedelta(seconds=number)
        form = Form(credentials=large, token_url=TOKEN_URL, tenant_id=500 * "t", at=now)
        new = read(cookies, now).new(f"account-{number}", form)
        assert new is not None
        for name in new.replaced:
            del cookies[name]
        cookies[new.name] = new.value.decode()
        assert sum(len(name) + len(value) for name, value in cookies.items()) <= MAX_TOTAL_BYTES
    accounts = [number for number in range(20) if read(cookies).form(f"account-{number}")]
    assert accounts == list(range(20 - len(cookies), 20))
    assert len(accounts) > 3
    assert 3 * MAX_TOTAL_BYTES < MAX_HEAD_BYTES


def test_a_cookie_that_browsers_drop_is_not_made() -> None:
    """Browsers drop a cookie of more than 4096 bytes with its attributes."""
    wide = Credentials(client_id=512 * "\N{GRINNING FACE}", client_secret=Secret(512 * '"'))
    assert (
        read({}).new(
            "default", Form(credentials=wide, token_url=TOKEN_URL, tenant_id=512 * "t", at=NOW)
        )
        is None
    )


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


@pytest.mark.parametrize("back", [10, 24 * 3600])
async def test_a_clock_that_is_set_back_during_a_login_does_not_break_it(
    new_server: NewServer, person: Person, clock: FakeClock, decide: Any, token_of: Any, back: int
) -> None:
    """By seconds or by a day, between the form and Xero, and before the return."""
    server = await new_server()
    page = await person.open(f"{origin(server)}/login")
    page = await person.submit(
        page, client_id=DEFAULT_CLIENT_ID, client_secret=DEFAULT_CLIENT_SECRET
    )
    clock.step(-back)
    consent = await person.submit(page)
    clock.step(-back)
    assert "has not come back" in (await person.open(f"{origin(server)}/home")).text
    assert (await person.open(await decide(consent))).status == 200
    assert await token_of(server) is not None


async def test_a_clock_that_is_set_back_does_not_hide_or_keep_hints(
    server: Server, person: Person, clock: FakeClock, decide: Any, get: Any
) -> None:
    """A login that began before the live one needs no hint; a later one does, whatever its date.
    The state is waiting for ten minutes of real time."""
    await begin(person, server)
    clock.step(days=-1)
    assert (await person.open(await decide(await begin(person, server)))).status == 200
    home = f"{origin(server)}/home"
    assert "has not come back" not in (await person.open(home)).text
    clock.step(days=-1)
    await person.submit(one_form(await person.open(home), 'id="connect"'))
    assert "has not come back" in (await person.open(home)).text


async def test_a_login_that_does_not_return_is_waited_for_ten_minutes_of_real_time(
    server: Server, person: Person, clock: FakeClock, get: Any
) -> None:
    """A clock that is set back does not make the wait longer."""
    await begin(person, server)
    clock.step(days=-1)
    assert (await get(f"{server.url}/livez")).json["state"] == "waiting"
    clock.advance(10 * 60)
    assert (await get(f"{server.url}/livez")).json["state"] == "not-logged-in"


async def test_a_form_that_no_cookie_can_carry_is_refused_with_the_reason(
    new_server: NewServer, person: Person
) -> None:
    """Without the check, the browser drops the cookie, and /home knows of no credentials."""
    server = await new_server()
    form = await person.open(f"{origin(server)}/login")
    wide = 512 * "\N{GRINNING FACE}"
    page = await person.submit(form, client_id=wide, client_secret=wide, tenant_id=wide)
    assert page.status == 400
    assert "too long together" in page.text
    assert person.cookies.get("localhost", {}) == {}
    longest = 512 * "i"
    page = await person.submit(form, client_id=longest, client_secret="s", tenant_id="")
    assert (page.status, page.url) == (200, f"{origin(server)}/home")
    await person.submit(page)
    assert len(person.cookies["localhost"]) == 2
    sizes = [len(name) + len(value) for name, value in person.cookies["localhost"].items()]
    assert max(sizes) < 4096


async def test_scopes_that_no_cookie_can_carry_are_refused_with_the_reason(
    server: Server, person: Person, new_server: NewServer, credentials: Any, expected_log: Any
) -> None:
    """The credentials are those of the settings, so no form was checked."""
    expected_log(r"WARNING xots\.web: POST /home: ")
    scopes = ("offline_access", *(f"scope.{number:060}" for number in range(60)))
    server = await new_server(**credentials, scopes=scopes)
    page = await begin(person, server)
    assert page.status == 400
    assert "too long together" in page.text


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
    renamed = name.replace(query(callback)["state"][:16], "B" * 16)
    person.cookies["localhost"] = {renamed: sealed}
    assert (await person.open(changed(callback, state=state))).status == 400


async def test_servers_with_one_store_and_key_never_share_forms_and_logins(
    new_server: NewServer, person: Person, tmp_path: Path, decide: Any
) -> None:
    """A second process on another port, with the same settings, is another redirect URI at Xero."""
    settings = {"store": f"file:{tmp_path}/store"}
    one, other = await new_server(**settings), await new_server(**settings)
    form = await person.open(f"{origin(one)}/login")
    home = await person.submit(
        form, client_id=DEFAULT_CLIENT_ID, client_secret=DEFAULT_CLIENT_SECRET
    )
    assert (await person.open(f"{origin(other)}/home")).url == f"{origin(other)}/"
    consent = await person.submit(home)
    form = await person.open(f"{origin(other)}/login")
    wrong = await person.submit(form, client_id="wrong", client_secret="wrong")
    assert "has not come back" not in wrong.text
    for _ in range(MAX_LOGINS + 1):
        await person.submit(wrong)
    page = await person.open(await decide(consent))
    assert (page.status, page.url) == (200, f"{origin(one)}/home")


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
