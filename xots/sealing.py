"""Sealing: versioned JSON inside MultiFernet (AES-128-CBC with HMAC-SHA-256, authenticated).

Accounts and login cookies are sealed. The seal holds the purpose and the owner of the text and
protects them too, so a sealed text that is copied to another place does not open there. Text that
is not sealed never opens.
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
"""The version of the envelope. Other versions are refused, so that a text of a newer version is not
misread."""


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    purpose: str
    context: dict[str, str]
    body: str


class Sealer:
    """Seals texts with the first key of a list, and opens them with any key of it.

    Args:
        keys: Fernet keys (32 bytes in URL-safe base64), at least one.
        reload: returns the current keys from their source. It is called before a text is sealed,
            because the operator may have promoted another key, and whenever the first key does not
            open a text. An empty list changes nothing.

    Raises:
        SealError: a key is malformed. The message gives its place in the list, never its value.
    """

    def __init__(
        self, keys: Sequence[Secret], reload: Callable[[], Sequence[Secret]] | None = None
    ) -> None:
        self._reload = reload
        self._use(keys)

    def _use(self, keys: Sequence[Secret]) -> None:
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
        """Return a sealer with a new random key. No other process can open its texts."""
        return cls([new_key()])

    def seal(self, body: bytes, purpose: str, context: Mapping[str, str]) -> bytes:
        """Return a sealed text, which is URL-safe ASCII.

        Args:
            body: the text, in UTF-8.
            purpose: the kind of text, such as "account". Opening demands the same.
            context: the owner of the text. Opening demands the same.
        """
        self._reload_keys()
        envelope = _Envelope(
            format=FORMAT, purpose=purpose, context=dict(context), body=body.decode()
        )
        return self._first.encrypt(msgspec.json.encode(envelope))

    def open(self, sealed: bytes, purpose: str, context: Mapping[str, str]) -> bytes:
        """Return the body of a sealed text.

        Raises:
            SealError: no key opens it, it was changed, or it was sealed for another purpose or
                owner.
        """
        try:
            envelope = msgspec.json.decode(self._decrypt(sealed), type=_Envelope)
        except InvalidToken:
            raise SealError(
                f"this {purpose} cannot be opened: it was sealed with another key, or tampered "
                "with; add the key that it was sealed with"
            ) from None
        except msgspec.MsgspecError:
            raise SealError(
                f"this {purpose} was sealed in a format that this version does not know: upgrade "
                "this process"
            ) from None
        if envelope.format != FORMAT:
            raise SealError(
                f"this {purpose} was sealed in format {envelope.format}, which this version does "
                "not know: upgrade this process"
            )
        if envelope.purpose != purpose or envelope.context != dict(context):
            raise SealError(
                f"this is not the {purpose}: the text was sealed for another purpose or owner"
            )
        return envelope.body.encode()

    def sealed_by_first(self, sealed: bytes) -> bool:
        """Return True if a text was sealed with the first key."""
        try:
            self._first.decrypt(sealed)
        except InvalidToken:
            return False
        return True

    def _decrypt(self, sealed: bytes) -> bytes:
        try:
            return self._first.decrypt(sealed)
        except InvalidToken:
            self._reload_keys()
            return self._all.decrypt(sealed)

    def _reload_keys(self) -> None:
        """Use the current keys; keep the known ones if a new one is malformed."""
        keys = list(self._reload()) if self._reload else []
        if keys and keys != self._keys:
            with suppress(SealError):
                self._use(keys)


def new_key() -> Secret:
    """Return a new random key."""
    return Secret(Fernet.generate_key().decode())
