"""``grant: client_credentials``: an account without a login (RFC 6749 section 4.4)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from support.accounts import HALF_HOUR, MINUTE, NOW, POLICY, issued

from xots.lifecycle.account import Account, ProblemKind
from xots.lifecycle.attention import attention_at
from xots.lifecycle.client_grant import after_client_token
from xots.lifecycle.merging import merged
from xots.lifecycle.outcomes import (
    ClientRefused,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from xots.lifecycle.outlook import Need, Retrying, outlook
from xots.lifecycle.policy import Grant
from xots.lifecycle.schedule import (
    Idle,
    Obtain,
    State,
    Wait,
    newest_token,
    next_step,
    scheduled_refresh_at,
    servable,
    state_of,
)

CLIENT = replace(POLICY, grant=Grant.CLIENT_CREDENTIALS)


def requested(
    account: Account, outcome: Outcome, at: datetime, consent_id: str = "c1", **changes: Any
) -> Account:
    """Return the record after a request at ``at``."""
    options: dict[str, Any] = {
        "client_id": "client",
        "token_url": "https://id.example/token",
        "tenant_id": None,
        "scopes_requested": ("read",),
        "by": "h:1",
        "began_at": at,
        "now": at,
        "policy": CLIENT,
        "jitter": 0.5,
    }
    return after_client_token(account, outcome, consent_id=consent_id, **(options | changes))


def test_an_empty_record_needs_a_token_at_once() -> None:
    """No user is awaited."""
    assert next_step(Account(), NOW, CLIENT) == Obtain()
    assert attention_at(Account(), NOW, CLIENT) == NOW
    assert state_of(Account(), NOW, CLIENT, is_configured=True) is State.CONNECTED
    assert state_of(Account(), NOW, CLIENT) is State.NO_CREDENTIALS


def test_the_token_is_served_and_the_next_is_requested_ahead_of_its_expiry() -> None:
    """The record holds no refresh token."""
    account = requested(Account(), issued(None), NOW)
    assert account.tokens == ()
    assert servable(account, NOW, timedelta(0)) == account.access
    due = NOW + 25 * MINUTE
    assert scheduled_refresh_at(account, CLIENT) == due
    assert next_step(account, due - MINUTE, CLIENT) == Idle()
    assert next_step(account, due, CLIENT) == Obtain()
    assert attention_at(account, NOW, CLIENT) == due


def test_a_caller_or_a_forced_refresh_gets_a_new_token() -> None:
    """Another process's token, which came meanwhile, is enough."""
    account, at = requested(Account(), issued(None), NOW), NOW + 10 * MINUTE
    assert next_step(account, at, CLIENT, min_life=HALF_HOUR) == Obtain()
    assert next_step(account, at, CLIENT, expected_current=newest_token(account)) == Obtain()
    assert next_step(account, at, CLIENT, expected_current="another") == Idle()


def test_an_unused_account_requests_nothing() -> None:
    """There is no refresh token that has to be kept alive."""
    assert next_step(Account(), NOW, CLIENT, ahead=False) == Idle()
    assert attention_at(Account(), NOW, CLIENT, ahead=False) is None


def test_a_forced_refresh_needs_neither_use_nor_a_token() -> None:
    """An operator who has corrected the client's secret does not wait for the next caller."""
    account, at = requested(Account(), issued(None), NOW), NOW + MINUTE
    for known in (Account(), account):
        forced = newest_token(known)
        assert next_step(known, at, CLIENT, ahead=False, expected_current=forced) == Obtain()
    assert next_step(account, at, CLIENT, ahead=False, expected_current="") == Idle()
    refused = requested(Account(), ClientRefused(detail="d", code="invalid_client"), NOW)
    assert next_step(refused, at, CLIENT, expected_current="") == Obtain()
    assert next_step(refused, at, CLIENT) == Wait(refused.retry_not_before or NOW)
    assert next_step(Account(), NOW, POLICY, expected_current="") == Idle()


def test_a_refresh_token_that_came_is_not_kept() -> None:
    """RFC 6749 section 4.4.3: there should be none."""
    assert requested(Account(), issued("r1"), NOW).tokens == ()


@pytest.mark.parametrize(
    ("outcome", "kind", "wait"),
    [
        (Unknown(detail="d"), ProblemKind.UNKNOWN, timedelta(seconds=0.5)),
        (NotSent(detail="d"), ProblemKind.NOT_SENT, timedelta(seconds=0.5)),
        (Throttled(detail="d", retry_after=MINUTE), ProblemKind.THROTTLED, MINUTE),
        (
            ClientRefused(detail="d", code="invalid_client"),
            ProblemKind.CLIENT_REFUSED,
            0.75 * 5 * MINUTE,
        ),
        (Refused(detail="invalid_grant"), ProblemKind.REFUSED, 0.75 * 5 * MINUTE),
    ],
)
def test_a_failure_is_retried_after_a_wait_that_fits(
    outcome: Outcome, kind: ProblemKind, wait: timedelta
) -> None:
    """No failure ends the account, and the old token is served to its end."""
    account = requested(Account(), issued(None), NOW)
    at = NOW + 25 * MINUTE
    failed = requested(account, outcome, at)
    assert failed.problem is not None
    assert failed.problem.kind is kind
    assert failed.retry_not_before is not None
    assert failed.retry_not_before >= at + wait
    assert next_step(failed, at, CLIENT) == Wait(failed.retry_not_before)
    assert next_step(failed, failed.retry_not_before, CLIENT) == Obtain()
    assert state_of(failed, at, CLIENT, is_configured=True) is State.REFRESH_FAILING
    assert servable(failed, at, timedelta(0)) == account.access
    assert requested(failed, issued(None), at + 5 * MINUTE).failed_attempts == 0


def test_no_user_is_ever_needed() -> None:
    """An operator is, once the server refuses the client."""
    account = requested(Account(), issued(None), NOW)
    assert outlook(account, NOW, CLIENT).login_needed_at is None
    assert outlook(account, NOW, CLIENT).attention_for is None
    failed = requested(account, Unknown(detail="d"), NOW + 25 * MINUTE)
    assert outlook(failed, NOW + 25 * MINUTE, CLIENT).retrying is Retrying.REFRESH
    refusal = ClientRefused(detail="d", code="invalid_client")
    refused = requested(account, refusal, NOW + 25 * MINUTE)
    found = outlook(refused, NOW + 26 * MINUTE, CLIENT)
    assert (found.attention_for, found.login_needed_at) == (
        Need.CLIENT_REFUSED,
        NOW + 26 * MINUTE,
    )


def test_an_access_token_that_had_expired_at_its_issue_is_not_served() -> None:
    """``expires_in: 0``: the next request follows after a long wait."""
    account = requested(Account(), issued(None, life=timedelta(0)), NOW)
    assert servable(account, NOW, timedelta(0)) is None
    assert account.problem is not None
    assert account.problem.kind is ProblemKind.EXPIRED
    assert isinstance(next_step(account, NOW, CLIENT), Wait)


def test_all_tokens_share_the_id_of_the_first() -> None:
    """So the versions of two processes unite, and the token that lives longer is served."""
    first = requested(Account(), issued(None), NOW)
    second = requested(first, issued(None, access="a2"), NOW + MINUTE, consent_id="c2")
    assert second.consent_id == first.consent_id == "c1"
    assert merged(first, second).access == second.access
    assert merged(second, first).access == second.access
