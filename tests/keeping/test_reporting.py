"""The reports of the keeper: each event whole, and each reason why there is no token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from support.bench import Bench, revocations

from xots.backends.memory import MemoryStore
from xots.errors import (
    ConsentLost,
    LoginFailed,
    NoCredentials,
    NotLoggedIn,
    TokenUnavailable,
    UpstreamFailed,
)
from xots.events import (
    ConsentWasLost,
    Event,
    LoggedIn,
    LoginEnded,
    LoginRefused,
    RecordFollowed,
    Refreshed,
    RefreshFailed,
    RefreshResumed,
    RefreshTokenMissing,
    RevocationFailed,
    Revoked,
    StoreDegraded,
    StoreLostWrites,
    StoreRecovered,
    TenantChosen,
    TokenRead,
)
from xots.keeping.replica import StoreChange, reseal_all
from xots.keeping.reporting import (
    Situation,
    followed_event,
    loss_at_close,
    no_token,
    refresh_events,
    resumed_event,
    store_event,
)
from xots.lifecycle.account import (
    AccessToken,
    Account,
    Intent,
    Problem,
    ProblemKind,
    RefreshToken,
)
from xots.lifecycle.outcomes import Issued, Refused, Unknown
from xots.lifecycle.outlook import Need, Outlook, Retrying
from xots.lifecycle.schedule import Policy, State
from xots.sandbox import DEFAULT_CLIENT_ID
from xots.sealing import Sealer, new_key
from xots.secret import Secret

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
    """With the due time of the schedule, and the fingerprints of both tokens."""
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
    good = situation(outlook=Outlook(**(vars_of(OUTLOOK) | {"retrying": None})))
    assert events_of(good, with_token) == [refreshed]
    bare = Issued(access_token=Secret("a1"))
    assert events_of(situation(), bare) == [
        Refreshed(**(vars_of(refreshed) | {"issued": None})),
        RefreshTokenMissing(
            account="books",
            at=NOW,
            token=R0.fingerprint,
            next_attempt_at=NOW + SECOND,
            grace_ends_at=NOW + 30 * MINUTE,
        ),
    ]


def vars_of(value: Any) -> dict[str, Any]:
    return dict(vars(value))


def test_a_failure_is_reported_with_its_outlook() -> None:
    """If its problem is the record's; otherwise another process has gone on."""
    failed = RefreshFailed(
        account="books",
        at=NOW,
        problem=PROBLEM,
        failed_attempts=3,
        next_attempt_at=NOW + SECOND,
        grace_ends_at=NOW + 30 * MINUTE,
        login_needed_at=NOW + 31 * MINUTE,
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
    """If it still is."""
    refused = replace(R0, refused_at=NOW)
    account = replace(LOGIN, current=refused, access=ACCESS if served else None)
    found = situation(state=State.CONSENT_LOST, account=account)
    assert events_of(found, Refused(detail="invalid_grant")) == [
        ConsentWasLost(
            account="books",
            at=NOW,
            detail="invalid_grant",
            refused=R0.fingerprint,
            reason="most likely the app was disconnected at Xero",
            served_until=ACCESS.expires_at if served else None,
        )
    ]


def test_a_resumed_refresh_names_its_first_process() -> None:
    """Only if its outcome is not known; and if the same token is spent."""
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
    """With the risk of an end of the process."""
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
        (State.REVOKED, NotLoggedIn, "the login was revoked"),
        (State.CONSENT_LOST, ConsentLost, r"refused the refresh token \(reset\)"),
    ],
)
def test_a_state_without_tokens_has_an_error_of_its_own(
    state: State, error: type[Exception], says: str
) -> None:
    """Before anything else that may be wrong, but for an end that is under way."""
    found = situation(state=state)
    with pytest.raises(error, match=says):
        raise reason(found, foreign=True, in_progress=True)
    with pytest.raises(NotLoggedIn, match="is being ended"):
        raise reason(found, ending=True)
    without = situation(state=State.CONSENT_LOST, account=replace(LOGIN, problem=None))
    assert "no token" in str(reason(without))


def test_the_reason_is_the_nearest_cause() -> None:
    """The store, else the last problem, else a refresh in progress."""
    assert "cannot be used: away" in str(reason(situation(), in_progress=True))
    found = situation(store_problem=None)
    assert str(reason(found, in_progress=True)).startswith("no usable response came from Xero")
    found = situation(store_problem=None, account=replace(LOGIN, problem=None))
    assert str(reason(found, in_progress=True)).startswith("a refresh is in progress and takes")
    assert str(reason(found)).startswith("the access token could not be refreshed")


