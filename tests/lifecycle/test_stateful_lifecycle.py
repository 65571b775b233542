"""The lifecycle in stories that Hypothesis makes up: a record, a simulated Xero and a clock.

A story is a chain of refreshes with every kind of outcome, crashes, processes that sleep past their
lease, roll-backs of the store, logins and their ends, time that passes and clocks that are set.
After every step, the record is compared with the tokens that Xero really accepts.
``HYPOTHESIS_EXAMPLES=20000 pytest tests/*/test_stateful_*.py`` tells that many new stories. The
suite tells the same few each time.
"""

from __future__ import annotations

import random
from dataclasses import replace as with_fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from support.records import SETTINGS, issued, tokens_of

from xots.clock import MAX_CLOCK_SKEW
from xots.lifecycle.account import MAX_SPENT_FALLBACKS, Account, Entry, Organisation, RefreshToken
from xots.lifecycle.candidates import candidates
from xots.lifecycle.logins import (
    MAX_TOKENS_TO_REVOKE,
    after_added,
    after_end,
    after_login,
    after_removed,
    after_revocation_failed,
    after_revoked,
    tokens_to_revoke,
)
from xots.lifecycle.merging import is_same_consent, merged
from xots.lifecycle.outcomes import (
    ClientRefused,
    Failure,
    Issued,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unknown,
)
from xots.lifecycle.policy import Policy
from xots.lifecycle.record_json import decode, encode
from xots.lifecycle.schedule import (
    Idle,
    Spend,
    State,
    Wait,
    good_for,
    next_step,
    revocation_due,
    scheduled_refresh_at,
    state_of,
)
from xots.lifecycle.transitions import after, begin_refresh
from xots.sandbox import Client, Identity, OAuthError, Refusal, SiblingMode, Switches
from xots.secret import Secret

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = Policy(refresh_interval=timedelta(0))
CLIENT = Client()
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=s) for s in (1, 60, 3600, 86400))

JITTER = st.floats(0, 1, exclude_max=True)
COMES_TO = st.sampled_from(
    [
        *["issued"] * 4,
        *["response lost"] * 2,
        "never arrived",
        "not sent",
        "throttled",
        "invalid_client",
        "no refresh token",
        "crash before sending",
        "crash after commit",
    ]
)
DURATIONS = st.sampled_from(
    [SECOND, MINUTE, 6 * MINUTE, 25 * MINUTE, 31 * MINUTE, 12 * HOUR, 20 * DAY]
)
RETRY_AFTER = st.sampled_from([None, *(timedelta(seconds=s) for s in (0, 5, 60, 4000, 10**6))])


def intended(account: Account) -> RefreshToken | None:
    """Return the token that an open refresh has sent or will send."""
    named = account.intent.fingerprint if account.intent else None
    return next((token for token in tokens_of(account) if token.value.fingerprint == named), None)


def may_be_bare(account: Account) -> bool:
    """Tell if one response may lack its refresh token. A second would mean no rotation."""
    return account.rotates and account.responses_without_token == 0


