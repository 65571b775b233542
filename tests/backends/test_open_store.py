"""``open_store``: the choice of a store by the scheme of its URL."""

from __future__ import annotations

from importlib.metadata import distribution

import pytest

from xots.backends import BUILT_IN, open_store
from xots.errors import StoreError

URLS = {
    "file": "file:///some/folder",
    "memory": "memory:",
    "redis": "redis://localhost",
    "rediss": "rediss://localhost",
    "sentinel": "sentinel://localhost/primary",
    "unix": "unix:///run/redis.sock",
}


def test_the_built_in_stores_are_registered_like_those_of_other_packages() -> None:
    """Their entry points name the classes that are opened without them."""
    registered = distribution("xots").entry_points.select(group="xots.backends")
    assert {entry.name for entry in registered} == set(BUILT_IN) == set(URLS)
    for entry in registered:
        assert type(open_store(URLS[entry.name])) is entry.load()


@pytest.mark.parametrize("url", ["", "nonsense", "nonsense://host/path"])
def test_an_unknown_scheme_lists_those_installed(url: str) -> None:
    """The message lists the schemes that can be used."""
    with pytest.raises(StoreError, match=r"installed are: .*file, .*memory"):
        open_store(url)


def test_a_refused_url_is_an_error_of_the_store() -> None:
    """The caller need not know the errors of each store."""
    with pytest.raises(StoreError, match=r"cannot be used: .*memory:"):
        open_store("memory:somewhere")
