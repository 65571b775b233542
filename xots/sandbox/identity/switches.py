"""Switches between the behaviours that Xero does not document, and the lifetimes of tokens.

Xero's documentation leaves several questions open. One of them: does each retry of a refresh token
within the grace period issue another valid successor? A client that must work with every possible
behaviour is tested with every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from .protocol import OAuthErrorCode

__all__ = ["SiblingMode", "Switches"]


class SiblingMode(StrEnum):
    """The effect on earlier successors when a refresh token is retried in its grace period."""

    ALL_VALID = "all-valid"
    """Each retry issues another successor, and all of them stay valid."""
    LAST_VALID = "last-valid"
    """Only the newest successor is valid. Tokens issued from an earlier one stay valid."""
    LAST_VALID_WITH_DESCENDANTS = "last-valid-with-descendants"
    """Only the newest successor is valid. Tokens issued from an earlier one die with it."""
    SAME_RESPONSE = "same-response"
    """The first response is sent again, byte for byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """The behaviour of the simulated Xero. Durations are in seconds.

    Replace the whole object to change the behaviour at run time.

    Raises:
        ValueError: the grace period is negative, or a lifetime is not positive.
    """

    sibling_mode: SiblingMode = SiblingMode.ALL_VALID
    late_reuse_kills_chain: bool = False
    """Reuse of a refresh token after its grace period ends every token of the same consent."""
    rotate: bool = True
    """False: a refresh response has no refresh token, and the presented one stays valid."""
    access_tokens_die_on_revoke: bool = False
    """False: access tokens outlive a revocation until their ``exp``, but have no connections."""
    consents_end_without_connections: bool = False
    """A consent ends once the last connection to an organisation that it included is deleted."""
    refused_scopes_come_back: bool = False
    """A refused scope redirects with ``access_denied`` instead of to Xero's own error page."""
    add_iss: bool = False
    """Add ``iss`` to the callback (RFC 9207), as other servers do."""
    add_session_state: bool = True
    """Add ``session_state`` to the callback."""
    add_scope: bool = True
    """Add ``scope`` to the callback."""
    omit_authentication_event_id: bool = False
    """Leave that claim out of the access tokens."""
    shuffle_connections: bool = False
    """Each list of connections starts with another one."""
    custom_connections_refused: OAuthErrorCode | None = None
    """The error for every custom connection, as if it were deactivated: a change of its scopes does
    so until it is authorised again. Its access tokens stay valid. None: all are active."""
    grace_seconds: float = 30 * 60
    """Time after its first use in which a refresh token can be used again."""
    access_token_life_seconds: int = 30 * 60
    refresh_token_life_seconds: float = 60 * 86400
    """Lifetime of an unused refresh token."""
    code_life_seconds: float = 5 * 60
    clock_skew_seconds: float = 0
    """Offset of the clock that writes ``nbf`` and ``exp``. The real lifetimes stay the same."""

    def __post_init__(self) -> None:
        lifetimes = [f.name for f in fields(self) if f.name.endswith("_life_seconds")]
        for name in lifetimes:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
        if self.grace_seconds < 0:
            raise ValueError(f"grace_seconds must not be negative, and is {self.grace_seconds}")
