"""A keeper from the settings: the settings that describe another login than the stored one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from xots.errors import XotsError
from xots.lifecycle.account import Account, Revocation
from xots.settings import Settings
from xots.wiring import end_login, mismatches, shown_store

SETTINGS = Settings(client_id="C", scopes=("offline_access", "a", "b"), sources={"scopes": "-o"})
ACCOUNT = Account(
    generation=1,
    client_id="C",
    token_url=SETTINGS.token_url,
    consent_id="consent",
    scopes_requested=("offline_access", "a", "b"),
)


def changed(**fields: Any) -> Account:
    return msgspec.structs.replace(ACCOUNT, **fields)


def test_the_settings_of_the_stored_login_mismatch_in_nothing() -> None:
    """A start with them is not refused, and neither is one without a client id in the settings."""
    assert mismatches(SETTINGS, ACCOUNT) == []
    assert mismatches(replace(SETTINGS, client_id=None), ACCOUNT) == []


def test_without_a_login_no_setting_mismatches() -> None:
    """The record holds credentials only, so nothing can be burnt."""
    assert mismatches(SETTINGS, changed(consent_id=None, client_id="another")) == []


@pytest.mark.parametrize(
    "kept", [{}, {"consent_id": None, "revocation": Revocation.KEEP_CREDENTIALS}], ids=str
)
@pytest.mark.parametrize(
    ("field", "value", "source"),
    [("client_id", "another", "--client-id"), ("token_url", "https://id.example/", "--token-url")],
)
def test_another_client_or_token_url_is_named_with_its_source(
    kept: dict[str, Any], field: str, value: str, source: str
) -> None:
    """A pending revocation counts too: another server must not get its tokens."""
    settings = replace(SETTINGS, sources={field: source})
    [problem] = mismatches(settings, changed(**kept, **{field: value}), ignore_scopes=True)
    assert problem.startswith(f"{source}: ")
    assert value in problem
    assert "xots logout" in problem


def test_a_default_is_named_as_one() -> None:
    """The operator did not set it, and looks for it in vain otherwise."""
    [problem] = mismatches(SETTINGS, changed(token_url="https://id.example/"))
    assert problem.startswith("token_url (the default): ")


def test_other_scopes_mismatch_only_if_they_are_set() -> None:
    """The message names the difference and the source. An end of the login ignores it."""
    other = changed(scopes_requested=("offline_access", "b", "c"))
    [problem] = mismatches(SETTINGS, other)
    assert problem.startswith("-o: ")
    assert "(added: a; removed: c)" in problem
    assert mismatches(replace(SETTINGS, sources={}), other) == []
    assert mismatches(SETTINGS, other, ignore_scopes=True) == []


def test_scopes_that_the_user_replaced_on_a_page_do_not_mismatch() -> None:
    """The settings still name the set with which the login began."""
    other = changed(scopes_requested=("offline_access", "c"), scopes_configured=SETTINGS.scopes)
    assert mismatches(SETTINGS, other) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:hunter2@redis.example:6379/1", "redis://redis.example:6379/1"),
        ("unix://user:hunter2@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("file:///var/lib/xots", "file:///var/lib/xots"),
        ("memory:", "memory:"),
    ],
)
def test_a_store_is_shown_without_secrets(url: str, shown: str) -> None:
    """User name, password and query are left out."""
    assert shown_store(Settings(store=url)) == shown


async def test_an_empty_store_has_no_login_to_end() -> None:
    """The error names the store that was searched."""
    with pytest.raises(XotsError, match="the store holds no login: memory:"):
        await end_login(Settings(store="memory:"), forget=True)


@pytest.mark.parametrize(
    ("grant", "without_user"), [("client_credentials", False), ("authorization_code", True)]
)
def test_a_record_of_another_grant_is_not_taken_over(grant: str, without_user: bool) -> None:
    """The login of a user would be forgotten, or the client's own token served as a user's."""
    settings = replace(SETTINGS, grant=grant, sources={"grant": "--grant"})
    [problem] = mismatches(settings, changed(without_user=without_user))
    assert problem.startswith("--grant: the stored login has another grant, ")
    assert mismatches(settings, changed(without_user=not without_user)) == []


def test_the_remedy_is_told_once_for_all_mismatches() -> None:
    """It is at the end of the last sentence. The scopes of another login are of no importance."""
    other = changed(
        without_user=True, client_id="D", token_url="https://id.example/", scopes_requested=("b",)
    )
    problems = mismatches(SETTINGS, other)
    assert [problem.partition(":")[0] for problem in problems] == [
        "grant (the default)",
        "client_id",
        "token_url (the default)",
    ]
    assert ["Nothing was changed" in problem for problem in problems] == [False, False, True]
