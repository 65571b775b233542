"""The index in memory, alone and as the default of a store."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from xots.backends.due_index import DueIndex

BEGINNING = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


def at(second: int) -> datetime:
    return BEGINNING + timedelta(seconds=second)


def test_it_agrees_with_a_sorted_dictionary() -> None:
    """After any notes, ``due`` returns what a search of all entries finds."""
    rng, index = random.Random(13), DueIndex()  # noqa: S311 - a test that repeats itself
    expected: dict[str, int] = {}
    for _ in range(3000):
        name, second = f"account-{rng.randrange(60)}", rng.randrange(40)
        if rng.random() < 0.2:
            index.note(name, None)
            expected.pop(name, None)
        else:
            index.note(name, at(second))
            expected[name] = second
        before, limit = rng.randrange(-1, 41), rng.randrange(80)
        order = sorted((second, name) for name, second in expected.items() if second <= before)
        assert index.due(at(before), limit) == [name for _, name in order[:limit]]


class CountedName(str):
    """A name that counts the comparisons of all names."""

    comparisons = 0

    def __lt__(self, other: str) -> bool:
        CountedName.comparisons += 1
        return super().__lt__(other)


def test_its_cost_follows_the_due_names() -> None:
    """Ten due among 10,000 take few comparisons more than ten due among 100."""
    costs = []
    for count in (100, 10_000):
        index = DueIndex()
        for number in range(count):
            index.note(CountedName(f"account-{number}"), at(0 if number < 10 else 60))
        CountedName.comparisons = 0
        assert len(index.due(at(1), 100)) == 10
        assert len(index.due(at(60), 10)) == 10
        index.note(CountedName("account-5"), at(60))
        costs.append(CountedName.comparisons)
    assert costs[1] <= costs[0] + 30, costs
