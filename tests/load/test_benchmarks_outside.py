"""The servers that xots talks to in the benchmarks."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.outside import Refresher, checked, logged_in, needless, redis, simulated_xero
from benchmarks.servers import response_of, xots


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
