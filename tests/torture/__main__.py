"""``python -m torture NAME …`` runs one of the commands of this package; without a name it lists them."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path


def main() -> int:
    """Run the command that is named."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    names = [name for name in names if not name.startswith("_")]
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(
            'usage: make torture ARGS="NAME [options]"; the names, each with --help of its own:\n'
        )
        for name in names:
            said = importlib.import_module(f"torture.{name}").__doc__ or ""
            print(f"  {name:13} {said.strip().splitlines()[0]}")
        return 2 if sys.argv[1:] else 0
    command = importlib.import_module(f"torture.{sys.argv[1]}")
    status = int(command.main(sys.argv[2:]))
    print(f"{sys.argv[1]}: {'FAILED' if status else 'passed'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
