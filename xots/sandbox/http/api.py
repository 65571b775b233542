"""The API over HTTP: connections, and enough of the accounting API for a program to print something real."""

from __future__ import annotations

import http.client
import uuid

from ..accounting import Organisation
from ..faults import Endpoint
from ..identity.protocol import BearerProblem, BearerRefused, Shape
from ..identity.tokens import AccessToken
from ..limits import Throttled
from ..log import Outcome
from .handlers import SandboxHandler
from .responses import Reply, json_reply

__all__ = ["AccountingHandler", "ConnectionHandler", "ConnectionsHandler"]

# Which scopes open which resource (Xero: scopes). Each stands for itself and for its form with .read.
_SCOPES = {
    "Organisation": ("accounting.settings",),
    "Contacts": ("accounting.contacts",),
    "Invoices": ("accounting.transactions", "accounting.invoices"),
}


class _Refused(Exception):
    """The API refuses, with this answer."""

    def __init__(self, status: int, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail or code


class _BearerHandler(SandboxHandler):
    """Base of the endpoints that want an access token."""

    def bearer(self) -> AccessToken:
        """Return what the caller's access token stands for. Raises _Refused."""
        kind, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise _Refused(401, "AuthenticationUnsuccessful")
        try:
            access = self.world.identity.check_access(token.strip(), self.world.clock())
        except BearerRefused as error:
            if error.problem is BearerProblem.EXPIRED and error.expired_at is not None:
                at = f"{error.expired_at:%m/%d/%Y %H:%M:%S}"
                raise _Refused(
                    401, "TokenExpired", f"TokenExpired: token expired at {at}"
                ) from None
            raise _Refused(401, "AuthenticationUnsuccessful") from None
        self.findings.client_id = access.app.client_id
        return access

    def refused(self, error: _Refused) -> Reply:
        """Note the refusal, and return its answer in Xero's form."""
        self.findings.outcome = Outcome.REFUSED
        self.findings.error = error.code
        content: dict[str, object] = {
            "Type": None,
            "Title": http.client.responses[error.status],
            "Status": error.status,
            "Detail": error.detail,
            "Instance": str(uuid.uuid4()),
            "Extensions": {},
        }
        return json_reply(error.status, content)


class ConnectionsHandler(_BearerHandler):
    """GET /connections, with an optional ``authEventId``."""

    async def get(self) -> None:
        def act(shape: Shape) -> Reply:
            try:
                access = self.bearer()
            except _Refused as error:
                return self.refused(error)
            auth_event_id = self.get_query_argument("authEventId", None)
            found = self.world.identity.connections(access, auth_event_id)
            return json_reply(200, self.world.books.connections(found))

        await self.perform(Endpoint.CONNECTIONS, act)


class ConnectionHandler(_BearerHandler):
    """DELETE /connections/{id}."""

    async def delete(self, connection_id: str) -> None:
        def act(shape: Shape) -> Reply:
            try:
                if not self.world.identity.disconnect(self.bearer(), connection_id):
                    raise _Refused(404, "NotFound")  # noqa: TRY301
            except _Refused as error:
                return self.refused(error)
            return Reply(204)

        await self.perform(Endpoint.CONNECTIONS, act)


class AccountingHandler(_BearerHandler):
    """GET /api.xro/2.0/{resource}, always as JSON."""

    async def get(self, resource: str) -> None:
        admitted: list[tuple[str, str]] = []

        def act(shape: Shape) -> Reply:
            now = self.world.clock()
            try:
                access = self.bearer()
                organisation = self._organisation(access, resource)
                headers = self.world.limiter.enter(
                    access.app.client_id, organisation.tenant_id, now
                )
            except _Refused as error:
                return self.refused(error)
            except Throttled as error:
                self.findings.outcome = Outcome.REFUSED
                self.findings.error = error.problem
                headers = {
                    "X-Rate-Limit-Problem": error.problem,
                    "Retry-After": str(error.retry_after_seconds),
                }
                return Reply(429, headers=headers)
            admitted.append((access.app.client_id, organisation.tenant_id))
            return json_reply(200, self.world.books.answer(resource, organisation, now), headers)

        try:
            await self.perform(Endpoint.ACCOUNTING, act)
        finally:
            for client_id, tenant_id in admitted:
                self.world.limiter.leave(client_id, tenant_id)

    def _organisation(self, access: AccessToken, resource: str) -> Organisation:
        opening = {form for scope in _SCOPES[resource] for form in (scope, f"{scope}.read")}
        if not opening.intersection(access.scopes):
            raise _Refused(401, "AuthorizationUnsuccessful")
        tenant_id = self.request.headers.get("xero-tenant-id")
        if tenant_id is None and not access.app.user_id:
            # A custom connection has one organisation only, and needn't name it.
            tenant_id = next(iter(access.app.connections), None)
        organisation = self.world.books.organisations.get(tenant_id or "")
        if organisation is None or organisation.tenant_id not in access.app.connections:
            raise _Refused(403, "AuthenticationUnsuccessful")
        if organisation.tenant_type != "ORGANISATION":
            raise _Refused(403, "AuthenticationUnsuccessful")
        return organisation
