"""``xots check``."""

from __future__ import annotations

import argparse
import asyncio

from .options import read_settings

__all__ = ["check"]


def check(options: argparse.Namespace) -> int:
    """Print each finding. The exit status is 0 if all is in order, else 1."""
    settings = read_settings(options)
    from ..check import check  # here, so that the other commands start without Tornado

    return asyncio.run(check(settings))
