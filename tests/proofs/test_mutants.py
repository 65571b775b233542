"""The mutants (``torture mutants``): each kind of change, and a run of tests on some of them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from torture import mutants
from torture._copies import ROOT
from torture._mutations import mutated, mutations
from torture.mutants import Mutant, Verdict

KINDS = [
    ("comparison swapped", "x = a < b", ["x = a <= b"]),
    ("comparison swapped", "x = a >= b", ["x = a > b"]),
    ("comparison swapped", "x = (a) == (b)", ["x = (a) != (b)"]),
    ("comparison swapped", "x = a is b", ["x = a is not b"]),
    ("comparison swapped", "x = a not in b", ["x = a in b"]),
    ("comparison swapped", "x = a < b < c", ["x = a < b <= c", "x = a <= b < c"]),
    ("and, or swapped", "x = a and b", ["x = a or b"]),
    ("and, or swapped", "x = (a or\n  # or so\n  b)", ["x = (a and\n  # or so\n  b)"]),
    ("operand dropped", "x = (a) and b", ["x = (a)", "x = b"]),
    ("operand dropped", "x = a or (b) or c", ["x = (b) or c", "x = a or (b)", "x = a or c"]),
    ("operand dropped", "x = (a := f()) and b", ["x = (a := f())"]),
    ("not added", "while a:\n  f()", ["while not (a):\n  f()"]),
    ("not added", "x = [y for y in z if y]", ["x = [y for y in z if not (y)]"]),
    ("not added", "if a is b:\n  x = y", []),
    ("not removed", "x = not (a)", ["x = (a)"]),
    ("condition forced", "if a:\n  x = y", ["if False:\n  x = y", "if True:\n  x = y"]),
    ("condition forced", "x = y if a else z", ["x = y if False else z", "x = y if True else z"]),
    (
        "condition forced",
        "if a := b:\n  x = a",
        ["if (a := b) and False:\n  x = a", "if (a := b) or True:\n  x = a"],
    ),
    ("plus, minus swapped", "x = a + b", ["x = a - b"]),
    ("plus, minus swapped", "x -= a", ["x += a"]),
    ("plus, minus swapped", "x = a + 'b'", []),
    ("min, max swapped", "x = min(a, b)", ["x = max(a, b)"]),
    ("number changed", "x = 0, 1.5", ["x = 0, 2.5", "x = 1, 1.5"]),
    ("True, False swapped", "x = True", ["x = False"]),
    ("statement dropped", "f(x)", ["pass"]),
    ("statement dropped", "logger.debug(x)", []),
    ("statement dropped", "x.a = b", ["pass"]),
    ("statement dropped", "x = b", []),
    ("statement dropped", "raise x", ["pass"]),
    ("statement dropped", "while a:\n  break", ["while a:\n  pass"]),
    ("statement dropped", "async def f():\n  await x", ["async def f():\n  pass"]),
    ("None returned", "def f():\n  return a", ["def f():\n  return None"]),
    ("None returned", "def f():\n  return None", []),
    (
        "error raised again",
        "try:\n  f()\nexcept E:\n  a()\n  b()",
        ["try:\n  f()\nexcept E:\n  raise"],
    ),
    (
        "argument dropped",
        "x = replace(a, b=c, d=e)",
        ["x = replace(a, b=c, )", "x = replace(a, d=e)"],
    ),
    ("argument dropped", "x = f(b=c)", []),
    ("None passed", "x = f(a, 'ü', b=c)", ["x = f(None, 'ü', b=c)", "x = f(a, 'ü', b=None)"]),
    ("None passed", "x = isinstance(a, b), f(B)", []),
]


@pytest.mark.parametrize(("kind", "source", "expected"), KINDS)
def test_each_kind_of_mutation_changes_its_place(
    kind: str, source: str, expected: list[str]
) -> None:
    """The mutations of one kind, on a small source."""
    changed = [mutated(source, one) for one in mutations(source) if one.kind == kind]
    assert sorted(text for text in changed if text is not None) == sorted(expected)


@pytest.mark.parametrize(
    "source",
    [
        '"""1 < 2"""',
        "__all__ = [f(a)]",
        "def f(x: Literal[1]) -> Literal[True]: ...",
        "x: Literal[1]",
        "@dataclass(frozen=True)\nclass A(B, kw_only=True): ...",
        "x = f'{a + 1}'",
        "if TYPE_CHECKING:\n  x = y",
        "class A:\n  def __repr__(self):\n    return 'a' * 3",
    ],
)
def test_some_places_have_no_mutation(source: str) -> None:
    """No test of the core sees a change there."""
    assert mutations(source) == []


def test_a_mutation_that_does_not_compile_is_none() -> None:
    """So is one that means the same."""
    (one,) = mutations("x = 1")
    assert mutated("x = 1", one) == "x = 2"
    assert mutated("x = 1", type(one)(one.kind, one.place, one.start, one.end, "(")) is None
    assert mutated("x = 1", type(one)(one.kind, one.place, one.start, one.end, "(1)")) is None


def test_a_seed_draws_the_same_mutants() -> None:
    """Each place comes once before any comes again."""
    first, again, other = (
        list(islice(mutants.draw(["xots/tasks.py"], random.Random(seed)), 30))  # noqa: S311
        for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other
    assert len({mutant.mutation.place for mutant in first}) == 30


def test_a_mutant_shows_its_place_and_its_lines() -> None:
    """The lines that are the same are left out."""
    source = "def f():\n    g()\n    return (\n        a\n    )\n"
    (one,) = (one for one in mutations(source) if one.kind == "None returned")
    changed = mutated(source, one)
    assert changed is not None
    assert str(Mutant("xots/f.py", source, changed, one)).splitlines() == [
        "xots/f.py:3  None returned",
        "  -     return (",
        "  -         a",
        "  -     )",
        "  +     return None",
    ]


def test_the_tests_of_a_file_come_first() -> None:
    """A mutant of the keeper meets the tests of the keeper before those of the lifecycle."""
    lifecycle, keeper = (
        mutants.tests_for(file) for file in ("xots/lifecycle/x.py", "xots/keeping/x.py")
    )
    assert sorted(lifecycle) == sorted(keeper)
    assert lifecycle.index("tests/lifecycle/test_schedule.py") < lifecycle.index(
        "tests/keeping/test_keeper.py"
    )
    assert keeper.index("tests/keeping/test_keeper.py") < keeper.index(
        "tests/lifecycle/test_schedule.py"
    )


JUDGED = """
    import json, random, sys
    from torture import mutants

    mutants.MAX_TEST_SECONDS = 3.0
    wanted = [
        ("- self.closed = True", "+ pass"),
        ("- return self._task, True", "+ return self._task, False"),
        ("- while not task.done():", "+ while task.done():"),
    ]
    drawn = [
        mutant
        for mutant in mutants.draw(["xots/tasks.py"], random.Random(1))
        if tuple(" ".join(line.split()) for line in str(mutant).splitlines()[1:]) in wanted
    ]
    for verdict in mutants.judge(drawn, tests=[sys.argv[1]], jobs=int(sys.argv[2])):
        changed = str(verdict.mutant).rpartition("+ ")[2].strip()
        print(json.dumps([changed, verdict.killed_by, verdict.hung]))
