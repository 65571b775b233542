"""The sources that settings come from.

A setting ``token_url`` is ``--token-url`` on the command line, ``XOTS_TOKEN_URL`` in the environment, a file
``token_url`` in the systemd credentials directory and ``token_url:`` in the YAML file; the first source that has it
wins, in that order. All problems are collected and told at once, each with the source and key it came from.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from .fields import Settings, declared
from .parsing import holds_password, is_loopback, secret


def load(
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    config: Path | None = None,
    *,
    only: Collection[str] | None = None,
) -> Settings:
    """The settings from all their sources.

    Args:
        arguments: what the command line set, by setting name.
        environment: the process's environment.
        config: a YAML file, or None.
        only: the settings that are wanted; None for all. The others keep their defaults, unread.

    Raises:
        SettingsError: with every problem of every source.
    """
    problems: list[str] = []
    sources: list[tuple[Callable[[str], str], Mapping[str, str]]] = [
        (lambda name: f"--{name.replace('_', '-')}", arguments),
        (lambda name: f"XOTS_{name.upper()}", _of_environment(environment)),
    ]
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        folder = Path(directory)
        sources.append((lambda name: f"{folder / name}", _of_credentials(folder, problems)))
    if config is not None:
        sources.append((lambda name: f"{config}: {name}", _of_yaml(config, problems)))

    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in declared():
        if only is not None and setting.name not in only:
            continue
        for place, source in sources:
            if setting.name not in source:
                continue
            origins[setting.name] = place(setting.name)
            try:
                values[setting.name] = _parsed(
                    setting, source[setting.name], public=source is arguments
                )
            except ValueError as error:
                problems.append(f"{origins[setting.name]}: {error}")
            break
    _read_secret_file(values, origins, problems)
    if "key" in origins and "key_file" in origins:
        problems.append(
            f"{origins['key_file']}: key is set too ({origins['key']}); set one of them"
        )
    if "client_secret" in values and "client_id" not in origins and only is None:
        problems.append(
            f"{origins['client_secret']}: a client secret without a client id (set client_id too)"
        )
    if (
        "address" in values
        and not is_loopback(values["address"])
        and "redirect" not in origins
        and only is None
    ):
        problems.append(
            f"{origins['address']}: with an address that is not loopback, the redirect URI that Xero sends browsers to "
            "can't be guessed: set redirect too"
        )
    if problems:
        raise SettingsError(problems)
    return Settings(**values, sources=origins)


NOT_ON_THE_COMMAND_LINE = (
    "a secret is not taken from the command line, where every user of the machine can see it; set it in the "
    "environment, in a file that --config names, or in systemd's credentials directory"
)


def _parsed(setting: Field[Any], text: str, *, public: bool) -> Any:
    """A setting's value. In public, on the command line, neither a secret nor a URL with a password is taken."""
    if public and (setting.metadata["secret"] or holds_password(text)):
        raise ValueError(NOT_ON_THE_COMMAND_LINE)
    return setting.metadata["parse"](text)


def _read_secret_file(values: dict[str, Any], origins: dict[str, str], problems: list[str]) -> None:
    """``client_secret_file`` stands for ``client_secret``."""
    path = values.get("client_secret_file")
    if path is None:
        return
    where = origins["client_secret_file"]
    if "client_secret" in origins:
        problems.append(
            f"{where}: client_secret is set too ({origins['client_secret']}); set one of them"
        )
        return
    try:
        values["client_secret"] = secret(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        problems.append(
            f"{where}: {str(path)!r} does not hold a client secret: one line of printable text"
        )
    origins["client_secret"] = where


def _of_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``XOTS_…`` variables; an empty one counts as not set, as is the custom, but where it means something."""
    found = {s.name: environment.get(f"XOTS_{s.name.upper()}") for s in declared()}
    return {
        name: text
        for name, text in found.items()
        if text or (text is not None and _may_be_empty(name))
    }


def _may_be_empty(name: str) -> bool:
    return any(s.name == name and s.metadata["may_be_empty"] for s in declared())


def _of_credentials(folder: Path, problems: list[str]) -> dict[str, str]:
    """Files of systemd's credentials directory that bear a setting's name."""
    found = {}
    for setting in declared():
        path = folder / setting.name
        if not path.is_file():
            continue
        try:
            found[setting.name] = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: it can't be read: {error}")
    return found


def _of_yaml(path: Path, problems: list[str]) -> dict[str, str]:
    """The keys of a YAML file, as the texts that the other sources would give."""
    import yaml  # here, since a start without --config need not pay for it

    class TextLoader(yaml.SafeLoader):
        """Leaves every value as it is written: an id such as 0011 or 12:30 is not a number. Null is not set."""

    TextLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=TextLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:  # its own words quote the file, where a secret may stand
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problems.append(
            f"{path}{line}: this is not YAML; a value with special characters wants quotes"
        )
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(
            f"{path}: it can't be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        )
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path}: it is not a list of settings, one 'name: value' a line")
        return {}
    names = [setting.name for setting in declared()]
    found = {}
    for key, value in content.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            problems.append(
                f"{path}: {key}: no such setting{f' (did you mean {near[0]}?)' if near else ''}"
            )
        elif isinstance(value, list):
            found[key] = " ".join(str(item) for item in value)
        elif isinstance(value, dict):
            problems.append(f"{path}: {key}: a single value is wanted here")
        elif value is not None or _may_be_empty(key):
            found[key] = "" if value is None else str(value)
    return found
