"""Requests and answers as bytes: what goes with a message, and the message (`fedcore.messages.encoding`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fedcore.messages.agreement import Agreement
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.encoding import Kinds, WireError, decoded, decoded_head, encoded_head, encoded_message, readable
from fedcore.messages.message import Empty, Message
from fedcore.messages.metric_names import MOST_METRICS, is_metric
from fedcore.messages.request import Counted, Request
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round

LONGEST_REASON = 500
"""Characters of a refusal that are read."""
LONGEST_NAME = 255
"""Characters of a word, a site's name and a run's."""


def request_bytes(request: Request) -> bytes:
    return request_head(request) + encoded_message(request.message)


def request_head(request: Request) -> bytes:
    """The bytes that come before those of the message, which may be the same for several sites."""
    head = {
        "site": request.site, "word": request.word, "turn": dataclasses.astuple(request.turn), "run": request.run,
        "recipe": request.recipe,
        "counted": request.counted and dataclasses.astuple(request.counted),
        "agreement": request.agreement and dataclasses.asdict(request.agreement),
    }  # fmt: skip
    return encoded_head(head)


def request_of(data: bytes, kinds: Kinds) -> Request:
    """The inverse of `request_bytes`.

    Raises:
        WireError: The bytes are no request, or name a kind of message that is not among `kinds`.
    """
    return _request(*decoded(data, kinds))


def request_without_message(data: bytes) -> Request:
    """A request with an empty message: no kind needs to be known, and the message may be damaged. Raises WireError."""
    return _request(decoded_head(data), Empty())


def _request(head: Mapping[str, Any], message: Message) -> Request:
    with readable("request"):
        counted = None if head["counted"] is None else Counted(*_typed(head["counted"], int, bool))
        agreement = None if head["agreement"] is None else _agreement(head["agreement"])
        names = site, word, run, recipe = _typed([head[key] for key in ("site", "word", "run", "recipe")], *[str] * 4)
        if max(map(len, names)) > LONGEST_NAME:
            raise WireError(f"a name sent with its message has more than {LONGEST_NAME} characters")
        return Request(site, word, message, _round(head["turn"]), counted, agreement, run, recipe)


def answer_bytes(answer: Answer) -> bytes:
    """What a site sends; of a refusal its sentence, never its cause."""
    if isinstance(answer, Refusal):
        return encoded_head({"site": answer.site, "refusal": answer.reason}) + encoded_message(Empty())
    fields = {name: getattr(answer, name) for name in ("site", "examples", "metrics", "seconds", "keeps")}
    return encoded_head(fields | {"reveals": answer.reveals.name}) + encoded_message(answer.message)


def answer_of(data: bytes, site: str, kinds: Kinds) -> Answer:
    """The inverse of `answer_bytes`, of an answer that came from `site`, as the transport knows.

    Raises:
        WireError: As `request_of`, or the answer names another site.
    """
    head, message = decoded(data, kinds)
    with readable("answer"):
        (named,) = _typed([head["site"]], str)
        if named != site:
            raise WireError("it names a different site from the one that sent it")
        if "refusal" in head:
            (reason,) = _typed([head["refusal"]], str)
            return Refusal(site, printable(reason))
        examples, keeps, reveals = _typed([head[key] for key in ("examples", "keeps", "reveals")], int, bool, str)
        metrics = {name: _finite(value) for name, value in head["metrics"].items()}
        if len(metrics) > MOST_METRICS or not all(map(is_metric, metrics)):
            raise WireError("it has too many metrics, or a metric with an invalid name")
        return Contribution(site, message, examples, metrics, _finite(head["seconds"]), Reveals[reveals], keeps)


def _agreement(tree: Mapping[str, Any]) -> Agreement:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()}
    agreement = Agreement(**values)
    lists = all(type(values) is tuple for values in (agreement.classes, agreement.sites, agreement.size))
    texts = all(isinstance(name, str) for name in (*agreement.classes, *agreement.sites, agreement.start))
    numbers = all(type(n) is int for n in (*agreement.size, agreement.channels, agreement.mask_classes))
    if not lists or not texts or not numbers:
        raise WireError("its agreement has a value of a wrong type")
    return agreement


def _round(values: Any) -> Round:
    turn = Round(*_typed(values, int, int, int))
    if turn.index < 0 or turn.count < 0:
        raise WireError("its round is negative")
    return turn


def _typed(values: Any, *kinds: type) -> list[Any]:
    if not isinstance(values, list | tuple) or [type(v) for v in values] != [*kinds]:
        raise WireError("a value sent with its message has a wrong type")
    return list(values)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WireError("a number sent with its message is not finite")
    return float(value)


def printable(text: str) -> str:
    """A sentence of another process, for a terminal: no control characters, not longer than a few lines."""
    return "".join(c if c.isprintable() else " " for c in text)[:LONGEST_REASON]
