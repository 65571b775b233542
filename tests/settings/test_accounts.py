"""The accounts in the settings: their own settings, and those that they inherit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.settings_problems import SECRET, problems_of

from xots.lifecycle.account import Entry
from xots.secret import Secret
from xots.settings import Settings, declared, load
from xots.settings.accounts import OF_SERVER, Layer
from xots.xero.identity_server import XERO, IdentityServer
from xots.xero.protocol import SCOPE_SETS

OTHER = "https://id.example/token"


ADDED = datetime(2026, 11, 27, tzinfo=UTC)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a path at which a test can write a YAML file."""
    return tmp_path / "xots.yaml"


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """Return a credentials directory that other users can't read."""
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    return folder


def written(config: Path, text: str, **environment: str) -> Settings:
    """Return the settings of a YAML file."""
    config.write_text(text)
    return load({}, environment, config)


# ---------- own settings


def test_an_account_inherits_the_settings_of_the_top_level(config: Path) -> None:
    """Its own settings win, also over the command line's. ``account`` is its name."""
    config.write_text("min_ttl: 90\naccounts:\n  smith:\n    tenant_id: T\n    refreshmins: 100\n")
    settings = load({"refreshmins": "200"}, {}, config)
    smith = settings.for_account("smith")
    assert (smith.account, smith.tenant_id, smith.refreshmins, smith.min_ttl) == (
        "smith",
        "T",
        100,
        90,
    )
    assert smith.sources["tenant_id"] == f"{config}: accounts.smith.tenant_id"
    assert smith.sources["min_ttl"] == f"{config}: min_ttl"
    assert (settings.account, settings.tenant_id, settings.refreshmins) == ("default", None, 200)
    assert list(settings.accounts) == ["smith"]


def test_an_account_without_settings_has_inherited_ones(config: Path) -> None:
    """``smith:`` alone is an account, and so is one that no file names."""
    settings = written(config, "tenant_id: T\naccounts:\n  smith:\n")
    assert list(settings.accounts) == ["smith"]
    for name in ("smith", "added-later"):
        assert settings.for_account(name).tenant_id == "T"


@pytest.mark.parametrize("text", ["accounts:\n", "accounts: {}\n", "accounts: ~\n"])
def test_no_accounts_are_no_problem(config: Path, text: str) -> None:
    """The key alone names none."""
    assert written(config, text).accounts == {}


def test_the_account_of_the_top_level_can_have_overrides(config: Path) -> None:
    """``accounts`` can name it as any other."""
    settings = written(config, "account: main\ntenant_id: T\naccounts: {main: {tenant_id: U}}\n")
    assert settings.for_account("main").tenant_id == "U"
    assert settings.for_account("other").tenant_id == "T"


def test_a_deployment_without_accounts_keeps_its_settings() -> None:
    """The settings of its only account are those of the top level."""
    settings = load({"min_ttl": "90"}, {"XOTS_CLIENT_ID": "C", "XOTS_CLIENT_SECRET": SECRET})
    own = settings.for_account("default")
    for setting in declared():
        if setting.name != "fresh":
            assert getattr(own, setting.name) == getattr(settings, setting.name)
    assert own.sources == settings.sources


def test_the_default_account_is_fresh_always_and_the_others_while_used(config: Path) -> None:
    """A setting at the top level holds for all, and an account's own for that account."""
    settings = written(config, "account: main\naccounts: {busy: {fresh: always}}\n")
    fresh = [settings.for_account(name).fresh for name in ("main", "busy", "other")]
    assert fresh == ["always", "always", "used"]
    settings = written(config, "fresh: used\naccounts: {busy: {fresh: always}}\n")
    fresh = [settings.for_account(name).fresh for name in ("default", "busy", "other")]
    assert fresh == ["used", "always", "used"]


# ---------- problems


