"""The end of a keeper whose store and client were made for it alone."""

from __future__ import annotations

from support.inside import context_of

from xots.keeping.keeper import TokenKeeper


async def close_with_all(keeper: TokenKeeper) -> None:
    """Close the keeper, and then its store and its client; raises as ``TokenKeeper.close``."""
    context = context_of(keeper)
    try:
        await keeper.close()
    finally:
        context.xero.close()
        await context.store.close()
