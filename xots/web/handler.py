"""The base of all handlers: the guard at the door, the headers on every answer, and errors become statuses here only.

A program gets its errors as ``application/problem+json`` (RFC 9457) with a stable ``type``; a browser gets a page.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec
from tornado.web import HTTPError, RequestHandler

from ..errors import (
    ConsentLost,
    LoginFailed,
    NoCredentials,
    NotLoggedIn,
    NoToken,
    SealError,
    StoreUnavailable,
    TokenUnavailable,
    UnknownTenant,
    UpstreamFailed,
    XotsError,
)
from ..keeping.keeper import TokenKeeper
from ..sealing import Sealer
from ..wording import problem_text
from . import guard

__all__ = ["Handler", "InFlight", "WebConfig", "utc_text"]

logger = logging.getLogger("xots.web")


class InFlight:
    """The requests that are not answered yet, so that a server which stops can wait for them."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def enter(self) -> None:
        """A request came in."""
        self._count += 1
        self._none.clear()

    def leave(self) -> None:
        """A request was answered."""
        self._count -= 1
        if self._count == 0:
            self._none.set()

    async def none(self, within_seconds: float) -> None:
        """Wait until all are answered, but no longer than ``within_seconds``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), within_seconds)


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """All that the handlers are told."""

    redirect_uri: str
    authorize_url: str
    token_url: str
    scopes: tuple[str, ...]
    tenant_id: str | None
    pkce: bool
    has_tenants: bool
    """Does the identity server list connected organisations?"""
    refresh_lifetime: timedelta
    hosts: frozenset[str]

    @property
    def origin(self) -> str:
        """The redirect URI's origin: a login's cookies come back only if it starts there."""
        return self.redirect_uri.removesuffix("/code")


KINDS: Mapping[type[XotsError], tuple[int, str, str]] = {
    NoCredentials: (401, "no-credentials", "Nobody has entered the client's credentials yet"),
    NotLoggedIn: (401, "not-logged-in", "Nobody is logged in"),
    ConsentLost: (401, "consent-lost", "The login is lost"),
    TokenUnavailable: (503, "token-unavailable", "No fresh access token just now"),
    StoreUnavailable: (503, "store-unavailable", "The token store can't be used just now"),
    SealError: (503, "record-unreadable", "The stored login can't be opened"),
    LoginFailed: (400, "login-failed", "The login did not succeed"),
    UnknownTenant: (400, "unknown-tenant", "That organisation is not connected"),
    UpstreamFailed: (502, "upstream-failed", "Xero gave no usable answer"),
}
"""What each error is as an answer: status, the last part of its ``type``, and its title."""


FAILED = (500, "internal-error", "Something went wrong here")


class Handler(RequestHandler):
    """One request: parse, one call to the keeper, write."""

    keeper: TokenKeeper
    sealer: Sealer
    config: WebConfig

    def initialize(
        self, keeper: TokenKeeper, sealer: Sealer, config: WebConfig, in_flight: InFlight
    ) -> None:
        """Take what the application was made with."""
        self.keeper, self.sealer, self.config, self._in_flight = keeper, sealer, config, in_flight
        in_flight.enter()

    def on_finish(self) -> None:
        """The answer is written."""
        self._in_flight.leave()

    def set_default_headers(self) -> None:
        """Nothing is cached, framed, sniffed or read by another origin."""
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
        # With "no-referrer", browsers send "Origin: null" with the own forms too.
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")

    def prepare(self) -> None:
        """The guard, before any handler."""
        refused = guard.refusal(
            self.request.uri or "",
            self.request.headers.get_list("Host"),
            self.request.headers,
            self.config.hosts,
            navigation=self.request.method in ("GET", "HEAD"),
        )
        if refused is not None:
            raise HTTPError(refused[0], refused[1])
        changing = self.request.method not in ("GET", "HEAD")
        if changing and guard.foreign_origin(
            self.request.headers, self.request.host, self.config.redirect_uri
        ):
            raise HTTPError(403, "a request from another site's web page is not answered")

    async def head(self) -> None:
        """As GET, without the body."""
        await self.get()  # type: ignore[misc]  # every handler here has a GET, which is a coroutine

    def accepts(self, kind: str) -> bool:
        """Is this media type named in Accept, and none before it that is answered here too?"""
        named = [
            part.partition(";")[0].strip().lower()
            for part in self.request.headers.get("Accept", "").split(",")
        ]
        return (
            next((n for n in named if n in ("application/json", "text/html", "text/plain")), None)
            == kind
        )

    @property
    def wants_page(self) -> bool:
        """Is it a person's browser that asks?"""
        return self.accepts("text/html")

    def write_json(self, content: Any, content_type: str = "application/json") -> None:
        """Write a value as JSON."""
        self.set_header("Content-Type", f"{content_type}; charset=utf-8")
        self.write(msgspec.json.encode(content) + b"\n")

    def write_page(self, template: str, **names: Any) -> None:
        """Write a page: no script, styles from here, forms that lead here or to Xero."""
        # Chromium holds a form to this also where its answer redirects to, and on from there.
        xero = "/".join(self.config.authorize_url.split("/")[:3])
        if xero.endswith(".xero.com"):
            xero += " https://*.xero.com"
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; style-src 'self'; form-action 'self' {xero}; frame-ancestors 'none'; base-uri 'none'",
        )
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.write(self.render_string(template, config=self.config, utc_text=utc_text, **names))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """An error as an answer: the one place where exceptions become statuses."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        kind, title, detail = "", HTTPStatus(status_code).phrase, ""
        if isinstance(error, HTTPError):
            kind, detail = title.lower().replace(" ", "-"), error.log_message or ""
        elif isinstance(error, XotsError):
            status_code, kind, title = next(
                (v for k, v in KINDS.items() if isinstance(error, k)), FAILED
            )
            detail = f"{error}"
            self.set_status(status_code)
        if isinstance(error, TokenUnavailable):
            self.set_header("Retry-After", str(max(1, ceil(error.retry_after_seconds))))
        if status_code == 405:
            written = (
                m
                for m in ("GET", "HEAD", "POST")
                if getattr(type(self), m.lower()) is not _UNWRITTEN
            )
            self.set_header("Allow", ", ".join(written))
            detail = f"this method is not for {self.request.path}"
        if status_code == 401:
            self.set_header("WWW-Authenticate", 'Bearer realm="xots"')
            detail = f"{detail}; open {self.config.origin}/ in a browser and log in"
        if self.wants_page:
            self.write_page("message.html", title=title, detail=detail, good=False)
            self.finish()
            return
        problem = {
            "type": f"urn:xots:{kind or 'internal-error'}",
            "title": title,
            "status": status_code,
        }
        if detail:
            problem["detail"] = detail
        self.write_json(problem, "application/problem+json")
        self.finish()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log an error without the query string, in which a code or a state may stand."""
        where = f"{self.request.method} {self.request.path}"
        if isinstance(value, NoToken):
            # A program that polls before a login is not a fault of the server.
            logger.info("%s: %s", where, value)
        elif isinstance(value, HTTPError | XotsError):
            logger.warning("%s: %s", where, getattr(value, "log_message", None) or value)
        else:
            logger.error("%s failed", where, exc_info=(typ, value, tb))

    def summary(self) -> dict[str, Any]:
        """What is known of the login, without secrets, under the field names of the Go server where it had one."""
        account, state = self.keeper.account, self.keeper.state
        access, current, problem = account.access, account.current, account.problem
        connected = account.consent_id is not None
        return {
            "healthy": self.keeper.can_serve,
            "state": state.value,
            "reason": self.keeper.store_problem or (problem_text(problem) if problem else None),
            "access_token_expiry_utc": access.expires_at if access and connected else None,
            "refresh_token_expiry_utc": (
                current.obtained_at + self.config.refresh_lifetime
                if current and connected
                else None
            ),
        }


_UNWRITTEN = RequestHandler.post
"""What Tornado puts in the place of a method that a handler does not have."""


def utc_text(moment: datetime | None) -> str:
    """A time as a person reads it."""
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
