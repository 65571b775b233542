"""The sources: the order in which they count, and how their problems are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.settings_problems import SECRET, problems_of

from xots.secret import Secret
from xots.settings import Settings, load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where a YAML file may be written."""
    return tmp_path / "xots.yaml"


@pytest.mark.parametrize("first", range(5))
def test_the_first_source_that_has_a_setting_wins(tmp_path: Path, config: Path, first: int) -> None:
    """Command line, environment, credentials directory, YAML file, default: in that order."""
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


def test_each_source_names_itself(tmp_path: Path, config: Path) -> None:
    """Where a setting came from can be told to the operator, in the source's own words."""
    (tmp_path / "tenant_id").write_text("T\n")
    config.write_text("token_url: https://id.example/token\n")
    environment = {"XOTS_CLIENT_ID": "C", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    settings = load({"refresh_ahead": "60"}, environment, config)
    assert settings.sources["refresh_ahead"] == "--refresh-ahead"
    assert settings.sources["client_id"] == "XOTS_CLIENT_ID"
    assert settings.sources["tenant_id"] == str(tmp_path / "tenant_id")
    assert str(config) in settings.sources["token_url"]
    assert "token_url" in settings.sources["token_url"]


def test_a_secret_comes_from_environment_credential_or_file(tmp_path: Path, config: Path) -> None:
    """All three reach the client's credentials, and none of them shows in the settings' repr."""
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
    """As is the custom in unit files and containers."""
    assert load({}, {"XOTS_PORT": "", "XOTS_CLIENT_ID": ""}).port == 5001


def test_other_files_of_a_credentials_directory_are_left_alone(tmp_path: Path) -> None:
    """systemd puts there what the unit asks for, which may be more than settings."""
    (tmp_path / "something-else").write_bytes(b"\xff\xfe")
    (tmp_path / "port").mkdir()
    assert load({}, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).port == 5001


def test_a_credentials_directory_that_is_not_there_is_no_problem(tmp_path: Path) -> None:
    """A unit without credentials may still name the directory."""
    assert load({}, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}).port == 5001


