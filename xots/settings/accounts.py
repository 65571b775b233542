"""The settings of one account, in layers: those of the top level, and its own above them. Pure.

An account's own settings come from its entry, if it was added at run time, and from the YAML file
and the credentials directory, which win over the entry. Each layer inherits from the one below it,
with two exceptions, so that no secret and no token reaches a server that it is not for:

- A layer with another client inherits no secret of the other one, and not its organisation.
- A layer with another identity server inherits no client, and no setting that belongs to the other
  server. It has Xero's URLs if it is Xero, and otherwise none but its own.

The top level itself is such a layer, above the defaults, which are Xero's. The default scopes are
Xero's too: a layer of another server requests none by default.

It inherits the proxy, with its password, and the authorities: these belong to the network between
this host and all identity servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..lifecycle.account import Entry
from ..lifecycle.policy import Policy
from ..xero.identity_server import XERO, IdentityServer
from ..xero.protocol import SCOPE_SETS

__all__ = ["ENTRY", "Layer", "of_entry"]

ENTRY = "the account's entry"
"""The place of the settings that were given when the account was added at run time."""

NO_SECRET = {"client_secret": None, "client_secret_file": None}
"""A secret that is not set."""

NO_CLIENT = {**NO_SECRET, "tenant_id": None}
"""The settings that belong to one client, not set."""

OF_SERVER = (
    "authorize_url",
    "revoke_url",
    "connections_url",
    "authorize_params",
    "client_auth",
    "issuer",
)
"""The settings that belong to one identity server, besides ``token_url``, its clients and
``grace``."""


def _of_server(token_url: str) -> dict[str, Any]:
    """Return the settings that belong to an identity server, as they are until they are set.

    An empty URL is that of a server without this endpoint.
    """
    server = XERO
    if token_url != XERO.token_url:
        server = IdentityServer(
            token_url=token_url, authorize_url="", revoke_url="", connections_url=""
        )
    of_server = {name: getattr(server, name) for name in OF_SERVER}
    return {**of_server, "grace": Policy().grace.total_seconds(), "client_id": None, **NO_CLIENT}


def _default_scopes(server: IdentityServer) -> tuple[str, ...]:
    return SCOPE_SETS["classic"] if server.is_xero else ()


class Layer(msgspec.Struct, frozen=True):
    """Some settings, by name."""

    values: Mapping[str, Any] = msgspec.field(default_factory=dict)
    places: Mapping[str, str] = msgspec.field(default_factory=dict)
    """The place where each setting was set. A default has none."""

    @property
    def server(self) -> IdentityServer:
        """The identity server, by the URL of its login."""
        return IdentityServer(authorize_url=self.values.get("authorize_url", ""))

    def differs(self, name: str, below: Layer) -> bool:
        """Tell if this layer has another value of a setting than the layer below."""
        has_both = name in self.values and name in below.values
        return has_both and self.values[name] != below.values[name]

    def above(self, below: Layer) -> Layer:
        """Return the settings of both layers. Those of this one win."""
        unset: dict[str, Any] = {}
        if self.differs("token_url", below):
            unset = _of_server(self.values["token_url"])
        elif self.differs("client_id", below):
            unset = NO_CLIENT
        elif "client_secret" in self.values:
            unset = NO_SECRET
        places = {name: place for name, place in below.places.items() if name not in unset}
        both = Layer({**below.values, **unset, **self.values}, {**places, **self.places})
        if both.server.is_xero == below.server.is_xero or "scopes" in both.places:
            return both
        return Layer({**both.values, "scopes": _default_scopes(both.server)}, both.places)


def of_entry(entry: Entry | None) -> Layer:
    """Return the layer of an account's entry. A secret without its client's id is left out."""
    if entry is None:
        return Layer()
    values = {
        "client_id": entry.client_id,
        "client_secret": entry.client_secret if entry.client_id is not None else None,
        "tenant_id": entry.tenant_id,
        "scopes": entry.scopes or None,
    }
    given = {name: value for name, value in values.items() if value is not None}
    return Layer(given, dict.fromkeys(given, ENTRY))
