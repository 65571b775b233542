"""Key files: their format, and a write that is complete or does nothing."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.other_user import needs_root
from support.store_programs import OTHER_USER

from xots.errors import SealError
from xots.key_file import KeyRing, read_key_file, write_key_file
from xots.secret import Secret

ONE, TWO, THREE = (Secret(f"hunter2-{name}") for name in ("one", "two", "three"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a key file, in a folder that does not exist yet."""
    return tmp_path / "xots" / "key"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a key file as an operator does."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode("latin-1"))
    path.chmod(mode)


@pytest.mark.parametrize("ring", [KeyRing((ONE,)), KeyRing((ONE, TWO)), KeyRing((ONE, TWO), THREE)])
def test_a_key_file_is_read_as_it_was_written(path: Path, ring: KeyRing) -> None:
    """The order stays, and so does the key that waits to be promoted."""
    write_key_file(path, ring)
    assert read_key_file(path) == ring


def test_the_keys_are_in_order_with_the_waiting_one_last() -> None:
    """The first key seals, and a waiting key must not."""
    assert KeyRing((ONE, TWO), THREE).keys == (ONE, TWO, THREE)
    assert KeyRing((ONE, TWO)).keys == (ONE, TWO)


def test_an_operator_can_write_a_key_file(path: Path) -> None:
    """Comments, empty lines, spaces and the line ends of Windows do not count."""
    write(path, f"# keys\r\n\r\n  {ONE.reveal()} \r\n#{TWO.reveal()}\r\n{THREE.reveal()}")
    assert read_key_file(path) == KeyRing((ONE, THREE))


def test_a_key_file_is_for_its_owner_only(path: Path) -> None:
    """This holds for its folder too, if xots creates it."""
    write_key_file(path, KeyRing((ONE,)))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_file_that_is_open_to_others_is_refused(path: Path, mode: int) -> None:
    """The message says how to close it."""
    write(path, ONE.reveal(), mode)
    with pytest.raises(SealError, match=f"{path} is open to other users .*chmod 600 {path}"):
        read_key_file(path)


