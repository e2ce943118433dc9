"""A Python value as it was: compared later, and put back.

Tensors and arrays are copied; lists, dicts and objects are followed to what they hold. What belongs to a library (a
transform of MONAI, a generator of random numbers, a function) is taken as one thing, which changes only if another
takes its place.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import is_dataclass
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SCALARS = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.device, MethodType)
"""Compared by value; bound methods are made anew each time they are looked up."""
CONTAINERS = (list, tuple, deque, set, frozenset, dict, SimpleNamespace)
_LIBRARIES = frozenset(
    {"diffusers", "lightly", "lightning_fabric", "monai", "numpy", "pytorch_lightning", "torch", "torchmetrics",
     "torchvision"}
) | sys.stdlib_module_names  # fmt: skip


class Snapshot(ABC):
    """A value at a time."""

    constant = True
    """Whether no part of it can change without another object in its place."""

    def __init__(self, value: Any):
        self.value = value

    @abstractmethod
    def equals(self, value: Any) -> bool:
        """Whether `value` is as this one was."""

    @abstractmethod
    def restored(self) -> Any:
        """The same object, with its content put back."""


class Registered(Snapshot):
    """Something that is saved elsewhere: it may change, but not disappear."""

    def equals(self, value: Any) -> bool:
        return True

    def restored(self) -> Any:
        return self.value


class _Opaque(Snapshot):
    """A scalar, or something whose content is not looked at."""

    def equals(self, value: Any) -> bool:
        if value is self.value:
            return True
        if type(value) is not type(self.value) or not isinstance(value, SCALARS):
            return False
        return bool(value == self.value or (value != value and self.value != self.value))  # or both are NaN

    def restored(self) -> Any:
        return self.value


class _Numbers(Snapshot):
    """A tensor or an array. Numbers are compared, since a write through `.data` is seen by no counter of torch."""

    constant = False

    def __init__(self, value: Any):
        super().__init__(value)
        self.copy = _copy(value)

    def equals(self, value: Any) -> bool:
        if not isinstance(value, Tensor | np.ndarray) or isinstance(value, Tensor) != isinstance(self.copy, Tensor):
            return False
        if value.shape != self.copy.shape or value.dtype != self.copy.dtype:
            return False
        if isinstance(value, np.ndarray):
            return value.tobytes() == self.copy.tobytes()
        now = value.detach().to(self.copy.device)
        return torch.equal(now, self.copy) or bool(((now == self.copy) | (now.isnan() & self.copy.isnan())).all())

    def restored(self) -> Any:
        if not self.equals(self.value):
            if isinstance(self.value, Tensor):
                self.value.data = _copy(self.copy)
            else:
                self.value[...] = self.copy
        return self.value


class _Container(Snapshot):
    """A list, tuple, deque, set or dict, or an object by its attributes."""

    def __init__(self, value: Any, known: dict[int, Snapshot], outside: frozenset[int]):
        super().__init__(value)
        known[id(value)] = self
        self.parts = {key: _taken(part, known, outside) for key, part in _parts(value).items()}
        self._open = False
        """While its parts are compared or put back: it may hold itself."""
        frozen = isinstance(value, tuple | frozenset) or (is_dataclass(value) and _is_frozen(value))
        self.constant = frozen and all(part.constant for part in self.parts.values())

    def equals(self, value: Any) -> bool:
        if self._open:
            return value is self.value
        if type(value) is not type(self.value):
            return False
        if self.constant and value is self.value:
            return True
        if not self.parts and isinstance(value, dict):  # the hooks of most modules
            return not value
        now = _parts(value)
        if now.keys() != self.parts.keys():
            return False
        self._open = True
        try:
            return all(part.equals(now[key]) for key, part in self.parts.items())
        finally:
            self._open = False

    def restored(self) -> Any:
        if self._open or self.equals(self.value):
            return self.value
        self._open = True
        try:
            _fill(self.value, {key: part.restored() for key, part in self.parts.items()})
        finally:
            self._open = False
        return self.value


def snapshot(value: Any, outside: frozenset[int] = frozenset()) -> Snapshot:
    """The value as it is now; objects whose `id` is among `outside` are not followed."""
    return _taken(value, {}, outside)


def _taken(value: Any, known: dict[int, Snapshot], outside: frozenset[int]) -> Snapshot:
    if isinstance(value, SCALARS) or id(value) in outside:
        return _Opaque(value)
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, Tensor | np.ndarray):
        known[id(value)] = _Numbers(value)
        return known[id(value)]
    followed = isinstance(value, nn.Module) or (hasattr(value, "__dict__") and is_followed(type(value)))
    if isinstance(value, CONTAINERS) or (followed and not isinstance(value, type)):
        return _Container(value, known, outside)
    return _Opaque(value)


def is_followed(kind: type) -> bool:
    """Whether it is a class of the kit or of a recipe's own code, and not of a library."""
    return kind.__module__.partition(".")[0] not in _LIBRARIES


def _parts(value: Any) -> Mapping[Hashable, Any]:
    """What a container holds, in order: by index, key or name; of a set its elements."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple | deque):
        return dict(enumerate(value))
    return dict.fromkeys(value) if isinstance(value, set | frozenset) else vars(value)


def _fill(value: Any, parts: dict[Any, Any]) -> None:
    """Makes these the parts of a container; a tuple keeps the objects that it has."""
    if isinstance(value, list | deque):
        value.clear()
        value.extend(parts.values())
    elif not isinstance(value, tuple | frozenset):
        content = value if isinstance(value, dict | set) else vars(value)
        content.clear()
        content.update(parts)


def _is_frozen(value: Any) -> bool:
    return bool(type(value).__dataclass_params__.frozen)


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value.copy()
