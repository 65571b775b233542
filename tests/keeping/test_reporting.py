"""The reports of the keeper: each event whole, and each reason why there is no token."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from support.bench import Bench, revocations
from support.inside import replica_of
from support.other_server import facts_of_xero

from xots.end_events import LoginEnded, RevocationFailed, Revoked
from xots.errors import (
    ConsentLost,
    LoginFailed,
    NoCredentials,
    NotLoggedIn,
    StoreUnavailable,
    TokenUnavailable,
)
from xots.events import (
    ConsentWasLost,
    Event,
    LoggedIn,
    LoginRefused,
    RecordFollowed,
    Refreshed,
    RefreshFailed,
    RefreshResumed,
    RefreshTokenMissing,
    StoreDegraded,
    StoreLostWrites,
    StoreRecovered,
    TokenRead,
)
from xots.keeping.replica import StoreChange
from xots.keeping.reporting import (
    Situation,
    followed_event,
    loss_at_close,
    no_token,
    refresh_events,
    resumed_event,
    store_event,
)
from xots.lifecycle.account import AccessToken, Account, Intent, Problem, ProblemKind, RefreshToken
from xots.lifecycle.outcomes import Issued, Refused, Unknown
from xots.lifecycle.outlook import Need, Outlook, Retrying
from xots.lifecycle.policy import Policy
from xots.lifecycle.schedule import State, scheduled_refresh_at
from xots.sandbox import DEFAULT_CLIENT_ID, fingerprint
from xots.secret import Secret
from xots.web.status import explanation

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


PROBLEM = Problem(kind=ProblemKind.UNKNOWN, detail="reset", at=NOW)


R0 = RefreshToken(value=Secret("r0"), obtained_at=NOW - 25 * MINUTE)


ACCESS = AccessToken(value=Secret("a0"), issued_at=NOW - 25 * MINUTE, expires_at=NOW + 5 * MINUTE)


LOGIN = Account(
    generation=5,
    client_id="client",
    token_url="https://id.example/token",
    consent_id="c",
    access=ACCESS,
    current=R0,
    failed_attempts=3,
    problem=PROBLEM,
    refreshed_at=NOW - MINUTE,
    refreshed_by="h:1",
)


INTENT = Intent(by="h:9", began_at=NOW, fingerprint=R0.fingerprint, set_first_spent=True)


OUTLOOK = Outlook(
    retrying=Retrying.MISSING_TOKEN,
    next_attempt_at=NOW + SECOND,
    grace_ends_at=NOW + 30 * MINUTE,
    login_needed_at=NOW + 31 * MINUTE,
    attention_for=Need.GRACE_ENDS,
)


def situation(**changes: Any) -> Situation:
    parts: dict[str, Any] = {
        "name": "books",
        "at": NOW,
        "account": LOGIN,
        "policy": Policy(),
        "state": State.CONNECTED,
        "outlook": OUTLOOK,
        "unsaved": True,
        "store_problem": "away",
    }
    return Situation(**(parts | changes))


def events_of(found: Situation, outcome: Any, concluded: Account = LOGIN) -> list[Event]:
    return refresh_events(
        found, begun=LOGIN, spent=R0, outcome=outcome, concluded=concluded, seconds=1.5
    )


def test_a_response_is_one_event_and_a_missing_token_another() -> None:
    """The event has the scheduled time and the fingerprints of both tokens."""
    refreshed = Refreshed(
        account="books",
        at=NOW,
        spent=R0.fingerprint,
        issued=Secret("r1").fingerprint,
        expires_at=ACCESS.expires_at,
        seconds=1.5,
        failed_attempts=3,
        due_at=NOW,
    )
    with_token = Issued(access_token=Secret("a1"), refresh_token=Secret("r1"))
    good = situation(outlook=replace(OUTLOOK, retrying=None))
    assert events_of(good, with_token) == [refreshed]
    bare = Issued(access_token=Secret("a1"))
    assert events_of(situation(), bare) == [
        replace(refreshed, issued=None),
        RefreshTokenMissing(
            account="books",
            at=NOW,
            token=R0.fingerprint,
            next_attempt_at=NOW + SECOND,
            grace_ends_at=NOW + 30 * MINUTE,
        ),
    ]


def test_a_failure_is_reported_with_its_outlook() -> None:
    """It is not reported if the record has another problem: another process has gone on."""
    failed = RefreshFailed(
        account="books",
        at=NOW,
        problem=PROBLEM,
        failed_attempts=3,
        next_attempt_at=NOW + SECOND,
        grace_ends_at=NOW + 30 * MINUTE,
        login_needed_at=NOW + 31 * MINUTE,
        attention_for=Need.GRACE_ENDS,
    )
    lost = Unknown(detail="reset")
    assert events_of(situation(), lost) == [failed]
    followed = RecordFollowed(
        account="books", at=NOW, generation=5, refreshed_at=NOW - MINUTE, refreshed_by="h:1"
    )
    assert followed_event(situation()) == followed
    gone_on = situation(account=replace(LOGIN, problem=None))
    assert events_of(gone_on, lost) == [followed]
    other = replace(LOGIN, problem=replace(PROBLEM, detail="else"))
    assert events_of(situation(), lost, concluded=other) == [followed]


@pytest.mark.parametrize("served", [True, False])
def test_a_lost_consent_says_until_when_the_access_token_is_served(served: bool) -> None:
    """It says so only if the token can still be served."""
    refused = replace(R0, refused_at=NOW)
    account = replace(LOGIN, current=refused, access=ACCESS if served else None)
    found = situation(state=State.CONSENT_LOST, account=account)
    assert events_of(found, Refused(detail="invalid_grant")) == [
        ConsentWasLost(
            account="books",
            at=NOW,
            detail="invalid_grant",
            token=R0.fingerprint,
            is_refused=True,
            reason="most likely the app was disconnected at Xero",
            served_until=ACCESS.expires_at if served else None,
        )
    ]


def test_a_resumed_refresh_names_its_first_process() -> None:
    """There is no event if the outcome is known, or if another token is spent."""
    open_one = replace(LOGIN, intent=INTENT, problem=None)
    resumed = resumed_event("books", open_one, R0, NOW + MINUTE)
    assert resumed == RefreshResumed(
        account="books", at=NOW + MINUTE, by="h:9", began_at=NOW, same=True
    )
    other = RefreshToken(value=Secret("x"), obtained_at=NOW)
    found = resumed_event("books", open_one, other, NOW)
    assert found is not None
    assert not found.same
    assert resumed_event("books", replace(open_one, problem=PROBLEM), R0, NOW) is None
    assert resumed_event("books", LOGIN, R0, NOW) is None


def test_each_change_of_the_stores_health_is_an_event() -> None:
    """It says what is lost if the process ends now."""
    assert store_event(situation(), StoreChange.RECOVERED) == StoreRecovered(
        account="books", at=NOW
    )
    assert store_event(situation(), StoreChange.LOST_WRITES) == StoreLostWrites(
        account="books", at=NOW, generation=5
    )
    assert store_event(situation(), StoreChange.FAILED) == StoreDegraded(
        account="books",
        at=NOW,
        reason="away",
        unsaved=True,
        grace_ends_at=NOW + 30 * MINUTE,
    )


def reason(
    found: Situation, *, ending: bool = False, in_progress: bool = False, foreign: bool = False
) -> Any:
    return no_token(found, ending=ending, in_progress=in_progress, foreign=foreign)


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        (State.NO_CREDENTIALS, NoCredentials, "credentials have not been entered"),
        (State.NOT_LOGGED_IN, NotLoggedIn, "no user has logged in yet"),
        (State.WAITING, NotLoggedIn, "has not returned from Xero"),
        (State.REVOKED, NotLoggedIn, "the login was ended here"),
        (
            State.CONSENT_LOST,
            ConsentLost,
            r"the login is lost: no refresh token is left that Xero surely accepts \(reset\)",
        ),
    ],
)
def test_a_state_without_tokens_has_an_error_of_its_own(
    state: State, error: type[Exception], says: str
) -> None:
    """It comes before any other reason, except an end that is under way and a foreign login."""
    found = situation(state=state)
    with pytest.raises(error, match=says):
        raise reason(found, foreign=state is not State.CONSENT_LOST, in_progress=True)
    with pytest.raises(NotLoggedIn, match="is being ended"):
        raise reason(found, ending=True)
    without = situation(state=State.CONSENT_LOST, account=replace(LOGIN, problem=None))
    assert "no token" in str(reason(without))


def test_the_reason_is_the_nearest_cause() -> None:
    """It is the failed store, else the last problem, else a refresh in progress."""
    assert "cannot be used: away" in str(reason(situation(), in_progress=True))
    found = situation(store_problem=None)
    assert str(reason(found, in_progress=True)).startswith("no usable response came from Xero")
    found = situation(store_problem=None, account=replace(LOGIN, problem=None))
    assert str(reason(found, in_progress=True)).startswith("a refresh is in progress and takes")
    assert str(reason(found)).startswith("the access token could not be refreshed")


def test_the_error_says_when_to_retry_and_what_is_served_meanwhile() -> None:
    """The time is that of the wait, at least a second and at most an hour."""
    assert reason(situation()).retry_after_seconds == 1
    assert "/token returns the old access token until 12:05:00 UTC" in str(reason(situation()))
    waiting = situation(account=replace(LOGIN, retry_not_before=NOW + 3 * MINUTE))
    assert reason(waiting).retry_after_seconds == 180
    assert "the next request to Xero is at 12:03:00 UTC" in str(reason(waiting))
    over = situation(account=replace(LOGIN, retry_not_before=NOW - MINUTE))
    assert "the next request" not in str(reason(over))
    assert reason(over).retry_after_seconds == 1
    long = situation(account=replace(LOGIN, retry_not_before=NOW + 90 * MINUTE))
    assert reason(long).retry_after_seconds == 3600
    dead = situation(account=replace(LOGIN, access=None))
    assert "/token returns" not in str(reason(dead))
    foreign = reason(situation(), foreign=True)
    assert isinstance(foreign, TokenUnavailable)
    assert "its token_url is https://id.example/token" in str(foreign)
    assert foreign.retry_after_seconds == 3600


def test_a_failure_at_another_server_says_nothing_about_xero() -> None:
    """Neither its name, nor when an unused refresh token dies there."""
    server = "the identity server"
    unspent = replace(OUTLOOK, attention_for=Need.TOKEN_DIES)
    for outlook in (OUTLOOK, unspent):
        found = situation(server=server, outlook=outlook, store_problem=None)
        [failed] = events_of(found, Unknown(detail="reset"))
        text = f"{replace(failed, server=server)} {reason(found)}"
        assert facts_of_xero(text) == []
        assert "no usable response came from the identity server" in text
        assert ("an unused refresh token may expire" in text) is (outlook is unspent)
        assert ("12:31:00 UTC" in text) is (outlook is OUTLOOK)
    for state in (State.WAITING, State.CONSENT_LOST):
        text = str(reason(situation(server=server, state=state)))
        assert server in text
        assert facts_of_xero(text) == []


async def test_every_event_of_a_keeper_names_its_identity_server(bench: Bench) -> None:
    """Xero, or another one."""
    for url, name in ((bench.sandbox.authorize_url, "Xero"), ("https://id.example/", "the id")):
        keeper = await bench.keeper(xero=bench.client(authorize_url=url))
        await keeper.login(bench.attempt())
        assert bench.events[-1].server.startswith(name)


@pytest.mark.parametrize(
    ("rolled_back", "grace", "says"),
    [
        (False, 30, "can be repeated for 30 minutes"),
        (False, 0, "a refresh cannot be repeated"),
        (True, 30, "older record"),
    ],
)
def test_a_loss_at_the_close_says_how_the_next_start_continues(
    rolled_back: bool, grace: int, says: str
) -> None:
    """The next start reads the record of the store."""
    text = loss_at_close("books", "away", rolled_back=rolled_back, grace=grace * MINUTE)
    assert text.startswith("stopped with a change of 'books' that the store could not take (away)")
    assert says in text


# ---------- in the keeper


async def test_the_events_of_a_login_and_its_end_are_whole(bench: Bench) -> None:
    """Each names the account, the time and the subject."""
    keeper = await bench.logged_in()
    at, current = bench.clock.now(), keeper.account.current
    assert current is not None
    token = await keeper.token()
    with pytest.raises(LoginFailed) as failed:
        await keeper.login(bench.attempt(code=Secret("wrong")))
    await keeper.end(forget=True)
    assert bench.events == [
        LoggedIn(
            account="default",
            at=at,
            client_id=DEFAULT_CLIENT_ID,
            scopes=("offline_access", "accounting.transactions"),
            token=current.fingerprint,
        ),
        TokenRead(account="default", at=at, token=token.value.fingerprint),
        LoginRefused(account="default", at=at, reason=str(failed.value)),
        LoginEnded(account="default", at=at, forgotten=True),
        Revoked(account="default", at=at),
    ]


async def test_events_name_tokens_by_fingerprint_only(bench: Bench) -> None:
    """No event shows a token, in its text or its fields."""
    keeper = await bench.logged_in()
    assert keeper.account.current is not None
    secret = keeper.account.current.value.reveal()
    await keeper.refresh()
    shown = " ".join(f"{event} {event!r}" for event in bench.events)
    assert secret not in shown
    assert keeper.account.current.value.reveal() not in shown
    assert fingerprint(secret) in shown


async def test_a_refresh_is_reported_with_the_time_when_it_was_due(bench: Bench) -> None:
    """Failed attempts in between do not change that time."""
    keeper = await bench.logged_in()
    due_at = scheduled_refresh_at(keeper.account, keeper.policy)
    bench.sandbox.add_fault("refresh:first=3:429=1")
    bench.clock.advance(minutes=25)
    for _ in range(5):
        await keeper.maintain()
        bench.clock.advance(seconds=30)
    (refreshed,) = [event for event in bench.events if isinstance(event, Refreshed)]
    assert (refreshed.failed_attempts, refreshed.due_at) == (3, due_at)


async def test_a_failed_refresh_is_reported_with_the_next_attempt_of_the_outlook(
    bench: Bench,
) -> None:
    """A forced refresh failed and spent no token, so the next attempt is the scheduled one."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:invalid-client")
    with pytest.raises(
        TokenUnavailable,
        match=r"correct the client id.*the next request to Xero is at 12:\d\d:\d\d UTC",
    ):
        await keeper.refresh()
    (failed,) = [event for event in bench.events if isinstance(event, RefreshFailed)]
    assert (
        failed.next_attempt_at
        == keeper.outlook.next_attempt_at
        == bench.clock.now() + timedelta(minutes=25)
    )