def test_all_problems_of_accounts_are_reported_together(config: Path) -> None:
    """Each has its place. A malformed name or key may be a misplaced secret: it is not shown."""
    config.write_text(
        "accounts:\n"
        "  smith:\n"
        "    token_url: ftp://id.example\n"
        f"    client_idd: {SECRET}\n"
        "    port: 6001\n"
        "    pkce: {a: b}\n"
        f"  {SECRET.upper()}: {{}}\n"
        "  lease-x: {}\n"
        f"  jones: {SECRET}\n"
        "  miller: [a, b]\n"
        "  [a, b]: {}\n"
    )
    problems = problems_of({}, {}, config)
    smith = f"{config}: accounts.smith"
    assert problems == [
        f"{config}, line 4: no such setting (did you mean client_id?)",
        f"{smith}.port: this setting belongs at the top level, not in an account",
        f"{smith}.pkce: this value is a mapping: give a single value",
        *(
            f"{config}, line {line}: accounts: the value is not an account name: use up to 64 "
            "lower-case letters, digits and hyphens, and do not begin with lease-"
            for line in (7, 8)
        ),
        *(
            f"{config}: accounts.{name}: this is not a list of settings: write one 'name: value' "
            "on each line below it"
            for name in ("jones", "miller")
        ),
        f"{config}, line 11: accounts: the value is not an account name: use up to 64 "
        "lower-case letters, digits and hyphens, and do not begin with lease-",
        f"{smith}.token_url: this URL must begin with http:// or https://",
    ]
    assert SECRET not in "".join(problems).lower()


@pytest.mark.safeguard(
    file="settings/yaml_file.py",
    old="if isinstance(key, str) and key in lines:",
    new="if False:",
    protects_from="two accounts of one name in the YAML file, of which YAML drops the first",
)
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("accounts:\n  smith: {tenant_id: T}\n  smith: {tenant_id: U}\n", 3),
        ("accounts:\n  smith:\n    tenant_id: T\n    tenant_id: U\n", 4),
        ("accounts: {smith: {}}\nport: 1\naccounts: {jones: {}}\n", 3),
    ],
)
def test_an_account_that_is_named_twice_is_a_problem(config: Path, text: str, line: int) -> None:
    """YAML itself takes the last of equal keys, and forgets the others."""
    config.write_text(text)
    [problem] = problems_of({}, {}, config)
    assert problem.startswith(f"{config}, line {line}: this key is in line ")


@pytest.mark.parametrize("text", ["smith", "[smith]", "''"])
def test_accounts_that_are_no_mapping_are_a_problem(config: Path, text: str) -> None:
    """The problem shows the form, and not the value."""
    config.write_text(f"accounts: {text}\n")
    [problem] = problems_of({}, {}, config)
    assert problem.startswith(f"{config}: accounts: this is not a list of accounts")
    assert "smith" not in problem


def test_an_account_that_refers_to_itself_is_a_problem(config: Path) -> None:
    """YAML's references can make a circle."""
    config.write_text("accounts: &a\n  smith: *a\n")
    [problem] = problems_of({}, {}, config)
    assert "line 2" in problem


def test_accounts_can_share_settings_by_reference(config: Path) -> None:
    """``*NAME`` repeats the value that ``&NAME`` marks."""
    text = "accounts:\n  smith: &shared\n    tenant_id: T\n  jones: *shared\n"
    settings = written(config, text)
    assert settings.for_account("jones").tenant_id == "T"


def test_a_key_similar_to_accounts_is_answered_with_a_hint(config: Path) -> None:
    """The misspelt key holds no account."""
    config.write_text("acounts: {smith: {}}\n")
    [problem] = problems_of({}, {}, config)
    assert problem == f"{config}, line 1: no such setting (did you mean accounts?)"


def test_the_settings_that_an_account_can_have_are_declared() -> None:
    """Those of the process (port, store, key and others) are for all accounts."""
    assert {setting.name for setting in declared() if setting.per_account} == {
        "client_id",
        "client_secret",
        "client_secret_file",
        "tenant_id",
        "scopes",
        "authorize_url",
        "token_url",
        "revoke_url",
        "connections_url",
        "authorize_params",
        "client_auth",
        "issuer",
        "grace",
        "grant",
        "pkce",
        "refreshmins",
        "refresh_ahead",
        "min_ttl",
        "refresh_interval",
        "ca_file",
        "proxy",
        "fresh",
    }


def test_a_command_that_reads_some_settings_reads_no_account(config: Path) -> None:
    """Its user may have no right to read the files of the accounts."""
    config.write_text("port: 6001\naccounts: {smith: {client_secret_file: /no/file}}\n")
    assert load({}, {}, config, only=("port",)).port == 6001


def test_thousands_of_accounts_fit_in_the_file(config: Path) -> None:
    """Their number has no bound of its own in the file."""
    lines = (f"  a{number}: {{tenant_id: T{number}}}\n" for number in range(3000))
    settings = written(config, "accounts:\n" + "".join(lines))
    assert len(settings.accounts) == 3000
    assert settings.for_account("a2999").tenant_id == "T2999"


