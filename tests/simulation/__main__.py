"""The command: see the package's docstring, or ``--help``."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import simulation
from simulation.ledger import BrokenInvariantError
from simulation.runs import run_beyond, run_seed, run_years
from simulation.trouble import run_trouble
from xots.sandbox import SiblingMode

SEEDS_PER_BATCH = 50
"""Number of seeds in one batch of a worker."""


def main() -> int:
    """Run the simulations of the command line, and print their figures."""
    parser = argparse.ArgumentParser(
        prog="simulation",
        description=simulation.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", default="1..100", help="A..B (default: %(default)s)")
    modes = [mode.value for mode in SiblingMode]
    parser.add_argument(
        "--mode",
        choices=modes,
        help=f"one sibling mode (default: all; with --grace, {SiblingMode.ALL_VALID} alone)",
    )
    parser.add_argument(
        "--hours",
        type=float,
        default=12,
        help="simulated hours of each seed (default: %(default)s)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        metavar="SECONDS",
        help="instead: a server with this grace period, which ends a login after a later reuse; "
        "0: strict reuse detection",
    )
    parser.add_argument(
        "--refreshes", type=int, help="stop each mode after this number of refresh requests"
    )
    parser.add_argument(
        "--beyond", action="store_true", help="instead: faults beyond the bound of the invariant"
    )
    parser.add_argument(
        "--trouble", action="store_true", help="instead: trouble in some accounts delays no other"
    )
    parser.add_argument(
        "--years",
        type=float,
        help="instead: this number of years of one process, with 5%% of calls faulty",
    )
    parser.add_argument(
        "--accounts",
        type=int,
        default=0,
        help="with --years: number of further accounts, which no caller uses (default: 0)",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="number of worker processes (default: %(default)s)"
    )
    parser.add_argument("--trace", action="store_true", help="print each event")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    if not seeds:
        parser.error(f"--seeds: {options.seeds} holds no seed: give the smaller number first")
    run: Callable[[int, SiblingMode], Counter[str]]
    if options.beyond:
        run = partial(run_beyond, trace=options.trace)
    elif options.trouble:
        run = partial(run_trouble, hours=options.hours, trace=options.trace)
    elif options.years:
        seeds, run = seeds[:1], _years(options)
    else:
        run = partial(
            run_seed, hours=options.hours, grace_seconds=options.grace, trace=options.trace
        )
    broken = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        for mode in _modes(options):
            began, figures, done, failures = time.monotonic(), Counter[str](), seeds[:0], 0
            for batch in _batches(seeds, options.jobs):
                for found, failed in pool.map(partial(_attempt, run, mode), batch):
                    figures += found
                    if failed:
                        failures += 1
                        print(
                            f"BROKEN: seed {failed} "
                            f"(replay: --mode {mode} --trace, with this seed alone)",
                            flush=True,
                        )
                done = range(seeds.start, batch.stop)
                if options.refreshes and figures["refresh requests"] >= options.refreshes:
                    break
            broken += failures
            requests, seconds = figures["refresh requests"], time.monotonic() - began
            print(
                f"{mode}: seeds {done.start}..{done.stop - 1}, {requests} refresh requests, "
                f"{failures} broken invariants"
            )
            print("   " + ", ".join(f"{name} {count}" for name, count in sorted(figures.items())))
            print(f"   {requests / seconds:.0f} refresh requests a second", flush=True)
    print(f"FAILED: {broken} broken invariants" if broken else "passed: no invariant was broken")
    return 1 if broken else 0


def _modes(options: argparse.Namespace) -> list[SiblingMode]:
    """Return the sibling modes to run. With ``--grace``, each of them means the same."""
    if options.mode:
        return [SiblingMode(options.mode)]
    return list(SiblingMode) if options.grace is None else [SiblingMode.ALL_VALID]


def _years(options: argparse.Namespace) -> Callable[[int, SiblingMode], Counter[str]]:
    years, accounts, trace = options.years, options.accounts, options.trace
    return partial(run_years, years=years, accounts=accounts, trace=trace)


def _batches(seeds: range, jobs: int) -> list[range]:
    size = SEEDS_PER_BATCH * jobs
    return [seeds[i : i + size] for i in range(0, len(seeds), size)]


def _attempt(
    run: Callable[[int, SiblingMode], Counter[str]], mode: SiblingMode, seed: int
) -> tuple[Counter[str], str]:
    for name in ("xots.keeper", "xots.accounts"):
        logging.getLogger(name).disabled = True
    try:
        return run(seed, mode), ""
    except BrokenInvariantError as error:
        return Counter(), f"{seed}: {error}"
    finally:
        sys.stdout.flush()  # a worker's trace


if __name__ == "__main__":
    sys.exit(main())