async def test_a_response_without_a_refresh_token_is_a_warning(bench: Bench) -> None:
    """It may have lost the token, and the grace period is short."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:no-refresh-token")
    await keeper.refresh()
    (missing,) = [event for event in bench.events if isinstance(event, RefreshTokenMissing)]
    assert missing.level == logging.WARNING
    assert missing.grace_ends_at == bench.clock.now() + timedelta(minutes=30)
    assert (
        "is spent again, next attempt at 12:00:01 UTC or later. Xero accepts it again until 12:30"
        in str(missing)
    )
    bench.clock.advance(minutes=1)
    await keeper.maintain()
    assert bench.happened(RefreshTokenMissing) == 1


@pytest.mark.parametrize("fault", ["503-html", "invalid-client"])
async def test_a_failure_after_another_process_has_refreshed_is_not_reported(
    bench: Bench, fault: str
) -> None:
    """The lease had expired, and the outcome does not matter any more."""
    keeper = await bench.logged_in()
    other = await bench.keeper()
    bench.sandbox.add_fault("refresh:nth=1:hold-before")
    bench.sandbox.add_fault(f"refresh:nth=1:{fault}")
    refresh = asyncio.create_task(keeper.refresh())
    await bench.sandbox.held()
    bench.store.lapse()
    await other.refresh()
    bench.sandbox.release()
    await refresh
    assert bench.happened(RefreshFailed) == 0
    assert keeper.account.failed_attempts == 0


@pytest.mark.parametrize("forget", [False, True])
async def test_an_end_is_reported_once(bench: Bench, forget: bool) -> None:
    """The event tells what happens to the credentials. Xero's confirmation is another event."""
    keeper = await bench.logged_in()
    assert await keeper.end(forget=forget)
    ends = [event for event in bench.events if isinstance(event, LoginEnded)]
    assert [event.forgotten for event in ends] == [forget]
    assert bench.happened(Revoked) == 1


