"""The file of readers: its format, and a change that is complete or does nothing."""

from __future__ import annotations

import os
import signal
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.other_user import OTHER_UID, become, needs_root
from support.readers import line_of, reader
from support.store_programs import RUN_TIMEOUT_SECONDS

from xots import file_writing
from xots.access import Scope, digest_of
from xots.errors import SettingsError
from xots.reader_file import add_reader, parsed, read_readers, remove_reader

ONE, TWO = (f"sha256:{digest_of(key)}" for key in ("hunter2-one", "hunter2-two"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file of readers, in a folder that does not exist yet."""
    return tmp_path / "xots" / "readers"


def lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def write(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Write a file of readers as an operator does."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


# ---------- the format


def test_each_line_is_a_reader() -> None:
    """Comments, empty lines, tabs, further spaces and the line ends of Windows do not count."""
    text = (
        "# name scopes accounts digest\r\n\r\n"
        f"  report\ttoken,metrics   firm,smith {ONE} \r\n"
        f"#old admin * {ONE}\n \t\n"
        f"Owner.2_x-y admin * {TWO}"
    )
    first, second = parsed(text).values()
    assert (first.name, second.name) == ("report", "Owner.2_x-y")
    assert first.scopes == {Scope.TOKEN, Scope.METRICS}
    assert first.accounts == frozenset({"firm", "smith"})
    assert (second.scopes, second.accounts) == (frozenset({Scope.ADMIN}), None)
    assert list(parsed(text)) == [ONE.removeprefix("sha256:"), TWO.removeprefix("sha256:")]


def test_an_empty_text_has_no_readers() -> None:
    """A server with such a file accepts no key."""
    assert parsed("") == parsed("# nobody\n\n") == {}


@pytest.mark.parametrize(
    "line",
    [
        "report",
        "report token *",
        f"report token * {ONE} more",
        f"report token {ONE}",
        f"report token, * {ONE}",
        f"report all * {ONE}",
        f"report Token * {ONE}",
        f"report token UPPER {ONE}",
        f"report token smith, {ONE}",
        f"report token *,smith {ONE}",
        f"report token lease-x {ONE}",
        f"report token * {ONE.removeprefix('sha256:')}",
        f"report token * {ONE.upper()}",
        f"report token * {ONE[:-1]}",
        f"report token * {ONE}0",
        f"report token * md5:{ONE[7:]}",
        f"uid:0 token * {ONE}",
        f"xots_report token * {ONE}",
        f"{'a' * 65} token * {ONE}",
        f"b\xfcro token * {ONE}",
        f"rep\0ort token * {ONE}",
        f"report\0 token * {ONE}",
        f"report token * {ONE}\0",
        f"\ufeffreport token * {ONE}",
        f"report=token * {ONE}",
    ],
)
def test_a_malformed_line_is_refused_by_its_number(line: str) -> None:
    """The message does not quote it: a key may stand there by mistake."""
    with pytest.raises(ValueError, match=r"^line 3: this is no reader") as caught:
        parsed(f"# readers\n\n{line}\nnext token * {TWO}\n")
    assert not set(line.split()) & set(str(caught.value).split())


@pytest.mark.parametrize("second", [f"report admin * {TWO}", f"other token * {ONE}"])
def test_a_name_or_a_key_that_stands_twice_is_refused(second: str) -> None:
    """The number is that of the second line."""
    with pytest.raises(ValueError, match=r"^line 2: "):
        parsed(f"report token * {ONE}\n{second}\n")


# ---------- reading


def test_other_users_may_read_the_file(path: Path) -> None:
    """It holds no key."""
    write(path, f"report token * {ONE}\n", 0o644)
    assert [one.name for one in read_readers(path).values()] == ["report"]


@pytest.mark.safeguard(
    file="reader_file.py",
    old="    if problems:\n        raise _unsafe(place, problems)",
    new="    if problems:\n        print(place)",
    protects_from="a key that another user gives to itself",
)
@pytest.mark.parametrize(("of_file", "of_folder"), [(0o664, 0o700), (0o646, 0o700), (0o600, 0o777)])
def test_a_file_that_others_can_change_is_refused(path: Path, of_file: int, of_folder: int) -> None:
    """It is neither read nor changed, and the message says how to correct it."""
    write(path, f"report token * {ONE}\n", of_file)
    path.parent.chmod(of_folder)
    with pytest.raises(SettingsError, match=r"^here: the file is not safe: .*: chmod "):
        read_readers(path, "here")
    with pytest.raises(SettingsError, match=r"^here: the file is not safe: .*: chmod "):
        add_reader(path, reader("new"), "here")
    assert path.read_text() == f"report token * {ONE}\n"


@needs_root
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    """That user could change it at any time."""
    write(path, f"report token * {ONE}\n", 0o644)
    os.chown(path, OTHER_UID, OTHER_UID)
    with pytest.raises(SettingsError, match=f"belongs to user {OTHER_UID}"):
        read_readers(path)


def test_a_file_that_is_not_text_is_refused(path: Path) -> None:
    """The message names the file."""
    write(path, b"# \xff\n")
    with pytest.raises(SettingsError, match=f"^here: {path}: it is not UTF-8 text$"):
        read_readers(path, "here")


def test_a_large_file_is_refused_before_it_is_read(path: Path) -> None:
    """The bound is 1 MiB. The file takes no space: reading all of it would fail."""
    write(path, "")
    os.truncate(path, 1 << 43)
    with pytest.raises(SettingsError, match=r"^here: .*: it is larger than 1024 KiB$"):
        read_readers(path, "here")
    line = f"report token * {ONE}\n"
    write(path, "#" * ((1 << 20) - len(line) - 1) + f"\n{line}")
    assert path.stat().st_size == 1 << 20
    assert len(read_readers(path)) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("xots_hunter2", "no such file"),
        ("/etc/passwd/xots_hunter2", "Not a directory"),
        ("xots_hunter2" * 99, "too long"),
    ],
)
def test_a_path_that_can_not_be_opened_is_not_repeated(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a key, in the wrong setting."""
    monkeypatch.chdir(tmp_path)  # the lock of a file that is missing stays behind
    with pytest.raises(SettingsError, match=f"^X: .*{says}") as read:
        read_readers(Path(text), "X")
    with pytest.raises(SettingsError, match=f"^X: .*{says}") as changed:
        remove_reader(Path(text), "report", "X")
    assert "hunter2" not in f"{read.value} {changed.value}"


def test_a_null_character_is_no_path() -> None:
    """It is refused like any other wrong path."""
    with pytest.raises(SettingsError, match=r"^X: "):
        read_readers(Path("a\0b"), "X")
    with pytest.raises(SettingsError, match=r"^X: this is not the path of a file"):
        add_reader(Path("a\0b"), reader("new"), "X")


# ---------- changing


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "{new}"),
        ("# a comment", "# a comment\n{new}"),
        (
            f"\r\nreport\ttoken * {ONE}  \r\n\n# end\n",
            f"\r\nreport\ttoken * {ONE}  \r\n\n# end\n{{new}}",
        ),
    ],
)
def test_an_added_line_changes_no_other_one(path: Path, before: str, after: str) -> None:
    """Comments, empty lines and line ends stay. Once removed, the file is as it was, apart from the
    end of its last line."""
    write(path, before)
    add_reader(path, reader("new", Scope.METRICS, Scope.TOKEN, accounts=frozenset({"b", "a"})))
    line = line_of("new", "metrics,token", "a,b")
    assert path.read_bytes().decode() == after.format(new=line)
    remove_reader(path, "new")
    assert path.read_bytes().decode() == after.format(new="")