# ---------- secrets of an account


def test_an_account_can_have_a_secret_of_its_own(config: Path, credentials: Path) -> None:
    """It comes from the YAML file, a file, or a credential, which wins over the YAML file."""
    (config.parent / "secret").write_text("of-file")
    text = (
        "client_id: C\nclient_secret: top\n"
        "accounts:\n  a: {client_secret: of-yaml}\n"
        f"  b: {{client_secret_file: {config.parent}/secret}}\n  c: {{client_secret: hidden}}\n"
    )
    (credentials / "accounts.c.client_secret").write_text("of-credential\n")
    settings = written(config, text, CREDENTIALS_DIRECTORY=str(credentials))
    secrets = [settings.for_account(name).client_secret for name in ("a", "b", "c", "other")]
    assert secrets == [Secret(t) for t in ("of-yaml", "of-file", "of-credential", "top")]
    sources = settings.for_account("c").sources
    assert sources["client_secret"] == str(credentials / "accounts.c.client_secret")
    for word in ("of-yaml", "of-file", "of-credential"):
        assert word not in repr(settings)


def test_a_credential_can_be_for_the_account_of_the_top_level(credentials: Path) -> None:
    """No file need name that account."""
    (credentials / "accounts.main.client_secret").write_text("own")
    environment = {"CREDENTIALS_DIRECTORY": str(credentials), "XOTS_ACCOUNT": "main"}
    settings = load({"client_id": "C"}, environment)
    assert settings.for_account("main").client_secret == Secret("own")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("accounts.smyth.client_secret", "no account has the name"),
        ("accounts.smith.client_sercet", "but client_secret"),
        ("accounts.smith.tenant_id", "but client_secret"),
    ],
)
def test_a_credential_of_no_account_or_setting_is_a_problem(
    config: Path, credentials: Path, name: str, words: str
) -> None:
    """A start without it would ignore a secret that the operator gave."""
    config.write_text("accounts: {smith: {client_id: C}}\n")
    (credentials / name).write_text(SECRET)
    [problem] = problems_of({}, {"CREDENTIALS_DIRECTORY": str(credentials)}, config)
    assert problem.startswith(f"{credentials / name}: ")
    assert words in problem
    assert SECRET not in problem


@pytest.mark.parametrize("name", ["accounts.json", "accounts.smith.pem", "accounts.a.b.c"])
def test_credentials_that_are_not_for_accounts_are_ignored(credentials: Path, name: str) -> None:
    """A unit can load files that settings name."""
    (credentials / name).write_bytes(b"\xff")
    assert load({}, {"CREDENTIALS_DIRECTORY": str(credentials)}).accounts == {}


@pytest.mark.safeguard(
    file="settings/account_sources.py",
    old="warnings += file.dangers(secret=True)",
    new="pass",
    protects_from="a credential of an account that other users read unnoticed",
)
def test_a_secret_of_an_account_that_is_open_to_others_is_warned_about(
    config: Path, credentials: Path
) -> None:
    """As for those of the top level: the YAML file, the secret's file, and the credential."""
    secret = config.parent / "secret"
    secret.write_text("of-file")
    secret.chmod(0o644)
    config.touch(mode=0o644)
    (credentials / "accounts.c.client_secret").write_text("x")
    (credentials / "accounts.c.client_secret").chmod(0o644)
    credentials.chmod(0o755)
    text = (
        "client_id: C\naccounts:\n  a: {client_secret: of-yaml}\n"
        f"  b: {{client_secret_file: {secret}}}\n  c:\n"
    )
    warnings = written(config, text, CREDENTIALS_DIRECTORY=str(credentials)).warnings
    assert [warning.partition(" is open to other users")[0] for warning in warnings] == [
        str(config),
        str(credentials / "accounts.c.client_secret"),
        f"{config}: accounts.b.client_secret_file: {secret}",
    ]


def test_a_secret_of_an_account_needs_a_client_id(config: Path) -> None:
    """Its own, or that of the top level."""
    config.write_text("accounts: {smith: {client_secret: x}}\n")
    [problem] = problems_of({}, {}, config)
    assert problem == (
        f"{config}: accounts.smith.client_secret: a client secret needs a client id: set "
        "accounts.smith.client_id too"
    )


