"""The command line of the benchmarks. ``make bench`` runs it."""

from __future__ import annotations

import argparse
import importlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from xots.server import raise_descriptor_limit

from .bench import Bench, BenchmarkFailed
from .circumstances import Circumstances
from .report import document, write


@dataclass(frozen=True)
class Experiment:
    """What the command line knows of an experiment."""

    figures: str
    """Its figures, in words."""
    programs: tuple[str, ...] = ()
    """The programs that it runs besides Python and xots: rows of ``tests/debian-packages``."""
    has_plots: bool = False
    """True: it needs matplotlib."""


EXPERIMENTS = {
    "serving": Experiment(
        "requests a second, latency, processor time and memory, beside nginx and Tornado",
        ("nginx", "wrk", "h2load"),
        has_plots=True,
    ),
    "growth": Experiment(
        "the cost of a request over tokens, readers, accounts and connections",
        ("wrk",),
        has_plots=True,
    ),
    "refreshes": Experiment("latency during refreshes, beside that without them", ("wrk",)),
    "saves": Experiment(
        "a save in each store, and a refresh apart from Xero's time", ("redis-server",)
    ),
    "processes": Experiment(
        "requests to Xero by processes that share one account", ("wrk", "redis-server")
    ),
    "start": Experiment(
        "process start to the first token, and memory, beside a bare Tornado", ("redis-server",)
    ),
    "soak": Experiment(
        "memory, descriptors and tasks during thousands of rotations", ("wrk",), has_plots=True
    ),
}
"""The experiments in their order, each a module of this package."""

INSTALLER = Path(__file__).parents[1] / "tests" / "debian-packages"

DEFAULT_FOLDER = Path("bench-results")

EXAMPLE_URL = "http://127.0.0.1:8080/token"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiments, print their tables, and return the exit status: 1 if one failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    experiments = options.experiments or list(EXPERIMENTS)
    if (options.against or options.against_url) and "serving" not in experiments:
        parser.error("another server is measured in serving only: add it to the experiments")
    try:
        _check_folder(options.out)
    except OSError as error:
        parser.error(
            f"argument --out: cannot write to {options.out}: {error.strerror}; nothing was "
            "measured; name another folder"
        )
    chosen = [EXPERIMENTS[name] for name in experiments]
    if any(each.has_plots for each in chosen) and find_spec("matplotlib") is None:
        print("benchmarks: matplotlib is missing; run make bench", file=sys.stderr)
        return 1
    programs = {program for each in chosen for program in each.programs}
    if not _install(programs):
        return 1
    circumstances = Circumstances()
    if circumstances.warning:
        print(f"benchmarks: {circumstances.warning}", file=sys.stderr)
    folder = options.out / f"{circumstances.began_at:%Y-%m-%d-%H%M%S}"
    failed = []
    for name in experiments:
        began = time.monotonic()
        print(f"{name}: started", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="xots-bench-") as scratch:
            try:
                bench = _bench(options, Path(scratch))
                results = importlib.import_module(f".{name}", __package__).run(bench)
            except BenchmarkFailed as error:
                print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
                failed.append(name)
                continue
        text = document(name, results, circumstances.text(bench, EXPERIMENTS[name].programs))
        print(text, flush=True)  # before it is written, which may fail
        path = write(name, text, results, folder)
        print(f"{name}: {time.monotonic() - began:.0f} s; {path}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _bench(options: argparse.Namespace, scratch: Path) -> Bench:
    return Bench(
        scratch=scratch,
        quick=options.quick,
        rounds=options.rounds or (1 if options.quick else 5),
        seconds=options.seconds or (1 if options.quick else 2),
        against=options.against,
        against_url=options.against_url,
    )


def _parser() -> argparse.ArgumentParser:
    experiments = "\n".join(f"  {name:10} {each.figures}" for name, each in EXPERIMENTS.items())
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measure the speed of xots, and print tables.",
        epilog=f"experiments:\n{experiments}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "experiments",
        nargs="*",
        type=_experiment,
        metavar="EXPERIMENT",
        help="those to run (default: all)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round of each: less than two minutes"
    )
    parser.add_argument(
        "--rounds",
        type=_positive,
        help="rounds of all experiments but processes and soak (default: 5, with --quick 1)",
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        help="duration of a measurement in serving and growth (default: 2, with --quick 1)",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--against",
        type=_command,
        metavar="COMMAND",
        help="start another server that serves /token, and measure it in serving too; {port} in "
        "the command stands for the port",
    )
    other.add_argument(
        "--against-url",
        type=_url,
        metavar="URL",
        help="measure another server, which already runs, in serving too; the full URL of its "
        f"token, such as {EXAMPLE_URL}",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="FOLDER",
        help="folder for the results; each run makes a folder in it, named for its time (default: "
        "%(default)s)",
    )
    return parser


def _check_folder(folder: Path) -> None:
    """Make the folder of the results, and a file in it, which is deleted.

    Raises:
        OSError: one of the two cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _install(programs: Collection[str]) -> bool:
    """Install those of these programs that are missing, and tell if all are there then."""
    return subprocess.run([INSTALLER, "bench", *sorted(programs)], check=False).returncode == 0


def _command(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"cannot be split into words: {error}") from None
    if not any("{port}" in word for word in words):
        raise argparse.ArgumentTypeError("must contain {port}, which stands for the port")
    return text


def _url(text: str) -> str:
    with suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme == "http" and parts.hostname and parts.port != 0:
            return text
    raise argparse.ArgumentTypeError(f"must be the full URL of the token, such as {EXAMPLE_URL}")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError("must be a whole number from 1 on")
    return int(text)


def _experiment(name: str) -> str:
    if name not in EXPERIMENTS:
        raise argparse.ArgumentTypeError(f"must be one of: {', '.join(EXPERIMENTS)}")
    return name


if __name__ == "__main__":
    # Ended from outside, the run ends its processes too, as it does after a Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    raise_descriptor_limit()  # the processes of the run inherit it
    sys.exit(main())
