"""Random identifiers and token texts from one source."""

from __future__ import annotations

import random
import uuid

__all__ = ["RandomTexts"]

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class RandomTexts:
    """Identifiers and texts made from a source of random numbers.

    The same seed and the same calls give the same texts.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def uuid(self) -> str:
        """Return a random UUID (version 4)."""
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def text(self, length: int) -> str:
        """Return ``length`` characters of ``A-Z a-z 0-9 - _``, with 6 random bits in each."""
        # One large integer is faster than one choice for each character.
        bits = self._rng.getrandbits(6 * length)
        return "".join(_ALPHABET[bits >> 6 * place & 63] for place in range(length))
