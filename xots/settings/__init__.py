"""Every setting, declared once, and the sources they come from."""

from .fields import Settings, declared, default_shown
from .parsing import is_loopback
from .sources import load

__all__ = ["Settings", "declared", "default_shown", "is_loopback", "load"]
