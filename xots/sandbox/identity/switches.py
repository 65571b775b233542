"""What nobody outside Xero knows for certain, as switches, and how long things live.

Xero's documentation leaves several answers open (does each retry of a refresh token within the grace mint another
valid successor?). A program that must survive every answer is tested under every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

__all__ = ["SiblingMode", "Switches"]


class SiblingMode(StrEnum):
    """What happens to the earlier successors of a refresh token that is used again within its grace."""

    ALL_VALID = "all-valid"
    """Each retry mints another successor, and all of them stay valid."""
    LAST_VALID = "last-valid"
    """Only the newest successor is valid; what was already issued from an earlier one lives on."""
    LAST_VALID_WITH_DESCENDANTS = "last-valid-with-descendants"
    """Only the newest successor is valid; the earlier ones die with all that was issued from them."""
    SAME_ANSWER = "same-answer"
    """The first answer is given again, byte for byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """How this simulated Xero behaves; replace the whole to change it at run time. Durations are seconds.

    Raises ValueError when a duration is negative, or a life is zero.
    """

    sibling_mode: SiblingMode = SiblingMode.ALL_VALID
    late_reuse_kills_chain: bool = False
    """A refresh token used again after its grace ends every token of the same consent."""
    rotate: bool = True
    """False: a refresh is answered without a new refresh token, and the old one stays good."""
    access_tokens_die_on_revoke: bool = False
    """False: after a revocation, access tokens live on to their ``exp``, but have no connections."""
    refused_scopes_come_back: bool = False
    """A refused scope calls back with ``access_denied`` instead of showing Xero's own error page."""
    add_iss: bool = False
    """Add ``iss`` to the callback (RFC 9207), as other servers do."""
    add_session_state: bool = True
    add_scope: bool = True
    """Add ``scope`` to the callback."""
    omit_authentication_event_id: bool = False
    """Leave that claim out of the access tokens."""
    shuffle_connections: bool = False
    """Each list of connections starts with another one."""
    grace_seconds: float = 30 * 60
    """How long after its first use a refresh token may be used again."""
    access_token_life_seconds: int = 30 * 60
    refresh_token_life_seconds: float = 60 * 86400
    """A refresh token that nobody has used for so long is dead."""
    code_life_seconds: float = 5 * 60
    clock_skew_seconds: float = 0
    """How far ahead the clock is that writes ``nbf`` and ``exp``; negative: behind. True lives are unchanged."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_life_seconds") and value <= 0:
                raise ValueError(f"{field.name} must be more than 0, not {value}")
            if field.name == "grace_seconds" and value < 0:
                raise ValueError(f"grace_seconds must not be negative, and is {value}")
