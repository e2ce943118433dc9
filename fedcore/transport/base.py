"""What a transport must do: carry requests to sites and bring their answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from fedcore.messages.answer import Answer
from fedcore.messages.request import Request


@runtime_checkable
class Transport(Protocol):
    """A way to reach the sites. Who answered is what the transport knows, never what a message says."""

    def names(self) -> Sequence[str]:
        """The sites that can be reached."""

    def ask(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Answer]:
        """Answers in the order of the requests, whoever is first, so that sums over them are equal to the bit.

        Requests may be taken one by one, so that not all messages are in memory at a time. A site that gives no answer
        within `deadline` seconds is a Refusal.
        """

    def flush(self, names: Iterable[str]) -> None:
        """What these sites remember is on their disks when this returns; called before a round is committed."""