class LifecycleStory(RuleBasedStateMachine):
    """The operations of an account's processes on its record, in the order of the protocol."""

    @initialize(mode=st.sampled_from([*SiblingMode, None]), late_reuse_kills_chain=st.booleans())
    def a_user_has_logged_in(self, mode: SiblingMode | None, late_reuse_kills_chain: bool) -> None:
        """Log in at Xero; if ``mode`` is None, at a server that does not rotate."""
        switches = Switches(late_reuse_kills_chain=late_reuse_kills_chain, rotate=mode is not None)
        self.identity = Identity(
            [CLIENT],
            switches=with_fields(switches, sibling_mode=mode) if mode else switches,
            random=random.Random(1),  # noqa: S311 - a simulation
        )
        self.time, self.skew = START, timedelta(0)
        self.clock_was_wrong = self.stepped_in_refresh = False
        self.record, self.dumps = Account(), [Account()]
        self.logins = 0
        self.used: dict[Secret, datetime] = {}
        """When Xero first accepted each token, by its own clock."""
        self.issued_at = START
        self.well_dated: set[Secret] = set()
        """The access tokens that a correct clock dated."""
        self.ill_dated: set[Secret] = set()
        """The refresh tokens whose first use a wrong clock dated."""
        self.asleep: tuple[Account, RefreshToken, str, Outcome | None] | None = None
        self.ended_by_xero = False
        self.rolled_back = False
        """True if the store was rolled back since the last refresh."""
        self.log_in()

    # ---------- a process

    @property
    def now(self) -> datetime:
        """Return the time by the clock of the processes."""
        return self.time + self.skew

    def write(self, account: Account, *, proved: RefreshToken | None = None) -> None:
        """Replace the record, and check each token that leaves it."""
        before = self.record
        assert (account.generation, account.write_id) == (before.generation, before.write_id)
        if is_same_consent(before, account):
            after_it = {t.value: t for t in tokens_of(account)}
            for token in tokens_of(before):
                if token.value not in after_it:
                    self.check_may_leave(token, proved, account)
                elif token.first_spent_at is not None:
                    self.check_first_spent(token, after_it[token.value], account)
        self.record = replace(
            account, generation=before.generation + 1, write_id=f"w{before.generation + 1}"
        )
        self.dumps = [*self.dumps[-9:], self.record]
        self.time += timedelta(milliseconds=1)  # no two writes have the same time

    def check_may_leave(
        self, token: RefreshToken, proved: RefreshToken | None, account: Account
    ) -> None:
        """Check that a spent token leaves only after the use of another, and after its grace period
        or many later refreshes, a fallback only after the later use of another, and any token after
        a refusal. No error removes a token."""
        if token.refused_at is None:
            assert proved is not None, "a token left although none was proved"
            assert proved.value != token.value
            if token.first_spent_at is not None:
                later = [t for t in account.fallbacks if t.first_spent_at]
                many = len(later) >= MAX_SPENT_FALLBACKS and not token.may_be_in_flight
                assert many or self.now - token.first_spent_at >= POLICY.grace
            else:
                assert proved.first_spent_at is not None
                assert token.obtained_at <= proved.first_spent_at

    def check_first_spent(self, before: RefreshToken, now: RefreshToken, account: Account) -> None:
        """Check that it never moves later, and that only the attempt which set it clears it, unless
        the server does not rotate."""
        assert before.first_spent_at is not None
        if now.first_spent_at is None:
            intent = self.record.intent
            assert intent is not None
            assert intent.fingerprint == before.value.fingerprint
            assert intent.set_first_spent or not account.rotates
        else:
            assert now.first_spent_at <= before.first_spent_at

    def begin(self, token: RefreshToken) -> tuple[Account, RefreshToken]:
        """Write the intent. Return the record with it, and the token as that holds it."""
        self.write(begin_refresh(self.record, token, by="p", now=self.now))
        spent = intended(self.record)
        assert spent is not None
        assert spent.value == token.value
        if token.first_spent_at is None:
            (self.ill_dated.add if self.skew else self.ill_dated.discard)(token.value)
        return self.record, spent

    def ask(
        self, token: RefreshToken, comes_to: str, retry_after: timedelta | None, bare: bool
    ) -> Outcome | None:
        """Return the outcome that the process learns; None if it died before."""
        match comes_to:
            case "crash before sending":
                return None
            case "not sent":
                return NotSent(detail="connection refused")
            case "never arrived":
                return Unknown(detail="503 before")
            case "throttled":
                return Throttled(detail="429", retry_after=retry_after)
            case "invalid_client":
                return ClientRefused(detail="unknown client", code="invalid_client")
        outcome = self.commit(token)
        if comes_to == "crash after commit":
            return None
        if comes_to == "response lost":
            return Unknown(detail="reset")
        if comes_to == "no refresh token" and bare and isinstance(outcome, Issued):
            return replace(outcome, refresh_token=None)
        return outcome

    def commit(self, token: RefreshToken) -> Outcome:
        """Let Xero carry out the request. Within the bound, no token is used after its grace
        period."""
        refusal = self.identity.refusal_of(token.value.reveal(), self.time)
        assert refusal is not Refusal.SPENT, "reuse after the grace period"
        try:
            response = self.identity.refresh(CLIENT, token.value.reveal(), self.time)
        except OAuthError:
            return Refused(detail=f"invalid_grant: {refusal}")
        self.issued_at = self.time
        if self.identity.switches.rotate:
            self.used.setdefault(token.value, self.time)
        return issued(response.fields)

    def conclude(
        self, begun: Account, token: RefreshToken, outcome: Outcome, jitter: float
    ) -> None:
        """Write the outcome of an attempt. A process whose write is stale merges its record."""
        concluded = after(begun, outcome, now=self.now, policy=POLICY, jitter=jitter)
        assert concluded.consent_id == begun.consent_id
        if isinstance(outcome, Issued):
            right = self.skew == timedelta(0) and token.value not in self.ill_dated
            (self.well_dated.add if right else self.well_dated.discard)(outcome.access_token)
            self.stepped_in_refresh = self.rolled_back = False
        if self.record.write_id == begun.write_id:
            self.write(concluded, proved=token if isinstance(outcome, Issued) else None)
        else:
            self.write(self.merged_record(self.record, concluded))

    def merged_record(self, base: Account, other: Account) -> Account:
        """Return ``merged``. Check that no token of the same consent is lost without a reason."""
        both = merged(base, other)
        held = {t.value for t in tokens_of(both)}
        for side, beside in ((base, other), (other, base)):
            if is_same_consent(side, both) or (
                side.consent_id and not both.consent_id and both.revocation
            ):
                # A token that seems unspent here and has a tombstone there was spent long ago.
                tombstoned = {
                    t.value
                    for t in tokens_of(side)
                    if not t.first_spent_at and t.value.fingerprint in beside.tombstones
                }
                assert held >= {t.value for t in tokens_of(side)} - tombstoned
        return replace(both, generation=self.record.generation, write_id=self.record.write_id)

    def spend(
        self, token: RefreshToken, comes_to: str, jitter: float = 0.5, wait: timedelta | None = None
    ) -> bool:
        """Make one attempt from its intent to its end; return False if the process died in it."""
        begun, token = self.begin(token)
        outcome = self.ask(token, comes_to, wait, bare=may_be_bare(begun))
        if outcome is not None:
            self.conclude(begun, token, outcome, jitter)
        return outcome is not None

    def log_in(self, known: Account | None = None) -> Account:
        """Exchange a code in a process that knows this record."""
        response = issued(
            self.identity.log_in(
                CLIENT.client_id, self.time, scopes=("offline_access",), tenant_ids=("t",)
            ).fields
        )
        self.logins += 1
        self.issued_at, self.ended_by_xero = self.time, False
        if self.skew == timedelta(0):
            self.well_dated.add(response.access_token)
        account = after_login(
            self.record if known is None else known,
            response,
            consent_id=f"c{self.logins}",
            client_id=CLIENT.client_id,
            client_secret=Secret(CLIENT.secret or ""),
            token_url="https://id.example/token",
            tenant_id=None,
            scopes_requested=("offline_access",),
            organisations=(Organisation(tenant_id=f"t{self.logins}"),),
            began_at=self.now,
        )
        if known is None:
            self.write(account)
        return account

    # ---------- events

    @property
    def deadline(self) -> datetime | None:
        """Return the latest time of a success that the bound permits: some attempts before the last
        grace period ends, and before an idle token is 60 days old. An outage may last as long as it
        likes if no token was taken, unless the store lost writes just before."""
        if self.record.consent_id is None or self.ended_by_xero:
            return None
        if (spent_at := self.all_spent_at) is not None:
            return spent_at + (20 * MINUTE if self.record.intent else 26 * MINUTE)
        token = intended(self.record)
        if token is not None and self.rolled_back:
            return (token.first_spent_at or self.time) - self.skew + 20 * MINUTE
        return self.issued_at + 50 * DAY

    @property
    def all_spent_at(self) -> datetime | None:
        """Return when the last token that Xero accepts was spent; None if one is unspent, or none
        is left."""
        live = [
            t.value
            for t in tokens_of(self.record)
            if self.identity.would_issue(t.value.reveal(), self.time)
        ]
        return (
            max((self.used[t] for t in live), default=None)
            if all(t in self.used for t in live)
            else None
        )

    @rule(duration=DURATIONS)
    def time_passes(self, duration: timedelta) -> None:
        end = self.time + duration
        while (deadline := self.deadline) is not None and deadline < end:
            self.time = max(self.time, deadline)
            self.xero_works()
        self.time = end

    def xero_works(self) -> None:
        """Let the ticks conclude every open refresh. An idle record needs a forced refresh."""
        current = self.record.current
        assert current is not None
        expected = current.value.fingerprint if self.all_spent_at is None else None
        for _ in range(20):
            step = next_step(self.record, self.now, POLICY, expected_current=expected)
            assert not isinstance(step, Idle) or self.all_spent_at is None, (
                "the last grace period ends, and no retry is due"
            )
            expected = None if isinstance(step, Spend) else expected
            if isinstance(step, Wait):
                self.time += step.until - self.now
            elif isinstance(step, Spend):
                self.spend(step.token, "issued")
            else:
                return
        raise AssertionError("the record is not at rest after twenty refreshes that succeeded")

    @precondition(
        lambda self: (
            not self.stepped_in_refresh and self.asleep is None and self.all_spent_at is None
        )
    )
    @rule(
        skew=st.sampled_from(
            [-DAY, -HOUR, -2 * MINUTE, -8 * SECOND, 0 * DAY, 8 * SECOND, 2 * MINUTE, HOUR, DAY]
        )
    )
    def the_clock_steps(self, skew: timedelta) -> None:
        self.skew = skew
        self.clock_was_wrong = True
        self.stepped_in_refresh = self.record.intent is not None

    @rule(comes_to=COMES_TO, jitter=JITTER, wait=RETRY_AFTER, forced=st.booleans())
    def a_refresh_comes_to(
        self, comes_to: str, jitter: float, wait: timedelta | None, forced: bool
    ) -> None:
        expected = self.record.current.value.fingerprint if forced and self.record.current else None
        step = next_step(self.record, self.now, POLICY, expected_current=expected)
        if isinstance(step, Spend):
            self.spend(step.token, comes_to, jitter, wait)

    @precondition(lambda self: self.asleep is None and self.record.current is not None)
    @rule(comes_to=COMES_TO, sent=st.booleans())
    def a_process_falls_asleep_in_its_refresh(self, comes_to: str, sent: bool) -> None:
        """It sleeps before or after its request is sent, and another process takes the lease."""
        expected = self.record.current.value.fingerprint if self.record.current else None
        step = next_step(self.record, self.now, POLICY, expected_current=expected)
        if isinstance(step, Spend):
            begun, token = self.begin(step.token)
            outcome = self.ask(token, comes_to, None, bare=may_be_bare(begun)) if sent else None
            if outcome is not None or not sent:
                self.asleep = begun, token, comes_to, outcome

    @precondition(lambda self: self.asleep is not None)
    @rule(jitter=JITTER)
    def the_process_wakes(self, jitter: float) -> None:
        assert self.asleep is not None
        (begun, token, comes_to, outcome), self.asleep = self.asleep, None
        if outcome is None:
            slept_too_long = self.time - self.used.get(token.value, self.time) > POLICY.grace
            if slept_too_long or comes_to == "crash after commit":
                return  # beyond the bound: the request is too late, or its process is dead
            outcome = self.ask(token, comes_to, None, bare=may_be_bare(begun))
        if outcome is not None:
            self.conclude(begun, token, outcome, jitter)

    @precondition(lambda self: self.asleep is None and self.record.current is not None)
    @rule(
        comes_to=COMES_TO, sent=st.booleans(), others=st.sampled_from([1, 2, 12]), pause=DURATIONS
    )
    def others_refresh_while_one_sleeps(
        self, comes_to: str, sent: bool, others: int, pause: timedelta
    ) -> None:
        """The sleeper wakes after its lease has expired, and writes."""
        self.a_process_falls_asleep_in_its_refresh(comes_to, sent)
        for _ in range(others):
            self.a_refresh_comes_to("issued", 0.5, None, True)
            if self.asleep is not None and pause < POLICY.grace / 2:
                self.time_passes(pause)
        if self.asleep is not None:
            self.the_process_wakes(0.5)

    @rule(count=st.integers(2, 12))
    def refreshes_follow_in_rapid_succession(self, count: int) -> None:
        """A program calls ``/refresh`` again and again."""
        for _ in range(count):
            self.a_refresh_comes_to("issued", 0.5, None, True)

    @rule()
    def the_sleeping_process_dies(self) -> None:
        self.asleep = None

    @rule(age=st.integers(0, 9))
    def the_store_is_rolled_back(self, age: int) -> None:
        """A running process finds an older record than it knows, and writes its own."""
        consent = self.record.consent_id
        self.write(self.merged_record(self.record, self.dumps[-1 - age % len(self.dumps)]))
        self.rolled_back = True
        assert self.record.consent_id == consent

    @precondition(lambda self: not self.clock_was_wrong and not self.record.removed)
    @rule(age=st.integers(0, 9), forget=st.booleans(), logs_in=st.booleans())
    def the_newest_consent_wins_over_a_roll_back(
        self, age: int, forget: bool, logs_in: bool
    ) -> None:
        """A process that knows only the old dump logs in or ends a login, then another one finds
        it."""
        old = self.dumps[-1 - age % len(self.dumps)]
        if logs_in:
            theirs = self.log_in(old)
        elif old.consent_id is not None:
            theirs = after_end(old, forget=forget, now=self.now)
        else:
            return
        self.write(self.merged_record(self.record, theirs))
        self.rolled_back = True
        assert self.record.consent_id == theirs.consent_id

    @rule(confirmed=st.booleans())
    def the_account_is_removed(self, confirmed: bool) -> None:
        self.write(after_removed(self.record, now=self.now))
        self.xero_is_told_of_the_end(confirmed, False, 0.5)

    @rule()
    def the_account_is_added(self) -> None:
        """It is added anew after a removal, or its settings change."""
        self.write(after_added(self.record, Entry(client_id="client", added_at=self.now)))
        assert not self.record.removed

    @precondition(lambda self: not self.record.removed)
    @rule()
    def a_user_logs_in(self) -> None:
        self.log_in()
        assert self.record.consent_id == f"c{self.logins}"
        assert self.record.revocation is None

    @rule(forget=st.booleans(), comes_to=COMES_TO, confirmed=st.booleans())
    def the_login_ends(self, forget: bool, comes_to: str, confirmed: bool) -> None:
        token = (
            next(iter(candidates(self.record, self.now, POLICY)), None)
            if self.record.intent
            else None
        )
        if (
            token is not None
            and self.record.consent_id is not None
            and not self.spend(token, comes_to)
        ):
            return  # the process died while it concluded the open refresh
        if self.record.consent_id is not None or self.record.revocation is not None or forget:
            held = {t.value for t in tokens_of(self.record) if not t.refused_at}
            unspent = {t.value for t in tokens_of(self.record) if t.is_fresh}
            self.write(after_end(self.record, forget=forget, now=self.now))
            named = [t.value for t in tokens_to_revoke(self.record)]
            assert bool(named) == bool(held)
            assert held.issuperset(named)
            assert unspent.issubset(named) or len(named) == MAX_TOKENS_TO_REVOKE
            self.xero_is_told_of_the_end(confirmed, False, 0.5)

    @rule(confirmed=st.booleans(), committed=st.booleans(), jitter=JITTER)
    def xero_is_told_of_the_end(self, confirmed: bool, committed: bool, jitter: float) -> None:
        """The request is sent under the lease, while the record holds no login."""
        if not revocation_due(self.record, self.now, POLICY):
            return
        assert self.record.consent_id is None
        named = tokens_to_revoke(self.record)
        if confirmed or committed:
            for token in named:
                self.identity.revoke(CLIENT, token.value.reveal())
        if confirmed:
            held = tokens_of(self.record)
            self.write(after_revoked(self.record))
            assert not any(self.identity.would_issue(t.value.reveal(), self.time) for t in held)
        else:
            failure: Failure = (
                Unknown(detail="503")
                if committed
                else ClientRefused(detail="unknown client", code="invalid_client")
            )
            self.write(
                after_revocation_failed(
                    self.record, failure, now=self.now, policy=POLICY, jitter=jitter
                )
            )
            assert tokens_to_revoke(self.record) == named

    @rule()
    def xero_ends_the_consent_by_itself(self) -> None:
        """For example, the user disconnected the app at Xero."""
        self.identity.forget()
        self.ended_by_xero = True

    # ---------- invariants

    @invariant()
    def all_promises_are_kept(self) -> None:
        self.the_record_holds_a_token_from_which_xero_will_issue()
        self.a_consent_is_lost_only_when_xero_refused_every_candidate()
        self.the_next_step_is_always_a_sensible_one()
        self.nothing_dead_is_served_by_a_right_clock()
        self.the_account_keeps_what_is_its_own()
        assert decode(encode(self.record)) == self.record

    def the_account_keeps_what_is_its_own(self) -> None:
        """Its settings and its removal are the latest ones. The organisations are those of the
        login that is live or not yet revoked."""
        record = self.record
        assert not (record.removed and record.consent_id)
        assert record.entry == max(
            (dump.entry for dump in self.dumps if dump.entry),
            key=lambda entry: entry.added_at,
            default=None,
        )
        if record.removed:
            assert record.entry is not None
            assert record.entry == Entry(added_at=record.entry.added_at)
        if record.consent_id is not None:
            expected = f"t{record.consent_id.removeprefix('c')}"
            assert record.organisations == (Organisation(tenant_id=expected),)
        elif record.revocation is None:
            assert record.organisations is None

    def the_record_holds_a_token_from_which_xero_will_issue(self) -> None:
        if self.record.consent_id is not None and not self.ended_by_xero:
            refusals = [
                self.identity.refusal_of(t.value.reveal(), self.time)
                for t in tokens_of(self.record)
            ]
            assert None in refusals, refusals
            assert state_of(self.record, self.now, POLICY) in (
                State.CONNECTED,
                State.REFRESH_FAILING,
            )

    def a_consent_is_lost_only_when_xero_refused_every_candidate(self) -> None:
        tokens = tokens_of(self.record)
        assert not any(
            t.refused_at and self.identity.would_issue(t.value.reveal(), self.time) for t in tokens
        )
        if state_of(self.record, self.now, POLICY) is State.CONSENT_LOST:
            assert self.record.current is not None
            assert self.record.current.refused_at is not None
            assert all(t.refused_at or t.first_spent_at for t in tokens)

    def the_next_step_is_always_a_sensible_one(self) -> None:
        for seen in (self.now, self.now - DAY, self.now + DAY):
            assert isinstance(state_of(self.record, seen, POLICY), State)
            for step in (
                next_step(self.record, seen, POLICY),
                next_step(
                    self.record, seen, POLICY, min_life=27 * MINUTE, expected_current="another"
                ),
            ):
                self.check_step(step, seen)

    def check_step(self, step: Any, seen: datetime) -> None:
        match step:
            case Spend(token):
                assert self.record.consent_id is not None
                assert token in tokens_of(self.record)
                assert token.refused_at is None
            case Wait(until):
                longest = POLICY.slow_wait if self.record.intent else POLICY.max_wait
                assert seen < until <= seen + longest + POLICY.first_backoff + MAX_CLOCK_SKEW
            case Idle():
                due_at = scheduled_refresh_at(self.record, POLICY)
                assert (
                    due_at is None
                    or due_at > seen
                    or state_of(self.record, seen, POLICY) is State.CONSENT_LOST
                )

    def nothing_dead_is_served_by_a_right_clock(self) -> None:
        left = good_for(self.record, self.now)
        assert left == timedelta(0) or self.record.consent_id is not None
        access = self.record.access
        if (
            left
            and access is not None
            and self.skew == timedelta(0)
            and access.value in self.well_dated
        ):
            self.identity.check_access(
                access.value.reveal(), self.time + left - timedelta(microseconds=1)
            )


