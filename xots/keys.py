"""Where the store is and where its sealing keys come from, when the settings don't say; and how keys are changed.

A key file holds one key a line; the first seals, all of them open. Lines that begin with ``#`` are passed over.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from .backends import TokenStore
from .errors import SealError
from .sealing import Sealer, new_key
from .secret import Secret
from .settings import Settings

__all__ = [
    "add_key",
    "default_key_file",
    "promote_key",
    "read_keys",
    "sealer_for",
    "store_url",
    "write_key_file",
]

logger = logging.getLogger("xots.keys")


def store_url(settings: Settings, environment: Mapping[str, str] = os.environ) -> str:
    """The store's URL: the setting, else a folder in systemd's state directory, else in the user's."""
    if settings.store is not None:
        return settings.store
    if given := environment.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0]).absolute().as_uri()
    return platformdirs.user_state_path("xots").absolute().as_uri()


def default_key_file() -> Path:
    """The key file that the file store makes for itself: beside the user's settings, away from what it opens."""
    return platformdirs.user_config_path("xots") / "key"


async def sealer_for(store: TokenStore, settings: Settings, *, make: bool = True) -> Sealer:
    """The sealer for a store's records. ``make`` False writes no key file.

    A store in memory gets a key of the process. The file store makes a key file at its first start, while it holds
    nothing yet. Every other store demands a key, since two hosts must not each invent one.

    Raises:
        SealError: there is no key, or it can't be read or is malformed. Nothing is written then.
        StoreUnavailable: the store can't be asked whether it holds anything.
    """
    if settings.key:
        return Sealer(settings.key)
    path = settings.key_file
    if path is None and not store.durable and not store.shared:
        return Sealer.for_this_process()
    if path is None and not store.may_generate_key:
        raise SealError(
            "this store is shared, so it wants the same key everywhere, and none is set; make one with: "
            "xots key new > FILE, and name it with key_file on every host"
        )
    if path is None:
        path = default_key_file()
        if not path.exists():
            if kept := await store.names():
                raise SealError(
                    f"the store holds sealed logins ({', '.join(kept)}), but their key is missing: {path} is not "
                    "there. Put it back, or name another with key_file"
                )
            if not make:
                return (
                    Sealer.for_this_process()
                )  # there is nothing to open, and nothing will be sealed
            try:
                write_key_file(path, [new_key()], new=True)
                logger.info(
                    "made a sealing key for the store, %s; without it, the stored login can't be opened",
                    path,
                )
            except SealError:
                if not path.exists():  # else another process made one at the same moment
                    raise
    return Sealer(read_keys(path), reload=lambda: _reread(path))


def read_keys(path: Path) -> list[Secret]:
    """The keys of a key file, in order.

    Raises:
        SealError: it can't be read, others may read it, or no key is in it.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[list[Secret], Secret | None]:
    """The keys of a key file in order, and the one among them that was added and not promoted yet."""
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text of keys"
        raise SealError(f"the key file {path} can't be read: {reason}") from None
    if stat.S_IMODE(mode) & 0o077 and not _of_systemd(path):
        raise SealError(
            f"others may read the key file {path} (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}"
        )
    keys = [Secret(line) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise SealError(f"the key file {path} holds no key")
    return keys, Secret(lines[lines.index(WAITING) + 1]) if WAITING in lines[:-1] else None


def _of_systemd(path: Path) -> bool:
    """Credentials are guarded by their directory, and may be readable for the service's own group."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return directory is not None and path.resolve().is_relative_to(Path(directory).resolve())


def _reread(path: Path) -> Sequence[Secret]:
    try:
        return read_keys(path)
    except SealError as error:
        logger.warning("the keys could not be read again: %s", error)
        return []


def add_key(path: Path) -> None:
    """Add a new key to the file: it opens from now on, and seals once it is promoted.

    Raises:
        SealError: the file can't be read or written, or holds a key already that waits to be promoted.
    """
    keys, waiting = _read(path)
    if waiting is not None:
        raise SealError(
            f"a key in {path} waits to be promoted already; go on with: xots key promote"
        )
    write_key_file(path, keys, waiting=new_key())


def promote_key(path: Path) -> bool:
    """Let the key that waits seal from now on; False when none waits.

    Raises:
        SealError: the file can't be read or written.
    """
    keys, waiting = _read(path)
    if waiting is None:
        return False
    write_key_file(path, [waiting, *(key for key in keys if key != waiting)])
    return True


WAITING = "# The next one opens only, until it is promoted (xots key promote):"


def write_key_file(
    path: Path, keys: Sequence[Secret], *, waiting: Secret | None = None, new: bool = False
) -> None:
    """Write a key file, mode 0600: as a whole or not at all, and never over another if it is to be ``new``.

    Raises:
        SealError: it can't be written, or is there already.
    """
    text = "# Sealing keys of xots, one a line: the first seals, all of them open.\n"
    text += "".join(f"{key.reveal()}\n" for key in keys)
    if waiting is not None:
        text += f"{WAITING}\n{waiting.reveal()}\n"
    path = path.resolve()  # a link to the file is kept, and the file changed
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    if path.exists() and path.stat().st_uid != os.geteuid():
        raise SealError(
            f"the key file {path} belongs to user {path.stat().st_uid}: change it as that user"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if new:
            os.link(draft, path)  # unlike a rename, it fails if the file is there
        else:
            draft.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        raise SealError(f"the key file {path} can't be written: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
