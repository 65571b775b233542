"""The servers that xots talks to, each in a process of its own: the simulated Xero and Redis."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from xots.sandbox import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
from xots.sandbox.person import Person

from .bench import DIRECT, Bench, BenchmarkFailed
from .logins import Stored, new_store
from .servers import XOTS, Server, xots

__all__ = [
    "Refresh",
    "Refresher",
    "SimulatedXero",
    "checked",
    "logged_in",
    "needless",
    "redis",
    "simulated_xero",
]

DUE_AFTER_PART = 0.4
"""The part of a lifetime before which no refresh is due by time: less than a half, since the two
clocks differ a little."""

REDIS_READY_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Refresh:
    """A refresh request that the simulated Xero has received."""

    at: datetime
    token: str
    """The fingerprint of the refresh token that was spent."""
    outcome: str
    """``issued`` if it brought a new token."""


@dataclass(frozen=True)
class SimulatedXero:
    """A simulated Xero that runs."""

    port: int
    login_ports: list[int]
    """The ports of servers at which a user can log in: Xero knows their redirect URIs. Each is for
    one server, which removes it."""

    @property
    def url(self) -> str:
        """The base of its URLs."""
        return f"http://127.0.0.1:{self.port}"

    def set_life(self, seconds: int) -> None:
        """Set the lifetime of the access tokens that it issues from now on."""
        self._control("switches", {"access_token_life_seconds": seconds})

    def take_refreshes(self) -> list[Refresh]:
        """Return the refresh requests since the last call, and forget them."""
        log = self._control("log")["log"]
        self._control("log", method="DELETE")
        return [
            Refresh(datetime.fromisoformat(entry["at"]), entry["token"], entry["outcome"])
            for entry in log
            if entry["endpoint"] == "refresh"
        ]

    def _control(self, path: str, content: object = None, method: str | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.url}/sandbox/{path}", data, method=method)
        with DIRECT.open(request, timeout=10) as response:
            return json.loads(response.read() or b"{}")


@contextmanager
def simulated_xero(
    bench: Bench, *, life_seconds: int = 1800, delay_seconds: float = 0, logins: int = 1
) -> Iterator[SimulatedXero]:
    """Run a simulated Xero on the core of the load.

    Args:
        bench: the run.
        life_seconds: the lifetime of its access tokens.
        delay_seconds: the time that each refresh takes.
        logins: the number of servers at which a user will log in.
    """
    port, *login_ports = (bench.free_port() for _ in range(1 + logins))
    xero = SimulatedXero(port, login_ports)
    command = [
        *(*XOTS, "sandbox", "--port", str(xero.port), "--users", "1"),
        *("--access-token-life", str(life_seconds)),
        *(f"--redirect-uri=http://localhost:{port}/code" for port in login_ports),
    ]
    if delay_seconds:
        command += ["--fault", f"refresh:every:delay-before={delay_seconds:g}"]
    with bench.start(command, ready=f"{xero.url}/sandbox/clock", core=bench.load_core):
        yield xero


@contextmanager
def logged_in(
    bench: Bench,
    xero: SimulatedXero,
    *options: str | Path,
    store: str | None = None,
    program: Sequence[str | Path] = XOTS,
) -> Iterator[tuple[Server, Stored]]:
    """Run xots, log a user in to it at the simulated Xero, and yield it with its store.

    Programs can force as many refreshes as they like.

    Args:
        bench: the run.
        xero: issues the tokens.
        options: further options of ``xots serve``.
        store: the URL of the store; None: a file store.
        program: as for ``xots``.
    """
    stored = new_store(bench.new_folder("login"), store, xero.url)
    forced = ("--refresh-interval", "0", *options)
    with xots(bench, stored, *forced, port=xero.login_ports.pop(), program=program) as server:
        page = asyncio.run(
            Person().log_in(
                f"http://localhost:{server.port}", DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET
            )
        )
        if page.status != 200:
            raise BenchmarkFailed(f"the login ended with status {page.status}:\n{page.text[:500]}")
        yield server, stored


class Refresher:
    """A program that forces refreshes, one after another, on one connection.

    Args:
        server: the server to which it sends ``GET /refresh``.
    """

    def __init__(self, server: Server) -> None:
        self._connection = HTTPConnection("127.0.0.1", server.port, timeout=30)

    def refresh(self) -> float:
        """Force a refresh, and return the seconds that it took.

        Raises:
            BenchmarkFailed: the refresh failed.
        """
        began = time.perf_counter()
        self._connection.request("GET", "/refresh")
        response = self._connection.getresponse()
        content = response.read()
        took = time.perf_counter() - began
        if response.status != 303:
            raise BenchmarkFailed(f"GET /refresh: status {response.status}: {content[:500]!r}")
        return took

    def __enter__(self) -> Refresher:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()


def checked(refreshes: Sequence[Refresh]) -> Sequence[Refresh]:
    """Return these refresh requests, all of which brought a token.

    Raises:
        BenchmarkFailed: one of them did not.
    """
    others = [refresh.outcome for refresh in refreshes if refresh.outcome != "issued"]
    if others:
        numbers = f"{len(others)} of {len(refreshes)} refreshes"
        raise BenchmarkFailed(f"{numbers} brought no token: {', '.join(others)}")
    return refreshes


def needless(refreshes: Sequence[Refresh], life_seconds: float) -> int:
    """Return the number of refreshes that no expiry demanded: those that spent a token again, or
    came sooner after the one before than one is due by time.

    Args:
        refreshes: the refreshes of one account.
        life_seconds: the lifetime of its access tokens.
    """
    min_interval_seconds = life_seconds * DUE_AFTER_PART
    count, spent = 0, set[str]()
    before: Refresh | None = None
    for refresh in sorted(refreshes, key=lambda refresh: refresh.at):
        too_soon = (
            before is not None and (refresh.at - before.at).total_seconds() < min_interval_seconds
        )
        count += too_soon or refresh.token in spent
        spent.add(refresh.token)
        before = refresh
    return count


@contextmanager
def redis(bench: Bench, *options: str) -> Iterator[str]:
    """Run a Redis on the core of the load, with its default settings and these options. Yield its
    URL.

    Raises:
        BenchmarkFailed: it does not start.
    """
    folder, port = bench.new_folder("redis"), bench.free_port()
    command: list[str | Path] = [
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
        *options,
    ]
    with bench.start(command, core=bench.load_core) as process:
        deadline = time.monotonic() + REDIS_READY_TIMEOUT_SECONDS
        while time.monotonic() < deadline and process.is_running():
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(100).startswith(b"+PONG"):
                    break
            time.sleep(0.02)
        else:
            raise process.failure("it does not serve")
        yield f"redis://127.0.0.1:{port}"
