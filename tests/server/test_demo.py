"""``xots demo`` as a process, from its greeting to a signal, on free ports."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from support.running import demo, running

from xots.sandbox import DEFAULT_CLIENT_ID


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_the_demo_prints_addresses_that_respond(get: Callable[..., Awaitable[Any]]) -> None:
    """Every URL of its greeting can be opened. The simulated Xero lists the requests it got."""
    async with demo() as (process, _):
        await process.until("stdout", "Stop with Ctrl-C")
        addresses = set(re.findall(r"http://(?:localhost|127\.0\.0\.1):\d+/\S+", process.output))
        assert len(addresses) >= 4
        for address in addresses:
            assert (await get(address)).status == 200, address
        [log] = [address for address in addresses if address.endswith("/sandbox/log")]
        grants = [one["grant_type"] for one in (await get(log)).json["log"] if one["grant_type"]]
        assert grants[0] == "authorization_code"


async def test_the_demo_uses_no_settings_of_the_user(
    get: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    """It ignores the environment's settings, and leaves no file in the user's folders."""
    secret = "the-users-own-canary"
    environment = {
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XOTS_CLIENT_ID": "USERS",
        "XOTS_CLIENT_SECRET": secret,
        "XOTS_STORE": "nosuch://x",
    }
    async with running("demo", "-p", "0", "--sandbox-port", "0", **environment) as process:
        found = await process.until("stdout", r"localhost:(\d+)/token\s*$")
        status = (await get(f"http://localhost:{found[1]}/status")).json
        assert status["client_id"] == DEFAULT_CLIENT_ID
        process.process.terminate()
        assert await process.ended() == 0
    assert secret not in process.output
    assert left_in(tmp_path) == []