"""
"""It runs in a process of its own: the one that forks must not have imported the package."""

FEW_TESTS = """
    import asyncio
    from xots.tasks import Tasks, cancel_until_done

    def test_it_closes():
        tasks = Tasks()
        asyncio.run(tasks.drain())
        assert tasks.closed

    def test_an_ended_task_is_cancelled():
        async def cancel():
            task = asyncio.ensure_future(asyncio.sleep(0))
            await task
            await cancel_until_done(task)

        asyncio.run(cancel())
"""


def run_judged(tests: Path, text: str, *, jobs: int) -> subprocess.CompletedProcess[str]:
    """Write the tests, and run them on the three mutants of ``JUDGED``."""
    tests.write_text(textwrap.dedent(text))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(JUDGED), str(tests), str(jobs)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_mutant_is_killed_or_hangs_or_survives(tmp_path: Path) -> None:
    """The tests see that ``drain`` closes nothing. They do not see that a task is new."""
    done = run_judged(tmp_path / "test_few.py", FEW_TESTS, jobs=2)
    assert done.returncode == 0, done.stderr
    untouched, *verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert untouched == ["None", None, False]
    assert sorted(
        (changed, killer and killer.rpartition("::")[2], hung) for changed, killer, hung in verdicts
    ) == [
        ("pass", "test_it_closes", False),
        ("return self._task, False", None, False),
        ("while task.done():", "a hang", True),
    ]


def test_tests_that_fail_on_the_untouched_copy_are_an_error(tmp_path: Path) -> None:
    """They would kill each mutant."""
    failing = "def test_it():\n    assert False\n"
    done = run_judged(tmp_path / "test_failing.py", failing, jobs=1)
    assert "RunError: the tests fail on the untouched copy" in done.stderr


def test_the_score_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status follows the share of killed mutants; three of four are 75 %."""

    def judged(drawn: Iterable[Mutant], *, jobs: int) -> Iterator[Verdict]:
        killers = ["tests/test_a.py::test_x", "tests/test_a.py::test_y", None, "a hang"]
        yield Verdict(None, None, False, 1.0)
        for mutant, killer in zip(drawn, killers, strict=True):
            yield Verdict(mutant, killer, killer == "a hang", 1.0)

    monkeypatch.setattr(mutants, "judge", judged)
    assert mutants.main(["--count", "4", "--seed", "7", "--at-least", "75"]) == 0
    assert mutants.main(["--count", "4", "--seed", "7"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("SURVIVED xots/") == printed.count("HUNG xots/") == 2
    assert (
        "4 mutants drawn (seed 7), 3 killed (75.0 %), 1 of these hung; "
        "by test file: test_a 2, a hang 1; 1 survived"
    ) in printed


def test_the_minutes_bound_the_draw(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without minutes, no mutant is drawn, and that is no success."""
    monkeypatch.setattr(mutants, "judge", lambda drawn, *, jobs: iter([*drawn]))
    assert mutants.main(["--minutes=-1"]) == 1
    printed = capsys.readouterr().out
    assert "minutes are over" in printed
    assert "0 mutants drawn (seed 1), 0 killed" in printed


def test_the_list_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """It is limited to some files."""
    assert mutants.main(["--list", "--count", "5", "--only", "xots/tasks.py"]) == 0
    assert capsys.readouterr().out.count("xots/tasks.py:") == 5


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """It names its options, and refuses a path outside the core."""
    with pytest.raises(SystemExit) as ended:
        mutants.main(["--help"])
    assert ended.value.code == 0
    assert "mutants of the core" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        mutants.main(["--only", "xots/client.py"])
    assert "no file of the core" in capsys.readouterr().err
