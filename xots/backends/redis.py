"""The Redis store: records that several processes share, on one host or on many. Redis 6.2 or newer.

The URL takes one of these forms::

    redis://user:password@host:6379/0
    rediss://user@host:6380/0?ca_file=PATH&cert_file=PATH&key_file=PATH&password_file=PATH
    unix:///run/redis/redis.sock?db=0&username=user&password_file=PATH
    sentinel://user@host:26379,host2:26379/service/0?password_file=PATH&sentinel_password_file=PATH&tls=true&ca_file=PATH

User, password, port, database and all options may be left out; ``username`` works in every form. ``password_file``
keeps the password out of the URL, and is read again for each new connection. ``ca_file`` is trusted besides the
system's authorities; ``cert_file`` and ``key_file`` are the client's own certificate. With ``sentinel:``, user,
password, ``tls`` and the certificates are for the servers; the sentinels get ``sentinel_password_file`` only.

What is kept there, each with the account's name at its end: ``xots:record:`` the sealed record, ``xots:lease:`` who
may act, the channel ``xots:changes:`` on which each write is told; and ``xots:check``, a key of a minute's life. So
a user of Redis needs no more than this, which is ``deploy/redis-users.acl`` (a database other than 0 needs
``+select`` too; without ``+info`` there are no warnings at start, without ``+time`` no comparison of
clocks)::

    user xots on #SHA256-OF-THE-PASSWORD resetchannels ~xots:* &xots:changes:* -@all
        +get +set +del +pttl +pexpire +scan +evalsha +script|load +publish +subscribe +ping +info +time

Redis itself acknowledges before a replica has the write, and with ``appendfsync everysec`` a second before its disk
has it: that much a fail-over or a power cut may take.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from ..clock import SystemClock
from ..errors import StaleWrite, StoreUnavailable
from ..tasks import cancel_until_done
from .base import (
    LEASE_PATIENCE_SECONDS,
    LEASE_PREFIX,
    LOOK_EVERY_SECONDS,
    Lease,
    Stored,
    TokenStore,
    checked_name,
)

__all__ = ["RedisStore"]

RECORD, LEASE, CHANGES, CHECK = "xots:record:", "xots:lease:", "xots:changes:", "xots:check"

CONNECT_SECONDS = 2.0
"""For a connection with its TLS handshake: a hundred times what a network in order takes."""
ANSWER_SECONDS = 5.0
"""For an answer: Redis gives one within milliseconds unless it is stopped, swapping or cut off."""
SENTINEL_SECONDS = 1.0
"""For a sentinel's answer: several may have to be asked in turn before one call fails."""
QUIET_SECONDS = 10.0
"""After so long without a notice the server is asked for a sign of life: a cut network line says nothing by itself."""
SWAP = """
local kept = redis.call('GET', KEYS[1])
if (kept and redis.sha1hex(kept) or '') ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[3], '')
return 1
"""

REFUSALS = {
    "MISCONF": "it takes no writes, because it can't save to its disk (MISCONF): its log says why",
    "NOREPLICAS": "it takes no writes, because too few of its replicas are in reach (NOREPLICAS)",
}
"""What to say to refusals that redis-py has no type for, by Redis's own code."""

OPTIONS = {
    "redis": {"username", "password_file"},
    "rediss": {"username", "password_file", "ca_file", "cert_file", "key_file"},
    "unix": {"username", "password_file", "db"},
    "sentinel": {
        "username",
        "password_file",
        "sentinel_password_file",
        "tls",
        "ca_file",
        "cert_file",
        "key_file",
    },
}
"""What may stand after the question mark, by scheme."""


