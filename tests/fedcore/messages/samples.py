"""A message of every kind that the kit defines, made from what its fields declare."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

from fedcore.messages.encoding import kinds_of_messages
from fedcore.messages.message import Message, Weights, hints

PACKAGES = ("fedcore", "fedssl", "fedgen", "fedtune")
ODD = {
    "z": torch.arange(6.0).reshape(2, 3).T, "bool": torch.tensor([True, False]), "int8": torch.ones(2).char(),
    "half": torch.tensor([1.5]).half(), "bf16": torch.tensor([[2.5]]).bfloat16(), "count": torch.tensor(7),
    "empty": torch.zeros(0, 4), "a/b": torch.tensor(0.1), "": torch.ones(1).double(),
}  # fmt: skip
"""Tensors of every shape and type that may trouble a file, whose names are not sorted."""
_PLAIN: dict[Any, Any] = {bool: True, int: -3, float: 0.1, str: "Röntgen\n"}
_DTYPES = (torch.float32, torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool)


def kinds() -> dict[str, type[Message]]:
    """All kinds of the four packages; others that tests define are left out."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)
    return {name: kind for name, kind in kinds_of_messages().items() if name.startswith(PACKAGES)}


def sample(kind: type[Message]) -> Message:
    sizes: dict[str, int] = {}
    values = {}
    for f in dataclasses.fields(kind):
        values[f.name] = _value(hints(kind)[f.name], sizes)
    return kind(**values)


def _value(hint: Any, sizes: dict[str, int]) -> Any:
    if hint is Message:
        return Weights(dict(ODD))
    if isinstance(hint, type) and issubclass(hint, Message):
        return sample(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if get_origin(hint) is tuple:
        return (_PLAIN[get_args(hint)[0]],) * 2
    if get_origin(hint) is dict:
        return dict(ODD)
    if hint is Tensor:
        return torch.arange(3.0)
    shape = [size for axis in hint.dim_str.split() for size in _sizes(axis, sizes)]
    found = (torch.zeros(shape, dtype=dtype) for dtype in _DTYPES)
    return next(t for t in found if isinstance(t, hint))


def _sizes(axis: str, sizes: dict[str, int]) -> list[int]:
    if axis.isdigit():
        return [int(axis)]
    if axis.startswith("*"):
        return [5, 2]
    return [sizes.setdefault(axis, 3 + len(sizes))]


def same_message(a: Any, b: Any) -> bool:
    """Equal in kinds, order of names, types, shapes and bits."""
    if isinstance(a, Message):
        fields = dataclasses.fields(a)
        return type(a) is type(b) and all(same_message(getattr(a, f.name), getattr(b, f.name)) for f in fields)
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same_message(a[name], b[name]) for name in a)
    return type(a) is type(b) and a == b
