"""The web application: the routes of all handler modules, the style sheet, the OpenAPI document."""

from __future__ import annotations

import logging
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError

from ..access import ALL_SCOPES
from ..accounts.accounts import Accounts
from ..log_filters import hush_libraries
from ..sealing import Sealer
from . import accounts, acts, callback, express_request, health, pages, status, tokens
from .guard import ACCOUNT_NAME
from .handler import Handler, Subject, access_log
from .in_flight import InFlight
from .responses import WebConfig

__all__ = ["PATHS_OF_ACCOUNT", "ROUTES", "make_app", "openapi_document", "templates_folder"]

Route = tuple[str, type[Handler]]
"""The pattern of a path, and its handler."""


def templates_folder() -> Path:
    """Return the folder of the templates: that of the installed package, or of the checkout."""
    found = find_spec("xots.templates")
    if found is None or found.origin is None:
        return Path(__file__).parents[2] / "templates"
    return Path(found.origin).parent


class StyleHandler(Handler):
    """``GET /style.css``: the style sheet of all pages, that of a refusal too."""

    scopes = None

    async def get(self) -> None:
        """Return the style sheet."""
        self.set_header("Content-Type", "text/css; charset=utf-8")
        self.write((templates_folder() / "style.css").read_bytes())


class OpenApiHandler(Handler):
    """``GET /openapi.json``: the OpenAPI document of this server."""

    scopes = ALL_SCOPES
    subject = Subject.NONE

    async def get(self) -> None:
        """Return the document."""
        self.write_json(openapi_document())


@cache
def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of all routes."""
    from . import openapi  # here, since a start needs no description of the API

    return openapi.document([*ROUTES, *ASSETS], PATHS_OF_ACCOUNT)


ROUTES: list[Route] = [
    *tokens.ROUTES,
    *health.ROUTES,
    *status.ROUTES,
    *acts.ROUTES,
    *pages.ROUTES,
    *callback.ROUTES,
    *accounts.ROUTES,
    (r"/openapi\.json", OpenApiHandler),
]
"""The endpoints, each with its handler. Those for an account serve the default one."""

ASSETS: list[Route] = [(r"/style\.css", StyleHandler)]
"""What the pages need."""

SERVER_PATHS = frozenset({"/code", "/ping", "/ready", "/accounts", r"/openapi\.json"})
"""The endpoints that exist once: Xero knows one redirect URI, and a probe asks for the process."""

PATHS_OF_ACCOUNT: list[Route] = [
    *[(path, handler) for path, handler in ROUTES if path not in SERVER_PATHS],
    *accounts.ROUTES_OF_ACCOUNT,
]
"""The endpoints that exist for each account, without the account in front."""

ACCOUNT_ROUTES = [
    (f"/accounts/(?P<account>{ACCOUNT_NAME}){path}", handler) for path, handler in PATHS_OF_ACCOUNT
]


class NotFoundHandler(Handler):
    """Every other path."""

    scopes = ALL_SCOPES  # a key without the right to a path would seem to be the fault
    subject = Subject.NONE

    def check_method(self) -> None:
        """Respond 404 to every method, once the guard has permitted the request."""
        raise HTTPError(404, "this path does not exist; /status shows the state of this server")

    async def get(self) -> None:
        """Do nothing: ``check_method`` raises before."""


def make_app(
    accounts: Accounts, sealer: Sealer, config: WebConfig, in_flight: InFlight
) -> Application:
    """Return the application.

    Args:
        accounts: the accounts of this process, started.
        sealer: seals the cookies of a login.
        config: the settings that the handlers use.
        in_flight: counts the requests without a response yet.
    """
    hush_libraries()
    arguments = {
        "accounts": accounts,
        "sealer": sealer,
        "config": config,
        "in_flight": in_flight,
    }
    settings: dict[str, Any] = {
        "autoescape": "shown",
        "default_handler_class": NotFoundHandler,
        "default_handler_args": arguments,
        "log_function": _log_access,
        "template_path": str(templates_folder()),
        "compiled_template_cache": True,
    }
    return _Application([*ROUTES, *ACCOUNT_ROUTES, *ASSETS], arguments, settings)


class _Application(Application):
    """Tornado's application, which finds the handler of a fixed path at once.

    Args:
        routes: the pattern of each path, with its handler.
        arguments: the arguments of all handlers.
        settings: those of Tornado.
    """

    def __init__(
        self, routes: list[Route], arguments: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        super().__init__([(path, handler, arguments) for path, handler in routes], **settings)
        self._arguments, self._config = arguments, arguments["config"]
        texts = [(pattern.replace("\\", ""), pattern, handler) for pattern, handler in routes]
        self._fixed = {text: to for text, pattern, to in texts if re.escape(text) == pattern}

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Return the delegate for a request. Tornado tries the pattern of each route in turn."""
        known = express_request.find(request, self._config)
        if known is not None:
            return known
        handler = self._fixed.get(request.path)
        if handler is not None:
            return self.get_handler_delegate(request, handler, self._arguments)
        return super().find_handler(request, **kwargs)


def _log_access(handler: Handler) -> None:
    """Log one line for a request, with the name of its caller if it has the right to it.

    A refused request has its line already, and other errors are limited: a program can cause them
    as often as it likes.
    """
    level = handler.access_level if handler.get_status() < 400 else logging.INFO
    if handler.refused or not access_log.isEnabledFor(level):
        return
    request = handler.request
    access_log.log(
        level,
        "%d %s %s %.0fms",
        handler.get_status(),
        handler.shown_target,
        handler.peer.name if handler.caller is None else handler.caller.name,
        1000 * request.request_time(),
        extra={"limited": handler.get_status() >= 400, "kind": handler.get_status()},
    )
