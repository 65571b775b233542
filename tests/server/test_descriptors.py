"""The limit on open descriptors: raised at the start, and above the number of connections."""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.inside import acceptor_of
from support.running import demo, running

from xots.server import MAX_DESCRIPTORS, RESERVED_DESCRIPTORS, Server, max_connections_possible

NewServer = Callable[..., Awaitable[Server]]

FEW = 200
"""More descriptors than the tests have open."""


@contextmanager
def soft_limit(number: int) -> Iterator[int]:
    """Set the soft limit of this process, which new processes inherit. Give the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def soft_limit_of(pid: int) -> int:
    """Return the soft limit of another process."""
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


@pytest.mark.safeguard(
    file="server.py",
    old="    raise_descriptor_limit()\n",
    new="",
    protects_from="a service that refuses clients at a limit that it may raise itself",
)
async def test_the_server_raises_its_soft_limit_to_the_hard_one(tmp_path: Path) -> None:
    """Many systems give a process 1024 descriptors, and permit far more."""
    with soft_limit(FEW) as hard:
        async with running("serve", "-p", "0", XOTS_STORE="memory:") as xots:
            await xots.until("stderr", r"serving on ")
            assert soft_limit_of(xots.process.pid) == min(hard, MAX_DESCRIPTORS)


async def test_the_demo_raises_its_soft_limit_too() -> None:
    """The browsers of a demonstration open many connections."""
    with soft_limit(FEW) as hard:
        async with demo() as (xots, _):
            assert soft_limit_of(xots.process.pid) == min(hard, MAX_DESCRIPTORS)


@pytest.mark.parametrize("limit", [64, 200, 1024])
def test_some_descriptors_are_kept_from_connections(limit: int) -> None:
    """The store, Xero and the log need them; half, if there are few."""
    with soft_limit(limit):
        possible = max_connections_possible()
    assert limit // 2 <= possible
    assert possible in (limit - RESERVED_DESCRIPTORS, limit // 2)


@pytest.mark.safeguard(
    file="server.py",
    old="max_connections=min(settings.max_connections, possible),",
    new="max_connections=settings.max_connections,",
    protects_from="connections that take the last descriptors, so that refreshes fail",
)
@pytest.mark.parametrize("explicit", [True, False])
async def test_a_setting_above_the_limit_is_lowered(
    new_server: NewServer, expected_log: Any, explicit: bool
) -> None:
    """The log says so if the operator has set it. The default needs no thought."""
    possible = FEW - RESERVED_DESCRIPTORS
    if explicit:
        expected_log(f"max_connections is 500, but .* permits only {possible} connections")
    with soft_limit(FEW):
        server = await new_server(
            max_connections=500,
            sources={"max_connections": "--max-connections"} if explicit else {},
        )
    assert acceptor_of(server).limits.max_connections == possible
