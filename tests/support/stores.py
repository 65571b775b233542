"""Stores that several tests use."""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from xots.backends.base import Lease, TokenStore
from xots.backends.memory import MemoryStore
from xots.testing import Faults


class PlainStore(MemoryStore):
    """A store with neither a lock nor a clock of its own: its leases are records."""

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        async with TokenStore.lease(self, name, ttl_seconds) as lease:
            yield lease


@contextmanager
def put_aside(path: Path) -> Iterator[None]:
    """Rename a file or a folder inside the ``with``."""
    aside = path.rename(path.with_name("aside"))
    yield
    aside.rename(path)


def faults_of_folder(folder: Path) -> Faults:
    """Return the faults of a file store."""

    @contextmanager
    def unreachable() -> Iterator[None]:
        with put_aside(folder):
            folder.write_bytes(b"no folder")
            yield
            folder.unlink()

    @contextmanager
    def busy() -> Iterator[None]:
        with (folder / "default.lock").open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    return Faults(unreachable, busy)
