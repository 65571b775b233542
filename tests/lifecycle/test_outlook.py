"""The outlook of an open refresh, and the reason of a lost login."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace
from support.accounts import MINUTE, NOW, POLICY, attempted, issued, logged_in

from xots.lifecycle.account import RefreshToken
from xots.lifecycle.outcomes import Unknown
from xots.lifecycle.outlook import Retrying, outlook, why_lost
from xots.lifecycle.schedule import candidates
from xots.lifecycle.transitions import after, begin_refresh
from xots.secret import Secret


def test_a_server_without_rotation_is_remembered_until_it_rotates() -> None:
    """Two responses without a refresh token tell. Later refreshes have the usual outlook."""
    account = attempted(logged_in(), issued(None), 25)
    assert account.rotates
    assert outlook(account, NOW + 25 * MINUTE, POLICY).retrying is Retrying.MISSING_TOKEN
    account = attempted(account, issued(None), 26)
    assert (account.rotates, account.responses_without_token, account.intent) == (False, 0, None)
    at = NOW + 51 * MINUTE
    begun = begin_refresh(account, candidates(account, at, POLICY)[0], by="h:1", now=at)
    assert outlook(begun, at, POLICY).retrying is Retrying.UNDER_WAY
    lost = after(begun, Unknown(detail="reset"), now=at, policy=POLICY, jitter=0.5)
    assert outlook(lost, at, POLICY).retrying is Retrying.LOST_RESPONSE
    account = attempted(lost, issued(None), 52)
    assert (account.rotates, account.intent) == (False, None)
    account = attempted(account, issued("r1"), 80)
    assert account.rotates
    assert attempted(account, issued(None), 110).intent is not None


def test_a_lost_consent_is_explained_by_its_newest_token() -> None:
    """An older token that was unused for long is not the reason."""
    old = RefreshToken(
        value=Secret("old"),
        obtained_at=NOW - timedelta(days=70),
        refused_at=NOW,
    )
    new = RefreshToken(value=Secret("new"), obtained_at=NOW, refused_at=NOW + MINUTE)
    account = replace(logged_in(), current=new, fallbacks=(old,))
    assert "disconnected" in why_lost(account, POLICY)
    assert "unused" in why_lost(replace(account, current=old, fallbacks=()), POLICY)
