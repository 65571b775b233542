"""What only the sandbox has: its clock, switches, faults, holds and log, over HTTP with JSON.

=========================  ==========================================================================================
GET POST /sandbox/clock    ``{"now": "2026-11-01T00:00:00Z"}`` sets it, ``{"advance": 1800}`` moves it on (seconds)
GET POST /sandbox/switches any fields of `Switches`; what isn't named stays as it is
GET POST DELETE …/faults   ``{"rule": "refresh:nth=2:lost"}`` adds one; DELETE removes all, …/faults/{id} one
GET POST /sandbox/release  ``{"count": 1}`` releases the oldest held requests; without a count, all
GET DELETE /sandbox/log    the requests, oldest first
POST /sandbox/forget       every consent ends, as if Xero had lost them; ``{"client_id": …}``: one client's
=========================  ==========================================================================================
"""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime

import msgspec
import tornado.web

from .faults import FaultSyntaxError, RunningRule
from .switches import Switches
from .world import World

__all__ = ["routes"]


class _ControlHandler(tornado.web.RequestHandler):
    """Base of the control endpoints. A web page must not drive them, nor a host name that was bent to point here."""

    def initialize(self, world: World) -> None:
        self.world = world

    def prepare(self) -> None:
        headers = self.request.headers
        port = self.request.connection.stream.socket.getsockname()[1]  # type: ignore[union-attr]
        allowed = {f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")}
        if headers.get("Host", "").lower() not in allowed:
            self.refuse(
                421,
                f"The control endpoints answer to these hosts only: {', '.join(sorted(allowed))}.",
            )
        elif "Origin" in headers or headers.get("Sec-Fetch-Site", "none") not in (
            "none",
            "same-origin",
        ):
            self.refuse(403, "The control endpoints are not for web pages.")

    def refuse(self, status: int, message: str) -> None:
        """End the request with an error."""
        self.set_status(status)
        self.finish({"error": message})

    def posted(self) -> dict[str, object]:
        """Return the JSON object that was posted; an empty body is an empty object. Raises ValueError."""
        if not self.request.body:
            return {}
        content = json.loads(self.request.body)
        if not isinstance(content, dict):
            raise ValueError("a JSON object is needed")  # noqa: TRY004 - to the caller, it is a wrong value
        return content

    def only(self, content: dict[str, object], *known: str) -> None:
        """Raise ValueError if there is a key that isn't known."""
        unknown = sorted(content.keys() - set(known))
        if unknown:
            raise ValueError(f"unknown key {', '.join(unknown)}; known are: {', '.join(known)}")


class _ClockHandler(_ControlHandler):
    def get(self) -> None:
        clock = self.world.clock
        self.finish({"now": clock().isoformat(), "offset_seconds": clock.offset.total_seconds()})

    def post(self) -> None:
        try:
            content = self.posted()
            self.only(content, "now", "advance")
            now, advance = content.get("now"), content.get("advance", 0)
            if now is not None:
                self.world.clock.set(datetime.fromisoformat(str(now)))
            if not isinstance(advance, int | float):
                raise ValueError("advance is a number of seconds")  # noqa: TRY004, TRY301
            self.world.clock.advance(advance)
        except (ValueError, OverflowError) as error:
            self.refuse(400, str(error))
            return
        self.get()


class _SwitchesHandler(_ControlHandler):
    def get(self) -> None:
        self.finish(dataclasses.asdict(self.world.identity.switches))

    def post(self) -> None:
        switches = dataclasses.asdict(self.world.identity.switches)
        try:
            content = self.posted()
            self.only(content, *switches)
            self.world.identity.switches = msgspec.convert(switches | content, Switches)
        except (ValueError, msgspec.MsgspecError) as error:  # no ValueError before msgspec 0.20
            self.refuse(400, str(error))
            return
        self.get()


class _FaultsHandler(_ControlHandler):
    def get(self) -> None:
        self.finish({"faults": [_described(running) for running in self.world.faults.rules]})

    def post(self) -> None:
        try:
            content = self.posted()
            self.only(content, "rule")
            rule_id = self.world.faults.add(str(content.get("rule", "")))
        except (FaultSyntaxError, ValueError) as error:
            self.refuse(400, str(error))
            return
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


class _ReleaseHandler(_ControlHandler):
    def get(self) -> None:
        self.finish({"held": len(self.world.holds)})

    def post(self) -> None:
        try:
            content = self.posted()
            self.only(content, "count")
            count = content.get("count")
            if count is not None and (not isinstance(count, int) or count < 0):
                raise ValueError("count is a whole number from 0 up")  # noqa: TRY301
        except ValueError as error:
            self.refuse(400, str(error))
            return
        released = self.world.holds.release(count)
        self.finish({"released": released, "held": len(self.world.holds)})


class _LogHandler(_ControlHandler):
    def get(self) -> None:
        rows = [
            dataclasses.asdict(request) | {"at": request.at.isoformat()}
            for request in self.world.log
        ]
        self.finish({"log": rows})

    def delete(self) -> None:
        self.world.log.clear()
        self.set_status(204)


class _ForgetHandler(_ControlHandler):
    def post(self) -> None:
        try:
            content = self.posted()
            self.only(content, "client_id")
        except ValueError as error:
            self.refuse(400, str(error))
            return
        client_id = content.get("client_id")
        self.finish(
            {"ended": self.world.identity.forget(None if client_id is None else str(client_id))}
        )


def routes(world: World) -> list[tuple[str, type[tornado.web.RequestHandler], dict[str, World]]]:
    """Return the control endpoints' routes."""
    handlers: dict[str, type[tornado.web.RequestHandler]] = {
        "clock": _ClockHandler,
        "switches": _SwitchesHandler,
        "faults": _FaultsHandler,
        r"faults/([0-9]+)": _FaultHandler,
        "release": _ReleaseHandler,
        "log": _LogHandler,
        "forget": _ForgetHandler,
    }
    return [(f"/sandbox/{path}", handler, {"world": world}) for path, handler in handlers.items()]


def _described(running: RunningRule) -> dict[str, object]:
    return {
        "id": running.rule_id,
        "rule": str(running.rule),
        "calls": running.calls,
        "fired": running.fired,
    }
