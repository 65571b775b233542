"""Authorization codes, access tokens and refresh tokens, as the identity provider keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from .authorization import proves
from .consents import ConnectedApp, Consent
from .protocol import AuthorizationRequest, Refusal, TokenResponse
from .switches import SiblingMode, Switches

__all__ = ["AccessToken", "Code", "RefreshToken", "TokenRegistry"]

_KILLING_MODES = (SiblingMode.LAST_VALID, SiblingMode.LAST_VALID_WITH_DESCENDANTS)


@dataclass(slots=True)
class Code:
    """An authorization code, valid for one exchange."""

    request: AuthorizationRequest
    consent: Consent
    issued_at: datetime
    used: bool = False

    def refusal(
        self, redirect_uri: str, code_verifier: str | None, now: datetime, switches: Switches
    ) -> Refusal | str | None:
        """Return the reason to refuse this exchange, or None."""
        request, life = self.request, timedelta(seconds=switches.code_life_seconds)
        if self.used:
            return "code already used"
        if now - self.issued_at >= life:
            return "code expired"
        if request.redirect_uri != redirect_uri:
            return "another redirect_uri than the authorization request's"
        if not proves(code_verifier, request.code_challenge):
            return "code_verifier"
        return self.consent.ended


@dataclass(slots=True)
class AccessToken:
    """An access token, as the API sees it."""

    consent: Consent
    expires_at: datetime

    @property
    def app(self) -> ConnectedApp:
        return self.consent.app

    @property
    def scopes(self) -> tuple[str, ...]:
        return self.consent.scopes


@dataclass(eq=False, slots=True)
class RefreshToken:
    """A refresh token and its history."""

    consent: Consent
    idle_since: datetime
    """The time of its issue, or of its last use if tokens do not rotate."""
    first_used_at: datetime | None = None
    killed: bool = False
    """True if a newer sibling has replaced it."""
    successors: list[RefreshToken] = field(default_factory=list, repr=False)
    response: TokenResponse | None = field(default=None, repr=False)
    """The last response to a request with this token."""

    def refusal(self, now: datetime, switches: Switches) -> Refusal | None:
        """Return the reason to refuse this token now, or None."""
        if self.consent.ended is not None:
            return self.consent.ended
        if self.killed:
            return Refusal.SIBLING
        if self.first_used_at is not None:
            return Refusal.SPENT if self.grace_is_over(now, switches) else None
        idle = now - self.idle_since >= timedelta(seconds=switches.refresh_token_life_seconds)
        return Refusal.IDLE if idle else None

    def grace_is_over(self, now: datetime, switches: Switches) -> bool:
        """Return True if the token was used, and its grace period is over."""
        if self.first_used_at is None:
            return False
        return now - self.first_used_at > timedelta(seconds=switches.grace_seconds)

    def is_over(self, now: datetime, switches: Switches) -> bool:
        """Return True if this token can never be valid again."""
        ended = self.killed or self.consent.ended is not None
        return ended or self.grace_is_over(now, switches)

    def kill_successors(self, mode: SiblingMode) -> None:
        """Kill the tokens issued for this one before, as far as the mode says so."""
        doomed = list(self.successors) if mode in _KILLING_MODES else []
        while doomed:
            token = doomed.pop()
            token.killed = True
            if mode is SiblingMode.LAST_VALID_WITH_DESCENDANTS:
                doomed += token.successors


class TokenRegistry:
    """Every code and token that was issued, by its text, oldest first."""

    def __init__(self) -> None:
        self.codes: dict[str, Code] = {}
        self.access_tokens: dict[str, AccessToken] = {}
        self.refresh_tokens: dict[str, RefreshToken] = {}

    def prune(self, now: datetime, switches: Switches) -> None:
        """Drop codes and tokens that can have no more effect. The clock must not go back later."""
        life = timedelta(seconds=switches.code_life_seconds)
        self.codes = {t: code for t, code in self.codes.items() if now - code.issued_at < life}
        self.access_tokens = {t: a for t, a in self.access_tokens.items() if now < a.expires_at}
        over = [t for t, token in self.refresh_tokens.items() if token.is_over(now, switches)]
        for text in over:
            self.refresh_tokens.pop(text).successors.clear()
