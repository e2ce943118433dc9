"""What an answer of a site must be before it is merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from torch import Tensor

from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, hints
from fedcore.training.local_trainer import implements


def answer_error(part: Any, state: Any, message: Message) -> str | None:
    """What is wrong with a message that a site sent for an algorithm or an exchange; None: it can be merged.

    It must be of the type that `visit` (of an exchange: `collect`) is annotated to return. A part whose messages hold
    more than weights has a method `error_of(state, message)`, which checks names, shapes and numbers by its part of the
    server's state.
    """
    kind = returned_by(getattr(part, "visit", None)) or returned_by(getattr(part, "collect", None))
    error = None if kind is None else kind_error(message, kind)
    if error is None and implements(part, "error_of"):
        error = part.error_of(state, message)
    return error


def kind_error(message: Message, kind: type[Message]) -> str | None:
    if isinstance(message, kind):
        return None
    return f"it holds {type(message).__name__} instead of the requested {kind.__name__}"


def returned_by(method: Any) -> type[Message] | None:
    """The type of message that a method is annotated to return, by itself or in a contribution; None: no annotation."""
    annotated = hints(method).get("return")
    kind = get_args(annotated)[0] if get_origin(annotated) is Contribution else annotated
    return kind if isinstance(kind, type) and issubclass(kind, Message) else None


def tensors_error(sent: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """The first tensor whose name, shape or type is not the server's. Sites may send a part of them."""
    for name, t in sent.items():
        there = expected.get(name)
        if there is None or there.shape != t.shape:
            at_server = "missing" if there is None else tuple(there.shape)
            return f"{name} has shape {tuple(t.shape)}, and at the server it is {at_server}"
        if there.dtype != t.dtype:
            return f"{name} has type {t.dtype}, and at the server it is {there.dtype}"
    return None
