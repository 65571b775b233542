"""The sources: their precedence, and the problems that they report together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.certificates import make_certificates
from support.other_user import needs_root
from support.settings_problems import SECRET, problems_of
from support.store_programs import OTHER_USER

from xots.secret import Secret
from xots.settings import Settings, load
from xots.xero.identity_server import IdentityServer
from xots.xero.protocol import SCOPE_SETS


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a path at which a test can write a YAML file."""
    return tmp_path / "xots.yaml"


@pytest.mark.parametrize("first", range(5))
def test_the_first_source_that_has_a_setting_wins(tmp_path: Path, config: Path, first: int) -> None:
    """The order is: command line, environment, credentials directory, YAML file, default."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    arguments, environment = (
        {"port": "1001"},
        {"XOTS_PORT": "1002", "CREDENTIALS_DIRECTORY": str(folder)},
    )
    (folder / "port").write_text("1003\n")
    config.write_text("port: 1004\n")
    if first > 0:
        arguments.clear()
    if first > 1:
        del environment["XOTS_PORT"]
    if first > 2:
        (folder / "port").unlink()
    if first > 3:
        config.write_text("")
    assert load(arguments, environment, config).port == (1001, 1002, 1003, 1004, 5001)[first]


def test_the_settings_name_the_source_of_each_value(tmp_path: Path, config: Path) -> None:
    """A name is an option, a variable, a path, or a path with a key."""
    (tmp_path / "tenant_id").write_text("T\n")
    config.write_text("token_url: https://identity.xero.com/connect/token\n")
    environment = {"XOTS_CLIENT_ID": "C", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    settings = load({"refresh_ahead": "60"}, environment, config)
    assert settings.sources["refresh_ahead"] == "--refresh-ahead"
    assert settings.sources["client_id"] == "XOTS_CLIENT_ID"
    assert settings.sources["tenant_id"] == str(tmp_path / "tenant_id")
    assert str(config) in settings.sources["token_url"]
    assert "token_url" in settings.sources["token_url"]


def test_a_secret_can_come_from_environment_credential_or_yaml(
    tmp_path: Path, config: Path
) -> None:
    """Each one becomes part of the credentials, and the repr of the settings hides it."""
    config.write_text(f"client_id: C\nclient_secret: {SECRET}\n")
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "client_id").write_text("C\n")
    (folder / "client_secret").write_text(f"{SECRET}\n")
    for settings in (
        load({}, {"XOTS_CLIENT_ID": "C", "XOTS_CLIENT_SECRET": SECRET}),
        load({}, {"CREDENTIALS_DIRECTORY": str(folder)}),
        load({}, {}, config),
    ):
        assert settings.credentials is not None
        assert settings.credentials.client_secret == Secret(SECRET)
        assert SECRET not in repr(settings)
        assert SECRET not in str(settings)


def test_an_empty_variable_counts_as_not_set() -> None:
    """This is the custom in unit files and containers."""
    assert load({}, {"XOTS_PORT": "", "XOTS_CLIENT_ID": ""}).port == 5001


def test_an_empty_variable_sets_a_url_that_can_be_empty() -> None:
    """Another identity server can have no list of connections."""
    assert load({}, {"XOTS_CONNECTIONS_URL": ""}).connections_url == ""


def test_other_files_of_the_credentials_directory_are_ignored(tmp_path: Path) -> None:
    """A unit can load credentials that are not settings."""
    (tmp_path / "something-else").write_bytes(b"\xff\xfe")
    (tmp_path / "port").mkdir()
    assert load({}, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).port == 5001


def test_a_missing_credentials_directory_is_no_problem(tmp_path: Path) -> None:
    """The variable can be set although the unit loads no credentials."""
    assert load({}, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}).port == 5001


def test_a_credentials_directory_that_cannot_be_read_is_a_problem() -> None:
    """The problem names the variable, not its value. (Root may read every folder, so the path of
    this one is too long.)"""
    [problem] = problems_of({}, {"CREDENTIALS_DIRECTORY": "/" + "y" * 300})
    assert problem == "CREDENTIALS_DIRECTORY can't be read: File name too long"


def test_a_credential_that_is_not_text_is_reported_with_its_path(tmp_path: Path) -> None:
    """The problem does not show its bytes."""
    (tmp_path / "client_secret").write_bytes(b"canary\xff\xfe")
    [problem] = problems_of({"client_id": "C"}, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert str(tmp_path / "client_secret") in problem
    assert "canary" not in problem


# ---------- problems


def test_all_problems_are_reported_together_each_with_its_source(
    tmp_path: Path, config: Path
) -> None:
    """The operator need not start xots once for each problem."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "tick").write_text("never\n")
    config.write_text("pkce: perhaps\nprot: 5001\n")
    environment = {"XOTS_TOKEN_URL": "ftp://id.example", "CREDENTIALS_DIRECTORY": str(folder)}
    problems = problems_of({"port": "70000"}, environment, config)
    assert len(problems) == 5
    for words in (
        ("--port", "from 0 to 65535"),
        ("XOTS_TOKEN_URL",),
        (str(folder / "tick"), "number of seconds"),
        (str(config), "pkce", "true or false"),
        (str(config), "line 2", "did you mean port"),
    ):
        assert len([one for one in problems if all(word in one for word in words)]) == 1, words


