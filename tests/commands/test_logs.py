"""The log's lines: one a record, visible, bounded and without secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import timeit

import pytest

from xots.commands.logs import LogHandler
from xots.secret import Secret

HOSTILE = "a\n2026-11-27 10:00:00.000 UTC INFO xots: forged\r\x1b[2J\x9b31m\u202e\u2028\ud800\0"
BEGINNING = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC [A-Z]+ [\w.-]+: ")


class Log:
    """A logger of its own, and the text that its handler wrote."""

    def __init__(self, line_format: str) -> None:
        self.stream = io.StringIO()
        self.handler = LogHandler(self.stream, line_format)
        self.logger = logging.Logger("of-this.test", logging.DEBUG)
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().split("\n")[:-1]


def raised(text: str) -> AttributeError:
    """Return an exception with frames, of a type whose text is shown."""

    def fail() -> None:
        raise AttributeError(text)

    try:
        fail()
    except AttributeError as error:
        return error
    raise AssertionError


@pytest.fixture(params=["text", "json"])
def log(request: pytest.FixtureRequest) -> Log:
    """Return a log in each format."""
    return Log(request.param)


@pytest.fixture
def text_log() -> Log:
    return Log("text")


@pytest.mark.safeguard(
    file="commands/logs.py",
    old="return safe_text(record.getMessage(), MAX_MESSAGE)",
    new="return record.getMessage()",
    protects_from="a forged line of the log, and control characters on a terminal",
)
def test_a_message_is_one_visible_line(log: Log) -> None:
    """A newline forges no line, and no other character drives a terminal."""
    log.logger.info("path: %s", HOSTILE)
    [line] = log.lines
    assert line.isprintable()
    assert r"forged\r\x1b[2J\x9b31m\u202e\u2028\ud800\x00" in line.replace(r"\\", "\\")


def test_a_message_is_cut(log: Log) -> None:
    """Requests are cut before; this is the bound on all others."""
    log.logger.info("%s", "x" * 100_000)
    assert len(log.lines[0]) < 4200


def test_the_lines_of_an_exception_are_indented(text_log: Log) -> None:
    """None of them begins like a line of the log, whatever the exception's text is."""

    text_log.logger.error("failed", exc_info=raised(HOSTILE))
    first, *others = text_log.lines
    assert BEGINNING.match(first)
    assert len(others) > 2
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_an_exception_in_json_is_a_field() -> None:
    """It is a string whose lines are visible."""
    json_log = Log("json")
    json_log.logger.error("failed", exc_info=raised(HOSTILE))
    [line] = json_log.lines
    content = json.loads(line)
    assert content["message"] == "failed"
    assert content["exception"].splitlines()[-1].startswith(r"AttributeError: a\n2026")
    assert all(part.isprintable() for part in content["exception"].split("\n"))


@pytest.mark.safeguard(
    file="safe_text.py",
    old='shown = redacted(READER_KEY.sub("xots_***", given) if "xots_" in given else given, limit)',
    new="shown = given",
    protects_from="a secret in the log that a library or a mistake quotes",
)
def test_a_live_secret_is_not_logged(log: Log) -> None:
    """Neither in a message nor in an exception, not even at the place where a message is cut."""
    secret = Secret("hunter2-canary")
    log.logger.info("token=%s", secret.reveal())
    log.logger.info("%s", "x" * 3990 + secret.reveal())
    log.logger.error("failed", exc_info=raised(secret.reveal()))
    record = log.logger.makeRecord("x", logging.INFO, "f", 1, "m", (), None)
    record.exc_text = f"ValueError: {secret.reveal()}"
    log.handler.handle(record)
    assert "hunter2" not in log.stream.getvalue()
    assert log.stream.getvalue().count("[secret]") >= 3


def test_a_record_that_cannot_be_formatted_is_named_only(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's own handler prints the arguments, which may be secrets."""
    log.logger.info("%d", "hunter2-canary")
    err = capsys.readouterr().err
    assert "of-this.test" in err
    assert "hunter2" not in err + log.stream.getvalue()


def test_the_counts_are_written_when_the_log_is_closed(text_log: Log) -> None:
    """A server that stops after a flood tells how long it was."""
    for _ in range(100):
        text_log.logger.warning("refused")
    assert len(text_log.lines) == 20
    text_log.handler.close()
    assert "WARNING of-this.test: 80 more lines like this one" in text_log.lines[-1]


def test_a_line_is_cheap(text_log: Log) -> None:
    """Each request logs one. It takes less than a fifth of a millisecond, with many secrets."""
    secrets = [Secret(f"token-number-{number}") for number in range(1000)]

    def line() -> None:
        text_log.logger.info("%d %s %s %.0fms", 200, "GET /token", "127.0.0.1", 1.5)

    line()
    assert min(timeit.repeat(line, number=100, repeat=5)) / 100 < 0.0002
    del secrets
