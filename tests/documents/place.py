"""A place in which the commands of the documents run.

Its folders stand for those of the system, and its server, with a simulated Xero, for the user's.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from documents.reading import ROOT

from xots.sealing import new_key

__all__ = ["BIN", "Demo", "Place", "demo_server", "serving"]

BIN = Path(sys.executable).parent
"""The folder of the installed command."""

TIMEOUT_SECONDS = 60
"""Time after which a command counts as hanging."""

READY = re.compile(r"serving on |Stop with Ctrl-C")
"""What a server prints when it is ready."""

REPORT = 'import os; print(len(os.environ["XERO_ACCESS_TOKEN"]), os.environ["XERO_TENANT_ID"])\n'


@dataclass(frozen=True)
class Demo:
    """A running ``xots demo``."""

    port: int
    xero: str
    """The URL of its simulated Xero."""


@contextmanager
def serving(
    command: list[str], *, folder: Path = ROOT, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Run a server. It has to say that it is ready, and to exit with 0 at SIGTERM.

    Yields:
        Its output until it was ready.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            output = _until_ready(process)
            yield output
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
            assert process.returncode == 0, output
        finally:
            process.kill()


def _until_ready(process: subprocess.Popen[str]) -> str:
    """Return the output of a server until it is ready. One that hangs is killed."""
    watchdog = threading.Timer(TIMEOUT_SECONDS, process.kill)
    watchdog.start()
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if READY.search(line):
            break
    watchdog.cancel()
    assert READY.search(output), f"{process.args!r} did not start:\n{output}"
    return output


@contextmanager
def demo_server() -> Iterator[Demo]:
    """Run ``xots demo`` on free ports."""
    command = [f"{BIN}/xots", "demo", "--port", "0", "--sandbox-port", "0"]
    with serving([*command, "--access-token-life", "1800"]) as output:
        port = re.search(r"http://localhost:(\d+)/token", output)
        xero = re.search(r"the simulated Xero +(\S+)", output)
        assert port is not None
        assert xero is not None
        yield Demo(int(port[1]), xero[1])


class Place:
    """A folder for the commands of one document.

    Args:
        folder: an empty folder.
        demo: the server that the commands send requests to.
    """

    def __init__(self, folder: Path, demo: Demo) -> None:
        self.folder = folder
        self.work = folder / "work"
        self._replaced = {
            "/etc/systemd/system": f"{folder}/systemd",
            "/etc/xots": f"{folder}/etc",
            "/opt/xots/bin": f"{BIN}",
            "/usr/local/bin": f"{folder}/bin",
            "/tmp/xots.db": f"{folder}/xots.db",  # noqa: S108 - the path in a document
            "127.0.0.1:5001": f"127.0.0.1:{demo.port}",
            "localhost:5001": f"localhost:{demo.port}",
            "https://api.xero.com/connections": f"{demo.xero}/connections",
        }
        for name in ("bin", "home", "systemd", "work"):
            (folder / name).mkdir()
        self._fill(demo)

    def _fill(self, demo: Demo) -> None:
        """Write the files that the documents take for granted."""
        shutil.copytree(
            ROOT / "examples",
            self.work / "examples",
            ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"),
        )
        (self.work / "deploy").mkdir()
        for path in (ROOT / "deploy").iterdir():
            (self.work / "deploy" / path.name).write_text(self.replaced(path.read_text()))
        (self.work / "report.py").write_text(REPORT)
        key_file = self.folder / "key"
        key_file.touch(0o600)
        key_file.write_text(new_key().reveal())
        settings = {
            "port": demo.port,
            "store": (self.folder / "store").as_uri(),
            "key_file": key_file,
            "authorize_url": f"{demo.xero}/identity/connect/authorize",
            "token_url": f"{demo.xero}/connect/token",
            "revoke_url": f"{demo.xero}/connect/revocation",
            "connections_url": f"{demo.xero}/connections",
        }
        lines = [f"{name}: {value}\n" for name, value in settings.items()]
        (self.work / "xots.yaml").write_text("".join(lines))
        # An HTTP error fails a curl command.
        (self.folder / "home" / ".curlrc").write_text("fail\nmax-time = 20\n")

    def replaced(self, text: str) -> str:
        """Return a command or a file with this place's folders and addresses."""
        for old, new in self._replaced.items():
            text = text.replace(old, new)
        return text

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of a user without settings. pip downloads nothing in it."""
        installed = self.folder / "installed"
        return {
            "HOME": f"{self.folder}/home",
            "LANG": "C.UTF-8",
            "PATH": f"{self.folder}/bin:{BIN}:{os.environ['PATH']}",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads 0 as "no isolation"
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_TARGET": f"{installed}",
            "PYTHONPATH": f"{installed}",
        }

    def run(self, script: str, *, language: str = "sh") -> str:
        """Run a script, in Python or for a shell that stops at the first failure; return its
        output."""
        shell = ["bash", "-euo", "pipefail", "-c"]
        command = [sys.executable, "-c"] if language == "python" else shell
        done = subprocess.run(
            [*command, self.replaced(script)],
            cwd=self.work,
            env=dict(self.environment) | {"XOTS_CONFIG": f"{self.work}/xots.yaml"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def serve(self, command: str) -> str:
        """Start the server of a command on free ports, and stop it; return its output."""
        ports = {"demo": ["--port", "0", "--sandbox-port", "0"], "sandbox": ["--port", "0"]}
        words = self.replaced(command).split()
        words += ports.get(words[1] if len(words) > 1 else "", [])
        environment = dict(self.environment) | {"XOTS_PORT": "0"}
        with serving(words, folder=self.work, environment=environment) as output:
            return output
