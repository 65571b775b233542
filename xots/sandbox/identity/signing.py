"""Signed tokens: JWTs with RS256, and the key set that verifies them."""

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
    """An RSA key of 2048 bits, made at its first use.

    A simulation without signed tokens does not load the cryptography library.
    """

    @cached_property
    def _key(self) -> RSAPrivateKey:
        from cryptography.hazmat.primitives.asymmetric import rsa

        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @cached_property
    def jwk(self) -> dict[str, str]:
        """The public key as a JWK (RFC 7517). Its id is its thumbprint (RFC 7638) in hex."""
        numbers = self._key.public_key().public_numbers()
        required = {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}
        canonical = json.dumps(required, separators=(",", ":")).encode()
        thumbprint = hashlib.sha256(canonical).hexdigest().upper()
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

    def sign(self, claims: Mapping[str, object], *, min_length: int = 0) -> str:
        """Return the claims as a signed JWT (RFC 7515) of at least ``min_length`` characters.

        A token that is too short gets an additional claim, ``padding``.
        """
        token = self._sign(claims)
        missing = min_length - len(token)
        if missing > 0:
            # Four characters of base64 hold three bytes. The claim's name makes it longer still.
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
    """Return the key of this process, which all sandboxes share: making one takes 0.1 seconds."""
    return SigningKey()


def _part(content: Mapping[str, object]) -> str:
    return base64url(json.dumps(content, separators=(",", ":")).encode())


def _number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))
