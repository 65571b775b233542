"""The API for programs: connections, and a small part of the accounting API."""

from __future__ import annotations

import http.client
import uuid
from collections.abc import Callable

from ..accounting import Organisation
from ..faults import Endpoint
from ..identity.clients import with_read
from ..identity.protocol import BearerRefused, Shape
from ..identity.tokens import AccessToken
from ..limits import Throttled
from ..log import Outcome
from .handlers import SandboxHandler
from .responses import Response, json_response

__all__ = ["AccountingHandler", "ConnectionHandler", "ConnectionsHandler"]

_SCOPES = {
    "Organisation": with_read("accounting.settings"),
    "Contacts": with_read("accounting.contacts"),
    "Invoices": with_read("accounting.transactions", "accounting.invoices"),
}
"""The scopes for each resource. One of them is enough (Xero: scopes)."""


class _Refused(Exception):
    """The API refuses a request with this status and code."""

    def __init__(self, status: int, code: str, detail: str = "") -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail or code


class _BearerHandler(SandboxHandler):
    """Base of the endpoints that require an access token."""

    async def perform_with_token(
        self, endpoint: Endpoint, action: Callable[[AccessToken], Response]
    ) -> None:
        """Check the access token and carry out the request, or refuse it."""

        def checked(shape: Shape) -> Response:
            try:
                return action(self._access())
            except _Refused as error:
                return self._refuse(error)

        await self.perform(endpoint, checked)

    def _access(self) -> AccessToken:
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise _Refused(401, "AuthenticationUnsuccessful")
        try:
            access = self.world.identity.check_access(token.strip(), self.world.clock())
        except BearerRefused as error:
            if error.expired_at is None:
                raise _Refused(401, "AuthenticationUnsuccessful") from None
            at = f"{error.expired_at:%m/%d/%Y %H:%M:%S}"
            detail = f"TokenExpired: token expired at {at}"
            raise _Refused(401, "TokenExpired", detail) from None
        self.findings.client_id = access.app.client_id
        return access

    def _refuse(self, error: _Refused) -> Response:
        """Note the refusal, and return the response in Xero's form."""
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
        return json_response(error.status, content)


class ConnectionsHandler(_BearerHandler):
    """GET /connections, with an optional ``authEventId``."""

    async def get(self) -> None:
        await self.perform_with_token(Endpoint.CONNECTIONS, self._list)

    def _list(self, access: AccessToken) -> Response:
        auth_event_id = self.get_query_argument("authEventId", None)
        found = self.world.identity.connections(access, auth_event_id)
        return json_response(200, self.world.accounting.connections(found))


class ConnectionHandler(_BearerHandler):
    """DELETE /connections/{id}."""

    async def delete(self, connection_id: str) -> None:
        def disconnect(access: AccessToken) -> Response:
            if not self.world.identity.disconnect(access, connection_id):
                raise _Refused(404, "NotFound")
            return Response(204)

        await self.perform_with_token(Endpoint.CONNECTIONS, disconnect)


class AccountingHandler(_BearerHandler):
    """GET /api.xro/2.0/{resource}, always as JSON."""

    async def get(self, resource: str) -> None:
        admitted: list[tuple[str, str]] = []

        def read(access: AccessToken) -> Response:
            now = self.world.clock()
            organisation = self._organisation(access, resource)
            client_id, tenant_id = access.app.client_id, organisation.tenant_id
            try:
                headers = self.world.limiter.enter(client_id, tenant_id, now)
            except Throttled as error:
                return self._throttled(error)
            admitted.append((client_id, tenant_id))
            content = self.world.accounting.response(resource, organisation, now)
            return json_response(200, content, headers)

        try:
            await self.perform_with_token(Endpoint.ACCOUNTING, read)
        finally:
            for client_id, tenant_id in admitted:
                self.world.limiter.leave(client_id, tenant_id)

    def _organisation(self, access: AccessToken, resource: str) -> Organisation:
        """Return the organisation of the request, if its token opens this resource of it."""
        if _SCOPES[resource].isdisjoint(access.scopes):
            raise _Refused(401, "AuthorizationUnsuccessful")
        # A custom connection has one organisation only, which the request need not name.
        default = "" if access.app.user_id else next(iter(access.app.connections), "")
        tenant_id = self.request.headers.get("xero-tenant-id", default)
        organisation = self.world.accounting.organisations.get(tenant_id)
        if organisation is None or tenant_id not in access.app.connections:
            raise _Refused(403, "AuthenticationUnsuccessful")
        if organisation.tenant_type != "ORGANISATION":
            raise _Refused(403, "AuthenticationUnsuccessful")
        return organisation

    def _throttled(self, error: Throttled) -> Response:
        self.findings.outcome = Outcome.REFUSED
        self.findings.error = error.problem
        headers = {
            "X-Rate-Limit-Problem": error.problem,
            "Retry-After": str(error.retry_after_seconds),
        }
        return Response(429, headers=headers)
