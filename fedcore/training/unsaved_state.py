"""Tensors of a module that its `state_dict()` does not have: buffers that are not persistent, and plain attributes.

One module visits all sites of a process. Its state is loaded for each site; tensors outside of the state would move
from site to site, unseen by policy and audit log. So their initial values are restored before each visit.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn

_FRAMEWORK = frozenset(vars(LightningModule()))
"""Attributes of torch and Lightning."""


class UnsavedState:
    """A copy of the tensors that are not in `state_dict()`.

    Tensors are found in attributes and in lists, tuples, deques and dicts of these; not in other objects.
    """

    def __init__(self, module: nn.Module) -> None:
        self._copies = [(part, _buffers(part), _attributes(part)) for part in module.modules()]

    def restore(self) -> None:
        """Restores the copies and removes attributes with tensors that are newer."""
        for part, buffers, attributes in self._copies:
            for name, buffer in buffers.items():
                part._buffers[name] = _copy(buffer)
            for name, value in list(_own(part).items()):
                if name not in attributes:
                    if _has_tensors(value):
                        delattr(part, name)
                elif _has_tensors(value) or _has_tensors(attributes[name]):
                    setattr(part, name, _copy(attributes[name]))


def _buffers(part: nn.Module) -> dict[str, Tensor | None]:
    return {name: _copy(part._buffers[name]) for name in part._non_persistent_buffers_set if name in part._buffers}


def _attributes(part: nn.Module) -> dict[str, Any]:
    return {name: _copy(value) for name, value in _own(part).items()}


def _own(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in _FRAMEWORK}


def _has_tensors(value: Any) -> bool:
    """Whether the value is a tensor or contains one."""
    if isinstance(value, dict):
        return any(map(_has_tensors, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, list | tuple | deque) and any(map(_has_tensors, value)))


def _copy(value: Any) -> Any:
    """Copies tensors and their containers; other objects are returned as they are."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, deque, tuple):
        return type(value)(map(_copy, value))
    return {key: _copy(held) for key, held in value.items()} if type(value) is dict else value
