"""Access to secret files: who can read or replace them, and which mounts are secrets mounts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.other_user import needs_root
from support.store_programs import OTHER_USER, RUN_TIMEOUT_SECONDS

from xots.file_access import (
    Mount,
    folder_problems,
    is_secrets_mount,
    mount_of,
    mounts,
    parse_mounts,
    secret_file_problems,
)

THIRD_USER = 65533
"""The id of a user that is neither root nor the one of a test."""


def problems(path: Path) -> list[str]:
    """Return the problems of a secret file."""
    with path.open("rb") as file:
        return secret_file_problems(path, file.fileno())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a secret file that is safe: mode 0600, in a folder of mode 0700."""
    file = tmp_path / "secrets" / "key"
    file.parent.mkdir(mode=0o700)
    file.write_text("hunter2")
    file.chmod(0o600)
    return file


# ---------- the file and its folder


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_for_its_owner_only_is_safe(path: Path, mode: int) -> None:
    """A folder that others can only read is safe too."""
    path.chmod(mode)
    path.parent.chmod(0o755)
    assert problems(path) == []


@pytest.mark.safeguard(
    file="file_access.py",
    old="0o022 if provided or others_may_read else 0o077",
    new="0",
    protects_from="a secret file that other users can read or write",
)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o444, 0o440, 0o620, 0o602, 0o610])
def test_any_right_of_other_users_is_a_problem(path: Path, mode: int) -> None:
    """The remedy takes their rights, and keeps the owner's."""
    path.chmod(mode)
    [problem] = problems(path)
    assert problem == (
        f"{path} is open to other users (mode {mode:04o}): chmod {mode & 0o700:03o} {path}"
    )


@pytest.mark.safeguard(
    file="file_access.py",
    old="[problem] if problem else folder_problems(path)",
    new="[problem] if problem else []",
    protects_from="a secret file that another user replaces",
)
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_a_problem(path: Path, mode: int) -> None:
    """They could replace the file. The sticky bit does not help: they could make it first. The mode
    of such a shared folder has to stay."""
    path.parent.chmod(mode)
    [problem] = problems(path)
    assert problem.startswith(f"{path.parent} is open to other users (mode {mode:04o})")
    remedy = "use another folder" if mode & 0o1000 else f"chmod go-w {path.parent}"
    assert problem.endswith(f": {remedy}")


def test_the_folder_of_a_link_counts_too(path: Path, tmp_path: Path) -> None:
    """Another user could replace the link, or a link between it and the file."""
    between, first = tmp_path / "between", tmp_path / "first"
    for folder in (between, first):
        folder.mkdir(mode=0o700)
    (between / "link").symlink_to(path)
    (first / "link").symlink_to("../between/link")
    assert problems(first / "link") == []
    for folder in (first, between, path.parent):
        folder.chmod(0o777)
        [problem] = problems(first / "link")
        assert problem.startswith((str(folder), str(first / "../between")))
        folder.chmod(0o700)


def test_the_folder_is_checked_before_the_file_exists(path: Path) -> None:
    """A key is not written where others can replace it."""
    path.parent.chmod(0o777)
    assert len(folder_problems(path.parent / "new")) == 1


@needs_root
def test_another_owner_is_a_problem(path: Path) -> None:
    """The owner of the file or of its folder can change the content."""
    for one in (path, path.parent):
        os.chown(one, OTHER_USER, OTHER_USER)
        [problem] = problems(path)
        assert problem.startswith(f"{one} belongs to user {OTHER_USER}, but xots runs as user 0")
        assert problem.endswith(f"chown 0 {one}")
        os.chown(one, 0, 0)


PREFACE = """
import asyncio, os, sys
from pathlib import Path
from xots.backends.file import FileStore
from xots.errors import StoreUnavailable
from xots.file_access import secret_file_problems
from xots.key_file import KeyRing, read_key_file, write_key_file
from xots.secret import Secret
"""

