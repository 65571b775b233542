"""Requests near those that the express lane repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator

from support.guard_oracle import Oracle, Verdict

from torture._lane_world import Act, Step
from torture._mutated_requests import LINE_ENDS, MUTATIONS, mutated
from torture.headers import Matrix
from xots.web.express import MAX_KNOWN_HEAD_BYTES

__all__ = [
    "TARGETS",
    "embedded",
    "ends",
    "followers",
    "fuzzed",
    "known_heads",
    "matrix",
    "mutated_requests",
    "pipelines",
    "request",
    "splits",
]

TARGETS = ("/token", "/token?min_ttl=60", "/accounts/default/token", "/token?tenant=unknown")
"""Targets of a token, of which the lane repeats the first three."""

OTHER_TARGETS = (
    *("/livez", "/ping", "/status", "/nothing", "/accounts/default", "/tenants?x=%00", "*"),
    *("/accounts/unknown/token", "/accounts/Default/token", "//evil.example/token", "/token/"),
)
"""Targets of requests that change nothing and respond to equal requests with equal bytes."""


def request(port: int, target: str = "/token", *lines: str, method: str = "GET") -> bytes:
    """Return a request without a body."""
    head = [f"{method} {target} HTTP/1.1", f"Host: localhost:{port}", *lines]
    return "\r\n".join([*head, "", ""]).encode()


def known_heads(port: int) -> list[bytes]:
    """Return heads that the lane repeats the response to."""
    return [
        request(port),
        request(port, "/token?min_ttl=60", "Accept: text/plain"),
        request(port, "/accounts/default/token", "User-Agent: program/1", "Connection: keep-alive"),
        request(port, "/token", "Connection: close"),
    ]


def matrix(port: int, seed: int, count: int) -> Iterator[bytes]:
    """Return requests of the guard's matrix, most of them for a token. The guard permits half of
    them at least."""
    cases, oracle = Matrix(port, seed), Oracle(port)
    cases.targets = [*TARGETS, *TARGETS, *TARGETS[:3], *OTHER_TARGETS]
    cases.targets.append(f"http://localhost:{port}/token")
    cases.methods = [*("GET",) * 8, "HEAD", "POST", "OPTIONS"]
    left = {True: count - count // 2, False: count // 2}
    for case in cases.cases(60 * count):
        is_served = oracle.decide(case).verdict is Verdict.SERVED
        is_used = case.target in (TARGETS if is_served else cases.targets)
        if is_used and left[is_served]:
            left[is_served] -= 1
            yield case.encoded()


def fuzzed(port: int, seed: int, count: int) -> Iterator[bytes]:
    """Return requests for a token with one to three mutations, and mutated pipelines."""
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")  # noqa: S311 - a reproducible choice
        found = rng.choice(known_heads(port))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            found = rng.choice(MUTATIONS)(rng, found or b"x")
        yield found


def mutated_requests(port: int, seed: int, count: int) -> Iterator[bytes]:
    """Return mutated requests of all kinds, some of which act."""
    for number in range(count):
        yield mutated(random.Random(f"{seed}/{number}"), port)  # noqa: S311 - as above


def splits(head: bytes, rng: random.Random, *, in_three: int) -> Iterator[list[Step]]:
    """Return every split of a head in two writes, some in three, and each byte by itself, each
    after the whole head."""
    for at in range(1, len(head)):
        yield [head, head[:at], head[at:]]
    for _ in range(in_three):
        one, two = sorted(rng.sample(range(1, len(head)), 2))
        yield [head, head[:one], head[one:two], head[two:]]
    yield [head, *(head[at : at + 1] for at in range(len(head)))]


def pieces(port: int) -> dict[str, bytes]:
    """Return requests to build pipelines of, by kind."""
    body = b"client_id=a"
    return {
        "known": request(port),
        "text": request(port, "/token", "Accept: text/plain"),
        "other": request(port, "/livez"),
        "refused": request(port, "/token", "Origin: http://evil.example"),
        "closing": request(port, "/token", "Connection: close"),
        "1.0": request(port).replace(b"HTTP/1.1", b"HTTP/1.0"),
        "1.0 kept": request(port, "/token", "Connection: keep-alive").replace(b"/1.1", b"/1.0"),
        "posted": request(port, "/token", f"Content-Length: {len(body)}", method="POST") + body,
        "chunked": request(port, "/token", "Transfer-Encoding: chunked", method="POST")
        + b"5\r\nclien\r\n0\r\n\r\n",
        "with length": request(port, "/token", "Content-Length: 5") + b"12345",
        "HEAD": request(port, method="HEAD"),
        "bare LF": request(port).replace(b"\r\n", b"\n"),
        "empty line": b"\r\n" + request(port),
        "nonsense": b"nonsense\r\n\r\n",
    }


def pipelines(port: int, rng: random.Random, cuts: int) -> Iterator[list[Step]]:
    """Return each pair of requests in one write, alone after the other, and cut at some places."""
    found = pieces(port)
    for one in found.values():
        for two in found.values():
            yield [one + two, found["known"]]
            yield [found["known"] + one, two]
            yield [one, two, found["known"]]
            both = one + two
            for at in rng.sample(range(1, len(both)), cuts):
                yield [both[:at], both[at:], found["known"]]
    for _ in range(cuts * 20):
        some = b"".join(rng.choices(list(found.values()), k=rng.randint(3, 6)))
        at = rng.randrange(1, len(some))
        yield [some[:at], some[at:]]


def ends(port: int, rng: random.Random, count: int) -> Iterator[list[Step]]:
    """Return requests after which the client ends its half of the connection, or resets it."""
    known, other = request(port), request(port, "/livez")
    for act in Act:
        yield [act]
        for head in (*known_heads(port), other):
            yield [head, act]
            yield [known, head + known[:20], act]
            for at in rng.sample(range(1, len(head)), count):
                yield [head[:at], act]
                yield [known, head[:at], act]


def followers(port: int, rng: random.Random, count: int) -> Iterator[list[Step]]:
    """Return what may arrive while a request of the same connection waits.

    The client ends its half after one further request at most. Tornado loses the response to a
    second one, if it reads the end with it; the lane does not.
    """
    found = list(pieces(port).values())
    for one in found:
        for end in ([], [Act.END], [Act.RESET]):
            yield [one, *end]
            yield [one[:20], *end]
            yield [one[:20], one[20:], *end]
    for _ in range(count):
        one, two = rng.choices(found, k=2)
        at = rng.randrange(1, len(one + two))
        yield [(one + two)[:at], (one + two)[at:]]


def embedded(port: int) -> Iterator[list[Step]]:
    """Return known heads within other requests, and near misses of a known head."""
    known, host = request(port), f"Host: localhost:{port}"
    posted = request(port, "/token", f"Content-Length: {len(known)}", method="POST")
    chunked = request(port, "/token", "Transfer-Encoding: chunked", method="POST")
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(known), known)
    for end in (known, b""):
        yield [posted + known, end]
        yield [posted, known, end]
        yield [posted.replace(b"POST", b"GET"), known, end]
        yield [chunked + chunk, end]
        yield [chunked, b"%x\r\n" % len(known), known, b"\r\n0\r\n\r\n", end]
    for begin in (f"GET /livez HTTP/1.1\r\n{host}\r\nX-Value: ", "GET /livez?", "GET ", "\x00"):
        yield [begin.encode(), known, known]
        yield [begin.encode() + known, known]
    lines = known.removesuffix(b"\r\n")
    for line in _odd_lines():
        yield [lines + line + b"\r\n\r\n"]
        yield [lines + line + b"\r\n\r\n" + known]
    for end in LINE_ENDS:
        yield [known.replace(b"\r\n", end)]
        yield [known.replace(b"\r\n", end, 1)]
        yield [lines + end, known]
    for before in (b"\r\n", b"\n", b"\r\n\r\n", b" ", b"\x00", b"\x16\x03\x01", b"\xef\xbb\xbf"):
        yield [before + known, known]
        yield [before, known]
        yield [known, before, known]
    at_bound = (MAX_KNOWN_HEAD_BYTES + further for further in (-1, 0, 1))
    for total in (*at_bound, 3 * MAX_KNOWN_HEAD_BYTES):
        long = lines + b"X: " + b"x" * (total - len(known) - 5) + b"\r\n\r\n"
        yield [long]
        yield [long + known, known]
        yield [long + long]


def _odd_lines() -> tuple[bytes, ...]:
    return (
        *(b"Expect: 100-continue", b"Expect: nothing", b"Content-Length: 0", b"content-length:0"),
        *(b"Content-Length: 5\r\n\r\n12345", b"Content-Length : 0", b"Transfer-Encoding: chunked"),
        *(b"Transfer-Encoding: identity", b"Transfer-Encoding : chunked", b"Cookie: a=b"),
        *(b"Connection: Close", b"Connection: keep-alive, close", b"Connection: close, x"),
        *(b"Connection: close\r\nConnection: keep-alive", b"Proxy-Connection: close", b"TE: x"),
        *(b"X: a\r\n b", b"X: a\r\n\tb", b" X: a", b"X: \x00", b"X\x00: a", b"X: \x0b", b"X: \xff"),
        *(b"X: a\rb", b"X: a\nb", b"X: a\n\nb", b"X: ", b": x", b"no colon", b"X:a: b"),
        *(
            b"X: GET /token HTTP/1.1",
            b"Host: localhost",
            b"host: evil.example",
            b"Range: bytes=0-9",
        ),
        *(b"If-None-Match: *", b"If-Modified-Since: Sat, 01 Jan 2050 00:00:00 GMT", b"Date: x"),
        *(
            b"Accept-Encoding: gzip",
            b"Content-Encoding: gzip",
            b"Upgrade: websocket",
            b"Via: 1.1 a",
        ),
        *(
            b"X-Forwarded-For: 1.2.3.4",
            b"X-HTTP-Method-Override: POST",
            b"Authorization: Basic eDp5",
        ),
        *(b"Authorization: Bearer x", b"Authorization:", b"Accept: text/plain;q=0", b"Accept: x/y"),
    )
