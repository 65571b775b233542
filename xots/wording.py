"""Times, durations, counts and problems in words: one format for each, in messages and on pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from .lifecycle.account import Problem, ProblemKind

__all__ = [
    "counted",
    "listing",
    "problem_text",
    "remaining_text",
    "shared_text",
    "sharing_text",
    "span_text",
    "time_text",
    "unclear_text",
]

MAX_LISTED = 5
"""Upper bound on the names in one sentence."""

PROBLEM_TEXTS = {
    ProblemKind.UNKNOWN: "no usable response came from Xero; the refresh token may be spent ({})",
    ProblemKind.NOT_SENT: "Xero could not be reached; this attempt spent no refresh token ({})",
    ProblemKind.THROTTLED: "Xero demands a pause; this attempt spent no refresh token ({})",
    ProblemKind.CLIENT_REFUSED: "Xero does not accept the client; this attempt spent no refresh "
    "token ({}): correct the client id or secret in the settings, or enter the right ones at "
    "/login and log in again",
    ProblemKind.REFUSED: "Xero refused a refresh token ({})",
    ProblemKind.EXPIRED: "Xero issued an access token that had expired already ({})",
    ProblemKind.REVOCATION: "Xero did not confirm the revocation ({})",
}


def problem_text(problem: Problem) -> str:
    """Return a problem in words for the operator."""
    return PROBLEM_TEXTS[problem.kind].format(problem.detail)


def time_text(moment: datetime, now: datetime) -> str:
    """Return a time in words, without the day if that is today."""
    if moment.date() == now.date():
        return f"{moment:%H:%M:%S} UTC"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def span_text(span: timedelta) -> str:
    """Return a duration in words, rounded down: seconds, minutes, hours or days."""
    seconds = max(int(span.total_seconds()), 0)
    units = ((86400, "day"), (3600, "hour"), (60, "minute"))
    size, unit = next((unit for unit in units if seconds >= unit[0]), (1, "second"))
    return f"{seconds // size} {unit}{'' if seconds // size == 1 else 's'}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listing(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: the first of them, and the number of the others."""
    shown, others = names[:MAX_LISTED], len(names) - MAX_LISTED
    return ", ".join(shown) + (f" and {counted(others, 'other')}" if others > 0 else "")


def sharing_text(names: Sequence[str]) -> str:
    """Return the sentence about the accounts that a revocation would end too."""
    if len(names) == 1:
        who, theirs = f"The account {names[0]} logs in", "its login"
    else:
        who, theirs = f"The accounts {listing(names)} log in", "their logins"
    return (
        f"{who} with the same client as the same Xero user, and a revocation would end {theirs} too"
    )


def shared_text(names: Sequence[str], user_unknown: Sequence[str]) -> str:
    """Return the sentences about the accounts for whose sake an ended login was not revoked.

    Args:
        names: the accounts.
        user_unknown: those of them that may have another Xero user.
    """
    text = (
        "Nothing was revoked at Xero, since that would end other logins of the same Xero user too: "
        + listing(names)
    )
    if user_unknown:
        text += (
            f". xots does not know if the Xero user of {listing(user_unknown)} is the same one, "
            "since a record of an earlier version does not name its user"
        )
    return text


def remaining_text(organisations: Sequence[str], reason: str) -> str:
    """Return the sentences about connections that an ended login leaves at Xero.

    Args:
        organisations: their organisations, as text to show; empty if they are not known.
        reason: why the connections were not deleted.
    """
    if len(organisations) == 1:
        which, them = f"the connection to {organisations[0]}", "it"
    elif organisations:
        which, them = f"the connections to {listing(organisations)}", "them"
    else:
        which, them = "connections of the ended login", "them"
    return (
        f"{which} may remain at Xero: {reason}. If no other login needs {them}, disconnect the app "
        "at Xero (Settings, Connected apps)"
    )


def unclear_text(names: Sequence[str], number: int) -> str:
    """Return the reason not to delete connections that other accounts may use.

    Args:
        names: the accounts.
        number: the number of connections.
    """
    which = "if" if number == 1 else "which of them"
    use = (
        f"the account {names[0]} uses" if len(names) == 1 else f"the accounts {listing(names)} use"
    )
    return f"xots does not know {which} {use}{' it' if number == 1 else ''}"
