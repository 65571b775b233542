"""The request log, from which a test reads the refreshes and their tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .faults import Endpoint, FaultKind

__all__ = ["LoggedRequest", "Outcome", "fingerprint"]


class Outcome(StrEnum):
    """The outcome of a request."""

    ISSUED = "issued"
    """Tokens were issued, and the response was sent."""
    REPLAYED = "replayed"
    """An earlier response was sent again."""
    REVOKED = "revoked"
    CONSENTED = "consented"
    DENIED = "denied"
    SERVED = "served"
    """Another success: a page, a list, or a revocation without effect."""
    REFUSED = "refused"
    LOST = "lost"
    """Committed, and the response did not arrive. ``issued`` tells if it had a refresh token."""
    FAULTED = "faulted"
    """A fault came first, and nothing was committed."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request, logged just before the end of its response (or the reset) is sent."""

    number: int
    """In order of arrival, from 1."""
    at: datetime
    """The sandbox's time when the request was logged."""
    endpoint: Endpoint
    method: str
    path: str
    outcome: Outcome
    status: int | None
    """The status sent, or None without a response."""
    client_id: str | None = None
    grant_type: str | None = None
    error: str | None = None
    """The error code in the response."""
    reason: str | None = None
    """The reason of a refusal, in more detail than the response has."""
    token: str | None = None
    """The fingerprint of the refresh token in the request."""
    issued: str | None = None
    """The fingerprint of the refresh token issued."""
    fault: FaultKind | None = None

    def __str__(self) -> str:
        named = (("token", self.token), ("issued", self.issued), ("fault", self.fault))
        words = [
            f"#{self.number} {self.at:%Y-%m-%dT%H:%M:%SZ} {self.method} {self.path}",
            "-" if self.status is None else str(self.status),
            self.outcome,
            self.client_id,
            self.grant_type,
            self.error,
            self.reason,
            *(f"{name}={value}" for name, value in named if value),
        ]
        return " ".join(word for word in words if word)


def fingerprint(token: str) -> str:
    """Return the first 12 hexadecimal digits of a token's SHA-256.

    They are enough to tell tokens apart, and no secret.
    """
    return hashlib.sha256(token.encode()).hexdigest()[:12]
