"""Every command in the documents: it runs, or the table in ``ways.py`` says why it does not."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
from documents.parsing import faults
from documents.place import Place, demo_server
from documents.reading import DOCUMENTS, Block, blocks, commands, header, spans
from documents.ways import WAYS, Row, Way, is_command, way_of

HEADERS = ["deploy/xots.service"]
"""Files with commands in their comments."""

LANGUAGES = {"sh", "python", ""}
"""The languages of code blocks. One without a language holds no command."""

BLOCKS: dict[str, list[Block]] = {
    document: [block for block in blocks(document) if block.language] for document in DOCUMENTS
} | {document: header(document) for document in HEADERS}

IN_SENTENCES = sorted(
    {span.text for document in DOCUMENTS for span in spans(document) if is_command(span.text)}
)


def parts_of(block: Block) -> list[str]:
    """Return the commands of a block; a block of Python is one."""
    return [block.text] if block.language == "python" else commands(block.text)


IN_BLOCKS = [part for block in chain(*BLOCKS.values()) for part in parts_of(block)]

ALL = sorted({*IN_BLOCKS, *IN_SENTENCES})


def treated(way: Way) -> list[str]:
    """Return all commands that are treated in this way."""
    return [command for command in ALL if way_of(command).way is way]


@pytest.mark.parametrize("document", [name for name, found in BLOCKS.items() if found])
def test_the_commands_of_a_document_run(document: str, place: Place) -> None:
    """A reader who follows the document from its top has success with every command."""
    for block in BLOCKS[document]:
        script = "\n".join(p for p in parts_of(block) if way_of(p).way is Way.RUN)
        if script:
            place.run(script, language=block.language)


@pytest.mark.parametrize(
    "command", [c for c in IN_SENTENCES if way_of(c).way is Way.RUN and c not in IN_BLOCKS]
)
def test_a_command_in_a_sentence_runs(command: str, place: Place) -> None:
    """It exits with 0 where a server runs and a user is logged in."""
    place.run(command)


@pytest.mark.parametrize("command", treated(Way.SERVES))
def test_a_server_starts_and_stops(command: str, place: Place) -> None:
    """It says that it is ready, and exits with 0 at SIGTERM."""
    place.serve(command)


@pytest.mark.parametrize("command", treated(Way.ENDS_LOGIN))
def test_a_command_that_ends_the_login_runs(command: str, tmp_path: Path) -> None:
    """It exits with 0, and no token is served afterwards."""
    with demo_server() as demo:
        place = Place(tmp_path, demo)
        place.run(command)
        place.run("! curl -s http://127.0.0.1:5001/token")


@pytest.mark.parametrize("command", [command for command in ALL if "\n" not in command])
def test_a_command_is_well_formed(command: str) -> None:
    """Its program, its target and its options exist."""
    assert faults(command) == []


@pytest.mark.parametrize(
    "text", [block.text for block in chain(*BLOCKS.values()) if block.language == "python"]
)
def test_python_code_compiles(text: str) -> None:
    """A block of Python is valid."""
    compile(text, "document", "exec")


@pytest.mark.parametrize("row", WAYS, ids=lambda row: row.pattern)
def test_each_row_is_needed(row: Row) -> None:
    """A row is for some command, and an exception has a reason."""
    assert any(row is way_of(command) for command in ALL)
    assert bool(row.reason) == (row.way is Way.PARSED)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_has_a_known_language(document: str) -> None:
    """A block of commands is marked ``sh``, so that the tests find it."""
    found = blocks(document)
    assert {block.language for block in found} <= LANGUAGES
    unmarked = [command for b in found if not b.language for command in commands(b.text)]
    assert [command for command in unmarked if is_command(command)] == []


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("xots statsu", "no command statsu"),
        ("xots token --jsno", "no option --jsno"),
        ("xots exec --min -- ls", "no option --min"),
        ("cat key | no-such-program", "no program no-such-program"),
        ("sh -c 'xots key sub'", "no command key sub"),
        ("make tset", "tset"),
        ('make torture ARGS="kill"', "no torture kill"),
        ('make torture ARGS="kills --wohle 3"', "no option --wohle"),
        ('make simulate ARGS="--yaers 3"', "no option --yaers"),
        ('make bench ARGS="--quik"', "no option --quik"),
        ('make test ARGS="tests/wbe"', "no tests/wbe"),
        ("echo 'open", "unexpected EOF"),
    ],
)
def test_a_mistake_is_found(command: str, fault: str) -> None:
    """The checker itself: it names what does not exist."""
    assert fault in " ".join(faults(command))
