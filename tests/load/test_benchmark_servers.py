"""The servers of the benchmarks, and those that xots talks to, without the programs that load
them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench import Bench, BenchmarkFailed
from benchmarks.logins import new_readers, store_logins
from benchmarks.outside import Refresher, checked, logged_in, needless, redis, simulated_xero
from benchmarks.servers import of_same_size, plain, response_of, xots


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
