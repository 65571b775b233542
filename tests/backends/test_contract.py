"""The contract suite over every store. A new store needs a new class with a fixture ``opening``."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.redis_servers import ACL_LINE, OLD_ACL_LINE, RedisServer, faults_of, set_user
from support.stores import faults_of_folder, put_aside

from xots.backends import installed_backends, open_store, redis_stream
from xots.errors import StoreUnavailable
from xots.testing import Faults, Opening, TokenStoreContract

EXAMPLE = Path(__file__).parents[2] / "examples" / "xots-sqlite"


@pytest.mark.safeguard(
    file="backends/memory.py",
    old="async with self._locks[name]:",
    new="if True:",
    protects_from="two keepers of one process that refresh at once",
    test="test_a_lease_excludes",
)
@pytest.mark.safeguard(
    file="backends/memory.py",
    old="if version_of(current) != expected:",
    new="if False:",
    protects_from="a write over the newer record of another process",
    test="test_a_stale_write_writes_nothing",
)
class TestMemoryStore(TokenStoreContract):
    @pytest.fixture
    def opening(self) -> Opening:
        return lambda: open_store("memory:")

    @pytest.fixture
    def faults(self) -> None:
        """Its records are in this process: no fault comes between."""


@pytest.mark.safeguard(
    file="backends/file.py",
    old="return lock.take(self._open(folder, file, os.O_RDWR | os.O_CREAT))",
    new="return True",
    protects_from="two processes that refresh at once",
    test="test_a_lease_excludes",
)
@pytest.mark.safeguard(
    file="backends/file.py",
    old="if version_of(current) != expected:",
    new="if False:",
    protects_from="a write over the newer record of another process",
    test="test_a_stale_write_writes_nothing",
)
class TestFileStore(TokenStoreContract):
    @pytest.fixture
    def opening(self, tmp_path: Path) -> Opening:
        return lambda: open_store((tmp_path / "a folder").as_uri())

    @pytest.fixture
    def faults(self, tmp_path: Path) -> Faults:
        return faults_of_folder(tmp_path / "a folder")


class TestRedisOverTcp(TokenStoreContract):
    """Plain TCP, with the minimal rights."""

    @pytest.fixture
    def opening(self, server: RedisServer) -> Opening:
        url = set_user(server, ACL_LINE)
        return lambda: open_store(url)

    @pytest.fixture
    def faults(self, server: RedisServer) -> Faults:
        return faults_of(server, "xots")

    async def test_its_index_is_shared(self, opening: Opening) -> None:
        """So all processes learn from one record when the account is due."""
        store = opening()
        await store.due(datetime.now(UTC), 1)
        assert store.shares_index
        await store.close()


class TestRedisWithOldRights(TokenStoreContract):
    """Plain TCP, with the rights before there was an index of due accounts."""

    @pytest.fixture
    def opening(self, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Opening:
        monkeypatch.setattr(redis_stream, "NAMES_INTERVAL_SECONDS", 0.1)
        url = set_user(server, OLD_ACL_LINE)
        return lambda: open_store(url)

    @pytest.fixture
    def faults(self, server: RedisServer) -> Faults:
        return faults_of(server, "xots")


class TestRedisOverTls(TokenStoreContract):
    """TLS with a client certificate."""

    @pytest.fixture
    def opening(self, server: RedisServer, tls_url: str) -> Opening:
        return lambda: open_store(tls_url)

    @pytest.fixture
    def faults(self, server: RedisServer) -> Faults:
        return faults_of(server)


class TestRedisOverUnixSocket(TokenStoreContract):
    """A Unix socket."""

    @pytest.fixture
    def opening(self, server: RedisServer) -> Opening:
        return lambda: open_store(server.unix_url)

    @pytest.fixture
    def faults(self, server: RedisServer) -> Faults:
        return faults_of(server)


# ---------- the example


@pytest.fixture(scope="session")
def sqlite_example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder into which pip has installed the example; pip downloads nothing."""
    folder = tmp_path_factory.mktemp("sqlite")
    # A copy, because a build leaves files beside its source.
    shutil.copytree(
        EXAMPLE,
        folder / "source",
        ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"),
    )
    installed = folder / "installed"
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
    )
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", installed, folder / "source"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"the example cannot be installed:\n{done.stdout}", pytrace=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed)
        importlib.invalidate_caches()
        yield installed
    sys.modules.pop("xots_sqlite", None)


