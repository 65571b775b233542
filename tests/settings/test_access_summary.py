"""The sentence of ``xots check`` about who may read the token, against the decisions themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from support.readers import bearer, reader

from xots.access import (
    TOKEN_SCOPES,
    Peer,
    Reader,
    Rules,
    Scope,
    Transport,
    identify,
)
from xots.access_summary import Summary, who_may_read
from xots.errors import AccessError
from xots.peers import group_text, user_text
from xots.settings import Settings
from xots.settings.parsing import ANYONE, NO_ADDRESS

FILE, SOCKET = Path("/etc/xots-readers"), Path("/run/xots/sock")

ROOT, SERVER, ALICE, BOB = 0, 998, 1000, 1001
"""The users of the machine: ``SERVER`` runs xots, and only Bob is in the group."""

GROUP = 33

LOCAL, OTHER = "127.0.0.1", "0.0.0.0"  # noqa: S104 - no program listens


METRICS = reader("metrics", Scope.METRICS)
FILES = (
    (METRICS,),
    (reader("good", Scope.TOKEN), METRICS),
    (reader("good", Scope.TOKEN, Scope.METRICS), reader("owner", Scope.ADMIN, Scope.TOKEN)),
)
"""What the file of readers may hold."""


def summary(file: tuple[Reader, ...] = (), **settings: Any) -> Summary:
    return who_may_read(
        Settings(**settings), file, lambda uid: f"user {uid}", lambda gid: f"group {gid}"
    )


def all_settings() -> Iterator[tuple[dict[str, Any], tuple[Reader, ...]]]:
    """Yield every combination of the settings of access with which a server starts."""
    for address, (readers, file), users, (socket, group), tls in product(
        (LOCAL, "::1", "localhost", OTHER, "2001:db8::1", NO_ADDRESS),
        ((None, ()), (ANYONE, ()), *((FILE, one) for one in FILES)),
        ((), (ALICE,), (ALICE, ROOT)),
        ((None, None), (SOCKET, None), (SOCKET, GROUP)),
        (None, Path("/etc/cert.pem")),
    ):
        is_other = address not in (LOCAL, "::1", "localhost", NO_ADDRESS)
        if (is_other and readers is None) or (address == NO_ADDRESS and socket is None):
            continue
        yield (
            {
                "address": address,
                "readers": readers,
                "allowed_users": users,
                "unix_socket": socket,
                "unix_socket_group": group,
                "tls_certificate": tls,
                "tls_key": tls,
            },
            file,
        )


@dataclass(frozen=True)
class Attempt:
    """A request for a token."""

    uid: int | None
    """The user of this machine that connects; None: another machine does."""
    key: str | None
    """The reader whose key it has."""
    is_passed_on: bool
    """A proxy sends it, for another machine."""


ATTEMPTS = [
    Attempt(*one)
    for one in product(
        (ROOT, SERVER, ALICE, BOB, None), (None, "good", "metrics", "wrong"), (False, True)
    )
]


# ---------- the truth


def is_served(settings: Settings, file: tuple[Reader, ...], attempt: Attempt) -> bool:
    """Tell if a server with these settings gives a token to the attempt in some way."""
    return any(
        _may_connect(settings, attempt, transport)
        and _is_permitted(settings, file, attempt, transport)
        for transport in (Transport.TCP, Transport.UNIX)
    )


def _may_connect(settings: Settings, attempt: Attempt, transport: Transport) -> bool:
    if transport is Transport.TCP:
        is_other = settings.address in (OTHER, "2001:db8::1")
        return is_other or (settings.address != NO_ADDRESS and attempt.uid is not None)
    has_group = settings.unix_socket_group is not None
    holders = (ROOT, SERVER, BOB) if has_group else (ROOT, SERVER)
    return settings.unix_socket is not None and attempt.uid in holders


def _is_permitted(
    settings: Settings, file: tuple[Reader, ...], attempt: Attempt, transport: Transport
) -> bool:
    rules = Rules(
        readers={one.digest: one for one in file} if settings.readers == FILE else None,
        serves_anyone=settings.readers == ANYONE,
        allowed_users=settings.allowed_users or None,
    )
    is_local = attempt.uid is not None
    peer = Peer(
        transport=transport,
        uid=attempt.uid,
        address={True: "127.0.0.1", False: "192.0.2.1"}[is_local]
        if transport is Transport.TCP
        else None,
    )
    authorization = [*bearer(attempt.key).values()] if attempt.key else []
    try:
        caller = identify(rules, peer, authorization, "Via" if attempt.is_passed_on else None)
        caller.check_scopes(TOKEN_SCOPES)
    except AccessError:
        return False
    return True


# ---------- the sentence, read word by word


def is_claimed(text: str, attempt: Attempt) -> bool:
    """Tell if the sentence says that the attempt is served."""
    parts = [part for part in text.split("; ") if not part.startswith("machines on the way ")]
    last = parts[-1]
    if last == "every machine whose requests a program of theirs passes on (readers: anyone)":
        directly = Attempt(attempt.uid, attempt.key, is_passed_on=False)
        return any(_claims(part, directly, parts) for part in parts[:-1])
    return any(_claims(part, attempt, parts) for part in parts)


def _claims(part: str, attempt: Attempt, parts: list[str]) -> bool:
    """Tell if one part of the sentence says that the attempt is served."""
    uid, has_key = attempt.uid, attempt.key == "good"
    if part.startswith("every program of every user on this machine ("):
        return uid is not None and not attempt.is_passed_on
    if part.startswith("every program that can connect to "):
        return True
    if part.startswith("no program over TCP ("):
        return False
    if found := re.fullmatch(r"over \S+(?: without a key)?: ([^;]*)", part):
        return _names(found[1], uid) and not attempt.is_passed_on
    if part.endswith(", if a proxy passes on their requests to this socket"):
        [socket] = (one for one in parts if one.startswith("over "))
        return has_key and attempt.is_passed_on and _names(socket.partition(": ")[2], uid)
    if part.endswith(", on this machine or through a proxy on it"):
        return has_key and uid is not None
    programs, _, users = part.partition(", if they run as ")
    if users and str(uid) not in re.findall(r"user (\d+)", users):
        return False
    if programs == "programs":
        return not attempt.is_passed_on
    assert re.match(r"programs with (the only key|one of \d+ keys) of \S+ \(", programs), part
    return has_key


def _names(text: str, uid: int | None) -> bool:
    """Tell if the users of a socket, in words, include this one."""
    holders, _, only = text.partition(", but only ")
    words = {ROOT: "root", SERVER: "the user of xots", BOB: f"group {GROUP}"}
    is_holder = uid in words and words[uid] in holders.split(", ")
    return is_holder and (not only or str(uid) in re.findall(r"user (\d+)", only))


def test_the_sentence_is_true_of_every_attempt_with_all_settings() -> None:
    """Each user of the machine and another machine, with each key, directly or through a proxy,
    gets a token if the sentence says so, and only then."""
    count = 0
    for settings, file in all_settings():
        text = summary(file, **settings).text
        for attempt in ATTEMPTS:
            served = is_served(Settings(**settings), file, attempt)
            assert is_claimed(text, attempt) is served, (settings, attempt, text)
            count += 1
    assert count > 10_000


def test_it_warns_if_other_machines_need_no_key_or_can_listen() -> None:
    """That is so with ``readers: anyone``, and if a key crosses the network without TLS."""
    for settings, file in all_settings():
        found = summary(file, **settings)
        comes_from_outside = settings["address"] in (OTHER, "2001:db8::1")
        is_heard = comes_from_outside and not settings["allowed_users"] and not settings["tls_key"]
        assert ("machines on the way can read" in found.text) is is_heard
        assert found.warned is (is_heard or settings["readers"] == ANYONE)
        assert len(found.text.splitlines()) == 1


KEYS = (
    reader("a", Scope.TOKEN),
    reader("b", Scope.TOKEN, accounts=frozenset({"smith"})),
    reader("c", Scope.ADMIN),
    METRICS,
)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {},
            "every program of every user on this machine (set readers or allowed_users, or "
            "unix_socket with address: none)",
        ),
        (
            {"readers": FILE, "unix_socket": SOCKET},
            "programs with one of 3 keys of /etc/xots-readers (token: 2, admin: 1, limited to some "
            "accounts: 1), on this machine or through a proxy on it; over /run/xots/sock without a "
            "key: root, the user of xots",
        ),
        ({"allowed_users": (1000, 0)}, "programs, if they run as user 1000 or user 0"),
        (
            {"address": NO_ADDRESS, "unix_socket": SOCKET, "unix_socket_group": 33},
            "over /run/xots/sock: root, the user of xots, group 33",
        ),
        (
            {"address": OTHER, "readers": ANYONE},
            "every program that can connect to 0.0.0.0:5001 (readers: anyone); machines on the way "
            "can read what is sent (set tls_certificate and tls_key)",
        ),
        (
            {"address": "2001:db8::1", "readers": ANYONE, "tls_certificate": FILE},
            "every program that can connect to [2001:db8::1]:5001 (readers: anyone)",
        ),
        (
            {"readers": ANYONE},
            "every program of every user on this machine (readers: anyone); every machine whose "
            "requests a program of theirs passes on (readers: anyone)",
        ),
    ],
)
def test_the_sentence_is_plain(settings: dict[str, Any], text: str) -> None:
    """It counts the keys that can read a token: that of a monitor can not."""
    assert summary(KEYS if settings.get("readers") == FILE else (), **settings).text == text


def test_users_and_groups_have_their_names() -> None:
    """The id stands behind the name; it stands alone if there is no name."""
    assert user_text(0) == "user root (0)"
    assert re.fullmatch(r"group \S+ \(0\)", group_text(0))
    assert (user_text(2**31 - 2), group_text(2**31 - 2)) == ("user 2147483646", "group 2147483646")
    assert group_text(2**64) == "group 18446744073709551616"
