"""The YAML file of settings: its keys and values, as texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import yaml

__all__ = ["yaml_entries", "yaml_text"]


def yaml_text(value: object) -> str:
    """Return the text that another source would give for a value."""
    match value:
        case None:
            return ""
        case list():
            return " ".join(map(str, value))
        case _:
            return str(value)


def yaml_entries(path: Path, text: str) -> list[tuple[int, Any, Any]]:
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
