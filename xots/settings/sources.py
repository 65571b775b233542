"""The sources of settings: ``load`` reads and combines them.

A setting ``token_url`` is ``--token-url`` on the command line, ``XOTS_TOKEN_URL`` in the
environment, the file ``token_url`` in systemd's credentials directory, and ``token_url:`` in the
YAML file. The first of these sources that gives it wins. ``load`` reports the problems of all
sources together, each with its source and key.
"""

from __future__ import annotations

import difflib
import re
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import SettingsError
from ..file_access import public_file_problems, read_bounded, secret_file_problems
from . import parsing
from .fields import Settings, declared

if TYPE_CHECKING:
    import yaml

__all__ = ["load"]


SETTINGS = {setting.name: setting for setting in declared()}


@dataclass(frozen=True)
class Given:
    """The text that a source gives for a setting."""

    text: str = field(repr=False)
    place: str
    """The source and its key, as messages name them."""


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
    sources = ChainMap(
        _from_command_line(arguments, problems),
        _from_environment(environment),
        _from_credentials(environment.get("CREDENTIALS_DIRECTORY"), problems, warnings),
        _from_yaml(config, problems, warnings),
    )
    wanted = SETTINGS if only is None else only
    given = {name: sources[name] for name in wanted if name in sources}
    values = _values(given, problems)
    places = {name: found.place for name, found in given.items()}
    problems += _set_twice(places)
    _read_client_secret(values, places, problems, warnings)
    _check_authorities(values, places, problems, warnings)
    if only is None:
        problems += _missing(values, places)
    if problems:
        raise SettingsError(problems)
    return Settings(**values, sources=places, warnings=tuple(warnings))


def _values(given: Mapping[str, Given], problems: list[str]) -> dict[str, Any]:
    """Return the value of each setting whose text has one."""
    values = {}
    for name, found in given.items():
        with _collecting(problems, f"{found.place}: "):
            values[name] = SETTINGS[name].parse(found.text)
    return values


@contextmanager
def _collecting(problems: list[str], prefix: str = "") -> Iterator[None]:
    """Add a ValueError of the block to the problems, and go on after the block."""
    try:
        yield
    except ValueError as error:
        problems.append(f"{prefix}{error}")


def _read_client_secret(
    values: dict[str, Any], places: dict[str, str], problems: list[str], warnings: list[str]
) -> None:
    """Set ``client_secret`` from ``client_secret_file``, unless a source gives it itself."""
    path = values.get("client_secret_file")
    if path is None or "client_secret" in places:
        return
    place = places["client_secret"] = places["client_secret_file"]
    with _collecting(problems, f"{place}: "):
        file = _read_text(path)
        warnings += (f"{place}: {danger}" for danger in file.dangers(secret=True))
        try:
            values["client_secret"] = parsing.secret(file.text.strip())
        except ValueError:
            raise ValueError(
                f"{path} does not hold a client secret: one line of printable text"
            ) from None


def _check_authorities(
    values: Mapping[str, Any], places: Mapping[str, str], problems: list[str], warnings: list[str]
) -> None:
    """Warn if other users can replace the authorities that xots trusts."""
    if "ca_file" not in values:
        return
    path, place = values["ca_file"], places["ca_file"]
    try:
        with path.open("rb") as file:
            dangers = public_file_problems(path, file.fileno())
    except OSError as error:
        problems.append(f"{place}: the file that it names can't be read: {error.strerror}")
    else:
        warnings += (f"{place}: {danger}" for danger in dangers)


# ---------- settings that depend on each other

ALTERNATIVES = (("client_secret_file", "client_secret"), ("key_file", "key"))
"""Of each pair, only one setting may be set."""


def _set_twice(places: Mapping[str, str]) -> Iterator[str]:
    for one, other in ALTERNATIVES:
        if {one, other} <= places.keys():
            yield f"{places[one]}: {other} is set too ({places[other]}): remove one of them"


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
        if _is_secret(name, text):
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
            with _collecting(problems):
                file = _read_text(path)
                given[name] = Given(file.text.strip(), str(path))
                warnings += file.dangers(secret=_is_secret(name, file.text))
    return given


def _is_secret(name: str, text: str) -> bool:
    """Tell if the text of a setting is a secret or holds one."""
    return SETTINGS[name].secret or parsing.holds_password(text)


