"""The Redis store on real servers: by TCP, TLS and Unix socket, under its minimal rights, and through a fail-over."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.redis_servers import PASSWORD, RedisServer, free_port, until

from xots.backends import base, redis_url
from xots.backends import redis as redis_store
from xots.backends.redis import RedisStore
from xots.errors import StaleWrite, StoreUnavailable
from xots.lifecycle.account import AccessToken, Account, RefreshToken, encode
from xots.sealing import Sealer, new_key
from xots.secret import Secret
from xots.testing import Opening, TokenStoreContract

ACL_LINE = Path(__file__).parents[2].joinpath("deploy", "redis-users.acl").read_text().strip()

SOON_SECONDS = 10.0
"""The longest that a call may take to fail."""


# ------------------------------------------------------------------------------------------------- servers


async def soon(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition is true, while the event loop goes on."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Certificates:
    """PEM files of an authority, a server, a client, and of an authority that signed neither."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    other_ca: Path


def make_certificates(folder: Path) -> Certificates:
    now = datetime.now(UTC)

    def make(name: str, signer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None) -> Any:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer, signing_key = signer or (subject, key)
        here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(
                x509.BasicConstraints(ca=signer is None, path_length=None), critical=True
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=signer is None,
                    crl_sign=signer is None,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectAlternativeName(here), critical=False)
            .sign(signing_key, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain
        )
        (folder / f"{name}.key").write_bytes(pem)
        return subject, key

    ca = make("ca", None)
    make("server", ca)
    make("client", ca)
    make("other-ca", None)
    names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key", "other-ca.pem")
    return Certificates(*(folder / name for name in names))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


def tls_options(certificates: Certificates) -> list[str]:
    return [
        f"tls-cert-file {certificates.server}",
        f"tls-key-file {certificates.server_key}",
        f"tls-ca-cert-file {certificates.ca}",
    ]


@pytest.fixture(scope="module")
def running_server(certificates: Certificates, tls_port: int) -> Iterator[RedisServer]:
    with RedisServer(f"tls-port {tls_port}", *tls_options(certificates)) as server:
        yield server


@pytest.fixture
def server(running_server: RedisServer) -> Iterator[RedisServer]:
    """The server that most tests share, empty."""
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
    """Opens stores, and closes them after the test."""
    stores: list[RedisStore] = []

    def open_store(url: str) -> RedisStore:
        stores.append(RedisStore.from_url(url))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()


Opener = Callable[[str], RedisStore]


async def refusal(call: Any) -> str:
    """The message of the ``StoreUnavailable`` that a call raises, soon and without a password."""
    began_at = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await call
    assert time.monotonic() - began_at < SOON_SECONDS
    shown = f"{caught.value} {caught.value!r}"
    assert "hunter2" not in shown
    assert "wrong-password" not in shown
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ contract


class TestOverTcp(TokenStoreContract):
    """The contract over plain TCP, by a user with the minimal rights."""

    @pytest.fixture
    def opening(self, server: RedisServer) -> Opening:
        url = set_user(server, ACL_LINE)
        return lambda: RedisStore.from_url(url)


class TestOverTls(TokenStoreContract):
    """The contract over TLS with a client certificate."""

    @pytest.fixture
    def opening(self, server: RedisServer, tls_url: str) -> Opening:
        return lambda: RedisStore.from_url(tls_url)


class TestOverUnixSocket(TokenStoreContract):
    """The contract over a Unix socket."""

    @pytest.fixture
    def opening(self, server: RedisServer) -> Opening:
        return lambda: RedisStore.from_url(server.unix_url)


# ---------------------------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "says"),
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
        ("redis://:hunter2@localhost?passwort_file=/x", "passwort_file is not an option of redis:"),
        ("redis://:hunter2@localhost?password_file=/dev/null", "remove one of the two"),
        ("redis://user:hunter2@localhost?username=user", "remove one of the two"),
        (
            "redis://localhost?password_file=/no/such",
            "password_file: /no/such cannot be read: No such file",
        ),
        ("redis://localhost?ca_file=/dev/null", "ca_file is not an option of redis:"),
        ("rediss://localhost?ca_file=/no/such", "ca_file: /no/such cannot be read: No such file"),
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
def test_a_url_that_is_not_one_is_refused_without_its_password(url: str, says: str) -> None:
    """Whatever is wrong with a URL, the message says what, and quotes no part that may be a password."""
    with pytest.raises(ValueError, match=r".") as caught:
        RedisStore.from_url(url)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_opening_a_url_connects_to_nobody() -> None:
    """``from_url`` needs no server and no event loop."""
    for url in (
        "redis://localhost",
        "rediss://h:1/2",
        "unix:/run/redis.sock",
        "sentinel://a,b:1,[::1]:2/service/3",
    ):
        assert RedisStore.from_url(url).shared


