"""The response of the token endpoint: access, ID and refresh tokens."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from .claims import Issue, access_claims, id_claims
from .clients import User
from .protocol import Mint, Shape, TokenResponse
from .randomness import RandomTexts
from .tokens import AccessToken, RefreshToken, TokenRegistry

__all__ = ["TokenIssuer"]


class TokenIssuer:
    """Issues tokens and registers them.

    Args:
        registry: keeps the issued tokens.
        users: by user id, for the claims of ID tokens.
        texts: makes the texts of refresh tokens, and the ids of the others.
        mint: makes the texts of access and ID tokens.
    """

    def __init__(
        self, registry: TokenRegistry, users: Mapping[str, User], texts: RandomTexts, mint: Mint
    ) -> None:
        self._registry = registry
        self._users = users
        self._texts = texts
        self._mint = mint

    def issue(
        self, issue: Issue, shape: Shape, *, rotate: bool = True
    ) -> tuple[TokenResponse, RefreshToken | None]:
        """Return a response with new tokens, and the record of its refresh token if it has one.

        Without ``rotate``, it has none. Otherwise the scopes decide.
        """
        scopes = issue.consent.scopes
        access_token = self._access_token(issue, shape)
        fields: dict[str, object] = {}
        if "openid" in scopes:
            fields["id_token"] = self._id_token(issue, access_token)
        fields |= {
            "access_token": access_token,
            "expires_in": issue.switches.access_token_life_seconds,
            "token_type": "Bearer",
        }
        record = None
        if rotate and "offline_access" in scopes:
            refresh_token = self._texts.text(shape.refresh_token_length)
            record = RefreshToken(issue.consent, issue.now)
            self._registry.refresh_tokens[refresh_token] = record
            fields["refresh_token"] = refresh_token
        fields["scope"] = " ".join(scopes)
        return TokenResponse(fields), record

    def _access_token(self, issue: Issue, shape: Shape) -> str:
        text = (shape.mint or self._mint)(access_claims(issue, self._texts.uuid()))
        life = timedelta(seconds=issue.switches.access_token_life_seconds)
        self._registry.access_tokens[text] = AccessToken(issue.consent, issue.now + life)
        return text

    def _id_token(self, issue: Issue, access_token: str) -> str:
        user = self._users[issue.consent.app.user_id]
        claims = id_claims(issue, self._texts.uuid(), user=user, access_token=access_token)
        return self._mint(claims)
