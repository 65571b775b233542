"""The pages for the user: the start page, consent, and Xero's own error page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlencode

import tornado.template
import tornado.web

from ..faults import Endpoint
from ..identity.consents import ConnectedApp
from ..identity.protocol import AuthorizationRequest, CallbackError, ErrorPage, PageProblem, Shape
from ..log import Outcome
from ..world import World
from .handlers import SandboxHandler, single_values
from .responses import Response, html_response

__all__ = ["AuthorizeHandler", "ErrorPageHandler", "StartPageHandler"]

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} - simulated Xero</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 2rem auto; padding: 0 1rem; }
fieldset { margin: 1rem 0; }
label { display: block; }
button { font: inherit; padding: .4rem 1.2rem; }
.note { background: #fff3cd; color: #333; padding: .5rem 1rem; }
</style>
</head>
<body>
<main>
<p class="note">This is the sandbox that ships with xots, not Xero. Nothing here is real.</p>
"""

_START = tornado.template.Template(
    _HEAD
    + """<h1>Connected apps</h1>
<p>The users of this simulated Xero, each with the apps that they have connected to organisations.
Reload the page after a login or an end.</p>
{% for name, apps in users %}<h2>{{ name }}</h2>
{% for client_id, organisations in apps %}<p>The app <code>{{ client_id }}</code>:</p>
<ul>
{% for organisation in organisations or ["no organisation"] %}<li>{{ organisation }}</li>
{% end %}</ul>
{% end %}{% if not apps %}<p>No app is connected.</p>
{% end %}{% end %}{% if custom_connections %}<h2>Custom connections</h2>
<p>Each of these apps is connected to one organisation, and no user logs in to it.</p>
<ul>
{% for client_id, organisation in custom_connections %}<li><code>{{ client_id }}</code>: \
{{ organisation }}</li>
{% end %}</ul>
{% end %}</main>
</body>
</html>
"""
)

_CONSENT = tornado.template.Template(
    _HEAD
    + """<h1>Allow access?</h1>
<p>The app <strong>{{ client_id }}</strong> requests these scopes:</p>
<ul>
{% for scope in scopes %}<li><code>{{ scope }}</code></li>
{% end %}</ul>
{% if message %}<p role="alert"><strong>{{ message }}</strong></p>
{% end %}<form method="post">
{% if len(users) > 1 %}<p><label>You are <select name="user">
{% for user in users %}<option value="{{ user.user_id }}"\
{% if user.user_id == user_id %} selected{% end %}>{{ user.name }}</option>
{% end %}</select></label></p>
{% end %}<fieldset><legend>Organisations to connect</legend>
{% for organisation in organisations %}<label><input type="checkbox" name="tenant" \
value="{{ organisation.tenant_id }}"{% if organisation.tenant_id in ticked %} checked{% end %}> \
{{ organisation.name or "(no name)" }} ({{ organisation.tenant_type }})</label>
{% end %}</fieldset>
<p><button name="action" value="allow">Allow access</button>
<button name="action" value="cancel">Cancel</button></p>
</form>
</main>
</body>
</html>
"""
)

_ERROR = tornado.template.Template(
    _HEAD
    + """<h1>Sorry, something went wrong</h1>
<p>Error code: 500</p>
<p>Error: {{ problem }}</p>
</main>
</body>
</html>
"""
)


class StartPageHandler(tornado.web.RequestHandler):
    """GET /: the users with their connections, as on Xero's page "Connected apps", and the custom
    connections."""

    def initialize(self, world: World) -> None:
        self.world = world

    def get(self) -> None:
        identity = self.world.identity
        users = [
            (user.name, [self._described(app) for app in identity.apps(user.user_id)])
            for user in identity.users.values()
        ]
        custom_connections = [
            (client.client_id, self._name(client.custom_connection_tenant_id))
            for client in identity.clients.values()
            if client.custom_connection_tenant_id is not None
        ]
        self.set_header("Cache-Control", "no-store")
        page = _START.generate(
            title="Connected apps", users=users, custom_connections=custom_connections
        )
        self.finish(page)

    def _described(self, app: ConnectedApp) -> tuple[str, list[str]]:
        """Return an app's client id, and the names of its organisations."""
        return app.client_id, [self._name(tenant_id) for tenant_id in app.connections]

    def _name(self, tenant_id: str) -> str:
        """Return the name of an organisation for the page."""
        organisation = self.world.accounting.organisations.get(tenant_id)
        if organisation is None:
            return "an unknown organisation"
        return organisation.name or "(no name)"


