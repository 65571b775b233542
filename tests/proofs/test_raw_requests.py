"""Mutated raw requests to a real server: a short run of ``torture raw_requests``."""

from __future__ import annotations

from typing import Any

import pytest
from support.one_server import one_server
from support.raw_http import exchange
from torture._mutated_requests import CANARY
from torture.raw_requests import Run

REQUESTS, SEED = 600, 3


async def test_no_malformed_request_fails_or_stays_open(expected_log: Any) -> None:
    """Each connection ends, with a refusal or without a response, and the server serves on."""
    expected_log.perhaps(r"^WARNING ")
    async with one_server() as running:
        figures = await Run(running, SEED).go(REQUESTS)
    assert figures.wrong == []
    assert {"200", "400", "404"} <= set(figures.by_status)


FORM = b"client_id=mine&client_secret=" + CANARY

# Requests with which random ones have found a fault.
FOUND = {
    "a port of 5,000 digits": b"GET /token HTTP/1.1\r\nHost: localhost:%b\r\n\r\n" % (b"1" * 5000),
    "an Origin that is no URL": (
        b"POST /login HTTP/1.1\r\nHost: HERE\r\nOrigin: http://[\r\nContent-Length: 0\r\n\r\n"
    ),
    "a secret that is not UTF-8": (
        b"POST /login HTTP/1.1\r\nHost: HERE\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n%b\xff" % (len(FORM) + 1, FORM)
    ),
}


@pytest.mark.parametrize("request_bytes", FOUND.values(), ids=FOUND)
async def test_a_malformed_request_is_refused(
    request_bytes: bytes, expected_log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is a refusal, and neither it nor the log shows a secret."""
    expected_log.perhaps(r"^WARNING ")
    async with one_server() as running:
        here = f"localhost:{running.port}".encode()
        sent = request_bytes.replace(b"HERE", here)
        (response,) = await exchange(running.port, [(sent, False)])
    assert response.status in (400, 403, 421)
    assert not response.shows(CANARY.decode())
    assert CANARY.decode() not in caplog.text
