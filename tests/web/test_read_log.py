"""Who has read an access token: the counts, and their bounds."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.accounts import NOW

from xots.access import Peer, Transport
from xots.web.read_log import MAX_READERS, OTHERS, ReadLog

SECOND = timedelta(seconds=1)


def test_the_reader_that_has_read_last_comes_first() -> None:
    """Of each account by itself, with the first and the last time."""
    reads = ReadLog()
    for number, (account, reader) in enumerate(
        [("a", "one"), ("a", "two"), ("b", "one"), ("a", "one")]
    ):
        reads.note(account, reader, NOW + number * SECOND)
    found = [(one.reader, one.count, one.first_at, one.last_at) for one in reads.of("a")]
    assert found == [("one", 2, NOW, NOW + 3 * SECOND), ("two", 1, NOW + SECOND, NOW + SECOND)]
    assert [(one.reader, one.count) for one in reads.of("b")] == [("one", 1)]
    assert reads.of("c") == []


@pytest.mark.safeguard(
    file="web/read_log.py",
    old="        if len(of_account) > MAX_READERS:",
    new="        if False:",
    protects_from="memory that grows with each address that reads a token",
)
def test_many_readers_do_not_hide_one_that_reads_again_and_again() -> None:
    """Those that have not read for longest count together. No read is lost."""
    reads, number = ReadLog(), 3 * MAX_READERS
    for each in range(number):
        reads.note("a", f"ip:{each}", NOW + each * SECOND)
        reads.note("a", "report", NOW + each * SECOND)
    found = {one.reader: one for one in reads.of("a")}
    assert len(found) == MAX_READERS
    assert found["report"].count == number
    assert found[OTHERS].first_at == NOW
    assert sum(one.count for one in found.values()) == 2 * number
    assert next(iter(found)) == "report"


@pytest.mark.parametrize(
    ("uid", "address", "name"),
    [
        (1000, "127.0.0.1", "uid:1000"),
        (None, "127.0.0.1", "(unknown)"),
        (None, "127.3.2.1", "(unknown)"),
        (None, "::1", "(unknown)"),
        (None, "192.0.2.7", "ip:192.0.2.7"),
        (None, None, "(unknown)"),
    ],
)
def test_a_caller_without_a_key_has_the_name_of_its_user_or_its_address(
    uid: int | None, address: str | None, name: str
) -> None:
    """A local program that hides its user can't choose among the addresses of loopback."""
    for transport in (Transport.TCP, Transport.TLS) if address else (Transport.UNIX,):
        assert Peer(transport=transport, uid=uid, address=address).name == name
