"""What is published works: from the wheel, from the sdist and as an editable install."""

from __future__ import annotations

import email
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PUBLISHED = ("*.cfg", "*.toml", "*.md", "*.in", "LICENSE", "Makefile")
FOLDERS = ("xots", "templates", "tests", "examples", "benchmarks", "deploy", "docs")
LONGEST_RUN_SECONDS = 30


def run(*command: str | Path, **environment: str | Path) -> str:
    """Run a command that has to succeed; what it printed."""
    done = subprocess.run(
        command,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}:\n{done.stdout}", pytrace=False)
    return done.stdout


def needed_by(requirements: Iterable[str]) -> set[str]:
    """The names of the distributions that are required here, no extra being asked for."""
    parsed = [Requirement(text) for text in requirements]
    return {one.name for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})}


def link(names: Iterable[str], folder: Path) -> None:
    """Make these distributions and their requirements importable from a folder. Download none."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted, done = set(names), set[str]()
    while wanted:
        name = wanted.pop()
        done.add(name)
        found = distribution(name)
        wanted |= needed_by(found.requires or ()) - done
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(found.locate_file(top))))


def files_below(folder: Path, *patterns: str) -> set[str]:
    """The files that fit, as names relative to the folder."""
    return {
        path.relative_to(folder).as_posix()
        for pattern in patterns
        for path in folder.rglob(pattern)
    }


class Published:
    """A copy of the tree, and what was built from it."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.tools = folder / "tools"
        self.tree.mkdir()
        for pattern in PUBLISHED:
            for path in ROOT.glob(pattern):
                shutil.copy(path, self.tree)
        for name in FOLDERS:
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name,
                    self.tree / name,
                    ignore=shutil.ignore_patterns("__pycache__", "node_modules", ".*"),
                )
        link(["setuptools"], self.tools)
        # Without options it builds the sdist, and the wheel from that sdist.
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", self.tree)
        (self.sdist,) = (folder / "dist").glob("*.tar.gz")
        (self.wheel,) = (folder / "dist").glob("*.whl")
        with zipfile.ZipFile(self.wheel) as wheel:
            self.in_wheel = set(wheel.namelist())
            (metadata,) = (name for name in self.in_wheel if name.endswith(".dist-info/METADATA"))
            headers = email.message_from_bytes(wheel.read(metadata))
        self.dist_info = metadata.partition("/")[0]
        self.requirements: list[str] = headers.get_all("Requires-Dist", [])


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(tmp_path_factory.mktemp("published"))


@pytest.fixture(params=["wheel", "sdist", "editable"])
def command(published: Published, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The command of an installation with the declared requirements of the package only."""
    how: dict[str, list[str | Path]] = {
        "wheel": [published.wheel],
        "sdist": [published.sdist],
        "editable": ["--editable", published.tree],
    }
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    (packages,) = venv.glob("lib/python3*/site-packages")
    link(needed_by(published.requirements), packages)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        venv / "bin" / "python",
        "--disable-pip-version-check",
    )
    options = ("--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, "install", *options, *how[request.param], PYTHONPATH=published.tools)
    return venv / "bin" / "xots"


def get(host: str, port: int, path: str) -> tuple[int, str, bytes]:
    """An answer's status, type and body; no redirect is followed."""
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers.get("Content-Type", ""), response.read()
    finally:
        connection.close()


def test_the_installed_server_serves_its_pages(command: Path, tmp_path: Path) -> None:
    """It starts in any folder, finds its templates, and ends with status 0."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XOTS_", "PYTHON"))
    }
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    server = subprocess.Popen(
        [command, "--port", "0"], cwd=elsewhere, env=environment, stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(LONGEST_RUN_SECONDS, server.kill)
    watchdog.start()
    with server:
        try:
            assert server.stderr is not None
            lines = []
            for line in server.stderr:
                lines.append(line)
                if found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                pytest.fail(f"it did not start:\n{''.join(lines)}", pytrace=False)
            port = int(found[1])

            assert get("127.0.0.1", port, "/")[0] in (200, 303)
            status, kind, body = get("localhost", port, "/login")
            assert (status, kind.partition(";")[0]) == (200, "text/html")
            assert b"Enter the credentials of your app" in body
            status, kind, body = get("localhost", port, "/style.css")
            assert (status, kind.partition(";")[0]) == (200, "text/css")
            assert body == (ROOT / "templates" / "style.css").read_bytes()

            server.send_signal(signal.SIGTERM)
            assert server.wait() == 0
        finally:
            watchdog.cancel()
            server.kill()


def test_the_wheel_holds_the_package_and_nothing_else(published: Published) -> None:
    """It holds every module and template, the licence and ``py.typed``, and no tests."""
    info = published.dist_info
    expected = {f"xots/{name}" for name in files_below(ROOT / "xots", "*.py", "py.typed")}
    expected |= {
        f"xots/templates/{name}"
        for name in files_below(ROOT / "templates", "*.py", "*.html", "*.css")
    }
    assert {name for name in published.in_wheel if not name.startswith(f"{info}/")} == expected
    assert f"{info}/licenses/LICENSE" in published.in_wheel


def test_the_sdist_holds_what_its_tests_need(published: Published) -> None:
    """The tests can be run from an unpacked sdist."""
    with tarfile.open(published.sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    tests = {f"tests/{name}" for name in files_below(ROOT / "tests", "*.py")}
    documents = {path.name for path in ROOT.glob("*.md")}
    documents |= {f"docs/{name}" for name in files_below(ROOT / "docs", "*.md")}
    others = {f"benchmarks/{name}" for name in files_below(ROOT / "benchmarks", "*.py", "*.lua")}
    others |= {"LICENSE", "Makefile", "examples/requests_example.py", "templates/style.css"}
    assert tests | documents | others <= held
    assert not [name for name in held if name.endswith(".pyc")]
