"""The error codes of OAuth in words."""

from __future__ import annotations

import pytest
from support.other_server import facts_of_xero

from xots.advice import ADVICE, XERO, capitalised, meaning, remedy, shown_code
from xots.lifecycle.account import Problem, ProblemKind
from xots.testing import FakeClock
from xots.wording import failure_text, problem_text
from xots.xero.identity_server import IdentityServer

OTHER = IdentityServer(authorize_url="https://id.example/authorize").name
NOW = FakeClock().now()


def refused(code: str | None) -> Problem:
    return Problem(kind=ProblemKind.CLIENT_REFUSED, code=code, detail=f"{code} (400)", at=NOW)


def test_the_name_of_xero_is_that_of_its_identity_server() -> None:
    """The texts about Xero depend on it."""
    assert IdentityServer().name == XERO
    assert OTHER == "the identity server"


@pytest.mark.parametrize("code", [*ADVICE, "other_error", None])
def test_the_advice_at_another_server_says_nothing_about_xero(code: str | None) -> None:
    """Its meaning names the server, or what happened there."""
    text = f"{meaning(code, OTHER)}: {remedy(code, OTHER)}"
    assert facts_of_xero(text) == []
    assert OTHER in text
    assert "{" not in text + remedy(code, XERO)


@pytest.mark.parametrize(
    ("code", "server", "says"),
    [
        ("invalid_client", XERO, "correct the client id or secret in the settings"),
        ("invalid_client", OTHER, "the client id, the client secret or client_auth"),
        ("unauthorized_client", OTHER, "the type of the app, or its registration"),
        ("invalid_scope", XERO, "-o granular"),
        ("invalid_scope", OTHER, "correct the setting scopes"),
        ("invalid_request", OTHER, "client_auth, pkce, authorize_params and redirect"),
        ("unsupported_grant_type", OTHER, "check the settings token_url"),
        (None, OTHER, "check the client id, the client secret and the other settings"),
    ],
)
def test_a_refused_client_is_told_with_its_remedy(code: str | None, server: str, says: str) -> None:
    """No secret is suspected if the scopes or the request were refused. The detail holds the
    code."""
    problem = refused(code)
    assert says in problem_text(problem, server)
    assert f"({code} (400)); this attempt spent no refresh token" in failure_text(problem, server)
    assert says not in failure_text(problem, server)


@pytest.mark.parametrize("code", ["login_required", "invalid_scope", "x.y-Z_9", "a" * 64])
def test_a_readable_code_is_shown_as_it_is(code: str) -> None:
    """An operator can search for it."""
    assert shown_code(code) == code


@pytest.mark.parametrize(
    "code", ["", None, "a" * 65, "two words", "<b>", "line\nfeed", "caf\u00e9", "a\n"]
)
def test_any_other_code_is_not_shown(code: str | None) -> None:
    """It may be a text that was made to mislead, or a secret."""
    assert shown_code(code) == "no readable error code"


@pytest.mark.parametrize(
    ("text", "shown"), [("the identity server", "The identity server"), ("Xero", "Xero"), ("", "")]
)
def test_a_sentence_starts_with_a_capital_letter(text: str, shown: str) -> None:
    """The rest stays."""
    assert capitalised(text) == shown
