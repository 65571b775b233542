"""The whole exception tree, so that a caller may catch as widely or as narrowly as it likes.

::

    XotsError
    ├── SettingsError          one or more settings are wrong; ``problems`` lists them all
    ├── SealError              sealed text can't be opened: wrong key, tampered with, or foreign
    ├── StoreError
    │   ├── StoreUnavailable   the store can't be read or written just now
    │   └── StaleWrite         a compare-and-set lost: somebody else wrote first
    ├── NoToken                no access token can be given, and waiting won't help
    │   ├── NoCredentials      nobody has entered a client id yet
    │   ├── NotLoggedIn        credentials are there, but nobody has logged in (or the login was revoked)
    │   └── ConsentLost        Xero refused every refresh token: a person must log in again
    ├── TokenUnavailable       no good access token just now; try again after ``retry_after_seconds``
    ├── LoginFailed            a login did not succeed; nothing was changed
    ├── UnknownTenant          the organisation that was chosen is not among those that are connected
    ├── UpstreamFailed         Xero gave no usable answer to a question that spends no token
    └── ClientError            for programs that ask a running server
        ├── ServerUnreachable  no server answers there
        └── ServerRefused      it answered with an error; the message is the server's
"""

from __future__ import annotations

__all__ = [
    "ClientError",
    "ConsentLost",
    "LoginFailed",
    "NoCredentials",
    "NoToken",
    "NotLoggedIn",
    "SealError",
    "ServerRefused",
    "ServerUnreachable",
    "SettingsError",
    "StaleWrite",
    "StoreError",
    "StoreUnavailable",
    "TokenUnavailable",
    "UnknownTenant",
    "UpstreamFailed",
    "XotsError",
]


class XotsError(Exception):
    """Base of every error that xots raises on purpose. Its text is safe to show: it never holds a secret."""


class SettingsError(XotsError):
    """One or more settings are wrong.

    ``problems`` is a list of sentences, each naming the setting and where it was set.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class SealError(XotsError):
    """Sealed text can't be opened: no key fits, it was tampered with, or it was sealed for another purpose."""


class StoreError(XotsError):
    """Base of what a token store may raise."""


class StoreUnavailable(StoreError):
    """The store can't be read or written just now. What it held is untouched; trying later may help."""


class StaleWrite(StoreError):
    """A compare-and-set found another version than the expected one. Nothing was written."""


class NoToken(XotsError):
    """No access token can be given, and waiting won't bring one: a person has to act."""


class NoCredentials(NoToken):
    """Nobody has entered a client id yet."""


class NotLoggedIn(NoToken):
    """The client's credentials are known, but nobody has logged in, or the login was revoked."""


class ConsentLost(NoToken):
    """Xero refused every refresh token of the last login. A person must log in again."""


class TokenUnavailable(XotsError):
    """No fresh access token just now, but one is expected. ``retry_after_seconds`` says when to ask again."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class LoginFailed(XotsError):
    """A login did not succeed. Nothing was changed: a login that was live before still is."""


class UnknownTenant(XotsError):
    """The organisation that was chosen is not among those that are connected. The message lists these."""


class UpstreamFailed(XotsError):
    """Xero gave no usable answer to a question that spends no token, such as for the list of connections."""


class ClientError(XotsError):
    """Base of what a program that asks a running server may get."""


class ServerUnreachable(ClientError):
    """No server answers at the address."""


class ServerRefused(ClientError):
    """The server answered with an error; the message is the server's, and says what to do."""
