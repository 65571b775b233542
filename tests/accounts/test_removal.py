"""The removal of accounts at run time, and their addition anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bench import eventually
from support.several import Several

from xots.backends.file import FileStore
from xots.errors import AccountUnusable, UnknownAccount
from xots.lifecycle.account import Entry

OTHER_LOGIN = "client_id: the stored login belongs to another client"


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_an_account_that_is_added_anew_has_its_new_settings_at_once(
    several: Several, tmp_path: Path, kind: str
) -> None:
    """Its keeper from before the removal is still open, with the client from before."""
    if kind == "file":
        several.store = FileStore(tmp_path / "store")
    accounts = await several.manager()
    for client_id in ("first", "second"):
        entry = Entry(client_id=client_id, added_at=several.clock.now())
        await accounts.add("smith", entry)
        async with accounts.opened("smith") as found:
            assert found.config.entry is not None
            assert found.config.entry.client_id == client_id
        if client_id == "first":
            await accounts.remove("smith")


async def test_a_new_process_opens_no_removed_account(several: Several) -> None:
    """It lists the names before it has read the records."""
    first = await several.manager(max_accounts=2)
    await several.add(first, "smith", log_in=False)
    await first.remove("smith")
    second = await several.manager(max_accounts=2)
    with pytest.raises(UnknownAccount):
        async with second.opened("smith"):
            pass
    assert second.names() == ["default"]


async def test_a_new_process_does_not_count_removed_accounts(several: Several) -> None:
    """Their names are free, and so are their places among max_accounts."""
    first = await several.manager(max_accounts=2)
    await several.add(first, "smith", log_in=False)
    await first.remove("smith")
    second = await several.manager(max_accounts=2)
    await several.add(second, "smith", log_in=False)
    await second.remove("smith")
    third = await several.manager(max_accounts=2)
    await several.add(third, "jones", log_in=False)
    assert third.names() == ["default", "jones"]


async def test_an_account_with_settings_of_another_login_can_be_removed(
    several: Several, expected_log: object
) -> None:
    """No other way leads out of it at run time. Its own client revokes its tokens."""
    expected_log("smith: ")  # type: ignore[operator]
    first = await several.manager()
    await several.add(first, "smith")
    several.problems["smith"] = [OTHER_LOGIN]
    second = await several.manager()
    with pytest.raises(AccountUnusable):
        async with second.opened("smith"):
            pass
    assert second.open_now == ["default"]
    await second.remove("smith")
    assert second.names() == ["default"]
    assert (await several.record("smith")).removed
    assert not several.sandbox.identity.usable_refresh_tokens(several.clock.now())


async def test_a_pending_revocation_does_not_depend_on_new_settings(
    several: Several, expected_log: object
) -> None:
    """Removed while Xero is down, and added anew with another client: the tokens are revoked, and
    then the account can be used."""
    expected_log("smith: ")  # type: ignore[operator]
    accounts = await several.manager()
    await several.add(accounts, "smith")
    several.sandbox.add_fault("revocation:nth=1:503-json")
    await accounts.remove("smith")
    assert (await several.record("smith")).revocation
    several.problems["smith"] = [OTHER_LOGIN]
    await several.add(accounts, "smith", log_in=False)
    several.clock.advance(minutes=30)
    await accounts.maintain()
    await eventually(lambda: not accounts.busy)
    assert not (await several.record("smith")).revocation
    assert not several.sandbox.identity.usable_refresh_tokens(several.clock.now())
    several.problems.clear()
    async with accounts.opened("smith") as found:
        await found.keeper.login(several.attempt())
