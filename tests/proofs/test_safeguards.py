"""The safeguards (``torture safeguards``): the marks fit the code, and some are taken out."""

from __future__ import annotations

import dataclasses
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torture import safeguards
from torture.safeguards import MarkError, Safeguard, check_untouched, collect, occurrences, take_out

TRIED = {
    "test_a_refresh_cut_off_by_a_crash_is_resumed",
    "test_a_holder_whose_lease_has_expired_adds_its_token",
    "test_an_unknown_outcome_keeps_the_refresh_open",
}
"""The suite takes out the safeguards of these tests; the command takes out all."""

NEEDLESS = Safeguard(
    file="errors.py",
    old="from __future__ import annotations\n",
    new="from __future__ import annotations  # as before\n",
    protects_from="nothing",
    test="tests/lifecycle/test_schedule.py::test_an_expired_token_has_no_lifetime_left",
)
"""No test fails without this one."""


@pytest.fixture(scope="module")
def marked() -> list[Safeguard]:
    """All the safeguards that the tests are marked with."""
    return collect()


def test_the_source_holds_the_text_of_each_safeguard_once(marked: list[Safeguard]) -> None:
    """A change of a safeguard changes its mark too, or takes the mark away on purpose."""
    assert len(marked) > 100
    assert [safeguard for safeguard in marked if occurrences(safeguard) != 1] == []
    assert [safeguard for safeguard in marked if safeguard.old == safeguard.new] == []


def test_no_two_marks_are_the_same(marked: list[Safeguard]) -> None:
    """One test proves a safeguard; a copied mark would count it twice."""
    count = Counter((safeguard.file, safeguard.old, safeguard.new) for safeguard in marked)
    assert [mark for mark, times in count.items() if times > 1] == []


def test_a_test_fails_without_its_safeguard(marked: list[Safeguard]) -> None:
    """For some of the marks."""
    tried = [one for one in marked if one.test.rpartition("::")[2] in TRIED]
    assert {one.test.rpartition("::")[2] for one in tried} == TRIED
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(take_out, tried))
    assert outcomes == ["fails"] * len(tried)


def test_a_safeguard_that_no_test_misses_survives() -> None:
    """The run on the copy passes, and the command reports that."""
    assert take_out(NEEDLESS) == "SURVIVES"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old": "class "}, "not once"),
        ({"old": "no such text"}, "not once"),
        ({"file": "no_such_file.py"}, "not once"),
        ({"new": "import nothing_of_this_name\n"}, "could not be run"),
    ],
    ids=["a text that is there often", "no text", "no file", "a copy that can not be imported"],
)
def test_a_mark_that_does_not_fit_the_code_is_an_error(
    changes: dict[str, str], message: str
) -> None:
    """Such a mark never counts as a test that fails."""
    with pytest.raises(MarkError, match=message):
        take_out(dataclasses.replace(NEEDLESS, **changes))


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A test file with each place that a mark can have."""
    path = tmp_path / "test_marks.py"
    path.write_text(
        textwrap.dedent("""
            import pytest

            def mark(name, **more):
                given = dict(file=name, old=name, new="", protects_from=name)
                return pytest.mark.safeguard(**given | more)

            @mark("two")
            @mark("one")
            def test_one(): ...

            @mark("three")
            @pytest.mark.parametrize("case", ["a", "b", pytest.param("c", marks=mark("four"))])
            def test_two(case): ...

            class Contract:
                def test_three(self): ...
                def test_five(self): ...

            @mark("five", test="test_three")
            class TestContract(Contract): ...
        """)
    )
    return path


def test_a_mark_belongs_to_its_test_case_or_inherited_test(marks: Path) -> None:
    """The places are a function, one case of it, and a class that names an inherited test."""
    assert {one.file: one.test.partition("::")[2] for one in collect(str(marks))} == {
        "one": "test_one",
        "two": "test_one",
        "three": "test_two",
        "four": "test_two[c]",
        "five": "TestContract::test_three",
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ('test="test_none"', "that of 0 tests"),
        ("test=None", "that of 2 tests"),
        ('test="test_three", tset=""', "wrong keywords"),
    ],
)
def test_a_mark_that_names_no_test_is_an_error(marks: Path, changed: str, message: str) -> None:
    """The command must not leave it out."""
    marks.write_text(marks.read_text().replace('test="test_three"', changed))
    with pytest.raises(MarkError, match=message):
        collect(str(marks))


def test_a_test_that_fails_on_the_untouched_code_is_an_error(tmp_path: Path) -> None:
    """Such a test proves nothing about its safeguard."""
    path = tmp_path / "test_failing.py"
    path.write_text("def test_it():\n    assert False\n")
    with pytest.raises(MarkError, match="do not pass"):
        check_untouched([dataclasses.replace(NEEDLESS, test=f"{path}::test_it")])


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        safeguards.main(["--help"])
    assert ended.value.code == 0
    assert "safeguard" in capsys.readouterr().out
