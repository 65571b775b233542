# ruff: noqa: S101 - these are tests, which live in the package so that third parties can run them
"""``TokenStoreContract``: the suite that every store passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import ClassVar, TypeAlias

from ..backends.base import TokenStore
from ..errors import StaleWrite

__all__ = ["Opening", "TokenStoreContract"]

Opening: TypeAlias = Callable[[], TokenStore]

EVENT_TIMEOUT_SECONDS = 20.0
"""A test fails after this wait for an event. Each event takes far less, on a busy machine too."""

EVERY_BYTE = bytes(range(256))
"""Each value that a byte can have, once."""


class TokenStoreContract:
    """The behaviour of every store, one test for each rule.

    The subclass defines the fixture ``opening`` (it may be async), which returns a function without
    arguments. Each call of the function returns an unused ``TokenStore`` on the *same* records;
    there are none when a test begins. The tests close the stores. A test calls the function once if
    the store is not shared.
    """

    lease_ttl_seconds: ClassVar[float] = 0.6
    """The lifetime of a lease in the test that renews it. A store that renews slowly needs more."""

    async def test_a_missing_name_is_none(self, opening: Opening) -> None:
        """A name that was never written reads as None. It is not an error."""
        async with _opened(opening) as (store, another):
            assert await store.read("default") is None
            assert await store.names() == []
            assert await another.read("default") is None

    async def test_what_was_written_is_read_back(self, opening: Opening) -> None:
        """Each opening returns the same bytes: every byte value, no bytes, and 256 kB of them."""
        async with _opened(opening) as (store, another):
            version = None
            for value in (
                EVERY_BYTE,
                b"",
                EVERY_BYTE * 1024,
                b"\r\n",
                b"\x00",
                b"{}",
                "é".encode(),
            ):
                version = await store.swap("default", value, expected=version)
                for reader in (store, another):
                    stored = await reader.read("default")
                    assert stored is not None
                    assert type(stored.value) is bytes
                    assert stored.value == value
                    assert stored.version == version, "swap and read return different versions"

    async def test_an_empty_value_is_not_a_missing_name(self, opening: Opening) -> None:
        """A record without bytes exists: it is listed, and a second creation is stale."""
        async with _opened(opening) as (store, _):
            await store.swap("default", b"", expected=None)
            assert await store.names() == ["default"]
            await _is_stale(store.swap("default", b"new", expected=None))

    async def test_a_stale_write_writes_nothing(self, opening: Opening) -> None:
        """A write that expects no record or another version is stale and changes nothing."""
        async with _opened(opening) as (store, another):
            first = await store.swap("default", b"first", expected=None)
            await _is_stale(another.swap("default", b"intruder", expected=None))
            second = await another.swap("default", b"second", expected=first)
            await _is_stale(store.swap("default", b"late", expected=first))
            await _is_stale(store.swap("default", b"late", expected="no such version"))
            stored = await store.read("default")
            assert stored is not None
            assert (stored.value, stored.version) == (b"second", second)

    async def test_a_version_of_a_missing_name_is_stale(self, opening: Opening) -> None:
        """A store that lost the expected record raises StaleWrite and does not create another."""
        async with _opened(opening) as (store, _):
            version = await store.swap("other", b"value", expected=None)
            await _is_stale(store.swap("default", b"value", expected=version))
            assert await store.read("default") is None

    async def test_a_version_never_stands_for_two_values(self, opening: Opening) -> None:
        """Versions are not counters: no version of an earlier value fits later bytes."""
        async with _opened(opening) as (store, _):
            value_of: dict[str, bytes] = {}
            version = None
            for value in (b"one", b"two", b"one", b"three", b"two", b"one"):
                old, version = version, await store.swap("default", value, expected=version)
                assert value_of.setdefault(version, value) == value, (
                    "one version stood for two values"
                )
                if old is not None:
                    await _is_stale(store.swap("default", b"late", expected=old))
            elsewhere = await store.swap("other", b"four", expected=None)
            assert value_of.setdefault(elsewhere, b"four") == b"four", (
                "versions begin anew for each name"
            )

    async def test_names_are_listed_in_order(self, opening: Opening) -> None:
        """Each valid name has its own record and is listed, in order; leases are hidden."""
        names = [
            "-",
            "0",
            "a",
            "a-",
            "a-b",
            "a0",
            "default",
            "lease",
            "leasehold",
            "z" * 63,
            "z" * 64,
        ]
        async with _opened(opening) as (store, another):
            for name in reversed(names):
                await store.swap(name, name.encode(), expected=None)
            await store.swap("lease-of-the-store", b"", expected=None)
            async with store.lease("default", 10), store.lease("z" * 64, 10):
                assert await another.names() == sorted(names)
            assert await store.names() == sorted(names)
            for name in names:
                stored = await another.read(name)
                assert stored is not None
                assert stored.value == name.encode()

    async def test_of_swaps_at_the_same_time_one_wins(self, opening: Opening) -> None:
        """Of concurrent swaps of one version, creations or not, exactly one is written."""
        async with _opened(opening) as (store, another):
            version = None
            for turn in range(3):
                values = [f"{turn} {number}".encode() for number in range(8)]
                swaps = [
                    (store, another)[number % 2].swap("default", value, expected=version)
                    for number, value in enumerate(values)
                ]
                results = await asyncio.gather(*swaps, return_exceptions=True)
                won = [number for number, result in enumerate(results) if isinstance(result, str)]
                assert len(won) == 1, results
                assert all(isinstance(result, str | StaleWrite) for result in results), results
                stored = await another.read("default")
                assert stored is not None
                assert stored.value == values[won[0]]
                version = stored.version
                assert version == results[won[0]]

    async def test_no_change_is_lost(self, opening: Opening) -> None:
        """Each increment by concurrent writers counts, if they retry their stale writes."""
        async with _opened(opening) as (store, another):

            async def add(through: TokenStore, times: int) -> None:
                while times:
                    stored = await through.read("default")
                    value = b"%d" % (int(stored.value) + 1 if stored else 1)
                    with suppress(StaleWrite):
                        await through.swap(
                            "default", value, expected=stored.version if stored else None
                        )
                        times -= 1

            await asyncio.gather(*(add(one, 5) for one in (store, another, store, another)))
            stored = await store.read("default")
            assert stored is not None
            assert stored.value == b"20"

    async def test_a_cancelled_swap_is_whole_or_nothing(self, opening: Opening) -> None:
        """A cancelled write leaves the old or the new value, and a store that works."""
        async with _opened(opening) as (store, another):
            version, possible = None, [b""]
            for number in range(10):
                new = b"new %d" % number * 1000
                swap = asyncio.ensure_future(store.swap("default", new, expected=version))
                for _ in range(number):
                    await asyncio.sleep(0)
                swap.cancel()
                with suppress(asyncio.CancelledError):
                    await swap
                # The cancelled write may still take effect. Then this write is stale: read again.
                settled, version = b"settled %d" % number, None
                async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                    while version is None:
                        stored = await another.read("default")
                        assert (stored.value if stored else b"") in (*possible, new)
                        with suppress(StaleWrite):
                            version = await another.swap(
                                "default", settled, expected=stored.version if stored else None
                            )
                possible = [settled]

    async def test_a_lease_excludes(self, opening: Opening) -> None:
        """One task holds the lease at a time, through either opening."""
        async with _opened(opening) as (store, another):
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
        """The lease of one name does not delay that of another."""
        async with (
            _opened(opening) as (store, another),
            store.lease("one", 30),
            asyncio.timeout(EVENT_TIMEOUT_SECONDS),
            another.lease("two", 30),
        ):
            pass

    async def test_a_lease_is_released_when_its_holder_fails(self, opening: Opening) -> None:
        """An exception releases the lease at once, and passes through it."""
        async with _opened(opening) as (store, another):
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
        async with _opened(opening) as (store, another):
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
        async with _opened(opening) as (store, another):
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

    async def test_a_change_is_noticed(self, opening: Opening) -> None:
        """A follower of a name is notified of each write through another opening."""
        async with _opened(opening) as (store, another):
            changes = store.changes("default", every_seconds=0.05)
            version = None
            try:
                # The time at which it begins to follow is unknown, so write until it is notified.
                notified = asyncio.ensure_future(anext(changes))
                give_up_at = time.monotonic() + EVENT_TIMEOUT_SECONDS
                while not notified.done():
                    assert time.monotonic() < give_up_at, "no change was noticed"
                    version = await another.swap(
                        "default", b"%f" % time.monotonic(), expected=version
                    )
                    await asyncio.wait([notified], timeout=0.1)
                await notified
                # From now on it is notified of each write.
                for _ in range(3):
                    version = await another.swap(
                        "default", b"%f" % time.monotonic(), expected=version
                    )
                    async with asyncio.timeout(EVENT_TIMEOUT_SECONDS):
                        await anext(changes)
            finally:
                await changes.aclose()  # type: ignore[attr-defined] # an async generator

    async def test_the_check_passes(self, opening: Opening) -> None:
        """The check of a working store passes and leaves no record. Warnings are texts."""
        async with _opened(opening) as (store, another):
            await store.check()
            await asyncio.gather(store.check(), another.check(), store.check())
            assert await another.names() == []
            assert all(isinstance(warning, str) and warning for warning in await store.warnings())

    async def test_the_clocks_of_one_machine_agree(self, opening: Opening) -> None:
        """A store that compares clocks finds no difference here; others return None."""
        async with _opened(opening) as (store, another):
            async with another.lease("default", 10):
                pass
            found = await store.clock_skew("default")
            if found is not None:
                host, ahead = found
                assert host
                assert abs(ahead) < timedelta(seconds=10)

    async def test_it_may_be_closed_again(self, opening: Opening) -> None:
        """Closing an unused or a closed store is no error. Shared records stay."""
        async with _opened(opening) as (store, another):
            await store.swap("default", b"kept", expected=None)
            await store.close()
            await store.close()
            if another is not store:
                stored = await another.read("default")
                assert stored is not None
                assert stored.value == b"kept"
                unused = opening()
                await unused.close()
                await unused.close()

    async def test_a_url_that_is_not_its_own_is_refused(self, opening: Opening) -> None:
        """A wrong URL raises ValueError with a message that holds no password."""
        async with _opened(opening) as (store, _):
            for url in (
                "",
                "nonsense",
                "nonsense:",
                "nonsense://someone:canary@host/path?key=canary",
            ):
                message = None
                try:
                    type(store).from_url(url)
                except ValueError as error:
                    message = str(error)
                assert message, f"from_url accepts {url!r}, or raises without a message"
                assert "canary" not in message

    async def test_it_says_what_it_is(self, opening: Opening) -> None:
        """The attributes of the class are booleans. They decide how its records are sealed."""
        async with _opened(opening) as (store, _):
            assert isinstance(store.shared, bool)
            assert isinstance(store.durable, bool)
            assert isinstance(store.may_generate_key, bool)


@asynccontextmanager
async def _opened(opening: Opening) -> AsyncIterator[tuple[TokenStore, TokenStore]]:
    """Open the store twice, or once if it is not shared. Close both at the end."""
    store = opening()
    another = opening() if store.shared else store
    try:
        yield store, another
    finally:
        await store.close()
        await another.close()


async def _is_stale(swap: Awaitable[str]) -> None:
    try:
        await swap
    except StaleWrite:
        return
    raise AssertionError("a stale write was accepted")
