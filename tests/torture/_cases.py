"""The command line of the ways that send generated cases."""

from __future__ import annotations

import argparse
import logging

__all__ = ["cases_and_seed"]


def cases_and_seed(
    way: str, description: str | None, arguments: list[str], *, cases: int
) -> tuple[int, int]:
    """Return the number of cases and the seed that a command names, and silence the servers: each
    refusal is a line of their log otherwise.

    Args:
        way: the name of the way of torture.
        description: the docstring of its module.
        arguments: those of the command.
        cases: the number without the option.
    """
    parser = argparse.ArgumentParser(
        prog=f"torture {way}", description=(description or "").partition("\n")[0]
    )
    parser.add_argument(
        "--cases",
        type=int,
        default=cases,
        help="number of generated cases (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args(arguments)
    for name in ("xots", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return options.cases, options.seed
