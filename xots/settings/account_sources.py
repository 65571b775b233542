"""The own settings of the accounts: from the YAML file and from systemd's credentials directory.

A credential ``accounts.NAME.client_secret`` is the client secret of the account ``NAME``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from .accounts import Layer
from .demands import demands
from .reading import (
    SETTINGS,
    File,
    Given,
    check_tls_files,
    collecting,
    read_client_secret,
    read_text,
    set_twice,
    values_of,
)

__all__ = ["account_layers", "account_texts"]

SECRET = "client_secret"  # noqa: S105 - the name of the setting


def account_texts(
    names: Collection[str],
    yaml: Mapping[str, dict[str, Given]],
    directory: str | None,
    problems: list[str],
    warnings: list[str],
) -> dict[str, dict[str, Given]]:
    """Return the texts of the accounts: a secret in the credentials directory wins over the YAML
    file's.

    Args:
        names: the accounts that can have a credential.
        yaml: the texts of the YAML file, by account and setting.
        directory: systemd's credentials directory.
        problems: gets a sentence for each credential of another account or setting.
        warnings: gets a sentence for each credential that other users may know.
    """
    texts = dict(yaml)
    for path in _files(directory, problems):
        match path.name.split("."):
            case ["accounts", name, key] if key == SECRET and name in names:
                with collecting(problems):
                    file = read_text(path)
                    texts[name] = {**texts.get(name, {}), SECRET: _given(file, path)}
                    warnings += file.dangers(secret=True)
            case ["accounts", _, key] if key == SECRET:
                problems.append(
                    f"{path}: no account has the name in this credential's: add the account to the "
                    "YAML file, or remove the credential"
                )
            case ["accounts", _, key] if key in SETTINGS or _is_near(key):
                problems.append(
                    f"{path}: a credential can set no setting of an account but {SECRET}: set the "
                    "others in the YAML file"
                )
    return texts


def _given(file: File, path: Path) -> Given:
    return Given(file.text.strip(), str(path))


def _is_near(key: str) -> bool:
    import difflib  # here, since few have such a file

    return bool(difflib.get_close_matches(key, [SECRET]))


def _files(directory: str | None, problems: list[str]) -> list[Path]:
    """Return the files in the credentials directory, in order."""
    if not directory:
        return []
    try:
        return sorted(path for path in Path(directory).iterdir() if path.is_file())
    except FileNotFoundError:
        return []
    except OSError as error:
        problem = f"CREDENTIALS_DIRECTORY can't be read: {error.strerror}"
        if problem not in problems:
            problems.append(problem)
        return []


def account_layers(
    accounts: Mapping[str, dict[str, Given]], top: Layer, problems: list[str], warnings: list[str]
) -> dict[str, Layer]:
    """Return the own settings of each account.

    Args:
        accounts: their texts, by account and setting.
        top: the settings of the top level, with their defaults but without those that have a
            problem.
        problems: gets a sentence for each problem of an account.
        warnings: gets a sentence for each file that other users may know or replace.
    """
    layers = {}
    for name, given in accounts.items():
        values = values_of(given, problems)
        places = {key: found.place for key, found in given.items()}
        problems += set_twice(places)
        read_client_secret(values, places, problems, warnings)
        check_tls_files(values, places, problems, warnings)
        own = Layer(values, places)
        problems += demands(own, own.above(top), f"accounts.{name}.")
        is_secret_of_top = SECRET in values and "client_id" not in places
        if is_secret_of_top and top.values.get("client_id") is not None:
            # It stays that client's secret if the account's entry names another client.
            values["client_id"] = top.values["client_id"]
            places["client_id"] = top.places["client_id"]
        layers[name] = own
    return layers
