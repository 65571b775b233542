"""A write of the file store, with kills and errors at each system call, and power cuts.

The short versions of ``torture system_calls`` and ``torture crash_states``.
"""

from __future__ import annotations

import asyncio

import pytest
from torture import crash_states, system_calls
from torture.crash_states import Recording, all_states, replay
from torture.system_calls import TREATMENTS, Call, Point, each, list_calls, run_point

CHANGES = ("write", "fsync", "renameat", "unlinkat")
"""The system calls that change the stored record. The others read, lock and open."""

LEASE_GIVEN_BACK = ("main", "close")
"""The only call on the folder outside the store's own thread."""


@pytest.fixture(scope="module")
def calls() -> list[Call]:
    return asyncio.run(list_calls())


@pytest.fixture(scope="module")
def recording() -> Recording:
    return asyncio.run(crash_states.record())


def test_every_step_of_both_saves_is_among_the_calls(calls: list[Call]) -> None:
    """Two writes, of intent and response: an old file removed, data, sync, rename, sync of the
    folder."""
    steps = [(call.kind, call.about) for call in calls if call.kind in CHANGES]
    save = [
        ("unlinkat", "the folder default.new"),
        ("write", "default.new"),
        ("fsync", "default.new"),
        ("renameat", "the folder default.new default.sealed"),
        ("fsync", "the folder"),
    ]
    assert steps == [*save, *save]
    assert {"openat", "flock", "newfstatat", "read", "close"} <= {call.kind for call in calls}


def test_a_refresh_survives_each_kind_of_system_call_killed_or_failed(calls: list[Call]) -> None:
    """Calls that change the record get every fault, the others one fault each."""
    last = {(call.thread, call.kind): call for call in calls}
    others = [call for call in last.values() if call.kind not in CHANGES]
    points = [
        Point(call, treatment)
        for call in last.values()
        if call.kind in CHANGES
        for treatment in TREATMENTS
    ]
    points += [
        Point(call, TREATMENTS[number % len(TREATMENTS)]) for number, call in enumerate(others)
    ]
    results = asyncio.run(each(run_point, points, jobs=2))
    assert {str(result.point): result.problems for result in results if result.problems} == {}
    assert {result.outcome for result in results} == {"killed", "reported", "harmless"}


def test_a_refresh_is_killed_as_it_gives_the_lease_back(calls: list[Call]) -> None:
    """The call is made in the event loop's thread, after the writes."""
    (call,) = (call for call in calls if (call.thread, call.kind) == LEASE_GIVEN_BACK)
    assert asyncio.run(run_point(Point(call, "SIGKILL"))).problems == []


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_lease_whose_file_fails_to_close_harms_no_caller(calls: list[Call], error: str) -> None:
    """The kernel has released the lock although the call failed."""
    (call,) = (call for call in calls if (call.thread, call.kind) == LEASE_GIVEN_BACK)
    assert asyncio.run(run_point(Point(call, error))).problems == []


def test_every_state_after_a_power_cut_recovers(recording: Recording) -> None:
    """The folder holds the old or the new record, and the new one once the write returned."""
    count, states = all_states(recording)
    assert count > len(states) > 100
    found = asyncio.run(each(lambda state: replay(recording, state), states, jobs=4))
    assert {
        state.description: problems
        for state, problems in zip(states, found, strict=True)
        if problems
    } == {}


@pytest.mark.parametrize(
    ("without", "problem"),
    [
        ("fsync-file", "the record is neither, not response"),
        ("fsync-folder", "the record is intent, not response"),
    ],
)
def test_the_model_finds_a_missing_sync(recording: Recording, without: str, problem: str) -> None:
    """Without the sync, a record is torn, or an acknowledged write is lost."""

    async def first_failure() -> list[str]:
        for state in reversed(all_states(recording, without)[1]):
            if problems := await replay(recording, state):
                return problems
        return []

    assert problem in asyncio.run(first_failure())


@pytest.mark.parametrize("command", [system_calls, crash_states])
def test_a_torture_command_explains_itself(
    command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])  # type: ignore[attr-defined]
    assert ended.value.code == 0
    assert "file store" in capsys.readouterr().out
