"""The links and paths in the documents."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from documents.reading import DOCUMENTS, ROOT, anchors, links, spans, text_of

LINKS = [
    pytest.param(document, target, id=f"{document}:{line} {target}")
    for document in DOCUMENTS
    for line, target in links(document)
]

FOLDERS = ("deploy/", "docs/", "examples/", "templates/", "tests/", "xots/", ".ci/")

PATHS = [
    pytest.param(span.text, id=f"{span} {span.text}")
    for document in DOCUMENTS
    for span in spans(document)
    if span.text.startswith(FOLDERS)
]


@pytest.mark.parametrize(("document", "target"), LINKS)
def test_a_link_leads_somewhere(document: str, target: str) -> None:
    """The file and the heading exist. Addresses of the web are checked for their form only."""
    if re.match(r"https?:", target):
        assert re.fullmatch(r"[\w.-]+\.[a-z]+|localhost", urlsplit(target).hostname or "")
        return
    path, _, anchor = target.partition("#")
    found = (ROOT / document).parent / path if path else ROOT / document
    assert found.exists()
    assert found.resolve().is_relative_to(ROOT), "it would not be in a copy of the project"
    if anchor:
        assert anchor in anchors(found.resolve().relative_to(ROOT).as_posix())


@pytest.mark.parametrize("path", PATHS)
def test_a_path_exists(path: str) -> None:
    """A path of the project that stands in a sentence is one of its files or folders."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_headings_have_different_anchors(document: str) -> None:
    """A link to a heading leads to one place."""
    if document == "CHANGELOG.md":
        return  # each version has the same headings
    assert len(anchors(document)) == len(set(anchors(document)))


@pytest.mark.parametrize(
    "document", [name for name in DOCUMENTS if "](#" in text_of(name).partition("\n## ")[0]]
)
def test_a_table_of_contents_has_every_section(document: str) -> None:
    """A document that begins with its contents lists every section, in order."""
    sections = re.findall(r"^## (.+)$", text_of(document), re.MULTILINE)
    listed = re.findall(r"^- \[(.+)\]\(#", text_of(document).partition("\n## ")[0], re.MULTILINE)
    assert listed == sections


def test_the_documents_name_each_other() -> None:
    """The README leads to every document."""
    named = {target for _, target in links("README.md")}
    assert [name for name in DOCUMENTS if name != "README.md" and name not in named] == []
