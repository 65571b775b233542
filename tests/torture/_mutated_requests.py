"""Valid requests, and mutations of their bytes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from hashlib import sha256

__all__ = ["CANARY", "LABELLED_CANARY", "MUTATIONS", "mutated"]

CANARY = b"kanary-7b1f03"
"""The client secret in a form."""

LABELLED_CANARY = re.compile(rb"(?<=[&\n])client_secret=" + CANARY)
"""The client secret where a form has it. A mutation can make it a part of another field, which the
form shows again."""

BOUNDARY = "b0undary"

LINE_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\r\n\x00", b" \r\n")

LENGTHS = (
    *(
        "-1",
        "+5",
        "0x5",
        "5, 5",
        "5, 6",
        "1_0",
        "5.0",
        "",
        " ",
        "\u0663".encode().decode("latin-1"),
    ),
    *(
        "9" * 19,
        "9" * 400,
        str(2**31),
        str(2**63),
        str(2**64),
        "18446744073709551615",
        "00",
        "65537",
    ),
)

CHUNKS = (
    b"5\r\nclien\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b"-1\r\nx\r\n0\r\n\r\n",
    b"+5\r\nclien\r\n0\r\n\r\n",
    b"0x5\r\nclien\r\n0\r\n\r\n",
    b'5;ext="\r\n"\r\nclien\r\n0\r\n\r\n',
    b"5 \r\nclien\r\n0\r\n\r\n",
    b" 5\r\nclien\r\n0\r\n\r\n",
    b"5\nclien\n0\n\n",
    b"5\r\nclient\r\n0\r\n\r\n",
    b"5\r\nclie\r\n0\r\n\r\n",
    b"FFFFFFFFFFFFFFFF\r\nx\r\n0\r\n\r\n",
    b"F" * 300 + b"\r\nx\r\n0\r\n\r\n",
    b"5\r\nclien\r\n0\r\nTrailer: x\r\nHost: evil.example\r\n\r\n",
    b"5\r\nclien\r\n0\r\n: \r\n\r\n",
    b"5\r\nclien",
    b"1\r\nx\r\n" * 500 + b"0\r\n\r\n",
    b"zz\r\n\r\n",
    b"\r\n",
    b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
)

ESCAPES = (
    *("%", "%z", "%zz", "%f", "%ff", "%00", "%0a", "%0d%0aX:%20y", "%c0%af", "%u0041", "%25%25"),
    *(
        "%F0%28%8C%BC",
        "%ED%A0%80",
        "%C2%9B",
        "%E2%80%AE",
        "%1b[31m",
        "+%2b+",
        "%2e%2e%2f",
        ";",
        "&=&",
    ),
)

BAD_BYTES = (
    *(b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\xaf", b"\x00", b"\x1b[31m"),
    *(b"\xc2\x9b", b"\xe2\x80\xae", b"\xef\xbb\xbf", b"\x80\x81", b"\r", b"\n", b"\x7f", b"\x0b"),
)

HEADERS = (
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length : 5",
    b"Expect: 100-continue",
    b"Expect: 200-never",
    b"Content-Encoding: gzip",
    b"Content-Type: multipart/form-data",
    b"Content-Type: multipart/form-data; boundary=",
    b'Content-Type: multipart/form-data; boundary="',
    b"Content-Type: application/x-www-form-urlencoded; charset=bogus",
    b"Content-Type: text/html; charset*=x''%ff",
    b"Connection: close, keep-alive, \xff",
    b"Connection: Host",
    b"Upgrade: h2c",
    b"HTTP2-Settings: ????",
    b"Range: bytes=0-0,-1,5-2",
    b'If-None-Match: W/"' + b"x" * 500,
    b"Authorization: Bearer \xff\x00",
    b"Authorization: Basic !!!!",
    b"Accept: text/html;q=nan",
    b"Accept: text/html;q=inf, text/plain;q=1e400",
    b"Accept: " + b"text/html;q=0.1," * 500,
    b"Accept: ;;;,,,q=",
    b"Accept: text/html;q=\xff",
    b"Origin: \xff",
    b"Origin: http://[",
    b"Origin: http://localhost:99999999999999999999",
    b"Referer: http://[::1",
    b"Referer: http://localhost:\xd9\xa3/",
    b"Referer: //\xff",
    b"Referer: http://localhost:65536000/",
    b"Sec-Fetch-Site: \xff",
    b"Host: evil.example",
    b"X-Forwarded-For: 1.2.3.4, \xff",
    b'Cookie: "\\377\\400\\\\"; =; ;;; a="',
    b'Cookie: xots-form="\\303("; xots-login-x=\xff',
    b"Cookie: " + b"a=b; " * 2000,
    b": no name",
    b"no colon",
    b"X\x00Y: z",
    b"X-Long: " + b"x" * 70_000,
)

FIRST_LINES = (
    *(b"GET /token HTTP/9.9", b"GET /token", b"GET  /token  HTTP/1.1", b"GET\t/token\tHTTP/1.1"),
    *(b"PRI * HTTP/2.0", b"GET /token HTTP/1.10", b"GET /token HTTP/1.1 x", b"get /token HTTP/1.1"),
    *(b"", b"\r\n", b" GET /token HTTP/1.1", b"CONNECT localhost:1 HTTP/1.1", b"\x16\x03\x01\x02"),
    *(b"GET /token?" + b"x" * 70_000 + b" HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET ? HTTP/1.1"),
    *(b"GET /%2e%2e/token HTTP/1.1", b"GET /token#x HTTP/1.1", b"GET http:///token HTTP/1.1"),
    *(
        b"GET /token\xff HTTP/1.1",
        b"G\x00T / HTTP/1.1",
        b"GET http://[ HTTP/1.1",
        b"GET //[ HTTP/1.1",
    ),
)


def _request(
    method: str, target: str, *lines: str, body: bytes = b"", port: int, kind: str = ""
) -> bytes:
    head = [f"{method} {target} HTTP/1.1", f"Host: localhost:{port}", *lines]
    if body:
        head += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def _valid(port: int) -> list[bytes]:
    """Return a valid request of each sort."""
    fields = {"client_id": "someone", "client_secret": CANARY.decode(), "tenant_id": "t"}
    form = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
    parts = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (fields | {"client_secret": "hidden"}).items()
    )
    multipart = f"{parts}--{BOUNDARY}--\r\n".encode()
    here = sha256(f"http://localhost:{port}/code".encode()).hexdigest()[:12]
    form_cookie, login_cookie = f"xots-form-{here}-default", f"xots-login-{here}-{16 * 'a'}-firm"
    cookies = f'Cookie: theme="a\\"b"; {form_cookie}=2|1:0|10:17|aaaa; {login_cookie}=bbbb'
    browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
    urlencoded = "application/x-www-form-urlencoded"
    account = b'{"name": "Not a name", "client_secret": "%s", "scopes": "granular"}' % CANARY
    return [
        _request("GET", "/token", port=port),
        _request("GET", "/token?min_ttl=60", "Accept: text/plain", port=port),
        _request("GET", "/status?x=%41", browser, cookies, port=port),
        _request("GET", "/code?code=abc&state=def&iss=http://x", cookies, port=port),
        _request("GET", "/home", browser, cookies, "Sec-Fetch-Site: none", port=port),
        _request("HEAD", "/login", port=port),
        _request("POST", "/refresh", port=port),
        _request("GET", "/tenants", port=port),
        _request("GET", "/accounts", browser, port=port),
        _request("GET", "/accounts/default/home", browser, cookies, port=port),
        _request("POST", "/accounts", body=account, kind="application/json", port=port),
        _request("POST", "/login", body=form, kind=urlencoded, port=port),
        _request("POST", "/home", cookies, body=b"scopes=granular", kind=urlencoded, port=port),
        _request(
            "POST", "/", body=multipart, kind=f"multipart/form-data; boundary={BOUNDARY}", port=port
        ),
        _request("POST", "/login", "Transfer-Encoding: chunked", port=port)
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(form), form),
    ]


# ---------- the mutations


def _split(request: bytes) -> tuple[list[bytes], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    return head.split(b"\r\n"), body


def _joined(lines: list[bytes], body: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""]) + body


def _flip_bytes(rng: random.Random, request: bytes) -> bytes:
    changed = bytearray(request)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _insert_bytes(rng: random.Random, request: bytes) -> bytes:
    at = rng.randrange(len(request))
    return request[:at] + rng.choice(BAD_BYTES) * rng.choice((1, 1, 50)) + request[at:]


def _remove_bytes(rng: random.Random, request: bytes) -> bytes:
    at = rng.randrange(len(request))
    return request[:at] + request[at + rng.randint(1, 20) :]


def _repeat_bytes(rng: random.Random, request: bytes) -> bytes:
    at = rng.randrange(len(request))
    end = at + rng.randint(1, 40)
    return request[:end] + request[at:end] * rng.choice((1, 3, 2000)) + request[end:]


def _change_line_ends(rng: random.Random, request: bytes) -> bytes:
    end = rng.choice(LINE_ENDS)
    return request.replace(b"\r\n", end, rng.choice((-1, 1, 2, 3)))


def _fold_header(rng: random.Random, request: bytes) -> bytes:
    lines, body = _split(request)
    at = rng.randrange(len(lines))
    cut = rng.randrange(len(lines[at]) + 1)
    lines[at] = (
        lines[at][:cut] + rng.choice((b"\r\n ", b"\r\n\t", b"\n ", b"\r\n")) + lines[at][cut:]
    )
    return _joined(lines, body)


def _add_header(rng: random.Random, request: bytes) -> bytes:
    lines, body = _split(request)
    for _ in range(rng.choice((1, 1, 2, 4))):
        lines.insert(rng.randint(1, len(lines)), rng.choice(HEADERS))
    return _joined(lines, body)


def _add_many_headers(rng: random.Random, request: bytes) -> bytes:
    lines, body = _split(request)
    return _joined([*lines, *(b"X-%d: y" % n for n in range(rng.choice((50, 500, 5000))))], body)


def _change_length(rng: random.Random, request: bytes) -> bytes:
    lines, body = _split(request)
    lines = [line for line in lines if not line.lower().startswith(b"content-length")]
    return _joined([*lines, b"Content-Length: " + rng.choice(LENGTHS).encode("latin-1")], body)


def _chunk_body(rng: random.Random, request: bytes) -> bytes:
    lines, _ = _split(request)
    lines[0] = b"POST" + lines[0][lines[0].find(b" ") :]
    lines = [line for line in lines if not line.lower().startswith(b"content-length")]
    return _joined([*lines, b"Transfer-Encoding: chunked"], rng.choice(CHUNKS))


def _smuggle(rng: random.Random, request: bytes) -> bytes:
    lines, _ = _split(request)
    lines[0] = b"POST" + lines[0][lines[0].find(b" ") :]
    length = b"Content-Length: %d" % rng.choice((0, 4, 6, 30))
    coding = rng.choice([header for header in HEADERS if header.startswith(b"Transfer")])
    extra = [length, coding] if rng.random() < 0.5 else [coding, length]
    inner = b"GET /token HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    return _joined([*lines, *extra], b"0\r\n\r\n" + inner)


def _escape_target(rng: random.Random, request: bytes) -> bytes:
    first, end, rest = request.partition(b"\r\n")
    at = rng.randint(first.find(b"/") + 1, len(first))
    return first[:at] + rng.choice(ESCAPES).encode() + first[at:] + end + rest


def _change_query(rng: random.Random, request: bytes) -> bytes:
    lines, body = _split(request)
    value = rng.choice((*ESCAPES, "9" * 400, "-1", "1e9", "0" * 70_000, "\u0663")).encode()
    name = rng.choice((b"min_ttl", b"code", b"state", b"iss", b"error", b"error_description"))
    path = rng.choice((b"/token", b"/code", b"/tenants", b"/home"))
    query = b"&".join([name + b"=" + value] * rng.choice((1, 1, 2)))
    lines[0] = b"GET " + path + b"?" + query + b" HTTP/1.1"
    return _joined(lines, body)


def _change_first_line(rng: random.Random, request: bytes) -> bytes:
    lines, body = _split(request)
    return _joined([rng.choice(FIRST_LINES), *lines[1:]], body)


def _break_body(rng: random.Random, request: bytes) -> bytes:
    """Put bad bytes or escapes into the body, and keep its length right."""
    lines, body = _split(request)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(body))
        bad = rng.choice((*BAD_BYTES, *(escape.encode() for escape in ESCAPES), b"\r\n--" + b"x"))
        body = body[:at] + bad + body[at + rng.choice((0, 1, 5)) :]
    lines = [line for line in lines if not line.lower().startswith(b"content-length")]
    if b"chunked" not in b"".join(lines):
        lines.append(b"Content-Length: %d" % len(body))
    return _joined(lines, body)


def _truncate(rng: random.Random, request: bytes) -> bytes:
    return request[: rng.randrange(len(request))]


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip_bytes,
    _insert_bytes,
    _remove_bytes,
    _repeat_bytes,
    _change_line_ends,
    _fold_header,
    _add_header,
    _add_many_headers,
    _change_length,
    _chunk_body,
    _smuggle,
    _escape_target,
    _change_query,
    _change_first_line,
    _break_body,
    _truncate,
)


def mutated(rng: random.Random, port: int) -> bytes:
    """Return a request, or a pipeline of some, with one to three mutations in most."""
    valid = _valid(port)
    pipeline = [rng.choice(valid) for _ in range(rng.choice((1, 1, 1, 1, 2, 4)))]
    at = rng.randrange(len(pipeline))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # A mutation needs some bytes: a truncated request may have none left.
        pipeline[at] = rng.choice(MUTATIONS)(rng, pipeline[at] or b"x")
    return b"".join(pipeline)
