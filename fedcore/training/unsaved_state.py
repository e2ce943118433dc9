"""What a module holds that its `state_dict()` does not: buffers that are not persistent, tensors in plain attributes.

One module visits all sites of a process. Its state is put into place at each of them; what is no part of the state
would walk from site to site, unseen by policy and audit file. So it is put back as it was before each visit.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn

_FRAMEWORK = frozenset(vars(LightningModule()))
"""Attributes that torch and Lightning keep themselves."""


class Unsaved:
    """A copy of what `state_dict()` leaves out. Tensors are found in attributes and in lists, tuples, deques and dicts
    of them; what other objects hold is not seen.
    """

    def __init__(self, module: nn.Module) -> None:
        self._held = [(part, _buffers(part), _attributes(part)) for part in module.modules()]

    def restore(self) -> None:
        """Puts all of it back as it was; what has come since is removed."""
        for part, buffers, attributes in self._held:
            for name, buffer in buffers.items():
                part._buffers[name] = _copy(buffer)
            for name, value in list(_own(part).items()):
                if name not in attributes:
                    if _tensors(value):
                        delattr(part, name)
                elif _tensors(value) or _tensors(attributes[name]):
                    setattr(part, name, _copy(attributes[name]))


def _buffers(part: nn.Module) -> dict[str, Tensor | None]:
    return {name: _copy(part._buffers[name]) for name in part._non_persistent_buffers_set if name in part._buffers}


def _attributes(part: nn.Module) -> dict[str, Any]:
    return {name: _copy(value) for name, value in _own(part).items()}


def _own(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in _FRAMEWORK}


def _tensors(value: Any) -> bool:
    """Whether it is a tensor or holds one."""
    if isinstance(value, dict):
        return any(map(_tensors, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, list | tuple | deque) and any(map(_tensors, value)))


def _copy(value: Any) -> Any:
    """Tensors and what holds them are copied; all else is the same object."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, deque, tuple):
        return type(value)(map(_copy, value))
    return {key: _copy(held) for key, held in value.items()} if type(value) is dict else value
