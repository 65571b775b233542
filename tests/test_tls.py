"""The certificate and the key of a server: faults in words, and what clients would say."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.canaries import leaks
from support.certificates import Certificates, make_certificates
from support.command_line import called, process

from xots.errors import SettingsError
from xots.reread import Reread
from xots.tls import LiveTls, read_identity

PASSPHRASE = b"hunter2-canary"

PLACES = {"tls_certificate": "--tls-certificate", "tls_key": "--tls-key"}


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


def problem_of(files: Certificates) -> str:
    """Return the one problem of a pair that can't be used."""
    with pytest.raises(SettingsError) as caught:
        read_identity(files.server, files.server_key, PLACES)
    [problem] = caught.value.problems
    return problem


def encrypt(files: Certificates) -> None:
    """Encrypt the key."""
    key = serialization.load_pem_private_key(files.server_key.read_bytes(), None)
    files.server_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSPHRASE),
        )
    )


def use_key_of_other_kind(files: Certificates) -> None:
    """Replace the key by one of RSA."""
    files.server_key.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def use_folder(files: Certificates) -> None:
    """Replace the certificate by a folder."""
    files.server.unlink()
    files.server.mkdir()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


FAULTS: dict[str, tuple[Callable[[Certificates], object], str]] = {
    "another key": (
        lambda files: files.client_key.replace(files.server_key),
        "--tls-key: this is not the key of the certificate of --tls-certificate",
    ),
    "a key of another kind": (
        use_key_of_other_kind,
        "--tls-key: this is not the key of the certificate of --tls-certificate",
    ),
    "the authority's certificate first": (
        lambda files: files.server.write_bytes(
            files.ca.read_bytes() + files.server.read_bytes(),
        ),
        "--tls-key: this is not the key of the certificate of --tls-certificate",
    ),
    "an encrypted key": (encrypt, "--tls-key: the key is encrypted"),
    "no key": (lambda files: files.server_key.unlink(), "--tls-key: the file that it names can't"),
    "an empty key": (lambda files: files.server_key.write_bytes(b""), "no private key in PEM"),
    "half a key": (lambda files: cut(files.server_key), "--tls-key: the file that it names holds"),
    "a folder": (
        use_folder,
        "--tls-certificate: the file that it names",
    ),
    "no certificate": (
        lambda files: files.server.unlink(),
        "--tls-certificate: the file that it names can't be read: No such file",
    ),
    "the key in place of the certificate": (
        lambda files: files.server.write_bytes(files.server_key.read_bytes()),
        "--tls-certificate: the file that it names holds no certificates",
    ),
    "DER": (
        lambda files: files.server.write_bytes(
            ssl.PEM_cert_to_DER_cert(files.server.read_text()),
        ),
        "--tls-certificate: the file that it names holds no certificates",
    ),
    "half a certificate": (
        lambda files: cut(files.server),
        "--tls-certificate: the file that it names holds no certificates",
    ),
}


@pytest.mark.safeguard(
    file="tls.py",
    old="        context.load_cert_chain(certificate, key, _refuse_to_ask)\n",
    new='        context.load_cert_chain(certificate, key, "")\n',
    protects_from="a service that asks for a passphrase at a terminal, and waits",
)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_pair_that_cannot_be_used_is_a_problem_that_names_the_setting(
    files: Certificates, fault: str
) -> None:
    """And that quotes no line of either file."""
    secret = [line for line in files.server_key.read_text().splitlines() if "-" not in line]
    make, expected = FAULTS[fault]
    make(files)
    problem = problem_of(files)
    assert expected in problem
    assert leaks(problem, [*secret, PASSPHRASE.decode()]) == []


def test_a_certificate_is_shown_with_its_hosts_and_its_end(files: Certificates) -> None:
    """In the words of the certificate."""
    found = read_identity(files.server, files.server_key, {})
    assert found.names == ("localhost", "127.0.0.1")
    assert found.problem is None
    certificate = x509.load_pem_x509_certificate(files.server.read_bytes())
    assert found.expires_at == certificate.not_valid_after_utc


