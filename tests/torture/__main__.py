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
        print("usage: torture NAME [options]; the names, each with --help of its own:\n", file=sys.stderr)
        for name in names:
            said = importlib.import_module(f"torture.{name}").__doc__ or ""
            print(f"  {name:13} {said.strip().splitlines()[0]}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"torture.{sys.argv[1]}")
    return int(command.main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
