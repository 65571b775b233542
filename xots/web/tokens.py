"""``/token``: a good access token."""

from __future__ import annotations

from datetime import timedelta

from tornado.web import HTTPError

from .handler import Handler

__all__ = ["ROUTES"]


class TokenHandler(Handler):
    """``/token``: a good access token."""

    async def get(self) -> None:
        """200 with the token; 401 before a login; 503 with Retry-After when it can't be had just now."""
        access = await self.keeper.token(self._min_ttl())
        if self.accepts("text/plain"):
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.write(access.value.reveal())
            return
        account = self.keeper.account
        left = access.expires_at - self.keeper.clock.now()
        self.write_json(
            {
                "accessToken": access.value.reveal(),
                "tokenType": access.token_type,
                "expiresAt": access.expires_at,
                "expiresIn": int(left.total_seconds()),
                "scopes": account.scopes_granted,
                "tenantId": account.tenant_id,
            }
        )

    def _min_ttl(self) -> timedelta | None:
        asked = self.get_query_arguments("min_ttl")
        if not asked:
            return None
        if len(asked) > 1 or not (asked[0].isascii() and asked[0].isdecimal()) or len(asked[0]) > 6:
            raise HTTPError(400, "min_ttl must be a whole number of seconds, given once")
        return timedelta(seconds=int(asked[0]))


ROUTES = [(r"/token", TokenHandler)]
