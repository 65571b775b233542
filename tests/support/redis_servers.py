"""Redis servers for tests, each in a folder of its own, on a free port and a Unix socket."""

from __future__ import annotations

import hashlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from xots.backends.redis import RedisStore
from xots.errors import StoreUnavailable
from xots.testing import Faults

PASSWORD = "hunter2/?@: ü"
"""The password of the default user. Most of its characters must be percent-encoded in a URL."""

ACL_LINE = Path(__file__).parents[2].joinpath("deploy", "redis-users.acl").read_text().strip()
"""The user with the minimal rights."""

OLD_ACL_LINE = (
    "user xots on #SHA256-OF-THE-PASSWORD resetchannels ~xots:* &xots:changes:* -@all +get +set "
    "+del +pttl +pexpire +scan +evalsha +script|load +publish +subscribe +ping +info +time"
)
"""The line before there was an index of due accounts. Operators have it in use."""

FAILURE_TIMEOUT_SECONDS = 10.0
"""Upper bound on the time until a call fails."""

Opener = Callable[[str], RedisStore]


_ports_given: set[int] = set()


def free_port() -> int:
    """Return a port that is free and that this process has not returned before: servers that start
    at the same time never get the same one."""
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port: int = listener.getsockname()[1]
        if port not in _ports_given:
            _ports_given.add(port)
            return port


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Return the value of ``condition`` once it is true. It is false while Redis is away."""
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        with suppress(redis.exceptions.ConnectionError):
            if found := condition():
                return found
        time.sleep(0.01)
    raise AssertionError("the condition did not become true")


class RedisServer:
    """A process of redis-server, with its data and its socket in a folder of its own."""

    def __init__(
        self, *options: str, command: str = "redis-server", password: str = PASSWORD
    ) -> None:
        self.folder = Path(
            tempfile.mkdtemp(prefix="xots-redis-")
        )  # short: a socket's path takes 107 bytes
        self.port = free_port()
        self.socket = self.folder / "redis.sock"
        self.password = password
        self.admin = self.client()
        config = self.folder / "redis.conf"
        own = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"unixsocket {self.socket}",
            f"dir {self.folder}",
        ]
        own += [f'requirepass "{password}"']
        own += [] if "sentinel" in command else ['save ""']
        config.write_text("\n".join([*own, *options]) + "\n")
        self.arguments = [command, str(config)]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{quote(self.password, safe='')}@127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix://:{quote(self.password, safe='')}@{self.socket}"

    def client(self, database: int = 0) -> Any:
        """Return a client of the default user; the caller closes it.

        It never retries. By default, redis-py 6 and 7 sleep for up to several seconds between
        attempts, which would block the event loop of a test.
        """
        return redis.Redis(
            unix_socket_path=str(self.socket),
            password=self.password,
            db=database,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=30,  # a server that hangs fails the test
        )

    def start(self) -> RedisServer:
        self.socket.unlink(missing_ok=True)  # a killed server leaves it
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.arguments, stdout=log, stderr=log)
        # redis-py 5 leaves a socket open when it cannot connect.
        until(lambda: self.socket.exists() and self.admin.ping())
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP, so that the server hangs, or SIGCONT."""
        assert self.process is not None
        self.process.send_signal(number)

    def __enter__(self) -> RedisServer:
        try:
            return self.start()
        except BaseException:  # Python does not call __exit__ then
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        self.admin.close()
        self.kill()
        until(self._is_removed)

    def _is_removed(self) -> bool:
        """Remove the folder. A process that saves for the killed server may still write to it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()


def set_user(server: RedisServer, line: str) -> str:
    """Create the user of an ACL line on the server, and return that user's URL."""
    words = line.replace("SHA256-OF-THE-PASSWORD", hashlib.sha256(b"secret").hexdigest()).split()
    assert words.pop(0) == "user"
    server.admin.execute_command("ACL", "SETUSER", *words)
    return f"redis://{words[0]}:secret@127.0.0.1:{server.port}"


def faults_of(server: RedisServer, user: str = "default") -> Faults:
    """Return the faults of a store that the user has on the server."""

    @contextmanager
    def unreachable() -> Iterator[None]:
        server.admin.acl_setuser(user, enabled=False)
        server.admin.client_kill_filter(skipme=True)
        try:
            yield
        finally:
            server.admin.acl_setuser(user, enabled=True)

    @contextmanager
    def busy() -> Iterator[None]:
        server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.signal(signal.SIGCONT)

    return Faults(unreachable, busy)


async def refusal(call: Any) -> str:
    """Return the message of the ``StoreUnavailable`` that a call raises soon; it quotes no
    password."""
    began_at = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await call
    assert time.monotonic() - began_at < FAILURE_TIMEOUT_SECONDS
    shown = f"{caught.value} {caught.value!r}"
    assert "hunter2" not in shown
    assert "wrong-password" not in shown
    return str(caught.value)
