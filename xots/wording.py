"""Times, durations, counts and problems in words: one format for each, in messages and on pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from .advice import XERO, meaning, remedy
from .lifecycle.account import Problem, ProblemKind

__all__ = [
    "FORGOTTEN_TEXT",
    "WITHOUT_USER_TEXT",
    "counted",
    "failure_text",
    "listing",
    "lost_text",
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

FORGOTTEN_TEXT = (
    "forgotten here only: the identity server revokes no tokens (revoke_url is empty), so they "
    "stay valid there until they expire"
)
"""The predicate of a login that ended without a revocation."""

WITHOUT_USER_TEXT = "its access token stays valid until it expires, and its client can get others"
"""The consequence of an end for an account without a login."""

FAILURE_TEXTS = {
    ProblemKind.UNKNOWN: "no usable response came from {server}{token} ({detail})",
    ProblemKind.NOT_SENT: "{server} could not be reached{token} ({detail})",
    ProblemKind.THROTTLED: "{server} demands a pause{token} ({detail})",
    ProblemKind.CLIENT_REFUSED: "{meaning} ({detail}){token}",
    ProblemKind.REFUSED: "{server} refused {refused} ({detail})",
    ProblemKind.EXPIRED: "{server} issued an access token that had expired already ({detail})",
    ProblemKind.REVOCATION: "{server} did not confirm the revocation ({detail})",
}

UNSPENT = "; this attempt spent no refresh token"

TOKEN_TEXTS = {
    ProblemKind.UNKNOWN: "; the refresh token may be spent",
    ProblemKind.NOT_SENT: UNSPENT,
    ProblemKind.THROTTLED: UNSPENT,
    ProblemKind.CLIENT_REFUSED: UNSPENT,
}
"""What a failure means for the refresh token of a login."""


def failure_text(problem: Problem, server: str) -> str:
    """Return a problem in words for the operator, without the remedy.

    Args:
        problem: the problem.
        server: the name of the identity server in a sentence (``IdentityServer.name``).
    """
    return FAILURE_TEXTS[problem.kind].format(
        server=server,
        detail=problem.detail,
        meaning=meaning(problem.code, server),
        token="" if problem.without_user else TOKEN_TEXTS.get(problem.kind),
        refused="the client" if problem.without_user else "a refresh token",
    )


def lost_text(server: str, *, is_refused: bool) -> str:
    """Return why a login is lost. ``is_refused``: the last refresh token was refused. Otherwise its
    request had no known outcome."""
    if is_refused:
        return f"{server} refused every refresh token"
    return f"no refresh token is left that {server} surely accepts"


def problem_text(problem: Problem, server: str) -> str:
    """Return a problem in words, with the remedy if an operator is needed: see ``failure_text``."""
    text = failure_text(problem, server)
    if problem.kind is ProblemKind.CLIENT_REFUSED:
        text += f": {remedy(problem.code, server, can_log_in=not problem.without_user)}"
    return text


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


def sharing_text(names: Sequence[str], server: str) -> str:
    """Return the sentence about the accounts that a revocation at ``server`` would end too."""
    if len(names) == 1:
        who, theirs = f"The account {names[0]} logs in", "its login"
    else:
        who, theirs = f"The accounts {listing(names)} log in", "their logins"
    return (
        f"{who} with the same client as the same {_user(server)}, and a revocation would end "
        f"{theirs} too"
    )


def shared_text(names: Sequence[str], user_unknown: Sequence[str], server: str) -> str:
    """Return the sentences about the accounts for whose sake an ended login was not revoked.

    Args:
        names: the accounts.
        user_unknown: those of them that may have another user.
        server: the name of the identity server in a sentence.
    """
    user = _user(server)
    text = (
        f"Nothing was revoked at {server}, since that would end other logins of the same {user} "
        f"too: {listing(names)}"
    )
    if user_unknown:
        text += (
            f". xots does not know if the {user} of {listing(user_unknown)} is the same one, "
            "since a record of an earlier version does not name its user"
        )
    return text


def _user(server: str) -> str:
    return "Xero user" if server == XERO else "user"


def remaining_text(organisations: Sequence[str], reason: str, server: str) -> str:
    """Return the sentences about connections that an ended login leaves at ``server``.

    Args:
        organisations: their organisations, as text to show; empty if they are not known.
        reason: why the connections were not deleted.
        server: the name of the identity server in a sentence.
    """
    if len(organisations) == 1:
        which, them = f"the connection to {organisations[0]}", "it"
    elif organisations:
        which, them = f"the connections to {listing(organisations)}", "them"
    else:
        which, them = "connections of the ended login", "them"
    place = f"{server} (Settings, Connected apps)" if server == XERO else server
    return (
        f"{which} may remain at {server}: {reason}. If no other login needs {them}, disconnect the "
        f"app at {place}"
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
