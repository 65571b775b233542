"""The servers of the benchmarks, and those that xots talks to, without the programs that load
them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks.bench import Bench, BenchmarkFailed
from benchmarks.logins import new_readers, store_logins
from benchmarks.outside import Refresher, checked, logged_in, needless, redis, simulated_xero
from benchmarks.servers import Server, against, of_same_size, plain, response_of, xots


def test_the_servers_send_as_many_bytes(tmp_path: Path) -> None:
    """xots serves a stored login with its default settings, and the other has its response."""
    bench = Bench(tmp_path)
    stored = store_logins(bench.new_folder("login"))
    with xots(bench, stored) as first, of_same_size(plain, bench, first) as second:
        responses = [b"".join(response_of(server)) for server in (first, second)]
        assert len(responses[0]) == len(responses[1]) > 1500
        assert first.process is not None
        assert first.process.memory > 1 << 20
        assert first.process.cpu_seconds() > 0
    assert not first.process.is_running()


def test_a_reader_of_a_run_may_read_the_token(tmp_path: Path) -> None:
    """Its key opens the account in the path."""
    bench = Bench(tmp_path)
    stored = store_logins(bench.new_folder("login"), names=["first", "second"])
    readers = tmp_path / "readers"
    headers = [f"Authorization: Bearer {new_readers(readers, 3)}"]
    path = "/accounts/second/token"
    with xots(bench, stored, "--readers", readers, path=path, headers=headers) as server:
        assert b'"accessToken"' in response_of(server)[1]


def test_a_server_that_cannot_start_is_told(tmp_path: Path) -> None:
    """The error holds the end of its output."""
    bench = Bench(tmp_path)
    stored = store_logins(bench.new_folder("login"))
    with (
        pytest.raises(BenchmarkFailed, match=r"it ended with status 2\n.*--tick"),
        xots(bench, stored, "--tick", "never"),
    ):
        pass


OTHER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

statuses = [int(status) for status in sys.argv[2:]]

class Token(BaseHTTPRequestHandler):
    def do_GET(self):
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        self.send_response(status if self.path == "/token" else 200)
        self.send_header("Location", "/login")
        self.end_headers()
        self.wfile.write(b"the body")

HTTPServer(("127.0.0.1", int(sys.argv[1])), Token).serve_forever()
"""
"""Another server. It responds to GET /token with these statuses in turn, and then with the last."""


def other(tmp_path: Path, *statuses: int) -> Bench:
    """A run against another server with these statuses."""
    program = tmp_path / "other.py"
    program.write_text(OTHER, encoding="ascii")
    return Bench(
        tmp_path, against=f"{sys.executable} {program} {{port}} {' '.join(map(str, statuses))}"
    )


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        ((404,), "GET http://.*/token: the response has the status 404$"),
        ((503, 401), "the response has the status 401$"),
        ((302,), "the other: GET http://.*/token: the response has the status 302: b'the body'"),
    ],
)
def test_another_server_that_serves_no_token_is_told(
    statuses: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    """The error names the status, at once: the server has started, and has no token."""
    with (
        pytest.raises(BenchmarkFailed, match=re.compile(message, re.MULTILINE)),
        against(other(tmp_path, *statuses)),
    ):
        pass


def test_a_server_may_be_unavailable_while_it_starts(tmp_path: Path) -> None:
    """Some respond with 503 at first."""
    with against(other(tmp_path, 503, 503, 200)) as server:
        assert server is not None
        assert response_of(server)[1] == b"the body"


def test_the_last_status_of_a_server_that_never_gets_ready_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays unavailable."""
    bench = other(tmp_path, 200, 200, 503)
    with against(bench) as server:
        assert server is not None
        monkeypatch.setattr("benchmarks.bench.READY_TIMEOUT_SECONDS", 0.2)
        with (
            pytest.raises(BenchmarkFailed, match=r"for 0\.2 seconds; the status was 503"),
            bench.start(["sleep", "60"], ready=server.url),
        ):
            pass


def test_the_token_is_requested_at_the_host_of_the_url(tmp_path: Path) -> None:
    """Another server may run on another host, and its URL may have a query."""
    with against(other(tmp_path, 200)) as server:
        assert server is not None
        elsewhere = f"http://127.0.0.2:{server.port}/token?of=one"
        refused = r"GET http://127\.0\.0\.2:.*: no response: .*refused"
        with pytest.raises(BenchmarkFailed, match=refused):
            response_of(Server("the other", elsewhere, None))


def test_a_forced_refresh_is_one_request_at_xero(tmp_path: Path) -> None:
    """A user has logged in, and another process on the same Redis serves the token too."""
    bench = Bench(tmp_path)
    with (
        simulated_xero(bench) as xero,
        redis(bench) as url,
        logged_in(bench, xero, store=url) as (server, stored),
        xots(bench, stored) as other,
    ):
        assert xero.take_refreshes() == []
        with Refresher(server) as refresher:
            refresher.refresh()
            refresher.refresh()
        found = checked(xero.take_refreshes())
        assert len({refresh.token for refresh in found}) == len(found) == 2
        assert needless(found, 1800) == 1
        assert xero.take_refreshes() == []
        assert b'"accessToken"' in response_of(other)[1]