def test_a_secret_and_its_file_exclude_each_other_in_an_account(config: Path) -> None:
    """A secret of the top level and a file of the account do not."""
    (config.parent / "secret").write_text("of-file")
    file = f"client_secret_file: {config.parent}/secret"
    config.write_text(f"client_id: C\naccounts: {{smith: {{client_secret: x, {file}}}}}\n")
    [problem] = problems_of({}, {}, config)
    assert "client_secret is set too" in problem
    text = f"client_id: C\nclient_secret: x\naccounts: {{smith: {{{file}}}}}\n"
    assert written(config, text).for_account("smith").client_secret == Secret("of-file")


# ---------- what is not inherited

TOP = f"client_id: C\nclient_secret: {SECRET}\ntenant_id: T\n"


@pytest.mark.safeguard(
    file="settings/accounts.py",
    old='elif self.differs("client_id", below):',
    new="elif False:",
    protects_from="a client secret that is sent in the name of another client",
)
def test_an_account_of_another_client_inherits_no_secret(config: Path) -> None:
    """Neither the secret nor the organisation of the top level is for that client. Of the same
    client, it inherits both."""
    settings = written(config, TOP + "accounts: {a: {client_id: D}, b: {client_id: C}}\n")
    a, b = settings.for_account("a"), settings.for_account("b")
    assert (a.client_id, a.client_secret, a.tenant_id) == ("D", None, None)
    assert not {"client_secret", "tenant_id"} & a.sources.keys()
    assert (b.client_secret, b.tenant_id) == (Secret(SECRET), "T")
    entry = settings.for_account("other", Entry(client_id="D", added_at=ADDED))
    assert (entry.client_id, entry.client_secret, entry.tenant_id) == ("D", None, None)


def test_an_account_of_another_client_inherits_no_file_of_a_secret(config: Path) -> None:
    """The file holds the secret of the top level's client."""
    (config.parent / "secret").write_text("of-file")
    text = f"client_id: C\nclient_secret_file: {config.parent}/secret\n"
    a = written(config, text + "accounts: {a: {client_id: D}}\n").for_account("a")
    assert (a.client_secret, a.client_secret_file) == (None, None)


@pytest.mark.safeguard(
    file="settings/accounts.py",
    old='if self.differs("token_url", below):',
    new="if False:",
    protects_from="the top level's client secret, sent to another identity server",
)
def test_an_account_of_another_identity_server_inherits_no_client(config: Path) -> None:
    """Client, secret and organisation belong to the identity server of the top level. The proxy and
    the authorities belong to the network, and stay."""
    urls = f"token_url: {OTHER}, authorize_url: {OTHER}, revoke_url: , connections_url: ''"
    proxy = "proxy: http://u:p@proxy.example\n"
    a = written(config, f"{TOP}{proxy}accounts: {{a: {{{urls}}}}}\n").for_account("a")
    assert (a.client_id, a.client_secret, a.tenant_id) == (None, None, None)
    assert (a.token_url, a.revoke_url, a.connections_url) == (OTHER, "", "")
    assert a.proxy is not None
    assert a.proxy.host == "proxy.example"


def test_a_login_at_another_identity_server_needs_its_login_page(config: Path) -> None:
    """That of the top level is not inherited. The other URLs may be left out: they are empty."""
    config.write_text(f"accounts: {{a: {{token_url: {OTHER}}}, b: {{token_url: {OTHER}}}}}\n")
    a, b = problems_of({}, {}, config)
    assert a == (
        f"{config}: accounts.a.token_url: a login at another identity server than Xero needs its "
        "login page: set accounts.a.authorize_url too"
    )
    assert b.startswith(f"{config}: accounts.b.token_url: ")
    text = f"accounts: {{a: {{token_url: {OTHER}, authorize_url: {OTHER}}}}}\n"
    a_of = written(config, text).for_account("a")
    assert (a_of.authorize_url, a_of.revoke_url, a_of.connections_url) == (OTHER, "", "")


def test_only_the_grant_of_an_account_makes_its_login_page_missing(config: Path) -> None:
    """The top level has no logins and no login page, and the account has logins."""
    config.write_text(
        f"token_url: {OTHER}\ngrant: client_credentials\n{TOP}"
        "accounts: {a: {grant: authorization_code}, b: }\n"
    )
    [problem] = problems_of({}, {}, config)
    assert problem.startswith(f"{config}: accounts.a.grant: ")
    assert problem.endswith("set accounts.a.authorize_url too")


