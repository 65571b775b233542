"""The sources of settings: ``load`` reads and combines them.

A setting ``token_url`` is ``--token-url`` on the command line, ``XOTS_TOKEN_URL`` in the
environment, the file ``token_url`` in systemd's credentials directory, and ``token_url:`` in the
YAML file. The first of these sources that gives it wins. ``load`` reports the problems of all
sources together, each with its source and key.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .account_sources import account_layers, account_texts
from .accounts import Layer
from .demands import access_demands, address_demands, client_demands, demands
from .fields import Settings
from .reading import (
    SETTINGS,
    Given,
    check_tls_files,
    collecting,
    is_secret,
    read_client_secret,
    read_text,
    set_twice,
    values_of,
)
from .yaml_file import from_yaml

__all__ = ["load"]


def load(
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    config: Path | None = None,
    *,
    only: Collection[str] | None = None,
) -> Settings:
    """Return the settings from all sources.

    Args:
        arguments: the texts that the command line gives, by setting name.
        environment: the environment of the process.
        config: a YAML file, or None.
        only: the names of the settings to read; None for all. The others keep their defaults.

    Raises:
        SettingsError: with all problems of all sources.
    """
    problems: list[str] = []
    warnings: list[str] = []
    directory = environment.get("CREDENTIALS_DIRECTORY")
    yaml = from_yaml(config, problems, warnings)
    sources = ChainMap(
        _from_command_line(arguments, problems),
        _from_environment(environment),
        _from_credentials(directory, problems, warnings),
        yaml.given,
    )
    wanted = SETTINGS if only is None else only
    given = {name: sources[name] for name in wanted if name in sources}
    values = values_of(given, problems)
    places = {name: found.place for name, found in given.items()}
    problems += set_twice(places)
    read_client_secret(values, places, problems, warnings)
    check_tls_files(values, places, problems, warnings)
    top = _top_layer(values, places)
    accounts = {}
    if only is None:
        default = values.get("account", SETTINGS["account"].default)
        names = {*yaml.accounts, default}
        texts = account_texts(names, yaml.accounts, directory, problems, warnings)
        problems += demands(top, top)
        accounts = account_layers(texts, top, problems, warnings)
        problems += _demands_of_all(default, accounts, top)
    if problems:
        raise SettingsError(problems)
    return Settings(**top.values, accounts=accounts, sources=places, warnings=tuple(warnings))


def _top_layer(values: Mapping[str, Any], places: Mapping[str, str]) -> Layer:
    """Return the settings of the top level, with defaults, without those that have a problem."""
    defaults = Layer({name: setting.default for name, setting in SETTINGS.items()})
    combined = Layer(values, places).above(defaults)
    problematic = places.keys() - values.keys()
    known = {name: value for name, value in combined.values.items() if name not in problematic}
    return Layer(known, places)


def _demands_of_all(default: str, accounts: Mapping[str, Layer], top: Layer) -> Iterator[str]:
    """Yield the problems of the accounts that depend on each account as a whole."""
    yield from access_demands(top)
    yield from address_demands(top, accounts.values())
    if default not in accounts:
        yield from client_demands(top)
    for name, own in accounts.items():
        yield from client_demands(own.above(top), f"accounts.{name}.")


# ---------- the command line, the environment, and systemd's credentials

NOT_ON_THE_COMMAND_LINE = (
    "the command line can't give a secret, since every user of the machine can see it: set it in "
    "the environment, in a file that --config names, or in systemd's credentials directory"
)


def _from_command_line(arguments: Mapping[str, str], problems: list[str]) -> dict[str, Given]:
    """Return the texts of the options, except those of secrets and of URLs with a password."""
    given = {}
    for name, text in arguments.items():
        setting = SETTINGS[name]
        if is_secret(name, text):
            problems.append(f"{setting.option}: {NOT_ON_THE_COMMAND_LINE}")
        else:
            given[name] = Given(text, setting.option)
    return given


def _from_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    """Return the texts of the variables. By custom, an empty variable counts as not set."""
    given = {}
    for name, setting in SETTINGS.items():
        text = environment.get(setting.variable)
        if text or (text == "" and setting.may_be_empty):
            given[name] = Given(text, setting.variable)
    return given


def _from_credentials(
    directory: str | None, problems: list[str], warnings: list[str]
) -> dict[str, Given]:
    """Return the texts of the files in systemd's credentials directory that are named like a
    setting."""
    if not directory:
        return {}
    given = {}
    for name in SETTINGS:
        path = Path(directory, name)
        try:
            is_there = path.is_file()
        except OSError as error:
            problems.append(f"CREDENTIALS_DIRECTORY can't be read: {error.strerror}")
            break
        if is_there:
            with collecting(problems):
                file = read_text(path)
                given[name] = Given(file.text.strip(), str(path))
                warnings += file.dangers(secret=is_secret(name, file.text))
    return given
