"""TLS of a server: its certificate and key, read again when one of their files changes.

An open connection goes on with the certificate of its handshake. A session that a client resumes
would too, so that each pair of files has a context of its own: it knows no earlier session.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .errors import SettingsError
from .reread import LastGood, Reread
from .safe_text import safe_text

__all__ = ["Identity", "LiveTls", "read_identity"]

logger = logging.getLogger("xots")

MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's words for a key of another certificate, of the same kind or of another one."""

MAX_STEPS = 10
"""Upper bound on the steps of a handshake in memory, which takes four."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate with its key."""

    context: ssl.SSLContext
    """Serves connections with them."""
    names: tuple[str, ...] = ()
    """The host names and addresses that the certificate is for."""
    expires_at: datetime | None = None
    """The end of its validity; None with a ``problem``."""
    problem: str | None = None
    """Why clients refuse the certificate whatever authorities they trust, such as its expiry."""


class _Encrypted(Exception):
    """The key is encrypted."""


def read_identity(certificate: Path, key: Path, places: Mapping[str, str]) -> Identity:
    """Read a certificate and its key.

    Args:
        certificate: the PEM file of the certificate and those that lead to its authority.
        key: the PEM file of its key.
        places: where ``tls_certificate`` and ``tls_key`` were set. A message names it.

    Raises:
        SettingsError: they can't be used. The message quotes neither file.
    """
    place = places.get("tls_certificate", "tls_certificate")
    place_of_key = places.get("tls_key", "tls_key")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = _server_context()
    try:
        client.load_verify_locations(certificate)
    except ssl.SSLError:
        raise SettingsError(
            [f"{place}: the file that it names holds no certificates in PEM format"]
        ) from None
    except OSError as error:
        raise _unreadable(place, error) from None
    try:
        context.load_cert_chain(certificate, key, _refuse_to_ask)
    except _Encrypted:
        raise SettingsError(
            [
                f"{place_of_key}: the key is encrypted, and no one enters a passphrase at a start; "
                "write it without one (openssl pkey -in FILE -out FILE), readable for this user "
                "alone"
            ]
        ) from None
    except ssl.SSLError as error:
        raise SettingsError([_problem(error, place, place_of_key)]) from None
    except OSError as error:
        raise _unreadable(place_of_key, error) from None
    return _tried(context, client)


def _server_context() -> ssl.SSLContext:
    # Not create_default_context: it writes the keys of all sessions to $SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _refuse_to_ask() -> str:
    """Return no passphrase. Without this function, OpenSSL asks for one at the terminal."""
    raise _Encrypted


def _unreadable(place: str, error: OSError) -> SettingsError:
    return SettingsError([f"{place}: the file that it names can't be read: {error.strerror}"])


def _problem(error: ssl.SSLError, place: str, place_of_key: str) -> str:
    """Return why OpenSSL takes no certificate with its key."""
    if error.reason in MISMATCHES:
        return (
            f"{place_of_key}: this is not the key of the certificate of {place}; name the two "
            "files that were made together, the server's own certificate first in its file"
        )
    if error.reason:
        words = error.reason.replace("_", " ").lower()
        return f"{place}: OpenSSL refuses the certificate ({words}); get another one"
    return f"{place_of_key}: the file that it names holds no private key in PEM format"


def _tried(context: ssl.SSLContext, client: ssl.SSLContext) -> Identity:
    """Return the identity, as a client sees it that trusts the certificate itself.

    A handshake in memory shows it: Python has no other function that reads a certificate.
    """
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    at_client = client.wrap_bio(to_client, to_server)
    at_server = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(MAX_STEPS):
            for side in (at_client, at_server):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        found = at_client.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return Identity(context=context, problem=error.verify_message)
    except ssl.SSLError as error:
        return Identity(context=context, problem=f"the handshake fails ({error.reason})")
    names = tuple(str(name[1]) for name in found.get("subjectAltName", ()))
    if not names:
        return Identity(context=context, problem="it names no host (subjectAltName)")
    expires_at = ssl.cert_time_to_seconds(str(found["notAfter"]))
    return Identity(
        context=context, names=names, expires_at=datetime.fromtimestamp(expires_at, UTC)
    )


class LiveTls:
    """The TLS of a server, as its files say now.

    Each new connection looks at the status of the files, and reads them again once one of them has
    changed. Files that can't be used, as in the middle of a renewal, change nothing.

    The arguments are those of ``read_identity``.

    Raises:
        SettingsError: the files can't be used at the start.
    """

    def __init__(self, certificate: Path, key: Path, places: Mapping[str, str]) -> None:
        files = Reread([certificate, key], lambda: read_identity(certificate, key, places))
        self._files = LastGood(files, _report)
        self._identity = self._files.value()
        _warn(self._identity)

    def __call__(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        found = self._files.value()
        if found is not self._identity:
            logger.info("new connections get the new certificate of tls_certificate")
            _warn(found)
            self._identity = found
        return found.context


def _report(problem: str) -> None:
    logger.error(
        "new connections get the certificate that was read before: %s. The files are read again "
        "once one of them has changed",
        problem,
    )


def _warn(identity: Identity) -> None:
    if identity.problem is not None:
        logger.warning(
            "clients refuse the certificate of tls_certificate: %s; renew it, and no restart is "
            "needed",
            safe_text(identity.problem),
        )
