"""The line that ``xots demo`` prints for a shell."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
from asyncio.subprocess import PIPE

import pytest
from support.running import demo

from xots.sandbox import DEFAULT_CLIENT_SECRET


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_demo_logs_in_by_itself_and_its_curl_line_works(number: signal.Signals) -> None:
    """A user can paste the line into a shell. The demo prints no secret, and stops cleanly."""
    async with demo() as (process, line):
        await process.until("stdout", "Stop with Ctrl-C")
        curl = await asyncio.create_subprocess_exec(*shlex.split(line), stdout=PIPE)
        shown, _ = await curl.communicate()
        assert curl.returncode == 0
        token = json.loads(shown)["accessToken"]
        process.process.send_signal(number)
        assert await process.ended() == 0
    assert "logged in" in process.output
    assert "Traceback" not in process.output
    for secret in (token, "eyJ", DEFAULT_CLIENT_SECRET):
        assert secret not in process.output