class RedisStore(TokenStore):
    """Keeps records in Redis.

    Args:
        client: answers in bytes, and tries nothing twice. It is closed with the store.
        where: how messages name the server.
        sentinels: further clients to close.
    """

    shared = True
    durable = True

    def __init__(self, client: Redis, where: str, sentinels: Sequence[Redis] = ()) -> None:
        self._redis = client
        self._where = where
        self._sentinels = sentinels
        self._swap = client.register_script(SWAP)

    @classmethod
    def from_url(cls, url: str) -> RedisStore:
        """See ``TokenStore.from_url``, and the head of this module for the URLs."""
        return cls(*_client_from(url))

    async def read(self, name: str) -> Stored | None:
        """See ``TokenStore.read``."""
        async with self._asked():
            value: Any = await self._redis.get(RECORD + checked_name(name))
        return None if value is None else Stored(value, _version(value))

    async def swap(self, name: str, value: bytes, *, expected: str | None) -> str:
        """See ``TokenStore.swap``. One script compares, writes and tells, in one round trip."""
        key = RECORD + checked_name(name)
        async with self._asked():
            written = await self._swap(keys=[key], args=[value, expected or "", CHANGES + name])
        if not written:
            raise StaleWrite(f"{name} was written by somebody else meanwhile")
        return _version(value)

    async def names(self) -> list[str]:
        """See ``TokenStore.names``."""
        async with self._asked():
            keys = {
                key.decode() async for key in self._redis.scan_iter(match=RECORD + "*", count=1000)
            }
        return sorted(
            name for key in keys if not (name := key.removeprefix(RECORD)).startswith(LEASE_PREFIX)
        )

    @asynccontextmanager
    async def lease(self, name: str, ttl_seconds: float) -> AsyncIterator[Lease]:
        """See ``TokenStore.lease``. Redis frees it ``ttl_seconds`` after the last sign of its holder."""
        lock = Lock(self._redis, LEASE + checked_name(name), timeout=ttl_seconds)
        give_up_at = time.monotonic() + LEASE_PATIENCE_SECONDS
        async with self._asked():
            while True:
                # Its time counts from before the request, so that it never outlives Redis's count.
                lease = Lease(ttl_seconds)
                if await lock.acquire(blocking=False):
                    break
                if time.monotonic() > give_up_at:
                    raise StoreUnavailable(
                        f"another process has held the lease of {name} for too long"
                    )
                await asyncio.sleep(LOOK_EVERY_SECONDS)
        renewal = asyncio.create_task(_renew(lock, lease, ttl_seconds))
        try:
            yield lease
        finally:
            await cancel_until_done(renewal)
            # If it can't be given back, or is another's by now, it runs out by itself.
            with suppress(StoreUnavailable):
                async with self._asked():
                    await lock.release()

    async def changes(self, name: str, every_seconds: float = 1.0) -> AsyncIterator[None]:
        """See ``TokenStore.changes``. Redis tells, so nothing is looked at every so often. The first time it yields
        when Redis has begun to tell: what was written just before may have gone untold.
        """
        notices: Any = self._redis.pubsub()
        answer_due = True
        try:
            async with self._asked():
                await notices.subscribe(CHANGES + checked_name(name))
            while True:
                async with self._asked():
                    notice = await notices.get_message(
                        timeout=ANSWER_SECONDS if answer_due else QUIET_SECONDS
                    )
                    if notice is None:
                        if answer_due:
                            raise exceptions.TimeoutError
                        await notices.ping()
                answer_due = notice is None
                if notice is not None and notice["type"] in ("subscribe", "message"):
                    yield
        finally:
            await notices.aclose()

    async def check(self) -> None:
        """See ``TokenStore.check``. Writes and reads back a key of its own, which Redis drops after a minute."""
        mark = secrets.token_hex(8)
        async with self._asked():
            await self._redis.set(CHECK, mark, ex=60)
            # Another process's check may have come between: that something is there is enough.
            if await self._redis.get(CHECK) is None:
                raise StoreUnavailable(f"{self._where}: what was written there can't be read back")

    async def clock_skew(self, name: str) -> tuple[str, timedelta] | None:
        """See ``TokenStore.clock_skew``. Compares with the server's clock; None where the user may
        not read it (TIME)."""
        sent_at = time.time()
        try:
            async with self._asked():
                seconds, microseconds = await self._redis.time()
        except StoreUnavailable as error:
            if isinstance(error.__cause__, exceptions.NoPermissionError):
                return None
            raise
        # The server read its clock at some moment between the request and the response.
        server, received_at = seconds + microseconds / 1e6, time.time()
        here = min(max(server, sent_at), received_at)
        return self._where, timedelta(seconds=server - here)

    async def warnings(self) -> list[str]:
        """See ``TokenStore.warnings``. None where the user may not ask (INFO)."""
        try:
            async with self._asked():
                info: dict[str, Any] = await self._redis.info()
        except StoreUnavailable as error:
            if isinstance(error.__cause__, exceptions.NoPermissionError):
                return []
            raise
        found = []
        if not info.get("aof_enabled") and not info.get("connected_slaves"):
            found.append(
                f"{self._where} has neither an append-only file nor a replica: if it stops suddenly, what was written "
                "since its last snapshot is lost, and perhaps the login with it; set appendonly yes, or add a replica"
            )
        if info.get("maxmemory") and str(info.get("maxmemory_policy")).startswith("allkeys"):
            found.append(
                f"{self._where} drops keys when its memory is full (maxmemory-policy {info['maxmemory_policy']}), the "
                "login among them; set noeviction or one of the volatile policies"
            )
        return found

    async def close(self) -> None:
        """See ``TokenStore.close``."""
        # Whoever no longer answers need not be told goodbye.
        for client in (self._redis, *self._sentinels):
            with suppress(exceptions.RedisError, OSError):
                await client.aclose()

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[None]:
        """Whatever goes wrong with Redis inside becomes a ``StoreUnavailable`` that says what to do."""
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            if not isinstance(error, exceptions.ResponseError) or isinstance(
                error, exceptions.ReadOnlyError
            ):
                # The idle connections lead to the same server, and would each fail one more call.
                with suppress(exceptions.RedisError, OSError):
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
            raise StoreUnavailable(f"{self._where}: {_in_words(error)}") from error