def test_an_expired_certificate_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, expected_log: Callable[..., None]
) -> None:
    """Its renewal needs no restart."""
    expected_log("clients refuse the certificate of tls_certificate: certificate has expired")
    files = make_certificates(tmp_path, timedelta(minutes=-1))
    tls = LiveTls(files.server, files.server_key, {})
    (tmp_path / "new").mkdir()
    renewed = make_certificates(tmp_path / "new")
    first = tls()
    renewed.server_key.replace(files.server_key)
    renewed.server.replace(files.server)
    caplog.set_level(logging.INFO)
    assert tls() is not first
    assert "new connections get the new certificate" in caplog.text


@pytest.mark.safeguard(
    file="tls.py",
    old="    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n",
    new="    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)\n",
    protects_from="a file with the keys of all connections, by a variable of the environment",
)
def test_no_keys_of_connections_are_written(
    files: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's default context writes them to the file that ``SSLKEYLOGFILE`` names."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    read_identity(files.server, files.server_key, {})
    assert not (tmp_path / "keys").exists()


@pytest.mark.safeguard(
    file="reread.py",
    old="            raise SettingsError(self._found.problems)",
    new="            raise self._found",
    protects_from="memory that grows with each connection while a file is broken",
)
def test_a_problem_that_stays_takes_no_memory(tmp_path: Path) -> None:
    """Python adds the frames of each raise to an exception."""
    (tmp_path / "number").write_text("1")

    def read() -> int:
        if not (tmp_path / "number").exists():
            raise SettingsError(["no number"])
        return 1

    value = Reread([tmp_path / "number"], read).value
    (tmp_path / "number").unlink()
    counts = set()
    for _ in range(3):
        with pytest.raises(SettingsError, match="no number") as caught:
            value()
        counts.add(len(frames_of(caught.value)))
    assert len(counts) == 1


def frames_of(error: BaseException) -> list[object]:
    """Return the entries of an exception's traceback."""
    found: list[object] = []
    entry = error.__traceback__
    while entry is not None:
        found.append(entry)
        entry = entry.tb_next
    return found


# ---------- the commands

ELSEWHERE = ("--token-url", "http://127.0.0.1:1", "--authorize-url", "http://127.0.0.1:1")
"""The options of an identity server that does not respond."""


def finding(files: Certificates, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what ``xots check`` says about TLS."""
    options = ("--tls-certificate", str(files.server), "--tls-key", str(files.server_key))
    ended = called(capsys, "check", "--store", "memory:", *ELSEWHERE, *options)
    [line] = [line for line in ended.out.splitlines() if line.split()[1] == "tls"]
    return " ".join(line.split())


def test_a_start_with_a_wrong_pair_ends_with_status_2(
    files: Certificates, capsys: pytest.CaptureFixture[str]
) -> None:
    """systemd does not repeat it. ``xots check`` shows the same problem."""
    files.client_key.replace(files.server_key)
    options = ("--tls-certificate", str(files.server), "--tls-key", str(files.server_key))
    ended = process("-p", "0", "--store", "memory:", *options)
    problem = "--tls-key: this is not the key of the certificate of --tls-certificate; "
    assert ended.reason(2).startswith(f"xots: {problem}")
    assert finding(files, capsys).startswith(f"FAIL tls {problem}")


def test_check_says_for_which_hosts_and_until_when(
    files: Certificates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An expired certificate fails."""
    expected = "ok tls the certificate is for localhost, 127.0.0.1 until 2"
    assert finding(files, capsys).startswith(expected)
    (tmp_path / "old").mkdir()
    old = make_certificates(tmp_path / "old", timedelta(minutes=-1))
    expected = "FAIL tls clients refuse the certificate: certificate has expired"
    assert finding(old, capsys) == expected
