"""For tests with pytest: the suite that every store passes, and a clock that only tests move.

Subclass ``TokenStoreContract`` in a test module of your own, and give it one fixture::

    class TestMyStore(TokenStoreContract):
        @pytest.fixture
        def opening(self, tmp_path):
            return lambda: MyStore.from_url(f"mine://{tmp_path}")

The tests are coroutines: with pytest-asyncio set ``asyncio_mode = auto``, or mark the class with
``pytest.mark.asyncio``.
"""

from __future__ import annotations

from .clock import FakeClock
from .contract import Opening, TokenStoreContract

__all__ = ["FakeClock", "Opening", "TokenStoreContract"]
