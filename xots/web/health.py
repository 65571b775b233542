"""``/livez``, ``/ping`` and ``/ready``: the health of the login, the process and the store.

``/ping`` and ``/ready`` accept any Host, so they say one bit only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..access import TOKEN_SCOPES
from ..keeping.keeper import TokenKeeper
from ..lifecycle.schedule import State
from ..wording import problem_text
from .handler import Handler
from .problems import CHALLENGE

__all__ = ["ROUTES", "health", "if_known", "store_health"]

T = TypeVar("T")
R = TypeVar("R")


def health(keeper: TokenKeeper) -> dict[str, Any]:
    """Return the health of the login, without secrets, under the field names of the Go server.

    The age at which a refresh token is rotated counts as its lifetime; Xero's is longer.
    """
    account, access, current = keeper.account, None, None
    server = keeper.identity_server.name
    problem = if_known(account.problem, lambda found: problem_text(found, server))
    if account.consent_id is not None:
        access, current = account.access, account.current
    return {
        "healthy": keeper.can_serve,
        "state": keeper.state.value,
        "reason": keeper.store_problem or problem,
        "access_token_expiry_utc": if_known(access, lambda token: token.expires_at),
        "refresh_token_expiry_utc": if_known(
            current, lambda token: token.obtained_at + keeper.policy.refresh_lifetime
        ),
    }


def if_known(value: T | None, field: Callable[[T], R]) -> R | None:
    """Return the field of a value; None if there is no value."""
    return None if value is None else field(value)


def store_health(problem: str | None) -> str:
    """Return ``ok``, or ``degraded`` if the store has a problem."""
    return "degraded" if problem else "ok"


class LivezHandler(Handler):
    """``GET /livez``: can a valid access token be returned now?"""

    scopes = TOKEN_SCOPES

    async def get(self) -> None:
        """Respond 200 if it can, 401 before any credentials are known, and 503 otherwise."""
        if self.keeper.state is State.NO_CREDENTIALS:
            self.set_status(401)
            self.set_header("WWW-Authenticate", CHALLENGE)
        elif not self.keeper.can_serve:
            self.set_status(503)
        self.write_json(health(self.keeper))


class PingHandler(Handler):
    """``GET /ping``: the process runs."""

    scopes = None

    async def get(self) -> None:
        """Respond 200 in every state of the login, without a check of the store."""
        self.write_json({"ready": _is_ready(self.keeper, self.keeper.store_problem)})


class ReadyHandler(Handler):
    """``GET /ready``: can a load balancer send requests here?"""

    scopes = None

    async def get(self) -> None:
        """Respond 200 if the store works, or if a valid token can be returned without it; otherwise
        503."""
        ready = _is_ready(self.keeper, await self.keeper.check_store())
        self.set_status(200 if ready else 503)
        self.write_json({"ready": ready})


def _is_ready(keeper: TokenKeeper, store_problem: str | None) -> bool:
    return store_problem is None or keeper.can_serve


ROUTES = [
    (r"/livez", LivezHandler),
    (r"/ping", PingHandler),
    (r"/ready", ReadyHandler),
]
