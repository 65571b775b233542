"""The union of two versions of a record is a small replicated data type: its laws, as properties.

Versions are made by random walks from one login, as processes make them: each walk refreshes, fails,
loses responses and drops tokens, while the other walks do the same with the same tokens.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from xots.lifecycle.account import MAX_TOMBSTONES, Account, RefreshToken
from xots.lifecycle.merging import diverged, is_same_consent, merged
from xots.lifecycle.outcomes import Issued, NotSent, Outcome, Refused, Unknown
from xots.lifecycle.schedule import Policy, candidates
from xots.lifecycle.transitions import after, after_end, after_login, begin_refresh
from xots.secret import Secret

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = Policy()

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["issued", "issued", "lost", "not sent", "refused"]),
        st.integers(1, 45),
    ),
    max_size=6,
)
"""The outcomes of a walk's refreshes, and the minutes before each."""

WALKS = st.tuples(STEPS, STEPS, STEPS)


def login(consent: str = "c", at: datetime = NOW) -> Account:
    return after_login(
        Account(),
        Issued(access_token=Secret("a0"), refresh_token=Secret(f"{consent}0")),
        consent_id=consent,
        client_id="client",
        client_secret=None,
        token_url="https://id.example/token",
        tenant_id=None,
        scopes_requested=("offline_access",),
        began_at=at,
    )


def walked(account: Account, name: str, steps: list[tuple[str, int]]) -> Account:
    """The version that a process makes of ``account``."""
    now = NOW
    for number, (outcome, minutes) in enumerate(steps):
        now += timedelta(minutes=minutes)
        tokens = candidates(account, now, POLICY)
        if not tokens:
            break
        account = begin_refresh(account, tokens[0], by=name, now=now)
        outcomes: dict[str, Outcome] = {
            "issued": Issued(
                access_token=Secret(f"{name}a{number}"), refresh_token=Secret(f"{name}r{number}")
            ),
            "lost": Unknown(detail="reset"),
            "not sent": NotSent(detail="no route"),
            "refused": Refused(detail="invalid_grant"),
        }
        account = after(account, outcomes[outcome], now=now, policy=POLICY, jitter=0.5)
    return account


def versions(walks: tuple[list[tuple[str, int]], ...]) -> list[Account]:
    return [walked(login(), name, steps) for name, steps in zip("xyz", walks, strict=False)]


def held(account: Account) -> dict[str, tuple[datetime | None, bool]]:
    """The set part: each token with its first use, and if it was refused."""
    return {t.value.reveal(): (t.first_spent_at, t.refused_at is not None) for t in account.tokens}


def set_part(account: Account) -> object:
    access = account.access and account.access.expires_at
    return held(account), set(account.tombstones), access, account.intent is not None


@given(WALKS)
def test_a_merge_is_idempotent(walks: tuple[list[tuple[str, int]], ...]) -> None:
    """A version merged with itself, or merged again, changes nothing."""
    x, y, _ = versions(walks)
    assert merged(x, x) == x
    both = merged(x, y)
    assert set_part(merged(both, y)) == set_part(both)
    assert set_part(merged(both, x)) == set_part(both)


@given(WALKS)
def test_the_set_part_of_a_merge_is_commutative(walks: tuple[list[tuple[str, int]], ...]) -> None:
    """Tokens, tombstones, first uses and the access token do not depend on the order of the two."""
    x, y, _ = versions(walks)
    assert set_part(merged(x, y)) == set_part(merged(y, x))


@given(WALKS)
def test_the_set_part_of_a_merge_is_associative(walks: tuple[list[tuple[str, int]], ...]) -> None:
    """Three processes that meet in any order hold the same tokens in the end."""
    x, y, z = versions(walks)
    assert set_part(merged(merged(x, y), z)) == set_part(merged(x, merged(y, z)))


@given(WALKS)
def test_a_merge_loses_no_token_that_may_be_live(walks: tuple[list[tuple[str, int]], ...]) -> None:
    """A token leaves only where the other version has a tombstone for it and it looks unspent."""
    x, y, _ = versions(walks)
    both = held(merged(x, y))
    for one, other in ((x, y), (y, x)):
        for token in one.tokens:
            outlived = token.first_spent_at is None and token.fingerprint in other.tombstones
            assert outlived or token.value.reveal() in both


@given(WALKS)
def test_the_first_use_of_a_token_never_moves_later(
    walks: tuple[list[tuple[str, int]], ...],
) -> None:
    """Its grace period counts from the earlier use that either version knows."""
    x, y, _ = versions(walks)
    both = held(merged(x, y))
    for side in (held(x), held(y)):
        for value, (spent_at, refused) in side.items():
            if value in both and spent_at is not None:
                first_spent_at = both[value][0]
                assert first_spent_at is not None
                assert first_spent_at <= spent_at
            assert value not in both or both[value][1] >= refused


@given(WALKS, st.permutations([0, 1, 2]), st.integers(1, 90))
def test_the_newest_consent_wins_in_any_order(
    walks: tuple[list[tuple[str, int]], ...], order: list[int], minutes: int
) -> None:
    """The last writer wins, whichever process finds whose record: a login over an end before it, an
    end over the login before it."""
    x, y, _ = versions(walks)
    end = after_end(x, forget=False, now=NOW + timedelta(minutes=minutes))
    new = login("d", NOW + timedelta(minutes=minutes, seconds=1))
    parts = [[y, end, new][index] for index in order]
    assert merged(merged(parts[0], parts[1]), parts[2]).consent_id == "d"
    ended = merged(y, end)
    assert (ended.consent_id, merged(end, y).consent_id) == (None, None)
    assert set(held(ended)) == set(held(merged(end, y)))


@given(WALKS)
def test_a_descendant_stays_in_front_in_either_order(
    walks: tuple[list[tuple[str, int]], ...],
) -> None:
    """A version that goes on from another keeps its own current token."""
    x = versions(walks)[0]
    later = walked(x, "later", [("issued", 50)])
    if later.current != x.current:
        assert merged(x, later).current == merged(later, x).current == later.current
        assert not diverged(later, x)


@given(WALKS)
def test_a_merge_has_diverged_from_neither(walks: tuple[list[tuple[str, int]], ...]) -> None:
    """The store that holds the union has not lost the writes of either."""
    x, y, _ = versions(walks)
    both = merged(x, y)
    assert is_same_consent(both, x)
    assert not diverged(both, x)
    assert not diverged(both, y)


@given(st.integers(0, 3 * MAX_TOMBSTONES))
@settings(max_examples=20)
def test_tombstones_are_bounded_and_counted(count: int) -> None:
    """The latest stay, a token that is held has none, and their number since the login is kept."""
    account = login().with_tombstones(f"f{number}" for number in range(count))
    assert len(account.tombstones) == min(count, MAX_TOMBSTONES)
    assert account.tombstones_ever == count
    assert account.with_tombstones(token.fingerprint for token in account.tokens) == account
    revived = replace(account, current=RefreshToken(value=Secret("s"), obtained_at=NOW))
    buried = revived.with_tombstones([Secret("other").fingerprint])
    assert buried.tombstones[0] == Secret("other").fingerprint