def a_story(mode: SiblingMode, *, late_reuse_kills_chain: bool = True) -> LifecycleStory:
    """Return a story that a test tells step by step."""
    story = LifecycleStory()
    story.a_user_has_logged_in(mode, late_reuse_kills_chain)
    return story


def test_a_replayed_response_is_not_served_past_its_expiry() -> None:
    """The first request never arrived, and the response to the second one comes with the third."""
    story = a_story(SiblingMode.SAME_RESPONSE)
    story.time_passes(25 * MINUTE)
    for comes_to in ("never arrived", "response lost", "issued"):
        story.a_refresh_comes_to(comes_to, 0.5, None, True)
        story.all_promises_are_kept()
        story.time_passes(25 * MINUTE if comes_to == "never arrived" else 15 * MINUTE)


def test_an_end_is_newer_than_every_date_of_the_record() -> None:
    """Otherwise a process that knows an earlier end takes the later one for lost writes."""
    story = a_story(SiblingMode.ALL_VALID)
    for skew in (-HOUR, -DAY):
        epoch = story.record.epoch
        story.the_clock_steps(skew)
        story.the_login_ends(True, "issued", True)
        assert story.record.epoch > epoch


def test_a_long_outage_after_a_roll_back_does_not_cost_the_login() -> None:
    """The outage outlasts the grace period, and a token spent long ago has just come back."""
    story = a_story(SiblingMode.ALL_VALID)
    story.time_passes(25 * MINUTE)
    story.a_refresh_comes_to("issued", 0.5, None, False)
    story.time_passes(31 * MINUTE)
    story.a_refresh_comes_to("issued", 0.5, None, False)
    story.the_store_is_rolled_back(len(story.dumps) - 2)  # the record of the login
    story.a_refresh_comes_to("never arrived", 0.5, None, True)
    story.time += 31 * MINUTE
    story.a_refresh_comes_to("issued", 0.5, None, True)
    story.all_promises_are_kept()


