"""The problems of settings, as the tests of ``xots.settings`` read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from xots.errors import SettingsError
from xots.settings import load

__all__ = ["SECRET", "problems_of"]

SECRET = "hunter2-canary"


def problems_of(
    arguments: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
    config: Path | None = None,
) -> list[str]:
    """Return the problems that ``load`` reports about these sources."""
    with pytest.raises(SettingsError) as caught:
        load(arguments or {}, environment or {}, config)
    return caught.value.problems
