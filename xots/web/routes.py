"""The routes of all handler modules, the style sheet, the OpenAPI document.

``app`` imports them at the first request that is not for ``/token`` or a probe: many servers get no
other.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..access import ALL_SCOPES
from . import accounts, acts, callback, health, pages, status, tokens
from .guard import ACCOUNT_NAME
from .handler import Handler, Subject

__all__ = ["ACCOUNT_ROUTES", "ASSETS", "PATHS_OF_ACCOUNT", "ROUTES", "Route", "openapi_document"]

Route = tuple[str, type[Handler]]
"""The pattern of a path, and its handler."""


class StyleHandler(Handler):
    """``GET /style.css``: the style sheet of all pages, that of a refusal too."""

    scopes = None

    async def get(self) -> None:
        """Return the style sheet."""
        self.set_header("Content-Type", "text/css; charset=utf-8")
        self.write(_style_sheet(self.settings["template_path"]))


def _style_sheet(folder: str) -> bytes:
    return Path(folder, "style.css").read_bytes()


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
