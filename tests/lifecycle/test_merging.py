"""Two versions of a record become one: single cases, and the laws of a replicated data type.

For the laws, versions are made by random walks from one login, as processes make them: each walk
refreshes, fails, loses responses and drops tokens, while the other walks do the same with the same
tokens.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.accounts import (
    HALF_HOUR,
    MINUTE,
    NOW,
    POLICY,
    begun,
    concluded,
    current,
    ended,
    issued,
    logged_in,
    values,
    with_fallback,
)

from xots.lifecycle.account import (
    MAX_TOMBSTONES,
    Account,
    Entry,
    LoginState,
    Notice,
    Organisation,
    RefreshNote,
    RefreshToken,
    Revocation,
)
from xots.lifecycle.candidates import candidates
from xots.lifecycle.logins import (
    after_added,
    after_end,
    after_login,
    after_removed,
    after_revoked,
    tokens_to_revoke,
)
from xots.lifecycle.merging import diverged, is_same_consent, merged
from xots.lifecycle.outcomes import Issued, NotSent, Outcome, Refused, Unknown
from xots.lifecycle.schedule import Spend, good_for, next_step
from xots.lifecycle.tenants import verified_tenant
from xots.lifecycle.transitions import after, begin_refresh
from xots.secret import Secret

# ---------- one consent


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="first_spent_at=min(uses, default=None)",
    new="first_spent_at=max(uses, default=None)",
    protects_from="a grace period that seems to begin anew when two records are merged",
)
@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="fallbacks=_fallbacks_of_both(first, second),",
    new="fallbacks=tuple(_known_to_both(token, second) for token in first.fallbacks),",
    protects_from="a token that only one of the two versions holds",
)
def test_tokens_of_one_consent_are_merged() -> None:
    """The base's token stays current. The earliest use and any refusal of a token count."""
    theirs = concluded(begun(logged_in(), NOW), issued("theirs"), NOW)
    mine = concluded(begun(logged_in(), NOW - MINUTE), issued("mine", life=timedelta(hours=2)), NOW)
    both = merged(theirs, mine)
    assert current(both).value.reveal() == "theirs"
    assert {r.value.reveal(): r.first_spent_at for r in both.fallbacks} == {
        "mine": None,
        "r0": NOW - MINUTE,
    }
    assert both.access == mine.access


def test_merged_tokens_keep_their_order() -> None:
    """The fallback that was spent last comes first."""
    ours = concluded(begun(logged_in(), NOW), issued("r1"), NOW)
    ours = concluded(begun(ours, NOW + MINUTE), issued("r2"), NOW + MINUTE)
    sibling = concluded(begun(logged_in(), NOW), issued("sibling"), NOW)
    both = merged(sibling, ours)
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == [
        "sibling",
        "r2",
        "r1",
        "r0",
    ]


def test_the_descendants_token_stays_current() -> None:
    """Whichever record is the base: a token whose response is known is not retried first."""
    older = replace(
        concluded(begun(logged_in(), NOW), Unknown(detail="reset"), NOW), tenant_id="chosen"
    )
    newer = concluded(begun(logged_in(), NOW), issued("r1"), NOW)
    for both in (merged(older, newer), merged(newer, older)):
        assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == ["r1", "r0"]
        assert both.intent is not None
    assert merged(older, newer).tenant_id == "chosen"
    gone = newer
    for number in range(2, 5):
        at = NOW + number * HALF_HOUR
        gone = concluded(begun(gone, at), issued(f"r{number}"), at)
    both = merged(
        replace(older, fallbacks=(RefreshToken(value=Secret("r1"), obtained_at=NOW),)), gone
    )
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == ["r4", "r3", "r0"]
    assert set(both.tombstones) == {Secret(value).fingerprint for value in ("r1", "r2")}


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="intent=base.intent or other.intent,",
    new="intent=base.intent,",
    protects_from=(
        "a late request that invalidated the tokens of the other processes, and that "
        "no record shows"
    ),
)
def test_an_open_refresh_survives_a_merge() -> None:
    """A late request with its token may have invalidated the others, so a refresh is due."""
    account = merged(logged_in(), begun(logged_in(), NOW))
    assert account.intent is not None
    assert isinstance(next_step(account, NOW + MINUTE, POLICY), Spend)


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="    joining = [t for t in joining if not _was_tombstoned(t, first)]\n",
    new="",
    protects_from="an old dump's token that seems unspent, and was spent long ago",
)
@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=" for t in first.fallbacks if not _was_tombstoned(t, second)]",
    new=" for t in first.fallbacks]",
    protects_from=(
        "an old dump's spent token that seems unspent, where ours is merged into the dump's record"
    ),
)
def test_a_tombstoned_token_does_not_come_back_from_an_old_dump() -> None:
    """It seems unspent there, and the newest by a wrong clock. An unknown token joins."""
    dump = with_fallback(logged_in(), RefreshToken(value=Secret("sibling"), obtained_at=NOW))
    dump = replace(dump, current=replace(current(dump), obtained_at=NOW + timedelta(days=1)))
    ours, at = replace(dump, fallbacks=()), NOW
    for number in range(1, 4):
        at += timedelta(minutes=31)
        ours = concluded(begun(ours, at), issued(f"r{number}"), at)
    assert ours.tombstones == tuple(Secret(value).fingerprint for value in ("r1", "r0"))
    both = merged(ours, dump)
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == ["r3", "sibling", "r2"]
    still = with_fallback(
        replace(dump, current=RefreshToken(value=Secret("y"), obtained_at=NOW)), current(dump)
    )
    both = merged(still, ours)
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == [
        "y",
        "r3",
        "r2",
        "sibling",
    ]


