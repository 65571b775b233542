"""What libraries log: constant words, and no text that may quote a request."""

from __future__ import annotations

import json
import logging

import msgspec
import pytest

from xots.errors import UpstreamFailed
from xots.log_filters import MAX_TRACEBACK_LINES, error_text, hush_libraries, traceback_text

CANARY = "hunter2-canary"


def failed(act: object, *arguments: object) -> Exception:
    """Return the exception of a call."""
    try:
        act(*arguments)  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 - of any type
        return error
    raise AssertionError("no exception")


def decoded(data: bytes) -> object:
    return msgspec.json.decode(data, type=dict[str, int])


QUOTING = {
    "a key": failed({"a": 1}.__getitem__, CANARY),
    "a number": failed(int, CANARY),
    "an encoding": failed(f"{CANARY}\ud800".encode),
    "JSON": failed(json.loads, CANARY),
    "msgspec": failed(decoded, f'{{"{CANARY}": "{CANARY}"}}'.encode()),
    "a file": failed(open, f"/nonexistent/{CANARY}"),
    "an error of a library": RuntimeError(CANARY),
    "a note": failed(int, CANARY),
}
QUOTING["a note"].add_note(CANARY)


@pytest.mark.parametrize("error", QUOTING.values(), ids=QUOTING)
@pytest.mark.safeguard(
    file="log_filters.py",
    old="        yield error_text(one)",
    new="        yield str(one)",
    protects_from="data that the text of an exception quotes in the log",
)
def test_a_traceback_does_not_quote_data(error: Exception) -> None:
    """It shows the type and the lines of code."""
    shown = traceback_text(error)
    assert CANARY not in shown
    assert shown.endswith(error_text(error))
    assert type(error).__name__ in shown


def test_a_traceback_shows_what_helps_to_find_the_fault() -> None:
    """Names of the code and this package's own words quote no data."""

    def fail() -> None:
        raise UpstreamFailed("no\nresponse") from OSError(28, "No space left", f"/x/{CANARY}")

    shown = traceback_text(failed(fail))
    assert "OSError: [Errno 28] No space left" in shown
    assert CANARY not in shown
    assert shown.index("OSError") < shown.index("led to the next one") < shown.index("Upstream")
    assert shown.endswith(r"UpstreamFailed: no\nresponse")
    assert error_text(failed(lambda: None.nothing)).startswith("AttributeError: 'NoneType'")  # type: ignore[attr-defined]


def test_a_long_traceback_is_cut() -> None:
    """A function that calls itself without an end has a thousand frames."""

    def endless() -> None:
        once_more()

    def once_more() -> None:
        endless()

    lines = traceback_text(failed(endless)).splitlines()
    assert len(lines) <= MAX_TRACEBACK_LINES + 1
    assert any("are left out" in line for line in lines)


def test_errors_that_cause_each_other_end() -> None:
    """Python permits such a circle."""
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert traceback_text(one).count("Traceback") == 2


MESSAGES: tuple[tuple[str, str, tuple[object, ...], str], ...] = (
    ("tornado.general", "Malformed HTTP message from %s: %s", ("::1", CANARY), "Malformed HTTP"),
    ("tornado.general", f"Unsatisfiable read, closing connection: {CANARY}", (), "Unsatisfiable"),
    ("tornado.general", "Invalid cookie signature %r", (CANARY,), "Invalid cookie signature"),
    ("tornado.general", "%d %s: %s", (400, "GET /", CANARY), "a message of tornado.general"),
    ("tornado.application", "Uncaught exception %s\n%r", ("GET /", CANARY), "Uncaught exception"),
    ("tornado.access", "%d %s %.2fms", (200, f"/code?code={CANARY}", 1.0), "a message of"),
    ("tornado.curl_httpclient", "%s %s", (">", f"Authorization: {CANARY}"), "a message of"),
    ("tornado.curl_httpclient", f"Authorization: {CANARY}", (), "Authorization"),
    ("asyncio", f"Task was destroyed\ntask: <Task result='{CANARY}'>", (), "Task was destroyed"),
    ("asyncio", "Executing %s took %.3f seconds", (CANARY, 1.0), "Executing"),
    ("redis", f"Operation failed, with connection: {CANARY}", (), "Operation failed"),
)


@pytest.mark.parametrize(("name", "message", "arguments", "words"), MESSAGES)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
def test_the_loggers_of_libraries_keep_constant_words(
    caplog: pytest.LogCaptureFixture,
    expected_log: object,
    name: str,
    message: str,
    arguments: tuple[object, ...],
    words: str,
    level: int,
) -> None:
    """This holds for every handler, such as the one of the tests."""
    expected_log.perhaps(r".")  # type: ignore[attr-defined]
    hush_libraries()
    caplog.set_level(logging.DEBUG, name)
    error = failed(int, CANARY)
    logging.getLogger(name).log(level, message, *arguments, exc_info=error)
    [record] = caplog.records
    assert record.getMessage().startswith(words)
    assert "ValueError" in (record.exc_text or "")
    assert CANARY not in logging.Formatter().format(record)
    assert record.limited  # type: ignore[attr-defined]  # a client can cause any number of them


def test_loggers_below_that_of_redis_are_hushed_once_they_exist(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """redis-py makes a logger for each of its modules."""
    hush_libraries()
    logger = logging.getLogger("redis.asyncio.of_this_test")
    hush_libraries()
    caplog.set_level(logging.DEBUG, logger.name)
    logger.debug("sent: %s", CANARY)
    assert CANARY not in caplog.text