def test_a_value_that_another_source_overrides_is_no_problem() -> None:
    """A valid option hides an invalid variable."""
    assert load({"port": "6001"}, {"XOTS_PORT": "nonsense"}).port == 6001


def test_a_client_secret_needs_a_client_id() -> None:
    """The problem names the source of the secret, and does not show it."""
    [problem] = problems_of({}, {"XOTS_CLIENT_SECRET": SECRET})
    assert problem.startswith("XOTS_CLIENT_SECRET: ")
    assert SECRET not in problem


def test_an_invalid_client_id_is_not_reported_as_missing_too() -> None:
    """It is one problem, although the client secret needs a client id."""
    [problem] = problems_of({"client_id": "two words"}, {"XOTS_CLIENT_SECRET": SECRET})
    assert problem.startswith("--client-id: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("client_secret", SECRET),
        ("key", SECRET),
        ("store", f"redis://xots:{SECRET}@redis.example"),
        ("proxy", f"http://user:{SECRET}@proxy.example"),
    ],
)
def test_the_command_line_takes_no_secret(name: str, text: str) -> None:
    """Every user of the machine can see the command line; the problem names the other sources."""
    [problem] = problems_of({"client_id": "C", name: text})
    assert problem.startswith(f"--{name.replace('_', '-')}: ")
    assert "environment" in problem
    assert SECRET not in problem


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.2"])
def test_an_address_that_is_not_localhost_needs_a_redirect(config: Path, address: str) -> None:
    """The default redirect names localhost, which a browser does not find at this address. Without
    logins there is no redirect."""
    anyone = {"XOTS_READERS": "anyone"}
    [problem] = problems_of({"address": address}, anyone)
    assert problem.startswith("--address: ")
    assert "set redirect too" in problem
    both = {"address": address, "redirect": "https://xots.example/code"}
    assert load(both, anyone).address == address
    client = "grant: client_credentials\nclient_id: C\nclient_secret: s\n"
    config.write_text(client)
    assert load({"address": address}, anyone, config).address == address
    config.write_text(f"{client}accounts: {{a: {{grant: authorization_code}}}}\n")
    [problem] = problems_of({"address": address}, anyone, config)
    assert problem.startswith("--address: ")


@pytest.mark.safeguard(
    file="settings/demands.py",
    old='    if not parsing.is_loopback(address) and "readers" not in places:',
    new="    if False:",
    protects_from="a server that hands the token to every machine of a network",
)
@pytest.mark.parametrize("address", ["192.0.2.1", "0.0.0.0", "::", "2001:db8::1"])  # noqa: S104
def test_an_address_of_a_network_needs_readers(address: str) -> None:
    """The problem names the lines to add, and the way out for a network that is trusted."""
    given = {"address": address, "redirect": "https://xots.example/code"}
    [problem] = problems_of(given)
    assert problem.startswith("--address: ")
    for words in ("xots reader add NAME --readers FILE", "set readers to", "anyone"):
        assert words in problem
    for readers in ("anyone", "ANYONE", "/etc/readers"):
        assert load(given, {"XOTS_READERS": readers}).address == address


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_a_loopback_address_needs_no_readers(address: str) -> None:
    """It is for the programs of this machine."""
    given = {"address": address, "redirect": "https://xots.example/code"}
    assert load(given, {}).readers is None


