"""``open_store``: the choice of a store by the scheme of its URL."""

from __future__ import annotations

import pytest

from xots.backends import open_store
from xots.backends.file import FileStore
from xots.backends.memory import MemoryStore
from xots.errors import StoreError


def test_the_built_in_stores_are_found_by_their_schemes() -> None:
    """They are registered like the stores of other packages."""
    assert isinstance(open_store("memory:"), MemoryStore)
    assert isinstance(open_store("file:///some/folder"), FileStore)


@pytest.mark.parametrize("url", ["", "nonsense", "nonsense://host/path"])
def test_an_unknown_scheme_lists_those_installed(url: str) -> None:
    """The message lists the schemes that can be used."""
    with pytest.raises(StoreError, match=r"installed are: .*file, .*memory"):
        open_store(url)


def test_a_refused_url_is_an_error_of_the_store() -> None:
    """The caller need not know the errors of each store."""
    with pytest.raises(StoreError, match=r"cannot be used: .*memory:"):
        open_store("memory:somewhere")
