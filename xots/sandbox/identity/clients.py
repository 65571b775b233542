"""The apps that are registered at the simulated Xero, the people who log in, and the scopes an app may ask for."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = [
    "BROAD_SCOPES",
    "DEFAULT_CLIENT_ID",
    "DEFAULT_CLIENT_SECRET",
    "DEFAULT_PKCE_CLIENT_ID",
    "DEFAULT_REDIRECT_URI",
    "GRANULAR_SCOPES",
    "Client",
    "User",
]

# Made up, and printed at start: they open nothing but a sandbox.
DEFAULT_CLIENT_ID = "C0FFEE00C0FFEE00C0FFEE00C0FFEE00"
DEFAULT_CLIENT_SECRET = "sandbox-secret-opens-nothing"  # noqa: S105
DEFAULT_PKCE_CLIENT_ID = "5EAF00D05EAF00D05EAF00D05EAF00D0"
DEFAULT_REDIRECT_URI = "http://localhost:5001/code"


def _with_read(*names: str) -> frozenset[str]:
    return frozenset(names) | {f"{name}.read" for name in names}


BROAD_SCOPES = frozenset(
    {"accounting.transactions", "accounting.transactions.read", "accounting.reports.read"}
)
"""Refused to apps made on or after 2 March 2026 (Xero: granular scopes)."""

GRANULAR_SCOPES = _with_read(
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
"""What replaced the broad scopes. Older apps may ask for both kinds."""

_OTHER_SCOPES = (
    frozenset({"openid", "profile", "email", "offline_access"})
    | _with_read("accounting.settings", "accounting.contacts", "accounting.attachments")
    | {
        "accounting.budgets.read",
        "accounting.journals.read",
        "accounting.reports.tenninetynine.read",
    }
    | _with_read("assets", "files", "projects")
    | _with_read(
        *(
            f"payroll.{part}"
            for part in ("employees", "payruns", "payslip", "settings", "timesheets")
        )
    )
)


@dataclass(frozen=True, slots=True)
class Client:
    """An app registered at the simulated Xero. Without a secret it is a public client, which must use PKCE."""

    client_id: str = DEFAULT_CLIENT_ID
    secret: str | None = field(default=DEFAULT_CLIENT_SECRET, repr=False)
    redirect_uris: tuple[str, ...] = (DEFAULT_REDIRECT_URI,)
    new_app: bool = False
    """Made since 2 March 2026: the broad scopes are refused."""
    custom_connection_tenant_id: str | None = None
    """A custom connection: ``client_credentials`` only, for this one organisation."""
    enabled: bool = True

    def refused_scopes(self, asked: Iterable[str]) -> frozenset[str]:
        """Return those of the scopes that this app may not ask for."""
        known = GRANULAR_SCOPES | _OTHER_SCOPES
        if not self.new_app:
            known |= BROAD_SCOPES
        return frozenset(
            scope
            for scope in asked
            if scope not in known and not (scope.startswith("finance.") and scope[8:])
        )


@dataclass(frozen=True, slots=True)
class User:
    """A person with a login at the simulated Xero."""

    user_id: str = str(uuid.UUID(int=0xADA, version=4))
    given_name: str = "Ada"
    family_name: str = "Sandbox"
    email: str = "ada@sandbox.example"

    @property
    def name(self) -> str:
        return f"{self.given_name} {self.family_name}"