def test_a_setting_of_access_without_the_other_that_it_needs_is_a_problem(tmp_path: Path) -> None:
    """Each names the other one."""
    key = tmp_path / "key"
    key.touch(0o600)
    wrong = {
        "unix_socket_group": "0",
        "tls_key": str(key),
        "address": "none",
    }
    problems = problems_of(wrong)
    assert [problem.partition(":")[0] for problem in problems] == [
        "--address",
        "--unix-socket-group",
        "--tls-key",
    ]
    for problem, needed in zip(
        problems, ("unix_socket", "unix_socket", "tls_certificate"), strict=True
    ):
        assert f"set {needed} too" in problem
    assert load({"address": "none", "unix_socket": "/run/xots/socket"}, {}).address == "none"


@pytest.mark.parametrize("name", ["allowed_users", "unix_socket_group"])
def test_a_user_or_group_that_does_not_exist_is_a_problem(name: str) -> None:
    """The problem does not repeat it."""
    [problem] = problems_of({name: SECRET, "unix_socket": "/s"})
    assert "of this machine" in problem
    assert SECRET not in problem


@pytest.mark.parametrize("name", ["allowed_users", "readers"])
@pytest.mark.parametrize("value", ["", "[]", "''"])
def test_an_empty_rule_of_access_is_a_problem(config: Path, name: str, value: str) -> None:
    """It would open the server to all, although the operator has named the setting."""
    config.write_text(f"{name}: {value}\n")
    [problem] = problems_of({}, {}, config)
    assert problem.startswith(f"{config}: {name}: the value ")
    assert "leave the setting out" in problem
    [problem] = problems_of({}, {f"XOTS_{name.upper()}": ""})
    assert problem.startswith(f"XOTS_{name.upper()}: ")


@pytest.mark.parametrize("gid", ["4294967295", "9999999999"])
def test_a_number_that_is_no_group_is_a_problem(gid: str) -> None:
    """The first one means that the group stays as it is."""
    [problem] = problems_of({"unix_socket": "/s", "unix_socket_group": gid})
    assert "names no group" in problem


def test_a_redirect_uri_by_http_at_the_port_of_tls_is_a_problem(tmp_path: Path) -> None:
    """A login would not come back. A proxy at another port may speak http."""
    found = make_certificates(tmp_path)
    tls = {"tls_certificate": str(found.server), "tls_key": str(found.server_key)}
    [problem] = problems_of({**tls, "redirect": "http://localhost:5001/code"})
    assert problem.startswith("--redirect: with tls_certificate, this port speaks TLS")
    for redirect in ("https://localhost:5001/code", "http://localhost:6001/code"):
        assert load({**tls, "redirect": redirect}, {}).redirect == redirect


def test_users_are_named_by_name_or_id() -> None:
    """Once each."""
    assert load({"allowed_users": "root, 4321 0"}, {}).allowed_users == (0, 4321)


def test_some_settings_can_be_read_alone() -> None:
    """A command that needs the address only does not report other settings, nor a missing one."""
    environment = {"XOTS_PORT": "6001", "XOTS_ADDRESS": "192.0.2.1", "XOTS_TICK": "never"}
    settings = load({}, environment, only=("address", "port"))
    assert (settings.address, settings.port) == ("192.0.2.1", 6001)
    assert settings.tick == 15


# ---------- the identity server

OTHER = "https://id.example/token"


