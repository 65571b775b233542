"""The base of all handlers: the guard before each request, the headers of each response, and its
formats."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from tornado.escape import xhtml_escape
from tornado.web import Finish, HTTPError, RequestHandler

from ..accounts.accounts import Accounts
from ..accounts.config import AccountConfig
from ..advice import capitalised
from ..errors import AccountError, NoToken, TokenUnavailable, XotsError
from ..keeping.keeper import TokenKeeper
from ..safe_text import MAX_MESSAGE, safe_text
from ..sealing import Sealer
from ..wording import time_text
from ..xero.identity_server import IdentityServer
from . import accept, guard, problems
from .headers import BROWSER_HEADERS, SECURITY_HEADERS
from .in_flight import InFlight

__all__ = ["UNSUPPORTED", "Handler", "WebConfig"]

logger = logging.getLogger("xots.web")

UNSUPPORTED = RequestHandler.post
"""Tornado's method in place of each method that a handler does not define."""

WORKER = """\
// This server has no service worker. This one replaces that of another program, and unregisters.
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.registration.unregister()));
"""


WITHOUT_LOGIN = (
    "nothing was done: this account has no login to start or to end. Its client gets access tokens "
    "by itself (grant: client_credentials)"
)


class EveryMethod(tuple[str, ...]):
    """Every method, as Tornado checks it before the guard. ``Handler.check_method`` follows it."""

    def __contains__(self, method: object) -> bool:
        return True


class Refused(HTTPError):
    """Raised for a request that the guard refuses."""


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """The settings of the server that the handlers use. ``AccountConfig`` holds an account's."""

    redirect_uri: str
    max_waiting: int
    """Upper bound on the requests that wait for Xero or the store, those of clients that are gone
    among them. It leaves connections to the requests that need not wait."""
    hosts: frozenset[str]
    """The permitted values of the Host header: see ``guard.allowed_hosts``."""

    @property
    def origin(self) -> str:
        """The origin of the redirect URI. A login must start there, since its cookies return to
        that origin only."""
        return self.redirect_uri.removesuffix("/code")


