"""The inside of a keeper and a server. Tests reach past their public names in this file only.

A test needs it to end a keeper as the death of its process does, and to let two operations of one
keeper overlap at a certain moment.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import msgspec

from xots.accounts.accounts import Accounts
from xots.accounts.keepers import Opened
from xots.keeping.context import Context
from xots.keeping.keeper import TokenKeeper
from xots.keeping.replica import Replica
from xots.keeping.serving import Serving
from xots.lifecycle.account import Account
from xots.lifecycle.record_json import encode
from xots.server import Server
from xots.web.acceptor import Acceptor
from xots.web.app import make_app
from xots.web.express import Express
from xots.web.in_flight import InFlight


def context_of(keeper: TokenKeeper) -> Context:
    """Return the keeper's parts: its store and its client among them."""
    return keeper._context


def replica_of(keeper: TokenKeeper) -> Replica:
    """Return the keeper's copy of the record."""
    return keeper._replica


def operations_of(keeper: TokenKeeper) -> frozenset[asyncio.Task[Any]]:
    """Return the tasks of the operations that the keeper has not concluded."""
    return keeper._tasks.running | keeper._acts.running


def serving_of(keeper: TokenKeeper) -> Serving:
    """Return the part of the keeper that serves tokens."""
    return keeper._serving


def watch_of(keeper: TokenKeeper) -> asyncio.Task[None] | None:
    """Return the task that watches a shared store."""
    return keeper._following.watch


def open_keepers_of(accounts: Accounts) -> dict[str, Opened]:
    """Return the open keepers of a process, by account."""
    return accounts._keepers._open


async def settle(keeper: TokenKeeper) -> None:
    """Read the record under the lease, as a tick does after a failure of the store."""
    await keeper._following.settle()


async def put_beside(keeper: TokenKeeper, name: str, account: Account) -> None:
    """Write the record of another account into the keeper's store."""
    sealed = keeper._replica._record._sealer.seal(encode(account), "account", {"name": name})
    await keeper._context.store.swap(name, sealed, expected=None)


def sweep_of(accounts: Accounts) -> asyncio.Task[None] | None:
    """Return the sweep of all records that was started last by a tick."""
    return accounts._survey._sweeping


def in_flight_of(server: Server) -> InFlight:
    """Return the count of a server's requests without a response."""
    return server._in_flight


def acceptor_of(server: Server) -> Acceptor:
    """Return the accept loop of a started server."""
    assert server._acceptor is not None
    return server._acceptor


def watched_of(server: Server) -> int:
    """Return the number of connections that the event loop sees as one."""
    watch = acceptor_of(server)._watch
    assert watch is not None
    return len(watch._selector.get_map())


def express_of(server: Server) -> Express:
    """Return the express lane of a started server that has one."""
    watch = acceptor_of(server)._watch
    assert watch is not None
    return watch.express


def tornado_timeout_of(acceptor: Acceptor) -> float | None:
    """Return the time in seconds after which Tornado itself closes a connection that waits for a
    head; None if it has no such limit."""
    return acceptor._http.conn_params.header_timeout


def acceptor_without_lane(server: Server, listening: Sequence[socket.socket]) -> Acceptor:
    """Return a further accept loop for the accounts of a started server, without the lane."""
    acceptor, clock = acceptor_of(server), server._clock
    with_lane: Any = acceptor._http.request_callback
    config = msgspec.structs.replace(with_lane._config, express=None)
    app = make_app(**{**with_lane._arguments, "config": config})
    return Acceptor(listening, app, acceptor.limits, uid_of=acceptor._uid_of, clock=clock)


def maintenance_of(accounts: Accounts) -> frozenset[asyncio.Task[Any]]:
    """Return the tasks in which a manager maintains its due accounts."""
    return accounts._work._tasks.running
