"""Values that are read from files, and read again when a file has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xots.errors import SettingsError
from xots.reread import RETRY_SECONDS, LastGood, Reread
from xots.testing import FakeClock


class Number:
    """A number in a file, which can fail for a reason outside the file."""

    def __init__(self, path: Path) -> None:
        self.path, self.reads, self.fault = path, 0, False

    def __call__(self) -> int:
        self.reads += 1
        try:
            assert not self.fault
            return int(self.path.read_text())
        except (OSError, ValueError, AssertionError):
            raise SettingsError(["no number"]) from None


@pytest.fixture
def number(tmp_path: Path) -> Number:
    path = tmp_path / "number"
    path.write_text("1")
    return Number(path)


def test_a_file_is_read_again_once_it_has_changed(number: Number) -> None:
    """By its status: a file that stays is read once."""
    found = Reread([number.path], number)
    assert [found.value() for _ in range(3)] == [1, 1, 1]
    assert number.reads == 1
    number.path.write_text("23")
    assert found.value() == 23
    replaced = number.path.with_name("new")
    replaced.write_text("45")
    replaced.rename(number.path)
    assert found.value() == 45


@pytest.mark.safeguard(
    file="reread.py",
    old="if seen != self._seen or (is_failing and now - self._read_at >= RETRY_SECONDS):",
    new="if seen != self._seen:",
    protects_from="a server that refuses every request until a file is touched",
)
def test_a_fault_outside_the_file_ends_by_itself(number: Number, clock: FakeClock) -> None:
    """Such as the mode of the folder, or too many open files. It is looked at once a second."""
    found = Reread([number.path], number, clock.elapsed)
    number.path.write_text("23")
    number.fault = True
    for _ in range(5):
        with pytest.raises(SettingsError):
            found.value()
    assert number.reads == 2
    number.fault = False
    clock.advance(seconds=RETRY_SECONDS)
    assert found.value() == 23


@pytest.mark.safeguard(
    file="reread.py",
    old="        if irregular:  # a pipe would block the server",
    new="        if False:",
    protects_from="a server that stands still because a file is a pipe",
)
def test_a_pipe_in_place_of_the_file_is_not_opened(number: Number) -> None:
    """Nothing may ever be written to it."""
    found = Reread([number.path], number)
    number.path.unlink()
    os.mkfifo(number.path)
    with pytest.raises(SettingsError, match="is not a regular file"):
        found.value()
    assert number.reads == 1


def test_the_last_good_value_stays_and_each_fault_is_reported_once(number: Number) -> None:
    """Until it is another one."""
    reported: list[str] = []
    found = LastGood(Reread([number.path], number), reported.append)
    number.path.write_text("x")
    assert [found.value() for _ in range(3)] == [1, 1, 1]
    assert reported == ["no number"]
    number.path.write_text("23")
    assert found.value() == 23
    number.path.unlink()
    assert found.value() == 23
    assert reported == ["no number", "no number"]


@pytest.mark.safeguard(
    file="reread.py",
    old="        except OSError as error:  # such as a folder that this user may not search\n",
    new="        except FileExistsError as error:\n",
    protects_from="keys that stay valid while their folder can not be searched",
)
def test_a_file_in_a_folder_that_may_not_be_searched_can_not_be_read(
    number: Number, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last value is not that of now."""
    found = Reread([number.path], number)
    with monkeypatch.context() as patch:

        def forbidden(self: Path, **_: object) -> os.stat_result:
            raise PermissionError(13, "Permission denied", str(self))

        patch.setattr(Path, "stat", forbidden)
        for _ in range(2):
            with pytest.raises(SettingsError, match="can't be read"):
                found.value()
    assert found.value() == 1
