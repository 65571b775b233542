"""Close a keeper together with the store and the client that were made for it alone."""

from __future__ import annotations

from support.inside import context_of

from xots.keeping.keeper import TokenKeeper


async def close_with_all(keeper: TokenKeeper) -> None:
    """Close the keeper, its store and its client. Raise the errors of ``TokenKeeper.close``."""
    context = context_of(keeper)
    try:
        await keeper.close()
    finally:
        context.xero.close()
        await context.store.close()
