"""What an operator is told, by ``/status`` and the log: what happened, what is retried, and when a person is needed."""

from __future__ import annotations

import asyncio
import html
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as with_changes
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from xots.commands.main import main
from xots.errors import StoreUnavailable
from xots.lifecycle.account import Account, ProblemKind, RefreshToken
from xots.lifecycle.outcomes import (
    ClientRefused,
    Issued,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from xots.lifecycle.outlook import Need, Retrying, outlook, why_lost
from xots.lifecycle.schedule import Policy, candidates
from xots.lifecycle.transitions import (
    after,
    after_end,
    after_login,
    after_revocation_failed,
    after_revoked,
    begin_refresh,
)
from xots.sandbox import Sandbox
from xots.secret import Secret
from xots.server import Server
from xots.wording import problem_text, span_text, time_text

NewServer = Callable[..., Awaitable[Server]]
LogIn = Callable[[Server], Awaitable[None]]

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = Policy()
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
DUE = NOW + 25 * MINUTE
"""When the login of the table wants its first refresh."""
HALF_A_SECOND = timedelta(seconds=0.5)

XERO_LIFE = 1800
REFRESH_FAILED = r"WARNING xots: default: refresh failed"
LOGIN_LOST = r"ERROR xots: default: the login is lost"
STORE_FAILS = r"ERROR xots: default: the token store fails"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


# ------------------------------------------------------------------------------------- the pure function


def issued(token: str | None) -> Issued:
    successor = None if token is None else Secret(token)
    return Issued(
        access_token=Secret(f"access-{token}"), lifetime=30 * MINUTE, refresh_token=successor
    )


def logged_in() -> Account:
    return after_login(
        Account(),
        issued("r0"),
        consent_id="c1",
        client_id="client",
        client_secret=None,
        token_url="https://id.example/token",
        tenant_id=None,
        scopes_requested=("offline_access",),
        began_at=NOW,
    )


def begun(account: Account, at: datetime) -> Account:
    token = candidates(account, at, POLICY)[0]
    return begin_refresh(account, token, by="host:1", now=at)


def tried(account: Account, outcome: Outcome, at: datetime) -> Account:
    """The record after a try that came to ``outcome`` at once."""
    return after(begun(account, at), outcome, now=at, policy=POLICY, jitter=0.5)


def with_rival(account: Account, **changes: Any) -> Account:
    rival = RefreshToken(value=Secret("rival"), obtained_at=DUE, **changes)
    return replace(account, fallbacks=(rival, *account.fallbacks))


LOGGED_IN = logged_in()
LOST = tried(LOGGED_IN, Unknown(detail="reset"), DUE)
ENDED = after_end(LOGGED_IN, forget=False, now=NOW)
SIXTY_DAYS = NOW + 60 * DAY
GRACE_ENDS = DUE + 30 * MINUTE
LATER = DUE + MINUTE

# What the record is, when it is looked at, and the outlook: what is retried, when next, until when the grace lasts, and
# when a person is needed for what.
TABLE: dict[str, tuple[Account, datetime, tuple[Any, ...]]] = {
    "no credentials": (Account(), NOW, (None, None, None, NOW, Need.NO_LOGIN)),
    "revoked": (after_revoked(ENDED), NOW, (None, None, None, NOW, Need.NO_LOGIN)),
    "ended, and Xero is to be told": (
        ENDED,
        NOW,
        (Retrying.REVOCATION, NOW, None, NOW, Need.NO_LOGIN),
    ),
    "ended, and Xero could not be told": (
        after_revocation_failed(ENDED, NotSent(detail="down"), now=NOW, policy=POLICY, jitter=0.5),
        NOW,
        (Retrying.REVOCATION, NOW + HALF_A_SECOND, None, NOW, Need.NO_LOGIN),
    ),
    "all is well": (LOGGED_IN, NOW, (None, DUE, None, SIXTY_DAYS, Need.TOKEN_DIES)),
    "a refresh is due": (LOGGED_IN, LATER, (None, LATER, None, SIXTY_DAYS, Need.TOKEN_DIES)),
    "all is well again": (
        tried(LOST, issued("r1"), LATER),
        LATER,
        (None, DUE + 25 * MINUTE, None, LATER + 60 * DAY, Need.TOKEN_DIES),
    ),
    "a refresh is under way, or was cut off": (
        begun(LOGGED_IN, DUE),
        LATER,
        (Retrying.UNDER_WAY, LATER, GRACE_ENDS, GRACE_ENDS, Need.GRACE_ENDS),
    ),
    "a refresh is under way after one that was not sent": (
        begun(tried(LOGGED_IN, NotSent(detail="down"), DUE), LATER),
        LATER,
        (Retrying.UNDER_WAY, LATER, GRACE_ENDS + MINUTE, GRACE_ENDS + MINUTE, Need.GRACE_ENDS),
    ),
    "the answer was lost": (
        LOST,
        DUE,
        (Retrying.LOST_RESPONSE, DUE + HALF_A_SECOND, GRACE_ENDS, GRACE_ENDS, Need.GRACE_ENDS),
    ),
    "the answer was lost, and the next try is under way": (
        begun(LOST, LATER),
        LATER,
        (Retrying.LOST_RESPONSE, LATER, GRACE_ENDS, GRACE_ENDS, Need.GRACE_ENDS),
    ),
    "the answer was lost, and then Xero was not reached": (
        tried(LOST, NotSent(detail="down"), LATER),
        LATER,
        (
            Retrying.LOST_RESPONSE,
            LATER + timedelta(seconds=1),
            GRACE_ENDS,
            GRACE_ENDS,
            Need.GRACE_ENDS,
        ),
    ),
    "the answer was lost, and the grace is over": (
        LOST,
        GRACE_ENDS + MINUTE,
        (
            Retrying.LOST_RESPONSE,
            GRACE_ENDS + MINUTE,
            GRACE_ENDS,
            GRACE_ENDS + MINUTE,
            Need.GRACE_ENDS,
        ),
    ),
    "the answer was lost, and another token was never spent": (
        with_rival(LOST),
        LATER,
        (Retrying.LOST_RESPONSE, LATER, GRACE_ENDS, DUE + 60 * DAY, Need.TOKEN_DIES),
    ),
    "the answer held no refresh token": (
        tried(LOGGED_IN, issued(None), DUE),
        DUE,
        (
            Retrying.MISSING_TOKEN,
            DUE + timedelta(seconds=1),
            GRACE_ENDS,
            GRACE_ENDS,
            Need.GRACE_ENDS,
        ),
    ),
    "the request was not sent": (
        tried(LOGGED_IN, NotSent(detail="down"), DUE),
        DUE,
        (Retrying.REFRESH, DUE + HALF_A_SECOND, None, SIXTY_DAYS, Need.TOKEN_DIES),
    ),
    "throttled": (
        tried(LOGGED_IN, Throttled(detail="429", retry_after=10 * MINUTE), DUE),
        DUE,
        (Retrying.REFRESH, DUE + 10 * MINUTE + HALF_A_SECOND, None, SIXTY_DAYS, Need.TOKEN_DIES),
    ),
    "throttled when it was not due yet": (
        tried(LOGGED_IN, Throttled(detail="429", retry_after=60 * MINUTE), NOW),
        NOW,
        (Retrying.REFRESH, NOW + 60 * MINUTE + HALF_A_SECOND, None, SIXTY_DAYS, Need.TOKEN_DIES),
    ),
    "the client was refused": (
        tried(LOGGED_IN, ClientRefused(detail="invalid_client", code="invalid_client"), DUE),
        DUE,
        (Retrying.REFRESH, DUE + 0.75 * POLICY.slow_wait, None, DUE, Need.CLIENT_REFUSED),
    ),
    "Xero refused one token of two": (
        tried(with_rival(LOGGED_IN), Refused(detail="invalid_grant"), DUE),
        DUE,
        (Retrying.REFRESH, DUE, None, DUE + 60 * DAY, Need.TOKEN_DIES),
    ),
    "a rival is to be proved": (
        with_rival(tried(LOGGED_IN, issued("r1"), DUE)),
        LATER,
        (Retrying.PROOF, DUE + POLICY.proving_wait, None, DUE + 60 * DAY, Need.TOKEN_DIES),
    ),
    "Xero refused every token": (
        tried(LOGGED_IN, Refused(detail="invalid_grant"), DUE),
        LATER,
        (None, None, None, LATER, Need.CONSENT_LOST),
    ),
    "the token lay unused for longer than it lives": (
        LOGGED_IN,
        SIXTY_DAYS + DAY,
        (None, SIXTY_DAYS + DAY, None, SIXTY_DAYS + DAY, Need.TOKEN_DIES),
    ),
    "the clock was set back": (
        LOGGED_IN,
        NOW - DAY,
        (None, NOW - DAY, None, SIXTY_DAYS - DAY, Need.TOKEN_DIES),
    ),
    "the clock was set back after an answer was lost": (
        LOST,
        DUE - DAY,
        (Retrying.LOST_RESPONSE, DUE - DAY, GRACE_ENDS - DAY, GRACE_ENDS - DAY, Need.GRACE_ENDS),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_outlook_is_as_the_table_says(name: str) -> None:
    """What is retried and when, how long the grace lasts, and when a person is needed for what."""
    account, now, expected = TABLE[name]
    seen = outlook(account, now, POLICY)
    found = (
        seen.retrying,
        seen.next_attempt_at,
        seen.grace_ends_at,
        seen.login_needed_at,
        seen.attention_for,
    )
    assert found == expected


def test_what_only_memory_holds_leaves_the_spent_token_to_the_next_process() -> None:
    """Should the process die with the successor, the store still has the token that was spent, for the grace."""
    account = tried(LOGGED_IN, issued("r1"), DUE)
    assert outlook(account, LATER, POLICY, unsaved=True).grace_ends_at == GRACE_ENDS
    assert outlook(account, LATER, POLICY).grace_ends_at is None
    assert outlook(LOGGED_IN, LATER, POLICY, unsaved=True).grace_ends_at is None


def test_a_failed_try_that_is_not_written_puts_nothing_at_stake() -> None:
    """The token was not spent, and the store has it: a spent one beside it is no hope that counts."""
    account = tried(tried(LOGGED_IN, issued("r1"), DUE), NotSent(detail="down"), DUE + 25 * MINUTE)
    assert outlook(account, DUE + 25 * MINUTE, POLICY, unsaved=True).grace_ends_at is None


@pytest.mark.parametrize(
    ("account", "at", "reason"),
    [
        (LOGGED_IN, DUE, "disconnected"),
        (LOGGED_IN, NOW + 60 * DAY, "unused for 60 days"),
        (LOST, LATER, "disconnected"),
        (LOST, GRACE_ENDS, "started at 2026-11-23 12:25:00 UTC arrived within Xero's 30 minutes"),
    ],
)
def test_a_lost_consent_says_why(account: Account, at: datetime, reason: str) -> None:
    """A loss beyond the grace is told as such, and so is a token that lay too long."""
    assert reason in why_lost(tried(account, Refused(detail="invalid_grant"), at), POLICY)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 seconds"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7199, "1 hour"),
        (172800, "2 days"),
    ],
)
def test_a_duration_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    """Rounded down, so that nobody counts on more than there is."""
    assert span_text(timedelta(seconds=seconds)) == text


def test_a_time_of_another_day_is_told_with_the_day() -> None:
    """Without it where it is today."""
    assert time_text(NOW, NOW + MINUTE) == "12:00:00 UTC"
    assert time_text(NOW, NOW + DAY) == "2026-11-23 12:00:00 UTC"


def test_every_kind_of_problem_has_words() -> None:
    """The kinds that the state machine writes into the record."""
    failed = [account.problem for account, _, _ in TABLE.values() if account.problem is not None]
    kinds = {problem.kind for problem in failed}
    assert kinds == set(ProblemKind)
    assert all("Xero" in problem_text(problem) for problem in failed)


# --------------------------------------------------------------------------------------- what /status tells


@pytest.fixture
def told(get: Any, canaries: Any) -> Callable[[Server], Awaitable[tuple[dict[str, Any], str]]]:
    """The JSON of ``/status`` and its sentences, which the page shows too; neither holds a secret."""

    async def told(server: Server) -> tuple[dict[str, Any], str]:
        answer, page = (
            await get(f"{server.url}/status"),
            await get(f"{server.url}/status", **BROWSER),
        )
        assert (answer.status, page.status) == (200, 200)
        assert not [secret for secret in canaries(server) if secret in answer.text + page.text]
        shown = [html.unescape(one) for one in re.findall("<p>(.*?)</p>", page.text)]
        content: dict[str, Any] = answer.json
        assert shown[:-1] == content["explanation"]
        return content, " ".join(content["explanation"])

    return told


def moment(content: dict[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(content[name])


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """What the events wrote to the log."""
    return [
        one.getMessage() for one in caplog.records if one.name == "xots" and one.levelno >= level
    ]


@contextmanager
def broken(server: Server) -> Iterator[None]:
    """A store that can neither be read nor written for a while."""

    async def fail(*args: object, **kwargs: object) -> None:
        raise StoreUnavailable("the disk is gone")

    with pytest.MonkeyPatch.context() as patch:
        for method in ("check", "swap", "read"):
            patch.setattr(server.keeper._context.store, method, fail)
        yield


async def fails_once(server: Server, clock: Any) -> None:
    """Let the refresh that is due go wrong; the clock stands at 09:25:00 then."""
    object.__setattr__(server.keeper._context, "rng", random.Random(7))  # noqa: S311 - jitter
    clock.advance(XERO_LIFE - 300)
    await server.rotation.tick()
    assert server.keeper.account.failed_attempts == 1


async def test_before_a_login_a_person_is_needed_now(
    new_server: NewServer, credentials: Any, told: Any
) -> None:
    """The sentence says whether credentials or a login is missing."""
    content, words = await told(await new_server())
    assert words == "A person is needed now: open / to enter the app's credentials, and log in."
    assert (content["attention_for"], content["retrying"]) == ("not-logged-in", None)
    _, words = await told(await new_server(**credentials))
    assert words == "Nobody is logged in. A person is needed now: open /home and log in."


async def test_a_login_under_way_is_told(server: Server, person: Any, told: Any) -> None:
    """Who looks meanwhile sees that somebody is at it."""
    await person.submit(await person.open(f"http://localhost:{server.port}/home"))
    assert (await told(server))[1] == "A login was begun, and has not come back from Xero yet."


async def test_in_good_times_the_last_refresh_and_the_next_are_told(
    logged_in: Server, clock: Any, told: Any
) -> None:
    """Who refreshed, when, until when the token is good, and how long all may rest."""
    content, words = await told(logged_in)
    assert words.startswith("Logged in at 09:00:00 UTC (0 seconds ago), and not refreshed since. ")
    assert content["refreshed_by"] is None
    await logged_in.keeper.refresh()
    clock.advance(720)
    content, words = await told(logged_in)
    process = logged_in.keeper._context.process
    assert words == (
        f"Last refreshed at 09:00:00 UTC (12 minutes ago) by {process}. "
        "Programs get an access token that is good until 09:30:00 UTC (18 minutes from now). "
        "The next refresh is due at 09:25:00 UTC (13 minutes from now). "
        "If no refresh succeeds before, a person must log in after 2027-01-01 09:00:00 UTC (59 days from now): "
        "a refresh token that lies unused for 60 days dies."
    )
    assert content["refreshed_by"] == process
    assert [
        content[name]
        for name in ("retrying", "last_problem", "grace_ends_at", "grace_seconds_left")
    ] == [None] * 4
    assert moment(content, "next_attempt_at") == clock.now() + timedelta(minutes=13)
    assert (content["attention_for"], content["unsaved"]) == ("refresh-token-unused", False)


@pytest.mark.parametrize("fault", ["lost", "503-html"])
async def test_a_lost_answer_is_told_with_the_grace_that_is_left(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any, fault: str
) -> None:
    """Committed or not, it can't be known: the same token is tried again, and it is told until when that helps."""
    expected_log(
        r"refresh failed \(attempt 1\): no usable response came from Xero.*; next attempt at 09:2\d:\d\d UTC or later; "
        r"Xero accepts the same refresh token again until 09:55:00 UTC; "
        r"if nothing improves, a user may have to log in after 09:55:00 UTC$"
    )
    sandbox.add_fault(f"refresh:every:{fault}")
    await fails_once(logged_in, clock)
    next_at = logged_in.keeper.account.retry_not_before
    assert next_at is not None
    clock.advance((next_at - clock.now()).total_seconds() - 0.01)
    content, words = await told(logged_in)
    assert "There is no access token" not in words
    assert (
        "What came of the refresh begun at 09:25:00 UTC (0 seconds ago) is not known: Xero may have carried"
        in words
    )
    assert (
        "1 failed try so far, the last at 09:25:00 UTC (0 seconds ago): no usable response came from Xero"
        in words
    )
    assert (
        "Xero takes the same refresh token again until 09:55:00 UTC (29 minutes from now). "
        in words
    )
    assert (
        f"The next try is at {time_text(next_at, clock.now())} (0 seconds from now) or after. "
        in words
    )
    assert words.endswith("a person may have to log in after 09:55:00 UTC (29 minutes from now).")
    assert (content["retrying"], content["attention_for"]) == ("lost-response", "grace-ends")
    assert moment(content, "next_attempt_at") == next_at
    assert content["grace_ends_at"] == content["login_needed_at"]
    assert content["grace_seconds_left"] == XERO_LIFE - 1
    clock.advance(minutes=6)
    assert "There is no access token to serve now. " in (await told(logged_in))[1]


async def test_a_grace_that_is_over_is_told(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """The next try will tell whether Xero ever took the token; nobody is kept in false hopes."""
    expected_log(
        REFRESH_FAILED,
        r"attempt 2.*may no longer accept .* since 09:55:00 UTC; if nothing improves, a user may have to log in now$",
    )
    sandbox.add_fault("refresh:every:503-html")
    await fails_once(logged_in, clock)
    clock.advance(1860)
    await logged_in.rotation.tick()
    clock.advance(60)
    content, words = await told(logged_in)
    assert (
        "Xero surely took the same refresh token again until 09:55:00 UTC (2 minutes ago); it is tried all"
        in words
    )
    assert words.endswith(
        "The next try is due now. Unless the next try succeeds, a person must log in now."
    )
    assert (content["grace_seconds_left"], moment(content, "login_needed_at")) == (0, clock.now())


async def test_an_xero_that_can_not_be_reached_starts_no_grace(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """The token is not spent: there are 60 days, and the sentences say so."""
    expected_log(
        r"refresh failed \(attempt 1\): Xero could not be reached; this attempt spent no refresh token "
        r"\(.*\); next attempt "
        r"at 09:2\d:\d\d UTC or later; if nothing improves, a user must log in after 2027-01-01 09:00:00 UTC$"
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
    assert "takes the same refresh token" not in words
    assert "a person must log in after 2027-01-01 09:00:00 UTC (59 days from now)" in words
    assert (content["retrying"], content["grace_ends_at"]) == ("refresh", None)


async def test_a_refused_client_says_what_to_mend(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """An operator can mend it without a new login, and nothing else helps."""
    expected_log(
        r"refresh failed \(attempt 1\): .*\(invalid_client \(40\d\)\): correct the client id or secret in the settings"
    )
    sandbox.add_fault("refresh:every:invalid-client")
    await fails_once(logged_in, clock)
    content, words = await told(logged_in)
    assert (
        "correct the client id or secret in the settings, or enter the right ones at /login"
        in words
    )
    assert "A person is needed now: mend the client id or secret" in words
    assert (content["retrying"], content["attention_for"]) == ("refresh", "client-refused")


async def test_a_lost_consent_says_what_was_refused_and_what_to_do(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """In the log, in the JSON and on the page; and that the old access token is still good for a while."""
    token = logged_in.keeper.account.current
    assert token is not None
    expected_log(
        r"the login is lost, a user must log in again: open /home and log in\. Xero refused every refresh token, "
        rf"#{token.value.fingerprint} last \(invalid_grant\): most likely the app was disconnected at Xero; "
        r"programs receive the old access token until 09:30:00 UTC$"
    )
    sandbox.identity.forget()
    clock.advance(XERO_LIFE - 300)
    await logged_in.rotation.tick()
    content, words = await told(logged_in)
    assert "Programs get an access token that is good until 09:30:00 UTC" in words
    assert words.endswith(
        "The login is lost. A person is needed now: open /home and log in. Xero refused every refresh token "
        "(invalid_grant): most likely the app was disconnected at Xero."
    )
    assert [content[name] for name in ("retrying", "next_attempt_at", "grace_ends_at")] == [
        None
    ] * 3
    assert (content["attention_for"], moment(content, "login_needed_at")) == (
        "consent-lost",
        clock.now(),
    )


async def test_a_loss_beyond_the_grace_is_told_as_such(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """The answer was lost and the machine slept too long: nobody has to guess what happened."""
    why = r"no response to the refresh started at 2026-11-02 09:25:00 UTC arrived within Xero's 30 minutes"
    expected_log(REFRESH_FAILED, rf"the login is lost.*\(invalid_grant\): {why}$")
    sandbox.add_fault("refresh:nth=1:lost")
    await fails_once(logged_in, clock)
    clock.advance(1801)
    await logged_in.rotation.tick()
    assert why in (await told(logged_in))[1]


async def test_a_store_that_fails_is_told(
    logged_in: Server, clock: Any, told: Any, expected_log: Any
) -> None:
    """Nothing is spent meanwhile, and nothing is at stake."""
    expected_log(rf"{STORE_FAILS}, serving from memory: the disk is gone$")
    clock.advance(XERO_LIFE - 300)
    with broken(logged_in):
        await logged_in.rotation.tick()
        content, words = await told(logged_in)
    assert words.endswith(
        "The token store can't be used: the disk is gone. No refresh token is spent before it works again."
    )
    assert (content["store"], content["unsaved"]) == ("degraded", False)


async def test_what_only_this_process_knows_is_told(
    logged_in: Server, sandbox: Sandbox, clock: Any, told: Any, expected_log: Any
) -> None:
    """The operator reads that he must not end the process, and what becomes of it if it ends all the same."""
    expected_log(
        rf"{STORE_FAILS}.*: the disk is gone; the last change exists in this process only: do not end it before "
        r"the store works again \(if it ends, the refresh can be repeated until 09:55:00 UTC\)$"
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
            "What happened last is known to this process only, so don't end it now. "
            "Should it end, the refresh can be repeated until 09:55:00 UTC (30 minutes from now)."
        )
        assert (content["store"], content["unsaved"], content["retrying"]) == (
            "degraded",
            True,
            None,
        )
        assert content["grace_seconds_left"] == XERO_LIFE
        assert content["attention_for"] == "refresh-token-unused"
        clock.advance(1800)
        assert (await told(logged_in))[1].endswith("Should it end, a person may have to log in.")
    await logged_in.rotation.tick()
    content, words = await told(logged_in)
    assert (content["store"], content["unsaved"]) == ("ok", False)
    assert "don't end it" not in words


async def test_a_revocation_that_xero_is_not_told_of_is_told(
    logged_in: Server, sandbox: Sandbox, send: Any, told: Any, expected_log: Any
) -> None:
    """When it ended, why Xero does not know, and when it is told again."""
    expected_log(r"WARNING xots: default: Xero did not confirm the revocation")
    sandbox.add_fault("revocation:every:503-html")
    assert (await send("POST", f"{logged_in.url}/revoke", None, "")).status == 202
    content, words = await told(logged_in)
    assert words.startswith(
        "The login was ended at 09:00:00 UTC (0 seconds ago), and Xero could not be told yet. "
    )
    assert "1 failed try so far" in words
    assert "The next try is " in words
    assert words.endswith("Nobody is logged in. A person is needed now: open /home and log in.")
    assert content["retrying"] == "revocation"


async def test_another_identity_servers_login_is_left_alone_and_told(
    new_server: NewServer, credentials: Any, log_in: LogIn, told: Any, tmp_path: Path
) -> None:
    """A process that comes to follow it says that it does nothing with it, rather than when it will."""
    store = {"store": f"file://{tmp_path}/store", **credentials}
    elsewhere = await new_server(**store, token_url="http://127.0.0.1:1/token")
    ours = await new_server(**store)
    await log_in(ours)
    await elsewhere.keeper.follow()
    content, words = await told(elsewhere)
    assert (
        f"The stored login is of another identity server, {ours.settings.token_url}: it is left alone here."
        in words
    )
    assert "next" not in words
    assert (content["retrying"], content["next_attempt_at"]) == (None, None)


async def test_a_clock_that_was_set_back_is_told(logged_in: Server, clock: Any, told: Any) -> None:
    """Times that lie in the future are called so."""
    clock.step(hours=-2)
    _, words = await told(logged_in)
    assert words.startswith(
        "Logged in at 09:00:00 UTC (2 hours from now), and not refreshed since. That lies in the future"
    )


async def test_the_command_prints_the_sentences_first(
    logged_in: Server, told: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """``xots status`` is for the same reader as the page."""
    content, _ = await told(logged_in)
    assert await asyncio.to_thread(main, ["status", "--port", str(logged_in.port)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[: len(content["explanation"])] == content["explanation"]
    assert any(line.startswith("login needed at ") for line in printed)


# ------------------------------------------------------------------------------------------------- the log


async def test_a_refresh_that_was_cut_off_is_told_with_whose_it_was(
    logged_in: Server, clock: Any, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """On the page while nobody has taken it up, and in the log when somebody does."""
    caplog.set_level(logging.INFO)
    keeper, current = logged_in.keeper, logged_in.keeper.account.current
    assert current is not None
    clock.advance(XERO_LIFE - 300)
    await keeper._replica.compare_and_set(
        begin_refresh(keeper.account, current, by="elsewhere:77", now=clock.now())
    )
    clock.advance(90)
    content, words = await told(logged_in)
    assert (
        "elsewhere:77 began a refresh at 09:25:00 UTC (1 minute ago), and has not concluded it yet. "
        in words
    )
    assert (
        "Xero takes the same refresh token again until 09:55:00 UTC (28 minutes from now). "
        in words
    )
    assert "The next try" not in words
    assert content["retrying"] == "under-way"
    caplog.clear()
    await logged_in.rotation.tick()
    taken, refreshed = lines(caplog)
    assert taken == (
        "default: elsewhere:77 started a refresh at 09:25:00 UTC and recorded no outcome; "
        "spending the same refresh token again"
    )
    assert refreshed.startswith("default: refreshed: refresh token #")


async def test_a_refresh_that_succeeds_at_last_says_after_how_much(
    logged_in: Server,
    sandbox: Sandbox,
    clock: Any,
    caplog: pytest.LogCaptureFixture,
    expected_log: Any,
) -> None:
    """One line a failed try, and one that ends them, with their number and how late it is."""
    expected_log(REFRESH_FAILED)
    sandbox.add_fault("refresh:first=4:503-html")
    caplog.set_level(logging.INFO)
    clock.advance(XERO_LIFE - 300)
    for _ in range(5):
        await logged_in.rotation.tick()
        clock.advance(60)
    told = lines(caplog)
    assert [line.split(":")[1] for line in told[-5:]] == [
        *(f" refresh failed (attempt {number})" for number in (1, 2, 3, 4)),
        " refreshed after 4 failed attempts, 4 minutes after it was due",
    ]


async def test_an_outage_of_hours_is_one_line_a_try(
    logged_in: Server,
    sandbox: Sandbox,
    clock: Any,
    caplog: pytest.LogCaptureFixture,
    expected_log: Any,
) -> None:
    """Ticks that wait say nothing; each line is short enough to be read."""
    expected_log(REFRESH_FAILED)
    sandbox.add_fault("refresh:every:503-html")
    clock.advance(XERO_LIFE - 300)
    caplog.set_level(logging.INFO)
    caplog.clear()
    for _ in range(2 * 60 * 4):
        await logged_in.rotation.tick()
        clock.advance(15)
    told = lines(caplog)
    assert len(told) == len(sandbox.refreshes())
    assert max(len(line) for line in told) < 400


async def test_each_process_tells_at_debug_who_has_refreshed(
    new_server: NewServer,
    credentials: Any,
    log_in: LogIn,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """Whoever follows the record learns whose refresh it was."""
    store = {"store": f"file://{tmp_path}/store", **credentials}
    one, other = await new_server(**store), await new_server(**store)
    await log_in(one)
    object.__setattr__(other.keeper._context, "process", "elsewhere:77")
    caplog.set_level(logging.DEBUG, "xots")
    await other.keeper.follow()
    await other.keeper.refresh()
    await one.keeper.follow()
    followed = [
        line for line in lines(caplog, logging.DEBUG) if "another process wrote the record" in line
    ]
    assert any(
        line.endswith("; last refreshed by elsewhere:77 at 09:00:00 UTC") for line in followed
    )


def test_a_record_without_tokens_says_so() -> None:
    """Nothing was refused in it."""
    assert why_lost(Account(), POLICY) == "the record holds no refresh token"
