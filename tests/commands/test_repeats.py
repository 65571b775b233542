"""Repeated lines of the log: the first ones are written, the others are counted."""

from __future__ import annotations

import logging

import pytest

from xots.commands.repeats import MAX_KINDS, MAX_LINES, WINDOW_SECONDS, Repeats


def record(
    message: str = "refused: %s", level: int = logging.WARNING, at: float = 0.0, kind: str = ""
) -> logging.LogRecord:
    arguments = ("a\nb",) if "%s" in message else ()
    made = logging.LogRecord("xots.web", level, "file.py", 1, message, arguments, None)
    made.created, made.kind = at, kind
    return made


def lines(repeats: Repeats, *records: logging.LogRecord) -> list[str]:
    """Return the messages that are written for these records."""
    return [one.getMessage() for each in records for one in repeats.admitted(each)]


@pytest.mark.safeguard(
    file="commands/repeats.py",
    old="return due if window.left_out > 0 else [*due, record]",
    new="return [*due, record]",
    protects_from="a disk that a flood of refused requests fills",
)
def test_more_lines_than_permitted_are_counted_in_one() -> None:
    """The count follows with the first record after the window, and quotes the first line."""
    repeats = Repeats()
    flood = [record(at=number / 100) for number in range(1000)]
    assert lines(repeats, *flood) == ["refused: a\nb"] * MAX_LINES
    after = record("quiet", logging.INFO, at=WINDOW_SECONDS)
    count, own = repeats.admitted(after)
    assert own is after
    assert (count.name, count.levelno) == ("xots.web", logging.WARNING)
    assert count.getMessage() == (
        r"980 more lines like this one were counted in 60 seconds: refused: a\nb"
    )
    assert lines(repeats, record("quiet", logging.INFO, at=WINDOW_SECONDS)) == ["quiet"]


def test_a_few_lines_are_all_written_without_a_count() -> None:
    """An outage with its retries is told in full."""
    repeats = Repeats()
    assert len(lines(repeats, *[record() for _ in range(MAX_LINES)])) == MAX_LINES
    assert lines(repeats, record("quiet", logging.INFO, at=100)) == ["quiet"]


def test_lines_below_warning_are_not_limited() -> None:
    """Each request has its line."""
    repeats = Repeats()
    assert len(lines(repeats, *[record(level=logging.INFO) for _ in range(500)])) == 500


def test_lines_that_say_so_are_limited_at_every_level() -> None:
    """A program that polls before a login is refused at INFO."""
    repeats, records = Repeats(), [record(level=logging.INFO) for _ in range(500)]
    for one in records:
        one.limited = True
    assert len(lines(repeats, *records)) == MAX_LINES


def test_kinds_are_limited_apart() -> None:
    """A flood of one kind hides no other: message, level, logger and kind tell them apart."""
    repeats = Repeats()
    for _ in range(100):
        repeats.admitted(record())
    others = [record("other: %s"), record(level=logging.ERROR), record(kind="RefreshFailed")]
    assert len(lines(repeats, *others)) == 3


def test_a_new_window_begins_after_the_old_one() -> None:
    """A flood that goes on is shown again, each minute."""
    repeats = Repeats()
    for _ in range(100):
        repeats.admitted(record())
    assert len(lines(repeats, record(at=WINDOW_SECONDS))) == 2


def test_a_clock_that_was_set_back_ends_a_window() -> None:
    """Otherwise it would hide lines for as long as the step."""
    repeats = Repeats()
    for _ in range(100):
        repeats.admitted(record(at=86400))
    assert len(lines(repeats, record(at=0))) == 2


def test_the_counts_that_are_left_are_written_at_the_end() -> None:
    """A server that stops tells them."""
    repeats = Repeats()
    for _ in range(100):
        repeats.admitted(record())
    assert [one.getMessage()[:7] for one in repeats.counts()] == ["80 more"]
    assert repeats.counts() == []


def test_the_memory_is_bounded() -> None:
    """A library may put data into its templates. No count is lost."""
    repeats = Repeats()
    for _ in range(100):
        repeats.admitted(record())
    written = lines(repeats, *[record(f"message {number}: %s") for number in range(MAX_KINDS * 2)])
    assert len(repeats._windows) <= MAX_KINDS
    assert len([line for line in written if line.startswith("80 more")]) == 1
