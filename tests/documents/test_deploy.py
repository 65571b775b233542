"""The files in ``deploy`` and ``examples`` that an operator copies."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from documents.declarations import SETTINGS, load
from documents.place import BIN, Place
from documents.reading import ROOT, blocks, commands
from support.certificates import make_certificates

from xots.settings import Settings

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "xots.service"
ACCESS = {
    *("readers", "allowed_users", "unix_socket", "unix_socket_group"),
    *("tls_certificate", "tls_key", "server_user"),
}
"""The settings of ``deploy/xots.yaml`` that say who may read a token."""

FILES = [*DEPLOY.glob("*.yaml"), *(ROOT / "examples").glob("*.yaml")]


def verify(unit: str, folder: Path) -> None:
    """Let systemd verify a unit; it has to find nothing, since an unknown key is a warning only."""
    assert shutil.which("xots", path=f"{BIN}")
    copy = folder / "copy.service"
    copy.write_text(unit.replace("/opt/xots/bin", f"{BIN}"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr + done.stdout) == (0, "")


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """``systemd-analyze verify`` prints nothing at all."""
    unit = UNIT.read_text()
    assert "ExecStart=/opt/xots/bin/xots " in unit
    verify(unit, tmp_path)


def test_the_unit_restricts_the_service() -> None:
    """No root, no core dumps, and an exposure that systemd calls OK or better."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    unit = UNIT.read_text()
    assert "\nDynamicUser=yes\n" in unit
    assert "\nLimitCORE=0\n" in unit


def test_a_second_process_gets_a_unit_and_settings_of_its_own(place: Place, tmp_path: Path) -> None:
    """The commands of docs/operating.md change the port, the folder of the socket, and each path
    that names the unit."""
    etc, units = tmp_path / "etc", tmp_path / "systemd"
    etc.mkdir()
    place.run(
        "cp deploy/xots.service /etc/systemd/system/; cp deploy/xots-redis.yaml /etc/xots/xots.yaml"
    )
    edits = [
        c for b in blocks("docs/operating.md") for c in commands(b.text) if c.startswith("sed ")
    ]
    assert len(edits) >= 3
    place.run("\n".join(edits))

    settings = load({}, {}, etc / "xots-5011.yaml")
    assert settings.port == 5011
    assert settings.redirect == load({}, {}, etc / "xots.yaml").redirect
    assert "/run/credentials/xots-5011.service/redis_password&" in str(settings.store)
    unit = (units / "xots-5011.service").read_text()
    assert f"\nLoadCredential=config:{etc}/xots-5011.yaml\n" in unit
    assert "\nLoadCredential=redis_password:" in unit
    assert "\nRuntimeDirectory=xots-5011\n" in unit
    verify(unit, tmp_path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_settings_are_valid(path: Path) -> None:
    """Every line is a setting with a valid value."""
    assert load({}, {}, path).sources


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_line_in_a_comment_is_a_setting_too(path: Path) -> None:
    """A line that takes effect without its hash names a setting."""
    commented = set(re.findall(r"^# ([a-z_]+):(?: |$)", path.read_text(), re.MULTILINE))
    assert commented <= {*SETTINGS, "accounts"}


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name == "xots.yaml"], ids=lambda path: path.parent.name
)
def test_the_accounts_in_a_comment_are_valid(path: Path, tmp_path: Path) -> None:
    """Without their hashes, they are accounts with settings that accounts can have."""
    [block] = re.findall(r"^# accounts:\n(?:#   .*\n)+", path.read_text(), re.MULTILINE)
    (tmp_path / "secret").write_text("x")
    text = re.sub("(?m)^# ", "", block).replace("/etc/xots/miller_secret", f"{tmp_path}/secret")
    (tmp_path / "xots.yaml").write_text(text)
    assert list(load({}, {}, tmp_path / "xots.yaml").accounts) == ["smith", "miller"]


def loaded(text: str, folder: Path) -> Settings:
    """Return settings, with files, a user and a group of this machine in place of theirs."""
    made = make_certificates(folder)
    for old, new in (
        ("/etc/xots-tls/fullchain.pem", f"{made.server}"),
        ("/etc/xots-tls/privkey.pem", f"{made.server_key}"),
        ("alice", "root"),
        ("xero-users", "root"),
    ):
        text = text.replace(old, new)
    (folder / "xots.yaml").write_text(text)
    return load({}, {}, folder / "xots.yaml")


def test_the_settings_of_access_in_comments_are_valid(tmp_path: Path) -> None:
    """Without their hashes, and with https:// in the redirect URI, a server starts with them."""
    text = (DEPLOY / "xots.yaml").read_text().replace("redirect: http:", "redirect: https:")
    uncommented = re.sub(rf"(?m)^# (?=({'|'.join(ACCESS)}): )", "", text)
    assert loaded(uncommented, tmp_path).sources.keys() >= ACCESS


@pytest.mark.parametrize("first", ["address", "readers", "tls_certificate"])
def test_the_settings_that_a_document_shows_are_valid(first: str, tmp_path: Path) -> None:
    """A server starts with each example of docs/operating.md that says who may read a token."""
    (text,) = (b.text for b in blocks("docs/operating.md") if b.text.startswith(f"{first}: "))
    assert first in loaded(text, tmp_path).sources


def test_the_document_names_the_user_and_the_socket_of_the_unit(tmp_path: Path) -> None:
    """A command with the settings of docs/operating.md finds the server of the unit."""
    (example,) = (b.text for b in blocks("docs/operating.md") if b.text.startswith("readers: "))
    settings = loaded(example, tmp_path)
    made = [c for b in blocks("docs/operating.md") for c in commands(b.text) if "useradd" in c]
    assert [command.split()[-1] for command in made] == [settings.server_user]
    unit = UNIT.read_text()
    assert f"\nUser={settings.server_user}\n" in unit
    assert settings.unix_socket is not None
    assert f"\nRuntimeDirectory={settings.unix_socket.parent.name}\n" in unit
