"""The server that the commands of the documents send requests to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from documents.place import Demo, Place, demo_server


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    with demo_server() as running:
        yield running


@pytest.fixture
def place(demo: Demo, tmp_path: Path) -> Place:
    return Place(tmp_path, demo)
