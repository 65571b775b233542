"""Sealing: versioned JSON inside MultiFernet (AES-128-CBC with HMAC-SHA-256, authenticated).

Accounts and login cookies both use it. What a text is for and whose it is stand inside the seal and are checked on
opening, so that a text copied from one place to another does not open there. Nothing unsealed is ever passed through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from .errors import SealError
from .secret import Secret

__all__ = ["Sealer", "new_key"]

FORMAT = 1
"""The version of the envelope. Others are refused, so that a newer server's text is not misread."""


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    purpose: str
    context: dict[str, str]
    body: str


class Sealer:
    """Seals and opens texts with a list of keys: the first seals, all of them open.

    Args:
        keys: Fernet keys (32 bytes, URL-safe base64), at least one.
        reload: gives the keys anew, as they are now where they came from. It is asked before a text is sealed, since
            another key may have been promoted, and when the first key does not open one. An empty answer leaves the
            keys as they are.

    Raises:
        SealError: a key is malformed. The message says which one by its place, never its value.
    """

    def __init__(
        self, keys: Sequence[Secret], reload: Callable[[], Sequence[Secret]] | None = None
    ) -> None:
        self._reload = reload
        self._take(keys)

    def _take(self, keys: Sequence[Secret]) -> None:
        if not keys:
            raise SealError("no sealing key was given")
        fernets = []
        for place, key in enumerate(keys, start=1):
            try:
                fernets.append(Fernet(key.reveal().encode()))
            except ValueError:
                raise SealError(
                    f"sealing key {place} is malformed: it must be 32 bytes in URL-safe base64"
                ) from None
        self._keys = list(keys)
        self._first, self._all = fernets[0], MultiFernet(fernets)

    @classmethod
    def for_this_process(cls) -> Sealer:
        """A sealer with a new random key that nobody else has: what it seals does not outlive the process."""
        return cls([new_key()])

    def seal(self, body: bytes, purpose: str, context: Mapping[str, str]) -> bytes:
        """``body`` (UTF-8 text) sealed; the result is URL-safe ASCII.

        ``purpose`` says what it is (such as "account"), ``context`` whose it is; opening demands the same.
        """
        self._reread()  # another key may have been promoted meanwhile
        envelope = _Envelope(
            format=FORMAT, purpose=purpose, context=dict(context), body=body.decode()
        )
        return self._first.encrypt(msgspec.json.encode(envelope))

    def open(self, sealed: bytes, purpose: str, context: Mapping[str, str]) -> bytes:
        """The body of a sealed text.

        Raises:
            SealError: no key opens it, it was tampered with, or it was sealed for another purpose or owner.
        """
        try:
            envelope = msgspec.json.decode(self._decrypt(sealed), type=_Envelope)
        except InvalidToken:
            raise SealError(
                f"this {purpose} can't be opened: it was sealed with another key, or tampered with; "
                "give the key that it was sealed with"
            ) from None
        except msgspec.MsgspecError:
            raise SealError(
                f"this {purpose} was sealed by a version that is not known here"
            ) from None
        if envelope.format != FORMAT:
            raise SealError(
                f"this {purpose} was sealed in format {envelope.format}, which is not known here"
            )
        if envelope.purpose != purpose or envelope.context != dict(context):
            raise SealError(
                f"what was opened is not this {purpose}: it was sealed for another purpose or owner"
            )
        return envelope.body.encode()

    def sealed_by_first(self, sealed: bytes) -> bool:
        """Was this text sealed with the key that seals now?"""
        try:
            self._first.decrypt(sealed)
        except InvalidToken:
            return False
        return True

    def _decrypt(self, sealed: bytes) -> bytes:
        try:
            return self._first.decrypt(sealed)
        except InvalidToken:
            self._reread()
            return self._all.decrypt(sealed)

    def _reread(self) -> None:
        """Take the keys as they are now; those that are known stay if the new ones can't be used."""
        if self._reload is not None and (keys := list(self._reload())) and keys != self._keys:
            with suppress(SealError):
                self._take(keys)


def new_key() -> Secret:
    """A new random key."""
    return Secret(Fernet.generate_key().decode())
