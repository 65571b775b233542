"""A refresh, in an order in which no crash loses a token: intent, request, commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from msgspec.structs import replace

from ..backends.base import Lease
from ..errors import SealError, StaleWrite, StoreUnavailable
from ..lifecycle.account import RefreshToken
from ..lifecycle.candidates import is_strict
from ..lifecycle.outcomes import Issued, Outcome, Refused
from ..lifecycle.schedule import NoteCutOff, Obtain, Spend, is_work
from ..lifecycle.transitions import after, after_cut_off, begin_refresh
from ..tasks import Closed, SharedTask, Tasks
from .context import Context
from .obtaining import obtain
from .reporting import cut_off_event, refresh_events, resumed_event

__all__ = ["Refreshing", "refresh", "spend"]

SERVABLE_TIMEOUT_SECONDS = 5.0
"""Time a caller waits for a refresh if the old access token can be returned instead."""

ADDITIONAL_TIMEOUT_SECONDS = 60.0
"""Additional timeout when no valid token can be returned instead: longer than the lease, the
deadline for Xero and a working store take."""


class Refreshing:
    """The refresh of one account, which all callers in the process share.

    Args:
        context: the parts of the account's keeper.
        tasks: the keeper's tasks, which the refresh belongs to.
        refreshed: is called after a refresh that brought an access token. It must not wait.
    """

    def __init__(self, context: Context, tasks: Tasks, refreshed: Callable[[], None]) -> None:
        self._context = context
        self._refreshed = refreshed
        self._shared = SharedTask(tasks)

    @property
    def in_progress(self) -> bool:
        """True while a refresh runs that callers can join."""
        return self._shared.running is not None

    async def join(
        self,
        *,
        min_life: timedelta | None = None,
        expected_current: str | None = None,
        by_user: bool = False,
        stale_ok: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Join the refresh in progress, or start one. Return when it is over, whatever its outcome,
        or when it takes longer than a caller waits.

        Args:
            min_life: as in ``schedule.next_step``; ignored if a refresh is joined.
            expected_current: likewise.
            by_user: likewise.
            stale_ok: tells if the caller can use the old access token meanwhile.

        Returns:
            False if the refresh of another caller was joined and is over, so that one of the
            caller's own may be started now.
        """
        try:
            task, started = self._shared.join(
                lambda: self._refresh(min_life, expected_current, by_user=by_user)
            )
        except Closed:
            return True
        # The task goes on, whatever becomes of its callers.
        done, _ = await asyncio.wait([task], timeout=SERVABLE_TIMEOUT_SECONDS)
        if not done and not stale_ok():
            done, _ = await asyncio.wait([task], timeout=ADDITIONAL_TIMEOUT_SECONDS)
        for ended in done:
            ended.result()
        return started or not done

    async def _refresh(
        self, min_life: timedelta | None, expected_current: str | None, *, by_user: bool
    ) -> None:
        before = self._context.replica.account.access
        await refresh(self._context, min_life, expected_current, by_user=by_user)
        if self._context.replica.account.access not in (None, before):
            self._refreshed()

    async def complete(self, expected_current: str | None = None, *, by_user: bool = False) -> None:
        """Join the refresh in progress, and make the one that is due or forced after it. Without
        either, neither the lease is taken nor the store read: a flood of calls delays nothing."""
        while self.in_progress or self._has_work(expected_current, by_user):
            # The joined refresh may have been about to end. Then start another.
            if await self.join(expected_current=expected_current, by_user=by_user):
                return

    def _has_work(self, expected_current: str | None, by_user: bool) -> bool:
        step = self._context.next_step(expected_current=expected_current, by_user=by_user)
        return is_work(step)


async def refresh(
    context: Context,
    min_life: timedelta | None = None,
    expected_current: str | None = None,
    *,
    by_user: bool = False,
) -> None:
    """Refresh the account if that is still due under the lease.

    It never raises for a failed store or request: the record and the events hold the outcome.
    """
    replica, issued = context.replica, False
    try:
        # Step 1. Take the lease and read the record again: another process may have refreshed it.
        async with replica.locked() as lease:
            while context.may_send(lease):
                step = context.next_step(
                    min_life=min_life, expected_current=expected_current, by_user=by_user
                )
                try:
                    match step:
                        case Spend():
                            outcome = await spend(context, step.token, lease)  # steps 2 to 6
                            by_user = False  # a refused token is sent once
                        case NoteCutOff():
                            return await note_cut_off(context)
                        case Obtain():
                            return await obtain(context, lease)
                        case _:
                            return None
                except StaleWrite:
                    # A process whose lease has run out wrote under ours: decide by its record.
                    await replica.read()
                    continue
                # Step 7. After a refusal, go on with the next candidate. A replayed access token
                # may have expired already: then refresh once more.
                match outcome:
                    case Refused():
                        continue
                    case Issued() if not issued:
                        issued, min_life, expected_current = True, None, None
                    case _:
                        return None
    except (StoreUnavailable, SealError) as error:
        replica.failed(error)


