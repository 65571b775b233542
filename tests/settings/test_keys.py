"""The store's URL and its sealing keys: which of them a start uses, and how keys change."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.store_programs import AM_ROOT

from xots import keys
from xots.backends.file import FileStore
from xots.backends.memory import MemoryStore
from xots.errors import SealError
from xots.key_file import KeyRing, read_key_file, write_key_file
from xots.keys import add_key, default_key_file, promote_key, sealer_for, store_url
from xots.sealing import Sealer, new_key
from xots.settings import Settings

CONTEXT = {"name": "default"}


def opens(sealer: Sealer, sealed: bytes) -> bool:
    """Tell if a sealer has the key of a sealed text."""
    try:
        return sealer.open(sealed, "account", CONTEXT) == b"{}"
    except SealError:
        return False


def sealed_by(sealer: Sealer) -> bytes:
    """Return a text that a sealer has sealed."""
    return sealer.seal(b"{}", "account", CONTEXT)


def is_there(key_file: Path) -> bool:
    return key_file.exists()


def remove(key_file: Path) -> None:
    """Remove a key file, as an operator may do by mistake."""
    key_file.unlink()


class SharedStore(MemoryStore):
    """Claims what Redis can: other hosts share it, and it survives a restart."""

    shared = True
    durable = True


@pytest.fixture
def file_store(tmp_path: Path) -> FileStore:
    """Return an empty store that may generate its key."""
    return FileStore.from_url((tmp_path / "state").as_uri())


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Return a key file with one key."""
    write_key_file(tmp_path / "key", KeyRing((new_key(),)))
    return tmp_path / "key"


# ---------- the store's URL


def test_a_store_that_is_set_is_used() -> None:
    """The environment does not change it."""
    settings = Settings(store="memory:")
    assert store_url(settings, {"STATE_DIRECTORY": "/var/lib/xots"}) == "memory:"


def test_a_service_keeps_its_logins_in_the_state_directory() -> None:
    """systemd separates several state directories by colons. The first one counts."""
    environment = {"STATE_DIRECTORY": "/var/lib/xots:/var/lib/other"}
    assert store_url(Settings(), environment) == "file:///var/lib/xots"


def test_a_user_keeps_logins_and_key_in_different_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the store's folder does not hold the key."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert store_url(Settings(), {}) == (tmp_path / "state" / "xots").as_uri()
    assert default_key_file() == tmp_path / "config" / "xots" / "key"


WITHOUT_HOME = """
import os, sys
import platformdirs, xots.commands.keys, xots.server, xots.wiring
from xots.commands.main import main
os.setgroups([])
os.setresuid(54321, 54321, 54321)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not AM_ROOT, reason="only root can become a user without a home folder")
@pytest.mark.parametrize("arguments", [["serve", "-p", "0"], ["key", "add"], ["revoke"]])
def test_a_user_without_a_home_is_told_which_settings_to_set(arguments: list[str]) -> None:
    """The exit status is 2, which no restart corrects."""
    unset = ("HOME", "STATE_DIRECTORY", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
    environment = {name: text for name, text in os.environ.items() if name not in unset}
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_HOME, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=environment,
    )
    [line] = ended.stderr.splitlines()
    assert line.startswith("xots: user 54321 has no home folder")
    assert line.endswith("set store and key_file, or HOME")
    assert ended.returncode == 2


# ---------- the sealer of a store


async def test_the_keys_of_the_settings_come_first(file_store: FileStore) -> None:
    """No key file is generated."""
    key = new_key()
    sealer = await sealer_for(file_store, Settings(key=(key,)))
    assert opens(Sealer([key]), sealed_by(sealer))
    assert not is_there(default_key_file())


async def test_a_key_file_that_is_set_is_used(file_store: FileStore, key_file: Path) -> None:
    """It must exist: no key is generated in its place."""
    sealer = await sealer_for(file_store, Settings(key_file=key_file))
    assert opens(Sealer(read_key_file(key_file).keys), sealed_by(sealer))
    remove(key_file)
    settings = Settings(key_file=key_file, sources={"key_file": "XOTS_KEY_FILE"})
    with pytest.raises(SealError, match=r"^XOTS_KEY_FILE: no such file"):
        await sealer_for(file_store, settings)
    assert not is_there(key_file)
    assert not is_there(default_key_file())


async def test_a_store_in_memory_has_a_key_of_the_process() -> None:
    """The key is lost with the store, and another start has another key."""
    one, two = [await sealer_for(MemoryStore(), Settings()) for _ in range(2)]
    assert not opens(two, sealed_by(one))
    assert not is_there(default_key_file())


async def test_a_shared_store_needs_a_key_in_the_settings() -> None:
    """Two hosts must not generate a key each; the message says how to make one."""
    with pytest.raises(SealError, match=r"xots key new > FILE.*key_file"):
        await sealer_for(SharedStore(), Settings())
    assert not is_there(default_key_file())


async def test_an_empty_file_store_generates_its_key_once(
    file_store: FileStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the file, and does not show the key."""
    with caplog.at_level(logging.INFO, "xots.keys"):
        sealer = await sealer_for(file_store, Settings())
    assert str(default_key_file()) in caplog.text
    [key] = read_key_file(default_key_file()).keys
    assert key.reveal() not in caplog.text
    assert opens(await sealer_for(file_store, Settings()), sealed_by(sealer))


