"""The sandbox's own endpoints: clock, switches, faults, holds and log, with JSON.

============================= ==================================================================
GET POST /sandbox/clock       ``{"now": "2026-11-01T00:00:00Z"}`` sets it, ``{"advance": 1800}``
                              moves it forward (in seconds)
GET POST /sandbox/switches    any fields of `Switches`; the others stay the same
GET POST DELETE …/faults      ``{"rule": "refresh:nth=2:lost"}`` adds a rule, DELETE removes all
DELETE /sandbox/faults/{id}   removes one rule
GET POST /sandbox/release     ``{"count": 1}`` releases the oldest held request, ``{}`` all
GET DELETE /sandbox/log       the requests, oldest first
POST /sandbox/forget          ends every consent, as if Xero had lost them; ``{"client_id": …}``
                              limits it to one client
============================= ==================================================================
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, ClassVar

import msgspec
import tornado.web

from ..faults import RunningRule
from ..identity.switches import Switches
from ..world import World

__all__ = ["routes"]


class _ControlHandler(tornado.web.RequestHandler):
    """Base of the control endpoints.

    A web page must not use them, neither directly nor through a host name of its own that resolves
    to this machine.
    """

    def initialize(self, world: World) -> None:
        self.world = world

    def prepare(self) -> None:
        headers = self.request.headers
        port = self.request.connection.stream.socket.getsockname()[1]  # type: ignore[union-attr]
        hosts = {f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")}
        site = headers.get("Sec-Fetch-Site", "none")
        if headers.get("Host", "").lower() not in hosts:
            names = ", ".join(sorted(hosts))
            self.refuse(421, f"The control endpoints accept these hosts only: {names}.")
        elif "Origin" in headers or site not in ("none", "same-origin"):
            self.refuse(403, "The control endpoints are not for web pages.")

    def refuse(self, status: int, message: str) -> None:
        """End the request with an error."""
        self.set_status(status)
        self.finish({"error": message})


class _PostHandler(_ControlHandler):
    """Base of the control endpoints that take a JSON object with POST."""

    keys: ClassVar[tuple[str, ...]]
    """The keys that the object may have."""

    def post(self) -> None:
        try:
            self.change(self._content())
        except (ValueError, OverflowError, msgspec.ValidationError) as error:
            self.refuse(400, str(error))

    def change(self, content: dict[str, Any]) -> None:
        """Make the change and finish the response. Raises ValueError for a bad value."""
        raise NotImplementedError

    def _content(self) -> dict[str, Any]:
        """Return the object in the body. An empty body is an empty object."""
        content = json.loads(self.request.body or b"{}")
        if not isinstance(content, dict):
            raise ValueError("a JSON object is needed")  # noqa: TRY004 - a bad value of the caller
        unknown = ", ".join(sorted(content.keys() - set(self.keys)))
        if unknown:
            raise ValueError(f"unknown key {unknown}; the keys are: {', '.join(self.keys)}")
        return content


class _ClockHandler(_PostHandler):
    keys = ("now", "advance")

    def get(self) -> None:
        clock = self.world.clock
        self.finish({"now": clock().isoformat(), "offset_seconds": clock.offset.total_seconds()})

    def change(self, content: dict[str, Any]) -> None:
        now, advance = content.get("now"), content.get("advance", 0)
        if not isinstance(advance, int | float):
            raise ValueError("advance must be a number of seconds")  # noqa: TRY004
        if now is not None:
            self.world.clock.set(datetime.fromisoformat(str(now)))
        self.world.clock.advance(advance)
        self.get()


class _SwitchesHandler(_PostHandler):
    keys = tuple(field.name for field in fields(Switches))

    def get(self) -> None:
        self.finish(asdict(self.world.identity.switches))

    def change(self, content: dict[str, Any]) -> None:
        switches = asdict(self.world.identity.switches) | content
        self.world.identity.switches = msgspec.convert(switches, Switches)
        self.get()


class _FaultsHandler(_PostHandler):
    keys = ("rule",)

    def get(self) -> None:
        self.finish({"faults": [_described(running) for running in self.world.faults.rules]})

    def change(self, content: dict[str, Any]) -> None:
        rule_id = self.world.faults.add(str(content.get("rule", "")))
        self.set_status(201)
        self.finish({"id": rule_id})

    def delete(self) -> None:
        self.world.faults.clear()
        self.set_status(204)


class _FaultHandler(_ControlHandler):
    def delete(self, rule_id: str) -> None:
        if self.world.faults.remove(int(rule_id)):
            self.set_status(204)
        else:
            self.refuse(404, f"There is no rule {rule_id}.")


class _ReleaseHandler(_PostHandler):
    keys = ("count",)

    def get(self) -> None:
        self.finish({"held": len(self.world.holds)})

    def change(self, content: dict[str, Any]) -> None:
        count = content.get("count")
        if count is not None and (not isinstance(count, int) or count < 0):
            raise ValueError("count must be a whole number from 0 up")
        released = self.world.holds.release(count)
        self.finish({"released": released, "held": len(self.world.holds)})


class _LogHandler(_ControlHandler):
    def get(self) -> None:
        log = self.world.log
        self.finish({"log": [asdict(entry) | {"at": entry.at.isoformat()} for entry in log]})

    def delete(self) -> None:
        self.world.log.clear()
        self.set_status(204)


class _ForgetHandler(_PostHandler):
    keys = ("client_id",)

    def change(self, content: dict[str, Any]) -> None:
        client_id = content.get("client_id")
        only = None if client_id is None else str(client_id)
        self.finish({"ended": self.world.identity.forget(only)})


_HANDLERS: dict[str, type[tornado.web.RequestHandler]] = {
    "clock": _ClockHandler,
    "switches": _SwitchesHandler,
    "faults": _FaultsHandler,
    r"faults/([0-9]+)": _FaultHandler,
    "release": _ReleaseHandler,
    "log": _LogHandler,
    "forget": _ForgetHandler,
}


def routes(world: World) -> list[tuple[str, type[tornado.web.RequestHandler], dict[str, World]]]:
    """Return the routes of the control endpoints."""
    return [(f"/sandbox/{path}", handler, {"world": world}) for path, handler in _HANDLERS.items()]


def _described(running: RunningRule) -> dict[str, object]:
    return {
        "id": running.rule_id,
        "rule": str(running.rule),
        "calls": running.calls,
        "fired": running.fired,
    }
