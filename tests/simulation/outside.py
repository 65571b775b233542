"""The store and the Xero of a simulated process, with their faults."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import datetime

import msgspec

from xots.backends.base import Lease, Stored, TokenStore
from xots.errors import SealError, StaleWrite, StoreUnavailable, UpstreamFailed
from xots.lifecycle.account import Account, RefreshToken
from xots.lifecycle.outcomes import Failure, NotSent, Outcome, Unknown
from xots.lifecycle.record_json import decode
from xots.sandbox import OAuthError, TokenResponse
from xots.sandbox.identity.protocol import BearerRefused
from xots.secret import Secret
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import Credentials, Response, read_token_response

from .attempts import LOSSES, Attempt
from .world import (
    CLIENT,
    DEFAULT,
    SCOPES,
    SILENT_FAULTS,
    Follower,
    Held,
    Process,
    outside_of_processes,
)

LEASE_TIMEOUT_SECONDS = 60.0
RESPONSE_TIMEOUT_SECONDS = 20.0
"""Timeout of a response of Xero."""


DAMAGED = b"damaged"
"""A record that cannot be opened."""


class PlainSealer:
    """Seals nothing. Sealing has its own tests, and would dominate the run time."""

    def seal(self, body: bytes, purpose: str, context: Mapping[str, str]) -> bytes:
        return body

    def open(self, sealed: bytes, purpose: str, context: Mapping[str, str]) -> bytes:
        if sealed == DAMAGED:
            raise SealError("the record is damaged")
        return sealed


class SimulatedLease(Lease):
    """A lease that its holder renews while it runs."""

    def __init__(self, process: Process, name: str, held: Held) -> None:
        super().__init__()
        self._process, self._name, self._held = process, name, held

    @property
    def lost(self) -> bool:
        return self._held.over or self._process.world.leases.get(self._name) is not self._held


class SimulatedStore(TokenStore):
    """One process's connection to the store."""

    shared = durable = True

    def __init__(self, process: Process) -> None:
        self.process, self.world = process, process.world
        self.shares_index = self.world.climate.shares_index

    @classmethod
    def from_url(cls, url: str) -> SimulatedStore:
        raise ValueError(url)

    async def _delay(self) -> None:
        await self.process.step()
        await asyncio.sleep(self.world.rng.random() * 0.01)
        await self.process.awake.wait()

    def _fails(self, failure: str) -> bool:
        away = self.world.loop.time() < max(self.world.store_away_until, self.process.cut_off_until)
        if away or (
            self.world.climate.store and self.world.rng.random() < self.world.climate.store
        ):
            self.world.figures[f"store: {failure}"] += 1
            return True
        return False

    async def read(self, name: str) -> Stored | None:
        await self._delay()
        await asyncio.sleep(self.world.slow_records.get(name, 0))
        if self._fails("read failed"):
            raise StoreUnavailable("the store is unreachable")
        found = self.world.kept.get(name)
        await self._delay()
        return found

    async def swap(
        self, name: str, value: bytes, *, expected: str | None, due_at: datetime | None = None
    ) -> str:
        await self._delay()
        await asyncio.sleep(self.world.slow_records.get(name, 0))
        await self.process.step()
        if self._fails("write failed"):
            raise StoreUnavailable("the store is unreachable")
        kept = self.world.kept.get(name)
        if (kept.version if kept else None) != expected:
            self.world.figures["store: stale write"] += 1
            raise StaleWrite(name)
        version = hashlib.sha256(value).hexdigest()
        if self.world.trace:
            self.world.say(f"p{self.process.number} wrote {name}: {_shown(decode(value))}")
        if self.shares_index:
            self.world.index.note(name, due_at)
        self.world.write(name, Stored(value, version), self.process)
        await self._delay()
        await self.process.step(long=True)
        if self._fails("response lost"):
            raise StoreUnavailable("the response was lost")
        if not self.shares_index:
            await self.note_due(name, due_at)
        return version

    async def names(self) -> list[str]:
        await self._delay()
        if self._fails("read failed"):
            raise StoreUnavailable("the store is unreachable")
        return sorted(self.world.kept)

    async def due(self, before: datetime, limit: int) -> list[str]:
        if not self.shares_index:
            return await super().due(before, limit)
        await self.process.step()
        if self._fails("read failed"):
            raise StoreUnavailable("the store is unreachable")
        return self.world.index.due(before, limit)

    async def note_due(self, name: str, due_at: datetime | None) -> None:
        if not self.shares_index:
            await super().note_due(name, due_at)
            return
        await self._delay()
        if self._fails("write failed"):
            raise StoreUnavailable("the store is unreachable")
        self.world.index.note(name, due_at)

    async def check(self) -> None:
        await self._delay()
        if self._fails("check failed"):
            raise StoreUnavailable("the store is unreachable")

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        await self._delay()
        give_up_at = self.world.loop.time() + LEASE_TIMEOUT_SECONDS
        while (other := self.world.leases.get(name)) is not None and not self.world.run_out(other):
            if self.world.loop.time() > give_up_at:
                raise StoreUnavailable("another process has held the lease for too long")
            await asyncio.sleep(0.5)
            await self.process.step()
        if other is not None:
            other.over = True
            self.world.figures["leases taken over"] += 1
        held = self.world.leases[name] = Held(self.process, ttl_seconds)
        try:
            yield SimulatedLease(self.process, name, held)
        finally:
            if not self.process.dead and self.world.leases.get(name) is held:
                del self.world.leases[name]

    async def changes(self, every_seconds: float = 1.0) -> AsyncIterator[str | None]:
        follower = Follower()
        await self._delay()
        self.world.followers[follower] = None
        try:
            while True:
                if self._fails("subscription lost"):
                    raise StoreUnavailable("the subscription was lost")
                names, follower.names = list(follower.names), {}
                for name in names:
                    yield name
                await follower.wake.wait()
                follower.wake.clear()
                await self._delay()
        finally:
            del self.world.followers[follower]


