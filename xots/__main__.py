"""``python -m xots``."""

import sys

from .commands.main import main

sys.exit(main())
