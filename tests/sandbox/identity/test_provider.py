"""Reuse of refresh tokens in every mode of siblings, and the tools for simulations."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from xots.sandbox import Client, Identity, OAuthError, Refusal, SiblingMode, Switches, TokenResponse

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
CLIENT = Client()


def made(**switches: object) -> Identity:
    source = random.Random(1)  # noqa: S311 - the same tokens every time
    return Identity(switches=Switches(**switches), random=source)  # type: ignore[arg-type]


def log_in(identity: Identity) -> str:
    return refresh_token_of(identity.log_in(CLIENT.client_id, NOW))


def refresh_token_of(response: TokenResponse) -> str:
    assert response.refresh_token is not None
    return response.refresh_token


def spend(identity: Identity, token: str, minutes: float = 0) -> str:
    return refresh_token_of(identity.refresh(CLIENT, token, NOW + timedelta(minutes=minutes)))


# T was spent for S1, S1 for D1, and T again for S2. Is each of the earlier ones still valid?
EXPECTED = {
    SiblingMode.ALL_VALID: {"s1": True, "d1": True},
    SiblingMode.LAST_VALID: {"s1": False, "d1": True},
    SiblingMode.LAST_VALID_WITH_DESCENDANTS: {"s1": False, "d1": False},
    SiblingMode.SAME_RESPONSE: {"s1": True, "d1": True},
}


@pytest.mark.parametrize("mode", SiblingMode)
def test_a_retry_in_the_grace_treats_earlier_successors_as_the_mode_says(mode: SiblingMode) -> None:
    """The switch decides about siblings and their descendants."""
    identity = made(sibling_mode=mode)
    t = log_in(identity)
    s1 = spend(identity, t, 0)
    d1 = spend(identity, s1, 1)
    s2 = spend(identity, t, 2)
    now = NOW + timedelta(minutes=3)
    assert (s2 == s1) == (mode is SiblingMode.SAME_RESPONSE)
    assert identity.would_issue(s2, now)
    assert {"s1": identity.would_issue(s1, now), "d1": identity.would_issue(d1, now)} == EXPECTED[
        mode
    ]
    if not EXPECTED[mode]["s1"]:
        with pytest.raises(OAuthError) as refused:
            identity.refresh(CLIENT, s1, now)
        assert (refused.value.code, refused.value.reason) == ("invalid_grant", Refusal.SIBLING)


@pytest.mark.parametrize("mode", SiblingMode)
def test_the_old_token_may_be_retried_as_often_as_needed_within_the_grace(
    mode: SiblingMode,
) -> None:
    """For 30 minutes from the first use, each retry gives a valid token."""
    identity = made(sibling_mode=mode)
    t = log_in(identity)
    for minutes in (0, 1, 15, 29, 30):
        newest = spend(identity, t, minutes)
        assert identity.would_issue(newest, NOW + timedelta(minutes=minutes))
    assert identity.counts.refreshes + identity.counts.replays == 5
    assert identity.counts.replays == (4 if mode is SiblingMode.SAME_RESPONSE else 0)


@pytest.mark.parametrize("mode", SiblingMode)
@pytest.mark.parametrize("kills", [False, True])
def test_reuse_after_the_grace_is_invalid_grant_and_ends_the_chain_with_the_switch(
    mode: SiblingMode, kills: bool
) -> None:
    """Late reuse is refused in every mode. With the switch, it ends the rest of the chain."""
    identity = made(sibling_mode=mode, late_reuse_kills_chain=kills)
    t = log_in(identity)
    successor = spend(identity, t)
    other = refresh_token_of(identity.log_in(CLIENT.client_id, NOW))
    late = NOW + timedelta(minutes=30, seconds=1)
    with pytest.raises(OAuthError) as refused:
        identity.refresh(CLIENT, t, late)
    assert (refused.value.code, refused.value.reason) == ("invalid_grant", Refusal.SPENT)
    assert identity.would_issue(successor, late) is not kills
    assert identity.would_issue(other, late), "another consent's tokens are not touched"


def test_the_same_response_is_the_same_byte_for_byte() -> None:
    """In that mode a retry gets the access token of the first response too."""
    identity = made(sibling_mode=SiblingMode.SAME_RESPONSE)
    t = log_in(identity)
    first = identity.refresh(CLIENT, t, NOW)
    again = identity.refresh(CLIENT, t, NOW + timedelta(minutes=5))
    assert (first.replayed, again.replayed) == (False, True)
    assert list(first.fields.items()) == list(again.fields.items())


def test_the_grace_period_starts_at_the_first_use() -> None:
    """A retry does not prolong it."""
    identity = made()
    t = log_in(identity)
    spend(identity, t, 0)
    spend(identity, t, 29)
    assert identity.refusal_of(t, NOW + timedelta(minutes=31)) is Refusal.SPENT


def test_an_unused_refresh_token_expires_after_sixty_days() -> None:
    """It is valid in its last second. Each successor has sixty days of its own."""
    identity = made()
    t = log_in(identity)
    assert identity.would_issue(t, NOW + timedelta(days=60, seconds=-1))
    assert identity.refusal_of(t, NOW + timedelta(days=60)) is Refusal.IDLE
    successor = spend(identity, t, 59 * 24 * 60)
    assert identity.would_issue(successor, NOW + timedelta(days=118))


def test_without_rotation_a_response_has_no_refresh_token_and_the_old_one_stays_valid() -> None:
    """With ``rotate`` off, each use prolongs the token's life."""
    identity = made(rotate=False)
    t = log_in(identity)
    for days in (50, 100, 150):
        assert identity.refresh(CLIENT, t, NOW + timedelta(days=days)).refresh_token is None
    assert identity.refusal_of(t, NOW + timedelta(days=210)) is Refusal.IDLE


