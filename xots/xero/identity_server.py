"""``IdentityServer``: the settings of the identity server of an account. Pure."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

__all__ = ["XERO", "ClientAuth", "IdentityServer"]


LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
"""The hosts at which the simulated Xero stands in for Xero."""


class ClientAuth(StrEnum):
    """The ways in which a client with a secret authenticates (RFC 6749 section 2.3.1; the names are
    those of RFC 7591 section 2, without ``client_secret_``)."""

    BASIC = "basic"
    """Id and secret in the header ``Authorization``. Every server must know it."""
    POST = "post"
    """Id and secret in the form."""
    NONE = "none"
    """The id alone in the form, as for a client without a secret."""


class IdentityServer(msgspec.Struct, frozen=True, kw_only=True):
    """An identity server: its URLs, and how a client speaks to it. The defaults are Xero's.

    They are settings and not discovered, so that no response can change them.
    """

    authorize_url: str = "https://login.xero.com/identity/connect/authorize"
    token_url: str = "https://identity.xero.com/connect/token"  # noqa: S105 - a URL, not a secret
    revoke_url: str = "https://identity.xero.com/connect/revocation"
    """Empty for an identity server that revokes no tokens."""
    connections_url: str = "https://api.xero.com/connections"
    """Empty for an identity server without organisations."""
    authorize_params: tuple[tuple[str, str], ...] = ()
    """Further parameters of the authorization request, by name."""
    client_auth: ClientAuth = ClientAuth.BASIC
    issuer: str | None = None
    """The ``iss`` of its authorization responses (RFC 9207); None if it is not known."""

    @property
    def is_xero(self) -> bool:
        """True for Xero and for a server on this machine that stands in for it, such as the
        simulated one: users log in at Xero's path. Other products have that path too, on hosts of
        their own."""
        return _is_xeros_page(self.authorize_url)

    @property
    def has_organisations(self) -> bool:
        """True if it lists the organisations of a login."""
        return bool(self.connections_url)

    @property
    def name(self) -> str:
        """Its name in the middle of a sentence."""
        return "Xero" if self.is_xero else "the identity server"


XERO = IdentityServer()


@lru_cache(maxsize=128)  # each event names its identity server
def _is_xeros_page(authorize_url: str) -> bool:
    page, xeros = urlsplit(authorize_url), urlsplit(XERO.authorize_url)
    return page.path == xeros.path and page.hostname in (xeros.hostname, *LOOPBACK_HOSTS)