def test_a_token_that_is_held_again_has_no_tombstone() -> None:
    """A spent token that another record still holds joins again, and may leave again."""
    ours, at = logged_in(), NOW
    for number in range(1, 4):
        at += HALF_HOUR
        ours = concluded(begun(ours, at), issued(f"r{number}"), at)
    older = begun(logged_in(), NOW + HALF_HOUR)
    assert ours.tombstones == tuple(Secret(value).fingerprint for value in ("r1", "r0"))
    both = merged(ours, older)
    assert [t.value.reveal() for t in (current(both), *both.fallbacks)] == ["r3", "r2", "r0"]
    assert both.tombstones == (Secret("r1").fingerprint,)
    assert concluded(begun(both, at), issued("r4"), at).tombstones_ever == ours.tombstones_ever + 1


# ---------- two consents, and an end


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="winner, loser = (other, base) if other.epoch > base.epoch else (base, other)",
    new="winner, loser = base, other",
    protects_from="an old login that takes the place of a new one",
)
def test_the_newest_consent_wins_a_merge() -> None:
    """Neither the order nor the generations count."""
    old, new = logged_in(), replace(logged_in(NOW + MINUTE), consent_id="c2")
    assert merged(old, new) == new
    assert merged(new, old) == new


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="is_end = end.consent_id is None and login.consent_id is not None",
    new="is_end = False",
    protects_from="a logout that another process's refresh undoes",
)
def test_an_end_wins_over_the_login_before_it_and_loses_to_the_one_after() -> None:
    """A refresh by another process does not undo a logout. The logout does not undo a new login."""
    login, later = logged_in(), replace(logged_in(NOW + 2 * MINUTE), consent_id="c2")
    end = after_end(login, forget=False, now=NOW + MINUTE)
    refreshed = concluded(begun(login, NOW), issued("late"), NOW)
    for mine, theirs in ((end, refreshed), (refreshed, end)):
        after_both = merged(mine, theirs)
        assert after_both.consent_id is None
        assert after_both.revocation == "revoke"
        assert "late" in {t.value.reveal() for t in tokens_to_revoke(after_both)}
        assert good_for(after_both, NOW) == timedelta(0)
    assert merged(end, later) == later


def test_a_forgotten_login_gets_its_credentials_back_to_revoke_a_late_token() -> None:
    """The record holds them again until the revocation."""
    login = logged_in()
    late = concluded(begun(login, NOW), issued("late"), NOW)
    both = merged(late, ended(login, NOW + MINUTE, forget=True))
    assert (both.client_id, both.revocation) == ("client", "forget")
    assert "late" in {t.value.reveal() for t in tokens_to_revoke(both)}
    assert after_revoked(both).client_id is None


def test_a_record_in_memory_wins_over_an_empty_store() -> None:
    """An empty record is the oldest."""
    assert merged(logged_in(), Account()) == logged_in()


