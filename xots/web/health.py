"""``/livez``, ``/ping`` and ``/ready``: for monitors."""

from __future__ import annotations

from ..lifecycle.schedule import State
from .handler import Handler

__all__ = ["ROUTES"]


class HealthHandler(Handler):
    """``GET /livez``: can a good token be served now?"""

    async def get(self) -> None:
        """200 if so; 401 before there are credentials; 503 otherwise."""
        if self.keeper.state is State.NO_CREDENTIALS:
            self.set_status(401)
            self.set_header("WWW-Authenticate", 'Bearer realm="xots"')
        elif not self.keeper.can_serve:
            self.set_status(503)
        self.write_json(self.summary())


class PingHandler(Handler):
    """``/ping``: the process lives."""

    async def get(self) -> None:
        """200, whatever the login's state."""
        self.write_json({"status": "alive"})


class ReadyHandler(Handler):
    """``/ready``: can requests be sent here?"""

    async def get(self) -> None:
        """200 while the store works, or while a good token can be served without it; else 503."""
        problem = await self.keeper.check_store()
        ready = problem is None or self.keeper.can_serve
        self.set_status(200 if ready else 503)
        self.write_json(
            {"ready": ready, "store": "degraded" if problem else "ok", "reason": problem}
        )


ROUTES = [
    (r"/livez", HealthHandler),
    (r"/ping", PingHandler),
    (r"/ready", ReadyHandler),
]
