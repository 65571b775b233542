"""Real Redis servers for the tests, each on a free port and a Unix socket."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

PASSWORD = "hunter2/?@: ü"
"""Of the servers' default user: nearly all of it must be percent-encoded in a URL."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """What ``condition`` gives as soon as it is true; a lost connection counts as not yet."""
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        with suppress(redis.exceptions.ConnectionError):
            if found := condition():
                return found
        time.sleep(0.01)
    raise AssertionError("it never came true")


class RedisServer:
    """A redis-server in a folder of its own, on a free port and a Unix socket."""

    def __init__(
        self, *options: str, command: str = "redis-server", password: str = PASSWORD
    ) -> None:
        self.folder = Path(
            tempfile.mkdtemp(prefix="xots-redis-")
        )  # short: a socket's path takes 107 bytes
        self.port = free_port()
        self.socket = self.folder / "redis.sock"
        self.password = password
        self.admin: Any = redis.Redis(
            unix_socket_path=str(self.socket), password=password, protocol=2
        )
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

    def start(self) -> RedisServer:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.arguments, stdout=log, stderr=log)
        until(self.admin.ping)
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: signal.Signals) -> None:
        """Stop it, so that it hangs, or let it go on."""
        assert self.process is not None
        self.process.send_signal(number)

    def __enter__(self) -> RedisServer:
        try:
            return self.start()
        except BaseException:  # __exit__ is not called then
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        self.admin.close()
        self.kill()
        shutil.rmtree(self.folder)
