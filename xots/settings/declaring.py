"""``Setting``: the declaration of one setting, and ``setting``, which makes a field of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["Setting", "default_shown", "setting"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The declaration of one setting."""

    name: str = ""
    """Its attribute of ``Settings``, from which its names in all sources derive."""
    default: Any
    """The value without a source."""
    parse: Callable[[str], Any]
    """Return the value of a text; raise ValueError if it has none."""
    help: str
    """A sentence for the help, without the default."""
    letter: str | None = None
    """The short option, without its hyphen."""
    metavar: str | None = None
    """A word for the value in the help. None: the setting's name in upper case."""
    default_text: str | None = None
    """The default as the help shows it, if that is not ``str(default)``."""
    secret: bool = False
    """True if the command line must not give it, since all users of the machine can see that."""
    may_be_empty: bool = False
    """True if an empty variable or YAML key sets an empty value. Otherwise it sets nothing."""
    per_account: bool = False
    """True if an account can have a value of its own."""
    may_repeat: bool = False
    """True if the option can be given several times: the texts are joined by spaces."""

    @property
    def option(self) -> str:
        """The long option: ``--token-url``."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable: ``XOTS_TOKEN_URL``."""
        return f"XOTS_{self.name.upper()}"


def setting(
    default: T,
    parse: Callable[[str], T],
    help: str,  # noqa: A002 - the word of argparse
    *,
    letter: str | None = None,
    metavar: str | None = None,
    default_text: str | None = None,
    secret: bool = False,
    may_be_empty: bool = False,
    per_account: bool = False,
    may_repeat: bool = False,
    in_repr: bool = True,
) -> T:
    """Declare a setting as a field of ``Settings``. mypy checks default and parser against the
    field's type."""
    declaration = Setting(
        default=default,
        parse=parse,
        help=help,
        letter=letter,
        metavar=metavar,
        default_text=default_text,
        secret=secret,
        may_be_empty=may_be_empty,
        per_account=per_account,
        may_repeat=may_repeat,
    )
    return field(default=default, repr=in_repr, metadata={"setting": declaration})


def default_shown(setting: Setting) -> str | None:
    """Return a setting's default as the help and the documents show it; None if it has none."""
    if setting.default_text is not None:
        return setting.default_text
    if setting.default in (None, ()):
        return None
    return str(setting.default).removesuffix(".0")