@pytest.mark.safeguard(
    file="settings/sources.py",
    old="combined = Layer(values, places).above(defaults)",
    new="combined = Layer({**defaults.values, **values}, places)",
    protects_from="tokens of another identity server that are sent to Xero",
)
def test_another_identity_server_has_no_url_of_xero() -> None:
    """It has those that are set. Nor does it get Xero's scopes."""
    server = {"token_url": OTHER, "authorize_url": "https://id.example/login"}
    settings = load(server, {})
    assert settings.identity_server == IdentityServer(
        token_url=OTHER,
        authorize_url="https://id.example/login",
        revoke_url="",
        connections_url="",
    )
    assert settings.scopes == settings.for_account("default").scopes == ()
    urls = {"revoke_url": OTHER, "connections_url": OTHER}
    settings = load(server | urls, {"XOTS_SCOPES": "openid"})
    assert (settings.revoke_url, settings.connections_url) == (OTHER, OTHER)
    assert settings.scopes == ("openid",)


def test_a_server_with_the_login_page_of_xero_gets_the_scopes_of_xero() -> None:
    """It stands in for Xero, as the simulated one does. Its other URLs are its own."""
    base = "http://localhost:5002"
    page = f"{base}/identity/connect/authorize"
    settings = load({"token_url": f"{base}/connect/token", "authorize_url": page}, {})
    assert settings.scopes == SCOPE_SETS["classic"]
    assert (settings.revoke_url, settings.connections_url) == ("", "")


def test_another_host_with_the_path_of_xero_is_another_identity_server() -> None:
    """A Duende server that is mounted at /identity has the same path."""
    base = "https://login.example"
    page = f"{base}/identity/connect/authorize"
    settings = load({"token_url": f"{base}/connect/token", "authorize_url": page}, {})
    assert settings.scopes == ()
    assert settings.identity_server.name == "the identity server"


def test_another_identity_server_needs_its_login_page() -> None:
    """Unless no user logs in."""
    [problem] = problems_of({"token_url": OTHER})
    assert problem.startswith("--token-url: ")
    assert problem.endswith("set authorize_url too")
    settings = load(
        {"token_url": OTHER, "grant": "client_credentials", "client_id": "C"},
        {"XOTS_CLIENT_SECRET": SECRET},
    )
    assert settings.authorize_url == ""


def test_a_wrong_setting_of_the_identity_server_is_one_problem() -> None:
    """It is not reported as missing too, and demands nothing."""
    for name, text in (
        ("token_url", "nonsense"),
        ("authorize_url", "nonsense"),
        ("grant", "none"),
        ("scopes", '"'),
    ):
        [problem] = problems_of({"token_url": OTHER, "authorize_url": OTHER, name: text})
        assert problem.startswith(f"--{name.replace('_', '-')}: ")


@pytest.mark.parametrize("source", ["--scopes", "XOTS_SCOPES"])
@pytest.mark.parametrize("text", [" , ", "accounting.transactions"])
def test_scopes_without_offline_access_are_refused_at_xero(source: str, text: str) -> None:
    """Without it Xero issues no refresh token. Other servers have rules of their own."""
    arguments = {"scopes": text} if source == "--scopes" else {}
    environment = {} if arguments else {"XOTS_SCOPES": text}
    [problem] = problems_of(arguments, environment)
    assert problem.startswith(f"{source}: offline_access is missing")
    other = {"token_url": OTHER, "authorize_url": OTHER}
    expected = tuple(text.replace(",", " ").split())
    assert load(arguments | other, environment).scopes == expected


def test_a_client_without_logins_needs_its_credentials() -> None:
    """The problem names the settings to set. The scopes need no ``offline_access``."""
    grant = {"grant": "client_credentials", "scopes": "accounting.transactions"}
    [problem] = problems_of(grant)
    assert problem == (
        "--grant: client_credentials needs the client's own credentials: set client_id and "
        "client_secret or client_secret_file"
    )
    [problem] = problems_of(grant | {"client_id": "C"})
    assert problem.endswith(": set client_secret or client_secret_file")
    [problem] = problems_of(grant, {"XOTS_CLIENT_SECRET": SECRET})
    assert problem.startswith("XOTS_CLIENT_SECRET: a client secret needs a client id")
    settings = load(grant | {"client_id": "C", "client_auth": "none"}, {})
    assert settings.scopes == ("accounting.transactions",)


# ---------- the file of the client secret