def test_would_issue_changes_nothing() -> None:
    """A check is no use: it starts no grace period and counts nothing."""
    identity = made()
    t = log_in(identity)
    for _ in range(3):
        assert identity.would_issue(t, NOW)
    assert identity.would_issue(t, NOW + timedelta(hours=5))
    assert not identity.would_issue("nonsense", NOW)
    assert (identity.counts.refreshes, identity.counts.refusals) == (0, 0)
    assert identity.usable_refresh_tokens(NOW) == [t]


def test_a_refresh_token_of_another_client_is_refused_and_stays_valid() -> None:
    """Late reuse by another client does not end the chain either."""
    other = Client("OTHER", "secret")
    identity = Identity([CLIENT, other], switches=Switches(late_reuse_kills_chain=True))
    t = log_in(identity)
    successor = spend(identity, t)
    late = NOW + timedelta(hours=1)
    with pytest.raises(OAuthError) as refused:
        identity.refresh(other, t, late)
    assert refused.value.reason is Refusal.FOREIGN
    assert identity.would_issue(successor, late)


def test_the_same_seed_gives_the_same_tokens() -> None:
    """So a simulation can be repeated."""
    runs = []
    for _ in range(2):
        identity = made()
        runs.append([log_in(identity), spend(identity, identity.usable_refresh_tokens(NOW)[0])])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("mode", SiblingMode)
def test_pruning_keeps_a_long_simulation_small_and_changes_no_response(mode: SiblingMode) -> None:
    """Thousands of refreshes issue the same tokens with and without it."""

    def run(prune: bool) -> tuple[list[str], Identity]:
        identity = made(sibling_mode=mode)
        token, now, seen = log_in(identity), NOW, []
        for step in range(2000):
            now += timedelta(minutes=10)
            token, spent = refresh_token_of(identity.refresh(CLIENT, token, now)), token
            if step % 7 == 0:
                token = refresh_token_of(
                    identity.refresh(CLIENT, spent, now + timedelta(minutes=2))
                )
            seen.append(token)
            if prune and step % 50 == 0:
                identity.prune(now)
        return seen, identity

    (plain, _), (pruned, identity) = run(prune=False), run(prune=True)
    assert plain == pruned
    assert len(identity.tokens.refresh_tokens) < 400


def test_forgetting_ends_every_consent() -> None:
    """Xero may lose a consent without notice."""
    identity = made()
    t = log_in(identity)
    assert identity.forget("unknown") == 0
    assert identity.forget() == 1
    assert identity.refusal_of(t, NOW) is Refusal.FORGOTTEN
