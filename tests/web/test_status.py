"""``/status``: the fields for a monitor, and the sentences for an operator."""

from __future__ import annotations

import asyncio
import html
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as with_changes
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import force_setattr
from support import inside
from support.web import WANTS_PAGE

from xots.commands.main import main
from xots.errors import StoreUnavailable
from xots.lifecycle.transitions import begin_refresh
from xots.sandbox import Sandbox, fingerprint
from xots.server import Server
from xots.wording import time_text

NewServer = Callable[..., Awaitable[Server]]
LogIn = Callable[[Server], Awaitable[None]]

XERO_LIFE = 1800
REFRESH_FAILED = r"WARNING xots: default: refresh failed"
LOGIN_LOST = r"ERROR xots: default: the login is lost"
STORE_FAILS = r"ERROR xots: default: the token store fails"


@pytest.fixture
def told(get: Any, canaries: Any) -> Callable[[Server], Awaitable[tuple[dict[str, Any], str]]]:
    """The JSON of ``/status`` and its sentences. The page shows them too; neither holds a
    secret."""

    async def told(server: Server) -> tuple[dict[str, Any], str]:
        response, page = (
            await get(f"{server.url}/status"),
            await get(f"{server.url}/status", **WANTS_PAGE),
        )
        assert (response.status, page.status) == (200, 200)
        assert not [secret for secret in canaries(server) if secret in response.text + page.text]
        shown = [html.unescape(one) for one in re.findall("<p>(.*?)</p>", page.text)]
        content: dict[str, Any] = response.json
        assert shown[:-1] == content["explanation"]
        return content, " ".join(content["explanation"])

    return told