def test_a_credential_of_systemd_may_be_open_to_its_group(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credentials directory protects it."""
    write(path, ONE.reveal(), 0o440)
    path.parent.chmod(0o550)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert read_key_file(path).keys == (ONE,)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent / "other"))
    with pytest.raises(SealError):
        read_key_file(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no key"),
        ("# nothing yet\n", "holds no key"),
        (f"{ONE.reveal()}\xff", "not ASCII"),
    ],
)
def test_a_key_file_without_keys_is_refused(path: Path, text: str, says: str) -> None:
    """The message names the file, and does not show its content."""
    write(path, text)
    with pytest.raises(SealError, match=says) as caught:
        read_key_file(path)
    assert str(path) in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ONE.reveal(), "no such file"),
        (f"/no/such/{ONE.reveal()}", "no such file"),
        (ONE.reveal() * 99, "too long"),
        (f"{ONE.reveal()}\0", "not the path of a file"),
        (f"/etc/passwd/{ONE.reveal()}", "Not a directory"),
    ],
)
def test_a_path_that_can_not_be_opened_is_not_repeated(text: str, says: str) -> None:
    """It may be a key, in the wrong setting. The message names the place where it was set."""
    with pytest.raises(SealError, match=f"^XOTS_KEY_FILE: .*{says}") as caught:
        read_key_file(Path(text), "XOTS_KEY_FILE")
    assert "hunter2" not in str(caught.value)


@pytest.mark.safeguard(
    file="key_file.py",
    old="""        if problems:
            raise""",
    new="""        if False:
            raise""",
    protects_from="a new key that another user replaces",
)
@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
def test_a_key_is_not_read_or_written_where_others_can_replace_it(path: Path, mode: int) -> None:
    """This holds for the folder of a link too, and a refused write leaves nothing behind."""
    write(path, ONE.reveal())
    links = path.parent.with_name("links")
    links.mkdir()
    (links / "key").symlink_to(path)
    for folder, name in ((path.parent, path), (links, links / "key")):
        folder.chmod(mode)
        with pytest.raises(SealError, match=f"{folder} is open to other users"):
            read_key_file(name)
        for target in (name, folder / "new"):
            with pytest.raises(SealError, match=f"{folder} is open to other users"):
                write_key_file(target, KeyRing((TWO,)))
        folder.chmod(0o700)
        assert len(list(folder.iterdir())) == 1
    assert read_key_file(path).keys == (ONE,)


@needs_root
def test_a_key_file_of_another_user_is_not_read(path: Path) -> None:
    """That user could replace the keys at any time."""
    write(path, ONE.reveal())
    os.chown(path, OTHER_USER, OTHER_USER)
    with pytest.raises(SealError, match=f"belongs to user {OTHER_USER}.* chown 0 {path}"):
        read_key_file(path)


@pytest.mark.safeguard(
    file="file_access.py",
    old="file.read(max_bytes + 1)",
    new="file.read()",
    protects_from="a start that fills the memory",
)
def test_a_large_key_file_is_refused_before_it_is_read(path: Path) -> None:
    """The message gives the bound. The file takes no space: reading all of it would fail."""
    write(path, ONE.reveal())
    os.truncate(path, 1 << 43)
    with pytest.raises(SealError, match=r"^here: .*: it is larger than 64 KiB$"):
        read_key_file(path, "here")
    os.truncate(path, 0)
    write(path, "#" * (64 * 1024 - 99) + f"\n{ONE.reveal()}\n")
    assert read_key_file(path).keys == (ONE,)


def test_an_unsafe_key_file_is_not_read(path: Path) -> None:
    """It is refused by its status: its size does not show."""
    write(path, ONE.reveal(), 0o644)
    os.truncate(path, 1 << 43)
    with pytest.raises(SealError, match=f"{path} is open to other users"):
        read_key_file(path)


@pytest.mark.parametrize("size", [1, 5000])
def test_a_key_can_come_through_a_pipe(size: int) -> None:
    """The shell's process substitution gives the path of one, and so does /dev/stdin. Its writer
    may pause."""
    reader, writer = os.pipe()

    def feed() -> None:
        with os.fdopen(writer, "wb", buffering=0) as file:
            for _ in range(3):
                file.write(b"#" * size + b"\n")
            file.write(ONE.reveal().encode())

    with os.fdopen(reader), ThreadPoolExecutor(1) as pool:
        pool.submit(feed)
        assert read_key_file(Path(f"/dev/fd/{reader}")).keys == (ONE,)


def test_a_new_key_file_replaces_none(path: Path) -> None:
    """Of two processes that generate a key at the same time, one succeeds."""
    write_key_file(path, KeyRing((ONE,)), new=True)
    with pytest.raises(SealError, match="File exists"):
        write_key_file(path, KeyRing((TWO,)), new=True)
    assert read_key_file(path).keys == (ONE,)
    assert list(path.parent.iterdir()) == [path]


def test_a_symbolic_link_to_a_key_file_stays(path: Path, tmp_path: Path) -> None:
    """The file that the link names is written."""
    write_key_file(path, KeyRing((ONE,)))
    link = tmp_path / "link"
    link.symlink_to(path)
    write_key_file(link, KeyRing((TWO,)))
    assert link.is_symlink()
    assert read_key_file(path).keys == (TWO,)


def test_a_key_file_of_another_user_is_not_replaced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file would belong to this user, and the owner could not read it."""
    write_key_file(path, KeyRing((ONE,)))
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(SealError, match="belongs to user"):
        write_key_file(path, KeyRing((TWO,)))
    assert read_key_file(path).keys == (ONE,)


def test_a_write_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft is removed."""
    write_key_file(path, KeyRing((ONE,)))

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(SealError, match="can't be written: No space left"):
        write_key_file(path, KeyRing((TWO,)))
    assert read_key_file(path).keys == (ONE,)
    assert list(path.parent.iterdir()) == [path]


def test_a_key_file_below_a_file_can_not_be_written(path: Path) -> None:
    """The message gives the reason of the system."""
    write(path, ONE.reveal())
    with pytest.raises(SealError, match=r"can't be written: (Not a directory|File exists)"):
        write_key_file(path / "key", KeyRing((TWO,)))
