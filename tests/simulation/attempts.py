"""The attempts to refresh at an identity server with a short grace period, and the losses they
explain.

Such a server ends the login if a refresh token is used again after its grace period. ``grace: 0``
is strict reuse detection (RFC 9700 section 4.14.2). So a lost response costs the login there, and
nothing else may. An ``Attempt`` knows which trouble it met; ``Attempts`` checks each reuse and each
lost login against that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from xots.lifecycle.account import Account, ProblemKind, RefreshNote
from xots.lifecycle.policy import Policy
from xots.lifecycle.schedule import State, state_of
from xots.sandbox.identity.consents import Consent

from .ledger import BrokenInvariantError

if TYPE_CHECKING:
    from .world import Process, World

LOSSES = ("before", "after", "503-before", "503-after")
"""The faults after which a process cannot know if its request was carried out."""

MAX_EARLY = timedelta(seconds=15)
"""Upper bound on the time by which a record dates an access token earlier than its issue: the
length of a lease, in which a process may pause before it sends the request, and the request. A
lease that only the death of its holder frees has no such length."""

MAX_SKEW = timedelta(seconds=2)
"""Upper bound on the difference of two clocks that were not set."""

PAUSE_SECONDS = (5, 30, 240)
"""Lengths of a pause: within the lease, past it, and well within Xero's grace period."""

MAX_UNSAVED = timedelta(seconds=60)
"""Time after which the process of an unsaved response counts as cut off from the store."""


@dataclass(eq=False)
class Attempt:
    """One request that spends a refresh token, from its stored intent to its stored outcome."""

    name: str
    """The account."""
    process: Process
    token: str
    """The fingerprint of the token that it spends."""
    began_at: datetime
    notes: tuple[RefreshNote, ...]
    """The latest note of the record at its start."""
    troubles: list[str] = field(default_factory=list)
    """The reasons why its outcome may not be in the store: a lost response, or the end, a pause or
    a lost connection of its process before the outcome was written."""
    issued_at: datetime | None = None
    """When the server issued tokens to it."""
    over: bool = False
    """True if its process has written the outcome."""
    sent: bool = False
    """True if its process has sent its request."""
    noted: bool = False
    """True if a process noted that it was cut off: another one before that, or its own one, which
    had sent nothing. Then a token that was not spent after all counts as spent."""

    def is_noted(self, account: Account) -> bool:
        """Tell if a record of its process holds its outcome."""
        intent = account.intent
        is_open = intent is not None and intent.began_at == self.began_at
        return not is_open or account.refreshes[:1] != self.notes

    def is_unknown(self, account: Account) -> bool:
        """Tell if a record that holds its outcome says that the outcome is not known."""
        intent, note = account.intent, next(iter(account.refreshes), None)
        is_open = intent is not None and intent.began_at == self.began_at
        return is_open and note is not None and note.kind is ProblemKind.UNKNOWN


