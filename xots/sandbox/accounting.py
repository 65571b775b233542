"""The organisations behind the API: their connections in Xero's form, a few contacts and invoices."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .identity.consents import Connection

__all__ = ["Books", "Organisation", "default_organisations"]

_NAMESPACE = uuid.UUID("0a075a4d-0b00-4c5e-8000-000000000001")
_CONTACTS = (
    ("Bayside Club", "secretary@bayside.example"),
    ("City Agency", "accounts@city-agency.example"),
    ("Ridgeway University", "finance@ridgeway.example"),
    ("Young Bros Transport", "office@young-bros.example"),
)
# (contact, days before today that it was dated, net, status)
_INVOICES = (
    (0, 41, "250.00", "PAID"),
    (1, 34, "1250.50", "AUTHORISED"),
    (2, 20, "8600.00", "AUTHORISED"),
    (3, 9, "99.95", "DRAFT"),
    (1, 2, "540.00", "AUTHORISED"),
)


@dataclass(frozen=True, slots=True)
class Organisation:
    """Something that a user can connect an app to. ``name`` is None for what Xero lists without one."""

    name: str | None
    tenant_id: str = ""
    """A UUID; empty: made from the name."""
    tenant_type: str = "ORGANISATION"
    """ORGANISATION, PRACTICE or PRACTICEMANAGER; only the first has accounting data."""
    country: str = "NZ"
    currency: str = "NZD"

    def __post_init__(self) -> None:
        if not self.tenant_id:
            object.__setattr__(
                self, "tenant_id", str(uuid.uuid5(_NAMESPACE, f"{self.tenant_type} {self.name}"))
            )


def default_organisations() -> tuple[Organisation, ...]:
    """Return two organisations, so that a program has to choose."""
    return (
        Organisation("Demo Company (NZ)"),
        Organisation("Demo Company (UK)", country="GB", currency="GBP"),
    )


class Books:
    """What the API serves about each organisation. The figures are always the same; dates follow the clock."""

    def __init__(self, organisations: Iterable[Organisation]) -> None:
        self.organisations = {one.tenant_id: one for one in organisations}

    def connections(self, connections: Iterable[Connection]) -> list[dict[str, object]]:
        """Return the connections in the form of Xero's connections endpoint, those to vanished tenants left out."""
        return [
            {
                "id": one.connection_id,
                "authEventId": one.auth_event_id,
                "tenantId": one.tenant_id,
                "tenantType": tenant.tenant_type,
                "tenantName": tenant.name,
                "createdDateUtc": _seven_digits(one.created_at),
                "updatedDateUtc": _seven_digits(one.updated_at),
            }
            for one in connections
            if (tenant := self.organisations.get(one.tenant_id)) is not None
        ]

    def answer(self, resource: str, organisation: Organisation, now: datetime) -> dict[str, object]:
        """Return the accounting API's answer for ``Organisation``, ``Contacts`` or ``Invoices``."""
        rows = {
            "Organisation": self._organisation,
            "Contacts": self._contacts,
            "Invoices": self._invoices,
        }
        return {
            "Id": str(
                uuid.uuid5(_NAMESPACE, f"{organisation.tenant_id} {resource} {now.isoformat()}")
            ),
            "Status": "OK",
            "ProviderName": "xots sandbox",
            "DateTimeUTC": _json_date(now),
            "Organisations" if resource == "Organisation" else resource: rows[resource](
                organisation, now
            ),
        }

    def _organisation(self, organisation: Organisation, now: datetime) -> list[dict[str, object]]:
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

    def _contacts(self, organisation: Organisation, now: datetime) -> list[dict[str, object]]:
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

    def _invoices(self, organisation: Organisation, now: datetime) -> list[dict[str, object]]:
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        rows: list[dict[str, object]] = []
        for number, (contact, days, net, status) in enumerate(_INVOICES, start=1):
            name = _CONTACTS[contact][0]
            dated = midnight - timedelta(days=days)
            due = dated + timedelta(days=14)
            total = float(net)
            rows.append(
                {
                    "Type": "ACCREC",
                    "InvoiceID": str(
                        uuid.uuid5(_NAMESPACE, f"{organisation.tenant_id} invoice {number}")
                    ),
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
                    "AmountDue": 0.0 if status == "PAID" else total,
                    "AmountPaid": total if status == "PAID" else 0.0,
                    "CurrencyCode": organisation.currency,
                }
            )
        return rows


def _contact_id(organisation: Organisation, name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{organisation.tenant_id} contact {name}"))


def _seven_digits(at: datetime) -> str:
    # .NET counts in ticks of 100 ns: seven digits, and no zone, though it is UTC.
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0"


def _json_date(at: datetime) -> str:
    # The accounting API's older JSON form: milliseconds since 1970.
    return f"/Date({int(at.timestamp() * 1000)}+0000)/"
