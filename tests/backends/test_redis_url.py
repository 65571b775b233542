"""``RedisUrl``: its forms and their faults, and the connections made from it."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.certificates import Certificates, tls_options
from support.redis_servers import (
    Opener,
    RedisServer,
    free_port,
    refusal,
    until,
)

from xots.backends.redis import RedisStore
from xots.backends.redis_url import RedisUrl
from xots.errors import StoreUnavailable
from xots.secret import Secret


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("redis://:hunter2@localhost:port", "percent-encoded"),
        ("redis://:hunter2@localhost:99999", "percent-encoded"),
        ("redis://user:hunter2#1@localhost", "percent-encoded"),
        ("redis://user:hunter2/1@localhost", "percent-encoded"),
        ("redis://user:x?hunter2@localhost", "percent-encoded"),
        ("redis://user:x?hunter2=1@localhost", "percent-encoded"),
        ("redis://user:[hunter2@localhost", "percent-encoded"),
        ("redis://:hunter2@", "no host"),
        ("redis://", "no host"),
        ("redis:hunter2", "no host"),
        ("redis://:hunter2@one,two", "only sentinel: takes several hosts"),
        ("http://:hunter2@localhost", "does not have the form"),
        ("redis://:hunter2@localhost/1/2", "database is not a number"),
        ("redis://:hunter2@localhost/zero", "database is not a number"),
        ("redis://:hunter2@localhost/-1", "database is not a number"),
        ("redis://:hunter2@localhost?passwort_file=/x", "did you mean password_file?"),
        ("redis://:hunter2@localhost?password_file=/dev/null", "remove one of the two"),
        ("redis://user:hunter2@localhost?username=user", "remove one of the two"),
        (
            "redis://localhost?password_file=/no/such",
            "password_file: the file that it names cannot be read: No such file",
        ),
        ("redis://localhost?ca_file=/dev/null", "unknown option; those of redis: are"),
        (
            "rediss://localhost?ca_file=/no/such",
            "ca_file: the file that it names cannot be read: No such file",
        ),
        ("redis://localhost?hunter2=x", "unknown option; those of redis: are"),
        ("unix://:hunter2@localhost", "absolute path"),
        ("unix://:hunter2@", "absolute path"),
        ("unix:///run/redis.sock?db=one", "database is not a number"),
        ("sentinel://:hunter2@one,two:26380", "followed by /service"),
        ("sentinel://:hunter2@one,/service", "no host"),
        ("sentinel://:hunter2@one/service/db", "database is not a number"),
        ("sentinel://:hunter2@one/service?tls=perhaps", "tls must be true or false"),
        (
            "sentinel://:hunter2@one/service?ca_file=/dev/null",
            "certificates have no effect without TLS",
        ),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, fault: str) -> None:
    """The message names the fault, and quotes no part that may be a password."""
    with pytest.raises(ValueError, match=r".") as caught:
        RedisStore.from_url(url)
    assert fault in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_parts_of_a_url_are_percent_decoded() -> None:
    """The user, the password and the path may hold any character."""
    url = RedisUrl.parse("sentinel://a%40b:p%2F%3F@one,[::1]:2/a%20service/3?tls=true")
    assert url.username == "a@b"
    assert url.password == Secret("p/?")
    assert url.addresses == [("one", 26379), ("::1", 2)]
    assert (url.service, url.database, url.tls) == ("a service", "3", True)
    assert url.server == "Redis by the sentinels at one,[::1]:2, service a service"
    assert "p/?" not in repr(url)


def test_opening_a_url_connects_to_no_server() -> None:
    """``from_url`` needs neither a server nor an event loop."""
    for url in (
        "redis://localhost",
        "rediss://h:1/2",
        "unix:/run/redis.sock",
        "sentinel://a,b:1,[::1]:2/service/3",
    ):
        assert RedisStore.from_url(url).shared


async def test_a_password_file_that_is_too_large_is_not_read(
    server: RedisServer, tmp_path: Path, open_store: Opener
) -> None:
    """The file takes no space: reading all of it would fail. The message gives the bound."""
    file = tmp_path / "password"
    file.touch(mode=0o600)
    os.truncate(file, 1 << 43)
    store = open_store(f"redis://127.0.0.1:{server.port}/?password_file={file}")
    assert f"{file} cannot be read: it is larger than 64 KiB" in await refusal(store.check())


async def test_user_and_password_come_from_options_and_files(
    server: RedisServer, tmp_path: Path, open_store: Opener
) -> None:
    """A password file is read for each new connection, so the password may change in use."""
    file = tmp_path / "password"
    file.write_text("first\n")
    for password in ("first", "second"):
        server.admin.execute_command(
            "ACL", "SETUSER", "xots", "on", f">{password}", "~*", "&*", "+@all"
        )
    for url in (
        f"redis://xots@127.0.0.1:{server.port}/3?password_file={file}",
        f"redis://127.0.0.1:{server.port}/3?username=xots&password_file={file}",
        f"unix://{server.socket}?username=xots&password_file={file}&db=3",
    ):
        await open_store(url).check()
    server.admin.execute_command("ACL", "SETUSER", "xots", "<first")
    store = open_store(f"redis://xots@127.0.0.1:{server.port}/3?password_file={file}")
    assert "authentication failed" in await refusal(store.check())
    file.write_text("second")
    await store.check()
    file.unlink()
    await asyncio.to_thread(server.admin.client_kill_filter, _type="normal", skipme=True)
    assert f"{file} cannot be read" in await refusal(store.check())


async def test_failing_tls_is_reported(
    server: RedisServer, tls_url: str, tls_port: int, certificates: Certificates, open_store: Opener
) -> None:
    """An untrusted authority, no client certificate, and TLS on one side only."""
    untrusted = open_store(tls_url.replace(str(certificates.ca), str(certificates.other_ca)))
    assert "its certificate is not trusted" in await refusal(untrusted.check())
    assert "its certificate is not trusted" in await refusal(
        open_store(tls_url.partition("?")[0]).check()
    )
    no_certificate = open_store(f"{tls_url.partition('?')[0]}?ca_file={certificates.ca}")
    assert "TLS" in await refusal(no_certificate.check())
    plain = open_store(tls_url.replace(str(tls_port), str(server.port)))
    assert "TLS" in await refusal(plain.check())
    assert "TLS" in await refusal(open_store(f"redis://127.0.0.1:{tls_port}").check())


@pytest.mark.parametrize("tls", [False, True])
async def test_a_fail_over_is_survived(
    tls: bool, certificates: Certificates, open_store: Opener
) -> None:
    """The master dies, a sentinel names the replica, and the store uses it without a restart."""
    auth = ["masterauth secret", "repl-diskless-sync-delay 0"]
    if tls:
        auth += [*tls_options(certificates), "tls-replication yes"]
    with ExitStack() as stack:

        def start(*options: str, command: str = "redis-server") -> RedisServer:
            server = RedisServer(*options, command=command, password="secret")
            if tls and command == "redis-server":  # its port speaks only TLS
                config = server.folder / "redis.conf"
                text = config.read_text().replace(
                    f"port {server.port}\n", f"port 0\ntls-port {server.port}\n"
                )
                config.write_text(text)
            return stack.enter_context(server)

        master = start(*auth)
        replica = start(*auth, f"replicaof 127.0.0.1 {master.port}")
        until(lambda: replica.admin.info("replication")["master_link_status"] == "up")
        sentinel = start(
            *(auth[2:] if tls else []),
            f"sentinel monitor books 127.0.0.1 {master.port} 1",
            "sentinel auth-pass books secret",
            "sentinel down-after-milliseconds books 500",
            "sentinel failover-timeout books 5000",
            command="redis-sentinel",
        )
        until(
            lambda: any(not slave["is_sdown"] for slave in sentinel.admin.sentinel_slaves("books"))
        )
        password = sentinel.folder / "password"
        password.write_text("secret\n")
        password.chmod(0o600)
        url = (
            f"sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/books/0"
            f"?password_file={password}&sentinel_password_file={password}"
        )
        if tls:
            url += (
                f"&tls=true&ca_file={certificates.ca}"
                f"&cert_file={certificates.client}&key_file={certificates.client_key}"
            )
        store = open_store(url)
        changes = store.changes()
        await anext(changes)
        version = await store.swap("a", b"one", expected=None)
        await asyncio.wait_for(anext(changes), 2)
        assert await store.warnings() == []  # there is a replica
        until(lambda: replica.admin.get("xots:record:a") == b"one")
        master.kill()
        assert "service books" in await refusal(anext(changes))
        began_at = time.monotonic()
        failures = 0
        while True:
            try:
                version = await store.swap("a", b"two", expected=version)
                break
            except StoreUnavailable:
                failures += 1
                assert time.monotonic() - began_at < 20
                await asyncio.sleep(0.05)
        assert failures
        assert replica.admin.get("xots:record:a") == b"two"
        changes = store.changes()
        await anext(changes)
        async with store.lease("a", 5):
            await store.swap("a", b"three", expected=version)
        await asyncio.wait_for(anext(changes), 2)
        password.write_text("wrong-password")
        assert "sentinel_password_file" in await refusal(open_store(url).check())
