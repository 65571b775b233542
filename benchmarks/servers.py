"""The servers that are compared: xots, a plain Tornado handler, nginx, and another one."""

from __future__ import annotations

import json
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .bench import Bench, BenchmarkFailed, Process
from .logins import Stored

__all__ = [
    "Server",
    "against",
    "nginx",
    "of_same_size",
    "plain",
    "response_of",
    "xots",
]

XOTS = (sys.executable, "-m", "xots")


@dataclass(frozen=True)
class Server:
    """A server that runs, and how its token is requested."""

    name: str
    url: str
    """The URL of the token by TCP."""
    process: Process | None
    """None: it runs elsewhere, so that its processor time and memory are unknown."""
    unix_socket: Path | None = None
    headers: tuple[str, ...] = ()
    """Headers that each request needs, such as the key of a reader."""

    @property
    def port(self) -> int:
        """The TCP port."""
        return urlsplit(self.url).port or 80


@contextmanager
def xots(
    bench: Bench,
    stored: Stored,
    *options: str | Path,
    name: str = "xots",
    path: str = "/token",
    headers: Sequence[str] = (),
    port: int | None = None,
    program: Sequence[str | Path] = XOTS,
) -> Iterator[Server]:
    """Run xots with its default settings, on stored logins, with a TCP port and a Unix socket.

    Args:
        bench: the run.
        stored: the store and its key.
        options: further options of ``xots serve``.
        name: the name in the tables.
        path: the path of the token.
        headers: headers that each request needs.
        port: the TCP port; None: any free one.
        program: the command that stands for ``xots``.
    """
    port, unix_socket = port or bench.free_port(), bench.new_folder("socket") / "xots"
    listening: list[str | Path] = ["--port", str(port), "--unix-socket", unix_socket]
    command = [*program, "serve", *stored.options, *listening, *options]
    # /ping needs neither a key nor a login.
    ready = f"http://127.0.0.1:{port}/ping"
    with bench.start(command, ready=ready) as process:
        url = f"http://127.0.0.1:{port}{path}"
        yield Server(name, url, process, unix_socket, tuple(headers))


PLAIN = """
import asyncio, sys
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler

body = open(sys.argv[3], "rb").read()

class Token(RequestHandler):
    def get(self):
        self.set_header("Content-Type", "application/json")
        self.finish(body)

async def main():
    server = HTTPServer(Application([(r"/token", Token)], log_function=lambda handler: None))
    server.listen(int(sys.argv[1]), "127.0.0.1")
    server.add_socket(bind_unix_socket(sys.argv[2]))
    await asyncio.Event().wait()

asyncio.run(main())
"""
"""A plain Tornado handler: the least that a server of this kind does. It writes no log."""


@contextmanager
def plain(bench: Bench, body: bytes) -> Iterator[Server]:
    """Run a plain Tornado handler that sends this body, on TCP and a Unix socket."""
    folder, port = bench.new_folder("plain"), bench.free_port()
    program, content, unix_socket = folder / "plain.py", folder / "body", folder / "socket"
    program.write_text(PLAIN, encoding="ascii")
    content.write_bytes(body)
    url = f"http://127.0.0.1:{port}/token"
    command = (sys.executable, program, str(port), unix_socket, content)
    with bench.start(command, ready=url) as process:
        yield Server("plain Tornado", url, process, unix_socket)


NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
error_log stderr;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  default_type application/json;
  keepalive_requests 1000000000;
  keepalive_timeout 3600;
  client_body_temp_path {folder}/client;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen unix:{folder}/socket backlog=4096;
    location = /token {{ return 200 {body}; }}
  }}
}}
"""
"""The ceiling: one process, no log, the response from memory."""


@contextmanager
def nginx(bench: Bench, body: bytes) -> Iterator[Server]:
    """Run nginx with one worker that returns this body, on TCP and a Unix socket."""
    folder, port = bench.new_folder("nginx"), bench.free_port()
    # In single quotes, nginx knows a backslash and the quote itself, and replaces variables.
    text = body.decode("ascii")
    if set(text) & set("\\'$"):
        raise ValueError("the body has a character that nginx would change")
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, body=f"'{text}'"), encoding="ascii")
    url = f"http://127.0.0.1:{port}/token"
    command = ("nginx", "-c", config, "-p", f"{folder}/")
    with bench.start(command, ready=url) as process:
        yield Server("nginx", url, process, folder / "socket")


@contextmanager
def against(bench: Bench) -> Iterator[Server | None]:
    """Run the server of ``--against``, or use the one of ``--against-url``; None without both."""
    if bench.against_url is not None:
        server = Server("the other", bench.against_url, None)
        response_of(server)
        yield server
    elif bench.against is not None:
        port = bench.free_port()
        url = f"http://127.0.0.1:{port}/token"
        words = [word.replace("{port}", str(port)) for word in shlex.split(bench.against)]
        with bench.start(words, ready=url) as process:
            server = Server("the other", url, process)
            response_of(server)
            yield server
    else:
        yield None


def response_of(server: Server) -> tuple[bytes, bytes]:
    """Request the token as wrk does, and return the head and the body of the response.

    Raises:
        BenchmarkFailed: it does not respond, or its status is not 200.
    """
    url = urlsplit(server.url)
    target = f"{url.path or '/'}?{url.query}" if url.query else url.path or "/"
    lines = [f"GET {target} HTTP/1.1", f"Host: {url.netloc}", *server.headers]
    request = "\r\n".join([*lines, "Connection: close", "", ""])
    what = f"{server.name}: GET {server.url}"
    try:
        with socket.create_connection((url.hostname, server.port), timeout=10) as connection:
            connection.sendall(request.encode("ascii"))
            received = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as error:
        raise BenchmarkFailed(f"{what}: no response: {error}") from None
    head, _, body = received.partition(b"\r\n\r\n")
    status = b"".join(head.split()[1:2]).decode("ascii", "replace")
    if status != "200":
        shown = f"the status {status}" if status else "no status"
        raise BenchmarkFailed(f"{what}: the response has {shown}: {body[:300]!r}")
    return head, body


@contextmanager
def of_same_size(
    make: Callable[[Bench, bytes], AbstractContextManager[Server]], bench: Bench, model: Server
) -> Iterator[Server]:
    """Run a server whose response has as many bytes as that of ``model``, head and body together:
    the body of the model, with spaces at its end in place of the missing headers.

    Args:
        make: ``plain`` or ``nginx``.
        bench: the run.
        model: the server to compare with.
    """
    head, body = response_of(model)
    json.loads(body)
    with make(bench, body) as first:
        missing = len(head) - len(response_of(first)[0])
    with make(bench, body + b" " * max(missing, 0)) as server:
        yield server
