"""The base of all handlers: the guard before each request, the headers of each response, and its
formats."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
from tornado.escape import xhtml_escape
from tornado.web import HTTPError, RequestHandler

from ..errors import NoToken, XotsError
from ..keeping.keeper import TokenKeeper
from ..safe_text import MAX_MESSAGE, safe_text
from ..sealing import Sealer
from ..wording import time_text
from . import guard, problems

__all__ = ["Handler", "InFlight", "WebConfig"]

logger = logging.getLogger("xots.web")

MEDIA_TYPES = frozenset({"application/json", "text/html", "text/plain"})
"""The media types among which the Accept header chooses."""

UNSUPPORTED = RequestHandler.post
"""Tornado's method in place of each method that a handler does not define."""


class InFlight:
    """The requests without a response yet, so that a stopping server can wait for them."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def enter(self) -> None:
        """Count a request that has arrived."""
        self._count += 1
        self._none.clear()

    def leave(self) -> None:
        """Count a response that was written."""
        self._count -= 1
        if self._count == 0:
            self._none.set()

    async def none(self, within_seconds: float) -> None:
        """Wait until no request is in flight, but no longer than ``within_seconds``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), within_seconds)


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """The settings that the handlers use."""

    redirect_uri: str
    authorize_url: str
    token_url: str
    scopes: tuple[str, ...]
    tenant_id: str | None
    pkce: bool
    has_tenants: bool
    """True if the identity server lists connected organisations."""
    refresh_lifetime: timedelta
    hosts: frozenset[str]
    """The permitted values of the Host header: see ``guard.allowed_hosts``."""

    @property
    def origin(self) -> str:
        """The origin of the redirect URI. A login must start there, since its cookies return to
        that origin only."""
        return self.redirect_uri.removesuffix("/code")


class Handler(RequestHandler):
    """One request: parse it, make one call to the keeper, write the response."""

    keeper: TokenKeeper
    sealer: Sealer
    config: WebConfig

    def initialize(
        self, keeper: TokenKeeper, sealer: Sealer, config: WebConfig, in_flight: InFlight
    ) -> None:
        """Take the arguments of ``make_app``."""
        self.keeper, self.sealer, self.config, self._in_flight = keeper, sealer, config, in_flight
        in_flight.enter()

    def on_finish(self) -> None:
        """Count the response."""
        self._in_flight.leave()

    def set_default_headers(self) -> None:
        """Forbid browsers to cache, frame or sniff a response, or to give it to another origin."""
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
        # With "no-referrer", browsers send "Origin: null" with this server's own forms too.
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")

    def prepare(self) -> None:
        """Let the guard decide before any handler acts."""
        request, config = self.request, self.config
        refused = guard.refusal(
            request.uri or "",
            request.headers.get_list("Host"),
            request.headers,
            config.hosts,
            navigation=self.is_read,
        )
        if refused is not None:
            raise HTTPError(*refused)
        if self.is_read:
            return
        if guard.foreign_origin(request.headers, request.host, config.redirect_uri):
            raise HTTPError(403, guard.FOREIGN_PAGE)

    async def head(self) -> None:
        """Respond as to GET. Tornado omits the body."""
        await self.get()  # type: ignore[misc]  # every handler here has a GET, which is a coroutine

    # ---------- the request

    @property
    def is_read(self) -> bool:
        """True if the method is GET or HEAD."""
        return self.request.method in ("GET", "HEAD")

    @property
    def wants_page(self) -> bool:
        """True if a browser sent the request to show the response."""
        return self.accepts("text/html")

    def accepts(self, media_type: str) -> bool:
        """True if the Accept header names this media type, and no other of ``MEDIA_TYPES`` before
        it."""
        parts = self.request.headers.get("Accept", "").split(",")
        named = (part.partition(";")[0].strip().lower() for part in parts)
        return next(filter(MEDIA_TYPES.__contains__, named), None) == media_type

    @property
    def shown_target(self) -> str:
        """Method and path for the log. The query string may hold a code or a state."""
        method, path = self.request.method, self.request.path
        shown = method if method in self.SUPPORTED_METHODS else "(unknown method)"
        return f"{shown} {safe_text(path) if path.startswith('/') else '(no path)'}"

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Return a parameter as text. Tornado's own error quotes the value.

        Raises:
            HTTPError: it is not UTF-8.
        """
        try:
            return value.decode()
        except UnicodeDecodeError:
            what = f"the parameter {safe_text(name, 40)}" if name else "the path"
            raise HTTPError(400, f"{what} is not UTF-8 text") from None

    # ---------- the response

    def write_json(self, content: Any, content_type: str = "application/json") -> None:
        """Write a value as JSON in ASCII, so that no character of a name drives a terminal."""
        self.set_header("Content-Type", f"{content_type}; charset=utf-8")
        self.write(json.dumps(msgspec.to_builtins(content), separators=(",", ":")) + "\n")

    def get_template_namespace(self) -> dict[str, Any]:
        """Return the names of every page. Each value in it passes through ``shown``."""
        names = {"safe_text": safe_text, "shown": _shown}
        return super().get_template_namespace() | names

    def write_page(self, template: str, **names: Any) -> None:
        """Write a page: no script, this server's style sheet, forms that lead here or to Xero."""
        self.set_header(
            "Content-Security-Policy",
            "default-src 'none'; style-src 'self'; "
            f"form-action 'self' {_origins_of_xero(self.config.authorize_url)}; "
            "frame-ancestors 'none'; base-uri 'none'",
        )
        self.set_header("Content-Type", "text/html; charset=utf-8")
        names |= {"config": self.config, "now": self.keeper.clock.now(), "time_text": time_text}
        self.write(self.render_string(template, **names))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write an error as a page or as a problem in JSON."""
        _, error, _ = kwargs.get("exc_info", (None, None, None))
        headers, problem = problems.error_response(
            error, methods=_supported_methods(type(self)), login_url=f"{self.config.origin}/"
        )
        self.set_status(problem.status)
        for name, value in headers.items():
            self.set_header(name, value)
        if self.wants_page:
            self.write_page("message.html", title=problem.title, detail=problem.detail, good=False)
        else:
            self.write_json(problem, "application/problem+json")
        self.finish()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log an error, its target and its reason. Repeats are counted for each kind."""
        where = self.shown_target
        match value:
            case NoToken():
                # A program that polls before a login is no fault of the server.
                logger.info("%s: %s", where, value, extra={"limited": True})
            case HTTPError():
                reason = problems.http_reason(value) or f"HTTP {value.status_code}"
                logger.warning("%s: %s", where, reason, extra={"kind": value.status_code})
            case XotsError():
                logger.warning("%s: %s", where, value, extra={"kind": typ.__name__})
            case _:
                logger.error("%s failed", where, exc_info=(typ, value, tb))


def _shown(value: str | bytes) -> str:
    """Return a value of a page as safe HTML."""
    text = value if isinstance(value, str) else value.decode()
    return xhtml_escape(safe_text(text, MAX_MESSAGE))


def _supported_methods(handler: type[RequestHandler]) -> list[str]:
    methods = ("GET", "HEAD", "POST")
    return [method for method in methods if getattr(handler, method.lower()) is not UNSUPPORTED]


def _origins_of_xero(authorize_url: str) -> str:
    """Return the origins to which a form may lead, apart from this server's.

    Chromium applies ``form-action`` also to the target of a form's redirect, and to the redirects
    that follow.
    """
    origin = "/".join(authorize_url.split("/")[:3])
    return f"{origin} https://*.xero.com" if origin.endswith(".xero.com") else origin
