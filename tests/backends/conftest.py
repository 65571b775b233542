"""The fixtures of the stores' tests: a file store, and real Redis servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support.certificates import Certificates, make_certificates, tls_options
from support.redis_servers import PASSWORD, RedisServer, free_port

from xots.backends.file import FileStore
from xots.backends.redis import RedisStore

# ---------- the file store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[FileStore]:
    store = FileStore(folder)
    yield store
    await store.close()


@pytest.fixture
async def version(store: FileStore) -> str:
    """The version of a record "old", which is stored before the test."""
    return await store.swap("default", b"old", expected=None)


# ---------- Redis


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def running_server(certificates: Certificates, tls_port: int) -> Iterator[RedisServer]:
    with RedisServer(f"tls-port {tls_port}", *tls_options(certificates)) as server:
        yield server


@pytest.fixture
def server(running_server: RedisServer) -> Iterator[RedisServer]:
    """The server that most tests share; it is empty."""
    running_server.admin.flushall()
    yield running_server
    for user in running_server.admin.acl_users():
        if user not in (b"default", "default"):
            running_server.admin.acl_deluser(user)


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server that the test may stop."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def tls_url(certificates: Certificates, tls_port: int) -> str:
    return (
        f"rediss://:{quote(PASSWORD, safe='')}@localhost:{tls_port}/0?ca_file={certificates.ca}"
        f"&cert_file={certificates.client}&key_file={certificates.client_key}"
    )


@pytest.fixture
async def open_store() -> AsyncIterator[Callable[[str], RedisStore]]:
    """Opens stores, which are closed after the test."""
    stores: list[RedisStore] = []

    def open_store(url: str) -> RedisStore:
        stores.append(RedisStore.from_url(url))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()