# ---------- a record that has diverged


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="united = united.with_tombstones(other.tombstones)",
    new="pass",
    protects_from=(
        "a merged record that seems to have diverged, since it lacks the tombstones of "
        "one of the two"
    ),
)
@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old=("if not is_same_consent(theirs, ours) or tombstones_since > len(theirs.tombstones):"),
    new="if not is_same_consent(theirs, ours):",
    protects_from="a descendant that seems to have diverged, since its older tombstones are gone",
)
def test_a_descendant_is_known_by_its_tombstones() -> None:
    """No clock counts. Beyond the oldest tombstone, a record is taken for a descendant."""
    ours, at = concluded(begun(logged_in(), NOW), issued("r1"), NOW), NOW
    theirs = ours
    for number in range(2, 2 * MAX_TOMBSTONES):
        at += timedelta(minutes=31)
        theirs = concluded(begun(theirs, at), issued(f"r{number}"), at)
        assert len(theirs.tombstones) == min(number - 1, MAX_TOMBSTONES)
        assert theirs.tombstones_ever == number - 1
        assert not diverged(theirs, ours)
    other = concluded(begun(logged_in(), NOW), issued("other"), NOW)
    assert diverged(other, ours)
    assert diverged(ours, other)
    refused = concluded(begun(ours, NOW), Refused(detail="invalid_grant"), NOW)
    assert not diverged(
        replace(refused, current=refused.fallbacks[0]), refused
    )  # the refused token is not missed
    assert diverged(
        replace(refused, fallbacks=()), refused
    )  # the other one is, since Xero may accept it
    for _ in range(2):
        assert (
            merged(ours, theirs).tombstones_ever
            == merged(theirs, ours).tombstones_ever
            == theirs.tombstones_ever
        )
    both = merged(other, theirs)
    assert not diverged(both, theirs)
    assert not diverged(both, other)
    dump = replace(ours, current=RefreshToken(value=Secret("r150"), obtained_at=at))
    assert "r150" not in values(merged(both, dump))  # the merged record has the tombstones of both


# ---------- the laws


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
    """Return the version that a process makes of ``account``."""
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
    """Return the set part: each token with its first use and whether it was refused."""
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
    """The grace period counts from the earlier use that either version knows."""
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
    """A login wins over an end before it, and an end over the login before it."""
    x, y, _ = versions(walks)
    end = after_end(x, forget=False, now=NOW + timedelta(minutes=minutes))
    new = login("d", NOW + timedelta(minutes=minutes, seconds=1))
    parts = [[y, end, new][index] for index in order]
    assert merged(merged(parts[0], parts[1]), parts[2]).consent_id == "d"
    ended = merged(y, end)
    assert (ended.consent_id, merged(end, y).consent_id) == (None, None)
    assert set(held(ended)) == set(held(merged(end, y)))


@given(WALKS)
def test_a_descendants_token_stays_current_in_either_order(
    walks: tuple[list[tuple[str, int]], ...],
) -> None:
    """A version that was made from another keeps its own current token."""
    x = versions(walks)[0]
    later = walked(x, "later", [("issued", 50)])
    if later.current != x.current:
        assert merged(x, later).current == merged(later, x).current == later.current
        assert not diverged(later, x)


@given(WALKS)
def test_a_merge_has_diverged_from_neither(walks: tuple[list[tuple[str, int]], ...]) -> None:
    """A store that holds the merged record has lost the writes of neither version."""
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


# ---------- the account itself


def dated(minutes: int) -> datetime:
    return NOW + minutes * MINUTE


def test_notes_of_both_versions_are_kept_the_latest_first() -> None:
    """Each process notes its own refreshes and logins. The later of two on one subject counts."""
    base = Account(
        refreshes=(RefreshNote(at=dated(3), by="a", ok=True), RefreshNote(at=NOW, by="a", ok=True)),
        login_states=(LoginState(digest="1", at=dated(1)), LoginState(digest="2", at=NOW)),
        notices=(Notice(kind="k", key="x", at=dated(5)), Notice(kind="k", key="y", at=NOW)),
    )
    other = Account(
        refreshes=(
            *(RefreshNote(at=dated(n), by="b", ok=False) for n in (3, 2)),
            RefreshNote(at=NOW, by="a", ok=True),
        ),
        login_states=(LoginState(digest="2", at=dated(2), problem="refused"),),
        notices=(Notice(kind="j", key="x", at=dated(4)), Notice(kind="k", key="y", at=dated(6))),
    )
    for first, second in ((base, other), (other, base)):
        found = merged(first, second)
        assert sorted((n.at, n.by) for n in found.refreshes) == [
            *[(NOW, "a"), (dated(2), "b"), (dated(3), "a"), (dated(3), "b")],
        ]
        assert [n.at for n in found.refreshes] == [dated(3), dated(3), dated(2), NOW]
        assert [(n.digest, n.problem) for n in found.login_states] == [
            *[("2", "refused"), ("1", None)],
        ]
        assert [(n.kind, n.key) for n in found.notices] == [("k", "y"), ("k", "x"), ("j", "x")]
        assert merged(found, found) == found


