# ruff: noqa: S101 - these are tests, which live in the package so that third parties can run them
"""``TokenStoreContract``: the suite that every store passes."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from .change_rules import ChangeRules
from .fault_rules import FaultRules, Faults
from .index_rules import IndexRules
from .lease_rules import LeaseRules
from .opening import Opening, opened
from .record_rules import RecordRules

__all__ = ["Faults", "Opening", "TokenStoreContract"]


class TokenStoreContract(RecordRules, LeaseRules, ChangeRules, IndexRules, FaultRules):
    """The behaviour of every store, one test for each rule.

    The subclass defines the fixture ``opening`` (it may be async), which returns a function without
    arguments. Each call of the function returns an unused ``TokenStore`` on the *same* records;
    there are none when a test begins. The tests close the stores. A test calls the function once if
    the store is not shared.

    It also defines the fixture ``faults``, which returns the ``Faults`` that the tests cause. A
    store that keeps its records in this process returns None: nothing can fail between the two. It
    is an error if a shared or durable store returns None.
    """

    async def test_the_check_passes(self, opening: Opening) -> None:
        """The check of a working store passes and leaves no record. Warnings are texts."""
        async with opened(opening) as (store, another):
            await store.check()
            await asyncio.gather(store.check(), another.check(), store.check())
            assert await another.names() == []
            assert all(isinstance(warning, str) and warning for warning in await store.warnings())

    async def test_the_clocks_of_one_machine_agree(self, opening: Opening) -> None:
        """A store that compares clocks finds no difference here; others return None."""
        async with opened(opening) as (store, another):
            async with another.lease("default", 10):
                pass
            found = await store.clock_skew("default")
            if found is not None:
                host, ahead = found
                assert host
                assert abs(ahead) < timedelta(seconds=10)

    async def test_it_may_be_closed_again(self, opening: Opening) -> None:
        """Closing an unused or a closed store is no error. Shared records stay."""
        async with opened(opening) as (store, another):
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
        async with opened(opening) as (store, _):
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
        async with opened(opening) as (store, _):
            assert isinstance(store.shared, bool)
            assert isinstance(store.durable, bool)
            assert isinstance(store.shares_index, bool)
            assert isinstance(store.may_generate_key, bool)
