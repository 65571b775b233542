"""The web application: the handler of each request."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError

from ..access import ALL_SCOPES
from ..accounts.accounts import Accounts
from ..log_filters import hush_libraries
from ..sealing import Sealer
from . import express_request, health, tokens
from .handler import Handler, Subject, access_log
from .in_flight import InFlight
from .responses import WebConfig

__all__ = ["NotFoundHandler", "make_app", "templates_folder"]

ANY_HOST = ".*"
"""The guard checks the host."""


def templates_folder() -> Path:
    """Return the folder of the templates: that of the installed package, or of the checkout."""
    found = find_spec("xots.templates")
    if found is None or found.origin is None:
        return Path(__file__).parents[2] / "templates"
    return Path(found.origin).parent


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
    return _Application(arguments, settings)


class _Application(Application):
    """Tornado's application, which finds the handler of a fixed path at once.

    Args:
        arguments: the arguments of all handlers.
        settings: those of Tornado.
    """

    def __init__(self, arguments: dict[str, Any], settings: dict[str, Any]) -> None:
        super().__init__(**settings)
        self._arguments, self._config = arguments, arguments["config"]
        self._fixed = _fixed([*tokens.ROUTES, *health.ROUTES])
        self._has_all = False

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Return the delegate for a request. Tornado tries the pattern of each route in turn."""
        known = express_request.find(request, self._config)
        if known is not None:
            return known
        if request.path not in self._fixed and not self._has_all:
            self.add_all_routes()
        handler = self._fixed.get(request.path)
        if handler is not None:
            return self.get_handler_delegate(request, handler, self._arguments)
        return super().find_handler(request, **kwargs)

    def add_all_routes(self) -> None:
        """Add the routes, most of which a start does not need."""
        from . import routes

        known = [*routes.ROUTES, *routes.ACCOUNT_ROUTES, *routes.ASSETS]
        self.add_handlers(ANY_HOST, [(path, to, self._arguments) for path, to in known])
        self._fixed, self._has_all = _fixed(known), True


def _fixed(routes: Iterable[tuple[str, type[Handler]]]) -> dict[str, type[Handler]]:
    """Return the handlers of the paths that no part of the request changes."""
    texts = [(pattern.replace("\\", ""), pattern, handler) for pattern, handler in routes]
    return {text: to for text, pattern, to in texts if re.escape(text) == pattern}


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