def test_a_file_can_hold_the_client_secret(tmp_path: Path) -> None:
    """Spaces and line ends around the secret do not count."""
    (tmp_path / "secret").write_text(f" {SECRET}\n")
    settings = load({"client_id": "C", "client_secret_file": str(tmp_path / "secret")}, {})
    assert settings.client_secret == Secret(SECRET)
    assert settings.sources["client_secret"] == "--client-secret-file"


@pytest.mark.safeguard(
    file="settings/reading.py",
    old="return parsing.secret(file.text.strip()), file.dangers(secret=True)",
    new="return parsing.secret(file.text.strip()), []",
    protects_from="a file of the client secret that other users read unnoticed",
)
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
def test_a_client_secret_file_that_is_open_to_others_is_warned_about(
    tmp_path: Path, mode: int
) -> None:
    """The secret is used all the same. The warning names the place and the remedy."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(mode)
    arguments = {"client_id": "C", "client_secret_file": str(path)}
    settings = load(arguments, {})
    assert settings.client_secret == Secret(SECRET)
    [warning] = settings.warnings
    assert warning == (
        f"--client-secret-file: {path} is open to other users (mode {mode:04o}): chmod 600 {path}"
    )
    path.chmod(0o600)
    assert load(arguments, {}).warnings == ()
    tmp_path.chmod(0o777)
    assert len(load(arguments, {}).warnings) == 1


@pytest.mark.safeguard(
    file="settings/yaml_file.py",
    old="any(is_secret(name, found.text) for name, found in texts.all())",
    new="False",
    protects_from="secrets in a YAML file that other users read unnoticed",
)
@pytest.mark.parametrize(
    "line",
    [
        f"client_secret: {SECRET}",
        f"key: {SECRET}",
        f"store: redis://u:{SECRET}@localhost",
        f"proxy: http://u:{SECRET}@proxy.example",
    ],
)
def test_a_yaml_file_with_a_secret_that_is_open_to_others_is_warned_about(
    config: Path, line: str
) -> None:
    """A source that wins over the file does not make the secret in it less readable."""
    config.write_text(f"client_id: C\n{line}\n")
    config.chmod(0o644)
    name = line.partition(":")[0]
    stronger = {f"XOTS_{name.upper()}": "http://proxy" if name == "proxy" else "memory:"}
    for environment in ({}, stronger):
        [warning] = load({}, environment, config).warnings
        assert warning == f"{config} is open to other users (mode 0644): chmod 600 {config}"
        assert SECRET not in warning
    config.chmod(0o600)
    assert load({}, {}, config).warnings == ()


def test_a_yaml_file_without_a_secret_may_be_open_to_others(config: Path) -> None:
    """Client id, proxy and store without a password, and paths of secret files, are no secrets."""
    config.write_text(
        "client_id: C\nkey_file: /no/key\nproxy: http://proxy.example:3128\n"
        "store: redis://user@localhost:6379/0\n"
    )
    config.chmod(0o644)
    assert load({}, {}, config).warnings == ()


@pytest.mark.safeguard(
    file="settings/yaml_file.py",
    old="warnings += file.dangers(secret=has_secret)",
    new="warnings += file.secret_dangers if has_secret else []",
    protects_from="a proxy that another user writes into the YAML file unnoticed",
)
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_a_yaml_file_that_others_can_write_is_warned_about(config: Path, mode: int) -> None:
    """They could set a proxy of theirs. This holds for its folder and for an empty file too."""
    for text in ("port: 6001\n", ""):
        config.write_text(text)
        config.chmod(mode)
        [warning] = load({}, {}, config).warnings
        assert warning == (
            f"{config} is open to other users (mode {mode:04o}): chmod {mode & 0o755:03o} {config}"
        )
        config.chmod(0o644)
        config.parent.chmod(0o770)
        [warning] = load({}, {}, config).warnings
        assert warning.startswith(f"{config.parent} is open to other users")
        config.parent.chmod(0o755)
        assert load({}, {}, config).warnings == ()


@needs_root
def test_a_yaml_file_of_another_user_is_warned_about(config: Path) -> None:
    """Its owner can write to it at any time."""
    config.write_text("port: 6001\n")
    os.chown(config, OTHER_USER, OTHER_USER)
    [warning] = load({}, {}, config).warnings
    assert warning.endswith(f"chown 0 {config}")


@pytest.mark.safeguard(
    file="settings/reading.py",
    old='warnings += (f"{place}: {danger}" for danger in dangers)',
    new="pass",
    protects_from="an authority that another user adds unnoticed",
)
def test_authorities_that_others_can_write_are_warned_about(tmp_path: Path) -> None:
    """They could add one of theirs, which vouches for a false Xero. All may read them."""
    path = make_certificates(tmp_path).ca
    for mode, count in ((0o644, 0), (0o664, 1)):
        path.chmod(mode)
        warnings = load({"ca_file": str(path)}, {}).warnings
        assert len(warnings) == count
    assert warnings[0] == (
        f"--ca-file: {path} is open to other users (mode 0664): chmod 644 {path}"
    )


@pytest.mark.safeguard(
    file="settings/reading.py",
    old='    "tls_key": secret_file_problems,\n',
    new="",
    protects_from="a key of the server that other users read unnoticed",
)
def test_a_certificate_or_its_key_that_is_open_to_others_is_warned_about(tmp_path: Path) -> None:
    """All may read the certificate, and only this user the key."""
    files = make_certificates(tmp_path)
    given = {"tls_certificate": str(files.server), "tls_key": str(files.server_key)}
    files.server.chmod(0o644)
    assert load(given, {}).warnings == ()
    files.server.chmod(0o664)
    files.server_key.chmod(0o640)
    assert load(given, {}).warnings == (
        f"--tls-certificate: {files.server} is open to other users (mode 0664): chmod 644 "
        f"{files.server}",
        f"--tls-key: {files.server_key} is open to other users (mode 0640): chmod 600 "
        f"{files.server_key}",
    )


def test_a_credential_that_others_can_write_is_warned_about(tmp_path: Path) -> None:
    """It need not be a secret."""
    (tmp_path / "proxy").write_text("http://proxy.example")
    (tmp_path / "proxy").chmod(0o646)
    [warning] = load({}, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).warnings
    assert warning.startswith(f"{tmp_path}/proxy is open to other users (mode 0646)")


def test_a_secret_credential_that_is_open_to_others_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd's folder keeps other users out; a folder that only has the name does not."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for name, text in (("client_id", "C"), ("client_secret", SECRET)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o444)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    tmp_path.chmod(0o500)
    assert load({}, environment).warnings == ()
    tmp_path.chmod(0o755)
    [warning] = load({}, environment).warnings
    assert warning.startswith(f"{tmp_path}/client_secret is open to other users")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", f"{SECRET}\nand more\n".encode()])
def test_a_file_without_a_client_secret_is_a_problem(tmp_path: Path, content: bytes) -> None:
    """The problem names the file, and does not show its content."""
    (tmp_path / "secret").write_bytes(content)
    arguments = {"client_id": "C", "client_secret_file": str(tmp_path / "secret")}
    [problem] = problems_of(arguments)
    assert problem.startswith("--client-secret-file: ")
    assert str(tmp_path / "secret") in problem
    assert SECRET not in problem


@pytest.mark.parametrize(
    ("name", "other"), [("client_secret_file", "client_secret"), ("key_file", "key")]
)
def test_a_secret_and_its_file_exclude_each_other(tmp_path: Path, name: str, other: str) -> None:
    """The problem names both places: the operator decides which one is right."""
    (tmp_path / "file").write_text("of the file")
    environment = {f"XOTS_{other.upper()}": SECRET}
    [problem] = problems_of({"client_id": "C", name: str(tmp_path / "file")}, environment)
    assert problem.startswith(f"--{name.replace('_', '-')}: ")
    assert f"XOTS_{other.upper()}" in problem
    assert SECRET not in problem


# ---------- large files


@pytest.mark.parametrize("source", ["client_secret_file", "config", "credential"])
def test_a_source_that_is_too_large_is_a_problem(tmp_path: Path, config: Path, source: str) -> None:
    """The files take no space: reading all of one would fail. The message gives the bound."""
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    path = {"config": config, "credential": credentials / "tenant_id"}.get(source, tmp_path / "s")
    path.touch(mode=0o600)
    os.truncate(path, 1 << 43)
    [problem] = problems_of(
        {"client_id": "C"} | ({source: str(path)} if source == "client_secret_file" else {}),
        {"CREDENTIALS_DIRECTORY": str(credentials)},
        config if source == "config" else None,
    )
    assert ("1024 KiB" if source == "config" else "64 KiB") in problem
    assert str(path) in problem


def test_settings_can_come_through_a_pipe() -> None:
    """The shell's process substitution gives the path of one."""
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "wb") as file:
        file.write(b"port: 6001\n")
        file.close()
        assert load({}, {}, Path(f"/dev/fd/{reader}")).port == 6001


