"""The table of routes of the simulated Xero."""

from __future__ import annotations

from typing import Any

import tornado.httputil
import tornado.web

from ..world import World
from . import control
from .api import AccountingHandler, ConnectionHandler, ConnectionsHandler
from .oauth import DiscoveryHandler, KeySetHandler, RevocationHandler, TokenHandler
from .pages import AuthorizeHandler, ErrorPageHandler, StartPageHandler

__all__ = ["make_application"]


def make_application(world: World) -> tornado.web.Application:
    """Return the Tornado application that serves this world.

    The sandbox has its own log, so Tornado's access log is off.
    """
    shared: dict[str, Any] = {"world": world}
    routes: list[Any] = [
        (r"/", StartPageHandler, shared),
        (r"/identity/connect/authorize", AuthorizeHandler, shared),
        (r"/identity/error", ErrorPageHandler, shared),
        (r"/connect/token", TokenHandler, shared),
        (r"/connect/revocation", RevocationHandler, shared),
        (r"/\.well-known/openid-configuration", DiscoveryHandler, shared),
        (r"/\.well-known/openid-configuration/jwks", KeySetHandler, shared),
        (r"/connections", ConnectionsHandler, shared),
        (r"/connections/([^/]+)", ConnectionHandler, shared),
        (r"/api\.xro/2\.0/(Organisation|Contacts|Invoices)", AccountingHandler, shared),
        *control.routes(world),
    ]
    return tornado.web.Application(routes, log_function=lambda handler: None)
