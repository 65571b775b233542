"""Two keepers over one store, under stories that Hypothesis makes up: real keepers, real seals, a simulated Xero.

A story is a chain of calls, alone and two at once, while the store fails before a write, loses its reply after one, can
only be read or is rolled back, while Xero answers badly or not at all, while keepers die anywhere in what they do, and
while leases lapse under their holders. How many stories are told: see ``test_stateful_lifecycle``.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from support.records import SETTINGS, issued, tokens_of

from xots.backends.base import Stored
from xots.backends.memory import MemoryStore
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
from xots.keeping.replica import open_record
from xots.lifecycle.account import AccessToken, Account
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
from xots.lifecycle.schedule import Policy, State
from xots.sandbox import Client, Identity, OAuthError, Refusal, SiblingMode, Switches
from xots.sealing import Sealer
from xots.secret import Secret
from xots.testing import FakeClock
from xots.xero.protocol import Credentials, Endpoints

NAME = "default"
GRACE = Policy().grace
CLIENT = Client()
CREDENTIALS = Credentials(client_id=CLIENT.client_id, client_secret=Secret(CLIENT.secret or ""))
SCOPES = ("offline_access",)
MINUTE = timedelta(minutes=1)
UNKNOWN = "unknown"
"""Nobody can say who is logged in: a process died with a login, or the end of one, that the store had not taken."""

WHICH = st.integers(0, 1)
ACTS = st.sampled_from(["token", "long token", "refresh", "maintain", "look"])
COMES_TO = st.sampled_from(
    [
        "issued",
        "answer lost",
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

    # ---------------------------------------------------------------------------------------- the stage

    @initialize(mode=st.sampled_from(SiblingMode), late_reuse_kills_chain=st.booleans())
    def two_keepers_start_and_a_person_logs_in(
        self, mode: SiblingMode, late_reuse_kills_chain: bool
    ) -> None:
        self.clock = FakeClock(datetime(2026, 11, 23, 12, tzinfo=UTC))
        self.chance = random.Random(1)  # noqa: S311 - a simulation
        self.identity = Identity(
            [CLIENT],
            switches=with_fields(
                Switches(), sibling_mode=mode, late_reuse_kills_chain=late_reuse_kills_chain
            ),
            random=self.chance,
        )
        self.used: dict[str, datetime] = {}
        """When Xero first took each refresh token."""
        self.sealer = Sealer.for_this_process()
        self.pauses: deque[int] = deque()
        self.answers: deque[str] = deque()
        self.xero_is = "issued"
        self.store = TroubledStore(self)
        self.opened: tuple[Stored | None, Account] = (None, Account())
        self.xero = Xero(self)
        self.ended_by_xero: set[str | None] = set()
        """Consents that Xero ended, whatever the record says of them."""
        self.expected: str | None = None
        """The consent that the last acknowledged act left, or UNKNOWN."""
        self.actor: TokenKeeper | None = None
        self.runner = asyncio.Runner()
        self.keepers: list[TokenKeeper] = [self.run(self.new_keeper()) for _ in range(2)]
        self.a_person_logs_in(0)

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def pause(self) -> None:
        """Every word with the store or with Xero takes so many turns of the loop."""
        for _ in range(self.pauses.popleft() if self.pauses else 0):
            await asyncio.sleep(0)

    async def new_keeper(self) -> TokenKeeper:
        keeper = TokenKeeper(
            self.store,
            self.xero,  # type: ignore[arg-type]
            self.sealer,
            configured=CREDENTIALS,
            clock=self.clock,
            rng=self.chance,
        )
        with self.store.at_peace():
            await keeper.start()
        return keeper

    @property
    def record(self) -> Account:
        """What the store holds."""
        stored = self.store.kept
        if stored is not self.opened[0]:
            self.opened = (
                stored,
                Account() if stored is None else open_record(self.sealer, stored, NAME),
            )
        return self.opened[1]

    async def act(self, keeper: TokenKeeper, act: str) -> None:
        """One call, and that it fails only as it may."""
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
        """What the keeper does when the store says that something changed."""
        try:
            await keeper.follow()
        except StoreUnavailable as error:
            keeper._replica.failed(error)

    def check_served(self, keeper: TokenKeeper, access: AccessToken) -> None:
        """What is served lives, and belongs to the login that the keeper knows."""
        served = self.identity.check_access(
            access.value.reveal(), self.clock.now() + timedelta(seconds=4)
        )
        if keeper is self.actor and self.expected != UNKNOWN:
            assert self.expected is not None, "served after an acknowledged end"
            assert served.consent is self.consent, "served from another login than the last"

    def crash(self, which: int) -> None:
        """It is gone at once, with all that only it knew; another is started in its place."""
        keeper = self.keepers[which]
        if (
            keeper is self.actor
            and keeper.unsaved
            and not is_same_consent(keeper.account, self.record)
        ):
            self.expected = UNKNOWN

        async def die() -> None:
            for task in list(keeper._tasks.running):
                task.cancel()
            await asyncio.gather(*keeper._tasks.running, return_exceptions=True)
            self.keepers[which] = await self.new_keeper()

        self.run(die())
        self.actor = None if self.actor is keeper else self.actor

    # ------------------------------------------------------------------------------------ what happens

    @rule(store=st.lists(STORE_DOES, max_size=6), xero=st.lists(COMES_TO, max_size=4))
    def trouble_is_ahead(self, store: list[str], xero: list[str]) -> None:
        """The next operations go so; those after them well again."""
        self.store.troubles, self.answers = deque(store), deque(xero)

    @rule(read_only=st.booleans())
    def the_store_can_only_be_read(self, read_only: bool) -> None:
        self.store.read_only = read_only

    @rule(xero_is=COMES_TO)
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
        """Another takes it while the first, who has checked it before, goes on."""

        async def overlap() -> None:
            first = asyncio.create_task(self.act(self.keepers[which], act))
            for _ in range(turns):
                await asyncio.sleep(0)
            self.store.lapse()
            await asyncio.gather(first, self.act(self.keepers[1 - which], other))

        self.pauses = deque(pauses)
        self.run(overlap())

    @rule(which=WHICH, act=ACTS, turns=st.integers(0, 12), pauses=PAUSES)
    def a_keeper_dies_in_what_it_does(
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
    def a_person_logs_in(self, which: int) -> None:
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
    def a_person_ends_the_login(self, which: int, forget: bool) -> None:
        keeper = self.keepers[which]
        self.clock.advance(0.001)
        stored, unsaved = self.record, keeper.unsaved
        pristine = stored.client_id is None and stored.ended_at is None and not unsaved
        nothing = pristine and not forget
        try:
            told = self.run(keeper.end(forget=forget))
        except StoreUnavailable:
            return
        if not nothing:
            self.actor, self.expected = keeper, None
        if told:  # should that not be written yet, the worst is that Xero is told once more
            assert self.record.consent_id is None
            assert nothing or keeper.account.revocation is None
        else:
            assert not nothing
            assert keeper.account.revocation is not None or keeper.unsaved
        assert not keeper.can_serve

    @rule()
    def xero_ends_the_consent_by_itself(self) -> None:
        """The person disconnected the app at Xero, say."""
        self.identity.forget()
        self.ended_by_xero |= {
            self.record.consent_id,
            *(keeper.account.consent_id for keeper in self.keepers),
        }

    @precondition(lambda self: self.knowing is not None and len(self.store.dumps) > 1)
    @rule(age=st.integers(1, 9))
    def the_store_is_rolled_back(self, age: int) -> None:
        """Somebody alive knows better, and sees it before anybody acts on the old record."""
        assert self.knowing is not None
        keeper, self.store.kept = self.knowing, self.store.dumps[-1 - age % len(self.store.dumps)]
        with self.store.at_peace():
            self.run(self.look(keeper))
            self.run(self.act(keeper, "maintain"))

    @property
    def knowing(self) -> TokenKeeper | None:
        """One that has seen all that the store holds."""
        return next((k for k in self.keepers if k.account.write_id == self.record.write_id), None)

    @rule(minutes=st.sampled_from([1, 6, 25, 31, 90]))
    def time_passes(self, minutes: int) -> None:
        """While both tick. In the end, the bound demands, the store and Xero are well again."""
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
        """Is all that Xero would take from the store a token that was spent, and nearly too long ago?"""
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
        self.answers.clear()
        self.xero_is = "issued"

    def teardown(self) -> None:
        """Once nothing goes wrong any more and the longest wait is over, all are connected, or the login has ended."""
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

    # -------------------------------------------------------------------------- what holds at every step

    @invariant()
    def all_promises_are_kept(self) -> None:
        self.check_the_record()
        for keeper in self.keepers:
            assert not keeper.unsaved or keeper.store_problem, "held in memory, and not told"
        if self.expected != UNKNOWN:
            assert self.actor is None or self.actor.account.consent_id == self.expected
            if not any(keeper.unsaved for keeper in self.keepers):
                assert self.record.consent_id == self.expected

    def check_the_record(self) -> None:
        """The store holds a token from which Xero will issue, if somebody is logged in."""
        if self.record.consent_id is not None and self.record.consent_id not in self.ended_by_xero:
            refusals = [
                self.identity.refusal_of(t.value.reveal(), self.clock.now())
                for t in tokens_of(self.record)
            ]
            assert None in refusals, refusals

    def check_write(self, before: Account, written: Account) -> None:
        """Generations rise; no token leaves but one that was refused, or after another was proved and its own grace."""
        assert written.generation > before.generation
        if before.consent_id is None or written.consent_id != before.consent_id:
            return
        kept = {t.value for t in tokens_of(written)}
        for token in tokens_of(before):
            if token.value not in kept and token.refused_at is None:
                assert written.current is not None
                assert before.current is not None
                assert written.current.value != before.current.value, (
                    "a token left, and none was proved"
                )
                assert (
                    token.first_spent_at is None or self.clock.now() - token.first_spent_at >= GRACE
                )


class TroubledStore(MemoryStore):
    """A memory store in which every operation goes as the story says."""

    def __init__(self, story: Story) -> None:
        super().__init__()
        self.story = story
        self.troubles: deque[str] = deque()
        self.read_only = False
        self.peaceful = False
        self.dumps: list[Stored | None] = [None]

    @property
    def kept(self) -> Stored | None:
        return self._kept.get(NAME)

    @kept.setter
    def kept(self, stored: Stored | None) -> None:
        self._kept = {NAME: stored} if stored else {}

    def calm(self) -> None:
        self.troubles.clear()
        self.read_only = False

    def lapse(self) -> None:
        """Whoever holds the lease has slept past it."""
        self._locks.clear()

    async def _trouble(self, writes: bool = False) -> str:
        await self.story.pause()
        trouble = self.troubles.popleft() if self.troubles and not self.peaceful else "works"
        if trouble == "fails" or (writes and self.read_only and not self.peaceful):
            raise StoreUnavailable("the store is away")
        return trouble

    async def read(self, name: str) -> Stored | None:
        await self._trouble()
        return await super().read(name)

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        trouble, before = await self._trouble(writes=True), self.story.record
        version = await super().swap(name, value, expected=expected)
        self.story.check_write(before, self.story.record)
        self.dumps = [*self.dumps[-9:], self.kept]
        await self.story.pause()
        if trouble == "reply lost":
            raise StoreUnavailable("the reply was lost")
        return version

    async def check(self) -> None:
        await self._trouble(writes=True)

    @contextmanager
    def at_peace(self) -> Iterator[None]:
        """Meanwhile everything works."""
        self.peaceful = True
        try:
            yield
        finally:
            self.peaceful = False


class Xero:
    """What the keepers call: the simulated Xero, whose answers come to what the story says."""

    endpoints = Endpoints(connections_url="")

    def __init__(self, story: Story) -> None:
        self.story = story

    def _comes_to(self) -> str:
        return self.story.answers.popleft() if self.story.answers else self.story.xero_is

    async def refresh(self, credentials: Credentials, token: Secret) -> Outcome:
        story, text = self.story, token.reveal()
        # A process that was cut off has retried already: a second answer in a row without a token is a server's way.
        bare = (
            not any(keeper.account.responses_without_token for keeper in story.keepers)
            and not story.record.responses_without_token
        )

        def commit() -> Any:
            assert story.identity.refusal_of(text, story.clock.now()) is not Refusal.SPENT, (
                "reuse outside the grace"
            )
            answer = story.identity.refresh(CLIENT, text, story.clock.now())
            story.used.setdefault(text, story.clock.now())
            return answer.fields

        return await self._post(commit, bare)

    async def exchange(
        self, credentials: Credentials, *, code: Secret, redirect_uri: str, verifier: Secret | None
    ) -> Outcome:
        story, now = self.story, self.story.clock.now
        return await self._post(
            lambda: story.identity.log_in(CLIENT.client_id, now(), scopes=SCOPES).fields, True
        )

    async def revoke(self, credentials: Credentials, token: Secret) -> Failure | None:
        comes_to = self._comes_to()
        await self.story.pause()
        if comes_to in ("issued", "answer lost"):
            assert self.story.record.consent_id is None, "revoked under a login"
            self.story.identity.revoke(CLIENT, token.reveal())
            await self.story.pause()
        return None if comes_to == "issued" else Unknown(detail=comes_to)

    def close(self) -> None:
        """Nothing is open."""

    async def _post(self, commit: Callable[[], Any], bare: bool) -> Outcome:
        comes_to = self._comes_to()
        await self.story.pause()
        match comes_to:
            case "not sent":
                return NotSent(detail=comes_to)
            case "never arrived":
                return Unknown(detail=comes_to)
            case "throttled":
                seconds = self.story.chance.choice((0, 60, 4000))
                return Throttled(detail=comes_to, retry_after=timedelta(seconds=seconds))
            case "invalid_client":
                return ClientRefused(detail=comes_to, code=comes_to)
        try:
            outcome: Issued = issued(commit())
        except OAuthError:
            return Refused(detail="invalid_grant")
        await self.story.pause()
        if comes_to == "answer lost":
            return Unknown(detail=comes_to)
        if comes_to == "no refresh token" and bare:
            return with_fields(outcome, refresh_token=None)
        return outcome


def test_an_end_is_not_told_as_done_while_it_is_to_be_revoked() -> None:
    """Xero refused all tokens, and the store failed in between: the revocation that is told as done is still to do."""
    story = Story()
    story.two_keepers_start_and_a_person_logs_in(SiblingMode.ALL_VALID, False)
    try:
        story.xero_ends_the_consent_by_itself()
        story.trouble_is_ahead([], ["never arrived"])
        story.one_keeper_acts(0, "refresh")
        story.clock.advance(minutes=1)
        story.trouble_is_ahead(["works", "works", "works", "reply lost", "fails"], [])
        story.a_person_ends_the_login(0, False)
    finally:
        story.teardown()


def test_no_story_loses_a_login() -> None:
    """Whatever two keepers go through, what the store holds is enough to go on, and the last act of a person counts."""
    half_as_many = settings(
        SETTINGS, max_examples=SETTINGS.max_examples // 2
    )  # each takes some 30 ms
    run_state_machine_as_test(Story, settings=half_as_many)
