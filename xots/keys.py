"""The store's URL and its sealing keys: the settings, or else a default.

A store that one user has on one machine can generate its key. Every other durable store needs one
in the settings, since two hosts must not generate a key each.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from .backends import TokenStore
from .errors import SealError, SettingsError
from .key_file import KeyRing, read_key_file, write_key_file
from .reread import Status, status_of
from .sealing import Sealer, new_key
from .secret import Secret
from .settings import Settings

__all__ = ["add_key", "default_key_file", "promote_key", "sealer_for", "store_url"]

logger = logging.getLogger("xots.keys")


def store_url(settings: Settings, environment: Mapping[str, str] = os.environ) -> str:
    """Return the URL of the store: the setting, else a folder in systemd's state directory, else
    one of the user's.

    Raises:
        SettingsError: there is no default, because the user has no home folder.
    """
    if settings.store is not None:
        return settings.store
    if folders := environment.get("STATE_DIRECTORY"):  # separated by colons
        return Path(folders.partition(":")[0]).absolute().as_uri()
    from platformdirs import user_state_path  # here, since a start with a store set needs none

    return _user_folder(user_state_path).as_uri()


def default_key_file() -> Path:
    """Return the path of the key file that the file store generates. It is not in the store's
    folder, so that a copy of that folder does not hold the key.

    Raises:
        SettingsError: as ``store_url``.
    """
    from platformdirs import user_config_path

    return _user_folder(user_config_path) / "key"


def _user_folder(folder_of: Callable[[str], Path]) -> Path:
    with suppress(RuntimeError):
        folder = folder_of("xots")
        if not str(folder).startswith("~"):  # older versions leave the tilde
            return folder.absolute()
    raise SettingsError(
        [
            f"user {os.geteuid()} has no home folder, so there is no default place for the store "
            "and its key: set store and key_file, or HOME"
        ]
    )


# ---------- the sealer of a store


async def sealer_for(store: TokenStore, settings: Settings, *, make: bool = True) -> Sealer:
    """Return the sealer of a store's records.

    Without a key in the settings, a store in memory gets a key that only this process knows. A
    store that may generate its key (``may_generate_key``) does so at its first start, while it is
    empty.

    Args:
        store: the store.
        settings: the settings.
        make: False if no key file may be written.

    Raises:
        SealError: there is no key, or it can't be read or is malformed.
        SettingsError: as ``default_key_file``.
        StoreUnavailable: the store can't be read, so it is not known to be empty.
    """
    if settings.key:
        return Sealer(settings.key)
    if settings.key_file is not None:
        return _sealer_from(settings.key_file, settings.sources.get("key_file", "key_file"))
    if not store.durable and not store.shared:
        return Sealer.for_this_process()
    if not store.may_generate_key:
        raise SealError(
            "this store is shared: every process needs the same sealing key, and none is set; make "
            "one with xots key new > FILE, and set key_file to it on every host"
        )
    return await _sealer_from_default(store, make=make)


async def _sealer_from_default(store: TokenStore, *, make: bool) -> Sealer:
    path = default_key_file()
    if path.exists():
        return _sealer_from(path, str(path))
    if names := await store.names():
        raise SealError(
            f"the store holds sealed logins ({', '.join(names)}), but their key is missing: {path} "
            "does not exist. Put it back, or set key_file to a copy of it"
        )
    if not make:
        return Sealer.for_this_process()  # the store is empty, and nothing will be sealed
    _generate_key_file(path)
    return _sealer_from(path, str(path))


def _generate_key_file(path: Path) -> None:
    """Write a key file, unless another process does so at the same time."""
    try:
        write_key_file(path, KeyRing((new_key(),)), new=True)
    except SealError:
        if not path.exists():
            raise
    else:
        logger.info(
            "generated a sealing key for the store: %s. Without this file, nothing can open the "
            "stored login",
            path,
        )


def _sealer_from(path: Path, place: str) -> Sealer:
    """Return a sealer with the keys of a file. It reads the file again when the keys change."""
    file = _KeyFile(path, place)
    return Sealer(file.read(), reload=file.changed_keys)


class _KeyFile:
    """The keys of a file.

    Args:
        path: the file.
        place: where the path was set, for messages.
    """

    def __init__(self, path: Path, place: str) -> None:
        self._path, self._place = path, place
        self._seen: Status | None = None

    def read(self) -> Sequence[Secret]:
        """Return the keys.

        Raises:
            SealError: the file can't be read.
        """
        seen = status_of(self._path)
        keys = read_key_file(self._path, self._place).keys
        self._seen = seen  # a change since then has another status
        return keys

    def changed_keys(self) -> Sequence[Secret]:
        """Return the keys of a file that has changed; none if it has not, or can't be read, so that
        the sealer keeps its keys. The checks of the file take up to milliseconds."""
        if status_of(self._path) == self._seen:
            return ()
        try:
            return self.read()
        except SealError as error:
            logger.warning("the sealing keys can't be read again; the known ones stay: %s", error)
            return ()


# ---------- changes of a key file


def add_key(path: Path, place: str = "key_file") -> None:
    """Add a new key to a key file. It opens from now on, and seals once it is promoted.

    Args:
        path: the file.
        place: where the path was set, for messages.

    Raises:
        SealError: the file can't be read or written, or holds a key that waits to be promoted.
    """
    ring = read_key_file(path, place)
    if ring.waiting is not None:
        raise SealError(
            f"the key file {path} holds a key that is not promoted yet: run xots key promote first"
        )
    write_key_file(path, replace(ring, waiting=new_key()))


def promote_key(path: Path, place: str = "key_file") -> bool:
    """Make the waiting key of a key file the one that seals. Return False if none waits.

    Args:
        path: the file.
        place: where the path was set, for messages.

    Raises:
        SealError: the file can't be read or written.
    """
    ring = read_key_file(path, place)
    if ring.waiting is None:
        return False
    write_key_file(path, KeyRing((ring.waiting, *ring.promoted)))
    return True
