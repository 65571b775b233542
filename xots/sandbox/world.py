"""The state of one simulated Xero without its sockets, which handlers and tests share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from .accounting import AccountingData, Organisation, default_organisations
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
    """Return a web app with a secret, and a public client, which uses PKCE."""
    return (Client(), Client(DEFAULT_PKCE_CLIENT_ID, None))


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """The options of a sandbox."""

    port: int = 5002
    """0 is any free port."""
    address: str = "127.0.0.1"
    """With 127.0.0.1 the sandbox listens on ::1 too, if the machine has it."""
    clients: tuple[Client, ...] = field(default_factory=default_clients)
    users: tuple[User, ...] = (User(),)
    organisations: tuple[Organisation, ...] = field(default_factory=default_organisations)
    switches: Switches = field(default_factory=Switches)
    faults: tuple[str | Rule, ...] = ()
    limits: Limits = field(default_factory=Limits)
    seed: int | None = None
    """Seed of tokens, ids and faults. None: the system's randomness, and seed 0 for faults.
    The signing key is always new."""
    auto_consent: bool = False
    """Consent to every request without showing the page."""


def real_time() -> datetime:
    return datetime.now(UTC)


class SandboxClock:
    """A clock that can be set: an offset from another clock."""

    def __init__(self, base: Clock = real_time) -> None:
        self._base = base
        self.offset = timedelta(0)

    def __call__(self) -> datetime:
        return self._base() + self.offset

    def advance(self, seconds: float) -> None:
        """Move the clock forward, or back by a negative number."""
        self.offset += timedelta(seconds=seconds)

    def set(self, to: datetime) -> None:
        """Set the clock.

        Raises:
            ValueError: the time has no time zone.
        """
        if to.tzinfo is None:
            raise ValueError("the time must have a time zone, such as 2026-11-01T00:00:00Z")
        self.offset = to - self._base()


class World:
    """The state of a running sandbox.

    Args:
        options: the sandbox's options.
        clock: the base of the sandbox's clock. The default is real time.
    """

    def __init__(self, options: SandboxOptions, clock: Clock = real_time) -> None:
        self.options = options
        self.clock = SandboxClock(clock)
        seed = options.seed
        rng = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311
        self.identity = Identity(
            options.clients,
            users=options.users,
            switches=options.switches,
            mint=signing_key().sign,
            random=rng,
        )
        self.accounting = AccountingData(options.organisations)
        self.limiter = RateLimiter(options.limits)
        self.faults = FaultScript(options.faults, seed=seed or 0)
        self.holds = Holds()
        self.log: list[LoggedRequest] = []
        self.on_logged: Callable[[LoggedRequest], None] | None = None
        """Called with each request when it is logged."""
        self.running: set[asyncio.Task[object]] = set()
        """The tasks that handle requests."""
        self._arrived = 0

    def arrive(self) -> int:
        """Count a request, and return its number."""
        self._arrived += 1
        return self._arrived

    def record(self, request: LoggedRequest) -> None:
        """Log a request, just before its response is sent."""
        self.log.append(request)
        if self.on_logged is not None:
            self.on_logged(request)
