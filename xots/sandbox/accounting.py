"""The organisations of the simulated Xero, and the data that the API serves about them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .identity.consents import Connection

__all__ = ["AccountingData", "Organisation", "default_organisations"]

_NAMESPACE = uuid.UUID("0a075a4d-0b00-4c5e-8000-000000000001")

_CONTACTS = (
    ("Bayside Club", "secretary@bayside.example"),
    ("City Agency", "accounts@city-agency.example"),
    ("Ridgeway University", "finance@ridgeway.example"),
    ("Young Bros Transport", "office@young-bros.example"),
)

_INVOICES = (
    (0, 41, "250.00", "PAID"),
    (1, 34, "1250.50", "AUTHORISED"),
    (2, 20, "8600.00", "AUTHORISED"),
    (3, 9, "99.95", "DRAFT"),
    (1, 2, "540.00", "AUTHORISED"),
)
"""Contact, age in days, net amount and status of each invoice."""


@dataclass(frozen=True, slots=True)
class Organisation:
    """A tenant to which a user can connect an app.

    ``name`` is None for a tenant that Xero lists without a name.
    """

    name: str | None
    tenant_id: str = ""
    """A UUID. If empty, it is made from type and name."""
    tenant_type: str = "ORGANISATION"
    """ORGANISATION, PRACTICE or PRACTICEMANAGER. Only the first has accounting data."""
    country: str = "NZ"
    currency: str = "NZD"

    def __post_init__(self) -> None:
        if not self.tenant_id:
            object.__setattr__(self, "tenant_id", _id(f"{self.tenant_type} {self.name}"))


def default_organisations() -> tuple[Organisation, ...]:
    """Return two organisations, so that a program has to choose."""
    return (
        Organisation("Demo Company (NZ)"),
        Organisation("Demo Company (UK)", country="GB", currency="GBP"),
    )


class AccountingData:
    """The data that the API serves. Amounts are always the same; dates follow the clock."""

    def __init__(self, organisations: Iterable[Organisation]) -> None:
        self.organisations = {one.tenant_id: one for one in organisations}
        """By tenant id."""

    def connections(self, connections: Iterable[Connection]) -> list[dict[str, object]]:
        """Return the connections in the form of Xero's connections endpoint.

        Connections to unknown organisations are left out.
        """
        return [
            _connection_row(connection, self.organisations[connection.tenant_id])
            for connection in connections
            if connection.tenant_id in self.organisations
        ]

    def response(
        self, resource: str, organisation: Organisation, now: datetime
    ) -> dict[str, object]:
        """Return the API's response for ``Organisation``, ``Contacts`` or ``Invoices``."""
        name, rows = _RESOURCES[resource]
        return {
            "Id": _id(f"{organisation.tenant_id} {resource} {now.isoformat()}"),
            "Status": "OK",
            "ProviderName": "xots sandbox",
            "DateTimeUTC": _json_date(now),
            name: rows(organisation, now),
        }


def _connection_row(connection: Connection, organisation: Organisation) -> dict[str, object]:
    return {
        "id": connection.connection_id,
        "authEventId": connection.auth_event_id,
        "tenantId": connection.tenant_id,
        "tenantType": organisation.tenant_type,
        "tenantName": organisation.name,
        "createdDateUtc": _seven_digits(connection.created_at),
        "updatedDateUtc": _seven_digits(connection.updated_at),
    }


def _organisation_rows(organisation: Organisation, now: datetime) -> list[dict[str, object]]:
    return [
        {
            "Name": organisation.name,
            "LegalName": organisation.name,
            "PaysTax": True,
            "Version": organisation.country,
            "OrganisationType": "COMPANY",
            "BaseCurrency": organisation.currency,
            "CountryCode": organisation.country,
            "IsDemoCompany": True,
            "OrganisationStatus": "ACTIVE",
            "OrganisationID": organisation.tenant_id,
        }
    ]


def _contact_rows(organisation: Organisation, now: datetime) -> list[dict[str, object]]:
    return [
        {
            "ContactID": _contact_id(organisation, name),
            "ContactStatus": "ACTIVE",
            "Name": name,
            "EmailAddress": email,
            "IsSupplier": False,
            "IsCustomer": True,
            "DefaultCurrency": organisation.currency,
        }
        for name, email in _CONTACTS
    ]


def _invoice_rows(organisation: Organisation, now: datetime) -> list[dict[str, object]]:
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return [_invoice_row(organisation, number, midnight) for number in range(1, len(_INVOICES) + 1)]


def _invoice_row(organisation: Organisation, number: int, midnight: datetime) -> dict[str, object]:
    contact, days, net, status = _INVOICES[number - 1]
    name, _ = _CONTACTS[contact]
    dated = midnight - timedelta(days=days)
    due = dated + timedelta(days=14)
    total = float(net)
    paid = total if status == "PAID" else 0.0
    return {
        "Type": "ACCREC",
        "InvoiceID": _id(f"{organisation.tenant_id} invoice {number}"),
        "InvoiceNumber": f"INV-{number:04}",
        "Contact": {"ContactID": _contact_id(organisation, name), "Name": name},
        "DateString": dated.strftime("%Y-%m-%dT00:00:00"),
        "Date": _json_date(dated),
        "DueDateString": due.strftime("%Y-%m-%dT00:00:00"),
        "DueDate": _json_date(due),
        "Status": status,
        "LineAmountTypes": "NoTax",
        "SubTotal": total,
        "TotalTax": 0.0,
        "Total": total,
        "AmountDue": total - paid,
        "AmountPaid": paid,
        "CurrencyCode": organisation.currency,
    }


_RESOURCES = {
    "Organisation": ("Organisations", _organisation_rows),
    "Contacts": ("Contacts", _contact_rows),
    "Invoices": ("Invoices", _invoice_rows),
}
"""For each resource, the name of its list in the response and the function that makes it."""


def _contact_id(organisation: Organisation, name: str) -> str:
    return _id(f"{organisation.tenant_id} contact {name}")


def _id(name: str) -> str:
    """Return a UUID made from a name, so that it is the same in each run."""
    return str(uuid.uuid5(_NAMESPACE, name))


def _seven_digits(at: datetime) -> str:
    # .NET counts in ticks of 100 ns: seven digits, and no time zone although it is UTC.
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0"


def _json_date(at: datetime) -> str:
    # The accounting API's older JSON form: milliseconds since 1970.
    return f"/Date({int(at.timestamp() * 1000)}+0000)/"
