"""Run a command of this package: ``python -m torture NAME``. Without a name, list them."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path


def main() -> int:
    """Run the command that the first argument names."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    names = [name for name in names if not name.startswith("_")]
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(
            'usage: make torture ARGS="NAME [options]"; each of these names has its own --help:\n'
        )
        for name in names:
            doc = importlib.import_module(f"torture.{name}").__doc__ or ""
            print(f"  {name:13} {doc.strip().splitlines()[0]}")
        return 2 if sys.argv[1:] else 0
    command = importlib.import_module(f"torture.{sys.argv[1]}")
    status = int(command.main(sys.argv[2:]))
    print(f"{sys.argv[1]}: {'FAILED' if status else 'passed'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
