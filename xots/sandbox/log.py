"""The request log, so that a test can say how many refreshes were made, and with which token."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .faults import Endpoint, FaultKind

__all__ = ["LoggedRequest", "Outcome", "fingerprint"]


class Outcome(StrEnum):
    """What became of a request."""

    ISSUED = "issued"
    """Tokens were issued, and the answer sent."""
    REPLAYED = "replayed"
    """The answer that was given before was sent again."""
    REVOKED = "revoked"
    CONSENTED = "consented"
    DENIED = "denied"
    SERVED = "served"
    """Another good answer: a page, a list, a revocation of nothing."""
    REFUSED = "refused"
    LOST = "lost"
    """It was done, and the caller didn't hear of it; ``issued`` tells whether tokens went lost."""
    FAULTED = "faulted"
    """A fault came first: nothing was done."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request. It is logged just before the last byte of its answer (or the reset) is sent."""

    number: int
    """In order of arrival, from 1."""
    at: datetime
    """The sandbox's time when it was logged."""
    endpoint: Endpoint
    method: str
    path: str
    outcome: Outcome
    status: int | None
    """As sent; None if nothing was."""
    client_id: str | None = None
    grant_type: str | None = None
    error: str | None = None
    """The error code sent."""
    reason: str | None = None
    """Why it was refused, in more detail than the wire tells."""
    token: str | None = None
    """Fingerprint of the refresh token presented."""
    issued: str | None = None
    """Fingerprint of the refresh token issued."""
    fault: FaultKind | None = None

    def __str__(self) -> str:
        told = (self.client_id, self.grant_type, self.error, self.reason)
        words = [f"#{self.number}", f"{self.at:%Y-%m-%dT%H:%M:%SZ}", self.method, self.path]
        words += [
            "-" if self.status is None else str(self.status),
            self.outcome,
            *(one for one in told if one),
        ]
        words += [
            f"{name}={value}"
            for name, value in (("token", self.token), ("issued", self.issued))
            if value
        ]
        return " ".join(words if self.fault is None else [*words, f"fault={self.fault}"])


def fingerprint(token: str) -> str:
    """Return the first twelve hexadecimal digits of a token's SHA-256: enough to tell two apart, and no secret."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]
