"""A plain HTTP client for the sandbox, with the clients and organisations of its tests."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from xots.sandbox import (
    DEFAULT_CLIENT_ID,
    DEFAULT_REDIRECT_URI,
    Client,
    Organisation,
    Sandbox,
)

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
CUSTOM_CLIENT = Client(
    "CAFE", "custom-secret", (), custom_connection_tenant_id=Organisation("One Ltd").tenant_id
)
NEW_CLIENT = Client("BEEF", "new-secret", new_app=True)
ORGANISATIONS = (
    Organisation("One Ltd"),
    Organisation("Two & <Sons>"),
    Organisation(None),
    Organisation("The Practice", tenant_type="PRACTICE"),
)
VERIFIER = "v" * 43
CHALLENGE = (
    base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
)


@dataclass
class Response:
    """A response. ``failure`` says why it is incomplete; ``status`` 0 is no response at all."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def callback(self) -> dict[str, str]:
        """The parameters of the redirect."""
        return dict(parse_qsl(urlsplit(self.headers["location"]).query))


class Caller:
    """Sends each request over a socket of its own.

    So it can tell a reset, a closed connection and a truncated body apart.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    async def send(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        host: str = "",
    ) -> Response:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.sandbox.port)
        sent = {
            "Host": host or f"127.0.0.1:{self.sandbox.port}",
            "Connection": "close",
            **(headers or {}),
        }
        if body:
            sent["Content-Length"] = str(len(body))
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in sent.items()),
            "",
            "",
        ]
        try:
            writer.write("\r\n".join(lines).encode() + body)
            await writer.drain()
            received = await reader.read(-1)
        except ConnectionResetError:
            return Response(0, failure="reset")
        finally:
            writer.close()
        return _parsed(received)

    async def post(
        self, path: str, form: dict[str, str], *, basic: tuple[str, str] | None = None
    ) -> Response:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if basic is not None:
            headers["Authorization"] = (
                "Basic " + base64.b64encode(":".join(basic).encode()).decode()
            )
        return await self.send("POST", path, headers=headers, body=urlencode(form).encode())

    async def token(self, client: Client | None = None, **form: str) -> Response:
        """Send a token request, with HTTP Basic or for a public client with its id in the body."""
        client = client or Client()
        if client.secret is None:
            return await self.post("/connect/token", {"client_id": client.client_id, **form})
        return await self.post("/connect/token", form, basic=(client.client_id, client.secret))

    async def refresh(self, refresh_token: str | None, client: Client | None = None) -> Response:
        return await self.token(
            client, grant_type="refresh_token", refresh_token=refresh_token or ""
        )

    async def revoke(self, token: str | None, client: Client | None = None) -> Response:
        client = client or Client()
        basic = (client.client_id, client.secret or "")
        return await self.post("/connect/revocation", {"token": token or ""}, basic=basic)

    async def api(
        self, path: str, access_token: str, tenant_id: str | None = None, method: str = "GET"
    ) -> Response:
        headers = {"Authorization": f"Bearer {access_token}"}
        if tenant_id is not None:
            headers["xero-tenant-id"] = tenant_id
        return await self.send(method, path, headers=headers)

    async def control(
        self, method: str, path: str, content: object = None, **headers: str
    ) -> Response:
        body = b"" if content is None else json.dumps(content).encode()
        return await self.send(method, f"/sandbox/{path}", headers=headers, body=body)

    def authorize_path(self, **changes: str | None) -> str:
        query: dict[str, str | None] = {
            "response_type": "code",
            "client_id": DEFAULT_CLIENT_ID,
            "redirect_uri": DEFAULT_REDIRECT_URI,
            "scope": "offline_access accounting.transactions",
            "state": "st&te",
            **changes,
        }
        kept = {name: value for name, value in query.items() if value is not None}
        return f"/identity/connect/authorize?{urlencode(kept)}"

    async def consent(
        self, tenant_ids: list[str] | None = None, /, **changes: str | None
    ) -> Response:
        """Press Allow on the consent page."""
        ticked = [ORGANISATIONS[0].tenant_id] if tenant_ids is None else tenant_ids
        body = urlencode([("action", "allow"), *(("tenant", one) for one in ticked)]).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self.send("POST", self.authorize_path(**changes), headers=headers, body=body)

    async def exchange(self, code: str, client: Client | None = None, **changes: str) -> Response:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": DEFAULT_REDIRECT_URI,
            **changes,
        }
        return await self.token(client, **form)

    async def log_in(self, **changes: str | None) -> Response:
        return await self.exchange((await self.consent(**changes)).callback["code"])


def _parsed(received: bytes) -> Response:
    if not received:
        return Response(0, failure="closed")
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    length = int(headers.get("content-length", len(body)))
    return Response(int(first.split()[1]), headers, body, "short" if len(body) < length else "")