def test_a_response_to_a_process_that_slept_is_requested_again() -> None:
    """Its late request may have invalidated the newer tokens. Its own stays valid for its grace."""
    story = a_story(SiblingMode.LAST_VALID_WITH_DESCENDANTS)
    story.others_refresh_while_one_sleeps("response lost", False, 2, 6 * MINUTE)
    story.time_passes(31 * MINUTE)
    story.all_promises_are_kept()


@pytest.mark.safeguard(
    file="lifecycle/transitions.py",
    old="        may_be_in_flight=token.first_spent_at is not None and token.refused_at is None,\n",
    new="",
    protects_from="a late request after many refreshes that ends the login",
)
@pytest.mark.parametrize("mode", SiblingMode)
def test_a_late_request_after_many_refreshes_does_not_cost_the_login(mode: SiblingMode) -> None:
    """It invalidates every newer token, and its process is dead. The token that it spent is the
    only one left."""
    story = a_story(mode)
    story.a_process_falls_asleep_in_its_refresh("issued", False)
    assert story.asleep is not None
    (_, late, _, _), story.asleep = story.asleep, None
    story.refreshes_follow_in_rapid_succession(30)
    story.commit(late)
    story.all_promises_are_kept()
    story.refreshes_follow_in_rapid_succession(12)
    story.all_promises_are_kept()


