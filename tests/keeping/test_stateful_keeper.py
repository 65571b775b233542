"""Two keepers on one store, in stories that Hypothesis makes up, with a simulated Xero.

A story is a chain of calls, one or several at a time. The store fails before a write, loses its
reply after one, takes no writes, or is rolled back. Xero fails in every way. Keepers die in the
middle of an operation, and leases expire under their holders. For the number of stories, see
``test_stateful_lifecycle``.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import replace as with_fields
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
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
from support.bench import UNLIMITED
from support.inside import operations_of, replica_of
from support.records import SETTINGS, issued, tokens_of

from xots.backends.base import Stored
from xots.errors import (
    ConsentLost,
    LoginFailed,
    NoCredentials,
    NotLoggedIn,
    StoreUnavailable,
    TokenUnavailable,
)
from xots.keeping.keeper import TokenKeeper
from xots.keeping.login import LoginAttempt
from xots.keeping.record_store import open_record
from xots.lifecycle.account import MAX_SPENT_FALLBACKS, AccessToken, Account
from xots.lifecycle.merging import is_same_consent
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
from xots.lifecycle.schedule import State
from xots.sandbox import Client, Identity, OAuthError, Refusal, SiblingMode, Switches
from xots.sealing import Sealer
from xots.secret import Secret
from xots.testing import FakeClock, FlakyStore
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Credentials

NAME = "default"
GRACE = Policy().grace
CLIENT = Client()
CREDENTIALS = Credentials(client_id=CLIENT.client_id, client_secret=Secret(CLIENT.secret or ""))
SCOPES = ("offline_access",)
MINUTE = timedelta(minutes=1)
UNKNOWN = "unknown"
"""A process died with a login, or with the end of one, that the store had not taken."""

WHICH = st.integers(0, 1)
ACTS = st.sampled_from(["token", "long token", "refresh", "maintain", "look"])
OUTCOMES = st.sampled_from(
    [
        "issued",
        "response lost",
        "never arrived",
        "not sent",
        "throttled",
        "invalid_client",
        "no refresh token",
    ]
)
STORE_DOES = st.sampled_from(["works", "fails", "reply lost"])
PAUSES = st.lists(st.integers(0, 4), max_size=12)


class Story(RuleBasedStateMachine):
    """Two processes, their store, Xero and a clock."""

    # ---------- the processes

    @initialize(mode=st.sampled_from(SiblingMode), late_reuse_kills_chain=st.booleans())
    def two_keepers_start_and_a_user_logs_in(
        self, mode: SiblingMode, late_reuse_kills_chain: bool
    ) -> None:
        self.clock = FakeClock(datetime(2026, 11, 23, 12, tzinfo=UTC))
        self.rng = random.Random(1)  # noqa: S311 - a simulation
        self.identity = Identity(
            [CLIENT],
            switches=with_fields(
                Switches(), sibling_mode=mode, late_reuse_kills_chain=late_reuse_kills_chain
            ),
            random=self.rng,
        )
        self.used: dict[str, datetime] = {}
        """When Xero first accepted each refresh token."""
        self.sealer = Sealer.for_this_process()
        self.pauses: deque[int] = deque()
        self.responses: deque[str] = deque()
        self.xero_is = "issued"
        self.store = StoryStore(self)
        self.opened: tuple[Stored | None, Account] = (None, Account())
        self.xero = XeroClientOfStory(self)
        self.ended_by_xero: set[str | None] = set()
        """Consents that Xero has ended, whether or not the record shows it."""
        self.expected: str | None = None
        """The consent after the last confirmed login or end, or UNKNOWN."""
        self.actor: TokenKeeper | None = None
        self.runner = asyncio.Runner()
        self.keepers: list[TokenKeeper] = [self.run(self.new_keeper()) for _ in range(2)]
        self.a_user_logs_in(0)

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def pause(self) -> None:
        """Let each call of the store or of Xero take some turns of the event loop."""
        for _ in range(self.pauses.popleft() if self.pauses else 0):
            await asyncio.sleep(0)

    async def new_keeper(self) -> TokenKeeper:
        keeper = TokenKeeper(
            self.store,
            self.xero,  # type: ignore[arg-type]
            self.sealer,
            policy=UNLIMITED,
            configured=CREDENTIALS,
            clock=self.clock,
            rng=self.rng,
        )
        with self.store.at_peace():
            await keeper.start()
        return keeper

    @property
    def record(self) -> Account:
        """Return the record of the store."""
        stored = self.store.kept
        if stored is not self.opened[0]:
            self.opened = (
                stored,
                Account() if stored is None else open_record(self.sealer, stored, NAME),
            )
        return self.opened[1]

    async def act(self, keeper: TokenKeeper, act: str) -> None:
        """Make one call, and check that it raises only the errors of its contract."""
        try:
            match act:
                case "token":
                    self.check_served(keeper, await keeper.token())
                case "long token":
                    self.check_served(keeper, await keeper.token(timedelta(minutes=26)))
                case "refresh":
                    await keeper.refresh()
                case "maintain":
                    await keeper.maintain()
                case "look":
                    await self.look(keeper)
        except ConsentLost:
            assert keeper.account.consent_id in self.ended_by_xero
        except (NotLoggedIn, NoCredentials, TokenUnavailable):
            assert act in ("token", "long token", "refresh")

    async def look(self, keeper: TokenKeeper) -> None:
        """Follow the store, as the keeper does at a notice of a change."""
        try:
            await keeper.follow()
        except StoreUnavailable as error:
            replica_of(keeper).failed(error)

    def check_served(self, keeper: TokenKeeper, access: AccessToken) -> None:
        """Check that a served token is valid and belongs to the login that the keeper knows."""
        served = self.identity.check_access(
            access.value.reveal(), self.clock.now() + timedelta(seconds=4)
        )
        if keeper is self.actor and self.expected != UNKNOWN:
            assert self.expected is not None, "served after an acknowledged end"
            assert served.consent is self.consent, "served from another login than the last"

    def crash(self, which: int) -> None:
        """End a keeper at once, with its unsaved changes, and start another in its place."""
        keeper = self.keepers[which]
        if (
            keeper is self.actor
            and keeper.unsaved
            and not is_same_consent(keeper.account, self.record)
        ):
            self.expected = UNKNOWN

        async def die() -> None:
            for task in (running := operations_of(keeper)):
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self.keepers[which] = await self.new_keeper()

        self.run(die())
        self.actor = None if self.actor is keeper else self.actor

    # ---------- events

    @rule(store=st.lists(STORE_DOES, max_size=6), xero=st.lists(OUTCOMES, max_size=4))
    def the_next_operations_fail(self, store: list[str], xero: list[str]) -> None:
        """Set the outcomes of the next operations. Later ones succeed."""
        self.store.outcomes, self.responses = deque(store), deque(xero)

    @rule(read_only=st.booleans())
    def the_store_can_only_be_read(self, read_only: bool) -> None:
        self.store.read_only = read_only

    @rule(xero_is=OUTCOMES)
    def xero_is_away_or_back(self, xero_is: str) -> None:
        self.xero_is = xero_is if xero_is != "no refresh token" else "issued"

    @rule(which=WHICH, act=ACTS)
    def one_keeper_acts(self, which: int, act: str) -> None:
        self.run(self.act(self.keepers[which], act))

    @rule(acts=st.lists(st.tuples(WHICH, ACTS), min_size=2, max_size=4), pauses=PAUSES)
    def several_act_at_once(self, acts: list[tuple[int, str]], pauses: list[int]) -> None:
        async def together() -> None:
            await asyncio.gather(*(self.act(self.keepers[which], act) for which, act in acts))

        self.pauses = deque(pauses)
        self.run(together())

    @rule(which=WHICH, act=ACTS, other=ACTS, turns=st.integers(0, 12), pauses=PAUSES)
    def a_lease_lapses_under_its_holder(
        self, which: int, act: str, other: str, turns: int, pauses: list[int]
    ) -> None:
        """Another keeper takes it while the first one, which has checked it before, goes on."""

        async def overlap() -> None:
            first = asyncio.create_task(self.act(self.keepers[which], act))
            for _ in range(turns):
                await asyncio.sleep(0)
            self.store.lapse()
            await asyncio.gather(first, self.act(self.keepers[1 - which], other))

        self.pauses = deque(pauses)
        self.run(overlap())

    @rule(which=WHICH, act=ACTS, turns=st.integers(0, 12), pauses=PAUSES)
    def a_keeper_dies_in_an_operation(
        self, which: int, act: str, turns: int, pauses: list[int]
    ) -> None:
        async def begin() -> None:
            task = asyncio.create_task(self.act(self.keepers[which], act))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.pauses = deque(pauses)
        self.run(begin())
        self.crash(which)

    @rule(which=WHICH)
    def a_user_logs_in(self, which: int) -> None:
        keeper = self.keepers[which]
        attempt = LoginAttempt(
            credentials=CREDENTIALS,
            code=Secret("c"),
            verifier=None,
            redirect_uri="http://x/code",
            scopes=SCOPES,
        )
        self.clock.advance(0.001)
        try:
            self.run(keeper.login(attempt))
        except (LoginFailed, StoreUnavailable):
            return
        self.actor, self.expected = keeper, keeper.account.consent_id
        assert self.expected is not None
        assert keeper.account.access is not None
        self.consent = self.identity.check_access(
            keeper.account.access.value.reveal(), self.clock.now()
        ).consent

    @rule(which=WHICH, forget=st.booleans())
    def a_user_ends_the_login(self, which: int, forget: bool) -> None:
        keeper = self.keepers[which]
        self.clock.advance(0.001)
        stored, unsaved = self.record, keeper.unsaved
        pristine = stored.client_id is None and stored.ended_at is None and not unsaved
        nothing = pristine and not forget
        try:
            confirmed = self.run(keeper.end(forget=forget))
        except StoreUnavailable:
            return
        if not nothing:
            self.actor, self.expected = keeper, None
        if confirmed:  # if the end is not written yet, Xero is told again
            assert self.record.consent_id is None
            assert nothing or keeper.account.revocation is None
        else:
            assert not nothing
            assert keeper.account.revocation is not None or keeper.unsaved
        assert not keeper.can_serve

    @rule()
    def xero_ends_the_consent_by_itself(self) -> None:
        """For example, the user disconnected the app at Xero."""
        self.identity.forget()
        self.ended_by_xero |= {
            self.record.consent_id,
            *(keeper.account.consent_id for keeper in self.keepers),
        }

    @precondition(lambda self: self.knowing is not None and len(self.store.dumps) > 1)
    @rule(age=st.integers(1, 9))
    def the_store_is_rolled_back(self, age: int) -> None:
        """A running keeper knows a newer record, and follows before any other uses the old one."""
        assert self.knowing is not None
        keeper, self.store.kept = self.knowing, self.store.dumps[-1 - age % len(self.store.dumps)]
        with self.store.at_peace():
            self.run(self.look(keeper))
            self.run(self.act(keeper, "maintain"))

    @property
    def knowing(self) -> TokenKeeper | None:
        """Return a keeper that has the record of the store."""
        return next((k for k in self.keepers if k.account.write_id == self.record.write_id), None)

    @rule(minutes=st.sampled_from([1, 6, 25, 31, 90]))
    def time_passes(self, minutes: int) -> None:
        """Both keepers tick. When the bound demands it, the store and Xero work again."""
        self.run(self.tick(minutes))

    async def tick(self, minutes: int) -> None:
        for _ in range(minutes):
            self.clock.advance(minutes=1)
            if self.must_be_well():
                self.all_is_well()
            for keeper in self.keepers:
                await self.act(keeper, "maintain")
            self.check_the_record()

    def must_be_well(self) -> bool:
        """Tell if the grace period of the last token that Xero accepts ends soon."""
        if self.record.consent_id is None or self.record.consent_id in self.ended_by_xero:
            return False
        live = [
            t
            for t in tokens_of(self.record)
            if self.identity.would_issue(t.value.reveal(), self.clock.now())
        ]
        spent = [self.used[t.value.reveal()] for t in live if t.value.reveal() in self.used]
        return len(spent) == len(live) and self.clock.now() - max(spent) >= 20 * MINUTE

    def all_is_well(self) -> None:
        self.store.calm()
        self.responses.clear()
        self.xero_is = "issued"

    def teardown(self) -> None:
        """Check that both are connected, or the login has ended, after the longest wait."""
        if hasattr(self, "runner"):
            with self.runner:
                self.all_is_well()
                self.run(self.tick(65))
                self.run(self.come_to_rest())

    async def come_to_rest(self) -> None:
        for keeper in self.keepers:
            await self.look(keeper)
            assert not keeper.unsaved
            assert keeper.store_problem is None
            assert keeper.account == self.record
            if self.expected != UNKNOWN:
                assert keeper.account.consent_id == self.expected
            if keeper.account.consent_id is None:
                assert keeper.account.revocation is None
                assert not keeper.can_serve
            elif keeper.account.consent_id not in self.ended_by_xero:
                assert keeper.state is State.CONNECTED
                self.check_served(keeper, await keeper.token())
        for keeper in self.keepers:
            await keeper.close()

    # ---------- invariants

    @invariant()
    def all_promises_are_kept(self) -> None:
        self.check_the_record()
        for keeper in self.keepers:
            assert not keeper.unsaved or keeper.store_problem, "an unsaved change is not reported"
        if self.expected != UNKNOWN:
            assert self.actor is None or self.actor.account.consent_id == self.expected
            if not any(keeper.unsaved for keeper in self.keepers):
                assert self.record.consent_id == self.expected

    def check_the_record(self) -> None:
        """Check that the store holds a token from which Xero will issue, if there is a login."""
        if self.record.consent_id is not None and self.record.consent_id not in self.ended_by_xero:
            refusals = [
                self.identity.refusal_of(t.value.reveal(), self.clock.now())
                for t in tokens_of(self.record)
            ]
            assert None in refusals, refusals

    def check_write(self, before: Account, written: Account) -> None:
        """Check that generations rise, and that a token leaves only after a refusal, or after the
        use of another and its own grace period, or after many refreshes."""
        assert written.generation > before.generation
        if before.consent_id is None or written.consent_id != before.consent_id:
            return
        kept = {t.value for t in tokens_of(written)}
        for token in tokens_of(before):
            if token.value not in kept and token.refused_at is None:
                assert written.current is not None
                assert before.current is not None
                assert written.current.value != before.current.value, (
                    "a token left although none was proved"
                )
                later = [t for t in written.fallbacks if t.first_spent_at]
                many = len(later) >= MAX_SPENT_FALLBACKS and not token.may_be_in_flight
                assert (
                    token.first_spent_at is None
                    or many
                    or self.clock.now() - token.first_spent_at >= GRACE
                )


class StoryStore(FlakyStore):
    """A store whose operations have the outcomes of the story."""

    def __init__(self, story: Story) -> None:
        super().__init__()
        self.story = story
        self.outcomes: deque[str] = deque()
        self.read_only = False
        self.peaceful = False
        self.dumps: list[Stored | None] = [None]

    @property
    def kept(self) -> Stored | None:
        return self.dump().get(NAME)

    @kept.setter
    def kept(self, stored: Stored | None) -> None:
        self.restore({NAME: stored} if stored else {})

    def calm(self) -> None:
        self.outcomes.clear()
        self.read_only = False

    async def _outcome_of_call(self, writes: bool = False) -> str:
        await self.story.pause()
        outcome = self.outcomes.popleft() if self.outcomes and not self.peaceful else "works"
        if outcome == "fails" or (writes and self.read_only and not self.peaceful):
            raise StoreUnavailable("the store is away")
        return outcome

    async def read(self, name: str) -> Stored | None:
        await self._outcome_of_call()
        return await super().read(name)

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        outcome, before = await self._outcome_of_call(writes=True), self.story.record
        version = await super().swap(name, value, expected=expected, due_at=due_at)
        self.story.check_write(before, self.story.record)
        self.dumps = [*self.dumps[-9:], self.kept]
        await self.story.pause()
        if outcome == "reply lost":
            raise StoreUnavailable("the reply was lost")
        return version

    async def check(self) -> None:
        await self._outcome_of_call(writes=True)

    @contextmanager
    def at_peace(self) -> Iterator[None]:
        """Let every operation work meanwhile."""
        self.peaceful = True
        try:
            yield
        finally:
            self.peaceful = False


class XeroClientOfStory:
    """A client of the simulated Xero whose calls have the outcomes of the story."""

    identity_server = IdentityServer(connections_url="")

    def slot(self) -> AbstractAsyncContextManager[bool]:
        return nullcontext(True)

    def __init__(self, story: Story) -> None:
        self.story = story

    def _outcome(self) -> str:
        return self.story.responses.popleft() if self.story.responses else self.story.xero_is

    async def refresh(self, credentials: Credentials, token: Secret) -> Outcome:
        story, text = self.story, token.reveal()
        # A second response in a row without a token would tell of a server that does not rotate.
        bare = (
            not any(keeper.account.responses_without_token for keeper in story.keepers)
            and not story.record.responses_without_token
        )

        def commit() -> Any:
            assert story.identity.refusal_of(text, story.clock.now()) is not Refusal.SPENT, (
                "reuse after the grace period"
            )
            response = story.identity.refresh(CLIENT, text, story.clock.now())
            story.used.setdefault(text, story.clock.now())
            return response.fields

        return await self._post(commit, bare)

    async def exchange(
        self, credentials: Credentials, *, code: Secret, redirect_uri: str, verifier: Secret | None
    ) -> Outcome:
        story, now = self.story, self.story.clock.now
        return await self._post(
            lambda: story.identity.log_in(CLIENT.client_id, now(), scopes=SCOPES).fields, True
        )

    async def revoke(self, credentials: Credentials, token: Secret) -> Failure | None:
        outcome_name = self._outcome()
        await self.story.pause()
        if outcome_name in ("issued", "response lost"):
            assert self.story.record.consent_id is None, "revoked under a login"
            self.story.identity.revoke(CLIENT, token.reveal())
            await self.story.pause()
        return None if outcome_name == "issued" else Unknown(detail=outcome_name)

    def close(self) -> None:
        """Do nothing: no connection is open."""

    async def _post(self, commit: Callable[[], Any], bare: bool) -> Outcome:
        outcome_name = self._outcome()
        await self.story.pause()
        match outcome_name:
            case "not sent":
                return NotSent(detail=outcome_name)
            case "never arrived":
                return Unknown(detail=outcome_name)
            case "throttled":
                seconds = self.story.rng.choice((0, 60, 4000))
                return Throttled(detail=outcome_name, retry_after=timedelta(seconds=seconds))
            case "invalid_client":
                return ClientRefused(detail=outcome_name, code=outcome_name)
        try:
            outcome: Issued = issued(commit())
        except OAuthError:
            return Refused(detail="invalid_grant")
        await self.story.pause()
        if outcome_name == "response lost":
            return Unknown(detail=outcome_name)
        if outcome_name == "no refresh token" and bare:
            return replace(outcome, refresh_token=None)
        return outcome


def test_an_end_is_not_confirmed_while_its_revocation_is_pending() -> None:
    """Xero refused all tokens, and the store failed between the end and its confirmation."""
    story = Story()
    story.two_keepers_start_and_a_user_logs_in(SiblingMode.ALL_VALID, False)
    try:
        story.xero_ends_the_consent_by_itself()
        story.the_next_operations_fail([], ["never arrived"])
        story.one_keeper_acts(0, "refresh")
        story.clock.advance(minutes=1)
        story.the_next_operations_fail(["works", "works", "works", "reply lost", "fails"], [])
        story.a_user_ends_the_login(0, False)
    finally:
        story.teardown()


def test_no_story_loses_a_login() -> None:
    """The store holds a live token after every step, and the last login or end counts."""
    half_as_many = settings(
        SETTINGS, max_examples=SETTINGS.max_examples // 2
    )  # each takes some 30 ms
    run_state_machine_as_test(Story, settings=half_as_many)
