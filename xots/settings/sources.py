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
from . import parsing
from .account_sources import account_layers, account_texts
from .accounts import Layer
from .fields import Settings
from .reading import (
    SETTINGS,
    Given,
    check_authorities,
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
    check_authorities(values, places, problems, warnings)
    accounts = {}
    if only is None:
        problems += _missing(values, places)
        names = {*yaml.accounts, values.get("account", SETTINGS["account"].default)}
        texts = account_texts(names, yaml.accounts, directory, problems, warnings)
        accounts = account_layers(texts, _top_layer(values, places), problems, warnings)
    if problems:
        raise SettingsError(problems)
    return Settings(**values, accounts=accounts, sources=places, warnings=tuple(warnings))


def _top_layer(values: Mapping[str, Any], places: Mapping[str, str]) -> Layer:
    """Return the settings of the top level, with defaults, without those that have a problem."""
    defaults = {name: setting.default for name, setting in SETTINGS.items() if name not in places}
    return Layer({**defaults, **values}, places)


# ---------- settings that depend on each other


def _missing(values: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[str]:
    """Yield a problem for each setting that is required because another one is set."""
    if "client_secret" in values and "client_id" not in places:
        yield f"{places['client_secret']}: a client secret needs a client id: set client_id too"
    is_public = "address" in values and not parsing.is_loopback(values["address"])
    if is_public and "redirect" not in places:
        yield (
            f"{places['address']}: an address that is not loopback needs a redirect URI at which "
            "browsers reach this server: set redirect too"
        )


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
