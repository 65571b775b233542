"""The parsers of settings: text to value."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..backends import scheme_of
from ..errors import StoreError
from ..secret import Secret
from ..xero import SCOPE_SETS, Proxy


def integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if (
            not (text.isascii() and text.isdecimal() and len(text) < 20)
            or not low <= int(text) <= high
        ):
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1
        if not low <= seconds <= high:
            raise ValueError(f"{text!r} is not a number of seconds from {low:g} to {high:g}")
        return seconds

    return parse


def boolean(text: str) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if text.lower() not in words:
        raise ValueError(f"{text!r} is neither true nor false")
    return words[text.lower()]


def choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"{text!r} is none of: {', '.join(choices)}")
        return text.lower()

    return parse


def address(text: str) -> str:
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        if text == "localhost":
            return text
        raise ValueError(f"{text!r} is not an IP address") from None


def url(text: str) -> str:
    if "@" in text:  # looked at first, since every other message would repeat it
        raise ValueError("a user name or password does not belong in this URL")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError(f"{text!r} is not an http or https URL")
    if parts.port == 0:  # .port also raises ValueError for one that is no port
        raise ValueError(f"{text!r} has no usable port")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ValueError(f"{text!r} has a host name that can't be one") from None
    return text


def url_or_nothing(text: str) -> str:
    return url(text) if text else ""


def redirect(text: str) -> str:
    parts = urlsplit(url(text))
    if parts.query:
        raise ValueError(f"{text!r} has a query string, which a redirect URI must not have here")
    if parts.path != "/code":
        raise ValueError(f"{text!r} does not end in /code, where this server takes Xero's answer")
    return text


def scopes(text: str) -> tuple[str, ...]:
    words = text.replace(",", " ").split()
    names = tuple(dict.fromkeys(name for word in words for name in SCOPE_SETS.get(word, (word,))))
    if not names:
        raise ValueError("no scope is named")
    for name in names:
        if not all("!" <= c <= "~" and c not in '"\\' for c in name):  # RFC 6749 section 3.3
            raise ValueError(f"the scope {name!r} has a character that no scope may have")
    if "offline_access" not in names:
        raise ValueError("offline_access is missing: without it Xero issues no refresh token")
    return names


def printable(text: str) -> str:
    if not text or not text.isprintable() or " " in text:
        raise ValueError("it is empty, or has a space or a control character")
    return text


def secret(text: str) -> Secret:
    return Secret(printable(text))


def keys(text: str) -> tuple[Secret, ...]:
    lines = (
        line for line in text.splitlines() if not line.lstrip().startswith("#")
    )  # as in a key file
    return tuple(Secret(word) for line in lines for word in line.replace(",", " ").split())


def account_name(text: str) -> str:
    if (
        not 0 < len(text) <= 64
        or text.startswith("lease-")
        or not all(c in _NAME_LETTERS for c in text)
    ):
        raise ValueError(
            f"{text!r} is not a name of up to 64 lower-case letters, digits and hyphens"
        )
    return text


def file(text: str) -> Path:
    path = Path(text)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ValueError(f"{text!r} can't be read: {error.strerror}") from None


def certificates(text: str) -> Path:
    path = file(text)
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError):
        raise ValueError(f"{text!r} holds no certificates (PEM)") from None
    return path


def hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(text.replace(",", " ").lower().split())
    for host in hosts:
        if (
            any(c in "/@?#*" for c in host)
            or not host.isprintable()
            or not urlsplit(f"//{host}").hostname
        ):
            raise ValueError(f"{host!r} is not a host name, with or without a port")
    return hosts


def proxy(text: str) -> Proxy:
    parts = urlsplit(text)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if (
        parts.scheme != "http"
        or not parts.hostname
        or not port
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        # What was given may hold a password: it is not repeated.
        raise ValueError("this is not the URL of an HTTP proxy, such as http://proxy.example:3128")
    return Proxy(
        host=parts.hostname,
        port=port,
        username=unquote(parts.username) if parts.username else None,
        password=Secret(unquote(parts.password)) if parts.password else None,
    )


_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def store(text: str) -> str:
    try:
        scheme_of(text)
    except StoreError as error:
        raise ValueError(str(error)) from None
    return text


def is_loopback(address: str) -> bool:
    """Is this address reached from this machine alone?"""
    return address == "localhost" or ip_address(address).is_loopback


def holds_password(text: str) -> bool:
    _, found, rest = text.partition("://")
    userinfo, at, _ = rest.partition("/")[0].rpartition("@")
    return bool(found and at and ":" in userinfo)