async def test_user_and_password_may_stand_in_options_and_files(
    server: RedisServer, tmp_path: Path, open_store: Opener
) -> None:
    """A password file is read for each new connection, so that a password may change while the store is in use."""
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


# -------------------------------------------------------------------------------------------------- rights


def test_the_line_of_rights_that_is_shown_is_the_one_that_is_tested() -> None:
    """The module's head shows the line of deploy/redis-users.acl, wrapped."""
    assert ACL_LINE in " ".join((redis_store.__doc__ or "").split())


def set_user(server: RedisServer, line: str) -> str:
    """Give the server the user of an ACL line; the URL that he uses."""
    words = line.replace("SHA256-OF-THE-PASSWORD", hashlib.sha256(b"secret").hexdigest()).split()
    assert words.pop(0) == "user"
    server.admin.execute_command("ACL", "SETUSER", *words)
    return f"redis://{words[0]}:secret@127.0.0.1:{server.port}"


async def use_everything(server: RedisServer, store: RedisStore) -> None:
    """Everything that a store can do; raises if any of it fails, however quietly."""
    server.admin.flushall()
    server.admin.script_flush()
    changes = store.changes("a")
    await anext(changes)
    version = await store.swap("a", b"one", expected=None)
    await asyncio.wait_for(anext(changes), 5)
    with suppress(TimeoutError):  # idle for long enough to be asked for a sign of life
        await asyncio.wait_for(anext(changes), 0.4)
        raise AssertionError("nothing had changed")
    await store.swap("a", b"two", expected=version)
    assert await store.names() == ["a"]
    assert await store.read("a") is not None
    await store.check()
    assert len(await store.warnings()) == 1
    assert await store.clock_skew("a") is not None
    async with store.lease("a", ttl_seconds=1) as lease:
        ends_at = time.monotonic() + 1.2
        while time.monotonic() < ends_at:
            await asyncio.sleep(0.01)
            assert not lease.lost, "not renewed"
    assert not server.admin.exists("xots:lease:a"), "not given back"


