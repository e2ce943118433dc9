"""Sites on machines of their own, reached through an engine that carries bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

from fedcore.messages.answer import Answer, Refusal
from fedcore.messages.encoding import WireError, encoded_message, kinds_of_messages
from fedcore.messages.message import Leaf, Message, leaves
from fedcore.messages.request import Request
from fedcore.messages.wire import answer_of, request_head

LONGER = 1.5
"""Factor on the time that a late site took: its next limit."""
MOST = 4.0
"""Factor on the deadline: the longest limit of a site that has not answered."""
_CHECK_SECONDS = 1.0


@runtime_checkable
class Carrier(Protocol):
    """What an engine must do. Who answered is what the engine knows from the site's certificate."""

    def names(self) -> Sequence[str]:
        """The sites, in the order in which sums over them are made."""

    def send(self, site: str, head: bytes, message: bytes) -> int:
        """Sends `head + message` to a site and returns a number for the answer. `message` may be the same object for
        several sites."""

    def receive(self, timeout: float) -> tuple[int, bytes | str] | None:
        """The next answer, by the number of its request: bytes, or why there will be none; None after `timeout`
        seconds."""

    def lost(self) -> Mapping[str, str]:
        """Sites that cannot be reached now, each with the reason.

        Raises:
            Restart: A site has come back; the engine must be started again to reach it.
        """


class Restart(KeyboardInterrupt):
    """The engine's job must end and be started again. Everything that counts is on the disk."""


@dataclass
class _Pending:
    """A request of this round to one site."""

    request: Request
    number: int | None = None
    """None: not sent, because the site still works on an earlier one."""
    since: float = 0.0


@dataclass
class Remote:
    """A `Transport` over a `Carrier`. A site that was late is given more time, and is asked again once it has
    answered."""

    carrier: Carrier
    clock: Callable[[], float] = time.monotonic
    _late: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By site, an earlier request that it still works on, and when that was sent."""
    _limits: dict[str, float] = field(default_factory=dict)
    """By site, the seconds that it gets, where it once needed more than the deadline."""
    _encoded: tuple[Message, bytes] | None = None

    def names(self) -> Sequence[str]:
        return self.carrier.names()

    def ask(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Answer]:
        """All sites work at the same time.

        Raises:
            Restart: See `Carrier.lost`; the round is not counted and is repeated with all sites.
        """
        lost = self.carrier.lost()
        open_, order, early = dict[str, _Pending](), list[str](), dict[str, Answer]()
        for request in requests:
            site = request.site
            order.append(site)
            if site in lost:
                early[site] = Refusal(site, lost[site])
                continue
            open_[site] = _Pending(request, since=self.clock())
            if site not in self._late:
                self._send(open_[site])
        self._encoded = None
        for site in order:
            while site not in early:
                early |= self._next_answers(open_, deadline)
            yield early.pop(site)

    def flush(self, names: Iterable[str]) -> None:
        """Sites write what they remember to their disks before they answer."""

    def _send(self, pending: _Pending) -> None:
        request = pending.request
        if self._encoded is None or not _same(self._encoded[0], request.message):
            self._encoded = (request.message, encoded_message(request.message))
        pending.number = self.carrier.send(request.site, request_head(request), self._encoded[1])
        pending.since = self.clock()

    def _next_answers(self, open_: dict[str, _Pending], deadline: float | None) -> dict[str, Answer]:
        """What arrives within a moment, and refusals of sites whose time is over or that are lost; closes them."""
        found = dict[str, Answer]()
        if arrived := self.carrier.receive(_CHECK_SECONDS):
            number, data = arrived
            if site := next((site for site, of in open_.items() if of.number == number), None):
                found[site] = _read(site, data)
                if deadline is not None and (took := self.clock() - open_[site].since) > deadline:
                    self._limits[site] = LONGER * took
                del open_[site]
            else:
                self._came_late(number, open_)
        reasons = {**self.carrier.lost(), **self._overdue(open_, deadline)}
        for site in [site for site in open_ if site in reasons]:
            pending = open_.pop(site)
            if pending.number is not None:
                self._late[site] = (pending.number, pending.since)
            found[site] = Refusal(site, reasons[site])
        return found

    def _came_late(self, number: int, open_: dict[str, _Pending]) -> None:
        """An earlier request was answered: its site can work again, and the time that it took is known."""
        site = next((site for site, (late, _) in self._late.items() if late == number), None)
        if site is None:
            return
        _, since = self._late.pop(site)
        self._limits[site] = LONGER * (self.clock() - since)
        if site in open_:
            self._send(open_[site])

    def _overdue(self, open_: Mapping[str, _Pending], deadline: float | None) -> dict[str, str]:
        if deadline is None:
            return {}
        reasons, now = dict[str, str](), self.clock()
        for site, pending in open_.items():
            limit = max(deadline, self._limits.get(site, 0.0))
            if now - pending.since > limit:
                at = "still worked on an earlier request" if pending.number is None else "gave no answer"
                reasons[site] = f"it {at} after {limit:.0f} seconds"
                self._limits[site] = max(limit, min(2 * limit, MOST * deadline))
        return reasons


def _read(site: str, data: bytes | str) -> Answer:
    if isinstance(data, str):
        return Refusal(site, data)
    try:
        return answer_of(data, site, kinds_of_messages())
    except WireError as e:
        return Refusal(site, f"its answer cannot be read: {e}")


def _same(one: Message, other: Message) -> bool:
    """Whether two messages hold the very same tensors, unchanged, so that their bytes are equal."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    ours, theirs = list(leaves(one)), list(leaves(other))
    return len(ours) == len(theirs) and all(map(_equal, ours, theirs))


def _equal(one: Leaf, other: Leaf) -> bool:
    same = one.tensor is other.tensor or (one.plain and other.plain and torch.equal(one.tensor, other.tensor))
    return same and one.name == other.name