# ---------- YAML


def test_yaml_takes_lists_booleans_and_numbers(config: Path) -> None:
    """A value can also be the text that another source would give."""
    config.write_text(
        "port: 6001\n"
        "pkce: off\n"
        "min_ttl: 45.5\n"
        "scopes:\n  - offline_access\n  - accounting.contacts\n"
        "client_id: C0FFEE\n"
        "tenant_id: null\n"
    )
    settings = load({}, {}, config)
    assert settings.port == 6001
    assert settings.pkce is False
    assert settings.min_ttl == 45.5
    assert settings.scopes == ("offline_access", "accounting.contacts")
    assert settings.client_id == "C0FFEE"
    assert settings.tenant_id is None
    for scopes in (
        "offline_access accounting.contacts",
        "offline_access, accounting.contacts",
        "['offline_access,accounting.contacts']",
        "['offline_access accounting.contacts', offline_access]",
    ):
        config.write_text(f"scopes: {scopes}\npkce: 'true'\n")
        assert load({}, {}, config).scopes == ("offline_access", "accounting.contacts")


@pytest.mark.parametrize(
    "text",
    [
        "00112233445566770011223344556677",
        "1_000",
        "12:30",
        "1e5",
        "0x10",
        "2026-11-02",
        "null-1",
        "~n",
        "nobody",
    ],
)
def test_yaml_keeps_an_id_as_it_is_written(config: Path, text: str) -> None:
    """An id that looks like a number, a date or null is text."""
    config.write_text(f"client_id: {text}\nclient_secret: {text}\n")
    credentials = load({}, {}, config).credentials
    assert credentials is not None
    assert credentials.client_id == text
    assert credentials.client_secret == Secret(text)


