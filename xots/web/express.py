"""The express lane: it repeats the responses of ``/token`` to requests that are known.

The first two requests with a head go through Tornado's parser, the guard and the rules of access.
At the second, the lane remembers the head, byte for byte, with the sender: the same user or
address, over the same transport. The next request with this head gets the current response without
being parsed again: see ``express_connection``. Of a parsed request whose head is not known,
the lane knows the target, ``Accept`` and the caller: see ``express_request``. ``tokens`` defines
the response; the lane repeats it, and keeps the headers ``Date`` and ``Content-Length`` true.

A response is repeated only as long as all this holds:

- the rules of access are the object that the handler checked. ``look`` reads them after the
  requests have arrived and before their responses, two milliseconds before at most;
- the account's record is the one that the response was made of, and no login is being ended;
- the second in which it was made has not ended, by both clocks. After it, the handler's function
  makes the body again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from ..access import Caller, Peer, Rules
from ..clock import Clock
from ..errors import RulesUnreadable
from ..keeping.keeper import TokenKeeper
from .headers import http_date

__all__ = ["MAX_KNOWN_HEAD_BYTES", "ONE_HEAD", "Body", "Express", "Known", "Repeatable"]

logger = logging.getLogger("xots.web")

MAX_LOOK_AGE_SECONDS = 0.002
"""Upper bound on the age of a look at the rules and the clock, within which many responses share
it."""

MAX_KNOWN_HEAD_BYTES = 2048
"""Upper bound on a head that the lane remembers, and on a target with Accept. Those of programs
have a few hundred bytes."""

MAX_KNOWN_REQUESTS = 256
"""Upper bound on the requests that it remembers. With one more it forgets all: those that are in
use are soon known again."""

MAX_MARKS = 4096
"""Upper bound on the hashes of requests that it has seen once. With one more it forgets all."""

MAX_KNOWN_BODY_BYTES = 64 << 10
"""Upper bound on the body of a response that it remembers: 16 MiB in all."""

ONE_HEAD = re.compile(rb"GET [^\r\n]+ HTTP/1\.1\r\n(?:[^\r\n]+\r\n)+\r\n")
"""A whole head and nothing else. Tornado would take a bare LF for an end of line too."""

RESPONSE = re.compile(
    rb"(HTTP/1\.1 200 [^\r]*\r\n(?:[^\r]+\r\n)*?Date: )[^\r]+"
    rb"(\r\n(?:[^\r]+\r\n)*?Content-Length: )[0-9]+"
    rb"(\r\n(?:[^\r]+\r\n)*\r\n).*",
    re.DOTALL,
)

R = TypeVar("R")

NO_SENDERS: Mapping[Hashable, Known[Any]] = {}


class Body:
    """The body of a response, at one time. It has no fields that a log would show.

    Args:
        content: the body.
        since: this time.
        until: before this time, the body stays the same while the account's edition does.
        elapsed: the time at which the body was made, by ``Clock.elapsed``.
    """

    __slots__ = ("content", "elapsed", "since", "until")

    def __init__(self, content: bytes, since: datetime, until: datetime, elapsed: float) -> None:
        self.content, self.since, self.until, self.elapsed = content, since, until, elapsed

    @property
    def date(self) -> str:
        """The value of the header Date at this time."""
        return http_date(int(self.since.timestamp()))


class Repeatable(Protocol):
    """A response that may be repeated to the same request of the same sender."""

    keeper: TokenKeeper
    rules: Rules
    """The rules that permitted the request."""
    caller: Caller
    """The sender of the request."""

    def body(self, now: datetime) -> Body | None:
        """Return the body at a time; None if the handler has to decide."""

    def count(self, number: int, at: datetime) -> None:
        """Count repeated responses, of which the last was sent at a time."""


class Known(Generic[R]):
    """A known request, and the response to it.

    Args:
        source: makes the body again.
        render: makes the response with a body.
        body: that of now.
    """

    def __init__(self, source: Repeatable, render: Callable[[Body], R], body: Body) -> None:
        self.look = 0
        """The look after which the response was found to be that of now."""
        self.count = 0
        """The responses that are not counted elsewhere yet."""
        self.source = copy(source)  # since each known request counts its own responses
        self._render = render
        self._make(body)

    def _make(self, body: Body) -> None:
        """Make the response with this body."""
        self.response = self._render(body)
        self._edition = self.source.keeper.edition
        """The account's edition of which the response was made."""
        self._since = self._last_at = body.since
        self._until = min(body.until, _next_second(body.since))
        self._ends_at = body.elapsed + 1.0
        """By ``Clock.elapsed``: the clock may be set back into a second that has passed."""

    def renew(self, now: datetime, elapsed: float) -> bool:
        """Make ``response`` that of now, if it is not. Return False if the handler has to."""
        edition = self.source.keeper.edition
        if edition is None:
            return False
        is_now = self._since <= now < self._until and elapsed < self._ends_at
        if not is_now or edition is not self._edition:
            self.flush()
            body = self.source.body(now)
            if body is None or len(body.content) > MAX_KNOWN_BODY_BYTES:
                return False
            self._make(body)
        self._last_at = now
        return True

    def flush(self) -> None:
        """Count the responses since the last call."""
        if self.count:
            number, self.count = self.count, 0
            self.source.count(number, self._last_at)


