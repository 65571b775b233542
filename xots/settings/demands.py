"""The settings that other settings demand. Pure.

A problem names the setting that demands another one, and the one to set. A setting that has a
problem already demands nothing, and counts as set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from ..lifecycle.policy import Grant
from ..xero.identity_server import ClientAuth
from ..xero.scopes import login_problem
from . import parsing
from .accounts import Layer

__all__ = ["access_demands", "address_demands", "client_demands", "demands"]


def demands(own: Layer, combined: Layer, prefix: str = "") -> Iterator[str]:
    """Yield the problems that these settings cause, not those that they only inherit.

    Args:
        own: the settings of the top level, or an account's own.
        combined: these, with those that they inherit.
        prefix: the keys above a setting, as messages name them: ``accounts.NAME.``.
    """
    if "client_secret" in own.places and "client_id" not in combined.places:
        yield (
            f"{own.places['client_secret']}: a client secret needs a client id: set "
            f"{prefix}client_id too"
        )
    if combined.values.get("grant") == Grant.AUTHORIZATION_CODE:
        yield from _login_page_demand(own, combined, prefix)
        yield from _scope_demand(own, combined, prefix)


def _login_page_demand(own: Layer, combined: Layer, prefix: str) -> Iterator[str]:
    causes = [own.places[name] for name in ("token_url", "grant") if name in own.places]
    if causes and combined.values.get("authorize_url") == "":
        yield (
            f"{causes[0]}: a login at another identity server than Xero needs its login page: set "
            f"{prefix}authorize_url too"
        )


def _scope_demand(own: Layer, combined: Layer, prefix: str) -> Iterator[str]:
    causes = {"scopes", "token_url", "authorize_url", "grant"} & own.places.keys()
    if not causes or "scopes" not in combined.places or "scopes" not in combined.values:
        return
    if problem := login_problem(combined.values["scopes"], combined.server):
        other = "" if "scopes" in own.places else f", or set {prefix}scopes"
        yield f"{combined.places['scopes']}: {problem}{other}"


def client_demands(combined: Layer, prefix: str = "") -> Iterator[str]:
    """Yield the problem of an account that gets its tokens by its client's credentials, and has
    none; the arguments are those of ``demands``."""
    values, places = combined.values, combined.places
    if values.get("grant") != Grant.CLIENT_CREDENTIALS:
        return
    has_id, has_secret = "client_id" in places, "client_secret" in places
    needs_secret = values.get("client_auth") in (ClientAuth.BASIC, ClientAuth.POST)
    missing = []
    if not has_id and not has_secret:  # a secret alone is a problem of its own
        missing.append(f"{prefix}client_id")
    if not has_secret and needs_secret:
        missing.append(f"{prefix}client_secret or {prefix}client_secret_file")
    if missing:
        yield (
            f"{places['grant']}: client_credentials needs the client's own credentials: set "
            f"{' and '.join(missing)}"
        )


def address_demands(top: Layer, accounts: Iterable[Layer]) -> Iterator[str]:
    """Yield a problem if a user must log in, and only the operator can know the redirect URI.

    Args:
        top: the settings of the top level, with defaults.
        accounts: the own settings of each account.
    """
    grants = (layer.values.get("grant") for layer in (top, *accounts))
    has_login = Grant.AUTHORIZATION_CODE in grants
    address = top.values.get("address", "localhost")
    if has_login and not parsing.is_localhost(address) and "redirect" not in top.places:
        yield (
            f"{top.places['address']}: an address other than 127.0.0.1, ::1 and localhost needs a "
            "redirect URI at which browsers reach this server: set redirect too"
        )


WITHOUT_READERS = (
    "every machine that can connect to this address could get the token, so callers need keys. "
    "Make one with xots reader add NAME --readers FILE, and set readers to that FILE; or set "
    "readers to anyone, if a firewall admits only machines that you trust"
)


def access_demands(top: Layer) -> Iterator[str]:
    """Yield the problems of the settings that say who may connect, and how.

    Args:
        top: the settings of the top level, with defaults.
    """
    values, places = top.values, top.places
    address = values.get("address", "localhost")
    if not parsing.is_loopback(address) and "readers" not in places:
        yield f"{places['address']}: {WITHOUT_READERS}"
    if address == parsing.NO_ADDRESS and "unix_socket" not in places:
        yield f"{places['address']}: without an address, set unix_socket too"
    redirect, port = values.get("redirect") or "", values.get("port")
    is_own_http = redirect.startswith("http://") and urlsplit(redirect).port == port
    if is_own_http and "tls_certificate" in places:
        yield f"{places['redirect']}: {HTTP_TO_TLS}"
    for name, needed in NEEDED_TOO:
        if name in places and needed not in places:
            yield f"{places[name]}: {name} has no effect alone: set {needed} too"


HTTP_TO_TLS = (
    "with tls_certificate, this port speaks TLS, and a login would not come back: write https:// "
    "here, and register that URI at the identity server"
)

NEEDED_TOO = (
    ("unix_socket_group", "unix_socket"),
    ("tls_certificate", "tls_key"),
    ("tls_key", "tls_certificate"),
)
"""Of each pair, the first setting needs the second one."""
