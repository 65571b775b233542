"""Parsers of settings: each turns the text of one setting into its value.

A parser raises ValueError if the text has no valid value. Its message never repeats the text, since
a secret may stand in any setting by mistake. Parsers are pure, with these exceptions:
``readable_file`` and ``certificates`` read the file that the text names, ``store`` looks up the
installed stores, and ``users`` and ``group`` the users and groups of this machine.
"""

from __future__ import annotations

import grp
import math
import os
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from ..backends import scheme_of
from ..errors import StoreError
from ..peers import MAX_ID, uid_of_user
from ..secret import Secret
from ..xero.http import Proxy
from ..xero.requests import OWN_PARAMETERS
from ..xero.scopes import scopes

__all__ = [
    "ANYONE",
    "NO_ADDRESS",
    "account_name",
    "address",
    "authorize_params",
    "boolean",
    "certificates",
    "choice",
    "group",
    "holds_password",
    "hosts",
    "integer",
    "is_localhost",
    "is_loopback",
    "keys",
    "optional_url",
    "printable",
    "proxy",
    "readable_file",
    "readers",
    "redirect",
    "scopes",
    "seconds",
    "secret",
    "socket_path",
    "store",
    "url",
    "users",
]

# ---------- numbers and words


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,19}", text) or not low <= int(text) <= high:
            raise ValueError(f"the value must be a whole number from {low} to {high}")
        return int(text)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of numbers of seconds from ``low`` to ``high``."""

    def parse(text: str) -> float:
        number = math.nan  # which is in no range
        with suppress(ValueError):
            number = float(text)
        if not low <= number <= high:
            raise ValueError(f"the value must be a number of seconds from {low:g} to {high:g}")
        return number

    return parse


BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def boolean(text: str) -> bool:
    """Parse true or false. Upper and lower case are the same."""
    if text.lower() not in BOOLEANS:
        raise ValueError("the value must be true or false")
    return BOOLEANS[text.lower()]


def choice(*choices: str) -> Callable[[str], str]:
    """Return a parser of one of these words. Upper and lower case are the same."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"the value must be one of: {', '.join(choices)}")
        return text.lower()

    return parse


MAX_WORD = 512
"""Upper bound on an id or a secret. Xero's have less than 100 characters."""


def printable(text: str) -> str:
    """Parse one word of printable characters."""
    if not text.isprintable() or text.split() != [text]:
        raise ValueError("the value is empty, or holds a space or a control character")
    if len(text) > MAX_WORD:
        raise ValueError(f"the value has more than {MAX_WORD} characters")
    return text


ACCOUNT_NAME = re.compile("(?!lease-)[a-z0-9-]{1,64}")
"""The store itself uses names that begin with ``lease-``."""


def account_name(text: str) -> str:
    """Parse the name of an account."""
    return _matching(
        ACCOUNT_NAME,
        text,
        "the value is not an account name: use up to 64 lower-case letters, digits and hyphens, "
        "and do not begin with lease-",
    )


def _words(text: str) -> list[str]:
    """Return the parts of a text that spaces, commas or line ends separate."""
    return text.replace(",", " ").split()


def _matching(pattern: re.Pattern[str], text: str, problem: str) -> str:
    """Return the text if the pattern matches all of it. Otherwise raise ValueError."""
    if not pattern.fullmatch(text):
        raise ValueError(problem)
    return text


# ---------- readers and users

ANYONE = "anyone"
"""The value of ``readers`` with which no request needs a key."""


def readers(text: str) -> Path | str:
    """Parse the path of a file of readers, or ``anyone``."""
    if not text:
        raise ValueError("the value is empty; leave the setting out to need no keys")
    return ANYONE if text.lower() == ANYONE else Path(text)


def users(text: str) -> tuple[int, ...]:
    """Parse names or ids of users of this machine, separated by spaces or commas."""
    found = tuple(dict.fromkeys(map(uid_of_user, _words(text))))
    if not found:
        raise ValueError("the value names no user; leave the setting out to let all users connect")
    return found


def group(text: str) -> int:
    """Parse the name or the id of a group of this machine."""
    if re.fullmatch("[0-9]{1,10}", text) and int(text) < MAX_ID:
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise ValueError("the value names no group of this machine") from None


MAX_SOCKET_PATH_BYTES = 107
"""Upper bound on the path of a Unix socket: ``sun_path`` of unix(7), less the final null."""


def socket_path(text: str) -> Path:
    """Parse the path of a Unix socket."""
    path = Path(text).absolute()
    if "\0" in text or len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"the path of a socket has at most {MAX_SOCKET_PATH_BYTES} bytes")
    return path


# ---------- secrets


def secret(text: str) -> Secret:
    """Parse a secret: one word of printable characters."""
    return Secret(printable(text))


