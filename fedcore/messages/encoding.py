"""Messages as bytes: a safetensors file, whose metadata is JSON.

Nothing received is unpickled, imported or executed. The JSON names kinds of messages; they are looked up among the
subclasses of `Message` that the approved recipe's own modules have defined, and every field must have the type that its
dataclass declares. So whoever reads must have built the recipe first: a fresh process knows no kinds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import safetensors.torch
import torch
from jaxtyping import jaxtyped
from safetensors import SafetensorError
from torch import Tensor

from fedcore.errors import InputError
from fedcore.files.reading import parse_json
from fedcore.messages.message import Message, flatten, hints
from fedcore.messages.plain import is_plain, to_plain
from fedcore.messages.tensors import Tensors, for_safetensors

FORMAT = 1
LARGEST = 8 << 30
"""Bytes of a request or an answer; a model of 500 million parameters takes 2 GiB."""
LONGEST_HEADER = 32 << 20
"""Bytes of the header of the file: names, shapes and the JSON."""
DEEPEST = 8
"""Messages in messages; an algorithm with an exchange, quantised, has 4."""
TYPES = frozenset((
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
))  # fmt: skip
"""Of tensors. Of others (complex, 8-bit floats) torch cannot tell whether they are finite."""
_KEY = "fedpretrain"
Kinds = Mapping[str, type[Message]]


class WireError(InputError):
    """Bytes that are no request or answer of this program; the text quotes nothing of them."""


def kinds_of_messages() -> dict[str, type[Message]]:
    """All kinds of messages that this process has defined, by module and name."""
    kinds = [Message]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {_name(kind): kind for kind in kinds}


def encoded(head: Mapping[str, Any], message: Message) -> bytes:
    """`head` is plain JSON that goes with the message."""
    tensors = {str(at): t for at, t in enumerate(flatten(message).values())}
    about = {"format": FORMAT, "head": head, "message": _tree(message, iter(range(len(tensors))))}
    return safetensors.torch.save(for_safetensors(tensors), {_KEY: json.dumps(about)})


def decoded(data: bytes, kinds: Kinds) -> tuple[dict[str, Any], Message]:
    """The inverse of `encoded`. Raises WireError."""
    if len(data) > LARGEST:
        raise WireError(f"it has {len(data)} bytes, at most {LARGEST} are read")
    with readable("message"):
        length = int.from_bytes(data[:8], "little")
        if length > min(LONGEST_HEADER, len(data)):
            raise WireError("its header is too long")
        about = parse_json(parse_json(data[8 : 8 + length].decode())["__metadata__"][_KEY])
        if about["format"] != FORMAT:
            raise WireError(f"its format is not {FORMAT}; install the same version on both sides")
        tensors = safetensors.torch.load(data)
        if not {t.dtype for t in tensors.values()} <= TYPES:
            raise WireError("it holds a tensor of a type that is not allowed")
        message = _built(about["message"], tensors, kinds, 0)
        if tensors:
            raise WireError("it holds tensors that its message does not name")
        head = about["head"]
        if not isinstance(head, dict):
            raise WireError("its head is not a JSON object")
        return head, message


def _tree(message: Message, places: Iterator[int]) -> dict[str, Any]:
    """Kinds and fields, each tensor by its number; dicts keep their order, on which sums over them depend."""
    parts: dict[str, Any] = {}
    for f in dataclasses.fields(message):
        value = getattr(message, f.name)
        if isinstance(value, Message):
            parts[f.name] = _tree(value, places)
        elif isinstance(value, Mapping):
            parts[f.name] = [[key, next(places)] for key in value]
        else:
            parts[f.name] = next(places)
    return {"kind": _name(type(message)), "parts": parts}


def _built(tree: Any, tensors: Tensors, kinds: Kinds, depth: int) -> Message:
    """Takes what it needs out of `tensors`."""
    if depth > DEEPEST:
        raise WireError(f"messages are nested deeper than {DEEPEST}")
    kind = kinds.get(tree["kind"])
    if kind is None:
        raise WireError("this recipe has no message of its kind; install the same version on both sides")
    fields, types = {f.name for f in dataclasses.fields(kind)}, hints(kind)
    if tree["parts"].keys() != fields:
        raise WireError(f"its fields are not those of {kind.__name__}; install the same version on both sides")
    values: dict[str, Any] = {}
    for name, part in tree["parts"].items():
        if isinstance(part, dict):
            values[name] = _built(part, tensors, kinds, depth + 1)
        elif isinstance(part, list):
            values[name] = {_text(key): tensors.pop(str(at)) for key, at in part}
            if len(values[name]) != len(part):
                raise WireError(f"{kind.__name__}.{name} names a tensor twice")
        else:
            tensor = tensors.pop(str(part))
            values[name] = tensor if _holds_tensor(types.get(name)) else to_plain(tensor, types.get(name))
    with jaxtyped("context"):  # axes of one name have one size in all fields
        wrong = [name for name, hint in types.items() if _is_shape(hint) and not isinstance(values[name], hint)]
    wrong += [name for name, value in values.items() if not _fits(value, types.get(name))]
    if wrong:
        raise WireError(f"{kind.__name__}.{wrong[0]} is not of the type, shape or dtype that it declares")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(value, dict):
        return hint is not None and getattr(hint, "__origin__", None) is dict
    if is_plain(value):
        return True  # `to_plain` has checked it
    try:
        return hint is None or isinstance(value, hint)
    except TypeError:  # a union or the like
        return True


def _holds_tensor(hint: Any) -> bool:
    return hint is Tensor or _is_shape(hint)


def _is_shape(hint: Any) -> bool:
    """Whether it is a tensor's type with its shape, of jaxtyping."""
    return hasattr(hint, "array_type")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise WireError("a name in it is not a text")
    return value


def _name(kind: type[Message]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Whatever goes wrong while bytes are read is a WireError that quotes nothing of them."""
    try:
        yield
    except WireError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as e:
        raise WireError(f"it is not a valid {what} ({type(e).__name__})") from e
    except (SafetensorError, InputError) as e:
        raise WireError(f"it is not a valid {what} ({type(e).__name__})") from e
