"""``Secret``: a string that no log, traceback or page may show."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

__all__ = ["Secret"]


class Secret:
    """A string whose ``repr`` and ``str`` are masked. It compares in constant time and is not
    pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string itself. Call this where it is sent or sealed, and nowhere else."""
        return self._value

    @property
    def fingerprint(self) -> str:
        """12 hex digits of its SHA-256: enough to tell two tokens apart, and useless to an
        attacker."""
        return hashlib.sha256(self._value.encode()).hexdigest()[:12]

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled: seal it instead")
