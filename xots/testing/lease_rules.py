# ruff: noqa: S101 - these are tests, which live in the package so that third parties can run them
"""``LeaseRules``: the lease of every store."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from ..backends.base import TokenStore
from .opening import EVENT_TIMEOUT_SECONDS, Opening, opened

__all__ = ["LeaseRules"]


class LeaseRules:
    """The rules for leases, one test for each."""

    lease_ttl_seconds: ClassVar[float] = 0.6
    """The lifetime of a lease in the test that renews it. A store that renews slowly needs more."""

    async def test_a_lease_excludes(self, opening: Opening) -> None:
        """One task holds the lease at a time, through either opening."""
        async with opened(opening) as (store, another):
            inside = 0

            async def hold(through: TokenStore) -> None:
                nonlocal inside
                async with through.lease("default", 10) as lease:
                    inside += 1
                    assert inside == 1, "two tasks hold the lease at the same time"
                    assert not lease.lost
                    await through.read("default")
                    await asyncio.sleep(0.01)
                    assert inside == 1, "two tasks hold the lease at the same time"
                    inside -= 1

            await asyncio.gather(*(hold(one) for one in (store, another, store, another)))

    async def test_leases_of_two_names_are_apart(self, opening: Opening) -> None:
        """The lease of one name does not delay that of another, however alike they are."""
        async with opened(opening) as (store, another):
            for one, other in (("one", "two"), ("z" * 63 + "1", "z" * 63 + "2")):
                async with (
                    store.lease(one, 30),
                    asyncio.timeout(EVENT_TIMEOUT_SECONDS),
                    another.lease(other, 30),
                ):
                    pass

    async def test_a_lease_is_released_when_its_holder_fails(self, opening: Opening) -> None:
        """An exception releases the lease at once, and passes through it."""
        async with opened(opening) as (store, another):
            failure = KeyError("raised under the lease")

            async def fail() -> None:
                async with store.lease("default", 60):
                    raise failure

            (outcome,) = await asyncio.gather(fail(), return_exceptions=True)
            assert outcome is failure, "the lease swallowed the exception"
            async with asyncio.timeout(EVENT_TIMEOUT_SECONDS), another.lease("default", 60):
                pass

    async def test_a_lease_is_released_when_its_holder_or_a_waiter_is_cancelled(
        self, opening: Opening
    ) -> None:
        """A task that is cancelled as holder or as waiter leaves the lease to the next task."""
        async with opened(opening) as (store, another):
            held = asyncio.Event()

            async def hold(through: TokenStore) -> None:
                async with through.lease("default", 60):
                    held.set()
                    await asyncio.Event().wait()

            holder = asyncio.create_task(hold(store))
            async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                await held.wait()
            waiters = [asyncio.create_task(hold(another)) for _ in range(3)]
            await asyncio.wait(waiters, timeout=0.1)
            for task in (*waiters, holder):
                task.cancel()
            await asyncio.wait([*waiters, holder])
            async with asyncio.timeout(EVENT_TIMEOUT_SECONDS), another.lease("default", 60):
                pass

    async def test_a_lease_is_renewed_while_it_is_held(self, opening: Opening) -> None:
        """A lease held beyond its lifetime is not lost. A waiter gets it after its release."""
        async with opened(opening) as (store, another):
            ttl = self.lease_ttl_seconds

            async def take_over() -> None:
                async with another.lease("default", ttl):
                    pass

            async with store.lease("default", ttl) as lease:
                waiter = asyncio.create_task(take_over())
                held_until = time.monotonic() + 2.2 * ttl
                while time.monotonic() < held_until:
                    assert not lease.lost, "the lease was lost while it was held"
                    assert not waiter.done(), "another task got the lease while it was held"
                    await asyncio.sleep(ttl / 20)
            async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                await waiter