def moment(content: dict[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(content[name])


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return the log lines of the events."""
    return [
        one.getMessage() for one in caplog.records if one.name == "xots" and one.levelno >= level
    ]


@contextmanager
def broken(server: Server) -> Iterator[None]:
    """Make the store fail at every read and write for a while."""

    async def fail(*args: object, **kwargs: object) -> None:
        raise StoreUnavailable("the disk is gone")

    with pytest.MonkeyPatch.context() as patch:
        for method in ("check", "swap", "read"):
            patch.setattr(inside.context_of(server.keeper).store, method, fail)
        yield


async def fails_once(server: Server, clock: Any) -> None:
    """Let the due refresh fail. The clock shows 09:25:00 then."""
    rng = random.Random(7)  # noqa: S311 - jitter
    force_setattr(inside.context_of(server.keeper), "rng", rng)
    clock.advance(XERO_LIFE - 300)
    await server.rotation.tick()
    assert server.keeper.account.failed_attempts == 1


# ---------- the fields


async def test_status_is_json_with_the_field_names_of_the_go_server(
    logged_in: Server, clock: Any, get: Any
) -> None:
    """A program that reads the fields of the earlier server finds them here."""
    response = await get(f"{logged_in.url}/status")
    assert response.status == 200
    assert response.headers["Content-Type"].split(";")[0] == "application/json"
    content = response.json
    assert datetime.fromisoformat(content["access_token_expiry_utc"]) == clock.now() + timedelta(
        minutes=30
    )
    assert datetime.fromisoformat(content["refresh_token_expiry_utc"]) == clock.now() + timedelta(
        minutes=72000
    )
    assert content["scopes"] == [
        "offline_access",
        "accounting.transactions",
        "accounting.reports.read",
    ]


async def test_status_is_a_page_for_a_browser(logged_in: Server, get: Any) -> None:
    """The Accept header decides."""
    response = await get(f"{logged_in.url}/status", **WANTS_PAGE)
    assert response.status == 200
    assert response.headers["Content-Type"].split(";")[0] == "text/html"
    assert "<td>09:30:00 UTC</td>" in response.text
    assert "accounting.reports.read" in response.text


async def test_status_and_livez_hold_fingerprints_and_no_secret(
    logged_in: Server, sandbox: Sandbox, clock: Any, get: Any, canaries: Any
) -> None:
    """Neither JSON nor a page holds a token or the client secret, before or after a rotation."""
    for _ in range(2):
        secret = canaries(logged_in)
        responses = [
            await get(f"{logged_in.url}/status"),
            await get(f"{logged_in.url}/status", **WANTS_PAGE),
            await get(f"{logged_in.url}/livez"),
            await get(f"http://localhost:{logged_in.port}/home", **WANTS_PAGE),
            await get(f"http://localhost:{logged_in.port}/login", **WANTS_PAGE),
        ]
        assert [response.status for response in responses] == [200] * 5
        for response in responses:
            text = response.text + str(list(response.headers.get_all()))
            assert not [one for one in secret if one in text]
        shown = responses[0].json
        assert fingerprint(secret[-1]) in shown["access_token"]
        clock.advance(XERO_LIFE - 300)
        await logged_in.rotation.tick()


async def test_status_works_before_any_credentials_are_known(
    new_server: NewServer, get: Any
) -> None:
    """For programs and for browsers."""
    server = await new_server()
    assert (await get(f"{server.url}/status")).json["state"] == "no-credentials"
    assert "no-credentials" in (await get(f"{server.url}/status", **WANTS_PAGE)).text


# ---------- the sentences


async def test_before_a_login_the_sentence_says_which_page_to_open(
    new_server: NewServer, credentials: Any, told: Any
) -> None:
    """The form if credentials are missing, or else home."""
    server = await new_server()
    content, words = await told(server)
    url = f"http://localhost:{server.port}"
    assert words == f"The app's credentials are missing. Open {url}/ to enter them, and log in."
    assert (content["attention_for"], content["retrying"]) == ("not-logged-in", None)
    server = await new_server(**credentials)
    _, words = await told(server)
    url = f"http://localhost:{server.port}"
    assert words == f"No user is logged in. Open {url}/home and log in."


async def test_an_ended_login_is_shown(logged_in: Server, told: Any, send: Any) -> None:
    """The record does not tell if Xero has revoked it, or if other accounts kept it from that."""
    await send("POST", f"{logged_in.url}/revoke", None, "")
    content, words = await told(logged_in)
    url = f"http://localhost:{logged_in.port}"
    assert words == f"The login was ended here. Open {url}/home and log in."
    assert content["state"] == "revoked"
    home = await send("GET", f"{url}/home", {"Accept": "text/html"})
    assert "The login was ended here. Connect to log in again." in home.text
    assert "was revoked" not in home.text


async def test_a_started_login_is_shown(server: Server, person: Any, told: Any) -> None:
    """The sentence replaces the request to log in."""
    await person.submit(await person.open(f"http://localhost:{server.port}/home"))
    assert (await told(server))[1] == "A login was started and has not returned from Xero yet."


async def test_without_failures_the_last_and_the_next_refresh_are_shown(
    logged_in: Server, clock: Any, told: Any
) -> None:
    """With the process, the expiry of the access token, and the time of the next login."""
    content, words = await told(logged_in)
    assert words.startswith("Logged in at 09:00:00 UTC (0 seconds ago), and not refreshed since. ")
    assert content["refreshed_by"] is None
    await logged_in.keeper.refresh()
    clock.advance(720)
    content, words = await told(logged_in)
    process = inside.context_of(logged_in.keeper).process
    assert words == (
        f"Last refreshed at 09:00:00 UTC (12 minutes ago) by {process}. "
        "Programs receive an access token that expires at 09:30:00 UTC (18 minutes from now). "
        "The next refresh is due at 09:25:00 UTC (13 minutes from now). "
        "If no refresh succeeds, a user must log in after 2027-01-01 09:00:00 UTC "
        "(59 days from now): unused refresh tokens expire after 60 days."
    )
    assert content["refreshed_by"] == process
    assert [
        content[name]
        for name in ("retrying", "last_problem", "grace_ends_at", "grace_seconds_left")
    ] == [None] * 4
    assert moment(content, "next_attempt_at") == clock.now() + timedelta(minutes=13)
    assert (content["attention_for"], content["unsaved"]) == ("refresh-token-unused", False)


async def test_a_refresh_that_was_cut_off_is_shown_with_its_process(
    logged_in: Server, clock: Any, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """On the page until another process resumes it, and in the log when it does."""
    caplog.set_level(logging.INFO)
    keeper, current = logged_in.keeper, logged_in.keeper.account.current
    assert current is not None
    clock.advance(XERO_LIFE - 300)
    await inside.replica_of(keeper).compare_and_set(
        begin_refresh(keeper.account, current, by="elsewhere:77", now=clock.now())
    )
    clock.advance(90)
    content, words = await told(logged_in)
    assert (
        "elsewhere:77 started a refresh at 09:25:00 UTC (1 minute ago) and has recorded no "
        "outcome yet. " in words
    )
    assert (
        "Xero accepts the same refresh token again until 09:55:00 UTC (28 minutes from now). "
        in words
    )
    assert "The next attempt" not in words
    assert content["retrying"] == "under-way"
    caplog.clear()
    await logged_in.rotation.tick()
    taken, refreshed = lines(caplog)
    assert taken == (
        "default: elsewhere:77 started a refresh at 09:25:00 UTC and recorded no outcome; "
        "spending the same refresh token again"
    )
    assert refreshed.startswith("default: refreshed: refresh token #")


@pytest.mark.parametrize("grace", [0, 1800])
async def test_a_refresh_that_was_cut_off_is_resumed_where_tokens_are_accepted_twice(
    new_server: NewServer,
    credentials: Any,
    log_in: LogIn,
    clock: Any,
    told: Any,
    expected_log: Any,
    grace: int,
) -> None:
    """``grace: 0`` forbids it."""
    expected_log.perhaps(REFRESH_FAILED)
    server = await new_server(**credentials, grace=grace)
    await log_in(server)
    keeper = server.keeper
    account, current = keeper.account, keeper.account.current
    assert current is not None
    clock.advance(XERO_LIFE - 300)
    await inside.replica_of(keeper).compare_and_set(
        begin_refresh(account, current, by="elsewhere:77", now=clock.now())
    )
    _, words = await told(server)
    assert "elsewhere:77 started a refresh" in words
    assert ("another process resumes the refresh" in words) is (grace > 0)


async def test_a_last_attempt_is_explained_with_the_name_of_the_server(
    new_server: NewServer,
    credentials: Any,
    log_in: LogIn,
    sandbox: Sandbox,
    clock: Any,
    told: Any,
    expected_log: Any,
) -> None:
    """An operator may set ``grace: 0`` for Xero too."""
    expected_log(REFRESH_FAILED)
    server = await new_server(**credentials, grace=0)
    await log_in(server)
    sandbox.add_fault("refresh:nth=1:lost")
    await fails_once(server, clock)
    _, words = await told(server)
    assert "its refresh token may be spent, and Xero accepts none twice" in words


@pytest.mark.parametrize("fault", ["lost", "503-html"])
async def test_a_lost_response_is_shown_with_the_end_of_the_grace_period(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any, fault: str
) -> None:
    """Xero may have carried the refresh out. The same token is spent again."""
    expected_log(
        r"refresh failed \(attempt 1\): no usable response came from Xero.*; next attempt at "
        r"09:2\d:\d\d UTC or later; "
        r"Xero accepts the same refresh token again until 09:55:00 UTC; "
        r"if nothing improves, a user may have to log in after 09:55:00 UTC$"
    )
    sandbox.add_fault(f"refresh:every:{fault}")
    await fails_once(logged_in, clock)
    next_at = logged_in.keeper.account.retry_not_before
    assert next_at is not None
    clock.advance((next_at - clock.now()).total_seconds() - 0.01)
    content, words = await told(logged_in)
    assert "No access token" not in words
    assert (
        "A refresh started at 09:25:00 UTC (0 seconds ago), and no usable response arrived: Xero "
        "may" in words
    )
    assert (
        "1 failed attempt so far, the last at 09:25:00 UTC (0 seconds ago): no usable response came"
        in words
    )
    assert (
        "Xero accepts the same refresh token again until 09:55:00 UTC (29 minutes from now). "
        in words
    )
    assert (
        f"The next attempt is at {time_text(next_at, clock.now())} (0 seconds from now) or later. "
        in words
    )
    assert words.endswith("a user may have to log in after 09:55:00 UTC (29 minutes from now).")
    assert (content["retrying"], content["attention_for"]) == ("lost-response", "grace-ends")
    assert moment(content, "next_attempt_at") == next_at
    assert content["grace_ends_at"] == content["login_needed_at"]
    assert content["grace_seconds_left"] == XERO_LIFE - 1
    clock.advance(minutes=6)
    assert "No access token can be returned now. " in (await told(logged_in))[1]


async def test_the_end_of_the_grace_period_is_shown(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """Only the next attempt can show whether Xero received the token."""
    expected_log(
        REFRESH_FAILED,
        r"attempt 2.*may no longer accept .* since 09:55:00 UTC; if nothing improves, a user may "
        r"have to log in now$",
    )
    sandbox.add_fault("refresh:every:503-html")
    await fails_once(logged_in, clock)
    clock.advance(1860)
    await logged_in.rotation.tick()
    clock.advance(60)
    content, words = await told(logged_in)
    assert (
        "The grace period of the refresh token ended at 09:55:00 UTC (2 minutes ago): Xero may "
        "refuse it now. " in words
    )
    assert words.endswith(
        "The next attempt is due now. If the next attempt fails, a user must log in."
    )
    assert (content["grace_seconds_left"], moment(content, "login_needed_at")) == (0, clock.now())


async def test_an_attempt_that_was_not_sent_starts_no_grace_period(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """The token is not spent: it stays valid for 60 days."""
    expected_log(
        r"refresh failed \(attempt 1\): Xero could not be reached; this attempt spent no refresh "
        r"token "
        r"\(.*\); next attempt "
        r"at 09:2\d:\d\d UTC or later; if nothing improves, a user must log in after 2027-01-01 "
        r"09:00:00 UTC$"
    )
    sandbox.options = with_changes(sandbox.options, port=sandbox.port)
    await sandbox.stop()
    await fails_once(logged_in, clock)
    content, words = await told(logged_in)
    sandbox.start()
    assert (
        "Xero could not be reached; this attempt spent no refresh token (can't reach 127.0.0.1"
        in content["last_problem"]
    )
    assert content["last_problem"] in words
    assert "the same refresh token" not in words
    assert "grace period" not in words
    assert "a user must log in after 2027-01-01 09:00:00 UTC (59 days from now)" in words
    assert (content["retrying"], content["grace_ends_at"]) == ("refresh", None)


async def test_a_refused_client_names_the_correction(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """An operator can correct the settings without a new login. Retries do not help."""
    expected_log(
        r"refresh failed \(attempt 1\): .*\(invalid_client \(40\d\)\); "
        r"this attempt spent no refresh token: correct the client id or secret in the settings"
    )
    sandbox.add_fault("refresh:every:invalid-client")
    await fails_once(logged_in, clock)
    content, words = await told(logged_in)
    assert (
        "correct the client id or secret in the settings, or enter the right ones at /login"
        in words
    )
    assert "An operator must act: correct the client id or secret" in words
    assert (content["retrying"], content["attention_for"]) == ("refresh", "client-refused")


async def test_a_lost_consent_names_the_reason_and_the_page_to_open(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """In the log, in the JSON and on the page; also until when the access token is returned."""
    token = logged_in.keeper.account.current
    assert token is not None
    expected_log(
        r"the login is lost, a user must log in again: open /accounts/default/home and log in\. "
        r"Xero refused every refresh token, "
        rf"#{token.value.fingerprint} last \(invalid_grant\): most likely the app was "
        rf"disconnected at Xero; "
        r"programs receive the old access token until 09:30:00 UTC$"
    )
    sandbox.identity.forget()
    clock.advance(XERO_LIFE - 300)
    await logged_in.rotation.tick()
    content, words = await told(logged_in)
    assert "Programs receive an access token that expires at 09:30:00 UTC" in words
    assert words.endswith(
        "The login is lost. Xero refused every refresh token (invalid_grant): most likely the app "
        "was disconnected at Xero. A user must log in again: open "
        f"http://localhost:{logged_in.port}/home."
    )
    assert [content[name] for name in ("retrying", "next_attempt_at", "grace_ends_at")] == [
        None
    ] * 3
    assert (content["attention_for"], moment(content, "login_needed_at")) == (
        "consent-lost",
        clock.now(),
    )


async def test_a_loss_after_the_grace_period_is_named(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """A response was lost, and no attempt followed in time."""
    started = "no response to the refresh started at 2026-11-02 09:25:00 UTC"
    why = f"{started} arrived within Xero's 30 minutes"
    expected_log(REFRESH_FAILED, rf"the login is lost.*\(invalid_grant\): {why}$")
    sandbox.add_fault("refresh:nth=1:lost")
    await fails_once(logged_in, clock)
    clock.advance(1801)
    await logged_in.rotation.tick()
    assert why in (await told(logged_in))[1]


async def test_a_failing_store_is_shown(
    logged_in: Server, clock: Any, told: Any, expected_log: Any
) -> None:
    """No token is spent meanwhile, so no change is unsaved."""
    expected_log(rf"{STORE_FAILS}, serving from memory: the disk is gone$")
    clock.advance(XERO_LIFE - 300)
    with broken(logged_in):
        await logged_in.rotation.tick()
        content, words = await told(logged_in)
    assert words.endswith(
        "The token store cannot be used: the disk is gone. No refresh token is spent until it "
        "works again."
    )
    assert (content["store"], content["unsaved"]) == ("degraded", False)


async def test_an_unsaved_change_is_shown_with_the_loss_if_the_process_ends(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """The operator reads not to stop the process, and the consequence of a stop."""
    expected_log(
        rf"{STORE_FAILS}.*: the disk is gone; the last change exists in this process only: do not "
        rf"stop this process before "
        r"the store works again \(if it stops, the refresh can be repeated until 09:55:00 UTC\)$"
    )
    sandbox.add_fault("refresh:nth=1:hold-after")
    clock.advance(XERO_LIFE - 300)
    ticking = asyncio.create_task(logged_in.rotation.tick())
    await sandbox.held()
    with broken(logged_in):
        sandbox.release()
        await ticking
        content, words = await told(logged_in)
        assert words.endswith(
            "The last change exists in this process only: do not stop this process before the "
            "store works again. "
            "If it stops, the refresh can be repeated until 09:55:00 UTC (30 minutes from now)."
        )
        assert (content["store"], content["unsaved"], content["retrying"]) == (
            "degraded",
            True,
            None,
        )
        assert content["grace_seconds_left"] == XERO_LIFE
        assert content["attention_for"] == "refresh-token-unused"
        clock.advance(1800)
        assert (await told(logged_in))[1].endswith("If it stops, a user may have to log in.")
    await logged_in.rotation.tick()
    content, words = await told(logged_in)
    assert (content["store"], content["unsaved"]) == ("ok", False)
    assert "do not stop this" not in words


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({"grace": 0}, "a user may have to log in"),
        (
            {"grant": "client_credentials", "scopes": ("accounting.contacts",)},
            "the next process requests another access token",
        ),
    ],
)
async def test_the_loss_depends_on_what_the_server_permits(
    new_server: Any,
    credentials: Any,
    log_in: Any,
    sandbox: Sandbox,
    clock: Any,
    told: Any,
    expected_log: Any,
    settings: dict[str, Any],
    loss: str,
) -> None:
    """Where no token is accepted twice, no refresh is repeated; without a login, any is."""
    expected_log(STORE_FAILS)
    server = await new_server(**credentials, **settings)
    endpoint = "token"
    if "grace" in settings:
        await log_in(server)
        endpoint = "refresh"
    else:
        tenant_id = next(iter(sandbox.world.accounting.organisations))
        client = with_changes(
            next(iter(sandbox.identity.clients.values())), custom_connection_tenant_id=tenant_id
        )
        sandbox.identity.register(client)
        await server.rotation.tick()
    sandbox.add_fault(f"{endpoint}:nth=1:hold-after")
    clock.advance(XERO_LIFE - 300)
    ticking = asyncio.create_task(server.rotation.tick())
    await sandbox.held()
    with broken(server):
        sandbox.release()
        await ticking
        assert (await told(server))[1].endswith(f"If it stops, {loss}.")
    await server.rotation.tick()


async def test_an_unconfirmed_revocation_is_shown(
    logged_in: Server, sandbox: Sandbox, send: Any, told: Any, expected_log: Any
) -> None:
    """With the end of the login, the failure and the next attempt."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    sandbox.add_fault("revocation:every:503-html")
    assert (await send("POST", f"{logged_in.url}/revoke", None, "")).status == 202
    content, words = await told(logged_in)
    assert words.startswith(
        "The login was ended at 09:00:00 UTC (0 seconds ago), and Xero has not confirmed the "
        "revocation yet. "
    )
    assert "1 failed attempt so far" in words
    assert "The next attempt is " in words
    url = f"http://localhost:{logged_in.port}"
    assert words.endswith(f"No user is logged in. Open {url}/home and log in.")
    assert content["retrying"] == "revocation"


async def test_the_login_of_another_identity_server_is_shown_and_left_alone(
    new_server: NewServer,
    credentials: Any,
    log_in: LogIn,
    told: Any,
    tmp_path: Path,
    expected_log: Any,
) -> None:
    """A process that follows the record announces no attempt of its own."""
    expected_log.perhaps(r"WARNING xots\.accounts: default: token_url")
    store = {"store": f"file://{tmp_path}/store", **credentials}
    elsewhere = await new_server(**store, token_url="http://127.0.0.1:1/token")
    ours = await new_server(**store)
    await log_in(ours)
    await elsewhere.keeper.follow()
    content, words = await told(elsewhere)
    assert (
        f"The stored login belongs to another identity server, {ours.settings.token_url}: this "
        "process leaves it alone." in words
    )
    assert "next" not in words
    assert (content["retrying"], content["next_attempt_at"]) == (None, None)


async def test_a_clock_that_was_set_back_is_shown(logged_in: Server, clock: Any, told: Any) -> None:
    """A time in the future is called so."""
    clock.step(hours=-2)
    _, words = await told(logged_in)
    assert words.startswith(
        "Logged in at 09:00:00 UTC (2 hours from now), and not refreshed since. That time lies in "
        "the future"
    )


async def test_the_command_prints_the_sentences_first(
    logged_in: Server, told: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """``xots status`` prints the sentences of the page."""
    content, _ = await told(logged_in)
    assert await asyncio.to_thread(main, ["status", "--port", str(logged_in.port)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(content["explanation"])] == content["explanation"]
    assert any(line.startswith("login needed at ") for line in printed)