async def spend(context: Context, token: RefreshToken, lease: Lease) -> Outcome | None:
    """Spend ``token`` once, from its intent to the next record: steps 2 to 6 of a refresh.

    It first waits while too many requests of other accounts are in progress. Returns None if the
    process stops meanwhile; also, with the intent written, if the lease ran out before the request.

    A lease can run out while its holder is suspended. This is why each write is a compare-and-set,
    and why a late response joins the record instead of replacing it::

        second  process A                   process B                   record
        ------  --------------------------  --------------------------  ---------------------
           0.0  takes the lease                                         r0
           0.1  writes its intent                                       r0 spent, intent of A
           0.2  sends r0; Xero issues r1
           0.3  is suspended, r1 unread
          12.2  (its lease runs out)        takes the lease
          12.3                              writes its intent           r0 spent, intent of B
          12.4                              sends r0; Xero issues r2
          12.5                              commits                     r2, r0 spent
          60.0  wakes up, reads r1
          60.1  commits: a stale write,                                 r2, r1, r0 spent
                so r1 joins as a fallback
         360.0                              spends r2, which proves     r3, r2 spent, r0 spent
                                            it and drops r1

    Leases last 12 seconds (``LEASE_SECONDS``). Had A been suspended before step 3, it would find
    its lease lost and send nothing.

    Raises:
        StaleWrite: another process has written the record since it was read; nothing was spent.
        StoreUnavailable, SealError: the intent could not be written; nothing was spent.
    """
    async with context.xero.slot() as may_send:
        return await _spend(context, token, lease) if may_send else None


async def _spend(context: Context, token: RefreshToken, lease: Lease) -> Outcome | None:
    replica, clock = context.replica, context.clock

    # Step 2. Write the intent, as a compare-and-set on the stored record. If that fails, the token
    # is not spent. A later process that finds the intent knows that the token may be spent.
    found, began_at = replica.account, clock.now()
    strict = is_strict(context.policy)
    begun = await replica.compare_and_set(
        begin_refresh(found, token, by=context.process, now=began_at, strict=strict)
    )
    if resumed := resumed_event(context.name, found, token, began_at):
        context.emit(resumed)

    # Step 3. Check that the lease still holds: this process may have been suspended during the
    # write. Where no token is sent again, it withdraws its intent; elsewhere that is resumed.
    if not context.may_send(lease):
        if strict:
            unsent = replace(
                begun, current=found.current, fallbacks=found.fallbacks, intent=found.intent
            )
            await replica.commit(unsent, after=begun)
        return None

    # Step 4. Send the request once. It has a deadline, and no library retries it.
    is_retry = begun.intent is not None and not begun.intent.set_first_spent
    is_retry = is_retry and not strict  # which sends no replay
    sending = replica.expiry.sending(token.fingerprint, retry=is_retry, elapsed=clock.elapsed())
    replica.expiry = sending
    credentials, outcome = await context.authenticated(context.xero.refresh, token, lease)

    # Step 5. Make the next record of the outcome.
    now = clock.now()
    jitter = context.rng.random()
    concluded = after(begun, outcome, now=now, policy=context.policy, jitter=jitter)
    if isinstance(outcome, Issued):
        concluded = sending.issued(concluded, now, clock.elapsed())
        concluded = replace(concluded, client_secret=credentials.client_secret)

    # Step 6. Commit it at once. Memory has it before the store, so a new caller may receive the
    # access token during the write; if the process dies then, the stored intent remains. A record
    # that another process wrote meanwhile is merged with it. If the store fails, memory holds it
    # until the store works again.
    await replica.commit(concluded, after=begun)

    events = refresh_events(
        context.situation(),
        begun=begun,
        spent=token,
        outcome=outcome,
        concluded=concluded,
        seconds=(now - began_at).total_seconds(),
    )
    for event in events:
        context.emit(event)
    return outcome


async def note_cut_off(context: Context) -> None:
    """Record that the open refresh of another process was cut off: the lease shows that. Its token
    is not sent again now, and the operator learns when a user must log in.

    Raises:
        StaleWrite, StoreUnavailable, SealError: it could not be written.
    """
    replica, now = context.replica, context.clock.now()
    found, token = replica.account, replica.account.spending
    if token is None:
        return
    noted = after_cut_off(found, now=now)
    await replica.compare_and_set(noted)
    if noted.problem is not None:
        context.emit(cut_off_event(context.situation(), token, noted.problem))
