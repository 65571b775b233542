"""The base of the endpoints: a request with its fault, its entry in the log and its response."""

from __future__ import annotations

import asyncio
import http.client
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import tornado.iostream
import tornado.web

from ..faults import Endpoint, Fault, FaultKind
from ..holds import SandboxStopped
from ..identity.protocol import Shape
from ..log import LoggedRequest, Outcome
from ..world import World
from .responses import Response, distort, shape_of, stand_in

__all__ = ["Action", "Findings", "SandboxHandler", "single_values"]


@dataclass(slots=True)
class Findings:
    """The facts that a handler finds out about its request, for the log."""

    outcome: Outcome = Outcome.SERVED
    client_id: str | None = None
    grant_type: str | None = None
    error: str | None = None
    reason: str | None = None
    token: str | None = None
    issued: str | None = None


Action = Callable[[Shape], Response]
"""Carries a request out in one step, notes its findings, and returns the response."""

_COMMITMENTS = (Outcome.ISSUED, Outcome.REPLAYED, Outcome.REVOKED)
"""Outcomes that are lost if the caller has closed the connection."""


class SandboxHandler(tornado.web.RequestHandler):
    """Base of the endpoints to which faults can happen."""

    def initialize(self, world: World) -> None:
        self.world = world
        self.findings = Findings()
        self._number = world.arrive()
        self._endpoint = Endpoint.TOKEN
        self._fault: Fault | None = None
        self._committed = False
        self._caller_gone = False

    def on_connection_close(self) -> None:
        self._caller_gone = True

    def set_default_headers(self) -> None:
        self.set_header("Server", "xots-sandbox")

    async def perform(self, endpoint: Endpoint, action: Action) -> None:
        """Carry out one request and respond to it, with the fault that happens to it.

        If the caller closes the connection early, the request is carried out nevertheless, as at a
        real server.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - Tornado runs handlers in tasks
        self.world.running.add(task)
        self._endpoint, self._fault = endpoint, self.world.faults.next(endpoint)
        try:
            if self._fault is None:
                await self._send(action(Shape()))
            else:
                await self._perform_with(self._fault, action)
        except SandboxStopped:
            self.findings.outcome = Outcome.LOST if self._committed else Outcome.FAULTED
            self._reset()
        finally:
            self.world.running.discard(task)

    async def _perform_with(self, fault: Fault, action: Action) -> None:
        await self._wait(fault, FaultKind.DELAY_BEFORE, FaultKind.HOLD_BEFORE)
        response = self._respond(fault, action)
        await self._wait(fault, FaultKind.DELAY_AFTER, FaultKind.HOLD_AFTER)
        match fault.kind:
            case FaultKind.LOST | FaultKind.RESET:
                self._reset()
            case FaultKind.TRUNCATED:
                await self._send_half(response)
            case _:
                await self._send(response)

    async def _wait(self, fault: Fault, delay: FaultKind, hold: FaultKind) -> None:
        if fault.kind is delay:
            await self.world.holds.pause(fault.value or 0)
        elif fault.kind is hold:
            await self.world.holds.hold()

    def _respond(self, fault: Fault, action: Action) -> Response:
        """Carry the request out, if the fault lets it commit, and return the response."""
        instead = stand_in(fault)
        if not fault.kind.commits:
            self.findings.outcome = Outcome.FAULTED
            if fault.kind is FaultKind.INVALID_CLIENT:
                self.findings.error = "invalid_client"
            return instead or Response(0)
        response = action(shape_of(fault))
        self._committed = True
        if fault.kind.loses_response:
            self.findings.outcome = Outcome.LOST
        return instead or distort(response, fault)

    async def _send(self, response: Response) -> None:
        if self._caller_gone and self.findings.outcome in _COMMITMENTS:
            # The caller closed the connection while the request waited, so the response is lost.
            self.findings.outcome = Outcome.LOST
            self._reset()
            return
        self._record(response.status)
        self.set_status(response.status, _reason(response.status))
        self.set_header("Content-Type", response.content_type)
        if not response.body:
            self.clear_header("Content-Type")
        for name, value in response.headers.items():
            self.set_header(name, value)
        await self.finish(response.body or None)

    async def _send_half(self, response: Response) -> None:
        self._record(response.status)
        # At least one byte is missing, also from an empty body.
        head = (
            f"HTTP/1.1 {response.status} {_reason(response.status)}\r\n"
            f"Content-Type: {response.content_type}\r\n"
            f"Content-Length: {len(response.body) or 1}\r\n\r\n"
        )
        stream = self.detach()
        try:
            await stream.write(head.encode() + response.body[: len(response.body) // 2])
        except tornado.iostream.StreamClosedError:
            return
        stream.close()

    def _reset(self) -> None:
        """Send no response, and close the connection with a reset."""
        self._record(None)
        stream = self.detach()
        if not stream.closed():
            # A linger time of zero makes close() send RST instead of FIN.
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()

    def _record(self, status: int | None) -> None:
        self.world.record(
            LoggedRequest(
                number=self._number,
                at=self.world.clock(),
                endpoint=self._endpoint,
                method=self.request.method or "",
                path=self.request.path,
                status=status,
                fault=None if self._fault is None else self._fault.kind,
                **asdict(self.findings),
            )
        )


def single_values(arguments: Mapping[str, list[bytes]]) -> dict[str, str] | None:
    """Return the value of each argument, unstripped.

    None if one has several values, which RFC 6749 (section 3.2) forbids.
    """
    if any(len(values) > 1 for values in arguments.values()):
        return None
    return {name: values[0].decode("utf-8", "replace") for name, values in arguments.items()}


def _reason(status: int) -> str:
    return http.client.responses.get(status, "Unknown")