def test_an_account_of_another_identity_server_inherits_no_setting_of_that_server(
    config: Path,
) -> None:
    """How the top level's server works says nothing about the other one."""
    top = (
        f"{TOP}authorize_params: prompt=consent\nclient_auth: post\nissuer: https://id.example\n"
        "grace: 0\n"
    )
    text = f"{top}accounts: {{a: {{token_url: {OTHER}, authorize_url: {OTHER}}}, b: }}\n"
    settings = written(config, text)
    names = ("authorize_params", "client_auth", "issuer", "grace")
    a, b = (settings.for_account(name) for name in ("a", "b"))
    assert [getattr(a, name) for name in names] == [(), "basic", None, 1800.0]
    assert not a.sources.keys() & set(names)
    assert [getattr(b, name) for name in names] == [
        (("prompt", "consent"),),
        "post",
        "https://id.example",
        0.0,
    ]


def test_every_setting_of_an_identity_server_is_inherited_with_it_or_not_at_all() -> None:
    """A new field of ``IdentityServer`` joins the others."""
    assert {"token_url", *OF_SERVER} == set(IdentityServer.__struct_fields__)


def test_an_account_at_xero_below_another_identity_server_has_the_urls_of_xero(
    config: Path,
) -> None:
    """Its token URL says so. Its default scopes are Xero's too."""
    top = f"token_url: {OTHER}\nauthorize_url: {OTHER}\n"
    settings = written(config, f"{top}accounts: {{a: {{token_url: {XERO.token_url}}}, b: }}\n")
    a, b = (settings.for_account(name) for name in ("a", "b"))
    assert a.identity_server == XERO
    assert a.scopes == SCOPE_SETS["classic"]
    assert (b.token_url, b.revoke_url, b.connections_url, b.scopes) == (OTHER, "", "", ())


# ---------- scopes


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("scopes: x\naccounts: {a: }\n", "scopes"),
        ("accounts: {a: {scopes: x}, b: {scopes: offline_access}}\n", "accounts.a.scopes"),
        (
            f"token_url: {OTHER}\nauthorize_url: {OTHER}\n"
            f"accounts: {{a: {{token_url: {XERO.token_url}, scopes: x}}}}\n",
            "accounts.a.scopes",
        ),
    ],
)
def test_a_login_at_xero_demands_offline_access(config: Path, text: str, place: str) -> None:
    """The one problem names the scopes that lack it, at the top level or in the account."""
    config.write_text(text)
    [problem] = problems_of({}, {}, config)
    assert problem == (
        f"{config}: {place}: offline_access is missing; without it Xero issues no refresh token: "
        "add it"
    )


def test_scopes_that_only_an_account_at_xero_inherits_are_its_problem(config: Path) -> None:
    """At the identity server of the top level, they are right."""
    config.write_text(
        f"token_url: {OTHER}\nauthorize_url: {OTHER}\nscopes: x\n"
        f"accounts: {{a: {{token_url: {XERO.token_url}}}}}\n"
    )
    [problem] = problems_of({}, {}, config)
    assert problem.startswith(f"{config}: scopes: offline_access is missing")
    assert problem.endswith("or set accounts.a.scopes")


def test_an_account_of_another_identity_server_requests_the_scopes_that_are_set(
    config: Path,
) -> None:
    """Its own, else those that are set at the top level. Xero's default is not for it."""
    other = f"token_url: {OTHER}, authorize_url: {OTHER}"
    text = f"accounts: {{a: {{{other}}}, b: {{{other}, scopes: [x, 'y,z']}}}}\n"
    settings = written(config, text)
    assert [settings.for_account(name).scopes for name in ("a", "b")] == [(), ("x", "y", "z")]
    settings = written(config, f"scopes: granular\n{text}")
    assert settings.for_account("a").scopes == SCOPE_SETS["granular"]


# ---------- the client's own credentials


def test_an_account_by_its_client_requests_no_offline_access(config: Path) -> None:
    """A refresh token is for logins. The other scopes stay, set or by default."""
    (config.parent / "secret").write_text("of-file")
    secret = f"client_id: D, client_secret_file: {config.parent}/secret"
    settings = written(
        config,
        f"{TOP}accounts:\n  a: {{grant: client_credentials, {secret}}}\n"
        "  b: {grant: client_credentials, scopes: 'offline_access x'}\n"
        "  c: {grant: client_credentials, scopes: y}\n",
    )
    scopes = [settings.for_account(name).scopes for name in ("a", "b", "c", "default")]
    assert scopes == [SCOPE_SETS["classic"][1:], ("x",), ("y",), SCOPE_SETS["classic"]]