@pytest.mark.safeguard(
    file="lifecycle/merging.py",
    old="may_be_in_flight=token.may_be_in_flight or other.may_be_in_flight,",
    new="",
    protects_from="a merge that forgets a request on its way to Xero",
)
def test_a_late_request_is_remembered_by_a_process_that_missed_it() -> None:
    """Both versions hold the token, and one of them does not know of the request."""
    story = a_story(SiblingMode.LAST_VALID_WITH_DESCENDANTS)
    story.a_process_falls_asleep_in_its_refresh("issued", False)
    story.a_refresh_comes_to("issued", 0.5, None, True)
    (late,) = story.record.fallbacks
    assert late.may_be_in_flight
    unaware = story.record.with_token(replace(late, may_be_in_flight=False))
    for pair in ((unaware, story.record), (story.record, unaware)):
        assert merged(*pair).fallbacks == (late,)


def test_an_end_spends_no_token_whose_grace_is_over() -> None:
    """A process that slept left the refresh open, and the record holds an unspent token since."""
    story = a_story(SiblingMode.ALL_VALID)
    story.others_refresh_while_one_sleeps("response lost", False, 1, SECOND)
    story.time_passes(31 * MINUTE)
    story.the_login_ends(False, "issued", True)


def test_an_unspent_fallback_of_the_same_race_comes_before_a_token_whose_grace_is_over() -> None:
    """The fallback is a little older than the current token, whose late reuse may end the chain."""
    story = a_story(SiblingMode.ALL_VALID)
    for comes_to in ("issued", "response lost"):
        story.others_refresh_while_one_sleeps(comes_to, False, 1, SECOND)
    story.a_refresh_comes_to("response lost", 0.5, None, True)
    story.time_passes(31 * MINUTE)
    story.a_refresh_comes_to("issued", 0.5, None, True)
    story.all_promises_are_kept()


def test_no_story_loses_a_refresh_token() -> None:
    """In any order of outcomes, the record holds a token that Xero accepts."""
    run_state_machine_as_test(LifecycleStory, settings=SETTINGS)
