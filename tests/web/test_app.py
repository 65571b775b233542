"""The application: the handler of each path."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import Application

from xots.web.app import ASSETS, PATHS_OF_ACCOUNT, ROUTES, NotFoundHandler, make_app
from xots.web.handler import Handler
from xots.web.in_flight import InFlight

FIXED = [(pattern.replace("\\", ""), handler) for pattern, handler in [*ROUTES, *ASSETS]]
OF_ACCOUNTS = [(f"/accounts/firm{path}", handler) for path, handler in PATHS_OF_ACCOUNT]
UNKNOWN = [
    (path, NotFoundHandler)
    for path in (
        "/nowhere",
        "/token/",
        "/TOKEN",
        "//token",
        "/style_css",
        "/style\\.css",
        "/%74oken",
    )
]


@pytest.mark.parametrize(("path", "handler"), [*FIXED, *OF_ACCOUNTS, *UNKNOWN])
def test_a_path_leads_to_the_handler_of_its_route(path: str, handler: type[Handler]) -> None:
    """The short way to a fixed path leads to the same handler as Tornado's own routing."""
    no_parts: Any = None
    without_lane: Any = SimpleNamespace(express=None)
    app = make_app(no_parts, no_parts, without_lane, InFlight())
    start_line = RequestStartLine("GET", f"{path}?min_ttl=5", "HTTP/1.1")
    request = HTTPServerRequest(start_line=start_line, headers=HTTPHeaders(Host="localhost"))
    found, by_tornado = app.find_handler(request), Application.find_handler(app, request)
    assert found.handler_class is by_tornado.handler_class is handler
    assert found.handler_kwargs == by_tornado.handler_kwargs
    assert found.path_kwargs == by_tornado.path_kwargs
