"""Signed tokens: RS256 JWTs, and the key set that proves them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache, cached_property
from typing import TYPE_CHECKING

from .protocol import base64url

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

__all__ = ["SigningKey", "signing_key"]


class SigningKey:
    """An RSA key of 2048 bits, made when it is first used; a simulation that signs nothing never loads the library."""

    @cached_property
    def _key(self) -> RSAPrivateKey:
        from cryptography.hazmat.primitives.asymmetric import rsa

        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @cached_property
    def jwk(self) -> dict[str, str]:
        """The public key as a JWK (RFC 7517); its id is its thumbprint (RFC 7638) in hexadecimal."""
        numbers = self._key.public_key().public_numbers()
        required = {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}
        thumbprint = (
            hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).hexdigest().upper()
        )
        return {
            "kty": "RSA",
            "use": "sig",
            "kid": thumbprint,
            "alg": "RS256",
            "e": required["e"],
            "n": required["n"],
        }

    def key_set(self) -> dict[str, list[dict[str, str]]]:
        """Return the JWK set that the jwks endpoint serves."""
        return {"keys": [self.jwk]}

    def sign(self, claims: Mapping[str, object], *, at_least: int = 0) -> str:
        """Return the claims as a signed JWT (RFC 7515), padded by a claim of its own to ``at_least`` characters."""
        token = self._sign(claims)
        missing = at_least - len(token)
        if missing > 0:
            # Four characters of base64 carry three bytes; the claim's name only adds to that.
            token = self._sign({**claims, "padding": "x" * (missing * 3 // 4)})
        return token

    def _sign(self, claims: Mapping[str, object]) -> str:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        header = {"alg": "RS256", "kid": self.jwk["kid"], "typ": "JWT"}
        signed = f"{_part(header)}.{_part(claims)}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64url(signature)}"


@cache
def signing_key() -> SigningKey:
    """Return this process's key. One is enough for all sandboxes, and making one takes a tenth of a second."""
    return SigningKey()


def _part(content: Mapping[str, object]) -> str:
    return base64url(json.dumps(content, separators=(",", ":")).encode())


def _number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))
