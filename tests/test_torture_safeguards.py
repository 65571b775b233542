"""The table of safeguards (``torture safeguards``): it fits the code, and some of its lines are tried."""

from __future__ import annotations

import dataclasses
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from torture import safeguards
from torture.safeguards import SAFEGUARDS, Safeguard, TableError, collect, places, take_out

TRIED = (
    "intent written before the spend",
    "lease lost: looked at before sending",
    "rivals: the loser's new token joins",
    "unknown keeps the intent",
    "fsync of the folder",
)
"""Those that the suite takes out for real; the command takes out all."""

BY_NAME = {safeguard.name: safeguard for safeguard in SAFEGUARDS}

NEEDLESS = Safeguard(
    name="an import that changes nothing",
    protects_from="nothing",
    file="errors.py",
    old="from __future__ import annotations\n",
    new="from __future__ import annotations  # as before\n",
    test="tests/test_lifecycle.py::test_a_dead_token_is_good_for_nothing",
)
"""One that no test misses."""


def test_each_safeguard_is_found_in_the_source_once() -> None:
    """Whoever moves one keeps its line in the table, or takes the line out knowingly."""
    assert {
        safeguard.name: places(safeguard) for safeguard in SAFEGUARDS if places(safeguard) != 1
    } == {}
    assert [
        name
        for name, count in Counter(safeguard.name for safeguard in SAFEGUARDS).items()
        if count > 1
    ] == []
    assert [safeguard.name for safeguard in SAFEGUARDS if safeguard.old == safeguard.new] == []


def test_the_test_of_each_safeguard_exists() -> None:
    """All of them are collected, by the names in the table."""
    collect(SAFEGUARDS)


def test_a_test_fails_without_its_safeguard() -> None:
    """For some lines of the table."""
    with ThreadPoolExecutor(2) as pool:
        outcomes = dict(
            zip(TRIED, pool.map(lambda name: take_out(BY_NAME[name]), TRIED), strict=True)
        )
    assert outcomes == dict.fromkeys(TRIED, "fails")


def test_a_safeguard_that_no_test_misses_survives() -> None:
    """The run on the copy passes, and that is told."""
    assert take_out(NEEDLESS) == "SURVIVES"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"old": "class "}, "not once"),
        ({"new": "import nothing_of_this_name\n"}, "could not be run"),
    ],
    ids=["a text that is there often", "a copy that can not be imported"],
)
def test_a_line_that_does_not_fit_the_code_is_an_error(changes: dict[str, str], says: str) -> None:
    """It is never taken for a test that fails."""
    with pytest.raises(TableError, match=says):
        take_out(dataclasses.replace(NEEDLESS, **changes))


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        safeguards.main(["--help"])
    assert ended.value.code == 0
    assert "safeguard" in capsys.readouterr().out
