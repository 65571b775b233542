"""A simulated Xero, to test an integration with it.

On the command line it is ``xots sandbox``. In a test::

    from xots.sandbox import Sandbox, SandboxOptions

    async with Sandbox(SandboxOptions(port=0)) as sandbox:
        tokens = sandbox.log_in()
        sandbox.add_fault("refresh:nth=1:lost")
        ...  # run the program under test with sandbox.token_url
        assert [request.outcome for request in sandbox.refreshes()] == ["lost", "issued"]

`Identity` by itself is a pure state machine, for simulations without a socket.

- ``identity/`` is the identity provider, without I/O.
- ``accounting``, ``limits``, ``faults`` and ``log`` are the rest of the simulation, also without
  I/O; ``world`` holds them together, with the requests on hold (``holds``).
- ``http/`` serves it all over HTTP; ``command`` is ``xots sandbox``.
- ``person`` is a simulated user with a browser.
"""

from __future__ import annotations

from .accounting import Organisation
from .faults import Endpoint, Fault, FaultKind, FaultScript, FaultSyntaxError, Rule
from .http.server import Sandbox
from .identity.clients import (
    BROAD_SCOPES,
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    DEFAULT_CUSTOM_CLIENT_ID,
    DEFAULT_PKCE_CLIENT_ID,
    DEFAULT_REDIRECT_URI,
    GRANULAR_SCOPES,
    Client,
    User,
)
from .identity.protocol import OAuthError, OAuthErrorCode, Refusal, Shape, TokenResponse
from .identity.provider import Identity
from .identity.switches import SiblingMode, Switches
from .limits import Limits
from .log import LoggedRequest, Outcome, fingerprint
from .world import SandboxClock, SandboxOptions

__all__ = [
    "BROAD_SCOPES",
    "DEFAULT_CLIENT_ID",
    "DEFAULT_CLIENT_SECRET",
    "DEFAULT_CUSTOM_CLIENT_ID",
    "DEFAULT_PKCE_CLIENT_ID",
    "DEFAULT_REDIRECT_URI",
    "GRANULAR_SCOPES",
    "Client",
    "Endpoint",
    "Fault",
    "FaultKind",
    "FaultScript",
    "FaultSyntaxError",
    "Identity",
    "Limits",
    "LoggedRequest",
    "OAuthError",
    "OAuthErrorCode",
    "Organisation",
    "Outcome",
    "Refusal",
    "Rule",
    "Sandbox",
    "SandboxClock",
    "SandboxOptions",
    "Shape",
    "SiblingMode",
    "Switches",
    "TokenResponse",
    "User",
    "fingerprint",
]
