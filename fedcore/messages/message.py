"""What sites and server send: frozen dataclasses whose leaves are tensors.

A field's type says its shape, its `Reveals` mark says what an eavesdropper learns. Everything else
(bytes on the wire, the names in a file, the policy check) is derived from the fields, so a method
that sends something new declares one dataclass and writes no serialisation.

Conventions kept everywhere: images lie in [-1, 1], channels first, `(n, c, *space)`; spacing in mm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, get_type_hints

from torch import Tensor

from fedcore.errors import InputError
from fedcore.messages.plain import is_plain, to_plain, to_tensor
from fedcore.messages.reveals import NO_LEVELS, WEIGHTS, Levels, Reveals
from fedcore.messages.tensors import Tensors


@dataclass(frozen=True)
class Message:
    """Base of everything sent. A field is a tensor, a dict of tensors, a plain value (`fedcore.messages.plain`) or a
    further message."""

    recipients: ClassVar[str] = "server"
    """Who gets the tensors as the site sent them, for the audit file; averages of weights go to all sites."""


@dataclass(frozen=True)
class Empty(Message):
    """Nothing: what is sent where a role is not filled."""


@dataclass(frozen=True)
class Weights(Message):
    tensors: Tensors = field(metadata=WEIGHTS)


@dataclass(frozen=True)
class Leaf:
    """One tensor of a message with its name, `field/key`, what it reveals, and the kind of message it is of."""

    name: str
    tensor: Tensor
    reveals: Reveals
    kind: str
    recipients: str
    plain: bool = False
    """Whether it holds a plain value (`fedcore.messages.plain`), whose length is no shape."""

    @property
    def nbytes(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()


def leaves(message: Message, prefix: str = "", levels: Levels = NO_LEVELS) -> Iterator[Leaf]:
    """Every tensor of `message`, nested messages included; `levels` raises what single tensors of a dict reveal.

    Raises:
        TypeError: A field holds something else than tensors and messages, or declares no `reveals`.
    """
    for f in dataclasses.fields(message):
        value, name = getattr(message, f.name), f"{prefix}{f.name}"
        if isinstance(value, Message):
            yield from leaves(value, f"{name}/", levels)
            continue
        if "reveals" not in f.metadata:
            raise TypeError(f"{type(message).__name__}.{f.name} must declare what it reveals, e.g. metadata=WEIGHTS")
        level, kind = Reveals(f.metadata["reveals"]), (type(message).__name__, message.recipients)
        if isinstance(value, Tensor):
            yield Leaf(name, value, level, *kind)
        elif isinstance(value, Mapping):
            yield from (Leaf(f"{name}/{k}", t, max(level, levels.get(k, level)), *kind) for k, t in value.items())
        elif is_plain(value):
            yield Leaf(name, to_tensor(value), level, *kind, plain=True)
        else:
            raise TypeError(f"{type(message).__name__}.{f.name} must hold tensors, found {type(value).__name__}")


def flatten(message: Message) -> Tensors:
    """Names every tensor `field` or `field/key`, the layout of a safetensors file."""
    return {leaf.name: leaf.tensor for leaf in leaves(message)}


def nbytes(message: Message) -> int:
    return sum(leaf.nbytes for leaf in leaves(message))


def exposure(message: Message, levels: Levels = NO_LEVELS) -> Reveals:
    """The highest mark of any field that holds a tensor."""
    return max((leaf.reveals for leaf in leaves(message, levels=levels)), default=Reveals.WEIGHTS)


def declared(kind: type[Message]) -> Reveals:
    """The highest mark of any field that `kind` or a message inside it declares, whatever one will hold."""
    marks = [f.metadata["reveals"] for f in dataclasses.fields(kind) if "reveals" in f.metadata]
    inside = [declared(of) for of in hints(kind).values() if isinstance(of, type) and issubclass(of, Message)]
    return Reveals(max([*marks, *inside], default=Reveals.WEIGHTS))


def hints(thing: Any) -> dict[str, Any]:
    """The types that a class or a function names; none where they cannot be looked up."""
    try:
        return get_type_hints(thing)
    except (NameError, AttributeError, TypeError):
        return {}


Part = TypeVar("Part", bound=Message)


def weights_of(message: Message) -> Tensors:
    """The module's tensors inside a message or a server's state, however deep; none is an empty dict."""
    if isinstance(message, Weights):
        return message.tensors
    inner = [getattr(message, f.name) for f in dataclasses.fields(message)]
    return next((found for m in inner if isinstance(m, Message) and (found := weights_of(m))), {})


def replaced(message: Message, kind: type[Part], by: Callable[[Part], Message]) -> Message:
    """The message with every part of a kind replaced, however deep."""
    if isinstance(message, kind):
        return by(message)
    parts = {f.name: getattr(message, f.name) for f in dataclasses.fields(message)}
    return dataclasses.replace(
        message, **{name: replaced(part, kind, by) for name, part in parts.items() if isinstance(part, Message)}
    )


Sent = TypeVar("Sent", bound=Message)


def unflatten(like: Sent, tensors: Mapping[str, Tensor], prefix: str = "") -> Sent:
    """Rebuilds a message of the shape of `like` from `flatten`'s tensors; the inverse of `flatten`.

    Keys of a dict come from `tensors`, not from `like`: a pool of feature banks starts empty.

    Raises:
        InputError: A plain tensor field of `like` is not among `tensors`.
    """
    values: dict[str, Any] = {}
    types = hints(type(like))
    for f in dataclasses.fields(like):
        old, name = getattr(like, f.name), f"{prefix}{f.name}"
        if isinstance(old, Message):
            values[f.name] = unflatten(old, tensors, f"{name}/")
        elif isinstance(old, Tensor) or is_plain(old):
            if name not in tensors:
                raise InputError(f"the saved {type(like).__name__} lacks {name!r}; it was written by another method")
            values[f.name] = tensors[name] if isinstance(old, Tensor) else to_plain(tensors[name], types[f.name])
        else:
            values[f.name] = {k.removeprefix(f"{name}/"): t for k, t in tensors.items() if k.startswith(f"{name}/")}
    return dataclasses.replace(like, **values)


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is infinite or NaN. A sum is ten times as fast as a look at every element; only a sum that is
    not finite needs that look."""
    return not tensor.is_floating_point() or bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