class Handler(RequestHandler):
    """One request: parse it, make one call to the account's keeper, write the response.

    The path ``/accounts/NAME/…`` names the account. Every other path serves the default account.
    """

    accounts: Accounts
    sealer: Sealer
    config: WebConfig

    keeper: TokenKeeper
    """The account's keeper, from ``prepare`` on."""
    account_config: AccountConfig
    """The account's settings; those of the default account before ``prepare``."""

    opens_account = True
    """False if the handler needs no keeper of the account that its path names."""

    ends_login = False
    """True if the handler only ends a login. The settings may describe another one."""

    refused = False
    """True once the guard has refused the request."""

    SUPPORTED_METHODS = EveryMethod()

    def initialize(
        self, accounts: Accounts, sealer: Sealer, config: WebConfig, in_flight: InFlight
    ) -> None:
        """Take the arguments of ``make_app``."""
        self.accounts, self.sealer, self.config = accounts, sealer, config
        self._in_flight = in_flight
        self.account_config = accounts.default_config
        self.named_account: str | None = None
        """The account in the paths that lead to the same account; None: they need none."""
        self._counted: str | None = None
        """The account that the request is counted for."""
        self._entered: str | None = None
        """The account whose keeper the request keeps open."""
        in_flight.enter()

    def on_finish(self) -> None:
        """Count the response, and end the use of the account."""
        if self._counted is not None:
            self._in_flight.leave_account(self._counted)
        self._in_flight.leave()
        if self._entered is not None:
            self.accounts.leave(self._entered)

    def set_default_headers(self) -> None:
        """Set the headers of every response. Tornado's type of an empty body is no page's."""
        self.clear_header("Server")
        self.clear_header("Content-Type")
        self._set_headers(SECURITY_HEADERS)
        if guard.looks_like_browser(self.request.headers):
            self._set_headers(BROWSER_HEADERS)

    def _set_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """Return None: a response that is never stored needs no ETag."""

    async def prepare(self) -> None:
        """Let the guard decide before any handler acts, and open the account of the request.

        Raises:
            HTTPError: the request is refused, or its method is not supported.
            Finish: the response was written.
            UnknownAccount, AccountUnusable, StoreUnavailable: as for ``Accounts.enter``.
        """
        self.named_account = self.path_kwargs.pop("account", None)
        decision = guard.decide(self._guard_request())
        if isinstance(decision, guard.Refusal):
            self.refused = True
            raise Refused(decision.status, decision.detail)
        if decision is guard.Decision.SEND_WORKER:
            self._write_worker()
            raise Finish
        self.check_method()
        if self.named_account is None:
            await self.use_account(self.accounts.default.name)
        elif self.opens_account:
            await self.use_account(self.named_account)

    async def use_account(self, name: str) -> None:
        """Serve this account until the response is written.

        Raises:
            UnknownAccount, AccountUnusable, StoreUnavailable: as for ``Accounts.enter``.
            TokenUnavailable: it must be opened first, and too many requests wait already.
        """
        if self._counted is not None:
            self._in_flight.leave_account(self._counted)
        self._in_flight.enter_account(name)
        self._counted = name
        if name == self.accounts.default.name:
            self.keeper, self.account_config = self.accounts.default, self.accounts.default_config
            return
        if self.is_crowded and name not in self.accounts.open_now:
            self.check_crowd()
        found = await self.accounts.enter(name, to_end=self.ends_login)
        self._entered = name
        self.keeper, self.account_config = found.keeper, found.config

    def _guard_request(self) -> guard.Request:
        request = self.request
        return guard.Request(
            method=request.method or "",
            target=request.uri or "",
            hosts=request.headers.get_list("Host"),
            headers=request.headers,
            allowed_hosts=self.config.hosts,
            redirect_uri=self.config.redirect_uri,
        )

    def check_method(self) -> None:
        """Check that the path supports the method.

        Raises:
            HTTPError: it does not.
        """
        if self.request.method not in _supported_methods(type(self)):
            raise HTTPError(405)

    async def head(self) -> None:
        """Respond as to GET. Tornado omits the body."""
        await self.get()  # type: ignore[misc]  # every handler here has a GET, which is a coroutine

    # ---------- the request

    @property
    def is_crowded(self) -> bool:
        """True if so many requests wait that no other one may wait for a refresh or a list. Logins
        and their ends have limits of their own.

        An account's requests also leave as much room to the others as they take themselves, so that
        one account in trouble does not stop the others.
        """
        left = self.config.max_waiting - self._in_flight.count
        own = self._in_flight.of_account(self._counted) if self._counted else 0
        return left < 0 or (left < own and len(self.accounts.names()) > 1)

    def check_crowd(self) -> None:
        """Check that this request may wait.

        Raises:
            TokenUnavailable: too many others do.
        """
        if self.is_crowded:
            raise TokenUnavailable(f"many requests wait for {self.server_name} already; retry", 1.0)

    @property
    def server_name(self) -> str:
        """The name of the account's identity server in the middle of a sentence."""
        return self.account_config.identity_server.name

    def check_needs_login(self) -> None:
        """Check that a user can log in to the account, and end the login.

        Raises:
            HTTPError: the account has no login.
        """
        if not self.account_config.needs_login:
            raise HTTPError(409, WITHOUT_LOGIN)

    @property
    def is_read(self) -> bool:
        """True if the method is GET or HEAD."""
        return self.request.method in ("GET", "HEAD")

    @property
    def path(self) -> str:
        """The path without the account that it names."""
        return self.request.path.removeprefix(self.url(""))

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
        """Write a value as JSON in ASCII, so that no character of a name drives a terminal."""
        self.set_header("Content-Type", f"{content_type}; charset=utf-8")
        self.write(json.dumps(msgspec.to_builtins(content), separators=(",", ":")) + "\n")

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
        self._set_headers(BROWSER_HEADERS)
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

    def _write_worker(self) -> None:
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
            methods=_supported_methods(type(self)),
            login_url=self.full_url("/home") if may_log_in else None,
            lacks_credentials=self.account_config.lacks_credentials,
        )
        self.set_status(problem.status)
        for name, value in headers.items():
            self.set_header(name, value)
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


def _supported_methods(handler: type[RequestHandler]) -> list[str]:
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
