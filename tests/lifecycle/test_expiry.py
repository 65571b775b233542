"""The ends of an access token and of a wait by two clocks: one may be set, the other may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from xots.lifecycle.account import AccessToken, Account
from xots.lifecycle.expiry import Expiry, capped_to
from xots.lifecycle.schedule import good_for
from xots.secret import Secret

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def account(minutes: int = 30, wait: timedelta | None = None) -> Account:
    access = AccessToken(value=Secret("a"), issued_at=NOW, expires_at=NOW + minutes * MINUTE)
    until = None if wait is None else NOW + wait
    return Account(consent_id="c", access=access, retry_not_before=until)


def left(expiry: Expiry, found: Account, now: datetime, elapsed: float) -> timedelta:
    return good_for(expiry.dated(found, now, elapsed), now)


def test_a_record_is_unchanged_while_both_clocks_agree() -> None:
    """A drift of less than a second is ignored."""
    found = account(wait=MINUTE)
    expiry = Expiry().seen(found, NOW, 1000.0)
    assert expiry.dated(found, NOW, 1000.0) is found
    assert expiry.dated(found, NOW + 10 * MINUTE, 1600.9) is found
    assert expiry.dated(found, NOW + 10 * MINUTE, 1599.1) is found


@pytest.mark.parametrize("set_back", [timedelta(seconds=2), 15 * MINUTE, timedelta(days=1)])
def test_setting_the_clock_back_does_not_lengthen_a_lifetime(set_back: timedelta) -> None:
    """After 20 minutes ten are left, whatever the wall clock shows."""
    found = account()
    expiry = Expiry().seen(found, NOW, 0.0)
    assert left(expiry, found, NOW + 20 * MINUTE - set_back, 1200.0) == 10 * MINUTE
    dated = expiry.dated(found, NOW + 20 * MINUTE - set_back, 1200.0)
    assert dated.access is not None
    assert dated.access.lifetime == 30 * MINUTE
    assert left(expiry, found, NOW + 40 * MINUTE - set_back, 2400.0) == timedelta(0)


def test_setting_the_clock_forward_shortens_a_lifetime() -> None:
    """The machine may have slept, so the token may be as old as the wall clock shows."""
    found = account()
    expiry = Expiry().seen(found, NOW, 0.0)
    assert left(expiry, found, NOW + 25 * MINUTE, 60.0) == 5 * MINUTE


@pytest.mark.parametrize("step", [timedelta(days=1), timedelta(days=-1), 2 * MINUTE, -2 * MINUTE])
def test_setting_the_clock_changes_no_wait(step: timedelta) -> None:
    """A wait of an hour ends after an hour, whichever way the clock is set."""
    found = account(wait=60 * MINUTE)
    expiry = Expiry().seen(found, NOW, 500.0)
    now = NOW + 20 * MINUTE + step
    dated = expiry.dated(found, now, 500.0 + 1200)
    assert dated.retry_not_before == now + 40 * MINUTE
    later = NOW + 60 * MINUTE + step
    assert expiry.dated(found, later, 500.0 + 3600).retry_not_before == later


def test_a_token_or_a_wait_that_is_known_keeps_its_end() -> None:
    """A change of the record after the clock was set back does not date them anew."""
    found = account(wait=60 * MINUTE)
    expiry = Expiry().seen(found, NOW, 0.0)
    set_back = NOW - 15 * MINUTE
    assert expiry.seen(found, set_back, 60.0) == expiry
    another = account(wait=30 * MINUTE)
    assert expiry.seen(another, NOW, 60.0).wait_ends_at == 60.0 + 1800
    assert expiry.seen(another, NOW, 60.0).access_ends_at == expiry.access_ends_at


def test_a_record_without_access_token_and_wait_has_no_ends() -> None:
    """The ends of a later token and of a later wait are noted."""
    empty = Account(consent_id="c")
    expiry = Expiry().seen(account(wait=MINUTE), NOW, 0.0).seen(empty, NOW, 5.0)
    assert (expiry.access, expiry.wait) == (None, None)
    assert expiry.dated(empty, NOW - timedelta(days=1), 5.0) is empty


def test_a_retry_keeps_the_time_of_the_first_request() -> None:
    """Only for the same refresh token, and only while the record knows of the first attempt."""
    expiry = Expiry().sending("r0", retry=False, elapsed=100.0)
    assert expiry.sending("r0", retry=True, elapsed=400.0).first_sent_at == 100.0
    assert expiry.sending("r0", retry=False, elapsed=400.0).first_sent_at == 400.0
    assert expiry.sending("r1", retry=True, elapsed=400.0).first_sent_at == 400.0


def test_the_lifetime_of_a_response_counts_from_the_first_request() -> None:
    """A token whose response arrives an hour late is expired, also if the clock was set back."""
    expiry = Expiry().sending("r0", retry=False, elapsed=0.0)
    slept = expiry.issued(account(), NOW, 3600.0)
    assert good_for(slept, NOW) == timedelta(0)
    assert good_for(expiry.issued(account(), NOW, 300.0), NOW) == 25 * MINUTE
    empty = Account()
    assert expiry.issued(empty, NOW, 300.0) is empty


def test_a_cap_moves_dates_earlier_only() -> None:
    """A token that expires sooner than the cap stays as it is."""
    found = account()
    assert capped_to(found, 60 * MINUTE, NOW) is found
    assert capped_to(found, timedelta(minutes=30, seconds=-0.5), NOW) is found
    capped = capped_to(found, 10 * MINUTE, NOW)
    assert capped.access is not None
    assert (capped.access.issued_at, capped.access.expires_at) == (
        NOW - 20 * MINUTE,
        NOW + 10 * MINUTE,
    )
    assert capped_to(Account(), MINUTE, NOW) == Account()
