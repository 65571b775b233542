"""An identity server that is not Xero, in front of the simulated Xero, and texts about it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import tornado.web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

__all__ = ["OtherServer", "facts_of_xero", "running_other_server"]

PRODUCT = "Xero OAuth Token Server"
"""The product's name, which stands on each page."""

FACTS = re.compile(
    r".{0,60}(?:xero|granular|2 March 2026|60 days|than 5 minutes|disconnects the app).{0,60}",
    re.IGNORECASE,
)


def facts_of_xero(text: str) -> list[str]:
    """Return the parts of a text that say something about Xero."""
    return FACTS.findall(text.replace(PRODUCT, ""))


class OtherServer:
    """An authorize endpoint that leads to the login page on another origin, and a token endpoint
    that refuses each request.

    Args:
        login_url: the login page: the simulated Xero's authorize endpoint.
    """

    def __init__(self, login_url: str) -> None:
        self.login_url = login_url
        self.url = ""
        self.callback: dict[str, str] = {}
        """If not empty, the parameters with which a browser is sent back at once."""
        self.token_error = "invalid_client"

    @property
    def authorize_url(self) -> str:
        return f"{self.url}/authorize"

    @property
    def token_url(self) -> str:
        return f"{self.url}/token"


class _Authorize(tornado.web.RequestHandler):
    def initialize(self, server: OtherServer) -> None:
        self.server = server

    def get(self) -> None:
        if not self.server.callback:
            self.redirect(f"{self.server.login_url}?{self.request.query}")
            return
        returned = self.server.callback | {"state": self.get_argument("state")}
        self.redirect(f"{self.get_argument('redirect_uri')}?{urlencode(returned)}")


class _Token(tornado.web.RequestHandler):
    def initialize(self, server: OtherServer) -> None:
        self.server = server

    def post(self) -> None:
        self.set_status(400)
        self.write(json.dumps({"error": self.server.token_error}))


@asynccontextmanager
async def running_other_server(login_url: str) -> AsyncIterator[OtherServer]:
    """Run one on a free port."""
    server = OtherServer(login_url)
    routes = [
        (r"/authorize", _Authorize, {"server": server}),
        (r"/token", _Token, {"server": server}),
    ]
    http = HTTPServer(tornado.web.Application(routes, log_function=lambda handler: None))
    sockets = bind_sockets(0, "127.0.0.1")
    http.add_sockets(sockets)
    server.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        http.stop()
        await http.close_all_connections()
