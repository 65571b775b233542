"""One simulated Xero as a whole, without its sockets: what the handlers and the tests share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from .accounting import Books, Organisation, default_organisations
from .faults import FaultScript, Rule
from .holds import Holds
from .identity.clients import DEFAULT_PKCE_CLIENT_ID, Client, User
from .identity.provider import Identity
from .identity.signing import signing_key
from .identity.switches import Switches
from .limits import Limits, RateLimiter
from .log import LoggedRequest

__all__ = ["Clock", "SandboxClock", "SandboxOptions", "World", "default_clients"]

Clock = Callable[[], datetime]
"""Returns an aware UTC datetime."""


def default_clients() -> tuple[Client, ...]:
    """Return a web app with a secret, and a public one that uses PKCE."""
    return (Client(), Client(DEFAULT_PKCE_CLIENT_ID, None))


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """What a sandbox starts with."""

    port: int = 5002
    """0: any free port."""
    address: str = "127.0.0.1"
    """On 127.0.0.1 it listens on ::1 too, if there is one."""
    clients: tuple[Client, ...] = field(default_factory=default_clients)
    users: tuple[User, ...] = (User(),)
    organisations: tuple[Organisation, ...] = field(default_factory=default_organisations)
    switches: Switches = field(default_factory=Switches)
    faults: tuple[str | Rule, ...] = ()
    limits: Limits = field(default_factory=Limits)
    seed: int | None = None
    """For tokens, ids and chance. None: true randomness, and chances of seed 0. (The signing key is always new.)"""
    auto_consent: bool = False
    """Consent to everything without showing the page."""


def _real_time() -> datetime:
    return datetime.now(UTC)


class SandboxClock:
    """A clock that can be set: an offset over another clock."""

    def __init__(self, base: Clock = _real_time) -> None:
        self._base = base
        self.offset = timedelta(0)

    def __call__(self) -> datetime:
        return self._base() + self.offset

    def advance(self, seconds: float) -> None:
        """Move the clock on, or back with a negative number."""
        self.offset += timedelta(seconds=seconds)

    def set(self, to: datetime) -> None:
        """Set the clock. Raises ValueError for a naive time."""
        if to.tzinfo is None:
            raise ValueError("the time must carry its zone, as 2026-11-01T00:00:00Z does")
        self.offset = to - self._base()


class World:
    """All that a running sandbox knows."""

    def __init__(self, options: SandboxOptions, clock: Clock | None = None) -> None:
        self.options = options
        self.clock = SandboxClock() if clock is None else SandboxClock(clock)
        source = random.SystemRandom() if options.seed is None else random.Random(options.seed)  # noqa: S311
        self.identity = Identity(
            options.clients,
            users=options.users,
            switches=options.switches,
            mint=signing_key().sign,
            random=source,
        )
        self.books = Books(options.organisations)
        self.limiter = RateLimiter(options.limits)
        self.faults = FaultScript(options.faults, seed=options.seed or 0)
        self.holds = Holds()
        self.log: list[LoggedRequest] = []
        self.on_logged: Callable[[LoggedRequest], None] | None = None
        self.running: set[asyncio.Task[object]] = set()
        self._arrived = 0

    def arrive(self) -> int:
        """Count a request, and return its number."""
        self._arrived += 1
        return self._arrived

    def record(self, request: LoggedRequest) -> None:
        """Log a request that is about to be answered."""
        self.log.append(request)
        if self.on_logged is not None:
            self.on_logged(request)
