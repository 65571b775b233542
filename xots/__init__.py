"""xots: the Xero OAuth Token Server."""

from ._version import __version__

__all__ = ["__version__"]
