"""``xots reader``, apart from a running server: tests/server/test_live_rules.py changes one's."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.command_line import XOTS, Ended

from xots.access import Scope, digest_of
from xots.reader_file import read_readers

Xots = Callable[..., Ended]

KEY = re.compile(r"xots_[A-Za-z0-9_-]{43}")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path to which the environment sets ``readers``. There is no file yet."""
    path = tmp_path / "readers-folder" / "readers"
    monkeypatch.setenv("XOTS_READERS", str(path))
    return path


def content(folder: Path) -> bytes:
    """Return all that the files below a folder hold, with their names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"\n".join(str(path).encode() + path.read_bytes() for path in files)


def test_add_prints_the_key_alone_and_once(xots: Xots, path: Path, tmp_path: Path) -> None:
    """The key is on stdout and nowhere else; the hint on stderr says how to use it."""
    added = xots("reader", "add", "report")
    assert added.status == 0
    assert KEY.fullmatch(added.out.removesuffix("\n"))
    key = added.out.strip()
    [hint] = added.err.splitlines()
    for words in (f"added report to {path}", "0600", "reader_key_file", "Bearer", "next request"):
        assert words in hint
    others = [xots("reader", *words) for words in (("list",), ("list", "--json"), ("add", "b"))]
    others.append(xots("reader", "remove", "report"))
    shown = "".join(ended.out + ended.err for ended in others) + added.err
    for part in (key, key[5:25]):
        assert part not in shown
        assert part.encode() not in content(tmp_path)


def test_an_added_reader_has_the_scope_token_and_every_account(xots: Xots, path: Path) -> None:
    """The file holds the digest of its key."""
    key = xots("reader", "add", "report").out.strip()
    [found] = read_readers(path).values()
    assert (found.name, found.scopes, found.accounts) == ("report", frozenset({Scope.TOKEN}), None)
    assert found.digest == digest_of(key)


def test_scopes_and_accounts_can_be_given_several_times(xots: Xots, path: Path) -> None:
    """The list shows them, in order; an account need not exist."""
    xots("reader", "add", "Owner", "--scope", "admin")
    ended = xots(
        *("reader", "add", "a.b", "--scope", "token", "--account", "smith"),
        *("--scope", "metrics", "--account", "miller-2", "--scope", "token"),
    )
    assert ended.status == 0
    listed = xots("reader", "list")
    assert (listed.status, listed.err) == (0, "")
    rows = [line.split() for line in listed.out.splitlines()]
    assert rows == [
        ["name", "scopes", "accounts"],
        ["Owner", "admin", "all"],
        ["a.b", "metrics,token", "miller-2,smith"],
    ]
    assert json.loads(xots("reader", "list", "--json").out) == [
        {"name": "Owner", "scopes": ["admin"], "accounts": None},
        {"name": "a.b", "scopes": ["metrics", "token"], "accounts": ["miller-2", "smith"]},
    ]


def test_a_second_reader_of_a_name_is_refused(xots: Xots, path: Path) -> None:
    """The message says how to change a key without a gap, and the first key stays."""
    xots("reader", "add", "report")
    before = path.read_text()
    reason = xots("reader", "add", "report").reason(status=2)
    assert "XOTS_READERS: a reader has this name already" in reason
    assert "add a second name" in reason
    assert path.read_text() == before


def test_remove_removes_one_reader(xots: Xots, path: Path) -> None:
    """The others stay. A name that is not there is an error."""
    for name in ("one", "two"):
        xots("reader", "add", name)
    removed = xots("reader", "remove", "one")
    assert (removed.status, removed.err) == (0, "")
    assert "removed one" in removed.out
    assert [found.name for found in read_readers(path).values()] == ["two"]
    assert "no reader has this name" in xots("reader", "remove", "one").reason(status=2)


def test_without_a_file_there_are_no_readers(xots: Xots, path: Path) -> None:
    """The list says so, and makes no file; a removal is an error."""
    listed = xots("reader", "list")
    assert (listed.status, listed.err) == (0, "")
    assert "there are no readers" in listed.out
    assert json.loads(xots("reader", "list", "--json").out) == []
    assert "no such file" in xots("reader", "remove", "report").reason(status=2)
    assert not path.parent.exists()


@pytest.mark.parametrize("action", [["list"], ["add", "report"], ["remove", "report"]])
def test_the_path_comes_from_each_source_of_settings(
    xots: Xots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: list[str]
) -> None:
    """An option wins over the environment, and this over the YAML file. Without a file, the message
    says where to name one."""
    config, folder = tmp_path / "xots.yaml", tmp_path / "folder"
    config.write_text(f"readers: {folder}/of-yaml\n")
    folder.mkdir(mode=0o700)
    for name in ("of-yaml", "of-environment", "of-option"):
        (folder / name).write_text(f"report token * sha256:{digest_of(name)}\n")
        (folder / name).chmod(0o622)
    for arguments, place in (
        (["--config", str(config)], f"{config}: readers"),
        (["--config", str(config)], "XOTS_READERS"),
        (["--config", str(config), "--readers", str(folder / "of-option")], "--readers"),
    ):
        name = {"XOTS_READERS": "of-environment", "--readers": "of-option"}.get(place, "of-yaml")
        if place == "XOTS_READERS":
            monkeypatch.setenv("XOTS_READERS", str(folder / "of-environment"))
        reason = xots("reader", *action, *arguments).reason(status=2)
        assert reason.startswith(f"xots: {place}: the file is not safe: {folder / name} ")
    monkeypatch.delenv("XOTS_READERS")
    for arguments in ([], ["--readers", "anyone"]):
        reason = xots("reader", *action, *arguments).reason(status=2)
        assert "--readers FILE" in reason
        assert "XOTS_READERS" in reason


@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "xots_hunter2"],
        ["remove", "xots_hunter2"],
        ["add", "hunter2:x"],
        ["add", "hunter2", "hunter2"],
        ["add", "report", "--scope", "hunter2"],
        ["add", "report", "--account", "Hunter2"],
        ["add", "report", "--account", "smith,hunter2"],
        ["add", "report", "--key=hunter2"],
        ["hunter2"],
        ["remove", "hunter2"],
    ],
)
def test_a_wrong_argument_is_not_repeated(xots: Xots, path: Path, arguments: list[str]) -> None:
    """It may be a key. The status is 2, and no reader is added."""
    xots("reader", "add", "first")
    ended = xots("reader", *arguments)
    assert (ended.status, ended.out) == (2, "")
    assert "hunter2" not in ended.err.lower()
    assert [found.name for found in read_readers(path).values()] == ["first"]


def test_a_key_that_can_not_be_printed_is_not_added(
    xots: Xots, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would know it. The message gives the reason; a closed pipe needs none."""
    with monkeypatch.context() as patch:
        # As Python sets it for "xots reader add closed >&-".
        patch.setattr("sys.stdout", None)
        assert "stdout is closed" in xots("reader", "add", "closed").reason(status=2)
        with suppress(OSError), Path("/dev/full").open("w") as full:
            patch.setattr("sys.stdout", full)
            reason = xots("reader", "add", "full").reason()
    assert "can't be printed: No space left on device" in reason
    with subprocess.Popen(
        [XOTS, "reader", "add", "pipe"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        command.stdout.close()
        assert command.stderr is not None
        assert command.stderr.read() == b""
    assert command.returncode == 1
    assert read_readers(path) == {}


def test_two_commands_at_once_lose_no_reader(path: Path) -> None:
    """Each is in the file, with the key that its command printed."""
    commands = [
        subprocess.Popen(
            [XOTS, "reader", "add", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in ("one", "two")
    ]
    keys = [command.communicate(timeout=30)[0].strip() for command in commands]
    found = read_readers(path)
    assert [found[digest_of(key)].name for key in keys] == ["one", "two"]


def test_the_command_reads_no_other_setting(
    xots: Xots, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that is wrong, or a file that only the service can read, does not stop it."""
    monkeypatch.setenv("XOTS_PORT", "http")
    monkeypatch.setenv("XOTS_CLIENT_SECRET_FILE", "/nonexistent")
    assert xots("reader", "add", "report").status == 0


# ---------- the key in a file


def test_a_key_is_written_to_a_new_file_of_mode_0600(
    xots: Xots, path: Path, tmp_path: Path
) -> None:
    """It is not printed. The reader's own line has its digest."""
    output = tmp_path / "report.key"
    ended = xots("reader", "add", "report", "--output", str(output))
    assert (ended.status, ended.out) == (0, "")
    assert output.stat().st_mode & 0o777 == 0o600
    key = output.read_text().strip()
    assert read_readers(path)[digest_of(key)].name == "report"
    assert key not in ended.err


def test_a_file_with_a_key_is_not_replaced(xots: Xots, path: Path, tmp_path: Path) -> None:
    """It may hold the only copy. No reader is added."""
    output = tmp_path / "report.key"
    output.write_text("precious")
    ended = xots("reader", "add", "report", "--output", str(output))
    assert ended.reason() == (
        f"xots: the key can't be written to {output}: File exists. The reader was removed again"
    )
    assert output.read_text() == "precious"
    assert read_readers(path) == {}