WORDS = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64).filter(
    lambda name: not name.startswith("xots_")
)
LINES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda text: f"#{text}")


@settings(max_examples=25)
@given(
    names=st.lists(WORDS, unique=True, max_size=4),
    comments=st.lists(LINES, min_size=5, max_size=5),
    new=WORDS,
)
def test_a_file_that_was_changed_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], comments: list[str], new: str
) -> None:
    """The readers are those before, with the new one at the end, whatever the comments hold."""
    path = tmp_path_factory.getbasetemp() / "any-readers"
    one_line = [comment if len(comment.splitlines()) == 1 else "#" for comment in comments]
    lines = [f"{name} token * sha256:{digest_of(name)}" for name in names]
    text = "\n".join(part for pair in zip(one_line, lines, strict=False) for part in pair)
    write(path, text)
    if new in names:
        with pytest.raises(SettingsError, match="has this name already"):
            add_reader(path, reader(new))
        return
    add_reader(path, reader(new))
    assert [one.name for one in read_readers(path).values()] == [*names, new]
    for name in names:
        remove_reader(path, name)
    assert [one.name for one in read_readers(path).values()] == [new]


def test_a_new_file_is_for_its_owner_only(path: Path) -> None:
    """This holds for its folder too, whatever the umask. A comment explains the lines."""
    umask = os.umask(0o277)
    try:
        add_reader(path, reader("report"))
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(path.parent.iterdir()) == [lock_of(path), path]
    assert lock_of(path).stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith("# Readers: ")