@pytest.mark.parametrize("null", ["", "~", "null"])
def test_a_yaml_null_sets_nothing_but_an_empty_url(config: Path, null: str) -> None:
    """It is like an empty variable."""
    config.write_text(f"port: {null}\nrevoke_url: {null}\n")
    settings = load({}, {}, config)
    assert settings.port == 5001
    assert settings.revoke_url == ""
    assert "port" not in settings.sources


def test_an_empty_file_sets_nothing(config: Path) -> None:
    """A file of comments holds no settings."""
    config.write_text("# nothing yet\n")
    assert load({}, {}, config) == Settings()


def test_a_key_that_occurs_twice_is_a_problem(config: Path) -> None:
    """YAML itself takes the last of them. The problem names both lines, and no value."""
    config.write_text(f"port: 6001\nclient_id: C\nport: {SECRET}\n")
    [problem] = problems_of({}, {}, config)
    assert problem == f"{config}, line 3: this key is in line 1 already: remove one of them"


@pytest.mark.parametrize(
    "text", ["[offline_access, {a: b}]", "[offline_access, ]]", "[[x]]", "[~]"]
)
def test_a_list_holds_words_only(config: Path, text: str) -> None:
    """Its parts are not taken as words of a setting."""
    config.write_text(f"scopes: {text}\n")
    [problem] = problems_of({}, {}, config)
    assert problem.startswith(str(config))


def test_the_problem_of_an_unknown_key_suggests_a_setting(config: Path) -> None:
    """It names the line and the most similar setting. It does not repeat the key, which may be a
    misplaced secret."""
    config.write_text("client_idd: C\nzzz: 1\n3: 4\n")
    near, far, number = problems_of({}, {}, config)
    assert near == f"{config}, line 1: no such setting (did you mean client_id?)"
    assert far == f"{config}, line 2: no such setting"
    assert number == f"{config}, line 3: no such setting"