def test_a_credential_that_is_not_text_is_told_by_its_path(tmp_path: Path) -> None:
    """A key file put in the place of a secret is a problem, and its bytes are not shown."""
    (tmp_path / "client_secret").write_bytes(b"canary\xff\xfe")
    [problem] = problems_of({"client_id": "C"}, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert str(tmp_path / "client_secret") in problem
    assert "canary" not in problem


# ---------- problems


def test_all_problems_are_told_at_once_each_with_its_source(tmp_path: Path, config: Path) -> None:
    """Nobody mends one, starts again, and finds the next."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "tick").write_text("never\n")
    config.write_text("pkce: perhaps\nprot: 5001\n")
    environment = {"XOTS_TOKEN_URL": "ftp://id.example", "CREDENTIALS_DIRECTORY": str(folder)}
    problems = problems_of({"port": "70000"}, environment, config)
    assert len(problems) == 5
    for words in (
        ("--port", "70000"),
        ("XOTS_TOKEN_URL",),
        (str(folder / "tick"), "never"),
        (str(config), "pkce", "perhaps"),
        (str(config), "prot", "did you mean port"),
    ):
        assert len([one for one in problems if all(word in one for word in words)]) == 1, words


def test_a_source_that_is_overruled_is_not_complained_about() -> None:
    """What the command line sets right need not be right in the environment."""
    assert load({"port": "6001"}, {"XOTS_PORT": "nonsense"}).port == 6001


def test_a_secret_without_a_client_id_is_a_problem() -> None:
    """Half of the credentials is a mistake, told with the source of the half that is there."""
    [problem] = problems_of({}, {"XOTS_CLIENT_SECRET": SECRET})
    assert problem.startswith("XOTS_CLIENT_SECRET: ")
    assert SECRET not in problem


def test_a_client_id_that_is_wrong_is_one_problem_and_not_two() -> None:
    """That the client id can't be used is not told again as a client id that is missing."""
    [problem] = problems_of({"client_id": "two words"}, {"XOTS_CLIENT_SECRET": SECRET})
    assert problem.startswith("--client-id: ")


# ---------- YAML


def test_yaml_takes_lists_booleans_and_numbers(config: Path) -> None:
    """Each in the way that one writes it in YAML, and as plain text too."""
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
    config.write_text("scopes: offline_access accounting.contacts\npkce: 'true'\n")
    assert load({}, {}, config).scopes == ("offline_access", "accounting.contacts")


@pytest.mark.parametrize(
    "text", ["00112233445566770011223344556677", "1_000", "12:30", "1e5", "0x10", "2026-11-02"]
)
def test_yaml_does_not_reckon_with_an_id_that_looks_like_a_number(config: Path, text: str) -> None:
    """A client id of digits alone reaches Xero as it was written."""
    config.write_text(f"client_id: {text}\nclient_secret: {text}\n")
    credentials = load({}, {}, config).credentials
    assert credentials is not None
    assert credentials.client_id == text
    assert credentials.client_secret == Secret(text)


def test_an_empty_file_sets_nothing(config: Path) -> None:
    """A file of comments is a file without settings."""
    config.write_text("# nothing yet\n")
    assert load({}, {}, config) == Settings()


def test_an_unknown_key_is_told_with_the_name_that_was_meant(config: Path) -> None:
    """A typo is not passed over in silence."""
    config.write_text("client_idd: C\nzzz: 1\n3: 4\n")
    near, far, number = problems_of({}, {}, config)
    assert str(config) in near
    assert "client_idd" in near
    assert "did you mean client_id?" in near
    assert "zzz" in far
    assert "did you mean" not in far
    assert "3" in number


@pytest.mark.parametrize(
    "text",
    [
        f"client_secret: '{SECRET}\n",
        f"client_secret: {SECRET}: x\n",
        f"client_secret: [{SECRET}\n",
        f"client_secret: *{SECRET}\n",
        f"client_secret: !{SECRET}\n",
        f"client_secret: !!{SECRET} x\n",
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
def test_a_broken_file_is_told_without_quoting_it(config: Path, text: str) -> None:
    """Whatever is wrong with the line, it may hold the secret, so only the file and its place are named."""
    config.write_text(text)
    for problem in problems_of({"client_id": "C"}, {}, config):
        assert str(config) in problem
        assert SECRET not in problem


def test_a_broken_file_is_told_with_its_line(config: Path) -> None:
    """The operator is sent to the right place."""
    config.write_text("port: 6001\nscopes: [offline_access\nclient_id: C\n")
    [problem] = problems_of({}, {}, config)
    assert f"{config}, line 3" in problem


@pytest.mark.parametrize("text", ["- port\n- 6001\n", "just words\n", "42\n"])
def test_a_file_that_is_no_mapping_is_refused(config: Path, text: str) -> None:
    """A list or a word is valid YAML and no settings."""
    config.write_text(text)
    [problem] = problems_of({}, {}, config)
    assert str(config) in problem


def test_a_setting_with_settings_inside_is_refused(config: Path) -> None:
    """No setting has parts."""
    config.write_text("store:\n  url: memory\n")
    [problem] = problems_of({}, {}, config)
    assert "store" in problem


@pytest.mark.parametrize("kind", ["missing", "folder", "not text"])
def test_a_file_that_cannot_be_read_is_told_by_its_path(tmp_path: Path, kind: str) -> None:
    """A file that was named must be there; to go on without it would be to ignore what was asked for."""
    path = tmp_path / "xots.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "not text":
        path.write_bytes(b"port: \xff\n")
    [problem] = problems_of({}, {}, path)
    assert str(path) in problem


def test_a_file_runs_nothing(config: Path, tmp_path: Path) -> None:
    """YAML's tags for Python objects are refused, not carried out."""
    witness = tmp_path / "witness"
    config.write_text(f"client_id: !!python/object/apply:os.mkdir ['{witness}']\n")
    assert problems_of({}, {}, config)
    assert not witness.exists()
