"""The table of the starts."""

from __future__ import annotations

from benchmarks.start import Start, rows_of


def test_a_start_is_compared_with_that_of_the_same_round() -> None:
    """The ratio is the median of the ratios, since one minute differs from the next."""
    bare = [Start(seconds, seconds, 1 << 20, 1 << 20) for seconds in (0.1, 0.2, 0.4)]
    ours = [Start(seconds, seconds, 3 << 20, 2 << 20) for seconds in (0.2, 0.4, 0.4)]
    assert rows_of({"bare": bare, "ours": ours}) == [
        ["bare", 200, None, 200, None, 1, None, 1, None],
        ["ours", 400, 2, 400, 2, 3, 3, 2, 2],
    ]