BECOME = """
os.setgroups([])
os.setresgid(*[int(sys.argv[1])] * 3)
os.setresuid(*[int(sys.argv[1])] * 3)
os.umask(int(sys.argv[2], 8))
"""

READ = """
for path in map(Path, sys.argv[3:]):
    with path.open("rb") as file:
        print(secret_file_problems(path, file.fileno()))
"""


def as_other_user(program: str, *arguments: Path, umask: int = 0o022) -> list[str]:
    """Run a program as another user, and return the lines of its output.

    That user may not be able to read Python's own modules: the program imports none.
    """
    command = [sys.executable, "-c", PREFACE + program, str(OTHER_USER), f"{umask:o}"]
    return output(command, *arguments)


def output(command: list[str], *arguments: str | Path) -> list[str]:
    """Run a command that must succeed, and return the lines of its output."""
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_SECONDS,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Return a folder that other users may enter, unlike pytest's."""
    place = Path(tempfile.mkdtemp(prefix="xots-test-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@needs_root
def test_a_user_trusts_itself_and_root_only(open_place: Path) -> None:
    """A file of a third user is a problem, whatever its folder and mode."""
    expected = {OTHER_USER: "[]", 0: "mode 0440", THIRD_USER: f"belongs to user {THIRD_USER}"}
    for owner in expected:
        file = open_place / str(owner)
        file.write_text("hunter2")
        os.chown(file, owner, OTHER_USER)
        file.chmod(0o600 if owner == OTHER_USER else 0o440)
    printed = as_other_user(BECOME + READ, *(open_place / str(owner) for owner in expected))
    assert all(part in line for part, line in zip(expected.values(), printed, strict=True))


SHOW = READ.replace("print(", "print(*")

READ_AGAIN = READ + "        assert file.read() == b'hunter2'\n"


@needs_root
@pytest.mark.safeguard(
    file="file_access.py",
    old='remedy = f"{_take_over(path)} && {chmod}" if needs_rights else chmod',
    new="remedy = chmod",
    protects_from="a message that tells the operator to lock xots out of its key",
)
@pytest.mark.parametrize("owner", [0, OTHER_USER, THIRD_USER])
@pytest.mark.parametrize("mode", [0o640, 0o644, 0o666])
def test_the_remedy_lets_this_user_read_the_file(open_place: Path, owner: int, mode: int) -> None:
    """It is one line for root's shell, also for a path with spaces and a file of root: after it the
    file is safe, and the user can read it."""
    file = open_place / "the key's file"
    file.write_text("hunter2")
    os.chown(file, owner, OTHER_USER)
    file.chmod(mode)
    [problem] = as_other_user(BECOME + SHOW, file)
    remedy = problem.rpartition(": ")[2].removeprefix("run xots as the owner, or ")
    subprocess.run(["sh", "-euc", remedy], check=True)
    assert as_other_user(BECOME + READ_AGAIN, file) == ["[]"]
    assert file.stat().st_mode & 0o077 == 0


WRITE_TO_STORE = f"""
async def use(place):
    try:
        await FileStore(place).swap("default", b"one", expected=None)
    except StoreUnavailable as error:
        print(error)
asyncio.run(use(Path(sys.argv[4])))  # imports the modules that are imported late
{BECOME}
asyncio.run(use(Path(sys.argv[3])))
"""


@needs_root
@pytest.mark.parametrize("owner", [0, OTHER_USER, THIRD_USER])
def test_the_remedy_lets_this_user_write_to_the_store(
    open_place: Path, tmp_path: Path, owner: int
) -> None:
    """A folder of root that all may write to becomes one of this user."""
    os.chown(open_place, owner, OTHER_USER)
    open_place.chmod(0o777)
    [problem] = as_other_user(WRITE_TO_STORE, open_place, tmp_path)
    remedy = problem.rpartition(": ")[2].removeprefix("run xots as the owner, or ")
    subprocess.run(["sh", "-euc", remedy], check=True)
    tmp_path.joinpath("default.sealed").unlink()
    assert as_other_user(WRITE_TO_STORE, open_place, tmp_path) == []


# ---------- new folders


@needs_root
@pytest.mark.safeguard(
    file="file_writing.py",
    old="one.chmod(0o700)  # the umask",
    new="pass  # the umask",
    protects_from="a folder that its own owner cannot use",
)
@pytest.mark.safeguard(
    file="file_writing.py",
    old="        os.fchmod(descriptor, 0o600)",
    new="        pass",
    protects_from="a file that its own owner cannot use",
)
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_new_key_file_and_store_are_private_whatever_the_umask(
    open_place: Path, tmp_path: Path, umask: int
) -> None:
    """All folders made for them have mode 0700, the files 0600, and their owner can use them."""
    program = f"""
async def use(place):
    key = place / "a" / "b" / "key"
    write_key_file(key, KeyRing((Secret("hunter2"),)))
    write_key_file(key, read_key_file(key))
    for content in (b"one", b"two"):
        store = FileStore(place / "c" / "d")
        stored = await store.read("default")
        await store.swap("default", content, expected=stored and stored.version)
        async with store.lease("default", 10):
            await store.check()
asyncio.run(use(Path(sys.argv[4])))  # imports the modules that are imported late
{BECOME}
asyncio.run(use(Path(sys.argv[3])))
"""
    os.chown(open_place, OTHER_USER, OTHER_USER)
    as_other_user(program, open_place, tmp_path, umask=umask)
    made = list(open_place.rglob("*"))
    assert {path.stat().st_mode & 0o7777 for path in made if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o7777 for path in made if path.is_file()} == {0o600}
    assert {path.name for path in made} >= {"a", "b", "c", "d", "key", "default.sealed"}
    assert open_place.stat().st_mode & 0o777 == 0o755  # it existed before


# ---------- the list of mounts

KUBERNETES = "900 800 0:77 / /etc/xots ro,relatime - tmpfs tmpfs rw,size=1024k"


@pytest.mark.parametrize(
    ("line", "mount"),
    [
        (KUBERNETES, Mount(Path("/etc/xots"), "0:77", "tmpfs", read_only=True)),
        (
            "36 35 98:0 /root /mnt rw,noatime shared:1 master:2 - ext4 /dev/root rw,errors=ro",
            Mount(Path("/mnt"), "98:0", "ext4", read_only=False),
        ),
        (
            r"36 35 0:9 / /a\040b\011c\134d\012e rw - ramfs none ro,mode=700",
            Mount(Path("/a b\tc\\d\ne"), "0:9", "ramfs", read_only=True),
        ),
        ("36 35 0:9 / /a rw - tmpfs  rw", Mount(Path("/a"), "0:9", "tmpfs", read_only=False)),
    ],
)
def test_a_line_of_mountinfo_is_a_mount(line: str, mount: Mount) -> None:
    """Spaces are escaped, the tags are any number, and either list of options can say read-only."""
    assert parse_mounts(f"{line}\n") == [mount]


def test_a_mount_point_can_not_forge_a_line() -> None:
    """A user may choose the name of a FUSE mount. The kernel escapes only its own line end."""
    point = f"/home/u/x\x85{KUBERNETES}\r{KUBERNETES}".replace(" ", r"\040")
    [mount] = parse_mounts(f"36 35 0:9 / {point} rw - fuse.sshfs u rw\n")
    assert mount.kind == "fuse.sshfs"


def test_a_path_lies_on_its_nearest_mount() -> None:
    """Of two mounts at one point, the later one hides the earlier one."""
    found = parse_mounts(
        "1 0 0:1 / / rw - ext4 a rw\n"
        "2 1 0:2 / /etc/xots rw - tmpfs b rw\n"
        "3 1 0:3 / /etc/xots rw - tmpfs c rw\n"
        "4 1 0:4 / /etc rw - tmpfs d rw\n"
    )
    paths = {"/etc/xots/key": "0:3", "/etc/xotsy": "0:4", "/etc/xots": "0:3", "/key": "0:1"}
    for path, device in paths.items():
        mount = mount_of(Path(path), found)
        assert mount is not None
        assert mount.device == device
    assert mount_of(Path("/key"), []) is None


@pytest.mark.safeguard(
    file="file_access.py",
    old="in_memory and mount.read_only and ",
    new="in_memory and ",
    protects_from="a secret file in a /tmp of its own that all users can read",
)
@pytest.mark.safeguard(
    file="file_access.py",
    old=" and mount.point not in SHARED_FOLDERS",
    new="",
    protects_from="a secret file in /run that all users can read, under ProtectSystem=strict",
)
@pytest.mark.parametrize(
    ("point", "kind", "read_only", "expected"),
    [
        ("/etc/xots", "tmpfs", True, True),
        ("/run/credentials/xots.service", "ramfs", True, True),
        ("/etc/xots", "tmpfs", False, False),
        ("/etc/xots", "ext4", True, False),
        ("/run/secrets", "ext4", False, True),
        ("/run/secrets/key", "xfs", False, True),
        ("/var/run/secrets/kubernetes.io/serviceaccount", "tmpfs", True, True),
        ("/run/secretstuff", "ext4", False, False),
        ("/", "tmpfs", True, False),
        ("/run", "tmpfs", True, False),
        ("/run/lock", "tmpfs", True, False),
        ("/tmp", "tmpfs", True, False),  # noqa: S108 - nothing is written there
    ],
)
def test_a_secrets_mount_is_known_by_its_place_or_its_kind(
    point: str, kind: str, read_only: bool, expected: bool
) -> None:
    """ProtectSystem=strict makes /run read-only for a service, and yet all users can read it."""
    assert is_secrets_mount(Mount(Path(point), "0:9", kind, read_only)) is expected


def test_the_real_list_of_mounts_names_that_of_a_file(path: Path) -> None:
    """A file of the tests is on some mount, and that is no secrets mount."""
    mount = mount_of(path.resolve(), mounts())
    assert mount is not None
    assert not is_secrets_mount(mount)


# ---------- real mounts

KUBERNETES_VOLUME = """
mkdir -p "$1/v v"
mount -t tmpfs -o mode=1777 tmpfs "$1/v v"
mkdir "$1/v v/..2026"
echo hunter2 > "$1/v v/..2026/key"
chmod 0644 "$1/v v/..2026/key"
ln -s ..2026 "$1/v v/..data"
ln -s ..data/key "$1/v v/key"
"""

RUN = """
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/secrets
"""

SECRET_IN_RUN = """
echo hunter2 > /run/secrets/key
chmod 0444 /run/secrets/key
"""

ORDINARY = """
mkdir "$1/key.d"
echo hunter2 > "$1/key.d/key"
chmod 0440 "$1/key.d/key"
"""

HOST_FILE = (
    ORDINARY
    + f"""
chown -R {THIRD_USER} "$1/key.d"
"""
)

MOUNT_OF_HOST_FILE = (
    HOST_FILE + 'touch /run/secrets/key; mount --bind "$1/key.d/key" /run/secrets/key\n'
)

REAL_MOUNTS: dict[str, tuple[str, str, str]] = {
    "a secret volume of Kubernetes": (
        KUBERNETES_VOLUME + 'mount -o remount,bind,ro "$1/v v"',
        "{}/v v/key",
        "[]",
    ),
    "one of its files, by subPath": (
        KUBERNETES_VOLUME
        + 'touch "$1/one"; mount --bind "$1/v v/..2026/key" "$1/one"\n'
        + 'mount -o remount,bind,ro "$1/one"',
        "{}/one",
        "[]",
    ),
    "a read-only volume with a file that others can write": (
        KUBERNETES_VOLUME + 'chmod 0666 "$1/v v/..2026/key"; mount -o remount,bind,ro "$1/v v"',
        "{}/v v/key",
        "mode 0666",
    ),
    "a volume in memory that is not read-only": (KUBERNETES_VOLUME, "{}/v v/key", "mode 0644"),
    "a secret of Docker Swarm": (
        RUN
        + "mount -t tmpfs tmpfs /run/secrets"
        + SECRET_IN_RUN
        + "mount -o remount,ro /run/secrets",
        "/run/secrets/key",
        "[]",
    ),
    "a file that Compose mounts": (
        RUN + ORDINARY + 'touch /run/secrets/key; mount --bind "$1/key.d/key" /run/secrets/key',
        "/run/secrets/key",
        "[]",
    ),
    "a file of the host's user that Compose mounts": (
        RUN + MOUNT_OF_HOST_FILE + 'chmod 0400 "$1/key.d/key"',
        "/run/secrets/key",
        "[]",
    ),
    "a file of the host's user that its group can write": (
        RUN + MOUNT_OF_HOST_FILE + 'chmod 0660 "$1/key.d/key"',
        "/run/secrets/key",
        "mode 0660): chmod 640 ",
    ),
    "a folder of the host's user": (
        RUN + HOST_FILE + 'mount --bind "$1/key.d" /run/secrets',
        "/run/secrets/key",
        "[]",
    ),
    "a folder of the host's user that its group can write to": (
        RUN + HOST_FILE + 'chmod 0770 "$1/key.d"; mount --bind "$1/key.d" /run/secrets',
        "/run/secrets/key",
        "/run/secrets is open to other users (mode 0770)",
    ),
    "a file of the host's user that is mounted elsewhere": (
        HOST_FILE + 'mount --bind "$1/key.d" "$1/key.d"; mount -o remount,bind,ro "$1/key.d"',
        "{}/key.d/key",
        f"belongs to user {THIRD_USER}",
    ),
    "a file of the host's user in memory, on a mount that is read-only": (
        'mkdir "$1/m"; mount -t tmpfs tmpfs "$1/m"; echo hunter2 > "$1/m/key"\n'
        + f'chown {THIRD_USER} "$1/m/key"; mount -o remount,bind,ro "$1/m"',
        "{}/m/key",
        f"belongs to user {THIRD_USER}",
    ),
    "a folder of that name without a mount": (
        RUN + SECRET_IN_RUN,
        "/run/secrets/key",
        "mode 0444",
    ),
    "the same while systemd protects /run": (
        RUN + SECRET_IN_RUN + "mount -o remount,bind,ro /run",
        "/run/secrets/key",
        "mode 0444",
    ),
    "a read-only mount of a disk": (
        ORDINARY + 'mount --bind "$1/key.d" "$1/key.d"; mount -o remount,bind,ro "$1/key.d"',
        "{}/key.d/key",
        "mode 0440",
    ),
}
"""The commands that mount, the path of the file in the test's folder, and its problem."""


@needs_root
@pytest.mark.safeguard(
    file="file_access.py",
    old="(found.st_uid,) if mount is not None and is_in_secrets_folder(mount) else ()",
    new="(found.st_uid,)",
    protects_from="a secret file that any user owns and can replace",
)
@pytest.mark.parametrize("case", REAL_MOUNTS)
def test_a_real_mount_is_recognised(tmp_path: Path, case: str) -> None:
    """In a mount namespace of its own, each file is safe only if a platform provides it."""
    commands, path, expected = REAL_MOUNTS[case]
    script = f'set -eu; umask 022; {commands}\nexec "$3" -c "$4" 0 0 "$2"'
    shell = ["unshare", "-m", "sh", "-c", script, "sh"]
    [printed] = output(shell, tmp_path, path.format(tmp_path), sys.executable, PREFACE + READ)
    assert expected in printed
    assert (printed == "[]") == (expected == "[]")


def test_the_credentials_directory_must_keep_others_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd gives mode 0440 to credentials, in a folder that other users cannot enter."""
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert problems(path) == []
    path.parent.chmod(0o550)
    assert problems(path) == []
    path.parent.chmod(0o755)
    assert len(problems(path)) == 1


def test_a_link_in_the_credentials_directory_leads_out_of_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of the file itself counts."""
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    (folder / "key").symlink_to(path)
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert len(problems(folder / "key")) == 1