class AuthorizeHandler(SandboxHandler):
    """GET and POST /identity/connect/authorize.

    The page's form posts to the page's own address, so each POST has the authorization request too.
    """

    async def get(self) -> None:
        await self._perform_for_request(self._show)

    async def post(self) -> None:
        await self._perform_for_request(self._decide)

    async def _perform_for_request(
        self, action: Callable[[AuthorizationRequest], Response]
    ) -> None:
        """Read the authorization request and carry it out, or refuse it."""

        def checked(shape: Shape) -> Response:
            # A repeated parameter makes the request as bad as one without parameters.
            parameters = single_values(self.request.query_arguments) or {}
            self.findings.client_id = parameters.get("client_id")
            try:
                return action(self.world.identity.check_authorization(parameters))
            except ErrorPage as error:
                self._note_refusal(error.problem.split(" : ")[0], error.problem)
                return _redirect("/identity/error", {"errorId": error.problem.page_id})
            except CallbackError as error:
                self._note_refusal(error.parameters["error"])
                return _redirect(error.redirect_uri, error.parameters)

        await self.perform(Endpoint.AUTHORIZE, checked)

    def _note_refusal(self, error: str, reason: str | None = None) -> None:
        self.findings.outcome = Outcome.REFUSED
        self.findings.error, self.findings.reason = error, reason

    def _show(self, request: AuthorizationRequest) -> Response:
        tenant_ids = list(self.world.accounting.organisations)
        if self.world.options.auto_consent:
            return self._allow(request, tenant_ids, None)
        return self._page(request, ticked=tenant_ids[:1])

    def _decide(self, request: AuthorizationRequest) -> Response:
        action = self.get_body_argument("action", "")
        if action == "cancel":
            return self._cancel(request)
        known = self.world.accounting.organisations
        ticked = [
            tenant_id for tenant_id in self.get_body_arguments("tenant") if tenant_id in known
        ]
        user_id = self.get_body_argument("user", None)
        if action != "allow":
            message = "Please choose Allow or Cancel."
        elif user_id is not None and user_id not in self.world.identity.users:
            message = "Please choose one of the users."
        elif not ticked:
            message = "Please tick at least one organisation."
        else:
            return self._allow(request, ticked, user_id)
        return self._page(request, ticked=ticked, user_id=user_id, message=message)

    def _cancel(self, request: AuthorizationRequest) -> Response:
        self.findings.outcome = Outcome.DENIED
        self.findings.error = "access_denied"
        return _redirect(request.redirect_uri, self.world.identity.deny(request))

    def _allow(
        self, request: AuthorizationRequest, tenant_ids: list[str], user_id: str | None
    ) -> Response:
        self.findings.outcome = Outcome.CONSENTED
        now = self.world.clock()
        parameters = self.world.identity.consent(
            request, now, tenant_ids=tenant_ids, user_id=user_id
        )
        return _redirect(request.redirect_uri, parameters)

    def _page(
        self,
        request: AuthorizationRequest,
        *,
        ticked: list[str],
        user_id: str | None = None,
        message: str = "",
    ) -> Response:
        """Return the consent page. With a message, it is an error (status 400)."""
        page = _CONSENT.generate(
            title="Allow access?",
            client_id=request.client_id,
            scopes=request.scopes,
            users=list(self.world.identity.users.values()),
            user_id=user_id,
            organisations=list(self.world.accounting.organisations.values()),
            ticked=ticked,
            message=message,
        )
        return html_response(400 if message else 200, page)


class ErrorPageHandler(tornado.web.RequestHandler):
    """GET /identity/error: the end of a bad authorization request. It has no callback."""

    def initialize(self, world: World) -> None:
        self.world = world

    def get(self) -> None:
        page_id = self.get_query_argument("errorId", "")
        problem = _PROBLEMS.get(page_id, "unknown error")
        self.set_status(500)
        self.finish(_ERROR.generate(title="Error", problem=problem))


_PROBLEMS = {problem.page_id: problem for problem in PageProblem}


def _redirect(target: str, parameters: Mapping[str, str]) -> Response:
    separator = "&" if "?" in target else "?"
    location = f"{target}{separator}{urlencode(parameters)}"
    return Response(302, headers={"Location": location, "Cache-Control": "no-store"})
