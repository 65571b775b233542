"""Identity servers of every trait that the RFCs permit, and of faults that are met: by settings.

Each row of the tables names one trait, the settings that an operator writes for it, the rule, and
the outcome that follows from the rule.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from traits.answers import ROWS as ANSWERS
from traits.authorization import ROWS as AUTHORIZATION
from traits.clients import ROWS as CLIENTS
from traits.errors import ROWS as ERRORS
from traits.others import ROWS as OTHERS
from traits.rows import Row
from traits.steps import Stage, foreign_words
from traits.stub import Stub, Trait

from xots.sandbox.person import Person
from xots.server import Server
from xots.settings import load
from xots.testing import FakeClock

TABLE = [*CLIENTS, *AUTHORIZATION, *ANSWERS, *ERRORS, *OTHERS]

NewStage = Callable[[Trait, Mapping[str, str | None]], Awaitable[Stage]]


@pytest.fixture
async def new_stage(
    tmp_path: Path,
    clock: FakeClock,
    person: Person,
    send: Any,
    expected_log: Any,
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[NewStage]:
    """Start an identity server with a trait, and xots with settings for it in a file."""
    running: list[Stub | Server] = []

    async def start(trait: Trait, settings: Mapping[str, str | None]) -> Stage:
        stub = Stub(trait)
        running.append(stub)
        server = Server(load({}, {}, written(tmp_path, settings, stub)), clock=clock)
        await server.start()
        running.append(server)
        return Stage(stub, server, clock, person, send, expected_log, caplog)

    yield start
    for one in reversed(running):
        await one.stop()


def written(folder: Path, settings: Mapping[str, str | None], stub: Stub) -> Path:
    """Write the settings into a file, with the stub's origin in place of STUB."""
    common: dict[str, str | None] = {
        "port": "0",
        "store": "memory:",
        "refresh_interval": "0",
        "client_id": stub.trait.client_id,
        "client_secret": stub.trait.client_secret,
        "authorize_url": "STUB/authorize",
        "token_url": "STUB/token",
        "revoke_url": "STUB/revoke",
        "connections_url": "",
        "scopes": "offline_access books",
    }
    file = folder / "xots.yaml"
    file.touch(mode=0o600)
    lines = [
        f"{name}: {json.dumps(text.replace('STUB', stub.url))}\n"
        for name, text in {**common, **settings}.items()
        if text is not None
    ]
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_the_outcome_follows_from_the_rule(
    new_stage: NewStage, caplog: pytest.LogCaptureFixture, row: Row
) -> None:
    """No request breaks a rule of the RFCs, and no text speaks of Xero or holds a secret."""
    caplog.set_level(logging.INFO)
    trait = row.trait
    stage = await new_stage(trait, row.settings)
    for step in row.steps:
        await step.run(stage)
    assert stage.stub.violations == []
    told = "\n".join([*stage.texts, stage.logged()])
    foreign = foreign_words(told)
    assert not foreign, "\n".join(foreign)
    secrets = (re.escape(trait.client_secret), re.escape(trait.code), r"(access|refresh)-\d")
    assert not [secret for secret in secrets if re.search(secret, told)], told


def test_the_table_names_each_trait_once() -> None:
    """Each row quotes its rule, and no two rows have one name."""
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names) >= 100
    assert not [row.name for row in TABLE if "RFC " not in row.rule or not row.rule.endswith(".")]
