"""The settings of a server: each is declared once, and comes from one of four sources.

===========  =====================================================================================
``parsing``  from text to value, setting by setting (pure)
``fields``   ``Settings`` and the declarations of its fields: ``declared``, ``default_shown``
``sources``  command line, environment, credentials directory and YAML file: ``load``
===========  =====================================================================================
"""

from .fields import Setting, Settings, declared, default_shown
from .parsing import is_loopback
from .sources import load

__all__ = ["Setting", "Settings", "declared", "default_shown", "is_loopback", "load"]
