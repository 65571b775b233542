"""The YAML file of settings: the texts of its keys, at the top level and for each account.

No problem quotes the file, since a secret may stand in each of its lines by mistake.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from . import parsing
from .reading import SETTINGS, File, Given, collecting, is_secret, read_text

if TYPE_CHECKING:
    import yaml

__all__ = ["YamlTexts", "from_yaml", "near_name"]

CONFIG = "the file that --config or XOTS_CONFIG names"

ACCOUNTS = "accounts"
"""The key of the accounts. It is no setting: the other sources do not have it."""

OF_ACCOUNT = [setting.name for setting in SETTINGS.values() if setting.per_account]
"""The settings that an account can have of its own."""

MAX_YAML_BYTES = 1024 * 1024
"""Upper bound on a YAML file: some thousands of accounts."""


class YamlTexts(msgspec.Struct):
    """The texts of a YAML file."""

    given: dict[str, Given] = msgspec.field(default_factory=dict)
    """Those of the top level, by setting."""
    accounts: dict[str, dict[str, Given]] = msgspec.field(default_factory=dict)
    """Those of each account, by account and setting."""

    def all(self) -> Iterator[tuple[str, Given]]:
        """Yield each setting with its text, at the top level and in the accounts."""
        for given in (self.given, *self.accounts.values()):
            yield from given.items()


class Mapping(msgspec.Struct, frozen=True):
    """A YAML mapping. It keeps the lines of its keys, and keys that occur twice."""

    entries: list[tuple[int, Any, Any]] = msgspec.field(default_factory=list)
    """The line, the key and the value of each entry."""


def from_yaml(path: Path | None, problems: list[str], warnings: list[str]) -> YamlTexts:
    """Return the texts of a YAML file.

    Args:
        path: the file, or None.
        problems: gets a sentence for each problem of the file.
        warnings: gets a sentence for each reason why other users may know or change it.
    """
    texts = YamlTexts()
    if path is None:
        return texts
    content, file = Mapping(), File("", [], [])
    with collecting(problems):
        file = read_text(path, CONFIG, MAX_YAML_BYTES)
        content = _yaml_content(path, file.text)
    content = _without_repeated(path, content, problems)
    settings = Mapping([entry for entry in content.entries if entry[1] != ACCOUNTS])
    texts.given = _texts(settings, path, "", (*SETTINGS, ACCOUNTS), problems)
    for _, key, value in content.entries:
        if key == ACCOUNTS and value is not None:
            texts.accounts = _accounts(value, path, problems)
    has_secret = any(is_secret(name, found.text) for name, found in texts.all())
    warnings += file.dangers(secret=has_secret)
    return texts


def _accounts(value: object, path: Path, problems: list[str]) -> dict[str, dict[str, Given]]:
    """Return the texts of each account. An account without settings has only inherited ones."""
    if not isinstance(value, Mapping):
        problems.append(
            f"{path}: {ACCOUNTS}: this is not a list of accounts: write one 'name:' on each line, "
            "and its settings indented below it"
        )
        return {}
    accounts = {}
    for line, name, settings in _without_repeated(path, value, problems).entries:
        try:
            parsing.account_name(name if isinstance(name, str) else "")
        except ValueError as error:
            problems.append(f"{path}, line {line}: {ACCOUNTS}: {error}")
            continue
        place = f"{ACCOUNTS}.{name}"
        own = Mapping() if settings is None else settings
        if not isinstance(own, Mapping):
            problems.append(
                f"{path}: {place}: this is not a list of settings: write one 'name: value' on each "
                "line below it"
            )
            continue
        own = _without_repeated(path, own, problems)
        accounts[name] = _texts(own, path, f"{place}.", OF_ACCOUNT, problems)
    return accounts


def _without_repeated(path: Path, mapping: Mapping, problems: list[str]) -> Mapping:
    """Return the entries with different keys. YAML itself would take the last of equal ones."""
    lines: dict[str, int] = {}
    different = []
    for line, key, value in mapping.entries:
        if isinstance(key, str) and key in lines:
            problems.append(
                f"{path}, line {line}: this key is in line {lines[key]} already: remove one of them"
            )
        else:
            lines[str(key)] = line
            different.append((line, key, value))
    return Mapping(different)


def _texts(
    mapping: Mapping, path: Path, prefix: str, names: Collection[str], problems: list[str]
) -> dict[str, Given]:
    """Return the texts of the settings in a mapping.

    Args:
        mapping: its keys are settings.
        path: the file.
        prefix: the keys above, as places name them.
        names: the keys that the mapping can have.
        problems: gets a sentence for each other key, and for each value that has no text.
    """
    given = {}
    for line, key, value in mapping.entries:
        place = f"{path}: {prefix}{key}"
        if not isinstance(key, str) or key not in {*names, *SETTINGS}:
            # The key may be a misplaced secret: do not repeat it.
            problems.append(f"{path}, line {line}: no such setting{near_name(key, names)}")
        elif key not in names:
            problems.append(f"{place}: this setting belongs at the top level, not in an account")
        elif value is not None or SETTINGS[key].may_be_empty:
            with collecting(problems, f"{place}: "):
                given[key] = Given(_text(value), place)
    return given


def near_name(key: object, names: Collection[str]) -> str:
    """Return the question for the most similar name, or an empty text if there is none."""
    import difflib  # here, since only an error needs it

    near = difflib.get_close_matches(key if isinstance(key, str) else "", names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _text(value: object) -> str:
    """Return the text that another source would give for a value.

    Raises:
        ValueError: the value is a mapping, or a list of other values than texts.
    """
    match value:
        case None:
            return ""
        case Mapping():
            raise ValueError("this value is a mapping: give a single value")
        case list() if not all(isinstance(word, str) for word in value):
            raise ValueError("a value in this list is empty or has parts: give words")
        case list():
            return " ".join(value)
        case _:
            return str(value)


def _yaml_content(path: Path, text: str) -> Mapping:
    """Return the keys and values in the text of a YAML file.

    Raises:
        ValueError: with the path and the problem. The message does not quote the file, since a
            secret may stand in the line.
    """
    import yaml  # here, since most starts need no YAML

    try:
        loader = _text_loader()(text)
        content = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise ValueError(
            f"{place}: this is not YAML: put quotes around values with special characters"
        ) from None
    if content is None:
        return Mapping()
    if not isinstance(content, Mapping):
        raise ValueError(  # noqa: TRY004 - all problems of a source are ValueErrors
            f"{path}: this is not a list of settings: write one 'name: value' on each line"
        )
    return content


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

        def construct_entries(self, node: Any) -> Iterator[Mapping]:
            if not isinstance(node, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(problem_mark=node.start_mark)
            mapping = Mapping()
            yield mapping  # before its entries, since one of them may refer to it
            for key, value in node.value:
                line = key.start_mark.line + 1
                entry = (line, self.construct_object(key), self.construct_object(value))
                mapping.entries.append(entry)

    TextLoader.add_constructor("tag:yaml.org,2002:map", TextLoader.construct_entries)
    null = re.compile(r"(~|null|Null|NULL|)\Z")
    TextLoader.yaml_implicit_resolvers = {}
    TextLoader.add_implicit_resolver("tag:yaml.org,2002:null", null, ["~", "n", "N", ""])
    return TextLoader