async def test_a_revocation_that_fails_is_an_event_with_its_next_attempt(bench: Bench) -> None:
    """``end`` returns that Xero is still to be told."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:nth=1:503-html")
    assert not await keeper.end(forget=False)
    (failed,) = [event for event in bench.events if isinstance(event, RevocationFailed)]
    assert failed == RevocationFailed(
        account="default",
        at=bench.clock.now(),
        detail="the response has status 503 and says nothing about the token",
        retry_not_before=keeper.account.retry_not_before,
    )
    assert failed.retry_not_before is not None
    assert await keeper.end(forget=False)
    assert await keeper.end(forget=False)
    assert revocations(bench) == 2


async def test_a_record_that_this_process_wrote_is_not_reported_as_followed(bench: Bench) -> None:
    """After lost writes, this process writes the record again."""
    keeper = await bench.logged_in()
    old = bench.store.dump()
    await keeper.refresh()
    bench.store.restore(old)
    await keeper.follow()
    assert bench.record().write_id == keeper.account.write_id
    assert bench.happened(RecordFollowed) == 0


async def test_an_unsaved_change_is_reported_although_the_failure_of_the_store_is_known(
    bench: Bench,
) -> None:
    """The operator has to know that this process must not be ended."""
    keeper = await bench.logged_in()
    refresh = await bench.held_refresh(keeper)
    bench.store.fail("swap", "read")
    replica_of(keeper).failed(StoreUnavailable("the disk is gone"))
    bench.sandbox.release()
    await refresh
    assert [e.unsaved for e in bench.events if isinstance(e, StoreDegraded)] == [False, True]


async def test_the_risk_of_an_end_over_a_rolled_back_store_is_reported(
    bench: Bench,
) -> None:
    """The store holds an old dump and takes no writes, so no repeated refresh is promised."""
    keeper = await bench.logged_in()
    await keeper.refresh()
    dump = bench.store.dump()
    for _ in range(4):
        bench.clock.advance(minutes=25)
        await keeper.maintain()
    bench.store.restore(dump)
    bench.store.fail("swap")
    await keeper.follow()
    assert keeper.unsaved
    sentences = list(explanation(keeper, keeper.outlook, bench.clock.now()))
    assert (
        sentences[-1] == "If it stops, a user may have to log in: the store holds an older record."
    )
    assert all("can be repeated" not in str(event) for event in bench.events)
    bench.store.repair()
    await keeper.maintain()
    assert not keeper.rolled_back
    assert bench.xero_would_issue()