@pytest.mark.parametrize("consent", ["c1", "c2"])
def test_notes_are_kept_whatever_login_wins(consent: str) -> None:
    """They belong to the account: a second callback of the login that lost is recognised too."""
    ours = replace(logged_in(), login_states=(LoginState(digest="1", at=NOW),))
    theirs = replace(
        logged_in(NOW + MINUTE),
        consent_id=consent,
        login_states=(LoginState(digest="2", at=NOW + MINUTE),),
    )
    for pair in ((ours, theirs), (theirs, ours)):
        assert [state.digest for state in merged(*pair).login_states] == ["2", "1"]


def test_united_notes_stay_within_their_bound() -> None:
    """The oldest ones leave."""
    ours, theirs = (
        Account(
            refreshes=tuple(RefreshNote(at=dated(-2 * n - odd), by="a", ok=True) for n in range(20))
        )
        for odd in (0, 1)
    )
    assert [n.at for n in merged(ours, theirs).refreshes] == [dated(-n) for n in range(20)]


def test_the_later_list_of_organisations_counts() -> None:
    """A version without a list never hides the other's, and each claim is known to both."""
    old = replace(
        logged_in(),
        organisations=(Organisation(tenant_id="a"), Organisation(tenant_id="b")),
        listed_at=NOW,
        xero_userid="user",
    )
    new = replace(
        logged_in(),
        organisations=(Organisation(tenant_id="a"),),
        listed_at=NOW + MINUTE,
        auth_event_id="event",
    )
    for pair in ((old, new), (new, old)):
        found = merged(*pair)
        assert (found.organisations, found.listed_at) == (new.organisations, new.listed_at)
        assert (found.xero_userid, found.auth_event_id) == ("user", "event")
    assert merged(logged_in(), old).organisations == old.organisations


def test_a_new_login_does_not_inherit_the_organisations_of_another() -> None:
    """Another user may have logged in."""
    old = replace(
        logged_in(), organisations=(Organisation(tenant_id="a"),), listed_at=NOW, xero_userid="user"
    )
    new = replace(logged_in(NOW + MINUTE), consent_id="c2")
    for pair in ((old, new), (new, old)):
        found = merged(*pair)
        assert (found.organisations, found.listed_at, found.xero_userid) == (None, None, None)


def test_the_later_decision_about_the_account_counts() -> None:
    """Its settings and its removal are one decision, whatever login wins."""
    login = after_added(logged_in(), Entry(client_id="client", added_at=NOW))
    removed = after_removed(login, now=NOW + MINUTE)
    gone = after_revoked(removed)
    again = after_added(gone, Entry(client_id="other", added_at=NOW + 2 * MINUTE))
    for later, earlier in (
        *[(removed, login), (gone, login), (again, removed), (again, login), (login, logged_in())],
    ):
        for pair in ((earlier, later), (later, earlier)):
            found = merged(*pair)
            assert (found.removed, found.entry) == (later.removed, later.entry)


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="if later.removed and login.consent_id is not None:",
    new="if False:",
    protects_from="a live login of a removed account, which nothing refreshes or revokes",
)
def test_a_login_that_meets_a_removal_is_ended() -> None:
    """The process that logged in did not know of the removal, and its login is the later one."""
    removed = after_revoked(after_removed(logged_in(), now=NOW + MINUTE))
    login = replace(logged_in(NOW + 2 * MINUTE), consent_id="c2")
    for pair in ((removed, login), (login, removed)):
        found = merged(*pair)
        assert (found.removed, found.consent_id, found.access) == (True, None, None)
        assert found.revocation is Revocation.FORGET_CREDENTIALS
        assert tokens_to_revoke(found) == (current(login),)


def test_a_list_of_the_other_version_decides_about_the_organisation_in_use() -> None:
    """An organisation is verified by the list that stays, or not at all."""
    x, z = Organisation(tenant_id="x"), Organisation(tenant_id="z")
    base = replace(logged_in(), tenant_id="z", organisations=(x, z), listed_at=NOW)
    later = replace(
        base, tenant_id="x", organisations=(z,), listed_at=NOW + MINUTE, lists_without_tenant=2
    )
    assert verified_tenant(merged(base, later), has_list=True) == "z"
    unverified = replace(logged_in(), tenant_id="w")
    assert verified_tenant(merged(unverified, later), has_list=True) is None
