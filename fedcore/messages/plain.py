"""Plain values in messages (numbers, texts, tuples of them), as tensors of bytes."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

from fedcore.files.reading import parse_json

Plain = bool | int | float | str | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
_SINGLE = (bool, int, float, str)


def is_plain(value: Any) -> bool:
    """Whether a field may hold `value` next to tensors and messages."""
    if isinstance(value, tuple):
        return all(isinstance(item, _SINGLE) for item in value)
    return isinstance(value, _SINGLE)


def to_tensor(value: Plain) -> Tensor:
    """The value as JSON in UTF-8, one byte a number; the inverse of `to_plain`."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def to_plain(tensor: Tensor, hint: Any) -> Plain:
    """The value that `to_tensor` was given, of the type that the field declares.

    Raises:
        ValueError: The tensor holds no JSON, or a value of another type.
    """
    if tensor.dtype != torch.uint8 or tensor.dim() != 1:
        raise ValueError("a plain value must be a vector of bytes")
    value = parse_json(bytes(tensor.tolist()).decode())
    if get_origin(hint) is tuple:
        (kind, _) = get_args(hint)
        if not isinstance(value, list) or not all(_of(item, kind) for item in value):
            raise ValueError("a plain value must be a list of the declared type")
        return tuple(value)
    if not _of(value, hint):
        raise ValueError("a plain value must be of the declared type")
    plain: Plain = value
    return plain


def _of(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return type(value) is kind
