"""The settings of one account, in layers: those of the top level, and its own above them. Pure.

An account's own settings come from its entry, if it was added at run time, and from the YAML file
and the credentials directory, which win over the entry. Each layer inherits from the one below it,
with two exceptions, so that no secret and no token reaches a server that it is not for:

- A layer with another client inherits no secret of the other one, and not its organisation.
- A layer with another identity server inherits no client, and none of the other server's URLs.

It inherits the proxy, with its password, and the authorities: these belong to the network between
this host and all identity servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..lifecycle.account import Entry

__all__ = ["ENTRY", "URLS_OF_SERVER", "Layer", "of_entry"]

ENTRY = "the account's entry"
"""The place of the settings that were given when the account was added at run time."""

OF_CLIENT = frozenset({"client_secret", "client_secret_file", "tenant_id"})
"""The settings that belong to one client."""

URLS_OF_SERVER = ("authorize_url", "revoke_url", "connections_url")
"""The settings that belong to one identity server, besides its clients and ``token_url``."""

OF_SERVER = OF_CLIENT.union({"client_id"}, URLS_OF_SERVER)
"""All settings that belong to one identity server."""


@dataclass(frozen=True)
class Layer:
    """Some settings, by name."""

    values: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    """The place where each setting was set. A default has none."""

    def differs(self, name: str, below: Layer) -> bool:
        """Tell if this layer has another value of a setting than the layer below."""
        has_both = name in self.values and name in below.values
        return has_both and self.values[name] != below.values[name]

    def above(self, below: Layer) -> Layer:
        """Return the settings of both layers. Those of this one win."""
        if self.differs("token_url", below):
            dropped = OF_SERVER
        elif self.differs("client_id", below):
            dropped = OF_CLIENT
        elif "client_secret" in self.values:
            dropped = frozenset({"client_secret", "client_secret_file"})
        else:
            dropped = frozenset()
        # An empty URL is that of a server without this endpoint.
        unset = {name: "" if name in URLS_OF_SERVER else None for name in dropped}
        places = {name: place for name, place in below.places.items() if name not in dropped}
        return Layer({**below.values, **unset, **self.values}, {**places, **self.places})


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