class Attempts:
    """All attempts in a world, and the checks of the reuses and of the lost logins.

    Args:
        world: the world. Its climate names the grace period.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._policy = Policy(grace=timedelta(seconds=world.climate.grace_seconds))
        self._by_token: dict[str, list[Attempt]] = defaultdict(list)
        self._open: list[Attempt] = []
        self._known: set[tuple[str, datetime]] = set()
        self._reuses = Counter[str]()
        self._demands = Counter[str]()
        """The refreshes in progress that a user demands, by account."""
        self._killed: dict[Consent, str] = {}
        """The logins that a reuse ended, each with the trouble that led to it."""
        self._lost_logins: set[str] = set()

    # ---------- what happened

    def written(self, name: str, account: Account, by: Process) -> None:
        """Note a record that a process wrote: it may begin an attempt, or end one."""
        for attempt in [a for a in self._open if a.name == name and a.is_noted(account)]:
            if attempt.process is by:
                attempt.over = True
                attempt.noted |= not attempt.sent and attempt.is_unknown(account)
                self._open.remove(attempt)
            else:
                attempt.noted = True
        intent = account.intent
        if intent is None or (name, intent.began_at) in self._known:
            return
        self._known.add((name, intent.began_at))
        attempt = Attempt(name, by, intent.fingerprint, intent.began_at, account.refreshes[:1])
        self._by_token[attempt.token].append(attempt)
        self._open.append(attempt)
        token = account.spending
        if token is not None and token.resent and self._world.climate.has_short_grace:
            self._world.figures["last attempts"] += 1

    def interrupt(self, process: Process, trouble: str) -> None:
        """Note that a process met trouble between the start of its attempts and their outcome."""
        for attempt in self._open:
            if attempt.process is process:
                attempt.troubles.append(trouble)

    def sent(self, process: Process, token: str) -> Attempt | None:
        """Return the attempt of a process that sends this token (its fingerprint) now."""
        attempts = [a for a in self._by_token[token] if a.process is process and not a.over]
        if not attempts:
            return None
        attempts[-1].sent = True
        return attempts[-1]

    @contextmanager
    def demanded(self, name: str) -> Iterator[None]:
        """Note that a user demands a refresh: a token may be sent after its last attempt."""
        self._demands[name] += 1
        try:
            yield
        finally:
            self._demands[name] -= 1

    # ---------- checks

    def check_use(self, token: str, fingerprint: str, name: str) -> None:
        """Check a request that the server carries out now, if it uses a token after its grace
        period.

        It is a last attempt: it is made once (with ``grace: 0``), or more often if a user demands
        it, after each response to an earlier request was lost, and after the access token has
        expired.
        """
        world = self._world
        known = world.identity.tokens.refresh_tokens.get(token)
        if known is None or known.first_used_at is None:
            return
        world.figures["reuses of spent tokens"] += 1
        if not known.grace_is_over(world.now(), world.identity.switches):
            world.figures["reuses within the grace period"] += 1
            return
        if self._policy.grace and known.consent.ended is not None:
            return  # a grace period makes spent tokens fallbacks: nothing is left to lose
        self._reuses[token] += 1
        may_repeat = self._policy.grace or self._demands[name]
        if self._reuses[token] > 1 and not may_repeat:
            self._breaks(f"{name}: #{fingerprint} was used again a second time")
        issued = [attempt for attempt in self._by_token[fingerprint] if attempt.issued_at]
        for attempt in issued:
            if not attempt.over and world.now() - (attempt.issued_at or world.now()) > MAX_UNSAVED:
                attempt.troubles.append("an unsaved change")
        troubles = [attempt.troubles[0] for attempt in issued if attempt.troubles]
        # Within a grace period each request brings a successor, and only one may be valid.
        if not troubles or (len(troubles) < len(issued) and not self._policy.grace):
            self._breaks(f"{name}: #{fingerprint} was used again, and no response was lost")
        elif known.consent.ended is None:
            self._killed[known.consent] = troubles[0]
            self._check_expired(name, known.consent)

    def _check_expired(self, name: str, consent: Consent) -> None:
        """Check that the access token of the record, which a reuse may kill, has expired: by the
        record, which decides how long it is served, and by the server's clock."""
        world, account = self._world, self._world.account(name)
        if account.access is None or not self._is_of(account, consent):
            return
        known = world.identity.tokens.access_tokens[account.access.value.reveal()]
        skew = MAX_SKEW + 2 * world.widest_skew
        early = MAX_EARLY + timedelta(
            seconds=max(PAUSE_SECONDS) if world.climate.kernel_locks else 0
        )
        served = account.access.expires_at - world.now() - skew
        left = max(served, known.expires_at - world.now() - skew - early)
        if left > timedelta(0):
            self._breaks(f"{name}: a reuse ended the login {left} before its access token expired")

    def check_record(self, name: str, account: Account) -> None:
        """Check that Xero would issue from a token of this stored record; or that a response was
        lost, or may still arrive.

        Raises:
            BrokenInvariantError: neither is true.
        """
        world = self._world
        is_lost = state_of(account, world.now(), self._policy) is State.CONSENT_LOST
        if is_lost:
            self.check_lost(name, account)
        if any(world.identity.would_issue(t.value.reveal(), world.now()) for t in account.tokens):
            return
        spent = [a for t in account.tokens for a in self._by_token[t.fingerprint] if a.issued_at]
        if is_lost or any(not a.over or a.troubles for a in spent):
            return
        if any(self._is_of(account, consent) for consent in self._killed):
            return
        raise BrokenInvariantError(
            f"{name}: Xero would issue from no token of generation {account.generation}, and no "
            "response was lost"
        )

    def check_lost(self, name: str, account: Account) -> None:
        """Check that a login which a process counts as lost is lost for a good reason, and count
        it.

        Raises:
            BrokenInvariantError: no response was lost.
        """
        consent_id = account.consent_id or ""
        if consent_id in self._lost_logins:
            return
        # While clocks differ, a last attempt may look over before it is.
        marks = {token.fingerprint for token in account.tokens}
        if self._world.widest_skew and any(a.token in marks for a in self._open):
            return
        reason = self._reason(account)
        if reason is None:
            raise BrokenInvariantError(f"{name} counts as lost, and no response was lost")
        self._lost_logins.add(consent_id)
        self._world.figures[f"logins lost: {reason}"] += 1
        self._world.say(f"{name} is lost: {reason}")

    def _reason(self, account: Account) -> str | None:
        """Return why the login of a record is lost; None if there is no reason."""
        of = self._world.identity.tokens.refresh_tokens
        consents = [of[t.value.reveal()].consent for t in account.tokens]
        attempts = [a for t in account.tokens for a in self._by_token[t.fingerprint]]
        reasons = [self._killed[consent] for consent in consents if consent in self._killed]
        reasons += [a.troubles[0] for a in attempts if a.issued_at and a.troubles]
        in_vain = [attempt for attempt in attempts if attempt.troubles or attempt.noted]
        if len(in_vain) > 1:
            reasons.append("no response to two requests")
        return next(iter(reasons), None)

    def _is_of(self, account: Account, consent: Consent) -> bool:
        of = self._world.identity.tokens.refresh_tokens
        return any(of[t.value.reveal()].consent is consent for t in account.tokens)

    def _breaks(self, text: str) -> None:
        self._world.breaks(BrokenInvariantError(text))
