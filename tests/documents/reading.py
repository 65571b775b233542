"""Reads the documents: their tables, headings, links, code blocks and commands.

The documents are plain Markdown without raw HTML, so that a few regular expressions read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

__all__ = [
    "DOCUMENTS",
    "ROOT",
    "Block",
    "Span",
    "anchors",
    "blocks",
    "commands",
    "header",
    "links",
    "rows",
    "spans",
    "tables",
    "text_of",
]

ROOT = Path(__file__).parents[2]

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
)
"""The documents, as paths from the project's folder."""

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block of code, or the commands in the header of a file."""

    document: str
    line: int
    """The line of its first line of code."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@dataclass(frozen=True)
class Span:
    """A piece of code within a sentence or a table."""

    document: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def text_of(document: str) -> str:
    """Return the text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """Return the fenced blocks of a document, without their indentation."""
    text = text_of(document)
    return [
        Block(
            document,
            text.count("\n", 0, found.start("text")) + 1,
            found["language"],
            dedent(found["text"]),
        )
        for found in FENCE.finditer(text)
    ]


def header(document: str) -> list[Block]:
    """Return the commands in a file's comments: runs of lines that begin with "#" and three spaces
    or more."""
    text = text_of(document)
    return [
        Block(
            document,
            text.count("\n", 0, found.start()) + 1,
            "sh",
            re.sub(r"^#   ", "", found[0], flags=re.MULTILINE),
        )
        for found in re.finditer(r"(?:^#   +\S.*\n)+", text, re.MULTILINE)
    ]


def commands(script: str) -> list[str]:
    """Return the commands of a script, one for each logical line, without comments."""
    joined = script.replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#\s.*$", "", line).strip() for line in joined.splitlines()]
    return [" ".join(line.split()) for line in lines if line]


def _prose(document: str) -> str:
    """Return the text of a document with its fenced blocks blanked, so that lines keep their
    numbers."""
    return FENCE.sub(lambda found: "\n" * found[0].count("\n"), text_of(document))


def spans(document: str) -> list[Span]:
    """Return the pieces of code outside the fenced blocks. They may be broken by one line end."""
    prose = _prose(document)
    return [
        Span(document, prose.count("\n", 0, found.start()) + 1, " ".join(found[1].split()))
        for found in re.finditer(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose)
    ]


def links(document: str) -> Iterator[tuple[int, str]]:
    """Yield each link's line and target."""
    prose = re.sub(r"`[^`\n]+`", lambda found: "x" * len(found[0]), _prose(document))
    for found in re.finditer(r"\]\(([^)\s]+)\)|<(https?://[^>\s]+)>", prose):
        yield prose.count("\n", 0, found.start()) + 1, found[1] or found[2]


def anchors(document: str) -> list[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _prose(document), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def tables(document: str) -> list[list[list[str]]]:
    """Return the tables of a document: rows of cells, the header first."""
    found = re.findall(r"(?:^ *\|.*\n?)+", _prose(document), re.MULTILINE)
    return [[_cells(line) for line in table.strip().splitlines()] for table in found]


def rows(document: str, *columns: str) -> list[list[str]]:
    """Return the rows of the table whose header begins with these columns.

    Raises:
        ValueError: there is no such table, or more than one.
    """
    wanted = list(columns)
    (table,) = (table for table in tables(document) if table[0][: len(wanted)] == wanted)
    return table[2:]


def _cells(line: str) -> list[str]:
    """Return the cells of a row. A bar within a cell is written ``\\|``."""
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [cell.strip().replace(r"\|", "|") for cell in cells]