async def test_no_key_is_generated_for_sealed_logins(file_store: FileStore) -> None:
    """Their key is missing: the message names the file to put back, and the logins."""
    await file_store.swap("default", b"sealed", expected=None)
    with pytest.raises(SealError, match="default.*" + str(default_key_file())):
        await sealer_for(file_store, Settings())
    assert not is_there(default_key_file())


async def test_no_key_is_generated_where_nothing_may_be_written(file_store: FileStore) -> None:
    """A check looks at an empty store, which no key needs to open."""
    await sealer_for(file_store, Settings(), make=False)
    assert not is_there(default_key_file())


async def test_the_key_that_another_process_generated_meanwhile_is_used(tmp_path: Path) -> None:
    """Both processes of a first start seal with the same key."""
    other = KeyRing((new_key(),))

    class Raced(FileStore):
        async def names(self) -> list[str]:
            write_key_file(default_key_file(), other, new=True)
            return []

    sealer = await sealer_for(Raced.from_url(tmp_path.as_uri()), Settings())
    assert opens(Sealer(other.keys), sealed_by(sealer))


async def test_a_key_file_that_can_not_be_written_is_an_error(
    file_store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login must not be sealed with a key that is lost at the next start."""
    (tmp_path / "config").write_text("a file in the place of a folder")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with pytest.raises(SealError, match="can't be written"):
        await sealer_for(file_store, Settings())


# ---------- changes of a key file


async def test_an_added_key_opens_and_a_promoted_key_seals(
    file_store: FileStore, key_file: Path
) -> None:
    """A sealer that is in use reads the file again: no restart is needed."""
    old = Sealer(read_key_file(key_file).keys)
    sealer = await sealer_for(file_store, Settings(key_file=key_file))
    add_key(key_file)
    added = read_key_file(key_file).waiting
    assert added is not None
    assert opens(old, sealed_by(sealer))
    assert promote_key(key_file)
    assert opens(Sealer([added]), sealed_by(sealer))
    assert opens(sealer, sealed_by(old))


async def test_a_file_that_has_not_changed_is_not_read_again(
    file_store: FileStore, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checks look at every mount of the system, and each refresh seals two records."""
    reads: list[Path] = []

    def read(path: Path, place: str) -> KeyRing:
        reads.append(path)
        return read_key_file(path, place)

    monkeypatch.setattr(keys, "read_key_file", read)
    sealer = await sealer_for(file_store, Settings(key_file=key_file))
    for _ in range(3):
        sealed_by(sealer)
    assert reads == [key_file]


def test_only_one_key_can_wait(key_file: Path) -> None:
    """The message says how to go on."""
    add_key(key_file)
    before = key_file.read_text()
    with pytest.raises(SealError, match="xots key promote"):
        add_key(key_file)
    assert key_file.read_text() == before


def test_a_promotion_without_a_waiting_key_changes_nothing(key_file: Path) -> None:
    """So the command can be repeated."""
    before = key_file.read_text()
    assert not promote_key(key_file)
    assert key_file.read_text() == before


async def test_the_known_keys_stay_while_the_file_can_not_be_read(
    file_store: FileStore, key_file: Path, expected_log: Any
) -> None:
    """A warning says so. A running server goes on."""
    expected_log(r"WARNING xots\.keys: .*the known ones stay")
    sealer = await sealer_for(file_store, Settings(key_file=key_file))
    before = sealed_by(sealer)
    remove(key_file)
    assert opens(sealer, before)
    assert opens(sealer, sealed_by(sealer))
