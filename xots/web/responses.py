"""``Responses``: the formats of responses and their headers, the base of all handlers."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
from tornado.escape import xhtml_escape
from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError, RequestHandler

from ..access import Peer, Rules
from ..accounts.accounts import Accounts
from ..accounts.config import AccountConfig
from ..advice import capitalised
from ..errors import AccessError, AccountError, KeyRefused, NoToken, XotsError
from ..safe_text import MAX_MESSAGE, safe_text
from ..wording import time_text
from ..xero.identity_server import IdentityServer
from . import accept, guard, problems
from .connection import Connection, stream_of
from .express import Express
from .headers import BROWSER_HEADERS, SECURITY_HEADERS, http_date
from .read_log import ReadLog

__all__ = [
    "UNSUPPORTED",
    "Refused",
    "Responses",
    "WebConfig",
    "json_text",
    "supported_methods",
]

logger = logging.getLogger("xots.web")

DELETE = b"\x7f"
"""The one control character of ASCII that JSON need not escape."""

UNSUPPORTED = RequestHandler.post
"""Tornado's method in place of each method that a handler does not define."""


WORKER = """\
// This server has no service worker. This one replaces that of another program, and unregisters.
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.registration.unregister()));
"""


class Refused(HTTPError):
    """Raised for a request that the guard refuses."""


class WebConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings and parts of the server that the handlers use. ``AccountConfig`` holds an
    account's settings."""

    redirect_uri: str
    max_waiting: int
    """Upper bound on the requests that wait for Xero or the store, those of clients that are gone
    among them. It leaves connections to the requests that need not wait."""
    rules: Callable[[], Rules]
    """Returns the rules of access now, or raises RulesUnreadable."""
    hosts: frozenset[str]
    """The permitted values of the Host header: see ``guard.allowed_hosts``."""
    express: Express | None = None
    """The express lane; None if it is off."""
    reads: ReadLog = msgspec.field(default_factory=ReadLog)

    @property
    def origin(self) -> str:
        """The origin of the redirect URI. A login must start there, since its cookies return to
        that origin only."""
        return self.redirect_uri.removesuffix("/code")