class Express:
    """The express lane of one server.

    Args:
        rules: returns the rules of access now: the same object until they change; raises
            RulesUnreadable.
        clock: this host's clock.
    """

    def __init__(self, rules: Callable[[], Rules], clock: Clock) -> None:
        self._rules_now, self._clock = rules, clock
        self.rules: Rules | None = None
        """The rules by which all known requests were permitted; None if they can't be read."""
        self._now, self._looked_at = clock.now(), clock.elapsed()
        self.elapsed = self._looked_at
        """The time of the request, by ``Clock.elapsed``."""
        self._looks = 0
        """The number of looks until now. A response is checked once after each."""
        self._known: dict[Hashable, dict[Hashable, Known[Any]]] = {}
        """By request and sender."""
        self._marks: set[int] = set()
        """The hashes of requests that have come, with their senders."""
        self.is_closed = False
        """True once the server stops."""

    def look(self) -> None:
        """Look at the rules and the clock. Called before the requests that have arrived until now,
        and again before those that arrive later."""
        self._looks += 1
        self._now = self._clock.now()
        self._looked_at = self.elapsed = self._clock.elapsed()
        try:
            rules = self._rules_now()
        except RulesUnreadable:
            rules = None
        if rules is not self.rules:
            self.forget()
            self.rules = rules

    def look_if_late(self) -> None:
        """Look again if the last look is old: the process may have been suspended since."""
        self.elapsed = self._clock.elapsed()
        if self.elapsed - self._looked_at > MAX_LOOK_AGE_SECONDS:
            self.look()

    def knows(self, request: Hashable) -> bool:
        """Tell if the lane knows a request of any sender."""
        return request in self._known

    def find(self, sender: Hashable, request: Hashable) -> Known[Any] | None:
        """Return the response to a request, which counts as sent; None if the lane does not know
        it.

        Args:
            sender: the ``Peer`` of a head, or the ``Caller`` of a parsed request.
            request: the request, as for ``learn``.
        """
        known = self._known.get(request, NO_SENDERS).get(sender)
        if known is None:
            return None
        if known.look != self._looks:
            try:
                is_ready = known.renew(self._now, self._looked_at)
            except Exception:
                logger.error(
                    "the express lane could not repeat a response, and the handler responds; "
                    "please report this",
                    exc_info=True,
                )
                del self._known[request][sender]
                return None
            if not is_ready:
                return None
            known.look = self._looks
        known.count += 1
        return known

    def is_recurring(self, sender: Hashable, request: Hashable) -> bool:
        """Tell if an unknown request has come before, and note that it came.

        Only such requests are worth remembering: those with a number of their own, as tracing adds
        it, cost no memory and drive out no other.
        """
        mark = hash((sender, request))
        if mark in self._marks:
            return True
        if len(self._marks) >= MAX_MARKS:
            self._marks.clear()
        self._marks.add(mark)
        return False

    def learn_head(
        self, sender: Peer, head: bytes, response: bytes, source: Repeatable, body: Body
    ) -> None:
        """Remember a head and its response, just sent, if the lane can repeat it.

        Args:
            sender: the other end of the connection.
            head: the bytes of the request.
            response: those of the whole response.
            source: makes the body again.
            body: that of the response.
        """
        parts = RESPONSE.fullmatch(response)
        if parts is None:
            return
        render = partial(_bytes_of, parts.groups())
        if render(body)[0] == response:
            self.learn(sender, head, render, source, body)

    def learn(
        self,
        sender: Hashable,
        request: Hashable,
        render: Callable[[Body], Any],
        source: Repeatable,
        body: Body,
    ) -> None:
        """Remember a request and its response, if the lane can repeat it.

        Args:
            sender: the sender, as for ``find``.
            request: all of the request on which the response to this sender depends.
            render: makes the response with a body.
            source: makes the body again.
            body: that of the response.
        """
        self.look()
        is_long = len(body.content) > MAX_KNOWN_BODY_BYTES
        if self.is_closed or source.rules is not self.rules or is_long:
            return
        if sum(map(len, self._known.values())) >= MAX_KNOWN_REQUESTS:
            self.forget()
        by_sender = self._known.setdefault(request, {})
        if sender in by_sender:
            by_sender[sender].flush()
        by_sender[sender] = Known(source, render, body)

    def flush(self) -> None:
        """Count all repeated responses."""
        for by_sender in self._known.values():
            for known in by_sender.values():
                known.flush()

    def forget(self) -> None:
        """Forget all requests."""
        self.flush()
        self._known.clear()

    def close(self) -> None:
        """Know no request from now on: Tornado's path closes each connection after its response."""
        self.is_closed = True
        self.forget()


def _bytes_of(parts: Sequence[bytes], body: Body) -> tuple[bytes, bool]:
    """Return a response of these parts with this body. True: the connection ends with it."""
    before_date, before_length, rest = parts
    date, length = body.date.encode(), b"%d" % len(body.content)
    response = b"".join((before_date, date, before_length, length, rest, body.content))
    return response, b"\r\nConnection: close\r\n" in rest


def _next_second(now: datetime) -> datetime:
    return now.replace(microsecond=0) + timedelta(seconds=1)
