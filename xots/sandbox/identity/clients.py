"""Clients (apps), users and scopes of the simulated Xero."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = [
    "BROAD_SCOPES",
    "DEFAULT_CLIENT_ID",
    "DEFAULT_CLIENT_SECRET",
    "DEFAULT_CUSTOM_CLIENT_ID",
    "DEFAULT_PKCE_CLIENT_ID",
    "DEFAULT_REDIRECT_URI",
    "GRANULAR_SCOPES",
    "MAX_DEFAULT_USERS",
    "Client",
    "User",
    "default_users",
    "with_read",
]

# Made up, and printed at a start: they are valid in a sandbox only.
DEFAULT_CLIENT_ID = "C0FFEE00C0FFEE00C0FFEE00C0FFEE00"
DEFAULT_CLIENT_SECRET = "sandbox-secret-opens-nothing"  # noqa: S105
DEFAULT_PKCE_CLIENT_ID = "5EAF00D05EAF00D05EAF00D05EAF00D0"
DEFAULT_CUSTOM_CLIENT_ID = "FEEDDA7AFEEDDA7AFEEDDA7AFEEDDA7A"
DEFAULT_REDIRECT_URI = "http://localhost:5001/code"


def with_read(*names: str) -> frozenset[str]:
    """Return the scopes of these names, each with and without ``.read``."""
    return frozenset(names) | {f"{name}.read" for name in names}


BROAD_SCOPES = frozenset(
    {"accounting.transactions", "accounting.transactions.read", "accounting.reports.read"}
)
"""Refused to apps made on or after 2 March 2026 (Xero: granular scopes)."""

GRANULAR_SCOPES = with_read(
    "accounting.invoices",
    "accounting.payments",
    "accounting.banktransactions",
    "accounting.manualjournals",
) | {
    f"accounting.reports.{report}.read"
    for report in (
        "aged",
        "balancesheet",
        "banksummary",
        "budgetsummary",
        "executivesummary",
        "profitandloss",
        "trialbalance",
        "taxreports",
    )
}
"""The scopes that replaced the broad ones. Older apps may request both kinds."""

_PAYROLL = ("employees", "payruns", "payslip", "settings", "timesheets")

_OTHER_SCOPES = (
    frozenset({"openid", "profile", "email", "offline_access"})
    | with_read("accounting.settings", "accounting.contacts", "accounting.attachments")
    | {
        "accounting.budgets.read",
        "accounting.journals.read",
        "accounting.reports.tenninetynine.read",
    }
    | with_read("assets", "files", "projects")
    | with_read(*(f"payroll.{part}" for part in _PAYROLL))
)

_FINANCE = re.compile(r"finance\..+", re.DOTALL)
"""Any scope of the finance API is known."""


@dataclass(frozen=True, slots=True)
class Client:
    """An app registered at the simulated Xero.

    Without a secret it is a public client, which must use PKCE.
    """

    client_id: str = DEFAULT_CLIENT_ID
    secret: str | None = field(default=DEFAULT_CLIENT_SECRET, repr=False)
    redirect_uris: tuple[str, ...] = (DEFAULT_REDIRECT_URI,)
    new_app: bool = False
    """True if made on or after 2 March 2026: the broad scopes are refused."""
    custom_connection_tenant_id: str | None = None
    """The organisation of a custom connection, which may use ``client_credentials`` only."""
    enabled: bool = True

    def refused_scopes(self, requested: Iterable[str]) -> frozenset[str]:
        """Return the scopes that this app may not request."""
        broad = frozenset() if self.new_app else BROAD_SCOPES
        unknown = frozenset(requested) - GRANULAR_SCOPES - _OTHER_SCOPES - broad
        return frozenset(scope for scope in unknown if _FINANCE.fullmatch(scope) is None)


@dataclass(frozen=True, slots=True)
class User:
    """A user with a login at the simulated Xero."""

    user_id: str = str(uuid.UUID(int=0xADA, version=4))
    given_name: str = "Ada"
    family_name: str = "Sandbox"
    email: str = "ada@sandbox.example"

    @property
    def name(self) -> str:
        return f"{self.given_name} {self.family_name}"


_GIVEN_NAMES = ("Ada", "Ben", "Cleo", "Dev", "Ella", "Finn", "Gwen", "Hugo")

MAX_DEFAULT_USERS = len(_GIVEN_NAMES)


def default_users(count: int) -> tuple[User, ...]:
    """Return up to `MAX_DEFAULT_USERS` users, who are the same in each run.

    The first one is ``User()``.
    """
    return tuple(
        User(
            str(uuid.UUID(int=0xADA + n, version=4)), name, email=f"{name.lower()}@sandbox.example"
        )
        for n, name in enumerate(_GIVEN_NAMES[:count])
    )