async def _renew(lock: Lock, lease: Lease, ttl_seconds: float) -> None:
    while not lease.lost:
        await asyncio.sleep(ttl_seconds / 4)
        asked_at = SystemClock().elapsed()
        try:
            await lock.extend(ttl_seconds, replace_ttl=True)
        except exceptions.LockNotOwnedError:
            lease.lose()
        except (exceptions.RedisError, OSError):
            continue  # it lasts until its end, which the lease itself knows
        else:
            lease.renewed(ttl_seconds, since=asked_at)


def _version(value: bytes) -> str:
    """As the script computes it. Redis offers SHA-1 only; it need not withstand forgers, since the seal does."""
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()


def _in_words(error: Exception) -> str:
    """What happened, and what to do next."""
    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, ssl.SSLError):
        chain = chain.__cause__ or chain.__context__
    match error:
        case MasterNotFoundError():  # its own text lists clients, whose parts differ by version
            return (
                "no sentinel there names a master in order: look whether they run, know this service by this name, "
                "and take the password in sentinel_password_file (or none)"
            )
        case exceptions.AuthenticationError():
            return f"it does not accept the user and password ({error}): look at both"
        case exceptions.NoPermissionError():
            return f"its user lacks a right ({error}): deploy/redis-users.acl shows all that are needed"
        case exceptions.ReadOnlyError():
            return "it is a read-only replica: name the master, or use sentinel:"
        case exceptions.BusyLoadingError():
            return "it has just started, and is still loading its data"
        case exceptions.OutOfMemoryError():
            return "it takes no writes, because its memory is full: raise maxmemory, or clear up"
        case _ if isinstance(chain, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({chain.verify_message}): look at ca_file and at the host's name"
        case _ if chain is not None:
            return f"TLS failed ({chain.args[-1]}): does it speak TLS there, and demand cert_file and key_file?"
        case exceptions.TimeoutError() | TimeoutError():
            return "it gave no answer in time: is it running and in reach, and TLS used on both sides or on neither?"
        case exceptions.ConnectionError() | OSError():
            return f"it can't be reached ({error}): is it running, and TLS used on both sides or on neither?"
    return REFUSALS.get(str(error).partition(" ")[0], f"it refused: {error}")


class _Credentials(CredentialProvider):
    """The user and the password. A file is read for each new connection, so that a password may change."""

    def __init__(
        self, username: str | None, password: str | None, password_file: str | None
    ) -> None:
        self._username, self._password, self._file = username, password, password_file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._password or ""
        if self._file is not None:
            try:
                password = Path(self._file).read_text().strip()
            except (OSError, UnicodeError) as error:
                raise exceptions.AuthenticationError(
                    f"{self._file} can't be read: {error}"
                ) from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def _client_from(url: str) -> tuple[Redis, str, list[Redis]]:
    """The client for a URL, how messages name its server, and the clients for its sentinels.

    Raises:
        ValueError: see ``TokenStore.from_url``. No part in which a password may stand is quoted.
    """
    try:
        parts = urlsplit(url)
        options = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        )
        userinfo, _, hosts = parts.netloc.rpartition("@")
        addresses = [
            (host.hostname, host.port)
            for host in map(urlsplit, (f"//{part}" for part in hosts.split(",")))
        ]
    except ValueError:
        addresses = []
    if (
        not addresses
        or parts.scheme not in OPTIONS
        or parts.fragment
        or "@" in parts.path + parts.query
    ):
        raise ValueError(
            "it is not written as redis://user:password@host:port/database?option=value; "
            "in a user, a password or a path these must be percent-encoded: @ : / ? # [ ] % and spaces"
        )
    scheme, path = parts.scheme, unquote(parts.path)
    service, _, database = (
        path.strip("/").partition("/") if scheme == "sentinel" else ("", "", path.strip("/"))
    )
    database = options.get("db", "") if scheme == "unix" else database
    username, password = (unquote(part) or None for part in userinfo.partition(":")[::2])
    tls = scheme == "rediss" or options.get("tls") == "true"
    given, known = options.keys(), OPTIONS[scheme]
    for wrong, message in (
        (
            given - known,
            f"{min(given - known, default='')} is no option of {scheme}:, which are {', '.join(sorted(known))}",
        ),
        (
            username and "username" in given,
            "the user stands before the host and in username: give it once",
        ),
        (
            password and "password_file" in given,
            "the password stands in the URL and in password_file: give it once",
        ),
        (options.get("tls", "true") not in ("true", "false"), "tls is true or false"),
        (
            given & {"ca_file", "cert_file", "key_file"} and not tls,
            "certificates say nothing without tls=true",
        ),
        (
            scheme == "unix" and (hosts or path[:1] != "/"),
            "after unix:// comes the absolute path of a socket",
        ),
        (scheme != "unix" and not all(host for host, _ in addresses), "it names no host"),
        (
            scheme == "sentinel" and not service,
            "after the sentinels comes /service, the name of what they watch",
        ),
        (scheme != "sentinel" and len(addresses) > 1, "only sentinel: takes several hosts"),
        (not re.fullmatch(r"[0-9]{0,5}", database), "the database is not a number"),
    ):
        if wrong:
            raise ValueError(message)
    for option in sorted(given):
        if option.endswith("_file"):
            try:
                Path(options[option]).open("rb").close()
            except OSError as error:
                raise ValueError(
                    f"{option}: {options[option]} can't be read: {error.strerror}"
                ) from None

    # Redis need not know the library's version: telling it takes a right more, and is logged where that is missing.
    untold = {"driver_info"} & inspect.signature(Redis).parameters.keys() or {
        "lib_name",
        "lib_version",
    }
    plain: dict[str, Any] = dict.fromkeys(untold) | {
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # the newer one would need more rights, for nothing that is used here
    }
    timeouts = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": ANSWER_SECONDS}
    settings = plain | timeouts | {"db": int(database or 0)}
    if (username := username or options.get("username")) or password or "password_file" in given:
        settings["credential_provider"] = _Credentials(
            username, password, options.get("password_file")
        )
    if tls:
        settings |= {
            "ssl": True,
            "ssl_check_hostname": True,
            "ssl_ca_certs": options.get("ca_file"),
        }
        settings |= {
            "ssl_certfile": options.get("cert_file"),
            "ssl_keyfile": options.get("key_file"),
        }
    if scheme == "unix":
        return Redis(unix_socket_path=path, **settings), f"Redis at {path}", []
    if scheme == "sentinel":
        plain |= {"socket_connect_timeout": SENTINEL_SECONDS, "socket_timeout": SENTINEL_SECONDS}
        if "sentinel_password_file" in given:
            plain["credential_provider"] = _Credentials(
                None, None, options["sentinel_password_file"]
            )
        watchers = [(host, port or 26379) for host, port in addresses]
        manager = Sentinel(watchers, sentinel_kwargs=plain)  # type: ignore[no-untyped-call]
        where = f"Redis by the sentinels at {hosts}, service {service}"
        return manager.master_for(service, **settings), where, manager.sentinels
    ((host, port),) = addresses
    host, port = host or "", port or 6379
    return Redis(host=host, port=port, **settings), f"Redis at {host}:{port}", []