@pytest.mark.parametrize(
    "text",
    [
        f"client_secret: '{SECRET}\n",
        f"client_secret: {SECRET}: x\n",
        f"client_secret: [{SECRET}\n",
        f"client_secret: *{SECRET}\n",
        f"client_secret: !{SECRET}\n",
        f"client_secret: !!{SECRET} x\n",
        f"client_secret: !!int {SECRET}\n",
        f"client_secret: &{SECRET} a\nclient_id: &{SECRET} b\nport: *{SECRET}x\n",
        f"client_secret: %{SECRET}\n",
        f"client_secret: @{SECRET}\n",
        f'client_secret: "\\q{SECRET}"\n',
        f"port: 1\nclient_secret:{SECRET}\n",
        f"\tclient_secret: {SECRET}\n",
        f"client_secret: {{{SECRET}: x}}\n",
        f"- client_secret: {SECRET}\n",
        f"client_secret {SECRET}\n",
        f"client_secret: {SECRET}\0\n",
    ],
)
def test_the_problem_of_an_invalid_file_does_not_quote_it(config: Path, text: str) -> None:
    """The line may hold a secret, so the problem names the file and the line number only."""
    config.write_text(text)
    for problem in problems_of({"client_id": "C"}, {}, config):
        assert str(config) in problem
        assert SECRET not in problem


def test_the_problem_of_an_invalid_file_names_the_line(config: Path) -> None:
    """The operator finds the place without a search."""
    config.write_text("port: 6001\nscopes: [offline_access\nclient_id: C\n")
    [problem] = problems_of({}, {}, config)
    assert f"{config}, line 3" in problem


@pytest.mark.parametrize("text", ["- port\n- 6001\n", "just words\n", "42\n"])
def test_a_file_that_is_not_a_mapping_is_refused(config: Path, text: str) -> None:
    """A list or a word is valid YAML, but sets nothing."""
    config.write_text(text)
    [problem] = problems_of({}, {}, config)
    assert str(config) in problem


def test_a_mapping_as_a_value_is_refused(config: Path) -> None:
    """No setting consists of parts."""
    config.write_text("store:\n  url: memory\n")
    [problem] = problems_of({}, {}, config)
    assert "store" in problem


@pytest.mark.parametrize("kind", ["missing", "folder", "not text"])
def test_a_file_that_cannot_be_read_is_reported_with_its_path(tmp_path: Path, kind: str) -> None:
    """A start without the file would ignore settings that the operator wrote. The path of a missing
    one may be a misplaced secret."""
    path = tmp_path / "xots.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "not text":
        path.write_bytes(b"port: \xff\n")
    [problem] = problems_of({}, {}, path)
    assert ("--config" if kind == "missing" else str(path)) in problem
    assert (str(path) in problem) == (kind != "missing")


@pytest.mark.parametrize("tag", ["timestamp", "int", "float", "bool", "binary", "set", "omap"])
@pytest.mark.parametrize("text", ["x", "''", "[x]", "{x: y}"])
def test_a_value_of_another_yaml_type_is_a_problem(config: Path, tag: str, text: str) -> None:
    """PyYAML fails at such values with errors of all kinds."""
    config.write_text(f"port: 6001\nclient_id: !!{tag} {text}\n")
    [problem] = problems_of({}, {}, config)
    assert problem.startswith(f"{config}, line 2: this is not YAML")


def test_yaml_that_is_nested_too_deep_is_a_problem(config: Path) -> None:
    """It ends in no traceback."""
    config.write_text("client_id: " + "[" * 5000 + "]" * 5000)
    [problem] = problems_of({}, {}, config)
    assert str(config) in problem


def test_a_yaml_file_can_not_run_code(config: Path, tmp_path: Path) -> None:
    """YAML tags of Python objects are refused."""
    witness = tmp_path / "witness"
    config.write_text(f"client_id: !!python/object/apply:os.mkdir ['{witness}']\n")
    assert problems_of({}, {}, config)
    assert not witness.exists()
