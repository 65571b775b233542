"""The route table, and the application made of it."""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path
from typing import Any

from tornado.web import Application, HTTPError, RequestHandler

from ..keeping.keeper import TokenKeeper
from ..sealing import Sealer
from . import acts, health, pages, status, tokens
from .handler import Handler, InFlight, WebConfig

__all__ = ["ROUTES", "make_app", "templates_folder"]

ROUTES: list[tuple[str, type[RequestHandler]]] = [
    *tokens.ROUTES,
    *health.ROUTES,
    *status.ROUTES,
    *acts.ROUTES,
    *pages.ROUTES,
]
"""The endpoints, each with its handler."""

access_log = logging.getLogger("xots.access")


def templates_folder() -> Path:
    """The folder of the pages' templates: of the installed package, or beside it in a checkout."""
    try:
        return Path(str(files("xots.templates")))
    except ModuleNotFoundError:
        return Path(__file__).parents[2] / "templates"


class StyleHandler(Handler):
    """``GET /style.css``: the pages' one style sheet."""

    async def get(self) -> None:
        """The style sheet, as it is."""
        self.set_header("Content-Type", "text/css; charset=utf-8")
        self.write((templates_folder() / "style.css").read_bytes())


class NotFoundHandler(Handler):
    """Every other path."""

    def prepare(self) -> None:
        """404, once the guard has let it pass."""
        super().prepare()
        raise HTTPError(404, "there is nothing here; see /status for what this server knows")

    async def get(self) -> None:
        """Never reached: ``prepare`` has answered."""


def make_app(
    keeper: TokenKeeper, sealer: Sealer, config: WebConfig, in_flight: InFlight
) -> Application:
    """The application: every route gets the keeper, the sealer for cookies, and the config."""
    arguments = {"keeper": keeper, "sealer": sealer, "config": config, "in_flight": in_flight}
    routes = [*ROUTES, (r"/style\.css", StyleHandler)]
    settings: dict[str, Any] = {
        "cross_origin_protection": True,
        "default_handler_class": NotFoundHandler,
        "default_handler_args": arguments,
        "log_function": _log_access,
        "template_path": str(templates_folder()),
        "compiled_template_cache": True,
    }
    return Application([(path, handler, arguments) for path, handler in routes], **settings)


def _log_access(handler: RequestHandler) -> None:
    """One line a request, without its query string: a code or a state may stand in it."""
    request = handler.request
    access_log.info(
        "%d %s %s %s %.0fms",
        handler.get_status(),
        request.method,
        request.path,
        request.remote_ip or "unix",
        1000 * request.request_time(),
    )
