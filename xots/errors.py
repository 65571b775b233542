"""The exceptions of xots, in one tree: catch as widely or as narrowly as the code needs.

::

    XotsError
    ├── SettingsError            at least one setting is wrong; ``problems`` lists all of them
    ├── SealError                sealed text cannot be opened
    ├── StoreError
    │   ├── StoreUnavailable     the store cannot be read or written now
    │   │   └── RecordUnusable   one record cannot be used; the other ones may work
    │   └── StaleWrite           another process has written first; nothing was written
    ├── NoToken                  there is no access token until a user acts
    │   ├── NoCredentials        no client id is known
    │   ├── NotLoggedIn          there is no login, or it was ended
    │   └── ConsentLost          Xero has refused every refresh token of the login
    ├── TokenUnavailable         there is no access token now; retry after ``retry_after_seconds``
    ├── LoginFailed              a login has failed; nothing was changed
    ├── TooManyLogins            a login was not attempted; retry after ``retry_after_seconds``
    ├── UnknownTenant            the organisation is not connected
    │   └── TenantNotFound       no organisation of the login has this id or name
    │       └── AmbiguousTenant  several organisations of the login have this name
    ├── AccountError
    │   ├── UnknownAccount       there is no account of this name
    │   ├── AccountExists        there is one already
    │   ├── AccountFixed         the account stands in the configuration file
    │   ├── TooManyAccounts      there are as many accounts as ``max_accounts`` permits
    │   └── AccountUnusable      its settings, or its record, must be corrected first
    ├── UpstreamFailed           a request that spends no token has failed
    │   └── UpstreamThrottled    Xero has received too many requests
    ├── AccessError              a request is refused, whatever it asks for
    │   ├── KeyRefused           it needs a key, and has no valid one
    │   ├── AccessDenied         its user, or its key, does not have the right to it
    │   └── RulesUnreadable      the file that says who has rights cannot be read
    └── ClientError              a request of a program to a running xots server has failed
        ├── ServerUnreachable    no server responds
        ├── ServerUnproved       the program at the address may be another user's; nothing was sent
        └── ServerRefused        the server has responded with an error, or is not xots
"""

from __future__ import annotations

from .safe_text import MAX_MESSAGE, safe_text

__all__ = [
    "AccessDenied",
    "AccessError",
    "AccountError",
    "AccountExists",
    "AccountFixed",
    "AccountUnusable",
    "AmbiguousTenant",
    "ClientError",
    "ConsentLost",
    "KeyRefused",
    "LoginFailed",
    "NoCredentials",
    "NoToken",
    "NotLoggedIn",
    "RecordUnusable",
    "RulesUnreadable",
    "SealError",
    "ServerRefused",
    "ServerUnproved",
    "ServerUnreachable",
    "SettingsError",
    "StaleWrite",
    "StoreError",
    "StoreUnavailable",
    "TenantNotFound",
    "TokenUnavailable",
    "TooManyAccounts",
    "TooManyLogins",
    "UnknownAccount",
    "UnknownTenant",
    "UpstreamFailed",
    "UpstreamThrottled",
    "XotsError",
]


class XotsError(Exception):
    """Base of all exceptions that xots raises on purpose. No message holds a secret.

    A message may quote text from outside. So ``str`` returns it as safe text.
    """

    def __str__(self) -> str:
        return safe_text(super().__str__(), MAX_MESSAGE)


class SettingsError(XotsError):
    """At least one setting is wrong.

    Attributes:
        problems: a sentence for each wrong setting, with its name and its source.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class SealError(XotsError):
    """Sealed text cannot be opened: no key fits, it was changed, or it was sealed for another
    purpose."""


class StoreError(XotsError):
    """Base of the exceptions of a token store."""


class StoreUnavailable(StoreError):
    """The store cannot be read or written now. Its content is not lost; a later attempt may
    succeed."""


class RecordUnusable(StoreUnavailable):
    """One record cannot be used until an operator acts on it. The message names it. The store
    itself works, and its other records may be used."""


class StaleWrite(StoreError):
    """A compare-and-set found another version than it expected. Nothing was written."""


class NoToken(XotsError):
    """There is no access token, and no retry brings one: a user has to act."""


class NoCredentials(NoToken):
    """No client id is known: neither the settings nor a user has given one."""


class NotLoggedIn(NoToken):
    """The client's credentials are known, but there is no login, or it was ended."""


class ConsentLost(NoToken):
    """Xero has refused every refresh token of the last login. A user must log in again."""


class TokenUnavailable(XotsError):
    """There is no access token now, but one is expected soon.

    Attributes:
        retry_after_seconds: the time to wait before the next request.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class LoginFailed(XotsError):
    """A login has failed. Nothing was changed: an earlier login is still valid."""


class TooManyLogins(XotsError):
    """A login was not attempted, since too many were just before. Its code is not spent.

    Attributes:
        retry_after_seconds: the time to wait before the next attempt.
    """

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnknownTenant(XotsError):
    """The chosen organisation is not connected. The message lists the connected ones."""


class AccountError(XotsError):
    """Base of the exceptions about an account of a server that keeps several."""


class UnknownAccount(AccountError):
    """There is no account of this name."""


class AccountExists(AccountError):
    """An account of this name exists already. Nothing was changed."""


class AccountFixed(AccountError):
    """The account stands in the configuration file, so it cannot be removed at run time."""


class TooManyAccounts(AccountError):
    """There are as many accounts as the setting ``max_accounts`` permits. None was added."""


class AccountUnusable(AccountError):
    """The account cannot be used: its settings describe another login than its record, or the
    record cannot be opened. Nothing was changed, and no other account is affected."""


class TenantNotFound(UnknownTenant):
    """No organisation of the login has the id or name that a caller gave.

    Attributes:
        organisations: the ids of those to choose from, with their names as Xero lists them, which
            may be any text.
    """

    def __init__(self, message: str, organisations: list[tuple[str, str | None]]) -> None:
        super().__init__(message)
        self.organisations = organisations


class AmbiguousTenant(TenantNotFound):
    """Several organisations of the login have the name that a caller gave: ``organisations``."""


class UpstreamFailed(XotsError):
    """The identity server gave no usable response to a request that spends no token, such as the
    request for the list of organisations.

    Attributes:
        retry_after_seconds: the time to wait before the next request, if the server demands one.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UpstreamThrottled(UpstreamFailed):
    """The identity server has received too many requests (429)."""


class AccessError(XotsError):
    """A request is refused, whatever it asks for."""


class KeyRefused(AccessError):
    """A request needs a reader's key, and has no valid one.

    Attributes:
        may_use_basic: the connection is private enough for HTTP Basic.
        is_wrong: it has a key, which is not valid.
    """

    def __init__(self, message: str, *, may_use_basic: bool, is_wrong: bool = False) -> None:
        super().__init__(message)
        self.may_use_basic, self.is_wrong = may_use_basic, is_wrong


class AccessDenied(AccessError):
    """The user or the reader that sent a request does not have the right to it."""


class RulesUnreadable(AccessError):
    """The file that says who has rights cannot be read, so that no request is permitted."""


class ClientError(XotsError):
    """Base of the exceptions of a program that sends requests to a running xots server."""


class ServerUnreachable(ClientError):
    """No server responds at the address."""


class ServerUnproved(ClientError):
    """The program at the address may belong to another user. No key was sent to it."""


class ServerRefused(ClientError):
    """The server has responded with an error, which is the message, or it is not a xots server.

    Attributes:
        kind: the name of the problem, the last part of its ``type``; None if it has none.
    """

    def __init__(self, message: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