class SimulatedXero:
    """One process's connection to Xero, for one account.

    Args:
        process: the process.
        name: the account.
    """

    def __init__(self, process: Process, name: str) -> None:
        self.process, self.world, self.name = process, process.world, name
        # Without a list of organisations, there are fewer requests.
        self.identity_server = (
            IdentityServer()
            if self.world.climate.shares_user
            else IdentityServer(connections_url="")
        )

    def slot(self) -> AbstractAsyncContextManager[bool]:
        return nullcontext(True)

    def stop_waiting(self) -> None:
        """Nothing waits here."""

    async def refresh(self, credentials: Credentials, token: Secret) -> Outcome:
        world, keeper = self.world, self.process.keepers().get(self.name)
        world.figures["refresh requests"] += 1
        if self.name != DEFAULT:
            world.figures["refresh requests of other accounts"] += 1
        current = keeper.account.current if keeper else None
        if current is None or current.value != token:
            world.figures["refresh requests with a fallback token"] += 1

        attempt = world.attempts.sent(self.process, token.fingerprint)

        def commit() -> TokenResponse:
            if world.climate.has_short_grace:
                world.attempts.check_use(token.reveal(), token.fingerprint, self.name)
            else:
                world.check_use(token.reveal())
            response = world.identity.refresh(CLIENT, token.reveal(), world.now())
            world.figures["refreshes issued"] += 1
            if attempt is not None:
                attempt.issued_at = world.now()
            got = Secret(response.refresh_token or "").fingerprint
            world.say(f"  Xero: p{self.process.number} spent #{token.fingerprint}, got #{got}")
            return response

        return await self._post(commit, attempt)

    async def exchange(
        self, credentials: Credentials, *, code: Secret, redirect_uri: str, verifier: Secret | None
    ) -> Outcome:
        world = self.world

        def commit() -> TokenResponse:
            response = world.identity.log_in(
                CLIENT.client_id,
                world.now(),
                scopes=SCOPES,
                tenant_ids=(self.name,),
                user_id=world.climate.user_id(self.name),
            )
            issued = world.identity.tokens.refresh_tokens[response.refresh_token or ""]
            world.owners[issued.consent] = self.name
            return response

        return await self._post(commit, forbidden="twice")  # a code works once

    async def revoke(self, credentials: Credentials, token: Secret) -> Failure | None:
        # Xero ends later logins too. A sleep between the last check of the lease and the request is
        # beyond the bound.
        if self.world.sleep_before_revoking:
            self.process.sleep(self.world.sleep_before_revoking)
        await self.process.step(may_pause=False)
        if self._away():
            return NotSent(detail="no route")
        if self.world.rng.random() < self.world.climate.xero:
            return Unknown(detail="503")
        self.world.identity.revoke(CLIENT, token.reveal())
        self.world.say(f"  Xero: p{self.process.number} revoked by #{token.fingerprint}")
        self.world.figures["revocations"] += 1
        await self.process.step()
        return (
            Unknown(detail="reset") if self.world.rng.random() < self.world.climate.xero else None
        )

    async def connections(self, access_token: Secret) -> Response:
        await self._api_request()
        try:
            access = self.world.identity.check_access(access_token.reveal(), self.world.now())
        except BearerRefused:  # a process woke up with a response that came long ago
            return Response(401, {}, b"")
        found = [
            {
                "id": connection.connection_id,
                "tenantId": connection.tenant_id,
                "authEventId": connection.auth_event_id,
            }
            for connection in self.world.identity.connections(access)
        ]
        return Response(200, {}, msgspec.json.encode(found))

    async def disconnect(self, access_token: Secret, connection_id: str) -> Failure | None:
        try:
            await self._api_request()
        except UpstreamFailed:
            return Unknown(detail="no response")
        access = self.world.identity.check_access(access_token.reveal(), self.world.now())
        self.world.identity.disconnect(access, connection_id)
        self.world.say(f"  Xero: p{self.process.number} disconnected {connection_id}")
        self.world.figures["disconnections"] += 1
        self.world.check()
        return None

    async def _api_request(self) -> None:
        """Let a request with an access token take its time, or fail."""
        await self.process.step()
        await asyncio.sleep(self.world.rng.random() * 0.5)
        await self.process.step()
        failed = self.world.rng.random() < self.world.climate.xero
        if failed or self._away() or self.name in self.world.troubles:
            raise UpstreamFailed("the connections endpoint did not respond")

    def close(self) -> None:
        pass

    def _away(self) -> str:
        end, kind = self.world.xero_away
        return kind if self.world.loop.time() < end else ""

    async def _post(
        self,
        commit: Callable[[], TokenResponse],
        attempt: Attempt | None = None,
        *,
        forbidden: str = "",
    ) -> Outcome:
        world = self.world
        # A sleep between the last check of the lease and the request is beyond the bound if another
        # process may make the last attempt meanwhile: this request would be its reuse.
        await self.process.step(may_pause=not world.climate.has_short_grace)
        kind = self._away() or world.troubles.get(self.name, "")
        if not kind and world.rng.random() < world.climate.xero:
            kind = world.rng.choice(world.climate.kinds)
            if kind == forbidden:
                kind = ""
        if kind:
            world.figures[f"xero: {kind}"] += 1
            world.say(f"  Xero: {kind}")
        if attempt is not None and kind in LOSSES:
            attempt.troubles.append(kind)
        if kind == "not-sent":
            return NotSent(detail="no route")
        # From here on the request continues, even if the process dies.
        response = await asyncio.shield(outside_of_processes(self._carried_out(commit, kind)))
        await self.process.step(long=True)
        return (
            Unknown(detail="no response")
            if response is None
            else read_token_response(response, self.process.clock.now())
        )

    async def _carried_out(self, commit: Callable[[], TokenResponse], kind: str) -> Response | None:
        world = self.world
        await asyncio.sleep(world.rng.random() * 0.5)
        response: Response | None = None
        match kind:
            case "before":
                await asyncio.sleep(RESPONSE_TIMEOUT_SECONDS)
                return None
            case "503-before":
                return Response(503, {}, b"<html>")
            case "429":
                long = 60 if set(SILENT_FAULTS) & set(world.climate.kinds) else 4000
                return Response(429, {"Retry-After": str(world.rng.choice((0, 5, 60, long)))}, b"")
            case "client":
                return Response(400, {}, b'{"error": "invalid_client"}')
        for _ in range(2 if kind == "twice" else 1):
            try:
                fields = dict(commit().fields)
                if kind == "bare":
                    del fields["refresh_token"]
                response = response or Response(200, {}, msgspec.json.encode(fields))
            except OAuthError as error:
                world.figures["xero: refused"] += 1
                response = response or Response(
                    400, {}, msgspec.json.encode({"error": error.code.value})
                )
        try:
            world.check()
        except AssertionError:
            return None  # the world keeps the error
        await asyncio.sleep(
            world.rng.random() * (RESPONSE_TIMEOUT_SECONDS if kind == "slow" else 0.5)
        )
        if kind == "503-after":
            return Response(503, {}, b"")
        return None if kind == "after" else response


def _shown(account: Account) -> str:
    def mark(token: RefreshToken) -> str:
        spent, refused = "*" if token.first_spent_at else "", "!" if token.refused_at else ""
        return f"#{token.value.fingerprint}{spent}{refused}"

    current = mark(account.current) if account.current else "-"
    return (
        f"g{account.generation} {str(account.consent_id)[:4]} current {current} fallbacks "
        f"[{' '.join(mark(r) for r in account.fallbacks)}] intent {account.intent is not None} "
        f"attempts {account.failed_attempts} "
        f"revocation {account.revocation}"
    )
