"""How a request is handled, whatever it asks for: faults before and after the commit, the log, the wire."""

from __future__ import annotations

import asyncio
import http.client
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tornado.iostream
import tornado.web

from ..faults import Endpoint, Fault, FaultKind
from ..holds import SandboxStopped
from ..identity.protocol import Shape
from ..log import LoggedRequest, Outcome
from ..world import World
from .responses import Reply, distort, failure, shape_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Act", "Findings", "SandboxHandler", "single_values"]


@dataclass(slots=True)
class Findings:
    """What a handler finds out about its request, for the log."""

    outcome: Outcome = Outcome.SERVED
    client_id: str | None = None
    grant_type: str | None = None
    error: str | None = None
    reason: str | None = None
    token: str | None = None
    issued: str | None = None


Act = Callable[[Shape], Reply]
"""Does what was asked, all at once, and returns the answer. It fills in the handler's findings."""


class SandboxHandler(tornado.web.RequestHandler):
    """Base of the handlers that can go wrong on purpose."""

    world: World
    findings: Findings

    def initialize(self, world: World) -> None:
        self.world = world
        self.findings = Findings()
        self._gone = False
        self._committed = False
        self._number = world.arrive()

    def on_connection_close(self) -> None:
        self._gone = True

    def set_default_headers(self) -> None:
        self.set_header("Server", "xots-sandbox")

    async def perform(self, endpoint: Endpoint, act: Act) -> None:
        """Do one request and answer it, with whatever goes wrong.

        A caller who hangs up early changes nothing: what waits here is still done, as a real server would.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - Tornado runs handlers in tasks
        self.world.running.add(task)
        fault = self.world.faults.next(endpoint)
        try:
            await self._perform(endpoint, act, fault)
        except SandboxStopped:
            self.findings.outcome = Outcome.LOST if self._committed else Outcome.FAULTED
            self._record(endpoint, None, fault)
            self._cut()
        finally:
            self.world.running.discard(task)

    async def _perform(self, endpoint: Endpoint, act: Act, fault: Fault | None) -> None:
        if fault is None:
            await self._answer(act(shape_of(None)), endpoint, None)
            return
        kind, holds = fault.kind, self.world.holds
        if kind is FaultKind.DELAY_BEFORE:
            await holds.pause(fault.value or 0)
        elif kind is FaultKind.HOLD_BEFORE:
            await holds.hold()
        stand_in = failure(fault)
        if kind.commits:
            reply = act(shape_of(fault))
            self._committed = True
            reply = stand_in or distort(reply, fault)
        else:
            reply = stand_in or Reply(0)
            self.findings.outcome = Outcome.FAULTED
            self.findings.error = "invalid_client" if kind is FaultKind.INVALID_CLIENT else None
        if kind is FaultKind.DELAY_AFTER:
            await holds.pause(fault.value or 0)
        elif kind is FaultKind.HOLD_AFTER:
            await holds.hold()
        if kind.hides:
            self.findings.outcome = Outcome.LOST
        if kind in (FaultKind.LOST, FaultKind.RESET):
            self._record(endpoint, None, fault)
            self._cut()
        elif kind is FaultKind.TRUNCATED:
            self._record(endpoint, reply.status, fault)
            await self._send_half(reply)
        else:
            await self._answer(reply, endpoint, fault)

    async def _answer(self, reply: Reply, endpoint: Endpoint, fault: Fault | None) -> None:
        if self._gone and self.findings.outcome in (
            Outcome.ISSUED,
            Outcome.REPLAYED,
            Outcome.REVOKED,
        ):
            # The caller hung up while the request waited: what was issued is lost on him.
            self.findings.outcome = Outcome.LOST
            self._record(endpoint, None, fault)
            self._cut()
            return
        self._record(endpoint, reply.status, fault)
        self.set_status(reply.status, _reason(reply.status))
        self.set_header("Content-Type", reply.content_type)
        if not reply.body:
            self.clear_header("Content-Type")
        for name, value in reply.headers.items():
            self.set_header(name, value)
        await self.finish(reply.body or None)

    def _record(self, endpoint: Endpoint, status: int | None, fault: Fault | None) -> None:
        found = self.findings
        self.world.record(
            LoggedRequest(
                number=self._number,
                at=self.world.clock(),
                endpoint=endpoint,
                method=self.request.method or "",
                path=self.request.path,
                outcome=found.outcome,
                status=status,
                client_id=found.client_id,
                grant_type=found.grant_type,
                error=found.error,
                reason=found.reason,
                token=found.token,
                issued=found.issued,
                fault=None if fault is None else fault.kind,
            )
        )

    def _cut(self) -> None:
        """Reset the connection: the caller sees a reset, not an end."""
        stream = self.detach()
        if not stream.closed():
            # A linger time of zero makes close() send RST instead of FIN.
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()

    async def _send_half(self, reply: Reply) -> None:
        stream = self.detach()
        head = f"HTTP/1.1 {reply.status} {_reason(reply.status)}\r\nContent-Type: {reply.content_type}\r\n"
        # At least one byte is missing, even if the answer has none.
        head += f"Content-Length: {len(reply.body) or 1}\r\n\r\n"
        try:
            await stream.write(head.encode() + reply.body[: len(reply.body) // 2])
        except tornado.iostream.StreamClosedError:
            return
        stream.close()


def single_values(arguments: Mapping[str, list[bytes]]) -> dict[str, str] | None:
    """Return each argument's one value, unstripped; None if one was given twice (RFC 6749, section 3.2)."""
    if any(len(values) > 1 for values in arguments.values()):
        return None
    return {name: values[0].decode("utf-8", "replace") for name, values in arguments.items()}


def _reason(status: int) -> str:
    return http.client.responses.get(status, "Unknown")
