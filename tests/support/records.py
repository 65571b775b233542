"""What the stateful tests of the lifecycle and of the keeper share."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from hypothesis import settings

from xots.lifecycle.account import Account, RefreshToken
from xots.lifecycle.outcomes import Issued
from xots.secret import Secret

STORIES = os.environ.get("HYPOTHESIS_EXAMPLES")
SETTINGS = settings(
    max_examples=int(STORIES or 200),
    stateful_step_count=40,
    deadline=None,
    derandomize=STORIES is None,
    database=None,
    print_blob=True,
)


def tokens_of(account: Account) -> tuple[RefreshToken, ...]:
    return (account.current, *account.fallbacks) if account.current else account.fallbacks


def issued(fields: Any) -> Issued:
    """The outcome of a token response of Xero."""
    refresh_token = fields.get("refresh_token")
    return Issued(
        access_token=Secret(fields["access_token"]),
        lifetime=timedelta(seconds=fields["expires_in"]),
        refresh_token=Secret(refresh_token) if refresh_token else None,
    )
