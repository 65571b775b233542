"""The start of the program: it imports and prepares only what a start needs.

No test measures the time: ``benchmarks/start.py`` does.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace
from support import accounts

from xots.backends.file import FileStore
from xots.keeping.record_store import RecordStore
from xots.sealing import Sealer, new_key
from xots.xero.identity_server import XERO

PROGRAM = """
import dataclasses, gc, json, os, sys
from xots.commands.main import main

status = main(sys.argv[1:])
made = [name for name, module in sys.modules.items() if name.startswith("xots")
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == name and dataclasses.is_dataclass(kind)]
loaded = {"modules": list(sys.modules), "dataclasses": made, "frozen": gc.get_freeze_count()}
print(json.dumps(loaded))
sys.exit(status)
"""
"""The program ``xots``, which tells at its end what it has loaded."""

UNNEEDED = {
    "bz2": "shutil imports it",
    "curl": "no proxy is set",
    "difflib": "no word is misspelt",
    "importlib.metadata": "the store is one of this package",
    "lzma": "shutil imports it",
    "platformdirs": "the settings name the store and its key",
    "pycurl": "no proxy is set",
    "redis": "the store is a folder",
    "shutil": "argparse needs it for the width of the help only",
    "sqlite3": "the store is a folder",
    "xots.backends.memory": "the store is a folder",
    "xots.backends.redis": "the store is a folder",
    "xots.check": "another command",
    "xots.client": "the server sends no request to itself",
    "xots.commands.accounts": "another command",
    "xots.commands.checking": "another command",
    "xots.commands.ending": "another command",
    "xots.commands.keys": "another command",
    "xots.commands.readers": "another command",
    "xots.commands.requesting": "another command",
    "xots.demo": "another command",
    "xots.reader_file": "there are no readers",
    "xots.sandbox": "the identity server is not simulated",
    "xots.testing": "it is for authors of stores",
    "xots.tls": "there is no certificate",
    "xots.web.api_operations": "no program has requested /openapi.json",
    "xots.web.openapi": "no program has requested /openapi.json",
    "yaml": "there is no configuration file",
    "zipfile": "importlib.metadata imports it",
}
"""The modules that a start with the file store does not load, each with the reason."""


@dataclass
class Loaded:
    """What a server had loaded when it stopped."""

    modules: list[str]
    dataclasses: list[str]
    frozen: int


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A server that has started on a stored login, and has served its token once."""
    folder = tmp_path_factory.mktemp("start")
    key = new_key()
    # No refresh is due, so no request to Xero is sent.
    login = replace(accounts.logged_in(datetime.now(UTC)), token_url=XERO.token_url)
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_text(key.reveal())
    record = RecordStore(FileStore(folder / "store"), Sealer([key]), "default")
    asyncio.run(record.swap(login, None))
    with started(folder) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"serving on (http://\S+);", line)
            assert found, line
            with urllib.request.urlopen(f"{found[1]}/token", timeout=20) as response:
                token = json.load(response)["accessToken"]
            process.terminate()
            written, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert token == "a0"
    return Loaded(**json.loads(written))


def started(folder: Path) -> subprocess.Popen[str]:
    """Start the program on the store and the key of a folder."""
    settings = {"port": 0, "store": (folder / "store").as_uri(), "key-file": folder / "key"}
    options = [f"--{name}={value}" for name, value in settings.items()]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={},
    )


def test_a_start_loads_nothing_that_it_does_not_need(loaded: Loaded) -> None:
    """The first token is served without these modules."""
    assert {name: UNNEEDED[name] for name in loaded.modules if name in UNNEEDED} == {}


def test_the_types_of_a_start_are_made_without_a_code_generator(loaded: Loaded) -> None:
    """Python compiles the methods of a dataclass at each start, which takes 0.35 ms; a struct of
    msgspec takes 0.01 ms. A dataclass can hide a field that may hold a secret from all that shows
    it; the fields of the settings carry their declarations."""
    assert set(loaded.dataclasses) == {
        "xots.settings.declaring",
        "xots.settings.fields",
        "xots.settings.reading",
        "xots.xero.connections",
        "xots.xero.protocol",
    }


def test_garbage_collections_leave_the_modules_out(loaded: Loaded) -> None:
    """Each full one would pause the server for milliseconds."""
    assert loaded.frozen > 10_000
