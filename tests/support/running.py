"""The program ``xots`` as a process that runs beside a test."""

from __future__ import annotations

import asyncio
import os
import re
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from support.command_line import XOTS

__all__ = ["STOP_SECONDS", "Running", "demo", "running"]

STOP_SECONDS = 5
"""Upper bound on the time in which an idle process stops."""


@dataclass
class Running:
    """A process and its output so far."""

    process: Process
    lines: list[str] = field(default_factory=list)
    port: int = 0

    async def until(self, stream: str, pattern: str, within_seconds: float = 15) -> re.Match[str]:
        """Read the stream line by line until one matches the pattern."""
        reader = getattr(self.process, stream)
        async with asyncio.timeout(within_seconds):
            while line := (await reader.readline()).decode():
                self.lines.append(line)
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"no line matches {pattern!r}: {self.output}")

    async def ended(self, within_seconds: float = STOP_SECONDS) -> int:
        """Wait until the process ends by itself, read the rest of its output, and return its exit
        status."""
        async with asyncio.timeout(within_seconds):
            rest = await self.process.communicate()
        self.lines += [one.decode() for one in rest]
        assert self.process.returncode is not None
        return self.process.returncode

    @property
    def output(self) -> str:
        return "".join(self.lines)


@asynccontextmanager
async def running(*arguments: str, **environment: str) -> AsyncIterator[Running]:
    """Run ``xots`` with these arguments. Its settings come from ``environment`` alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XOTS_")}
    kept.pop("CREDENTIALS_DIRECTORY", None)
    process = await asyncio.create_subprocess_exec(
        XOTS, *arguments, env=kept | environment, stdout=PIPE, stderr=PIPE
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


@asynccontextmanager
async def demo() -> AsyncIterator[tuple[Running, str]]:
    """Run the demo on free ports; give the process and the curl line that it prints."""
    async with running("demo", "-p", "0", "--sandbox-port", "0") as process:
        found = await process.until("stdout", r"(curl \S.*localhost:(\d+)/token)\s*$")
        process.port = int(found[2])
        yield process, found[1]
