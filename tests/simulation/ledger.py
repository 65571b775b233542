"""The ledger of one account: the confirmations that users received of its logins and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import Process


class BrokenInvariantError(AssertionError):
    """An invariant does not hold; the message names it."""


@dataclass(eq=False)
class Action:
    """A login, or the end of one, from the view of its user."""

    login: bool
    by: Process | None
    began_at: float
    over_at: float | None = None
    """The time of its confirmation, or of the death of its process."""
    confirmed: bool = False
    held: bool = False
    """True if it was confirmed while the store failed. It counts once it is written."""
    consent_id: str | None = None


class Ledger:
    """The confirmations that users received: only a later login or end undoes a confirmed one.

    Actions that overlap in time may count in either order. A refused action must have changed
    nothing. The action of a process that died may have been carried out or not.

    Args:
        name: the account.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._actions = [Action(login=False, by=None, began_at=-1, over_at=-1, confirmed=True)]

    def begins(self, *, login: bool, by: Process) -> Action:
        action = Action(login=login, by=by, began_at=by.world.loop.time())
        self._actions.append(action)
        return action

    def refused(self, action: Action) -> None:
        self._actions.remove(action)

    def cut_short(self, action: Action, by: Process) -> None:
        """Note an action that failed on its way: it may have been carried out, or not."""
        action.over_at = by.world.loop.time()

    def written(self, consent_id: str | None, by: Process) -> None:
        """Note a record with this consent. A new consent belongs to a login of this process."""
        if consent_id is not None and all(
            action.consent_id != consent_id for action in self._actions
        ):
            unknown = (
                a
                for a in self._actions
                if a.login and a.by is by and a.over_at is None and a.consent_id is None
            )
            if (action := next(unknown, None)) is not None:
                action.consent_id = consent_id

    def confirmed(self, action: Action, by: Process, consent_id: str | None) -> None:
        """Note a success.

        Args:
            action: the login or the end.
            by: its process.
            consent_id: the consent in the process's memory, after a login.
        """
        if action.login and consent_id != action.consent_id:
            # Of two logins at one process, this identifies each.
            for other in self._actions:
                if other.consent_id == consent_id and not other.confirmed:
                    other.consent_id = action.consent_id
            action.consent_id = consent_id
        action.held = by.is_unsaved(self._name)
        if not action.held:
            action.confirmed, action.over_at = True, by.world.loop.time()

    def died(self, process: Process) -> None:
        for action in self._actions:
            if action.by is process and action.over_at is None:
                action.over_at = process.world.loop.time()

    def check(self, consent_id: str | None, now: float) -> None:
        """Check that the record of the store agrees with the confirmations of the users."""
        for action in self._actions:
            if (
                action.held
                and action.over_at is None
                and action.by is not None
                and not action.by.is_unsaved(self._name)
            ):
                action.confirmed, action.over_at = True, now
        confirmed = [action for action in self._actions if action.confirmed]
        last = max(action.began_at for action in confirmed)
        self._actions = [
            action for action in self._actions if action.over_at is None or action.over_at >= last
        ]
        if any(
            action.consent_id == consent_id and action.login == (consent_id is not None)
            for action in self._actions
        ):
            return
        raise BrokenInvariantError(
            f"{self._name}: the store holds the consent {consent_id}, but the confirmed actions "
            "are "
            + ", ".join(
                f"{'login ' + str(a.consent_id) if a.login else 'end'}" for a in self._actions
            )
        )
