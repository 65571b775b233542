"""The command line of the benchmarks, and what a run says of itself."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import tornado

from benchmarks import __main__ as command_line
from benchmarks.__main__ import Experiment
from benchmarks.bench import Bench, BenchmarkFailed
from benchmarks.circumstances import Circumstances
from benchmarks.report import Table


@pytest.mark.parametrize("name", command_line.EXPERIMENTS)
def test_each_experiment_exists(name: str) -> None:
    """It is a module with the function ``run``."""
    assert callable(importlib.import_module(f"benchmarks.{name}").run)


def test_a_failure_is_told_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error in the load ends its experiment without figures, and the status is 1."""

    def fail(_: Bench) -> list[Table]:
        raise BenchmarkFailed("wrk: 3 of status")

    works = SimpleNamespace(run=lambda _: [Table("Speed", ("server",), [("nginx",)])])
    for name, module in {"fails": SimpleNamespace(run=fail), "works": works}.items():
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)
        monkeypatch.setitem(command_line.EXPERIMENTS, name, Experiment("one of this test"))
    assert command_line.main(["fails", "works", "--out", str(tmp_path)]) == 1
    assert "fails: FAILED: wrk: 3 of status" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*/*")] == ["works.md"]


def test_a_run_keeps_the_results_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has a folder, which is named for the time at which it began."""
    works = SimpleNamespace(run=lambda _: [Table("Speed", ("server",), [("nginx",)])])
    monkeypatch.setitem(sys.modules, "benchmarks.works", works)
    monkeypatch.setitem(command_line.EXPERIMENTS, "works", Experiment("one of this test"))
    for second in (1, 2):
        began = Circumstances(datetime(2026, 11, 1, 10, 0, second, tzinfo=UTC), load_average=second)
        monkeypatch.setattr(command_line, "Circumstances", lambda began=began: began)
        assert command_line.main(["works", "--out", str(tmp_path)]) == 0
    names = ["2026-11-01-100001", "2026-11-01-100002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert "The load average was 2.0 before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        (["start"], "the benchmarks need these Debian packages: redis-server \n"),
        (["growth", "saves"], "the benchmarks need these Debian packages: redis-server wrk \n"),
        (["serving"], "these Debian packages: nghttp2-client nginx-light wrk \n"),
    ],
)
def test_an_experiment_needs_its_own_programs_only(
    experiments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """On a machine without any of them, the message names the packages, and nothing is measured."""
    for name in ("sort", "tr"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    installer = tmp_path / "installer"
    without_sbin = command_line.INSTALLER.read_text(encoding="utf-8").replace(":/usr/sbin", "")
    installer.write_text(without_sbin, encoding="utf-8")
    installer.chmod(0o700)
    monkeypatch.setattr(command_line, "INSTALLER", installer)
    monkeypatch.setattr(command_line, "find_spec", lambda _: "matplotlib")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_line.main([*experiments, "--out", str(tmp_path)]) == 1
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("out", ["/proc/nope", "file/nope"])
def test_a_folder_that_cannot_be_written_is_refused_before_a_measurement(
    out: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message names the option, the folder, the reason and the remedy."""
    (tmp_path / "file").touch()
    measured: list[Bench] = []
    monkeypatch.setitem(sys.modules, "benchmarks.start", SimpleNamespace(run=measured.append))
    with pytest.raises(SystemExit) as ended:
        command_line.main(["start", "--out", str(tmp_path / out)])
    assert ended.value.code == 2
    assert measured == []
    error = capsys.readouterr().err
    assert f"argument --out: cannot write to {tmp_path / out}: " in error
    assert "nothing was measured; name another folder" in error


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("other-server --port 80", "must contain {port}, which stands for the port"),
        ("other-server '{port}", "cannot be split into words: No closing quotation"),
    ],
)
def test_a_command_of_another_server_is_checked_first(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the port, the server would listen where no request arrives."""
    with pytest.raises(SystemExit) as ended:
        command_line.main(["serving", "--against", command])
    assert ended.value.code == 2
    assert f"argument --against: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:80/token", "https://127.0.0.1/token", "http://:1/t"])
def test_a_url_of_another_server_is_checked_first(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the whole URL of the token."""
    with pytest.raises(SystemExit) as ended:
        command_line.main(["serving", "--against-url", url])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "must be the full URL of the token, such as http://127.0.0.1:8080/token" in error


def test_an_unknown_experiment_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names those that exist."""
    with pytest.raises(SystemExit):
        command_line.main(["speed"])
    assert "serving" in capsys.readouterr().err


def test_a_run_says_what_its_figures_depend_on(tmp_path: Path) -> None:
    """The machine, the versions and the options, without names of hosts, users or paths."""
    bench = Bench(tmp_path, quick=True, rounds=3, seconds=4, cores=[5, 7], against="/home/me/other")
    began_at = datetime(2026, 11, 1, 10, 2, 11, tzinfo=UTC)
    text = Circumstances(began_at, load_average=0.5).text(bench, ["redis-server"])
    assert text.startswith("Measured on 01 November 2026 at 10:02 UTC.\n\n- Machine: ")
    assert f", {os.cpu_count()} cores, Linux {platform.release()}\n" in text
    assert "- Cores: the servers on number 5, the load on 7\n" in text
    assert f"Python {platform.python_version()}, Tornado {tornado.version}, redis-server " in text
    assert re.search(r"redis-server \d+\.\d+\.\d+\n", text)
    assert "- Options: `--quick --rounds 3 --seconds 4`\n" in text
    assert text.endswith("- Load average before: 0.5")
    assert not any(name in text for name in ("/home", str(tmp_path)))


def test_a_busy_machine_is_told(tmp_path: Path) -> None:
    """Its figures are too low."""
    circumstances = Circumstances(load_average=0.6)
    assert "was 0.6 before the measurement began, more than 0.5" in circumstances.warning
    assert circumstances.warning in circumstances.text(Bench(tmp_path), [])
    assert Circumstances(load_average=0.5).warning == ""