@needs_root
@pytest.mark.safeguard(
    file="file_writing.py",
    old="os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))",
    new="pass",
    protects_from="a service that can not read its readers any more",
)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_mode_and_group_of_the_file_stay(path: Path, mode: int) -> None:
    """A service reads it by the rights of its group, or of all users."""
    write(path, "", mode)
    os.chown(path, 0, OTHER_UID)
    add_reader(path, reader("report"))
    remove_reader(path, "report")
    found = path.stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (mode, 0, OTHER_UID)


def test_a_symbolic_link_to_the_file_stays(path: Path, tmp_path: Path) -> None:
    """The file that the link names is changed, or made."""
    link = tmp_path / "link"
    link.symlink_to(path)
    for name in ("one", "two"):
        add_reader(link, reader(name))
    assert link.is_symlink()
    assert [one.name for one in read_readers(path).values()] == ["one", "two"]


def test_links_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    """The message gives the reason of the system."""
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(SettingsError, match=r"^here: .*Too many levels"):
        add_reader(link, reader("new"), "here")


@pytest.mark.safeguard(
    file="reader_file.py",
    old="if problems := folder_problems(path):",
    new="if problems := []:",
    protects_from="a file of readers that another user replaces",
)
@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
def test_no_file_is_made_where_others_could_replace_it(path: Path, mode: int) -> None:
    """The folder stays empty."""
    path.parent.mkdir()
    path.parent.chmod(mode)
    with pytest.raises(SettingsError, match=r"^here: the file is not safe: "):
        add_reader(path, reader("new"), "here")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [(f"report token * {ONE}\nbad\n", "line 2: "), (b"# \xff\n", "it is not UTF-8 text$")],
)
def test_a_malformed_file_is_not_changed(path: Path, content: str | bytes, says: str) -> None:
    """The message gives the number of the line."""
    write(path, content)
    before = path.read_bytes()
    with pytest.raises(SettingsError, match=f"^here: {path}: {says}"):
        add_reader(path, reader("new"), "here")
    with pytest.raises(SettingsError, match=f"^here: {path}: {says}"):
        remove_reader(path, "report", "here")
    assert path.read_bytes() == before


def test_a_reader_is_removed_once(path: Path) -> None:
    """The second removal is an error, and so is one without a file."""
    with pytest.raises(SettingsError, match=r"^here: no such file"):
        remove_reader(path, "report", "here")
    assert not path.parent.exists()
    add_reader(path, reader("report"))
    remove_reader(path, "report")
    with pytest.raises(SettingsError, match=r"^here: no reader has this name"):
        remove_reader(path, "report", "here")


def test_a_file_does_not_grow_beyond_its_bound(path: Path) -> None:
    """A server could not read it any more."""
    write(path, "#" * ((1 << 20) - 50) + "\n")
    with pytest.raises(SettingsError, match=r"^here: the file is full"):
        add_reader(path, reader("new"), "here")
    assert read_readers(path) == {}


