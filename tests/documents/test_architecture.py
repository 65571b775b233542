"""The rooms in docs/architecture.md against the code."""

from __future__ import annotations

import re

import pytest
from documents.reading import ROOT, rows
from house.test_floors import ALL_FLOORS

PACKAGE = ROOT / "xots"


def quoted(cell: str) -> list[str]:
    """Return the rooms or modules that a cell names, without the slash of a package."""
    return [name.removesuffix("/") for name in re.findall(r"`([^`]+)`", cell)]


FLOOR_OF = {
    room: int(row[0])
    for row in rows("docs/architecture.md", "floor", "room")
    for room in quoted(row[1])
}

ROOMS_ASIDE = {
    room
    for row in rows("docs/architecture.md", "room", "its one job", "may import")
    for room in quoted(row[0])
}

MODULES = {
    quoted(row[0])[0]: quoted(row[1]) for row in rows("docs/architecture.md", "room", "modules")
}


def test_every_room_stands_in_a_table() -> None:
    """The two tables have every room of the package, and no other one but the templates."""
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    rooms = {room for room in rooms if not room.startswith("_")}
    assert {*FLOOR_OF, *ROOMS_ASIDE} == {*rooms, "templates"}


def test_the_floors_are_those_of_the_imports() -> None:
    """A room of a lower floor lies below each room of a higher one in FLOORS too."""
    modules = [(name.partition(".")[0], place) for name, place in ALL_FLOORS.items()]
    places = [(FLOOR_OF[room], place) for room, place in modules if room in FLOOR_OF]
    for floor in sorted(set(FLOOR_OF.values())):
        below = max((place for its, place in places if its < floor), default=-1)
        assert below < min(place for its, place in places if its == floor)


@pytest.mark.parametrize("room", MODULES)
def test_every_module_of_a_room_is_named(room: str) -> None:
    """The table of modules names all modules of the room."""
    modules = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
    assert modules <= set(MODULES[room])