def faults_of_database(file: Path) -> Faults:
    """Return the faults of a store in a SQLite file."""

    @contextmanager
    def unreachable() -> Iterator[None]:
        with put_aside(file):
            file.mkdir()
            yield
            file.rmdir()

    @contextmanager
    def busy() -> Iterator[None]:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield

    return Faults(unreachable, busy)


@pytest.mark.safeguard(
    file="backends/leases.py",
    old="if self._is_held(stored):",
    new="if False:",
    protects_from="two processes that refresh at once, on a store of another package",
    test="test_a_lease_is_renewed_while_it_is_held",
)
class TestSqliteExample(TokenStoreContract):
    lease_ttl_seconds = 1.5
    """Its lease is the default one, and every renewal waits for the disk several times."""

    @pytest.fixture
    def opening(self, sqlite_example: Path, tmp_path: Path) -> Opening:
        return lambda: open_store(f"sqlite://{tmp_path}/kept.db")

    @pytest.fixture
    def faults(self, tmp_path: Path) -> Faults:
        return faults_of_database(tmp_path / "kept.db")

    async def test_it_is_the_installed_package(
        self, sqlite_example: Path, opening: Opening
    ) -> None:
        """What was tested here is what pip installed, found by its entry point."""
        module = sys.modules[type(opening()).__module__]
        assert module.__file__ is not None
        assert Path(module.__file__).parent == sqlite_example
        assert installed_backends()["sqlite"].value == "xots_sqlite:SqliteStore"

    async def test_an_unreachable_file_is_an_error_of_the_store(
        self, sqlite_example: Path, tmp_path: Path
    ) -> None:
        """SQLite's own errors don't leave it."""
        store = open_store(f"sqlite://{tmp_path}/missing/kept.db")
        with pytest.raises(StoreUnavailable, match=r"kept\.db: unable to open"):
            await store.read("default")

    async def test_a_busy_file_blocks_no_other_work(
        self, opening: Opening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While another process writes, the event loop goes on; in the end it is an error."""
        store = opening()
        await store.names()
        monkeypatch.setattr(sys.modules[type(store).__module__], "BUSY_TIMEOUT_SECONDS", 0.3)
        with closing(sqlite3.connect(tmp_path / "kept.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            swap = asyncio.ensure_future(store.swap("default", b"value", expected=None))
            turns = 0
            while not swap.done():
                turns += 1
                await asyncio.sleep(0.01)
            assert turns > 5
            with pytest.raises(StoreUnavailable, match="locked"):
                await swap
        await store.swap("default", b"value", expected=None)

    def test_two_processes_lose_nothing(self, sqlite_example: Path, tmp_path: Path) -> None:
        """Each adds one to the same record again and again."""
        program = """
import asyncio, sys
from xots.backends import open_store
from xots.errors import StaleWrite

async def main():
    store, times = open_store(sys.argv[1]), 15
    while times:
        stored = await store.read("default")
        value = b"%d" % (int(stored.value) + 1 if stored else 1)
        try:
            await store.swap("default", value, expected=stored.version if stored else None)
            times -= 1
        except StaleWrite:
            pass

asyncio.run(main())
"""
        url = f"sqlite://{tmp_path}/kept.db"
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", program, url],
                env={**os.environ, "PYTHONPATH": str(sqlite_example)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 0, errors
        stored = asyncio.run(open_store(url).read("default"))
        assert stored is not None
        assert stored.value == b"30"


def test_the_example_is_read_in_a_minute() -> None:
    """A store is small: the example shows no more than a good store needs."""
    assert len((EXAMPLE / "xots_sqlite.py").read_text(encoding="utf-8").splitlines()) < 100
