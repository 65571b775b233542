"""The pages that a person sees at the simulated Xero: consent, and Xero's own error page."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import tornado.template
import tornado.web

from ..faults import Endpoint
from ..identity.protocol import AuthorizationRequest, CallbackError, ErrorPage, PageProblem, Shape
from ..log import Outcome
from ..world import World
from .handlers import SandboxHandler, single_values
from .responses import Reply, html_reply

__all__ = ["AuthorizeHandler", "ErrorPageHandler"]

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} - simulated Xero</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 2rem auto; padding: 0 1rem; }
fieldset { margin: 1rem 0; } label { display: block; } button { font: inherit; padding: .4rem 1.2rem; }
.note { background: #fff3cd; color: #333; padding: .5rem 1rem; }
</style>
</head>
<body>
<main>
<p class="note">This is the sandbox that ships with xots, not Xero. Nothing here is real.</p>
"""

_CONSENT = tornado.template.Template(
    _HEAD
    + """<h1>Allow access?</h1>
<p>The app <strong>{{ client_id }}</strong> asks for:</p>
<ul>
{% for scope in scopes %}<li><code>{{ scope }}</code></li>
{% end %}</ul>
{% if message %}<p role="alert"><strong>{{ message }}</strong></p>
{% end %}<form method="post">
{% if len(users) > 1 %}<p><label>You are <select name="user">
{% for user in users %}<option value="{{ user.user_id }}">{{ user.name }}</option>
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


class AuthorizeHandler(SandboxHandler):
    """GET and POST /identity/connect/authorize. The form posts to its own address, so the request is read anew."""

    async def get(self) -> None:
        await self.perform(Endpoint.AUTHORIZE, self._show)

    async def post(self) -> None:
        await self.perform(Endpoint.AUTHORIZE, self._decide)

    def _show(self, shape: Shape) -> Reply:
        request = self._request()
        if isinstance(request, Reply):
            return request
        organisations = self.world.books.organisations
        if self.world.options.auto_consent:
            return self._allow(request, list(organisations), None)
        return self._page(request, ticked=list(organisations)[:1])

    def _decide(self, shape: Shape) -> Reply:
        request = self._request()
        if isinstance(request, Reply):
            return request
        action = self.get_body_argument("action", "")
        if action == "cancel":
            self.findings.outcome = Outcome.DENIED
            self.findings.error = "access_denied"
            return _callback(request.redirect_uri, self.world.identity.deny(request))
        known = self.world.books.organisations
        tenant_ids = [
            tenant_id for tenant_id in self.get_body_arguments("tenant") if tenant_id in known
        ]
        user_id = self.get_body_argument("user", None)
        if action != "allow" or (user_id is not None and user_id not in self.world.identity.users):
            return self._page(
                request, ticked=tenant_ids, message="Please choose Allow or Cancel.", status=400
            )
        if not tenant_ids:
            return self._page(
                request, ticked=[], message="Please tick at least one organisation.", status=400
            )
        return self._allow(request, tenant_ids, user_id)

    def _request(self) -> AuthorizationRequest | Reply:
        """Return the authorization request, or the answer to a bad one."""
        # Given twice is as good as not given: whichever is missed then is what the error page names.
        parameters = single_values(self.request.query_arguments) or {}
        self.findings.client_id = parameters.get("client_id")
        try:
            return self.world.identity.check_authorization(parameters)
        except ErrorPage as error:
            self.findings.outcome = Outcome.REFUSED
            self.findings.error, self.findings.reason = error.problem.split(" : ")[0], error.problem
            return _redirect(f"/identity/error?{urlencode({'errorId': error.problem.page_id})}")
        except CallbackError as error:
            self.findings.outcome = Outcome.REFUSED
            self.findings.error = error.parameters["error"]
            return _callback(error.redirect_uri, error.parameters)

    def _allow(
        self, request: AuthorizationRequest, tenant_ids: list[str], user_id: str | None
    ) -> Reply:
        self.findings.outcome = Outcome.CONSENTED
        now = self.world.clock()
        parameters = self.world.identity.consent(
            request, now, tenant_ids=tenant_ids, user_id=user_id
        )
        return _callback(request.redirect_uri, parameters)

    def _page(
        self,
        request: AuthorizationRequest,
        *,
        ticked: list[str],
        message: str = "",
        status: int = 200,
    ) -> Reply:
        page = _CONSENT.generate(
            title="Allow access?",
            client_id=request.client_id,
            scopes=request.scopes,
            users=list(self.world.identity.users.values()),
            organisations=list(self.world.books.organisations.values()),
            ticked=ticked,
            message=message,
        )
        return html_reply(status, page)


class ErrorPageHandler(tornado.web.RequestHandler):
    """GET /identity/error: where a bad authorization request ends. Nothing calls back."""

    def initialize(self, world: World) -> None:
        self.world = world

    def get(self) -> None:
        asked = self.get_query_argument("errorId", "")
        problems = [problem for problem in PageProblem if problem.page_id == asked]
        self.set_status(500)
        self.finish(
            _ERROR.generate(title="Error", problem=problems[0] if problems else "unknown error")
        )


def _redirect(location: str) -> Reply:
    return Reply(302, headers={"Location": location, "Cache-Control": "no-store"})


def _callback(redirect_uri: str, parameters: Mapping[str, str]) -> Reply:
    return _redirect(f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{urlencode(parameters)}")