@pytest.mark.parametrize(
    ("own", "missing"),
    [
        ("", "accounts.a.client_id and accounts.a.client_secret or accounts.a.client_secret_file"),
        (", client_id: C", "accounts.a.client_secret or accounts.a.client_secret_file"),
        (", client_auth: none", "accounts.a.client_id"),
    ],
)
def test_an_account_by_its_client_needs_one(config: Path, own: str, missing: str) -> None:
    """The problem names the settings to set. Another account's client is not its own."""
    config.write_text(f"accounts: {{a: {{grant: client_credentials{own}}}, b: {{client_id: D}}}}\n")
    [problem] = problems_of({}, {}, config)
    assert problem == (
        f"{config}: accounts.a.grant: client_credentials needs the client's own credentials: set "
        f"{missing}"
    )


def test_each_account_by_its_client_can_have_one_of_its_own(config: Path) -> None:
    """The top level has none, and no account that would need it."""
    own = "{client_id: C, client_secret: s}"
    settings = written(
        config, f"grant: client_credentials\naccount: a\naccounts: {{a: {own}, b: {own}}}\n"
    )
    assert settings.for_account("b").client_secret == Secret("s")


def test_settings_made_without_a_check_send_no_token_to_another_server() -> None:
    """``for_account`` leaves the URLs of another identity server empty. ``load`` demands them."""
    settings = Settings(
        client_id="C",
        client_secret=Secret(SECRET),
        accounts={"a": Layer({"token_url": OTHER})},
    )
    a = settings.for_account("a")
    assert (a.token_url, a.client_secret, a.revoke_url, a.connections_url) == (OTHER, None, "", "")


def test_a_secret_at_another_identity_server_needs_a_client_id_of_the_account(
    config: Path,
) -> None:
    """That of the top level is not registered there."""
    urls = f"token_url: {OTHER}, authorize_url: {OTHER}, revoke_url: , connections_url: "
    config.write_text(f"client_id: C\naccounts: {{a: {{{urls}, client_secret: x}}}}\n")
    [problem] = problems_of({}, {}, config)
    assert "accounts.a.client_id" in problem


# ---------- the entry of an account that was added at run time


def test_an_entry_wins_over_the_top_level_and_the_yaml_file_over_the_entry(config: Path) -> None:
    """The sources name the place of each."""
    settings = written(
        config, "client_id: C\nmin_ttl: 90\naccounts: {a: {tenant_id: of-yaml}, b: }\n"
    )
    entry = Entry(
        client_id="D",
        client_secret=Secret("s"),
        tenant_id="of-entry",
        scopes=("offline_access", "x"),
        added_at=ADDED,
    )
    a, b = settings.for_account("a", entry), settings.for_account("b", entry)
    assert (a.client_id, a.client_secret, a.tenant_id) == ("D", Secret("s"), "of-yaml")
    assert (b.tenant_id, b.scopes, b.min_ttl) == ("of-entry", ("offline_access", "x"), 90)
    assert a.sources["client_id"] == a.sources["client_secret"] == "the account's entry"
    assert a.sources["tenant_id"] == f"{config}: accounts.a.tenant_id"
    assert "scopes" not in settings.for_account("b", Entry(client_id="D", added_at=ADDED)).sources


def test_a_secret_never_moves_to_the_client_of_another_source(config: Path) -> None:
    """A secret in the YAML file is for the client there, and one in an entry for that client."""
    settings = written(
        config, "client_id: C\naccounts: {a: {client_secret: s}, b: {client_id: E}}\n"
    )
    a = settings.for_account(
        "a", Entry(client_id="D", client_secret=Secret("of-entry"), added_at=ADDED)
    )
    assert (a.client_id, a.client_secret) == ("C", Secret("s"))
    b = settings.for_account(
        "b", Entry(client_id="D", client_secret=Secret("of-entry"), tenant_id="T", added_at=ADDED)
    )
    assert (b.client_id, b.client_secret, b.tenant_id) == ("E", None, None)
    other = settings.for_account("other", Entry(client_secret=Secret("of-entry"), added_at=ADDED))
    assert (other.client_id, other.client_secret) == ("C", None)
