"""The checks of a request before anything is done for it: the guard's, and the rules of access."""

from __future__ import annotations

from tornado.httputil import HTTPHeaders

from ..access import Caller, Peer, Rules, Transport, forwarding_header, identify
from . import guard
from .responses import WebConfig

__all__ = ["caller_of", "decision_on"]

UNIX_HOSTS = frozenset({"localhost"})
"""The further values of Host over the Unix socket, which has no port: curl sends this one for
``http://localhost/token``."""


def decision_on(
    method: str, target: str, headers: HTTPHeaders, peer: Peer, config: WebConfig
) -> guard.Refusal | guard.Decision:
    """Return the guard's decision on a request.

    Args:
        method: its method.
        target: its target as the client sent it, with its query.
        headers: all its headers.
        peer: the other end of its connection.
        config: the names of this server.
    """
    is_unix = peer.transport is Transport.UNIX
    return guard.decide(
        guard.Request(
            method=method,
            target=target,
            hosts=headers.get_list("Host"),
            headers=headers,
            allowed_hosts=config.hosts | UNIX_HOSTS if is_unix else config.hosts,
            redirect_uri=config.redirect_uri,
            scheme="https" if peer.transport is Transport.TLS else "http",
        )
    )


def caller_of(headers: HTTPHeaders, peer: Peer, rules: Rules) -> Caller:
    """Return the sender of a request; raises as ``access.identify``.

    Args:
        headers: all its headers.
        peer: the other end of its connection.
        rules: the rules now.
    """
    return identify(rules, peer, headers.get_list("Authorization"), forwarding_header(headers))