def test_the_error_says_when_to_retry_and_what_is_served_meanwhile() -> None:
    """As long as the wait, at least a second and at most an hour."""
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
    assert "another identity server, https://id.example/token" in str(foreign)
    assert foreign.retry_after_seconds == 3600


@pytest.mark.parametrize(
    ("rolled_back", "says"), [(False, "can be repeated for 30 minutes"), (True, "older record")]
)
def test_a_loss_at_the_close_says_how_the_next_start_goes_on(rolled_back: bool, says: str) -> None:
    """By the record that the store holds."""
    text = loss_at_close("books", "away", rolled_back=rolled_back)
    assert text.startswith("stopped with a change of 'books' that the store could not take (away)")
    assert says in text


# ---------------------------------------------------------------------------------- in the keeper


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


async def test_a_revocation_that_fails_is_an_event_with_its_next_attempt(bench: Bench) -> None:
    """And ``end`` says that Xero is still to be told."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("revocation:nth=1:503-html")
    assert await keeper.end(forget=False) is False
    (failed,) = [event for event in bench.events if isinstance(event, RevocationFailed)]
    assert failed == RevocationFailed(
        account="default",
        at=bench.clock.now(),
        detail="the response has status 503 and says nothing about the token",
        retry_not_before=keeper.account.retry_not_before,
    )
    assert failed.retry_not_before is not None
    assert await keeper.end(forget=False) is True
    assert await keeper.end(forget=False) is True
    assert revocations(bench) == 2


async def test_a_chosen_organisation_is_kept_and_reported(bench: Bench) -> None:
    """As Xero writes its id, in the store too; the rest of the record stays."""
    keeper = await bench.logged_in()
    tenant_id = keeper.account.tenant_id
    assert tenant_id is not None
    await keeper._replica.update(lambda account: replace(account, tenant_id=None))
    before = keeper.account
    await keeper.choose_tenant(tenant_id.upper())
    kept = bench.kept()
    assert kept.tenant_id == keeper.account.tenant_id == tenant_id
    assert kept == replace(
        before, tenant_id=tenant_id, generation=kept.generation, write_id=kept.write_id
    )
    assert kept.generation > before.generation
    chosen = TenantChosen(account="default", at=bench.clock.now(), tenant_id=tenant_id)
    assert bench.events[-1] == chosen


async def test_without_a_list_of_organisations_the_requested_one_is_used(bench: Bench) -> None:
    """And the list itself is an error that names the setting."""
    keeper = await bench.keeper()
    xero = keeper._context.xero
    endpoints = vars_of(xero.endpoints) | {"connections_url": ""}
    xero.endpoints = type(xero.endpoints)(**endpoints)
    await keeper.login(bench.attempt(tenant_id="a-tenant"))
    assert keeper.account.tenant_id == "a-tenant"
    with pytest.raises(UpstreamFailed, match="connections_url is empty"):
        await keeper.connections()


async def test_a_stale_record_at_an_end_is_read_again(bench: Bench) -> None:
    """Another process has written while the open refresh was to be concluded: the end goes on."""
    keeper = await bench.logged_in()
    bench.sandbox.add_fault("refresh:nth=1:lost")
    with pytest.raises(TokenUnavailable):
        await keeper.refresh()
    bench.store.before_swap = lambda: bench.overwrite(lambda account: account)
    assert await keeper.end(forget=False)
    assert bench.kept().consent_id is None
    assert len(bench.sandbox.refreshes()) == 1


async def test_resealing_counts_what_it_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record is sealed under its own lease. Those that are sealed with the first key stay as they are."""
    old, new, store = new_key(), new_key(), MemoryStore()
    versions = {}
    for name, keys in (("a", [old]), ("b", [old]), ("c", [new])):
        sealed = Sealer(keys).seal(b"{}", "account", {"name": name})
        versions[name] = await store.swap(name, sealed, expected=None)
    sealer, leased, lease = Sealer([new, old]), list[str](), store.lease
    with monkeypatch.context() as noting:
        noting.setattr(store, "lease", lambda name, ttl: leased.append(name) or lease(name, ttl))
        assert await reseal_all(store, sealer) == (2, 3)
    assert sorted(leased) == ["a", "b", "c"]
    assert await reseal_all(store, sealer) == (0, 3)
    kept = await store.read("c")
    assert kept is not None
    assert kept.version == versions["c"]
    for name in versions:
        stored = await store.read(name)
        assert stored is not None
        assert Sealer([new]).open(stored.value, "account", {"name": name}) == b"{}"