class Responses(RequestHandler):
    """Writes the responses: JSON for programs, pages for browsers, and errors as both."""

    accounts: Accounts
    config: WebConfig
    account_config: AccountConfig
    """The account's settings; those of the default account before ``prepare``."""

    named_account: str | None = None
    """The account in the paths that lead to the same account; None: they need none."""

    ends_login = False
    """True if the handler only ends a login. The settings may describe another one."""

    refused = False
    """True once the guard, or the rules of access, have refused the request."""

    def clear(self) -> None:
        """Begin the response with the headers of every response. Unlike Tornado's, it names no
        Server, and no Content-Type while it has no body."""
        headers = {"Date": http_date(int(time.time())), **SECURITY_HEADERS}
        if guard.looks_like_browser(self.request.headers):
            headers |= BROWSER_HEADERS
        self._headers = HTTPHeaders(headers)
        self._write_buffer = []
        self.set_status(200)

    def compute_etag(self) -> None:
        """Return None: a response that is never stored needs no ETag."""

    # ---------- the request

    @property
    def stream(self) -> Connection:
        """The connection."""
        return stream_of(self.request)

    @property
    def peer(self) -> Peer:
        """The other end of the connection."""
        return self.stream.peer

    @property
    def server_name(self) -> str:
        """The name of the account's identity server in the middle of a sentence."""
        return self.account_config.identity_server.name

    def url(self, path: str) -> str:
        """Return the path with which a page, a redirect or a message leads to the same account."""
        return f"/accounts/{self.named_account}{path}" if self.named_account else path

    def full_url(self, path: str) -> str:
        """Return the URL with which a message in a terminal leads to a page of the same account."""
        return self.config.origin + self.url(path)

    @property
    def wants_page(self) -> bool:
        """True if a browser sent the request to show the response."""
        return self.accepts("text/html")

    def accepts(self, media_type: str) -> bool:
        """True if the Accept header prefers this media type: see ``accept.preferred``."""
        return accept.preferred(self.request.headers.get("Accept", "")) == media_type

    @property
    def shown_target(self) -> str:
        """Method and path for the log. The query string may hold a code or a state."""
        method, path = self.request.method, self.request.path
        shown = method if method in RequestHandler.SUPPORTED_METHODS else "(unknown method)"
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
        """Write a value as JSON: see ``json_text``."""
        self.set_header("Content-Type", f"{content_type}; charset=utf-8")
        self.write(json_text(content))

    def get_template_namespace(self) -> dict[str, Any]:
        """Return the names of every page. Each value in it passes through ``shown``."""
        names = {"safe_text": safe_text, "shown": _shown, "url": self.url}
        return super().get_template_namespace() | names

    def write_page(self, template: str, *, starts_login: bool = False, **names: Any) -> None:
        """Write a page: no script, this server's style sheet, forms that lead here.

        ``starts_login``: a form of it leads to the identity server too.
        """
        targets = ["'self'"]
        if starts_login:
            targets += _login_origins(self.account_config.identity_server)
        is_known_host = not self.refused
        if is_known_host and guard.is_other_loopback(self.request.host, self.config.redirect_uri):
            targets.append(self.config.origin)  # to which the pages of a login redirect
        self.set_header(
            "Content-Security-Policy",
            f"default-src 'none'; style-src 'self'; form-action {' '.join(targets)}; "
            "frame-ancestors 'none'; base-uri 'none'",
        )
        self._headers.update(BROWSER_HEADERS)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        names |= {
            "config": self.config,
            "account_config": self.account_config,
            "server": self.server_name,
            "is_xero": self.account_config.identity_server.is_xero,
            "capitalised": capitalised,
            "named_account": self.named_account,
            "now": self.accounts.default.clock.now(),
            "time_text": time_text,
        }
        self.write(self.render_string(template, **names))

    def write_worker(self) -> None:
        """Write the service worker that unregisters itself."""
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        # Without it, a browser does not replace a worker that serves more than its own folder.
        self.set_header("Service-Worker-Allowed", "/")
        self.write(WORKER)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write an error as a page or as a problem in JSON."""
        _, error, _ = kwargs.get("exc_info", (None, None, None))
        if isinstance(error, AccountError):
            self.named_account = None  # the page leads to the accounts that can be used
        may_log_in = self.account_config.needs_login and not self.ends_login
        headers, problem = problems.error_response(
            error,
            methods=supported_methods(type(self)),
            login_url=self.full_url("/home") if may_log_in else None,
            lacks_credentials=self.account_config.lacks_credentials,
        )
        self.set_status(problem.status)
        for name, value in headers:
            self.add_header(name, value)
        if self.wants_page:
            self.write_page(
                "message.html",
                title=problem.title,
                detail=problem.detail,
                good=False,
                in_list=isinstance(error, AccountError),
            )
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
            case KeyRefused(is_wrong=False):
                # A browser sends each first request without a key.
                logger.info("%s: %s: %s", where, self.peer.name, value, extra={"limited": True})
            case AccessError():
                extra = {"kind": typ.__name__}
                logger.warning("%s: refused %s: %s", where, self.peer.name, value, extra=extra)
            case Refused():
                text, message = "%s: refused with status %d: %s", value.get_message()
                extra = {"kind": value.status_code}
                logger.warning(text, where, value.status_code, message, extra=extra)
            case HTTPError():
                reason = problems.http_reason(value) or f"HTTP {value.status_code}"
                logger.warning("%s: %s", where, reason, extra={"kind": value.status_code})
            case XotsError():
                logger.warning("%s: %s", where, value, extra={"kind": typ.__name__})
            case _:
                kind = {"kind": f"{typ.__name__} in {type(self).__name__}"}
                logger.error("%s failed", where, exc_info=(typ, value, tb), extra=kind)


def _shown(value: str | bytes) -> str:
    """Return a value of a page as safe HTML."""
    text = value if isinstance(value, str) else value.decode()
    return xhtml_escape(safe_text(text, MAX_MESSAGE))


def json_text(content: Any) -> bytes:
    """Return a value as one line of JSON in printable ASCII, so that no character of a name drives
    a terminal."""
    # Most values need no more than msgspec's escapes. It refuses text that is not Unicode.
    with contextlib.suppress(UnicodeEncodeError):
        encoded = msgspec.json.encode(content)
        if encoded.isascii() and DELETE not in encoded:
            return encoded + b"\n"
    return json.dumps(msgspec.to_builtins(content), separators=(",", ":")).encode() + b"\n"


def supported_methods(handler: type[RequestHandler]) -> list[str]:
    methods = ("GET", "HEAD", "POST")
    return [method for method in methods if getattr(handler, method.lower()) is not UNSUPPORTED]


def _login_origins(server: IdentityServer) -> list[str]:
    """Return the sources to which the form that starts a login may lead, apart from this server.

    Chromium applies ``form-action`` also to the target of a form's redirect, and to the redirects
    that follow. Another server than Xero may send the user on to any origin to log in.
    """
    url = server.authorize_url
    if not server.is_xero:
        return ["https:"] if url.startswith("https:") else ["http:", "https:"]
    origin = "/".join(url.split("/")[:3])
    return [origin, "https://*.xero.com"] if origin.endswith(".xero.com") else [origin]
