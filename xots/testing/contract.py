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

PATIENCE_SECONDS = 20.0
"""How long a test waits for what must happen before it fails: far longer than it takes on a busy machine."""

EVERY_BYTE = bytes(range(256))


class TokenStoreContract:
    """What every store must do. Each test gets a store of its own through the fixture ``opening``.

    The fixture, which the subclass defines (it may be async), gives a function without arguments. Every call of it
    makes a ``TokenStore``, unopened, on the *same* kept records, which are empty when the test begins; the tests
    close what they made. Of a store that is not shared, it is called once a test.
    """

    lease_ttl_seconds: ClassVar[float] = 0.6
    """The life of a lease that is held beyond it; longer for a store that needs long to renew one."""

    async def test_a_missing_name_is_none(self, opening: Opening) -> None:
        """What was never written is None, not an error."""
        async with _opened(opening) as (store, another):
            assert await store.read("default") is None
            assert await store.names() == []
            assert await another.read("default") is None

    async def test_what_was_written_is_read_back(self, opening: Opening) -> None:
        """Every byte value, no byte at all, and a record of 256 kB come back as they were, from any opening."""
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
                    assert stored.version == version, "swap gives the version that read gives"

    async def test_an_empty_value_is_not_a_missing_name(self, opening: Opening) -> None:
        """A record of no bytes is there: it is listed, and can't be created again."""
        async with _opened(opening) as (store, _):
            await store.swap("default", b"", expected=None)
            assert await store.names() == ["default"]
            await _is_stale(store.swap("default", b"new", expected=None))

    async def test_a_stale_write_writes_nothing(self, opening: Opening) -> None:
        """Whoever expects nothing where there is something, or another version, gets StaleWrite and changes nothing."""
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
        """A store that lost a record says so to whoever expects it, and does not make it anew."""
        async with _opened(opening) as (store, _):
            version = await store.swap("other", b"value", expected=None)
            await _is_stale(store.swap("default", b"value", expected=version))
            assert await store.read("default") is None

    async def test_a_version_never_stands_for_two_values(self, opening: Opening) -> None:
        """Versions are not counters: when a value is written again after another, no old version fits the new bytes."""
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
        """Every legal name is kept apart from the others and listed, in order; the store's own are hidden."""
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
        """Of many that expect the same version exactly one is written, whether it creates the record or replaces it."""
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
        """Many who read, add one and write, again and again until it is not stale, add up."""
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
        """A caller who goes away in mid-write leaves the old value or the new one, and a store that works."""
        async with _opened(opening) as (store, another):
            version, there = None, [b""]
            for number in range(10):
                new = b"new %d" % number * 1000
                swap = asyncio.ensure_future(store.swap("default", new, expected=version))
                for _ in range(number):
                    await asyncio.sleep(0)
                swap.cancel()
                with suppress(asyncio.CancelledError):
                    await swap
                # It may still conclude; whoever finds his own write stale then looks again.
                settled, version = b"settled %d" % number, None
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while version is None:
                        stored = await another.read("default")
                        assert (stored.value if stored else b"") in (*there, new)
                        with suppress(StaleWrite):
                            version = await another.swap(
                                "default", settled, expected=stored.version if stored else None
                            )
                there = [settled]

    async def test_a_lease_excludes(self, opening: Opening) -> None:
        """One holder at a time, however many want it, through whichever opening."""
        async with _opened(opening) as (store, another):
            inside = 0

            async def hold(through: TokenStore) -> None:
                nonlocal inside
                async with through.lease("default", 10) as lease:
                    inside += 1
                    assert inside == 1, "two hold the lease at the same time"
                    assert not lease.lost
                    await through.read("default")
                    await asyncio.sleep(0.01)
                    assert inside == 1, "two hold the lease at the same time"
                    inside -= 1

            await asyncio.gather(*(hold(one) for one in (store, another, store, another)))

    async def test_leases_of_two_names_are_apart(self, opening: Opening) -> None:
        """Whoever acts for one account does not hold up another."""
        async with (
            _opened(opening) as (store, another),
            store.lease("one", 30),
            asyncio.timeout(PATIENCE_SECONDS),
            another.lease("two", 30),
        ):
            pass

    async def test_a_lease_is_released_when_its_holder_fails(self, opening: Opening) -> None:
        """An exception inside gives the lease back, long before it runs out, and passes through."""
        async with _opened(opening) as (store, another):
            went_wrong = KeyError("what went wrong inside")

            async def fail() -> None:
                async with store.lease("default", 60):
                    raise went_wrong

            (outcome,) = await asyncio.gather(fail(), return_exceptions=True)
            assert outcome is went_wrong, "the lease swallowed what went wrong inside"
            async with asyncio.timeout(PATIENCE_SECONDS), another.lease("default", 60):
                pass

    async def test_a_lease_is_released_when_its_holder_or_a_waiter_is_cancelled(
        self, opening: Opening
    ) -> None:
        """A task that is cancelled while it holds the lease, or waits for it, leaves it to the next."""
        async with _opened(opening) as (store, another):
            held = asyncio.Event()

            async def hold(through: TokenStore) -> None:
                async with through.lease("default", 60):
                    held.set()
                    await asyncio.Event().wait()

            holder = asyncio.create_task(hold(store))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await held.wait()
            waiters = [asyncio.create_task(hold(another)) for _ in range(3)]
            await asyncio.wait(waiters, timeout=0.1)
            for task in (*waiters, holder):
                task.cancel()
            await asyncio.wait([*waiters, holder])
            async with asyncio.timeout(PATIENCE_SECONDS), another.lease("default", 60):
                pass

    async def test_a_lease_is_renewed_while_it_is_held(self, opening: Opening) -> None:
        """Held for longer than its life, it is neither lost nor given to another; then the next one gets it."""
        async with _opened(opening) as (store, another):
            ttl = self.lease_ttl_seconds

            async def next_one() -> None:
                async with another.lease("default", ttl):
                    pass

            async with store.lease("default", ttl) as lease:
                waiter = asyncio.create_task(next_one())
                held_until = time.monotonic() + 2.2 * ttl
                while time.monotonic() < held_until:
                    assert not lease.lost, "the lease was lost while it was held"
                    assert not waiter.done(), "another got the lease while it was held"
                    await asyncio.sleep(ttl / 20)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await waiter

    async def test_a_change_is_noticed(self, opening: Opening) -> None:
        """Whoever follows a name is told of what another opening writes, each time."""
        async with _opened(opening) as (store, another):
            changes = store.changes("default", every_seconds=0.05)
            version = None
            try:
                # When it begins to follow is not known: so it is written until it is told.
                told = asyncio.ensure_future(anext(changes))
                give_up_at = time.monotonic() + PATIENCE_SECONDS
                while not told.done():
                    assert time.monotonic() < give_up_at, "no change was noticed"
                    version = await another.swap(
                        "default", b"%f" % time.monotonic(), expected=version
                    )
                    await asyncio.wait([told], timeout=0.1)
                await told
                # From now on, each single write counts.
                for _ in range(3):
                    version = await another.swap(
                        "default", b"%f" % time.monotonic(), expected=version
                    )
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await anext(changes)
            finally:
                await changes.aclose()  # type: ignore[attr-defined] # an async generator, as every override is

    async def test_the_check_passes(self, opening: Opening) -> None:
        """A store that works says so, leaves no trace of the check, and its warnings are sentences."""
        async with _opened(opening) as (store, another):
            await store.check()
            await asyncio.gather(store.check(), another.check(), store.check())
            assert await another.names() == []
            assert all(isinstance(warning, str) and warning for warning in await store.warnings())

    async def test_the_clocks_of_one_machine_agree(self, opening: Opening) -> None:
        """A store that compares clocks finds no difference here; one that cannot returns None."""
        async with _opened(opening) as (store, another):
            async with another.lease("default", 10):
                pass
            found = await store.clock_skew("default")
            if found is not None:
                host, ahead = found
                assert host
                assert abs(ahead) < timedelta(seconds=10)

    async def test_it_may_be_closed_again(self, opening: Opening) -> None:
        """Closing what was never used, or is closed already, is no error; what is durable or shared is still there."""
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
        """A wrong URL is a ValueError with a message, in which no password stands."""
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
                assert message, f"from_url accepts {url!r}, or does not say what is wrong with it"
                assert "canary" not in message

    async def test_it_says_what_it_is(self, opening: Opening) -> None:
        """Whether other processes see it, and whether it survives a restart, decide what is sealed and with what."""
        async with _opened(opening) as (store, _):
            assert isinstance(store.shared, bool)
            assert isinstance(store.durable, bool)
            assert isinstance(store.may_generate_key, bool)


@asynccontextmanager
async def _opened(opening: Opening) -> AsyncIterator[tuple[TokenStore, TokenStore]]:
    """The store, and another opening of it where it is shared (else the same once more)."""
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