def keys(text: str) -> tuple[Secret, ...]:
    """Parse sealing keys, separated by spaces, commas or line ends. As in a key file, lines that
    begin with ``#`` are comments."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return tuple(map(Secret, _words("\n".join(lines))))


PASSWORD = re.compile("://[^/]*:[^/]*@")


def holds_password(text: str) -> bool:
    """Tell if the text is a URL with a password before the host name."""
    return bool(PASSWORD.search(text))


# ---------- addresses

NO_ADDRESS = "none"
"""The value of an address at which no one listens."""

LOCAL_NAMES = ("localhost", NO_ADDRESS)


def address(text: str) -> str:
    """Parse an IP address, with or without the brackets of IPv6, ``localhost`` or ``none``."""
    if text in LOCAL_NAMES:
        return text
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        raise ValueError(
            "the value must be an IP address, such as 127.0.0.1 or ::1, or localhost, or none"
        ) from None


def is_loopback(address: str) -> bool:
    """Tell if only this machine can reach ``address``, as ``address()`` returns it."""
    return address in LOCAL_NAMES or ip_address(address).is_loopback


def is_localhost(address: str) -> bool:
    """Tell if a browser on this machine reaches ``address``, as ``address()`` returns it, by the
    name ``localhost``. Xero permits http in a redirect URI for this name only."""
    return address in ("127.0.0.1", "::1", *LOCAL_NAMES)


HOST = re.compile(r"([\w.-]+|\[[0-9a-f:.]+\])(:[0-9]*)?")


def hosts(text: str) -> tuple[str, ...]:
    """Parse host names with or without ports, separated by spaces or commas."""
    names = _words(text.lower())
    problem = "one of the values is not a host name, with or without a port"
    return tuple(_matching(HOST, name, problem) for name in names)


# ---------- URLs

Rules = tuple[tuple[str, Callable[[SplitResult], bool]], ...]
"""Each rule is a statement about a URL, and the test that it is true."""

URL_RULES: Rules = (
    ("must not hold a space or a control character", lambda url: _is_word(url.geturl())),
    ("must not hold a user name or a password", lambda url: "@" not in url.geturl()),
    ("must begin with http:// or https://", lambda url: url.scheme in ("http", "https")),
    ("must have a host name", lambda url: bool(url.hostname)),
    ("must not have port 0", lambda url: url.port != 0),
    ("must not have a fragment", lambda url: not url.fragment),
)

REDIRECT_RULES: Rules = (
    *URL_RULES,
    ("must not have a query string", lambda url: not url.query),
    ("must have the path /code of this server", lambda url: url.path == "/code"),
)

PROXY_RULES: Rules = (
    (
        "must begin with http://, as http://proxy.example:3128 does",
        lambda url: url.scheme == "http",
    ),
    ("must have a host name", lambda url: bool(url.hostname)),
    ("must end after the port", lambda url: url.path in ("", "/") and not url.query + url.fragment),
)


def _is_word(text: str) -> bool:
    return text.isprintable() and " " not in text


def _split(text: str, rules: Rules) -> SplitResult:
    """Split a URL and check it. The messages do not repeat it, since it may hold a password."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError for a malformed port
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise ValueError("the host name or the port of this URL is malformed") from None
    for problem, is_met in rules:
        if not is_met(parts):
            raise ValueError(f"this URL {problem}")
    return parts


def url(text: str) -> str:
    """Parse an http or https URL."""
    _split(text, URL_RULES)
    return text


def optional_url(text: str) -> str:
    """Parse an http or https URL, or the empty text."""
    return url(text) if text else ""


PARAMETER = re.compile(r"[A-Za-z0-9._~-]{1,64}")
"""The name of a parameter (RFC 6749 section A.1 permits a few more characters)."""


def authorize_params(text: str) -> tuple[tuple[str, str], ...]:
    """Parse further parameters of the authorization request, written as the query of a URL."""
    if not _is_word(text):
        raise ValueError(
            "the value must be parameters joined by &, as in a URL; write a space in one as %20"
        )
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        raise ValueError(
            "the value must be parameters as in a URL, such as prompt=consent&access_type=offline"
        ) from None
    names = [name for name, _ in pairs]
    if not all(map(PARAMETER.fullmatch, names)) or len(set(names)) < len(names):
        raise ValueError("a name of a parameter is malformed, or occurs twice")
    if not all(value.isprintable() for _, value in pairs):
        raise ValueError("the value of a parameter holds a control character")
    if own := sorted(OWN_PARAMETERS.intersection(names)):
        raise ValueError(f"xots itself sets the parameters {', '.join(own)}: leave them out")
    return tuple(pairs)


def redirect(text: str) -> str:
    """Parse a redirect URI that leads to ``/code`` of this server."""
    _split(text, REDIRECT_RULES)
    return text


def proxy(text: str) -> Proxy:
    """Parse the URL of an HTTP proxy, which can hold a user name and a password."""
    parts = _split(text, PROXY_RULES)
    password = _unquoted(parts.password)
    return Proxy(
        host=parts.hostname or "",  # never empty, by the rules
        port=parts.port or 80,
        username=_unquoted(parts.username),
        password=Secret(password) if password else None,
    )


def _unquoted(text: str | None) -> str | None:
    return unquote(text) if text else None


def store(text: str) -> str:
    """Parse the URL of a store that is installed. The store itself checks the rest of the URL."""
    try:
        scheme_of(text)
    except StoreError as error:
        raise ValueError(str(error)) from None
    return text


# ---------- files


def readable_file(text: str) -> Path:
    """Parse the path of a file that this process can read."""
    path = Path(text)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"the file that it names can't be read: {error.strerror}") from None
    except ValueError:  # a null character
        raise ValueError("the value is not the path of a file") from None


def certificates(text: str) -> Path:
    """Parse the path of a PEM file of certificates."""
    path = readable_file(text)
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError):
        raise ValueError("the file that it names holds no certificates in PEM format") from None
    return path
