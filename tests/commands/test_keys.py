"""``xots key``, apart from a running server: tests/keeping rotates the keys of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import Ended

from xots.sealing import Sealer
from xots.secret import Secret

Xots = Callable[..., Ended]


def keys_in(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


@pytest.fixture
def key_file(xots: Xots, tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(xots("key", "new").out)
    path.chmod(0o600)
    return path


def test_new_prints_another_key_each_time(xots: Xots) -> None:
    """It prints one line, which a shell can write into a key file."""
    first, second = (xots("key", "new") for _ in range(2))
    assert (first.status, first.err, first.out.count("\n")) == (0, "", 1)
    assert first.out != second.out


def test_add_keeps_the_first_key_first_and_promote_puts_the_new_one_before_it(
    xots: Xots, key_file: Path
) -> None:
    """The added key opens only; promoted, it seals. A second promotion changes nothing."""
    [old] = keys_in(key_file)
    settings = ("--key-file", str(key_file), "--store", f"file://{key_file.parent}/store")
    added = xots("key", "add", *settings)
    assert (added.status, added.err) == (0, "")
    assert "xots key promote" in added.out
    assert keys_in(key_file)[0] == old
    [_, new] = keys_in(key_file)
    assert xots("key", "promote", *settings).out.startswith("0 of 0 records")
    assert keys_in(key_file) == [new, old]
    again = xots("key", "promote", *settings)
    assert (again.status, keys_in(key_file)) == (0, [new, old])
    assert f"no key in {key_file} waits" in again.out


def test_promote_names_each_record_that_it_cannot_open(xots: Xots, key_file: Path) -> None:
    """The others are sealed anew, and the status is 1: the old key is still needed."""
    store = key_file.parent / "store"
    store.mkdir(mode=0o700)
    sealer = Sealer([Secret(key) for key in keys_in(key_file)])
    (store / "smith.sealed").write_bytes(sealer.seal(b"{}", "account", {"name": "smith"}))
    for name in ("broken", "copied"):
        (store / f"{name}.sealed").write_bytes(sealer.seal(b"{}", "account", {"name": "other"}))
    for path in store.iterdir():
        path.chmod(0o600)
    settings = ("--key-file", str(key_file), "--store", f"file://{store}")
    assert xots("key", "add", *settings).status == 0
    ended = xots("key", "promote", *settings)
    assert (ended.status, ended.out) == (1, "")
    broken, copied, summary = ended.err.splitlines()
    assert broken.startswith("xots: broken: ")
    assert copied.startswith("xots: copied: ")
    assert "1 of 3 records were sealed anew; 2 records could not be" in summary
    (store / "broken.sealed").unlink()
    (store / "copied.sealed").unlink()
    assert xots("key", "promote", *settings).status == 0


def test_check_and_promote_name_each_record_that_no_account_can_have(
    xots: Xots, key_file: Path
) -> None:
    """They skip it and go on. It is no failure: another program may have written it."""
    folder = key_file.parent / "store"
    settings = ("--key-file", str(key_file), "--store", f"file://{folder}")
    xots("key", "promote", *settings)
    for name in ("UPPER", "two words\n"):
        (folder / f"{name}.sealed").write_bytes(b"foreign")
    promoted = xots("key", "promote", *settings)
    assert promoted.status == 0
    server = ("--token-url", "http://127.0.0.1:1/token", "--authorize-url", "http://127.0.0.1:1/")
    checked = xots("check", *settings, *server)
    for text in (promoted.out, checked.out):
        assert "UPPER.sealed" in text
        assert "two words\\n.sealed" in text


def test_a_second_key_is_not_added_before_the_first_is_promoted(xots: Xots, key_file: Path) -> None:
    """Both could not be promoted one after the other. The file stays as it is, and the status is
    2, because a retry does not help."""
    xots("key", "add", "--key-file", str(key_file))
    before = key_file.read_text()
    assert str(key_file) in xots("key", "add", "--key-file", str(key_file)).reason(status=2)
    assert key_file.read_text() == before


@pytest.mark.parametrize("action", ["add", "promote"])
def test_a_key_file_that_is_not_safe_or_not_there_is_refused(
    xots: Xots, key_file: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """The message names the place and the remedy, and the status is 2. A key that stands in the
    place of a path is not repeated."""
    monkeypatch.setenv("XOTS_STORE", f"file://{key_file.parent}/store")
    monkeypatch.setenv("XOTS_KEY_FILE", str(key_file))
    key_file.chmod(0o644)
    reason = xots("key", action).reason(status=2)
    assert reason.startswith("xots: XOTS_KEY_FILE: ")
    assert f"chmod 600 {key_file}" in reason
    [key] = keys_in(key_file)
    monkeypatch.setenv("XOTS_KEY_FILE", key)
    reason = xots("key", action).reason(status=2)
    assert reason.startswith("xots: XOTS_KEY_FILE: no such file")
    assert key not in reason


def test_add_refuses_to_change_a_file_while_the_keys_are_set(
    xots: Xots, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys in the environment take the place of a key file; the message names the variable."""
    monkeypatch.setenv("XOTS_KEY", keys_in(key_file)[0])
    assert "XOTS_KEY" in xots("key", "add").reason(status=2)