def test_a_write_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft is removed, and the message gives the reason of the system."""
    add_reader(path, reader("report"))

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(SettingsError, match=r"^here: the file can't be changed: No space left"):
        add_reader(path, reader("new"), "here")
    assert [one.name for one in read_readers(path).values()] == ["report"]
    assert sorted(path.parent.iterdir()) == [lock_of(path), path]


@needs_root
def test_another_user_can_not_stop_a_change(path: Path) -> None:
    """A user who may read the folder and the file can lock both, and not the file of the lock."""
    add_reader(path, reader("report"))
    path.chmod(0o644)
    for folder in path.parents[:-1]:
        if folder.stat().st_mode & 0o055 == 0:
            folder.chmod(0o755)
    program = f"""
import fcntl, os, sys
{become()}
path = sys.argv[1]
for name in (path, os.path.dirname(path)):
    fcntl.flock(os.open(name, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
try:
    os.open(sys.argv[2], os.O_RDWR)
except PermissionError:
    print("locked", flush=True)
sys.stdin.read()
"""
    lock = lock_of(path)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program, str(path), str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        add_reader(path, reader("new"))
        process.communicate()
    assert len(read_readers(path)) == 2


def test_the_wait_for_a_change_that_does_not_end_has_a_bound(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with an error, which says why."""
    add_reader(path, reader("report"))
    monkeypatch.setattr(file_writing, "LOCK_SECONDS", 0)
    with (
        file_writing.locked(path),
        pytest.raises(SettingsError, match=r"^here: .* another process holds its lock"),
    ):
        add_reader(path, reader("new"), "here")
    add_reader(path, reader("new"))


# ---------- several processes

PROGRAM = """
import fcntl, os, signal, sys
from pathlib import Path
from xots import file_writing
from xots.access import Reader, Scope, digest_of
from xots.reader_file import add_reader
{preface}
for name in sys.argv[2:]:
    digest, scopes = digest_of(name), frozenset({{Scope.TOKEN}})
    new = Reader(name=name, scopes=scopes, accounts=None, digest=digest)
    add_reader(Path(sys.argv[1]), new)
"""


DIES_AT = """
real, calls = {place}, []

def dying(*arguments):
    calls.append(1)
    if len(calls) == {number}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

{place} = dying
"""


def adding(path: Path, *names: str, preface: str = "") -> subprocess.Popen[bytes]:
    """Start a process that adds readers one after the other."""
    program = PROGRAM.format(preface=preface)
    return subprocess.Popen([sys.executable, "-c", program, str(path), *names])


@pytest.mark.safeguard(
    file="file_writing.py",
    old="fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    new="pass",
    protects_from="a change that another one overwrites",
)
def test_changes_at_the_same_time_are_all_kept(path: Path) -> None:
    """Two processes add 40 readers each, the first of which makes the file."""
    names = [[f"{process}-{number}" for number in range(40)] for process in ("a", "b")]
    processes = [adding(path, *of_process) for of_process in names]
    assert [process.wait(RUN_TIMEOUT_SECONDS) for process in processes] == [0, 0]
    found = [one.name for one in read_readers(path).values()]
    assert sorted(found) == sorted([*names[0], *names[1]])


@pytest.mark.parametrize(
    ("place", "number", "expected"),
    [
        ("fcntl.flock", 1, ["report"]),
        ("os.fchmod", 1, ["report"]),
        ("os.fsync", 1, ["report"]),
        ("Path.rename", 1, ["report"]),
        ("file_writing.open_folder", 1, ["report", "new"]),
        ("os.fsync", 2, ["report", "new"]),
    ],
)
def test_a_process_that_is_killed_leaves_the_old_or_the_new_file(
    path: Path, place: str, number: int, expected: list[str]
) -> None:
    """It dies at each step of the write; the next change finds no lock and no obstacle."""
    add_reader(path, reader("report"))
    preface = DIES_AT.format(place=place, number=number)
    assert adding(path, "new", preface=preface).wait(RUN_TIMEOUT_SECONDS) == -signal.SIGKILL
    assert [one.name for one in read_readers(path).values()] == expected
    add_reader(path, reader("next"))
    assert [one.name for one in read_readers(path).values()] == [*expected, "next"]