async def test_the_minimal_rights_are_enough(
    server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with the shown rights can do all that a store does, and Redis has nothing to log against him."""
    monkeypatch.setattr(redis_store, "PING_INTERVAL_SECONDS", 0.05)
    server.admin.execute_command("ACL", "LOG", "RESET")
    server.admin.config_resetstat()
    await use_everything(server, open_store(set_user(server, ACL_LINE)))
    assert server.admin.acl_log() == []
    # Nothing else is tried either, but the scripts before they are loaded.
    assert set(server.admin.info("errorstats")) == {"errorstat_NOSCRIPT"}


@pytest.mark.parametrize("right", [word for word in ACL_LINE.split() if word[0] in "+~&"])
async def test_no_right_is_given_that_is_not_used(
    right: str, server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any one of the rights something fails, and Redis has logged that it was for want of just that one."""
    monkeypatch.setattr(redis_store, "PING_INTERVAL_SECONDS", 0.05)
    store = open_store(set_user(server, ACL_LINE.replace(f" {right}", "")))
    server.admin.execute_command("ACL", "LOG", "RESET")
    with pytest.raises((StoreUnavailable, AssertionError)):
        await use_everything(server, store)
    lacking = {entry["object"] for entry in server.admin.acl_log()}
    if right[0] == "+":
        assert lacking == {right[1:]}
    else:
        assert lacking
        assert all(item.startswith(right[1:].rstrip("*")) for item in lacking)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("GET", ["other"]),
        ("SET", ["other", "1"]),
        ("PUBLISH", ["other", ""]),
        ("SUBSCRIBE", ["xots:record:a"]),
    ],
)
def test_the_minimal_rights_end_at_the_fence(
    command: str, arguments: list[str], server: RedisServer
) -> None:
    """The same user can't touch anything else that is kept there."""
    set_user(server, ACL_LINE)
    with (
        redis.Redis(port=server.port, username="xots", password="secret") as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(command, *arguments)


async def test_a_missing_right_is_named(server: RedisServer, open_store: Opener) -> None:
    """Redis names the right that is lacking, and the message passes it on with where to look."""
    store = open_store(set_user(server, ACL_LINE.replace(" +get", "")))
    message = await refusal(store.read("a"))
    assert "'get'" in message
    assert "deploy/redis-users.acl" in message


# ------------------------------------------------------------------------------------ what cannot be reached


async def test_a_server_that_is_not_there_is_told_soon(open_store: Opener, tmp_path: Path) -> None:
    """Nobody listens at the port, or at the socket."""
    port = free_port()
    message = await refusal(open_store(f"redis://:hunter2@127.0.0.1:{port}").read("a"))
    assert f"Redis at 127.0.0.1:{port}: it cannot be reached" in message
    assert "it cannot be reached" in await refusal(
        open_store(f"unix://:hunter2@{tmp_path}/none").check()
    )
    assert "it cannot be reached" in await refusal(
        anext(open_store(f"redis://127.0.0.1:{port}").changes("a"))
    )
    assert "no sentinel names a master" in await refusal(
        open_store(f"sentinel://:hunter2@127.0.0.1:{port}/service").check()
    )


@pytest.mark.parametrize("userinfo", [":wrong-password@", "nobody:wrong-password@", ""])
async def test_a_wrong_password_or_user_is_told(
    userinfo: str, server: RedisServer, open_store: Opener
) -> None:
    """So says the message, and what to look at."""
    store = open_store(f"redis://{userinfo}127.0.0.1:{server.port}")
    for call in (
        store.read("a"),
        store.swap("a", b"", expected=None),
        store.names(),
        store.check(),
        store.warnings(),
    ):
        assert "authentication failed" in await refusal(call)
    assert "correct user and password" in await refusal(anext(store.changes("a")))
    assert "correct user and password" in await refusal(store.lease("a", 1).__aenter__())


async def test_tls_that_does_not_work_is_told(
    server: RedisServer, tls_url: str, tls_port: int, certificates: Certificates, open_store: Opener
) -> None:
    """An authority that is not trusted, no client certificate, and TLS where there is none."""
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


async def test_a_server_that_hangs_is_told(
    own_server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process takes connections and never answers; when it goes on, so does the store."""
    monkeypatch.setattr(redis_url, "RESPONSE_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(redis_store, "PING_INTERVAL_SECONDS", 0.1)
    store = open_store(own_server.url)
    changes = store.changes("a")
    await anext(changes)
    await asyncio.gather(*(store.read("a") for _ in range(5)))  # several connections in the pool
    assert own_server.process is not None
    own_server.process.send_signal(signal.SIGSTOP)
    assert "no response arrived in time" in await refusal(store.read("a"))
    assert "no response arrived in time" in await refusal(anext(changes))
    own_server.process.send_signal(signal.SIGCONT)
    until(own_server.admin.ping)
    assert await store.read("a") is None


async def test_idle_connections_that_are_cut_off_cost_one_call(
    server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall forgot them all and says nothing: the first call fails, and the next ones connect anew."""
    monkeypatch.setattr(redis_url, "RESPONSE_TIMEOUT_SECONDS", 1.0)
    deaf: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        was_there_before = not deaf
        to_server = await asyncio.open_connection("127.0.0.1", server.port)
        while question := await reader.read(65536):
            if deaf and was_there_before:
                continue
            to_server[1].write(question)
            writer.write(await to_server[0].read(65536))
        for end in (writer, to_server[1]):
            end.close()
            await end.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        store = RedisStore.from_url(server.url.replace(str(server.port), str(port)))
        await asyncio.gather(*(store.read("a") for _ in range(5)))
        deaf.append(True)
        assert "no response arrived in time" in await refusal(store.read("a"))
        assert await asyncio.gather(*(store.read("a") for _ in range(5))) == [None] * 5
        await store.close()


async def test_refusals_of_writes_are_told_in_words(
    own_server: RedisServer, open_store: Opener
) -> None:
    """Memory full, disk full, too few replicas, a replica: what Redis says in a word is said in a sentence."""
    store, admin = open_store(own_server.url), own_server.admin

    async def write() -> None:
        await store.swap("a", b"x", expected=None)

    admin.config_set("maxmemory", "1")
    assert "its memory is full" in await refusal(write())
    assert "its memory is full" in await refusal(store.check())
    admin.config_set("maxmemory", "0")
    admin.config_set("min-replicas-to-write", "1")
    assert "too few replicas" in await refusal(write())
    assert "too few replicas" in await refusal(store.check())
    admin.config_set("min-replicas-to-write", "0")
    admin.config_set("save", "3600 1")
    blocker = own_server.folder / "dump.rdb"
    blocker.mkdir()  # the snapshot can't take its place
    admin.set("other", "1")
    admin.bgsave()
    until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    assert "cannot save to its disk" in await refusal(write())
    assert "cannot save to its disk" in await refusal(store.check())
    admin.config_set("save", "")
    admin.replicaof("127.0.0.1", free_port())
    assert "read-only replica" in await refusal(write())
    assert "read-only replica" in await refusal(store.check())
    admin.replicaof("NO", "ONE")
    await write()


@pytest.mark.parametrize("times", [1, 2])
async def test_the_first_call_after_a_restart_works(
    times: int, own_server: RedisServer, open_store: Opener
) -> None:
    """Connections from before the restart, however many, cost no call; the script is loaded again."""
    store = open_store(own_server.unix_url if times == 2 else own_server.url)
    for _ in range(times):
        await asyncio.gather(*(store.read("a") for _ in range(5)))
        await asyncio.to_thread(own_server.kill)
        assert "cannot be reached" in await refusal(store.read("a"))
        await asyncio.to_thread(own_server.start)
        await store.swap("a", b"x", expected=None)
        await asyncio.gather(*(store.read("a") for _ in range(5)))


async def test_a_restart_between_two_calls_goes_unnoticed(
    own_server: RedisServer, open_store: Opener
) -> None:
    """Nobody called while the server was away: then nothing fails at all."""
    store = open_store(own_server.url)
    await asyncio.gather(*(store.read("a") for _ in range(5)))
    await asyncio.to_thread(own_server.kill)
    await asyncio.to_thread(own_server.start)
    await asyncio.gather(*(store.swap(f"a{n}", b"x", expected=None) for n in range(5)))


# -------------------------------------------------------------------------------- reading, writing, notices


@asynccontextmanager
async def proxy_that_keeps_the_answer_to(command: bytes, port: int) -> AsyncIterator[int]:
    """A way to the server that breaks when it has answered ``command``, and does not pass that answer on."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection("127.0.0.1", port)
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            while question := await reader.read(65536):
                to_server[1].write(question)
                answer = await to_server[0].read(65536)
                if command in question and not answer.startswith(b"-NOSCRIPT"):
                    break
                writer.write(answer)
        finally:
            for end in (writer, to_server[1]):
                end.close()
                await end.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
    if tasks:
        await asyncio.wait(tasks)


async def test_a_lost_reply_is_told_and_the_write_is_found_by_reading_back(
    server: RedisServer, open_store: Opener
) -> None:
    """The write went through, its answer did not: that is StoreUnavailable, never a second try."""
    store = open_store(server.url)
    async with proxy_that_keeps_the_answer_to(b"EVALSHA", server.port) as port:
        cut_off = RedisStore.from_url(server.url.replace(str(server.port), str(port)))
        assert "cannot be reached" in await refusal(cut_off.swap("a", b"mine", expected=None))
        calls = server.admin.info("commandstats")["cmdstat_publish"]["calls"]
        stored = await cut_off.read("a")
        await cut_off.close()
    assert stored is not None
    assert stored.value == b"mine"
    with pytest.raises(StaleWrite):
        await store.swap("a", b"other", expected=None)
    assert server.admin.info("commandstats")["cmdstat_publish"]["calls"] == calls


async def test_a_swap_is_one_round_trip(server: RedisServer, open_store: Opener) -> None:
    """Once the script is known there, a swap is one command from the client, whatever its size."""
    store = open_store(server.url)
    version = await store.swap("a", b"one", expected=None)
    version = await store.swap("a", b"x" * 1_000_000, expected=version)
    server.admin.config_resetstat()
    await store.swap("a", b"two", expected=version)
    # What the script calls is counted too, but not EVALSHA's own transport: there is exactly one of it, and no more.
    calls = {name: figures["calls"] for name, figures in server.admin.info("commandstats").items()}
    expected = {"cmdstat_evalsha": 1, "cmdstat_get": 1, "cmdstat_set": 1, "cmdstat_publish": 1}
    assert {name: count for name, count in calls.items() if name in expected} == expected
    assert calls.keys() <= {*expected, "cmdstat_config|resetstat", "cmdstat_info"}


@pytest.mark.safeguard(
    file="backends/redis.py",
    old="if (stored and redis.sha1hex(stored) or '') ~= ARGV[2] then return 0 end\n",
    new="",
    protects_from="a write over what somebody else wrote meanwhile",
)
async def test_one_of_many_writers_wins(server: RedisServer, open_store: Opener) -> None:
    """Of twenty swaps of one version from two openings exactly one goes through, and its value is there."""
    stores = [open_store(server.url), open_store(server.unix_url)]
    version = await stores[0].swap("a", b"start", expected=None)
    answers = await asyncio.gather(
        *(stores[n % 2].swap("a", b"%d" % n, expected=version) for n in range(20)),
        return_exceptions=True,
    )
    won = [n for n, answer in enumerate(answers) if isinstance(answer, str)]
    assert len(won) == 1
    assert sum(isinstance(answer, StaleWrite) for answer in answers) == 19
    stored = await stores[1].read("a")
    assert stored is not None
    assert (stored.value, stored.version) == (b"%d" % won[0], answers[won[0]])


async def test_cancelled_calls_never_mix_up_answers(
    server: RedisServer, open_store: Opener
) -> None:
    """A call that is cancelled at any moment leaves no answer behind for the next one to read."""
    store = open_store(server.url)
    for name in "abcd":
        await store.swap(name, name.encode() * 10, expected=None)
    for n in range(200):
        victims = [asyncio.create_task(store.read(name)) for name in "abcd"]
        for _ in range(n % 12):
            await asyncio.sleep(0)
        for victim in victims:
            victim.cancel()
        await asyncio.wait(victims)
        for name in "abcd":
            stored = await store.read(name)
            assert stored is not None
            assert stored.value == name.encode() * 10


async def test_a_change_is_seen_by_another_opening(server: RedisServer, open_store: Opener) -> None:
    """Within two seconds of the write; the first notice says that the watch has begun; other names are not told."""
    watcher, writer = open_store(server.url), open_store(server.unix_url)
    changes = watcher.changes("a")
    await asyncio.wait_for(anext(changes), 2)
    version = None
    for value in (b"one", b"two"):
        notice = asyncio.ensure_future(anext(changes))
        await writer.swap("b", value, expected=version)
        assert not notice.done()
        version = await writer.swap("a", value, expected=version)
        await asyncio.wait_for(notice, 2)
    await changes.aclose()  # type: ignore[attr-defined]


async def test_a_watch_whose_connection_breaks_says_so(
    server: RedisServer, open_store: Opener
) -> None:
    """It raises StoreUnavailable rather than missing changes silently; asked again it goes on."""
    store = open_store(server.url)
    changes = store.changes("a")
    await anext(changes)
    notice = asyncio.ensure_future(anext(changes))
    server.admin.client_kill_filter(_type="pubsub")
    assert "cannot be reached" in await refusal(notice)
    await asyncio.wait_for(anext(store.changes("a")), 2)


# ------------------------------------------------------------------------------------------------- leases

HOLDER = """
import asyncio, sys
from xots.backends.redis import RedisStore

async def main():
    store = RedisStore.from_url(sys.argv[1])
    async with store.lease("a", float(sys.argv[2])) as lease:
        print("held", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print("lost" if lease.lost else "ours", flush=True)
    await store.close()

asyncio.run(main())
"""


@pytest.fixture
def new_holder() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that take the lease and hold it until they are told to look whether it is still theirs."""
    with ExitStack() as stack:

        def start(url: str, ttl_seconds: float) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", HOLDER, url, str(ttl_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            return process

        yield start


@pytest.mark.safeguard(
    file="backends/redis.py",
    old="await lock.extend(ttl_seconds, replace_ttl=True)",
    new="pass",
    protects_from="a slow refresh that outlives its lease",
)
async def test_a_lease_excludes_other_processes(
    server: RedisServer, open_store: Opener, new_holder: Callable[..., subprocess.Popen[str]]
) -> None:
    """While another process holds it, and renews it past its time, nobody else gets it; then at once."""
    holder = new_holder(server.url, 1.5)
    store = open_store(server.url)
    waiting = asyncio.ensure_future(store.lease("a", 5).__aenter__())
    await asyncio.wait([waiting], timeout=2)
    assert not waiting.done()
    answer, _ = await asyncio.to_thread(holder.communicate, "\n")
    assert answer == "ours\n"
    assert not (await asyncio.wait_for(waiting, 2)).lost


async def test_a_killed_holder_s_lease_runs_out(
    server: RedisServer, open_store: Opener, new_holder: Callable[..., subprocess.Popen[str]]
) -> None:
    """It is free again after its time, and not before."""
    holder = new_holder(server.url, 2)
    store = open_store(server.url)
    holder.kill()
    left = server.admin.pttl("xots:lease:a") / 1000
    began_at = time.monotonic()
    async with store.lease("a", 1):
        assert left - 0.1 <= time.monotonic() - began_at <= left + 1


@pytest.mark.safeguard(
    file="backends/base.py",
    old="self._ends_at is not None and SystemClock().elapsed() >= self._ends_at",
    new="False",
    protects_from="a process that was stopped, and does not notice that its lease has run out",
)
async def test_a_holder_that_was_stopped_knows_at_once_that_it_lost(
    server: RedisServer, open_store: Opener, new_holder: Callable[..., subprocess.Popen[str]]
) -> None:
    """A process that slept past its lease needs no word with Redis to know it, and leaves its successor alone."""
    holder = new_holder(server.url, 0.5)
    holder.send_signal(signal.SIGSTOP)
    async with open_store(server.url).lease("a", 5) as lease:
        mine = server.admin.get("xots:lease:a")
        holder.send_signal(signal.SIGCONT)
        answer, _ = await asyncio.to_thread(holder.communicate, "\n")
        assert answer == "lost\n"
        assert server.admin.get("xots:lease:a") == mine
        assert not lease.lost


@pytest.mark.safeguard(
    file="backends/redis.py",
    old="            lease.lose()",
    new="            pass",
    protects_from="two that act at once, after a fail-over of Redis has lost the lease",
)
async def test_a_lease_that_somebody_else_took_is_lost(
    server: RedisServer, open_store: Opener
) -> None:
    """The next renewal finds another holder (after a fail-over, say), and the lease says so before its end."""
    store = open_store(server.url)
    async with store.lease("a", 4) as lease:
        server.admin.set("xots:lease:a", "somebody else")
        await soon(lambda: lease.lost, 2)
    assert server.admin.get("xots:lease:a") == b"somebody else"


async def test_a_lease_outlives_a_short_outage_but_not_a_long_one(
    own_server: RedisServer, open_store: Opener
) -> None:
    """Connections may break as long as a renewal gets through in time; without one it ends by its own clock."""
    store = open_store(own_server.url)
    async with store.lease("a", 1) as lease:
        ends_at = time.monotonic() + 1.5
        while time.monotonic() < ends_at:
            own_server.admin.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.02)
            assert not lease.lost
        own_server.kill()
        await soon(lambda: lease.lost, 1.1)


async def test_a_lease_that_is_held_for_too_long_is_given_up(
    server: RedisServer, open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever."""
    monkeypatch.setattr(base, "LEASE_TIMEOUT_SECONDS", 0.2)
    server.admin.set("xots:lease:a", "somebody")
    assert "held the lease of a for too long" in await refusal(
        open_store(server.url).lease("a", 1).__aenter__()
    )


# --------------------------------------------------------------------------------- sentinel, canaries, notes


@pytest.mark.parametrize("tls", [False, True])
async def test_a_fail_over_is_survived(
    tls: bool, certificates: Certificates, open_store: Opener
) -> None:
    """The master dies, a sentinel names the replica, and the store goes on there by itself."""
    auth = ["masterauth secret", "repl-diskless-sync-delay 0"]
    if tls:
        auth += [*tls_options(certificates), "tls-replication yes"]
    with ExitStack() as stack:

        def start(*options: str, command: str = "redis-server") -> RedisServer:
            server = RedisServer(*options, command=command, password="secret")
            if tls and command == "redis-server":  # TLS alone on its port
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
        changes = store.changes("a")
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
        changes = store.changes("a")
        await anext(changes)
        async with store.lease("a", 5):
            await store.swap("a", b"three", expected=version)
        await asyncio.wait_for(anext(changes), 2)
        password.write_text("wrong-password")
        assert "sentinel_password_file" in await refusal(open_store(url).check())


async def test_no_secret_reaches_redis_in_clear(server: RedisServer, open_store: Opener) -> None:
    """A sealed record with canaries is written, watched and read: none is in any command, key or value."""
    now = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
    canaries = [
        f"canary-{kind}-3f9c1e7a" for kind in ("secret", "access", "refresh", "rival", "id")
    ]
    secret, access, refresh, rival = (Secret(canary) for canary in canaries[:4])
    account = Account(
        client_id=canaries[4],
        client_secret=secret,
        access=AccessToken(value=access, issued_at=now, expires_at=now + timedelta(minutes=30)),
        current=RefreshToken(value=refresh, obtained_at=now),
        fallbacks=(RefreshToken(value=rival, obtained_at=now),),
    )
    key = new_key()
    sealer = Sealer([key])
    sealed = sealer.seal(encode(account), "account", {"name": "a"})
    store = open_store(server.url)
    with server.admin.monitor() as monitor:
        changes = store.changes("a")
        await anext(changes)
        async with store.lease("a", 5):
            version = await store.swap("a", sealed, expected=None)
            await store.swap(
                "a", sealer.seal(encode(account), "account", {"name": "a"}), expected=version
            )
        await asyncio.wait_for(anext(changes), 2)
        await store.check()
        stored = await store.read("a")
        server.admin.echo("the end")
        traffic = []
        for command in monitor.listen():
            traffic.append(command["command"])
            if "the end" in command["command"]:
                break
    assert stored is not None
    assert sealer.open(stored.value, "account", {"name": "a"}) == encode(account)
    assert any("EVALSHA" in line for line in traffic)
    keys = server.admin.keys()
    assert set(keys) == {b"xots:record:a", b"xots:check"}
    sinks = [*traffic, *(repr((key, server.admin.get(key))) for key in keys)]
    for canary in [*canaries, key.reveal(), "access_token", "client_secret", "consent_id"]:
        assert not any(canary in sink for sink in sinks), canary


async def test_warnings_tell_what_can_be_lost(own_server: RedisServer, open_store: Opener) -> None:
    """No append-only file and no replica is worth a warning, a memory that forgets another; AOF silences the first."""
    store, admin = open_store(own_server.url), own_server.admin
    (warning,) = await store.warnings()
    assert "neither an append-only file nor a replica" in warning
    assert "appendonly yes" in warning
    assert "hunter2" not in warning
    admin.config_set("appendonly", "yes")
    assert await store.warnings() == []
    admin.config_set("maxmemory", "100mb")
    assert await store.warnings() == []
    admin.config_set("maxmemory-policy", "allkeys-lru")
    (warning,) = await store.warnings()
    assert "deletes keys when its memory is full (maxmemory-policy allkeys-lru)" in warning


async def test_there_are_no_warnings_where_one_may_not_ask(
    server: RedisServer, open_store: Opener
) -> None:
    """A user without INFO gets none, and no error either."""
    assert await open_store(set_user(server, ACL_LINE.replace(" +info", ""))).warnings() == []


@pytest.mark.safeguard(
    file="backends/redis.py",
    old="timeout=ttl_seconds)",
    new="timeout=None)",
    protects_from="a killed holder that locks out all others for ever",
)
async def test_a_lease_has_an_end_in_redis(server: RedisServer, open_store: Opener) -> None:
    """Redis itself frees it, should its holder never come back."""
    async with open_store(server.url).lease("a", 5):
        assert 0 < server.admin.pttl("xots:lease:a") <= 5000


@pytest.mark.safeguard(
    file="backends/redis_url.py",
    old='"retry": Retry(NoBackoff(), 0),',
    new='"retry": Retry(NoBackoff(), 3),',
    protects_from="a library that repeats a write whose reply was lost",
)
async def test_a_write_whose_answer_was_lost_is_not_sent_again(
    server: RedisServer, open_store: Opener
) -> None:
    """Neither by the store nor by its library: the caller reads back."""
    await open_store(server.url).swap("b", b"so that the script is known there", expected=None)
    server.admin.config_resetstat()
    async with proxy_that_keeps_the_answer_to(b"EVALSHA", server.port) as port:
        cut_off = RedisStore.from_url(server.url.replace(str(server.port), str(port)))
        assert "cannot be reached" in await refusal(cut_off.swap("a", b"mine", expected=None))
        await cut_off.close()
    assert server.admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
