"""Tasks run to their end, are joined by their callers, and are drained."""

from __future__ import annotations

import asyncio
import logging

import pytest

from xots.tasks import Closed, SharedTask, Tasks, cancel_until_done


async def test_a_cancelled_caller_does_not_cancel_its_task() -> None:
    """The task runs to its end, and is in ``running`` until then."""
    tasks, go_on, ended = Tasks(), asyncio.Event(), []

    async def work() -> str:
        await go_on.wait()
        ended.append(True)
        return "done"

    caller = asyncio.create_task(tasks.run(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    (task,) = tasks.running
    go_on.set()
    assert await task == "done"
    assert (ended, tasks.running) == ([True], frozenset())


async def test_a_result_and_an_error_reach_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    """An error without a caller is logged at DEBUG only, and without data that it quotes."""
    tasks = Tasks()

    async def fail() -> None:
        raise KeyError("broken")

    async def succeed() -> int:
        return 7

    assert await tasks.run(succeed()) == 7
    with pytest.raises(KeyError, match="broken"):
        await tasks.run(fail())
    caplog.set_level(logging.DEBUG, "xots.tasks")
    await asyncio.wait([tasks.start(fail())])
    await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == ["a task ended with KeyError"]


async def test_draining_waits_for_every_task_and_starts_none() -> None:
    """It waits for a task that another one starts too. No task starts after it."""
    tasks, go_on, done = Tasks(), asyncio.Event(), []

    async def work() -> None:
        await go_on.wait()
        done.append(True)

    tasks.start(work())
    draining = asyncio.create_task(tasks.drain())
    await asyncio.sleep(0)
    assert tasks.closed
    assert not draining.done()
    late = work()
    with pytest.raises(Closed):
        tasks.start(late)
    go_on.set()
    await draining
    assert done == [True]
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await late


async def test_callers_share_one_task() -> None:
    """The first caller starts it, the others join. A caller after its end starts another."""
    tasks = Tasks()
    shared, go_on, starts = SharedTask(tasks), asyncio.Event(), []

    async def work() -> None:
        starts.append(True)
        await go_on.wait()

    first, started = shared.join(work)
    second, joined = shared.join(work)
    assert (first is second, started, joined) == (True, True, False)
    assert shared.running is first
    go_on.set()
    await first
    assert shared.running is None
    _, started = shared.join(work)
    assert started
    await tasks.drain()
    assert len(starts) == 2
    with pytest.raises(Closed):
        shared.join(work)


async def test_a_task_that_swallows_cancellations_is_cancelled_until_it_ends() -> None:
    """Libraries on Python 3.11 may swallow one cancellation."""
    swallowed: list[bool] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed.append(True)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancel_until_done(task)
    assert task.cancelled()
    assert swallowed == [True]
    await cancel_until_done(task)
