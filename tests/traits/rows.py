"""``Row``: a trait of an identity server, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from traits.steps import Step
from traits.stub import Trait

__all__ = ["Row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One identity server, the settings for it, and the outcome."""

    name: str
    rule: str
    """The rule with its section, in one sentence."""
    trait: Trait = field(default_factory=Trait)
    settings: Mapping[str, str | None] = field(default_factory=dict)
    """What the operator writes beside the endpoints and the client; STUB is the server's origin.
    None leaves a line out."""
    steps: tuple[Step, ...]