@dataclass(frozen=True)
class File:
    """The text of a file, and what other users may do with it."""

    text: str = field(repr=False)
    secret_dangers: list[str]
    """Why other users may know or replace the text."""
    public_dangers: list[str]
    """Why other users may replace it."""

    def dangers(self, *, secret: bool) -> list[str]:
        """Return the dangers for a text that is secret or not. Another user who can replace it can
        change any setting: a proxy, for example, would receive all requests."""
        return self.secret_dangers if secret else self.public_dangers


def _read_text(path: Path, unnamed: str = "the file") -> File:
    """Return the text of a file, with its dangers.

    Args:
        path: the file.
        unnamed: the words for a file that does not exist. Its path may be a misplaced secret.

    Raises:
        ValueError: with the file and the reason. The message does not quote its content.
    """
    try:
        with path.open("rb") as file:
            secret_dangers = secret_file_problems(path, file.fileno())
            public_dangers = public_file_problems(path, file.fileno())
            return File(read_bounded(file).decode("utf-8"), secret_dangers, public_dangers)
    except OSError as error:
        shown = path if _exists(path) else unnamed
        raise ValueError(f"{shown} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    except ValueError:  # a null character in the path
        raise ValueError(f"{unnamed} can't be read: its path is malformed") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


# ---------- the YAML file


def _from_yaml(path: Path | None, problems: list[str], warnings: list[str]) -> dict[str, Given]:
    """Return the texts of the keys of a YAML file."""
    if path is None:
        return {}
    given = {}
    entries: list[tuple[int, Any, Any]] = []
    file = File("", [], [])
    with _collecting(problems):
        file = _read_text(path, CONFIG)
        entries = _yaml_entries(path, file.text)
    for line, key, value in entries:
        place = f"{path}: {key}"
        if not isinstance(key, str) or key not in SETTINGS:
            # The key may be a misplaced secret: do not repeat it.
            problems.append(f"{path}, line {line}: {_no_such_setting(str(key))}")
        elif isinstance(value, dict):
            problems.append(f"{place}: this value is a mapping: give a single value")
        elif value is not None or SETTINGS[key].may_be_empty:
            given[key] = Given(_yaml_text(value), place)
    has_secret = any(_is_secret(name, found.text) for name, found in given.items())
    warnings += file.dangers(secret=has_secret)
    return given


def _no_such_setting(name: str) -> str:
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    return f"no such setting (did you mean {near[0]}?)" if near else "no such setting"


def _yaml_text(value: object) -> str:
    """Return the text that another source would give for a value."""
    match value:
        case None:
            return ""
        case list():
            return " ".join(map(str, value))
        case _:
            return str(value)


CONFIG = "the file that --config or XOTS_CONFIG names"


def _yaml_entries(path: Path, text: str) -> list[tuple[int, Any, Any]]:
    """Return the keys and values in the text of a YAML file, each with its line.

    Raises:
        ValueError: with the path and the problem. The message does not quote the file, since a
            secret may stand in the line.
    """
    import yaml  # here, since most starts need no YAML

    try:
        loader = _text_loader()(text)
        root: Any = loader.get_single_node()
        content = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise ValueError(
            f"{place}: this is not YAML: put quotes around values with special characters"
        ) from None
    if content is None:
        return []
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004 - all problems of a source are ValueErrors
            f"{path}: this is not a list of settings: write one 'name: value' on each line"
        )
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in root.value}
    first = root.start_mark.line + 1
    return [(lines.get(str(key), first), key, value) for key, value in content.items()]


TEXT_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("map", "null", "seq", "str"))
"""The YAML types that settings consist of. The other types are refused: their constructors fail
with errors of all kinds."""


def _text_loader() -> type[yaml.SafeLoader]:
    """Return a loader that reads a scalar as its text, and null as None. An id such as 0011 or
    12:30 is not a number."""
    import yaml

    class TextLoader(yaml.SafeLoader):
        yaml_constructors: ClassVar = {
            tag: construct
            for tag, construct in yaml.SafeLoader.yaml_constructors.items()
            if tag in TEXT_TAGS or tag is None
        }

    null = re.compile(r"(~|null|Null|NULL|)\Z")
    TextLoader.yaml_implicit_resolvers = {}
    TextLoader.add_implicit_resolver("tag:yaml.org,2002:null", null, ["~", "n", "N", ""])
    return TextLoader
