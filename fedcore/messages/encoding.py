"""Messages as bytes: a head of JSON, which can be read alone, and a safetensors file, whose metadata is JSON.

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

FORMAT = 2
LARGEST = 8 << 30
"""Bytes of a request or an answer; a model of 500 million parameters takes 2 GiB."""
LONGEST_HEAD = 1 << 20
"""Bytes of the JSON that goes with a message."""
LONGEST_HEADER = 32 << 20
"""Bytes of the header of the safetensors file: names, shapes and the JSON."""
DEEPEST = 8
"""Messages in messages; an algorithm with an exchange, quantised, has 4."""
TYPES = frozenset((
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
))  # fmt: skip
"""Of tensors. Of others (complex, 8-bit floats) torch cannot tell whether they are finite."""
_KEY = "fedpretrain"
_LENGTH = 8
"""Bytes of the length of the head, which come first."""
Kinds = Mapping[str, type[Message]]


class WireError(InputError):
    """Bytes that are no request or answer of this program; the text quotes nothing of them."""


def kinds_of_messages() -> dict[str, type[Message]]:
    """All kinds of messages that this process has defined, by module and name."""
    kinds = [Message]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {_name(kind): kind for kind in kinds}


def encoded_head(head: Mapping[str, Any]) -> bytes:
    """`head` is plain JSON that goes with a message; what follows it is `encoded_message`."""
    text = json.dumps({"format": FORMAT} | dict(head)).encode()
    return len(text).to_bytes(_LENGTH, "little") + text


def encoded_message(message: Message) -> bytes:
    tensors = {str(at): t for at, t in enumerate(flatten(message).values())}
    about = _tree(message, iter(range(len(tensors))))
    return safetensors.torch.save(for_safetensors(tensors), {_KEY: json.dumps(about)})


def decoded_head(data: bytes) -> dict[str, Any]:
    """What goes with a message, without the message: no kind needs to be known. Raises WireError."""
    return _split(data)[0]


def decoded(data: bytes, kinds: Kinds) -> tuple[dict[str, Any], Message]:
    """Head and message. Raises WireError."""
    if len(data) > LARGEST:
        raise WireError(f"it has {len(data)} bytes, at most {LARGEST} are read")
    head, start = _split(data)
    with readable("message"):
        file = data[start:]
        length = int.from_bytes(file[:8], "little")
        if length > min(LONGEST_HEADER, len(file)):
            raise WireError("its header is too long")
        about = parse_json(parse_json(file[8 : 8 + length].decode())["__metadata__"][_KEY])
        tensors = safetensors.torch.load(file)
        if not {t.dtype for t in tensors.values()} <= TYPES:
            raise WireError("it holds a tensor of a type that is not allowed")
        message = _built(about, tensors, kinds, 0)
        if tensors:
            raise WireError("it holds tensors that its message does not name")
        return head, message


def _split(data: bytes) -> tuple[dict[str, Any], int]:
    """The head, and where the message begins."""
    with readable("message"):
        end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
        if end > min(LONGEST_HEAD, len(data)):
            raise WireError("its head is too long")
        head = parse_json(data[_LENGTH:end].decode())
        if head["format"] != FORMAT:
            raise WireError(f"its format is not {FORMAT}; install the same version on both sides")
        return {**head}, end


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
