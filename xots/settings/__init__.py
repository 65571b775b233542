"""The settings of a server: each is declared once, and comes from one of four sources.

===================  =============================================================================
``parsing``          from text to value, setting by setting (pure)
``declaring``        ``Setting``, the declaration of one setting, and ``default_shown``
``accounts``         the settings that an account inherits, and its own (pure)
``demands``          the settings that other settings demand (pure)
``fields``           ``Settings`` and the declarations of its fields: ``declared``
``reading``          the texts and files that all sources share
``yaml_file``        the YAML file
``account_sources``  the accounts' own settings: YAML file and credentials directory
``sources``          command line, environment and credentials directory; all sources: ``load``
===================  =============================================================================
"""

from .declaring import Setting, default_shown
from .fields import Settings, declared
from .parsing import is_loopback
from .sources import load

__all__ = ["Setting", "Settings", "declared", "default_shown", "is_loopback", "load"]
