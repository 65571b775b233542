"""For tests with pytest: the suite that every store passes, a clock, and a store that fails.

Subclass ``TokenStoreContract`` in a test module of your own, and give it two fixtures::

    class TestMyStore(TokenStoreContract):
        @pytest.fixture
        def opening(self, tmp_path):
            return lambda: MyStore.from_url(f"mine://{tmp_path}")

        @pytest.fixture
        def faults(self, tmp_path):
            return Faults(unreachable=..., busy=...)

The tests are coroutines: with pytest-asyncio set ``asyncio_mode = auto``, or mark the class with
``pytest.mark.asyncio``.

``FakeClock`` stands still until a test moves it. ``FlakyStore`` is a memory store that fails on
demand.
"""

from __future__ import annotations

from .clock import FakeClock
from .contract import Faults, Opening, TokenStoreContract
from .flaky import FlakyStore

__all__ = ["FakeClock", "Faults", "FlakyStore", "Opening", "TokenStoreContract"]
