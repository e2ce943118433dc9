"""State of a module that its `state_dict()` does not have: buffers that are not persistent, and Python attributes.

It is stored nowhere, so a resumed run would lack it; and one module visits all sites of a process, so it would move
from site to site, unseen by policy and audit log. So a visit that changes it is refused, and it is put back after each
visit. What need not last is declared in a class attribute `scratch`, such as `scratch = ("cache",)`: names of
attributes, buffers or submodules that a visit may change.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from fedcore.errors import InputError, Refused
from fedcore.training.snapshots import CONTAINERS, SCALARS, Registered, Snapshot, is_followed, snapshot

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_FRAMEWORK = (frozenset(vars(LightningModule())) | {"_hparams"}) - {*_HOOKS}
"""Attributes of torch and Lightning; hooks that a visit leaves behind would act at the next site."""
_ATTRIBUTES, _PARAMETERS, _BUFFERS, _MODULES = "attributes", "_parameters", "_buffers", "_modules"
_SHOWN = 3
"""Names in a refusal."""
Place = tuple[str, str]
"""Where a value is held (attributes, or a registry of torch), and its name."""


class UnsavedState:
    """What a module and the settings of local callbacks hold beside `state_dict()`, as it was when this was made."""

    def __init__(self, module: nn.Module, settings: Sequence[Any] = ()):
        """Raises InputError where `scratch` of a class is no tuple of names."""
        self._made_of = module, settings
        saved = [*module.modules(), *module.parameters()]
        saved += [part._buffers[name] for part in module.modules() for name in _persistent(part)]
        outside = frozenset(map(id, saved))
        scratch = {id(part) for of in module.modules() for part in _scratch_modules(of)}
        self._parts = [
            _Part(part, path, _snapshots(part, outside), _scratch_names(part), id(part) in scratch)
            for path, part in module.named_modules()
        ]
        followed = [each for each in settings if hasattr(each, "__dict__")]
        self._parts += [_Part(each, "", _snapshots(each, outside), _scratch_names(each)) for each in followed]
        kinds = dict[type, frozenset[str]]()
        for each in (*module.modules(), *followed):
            for kind in filter(is_followed, type(each).__mro__):
                kinds[kind] = kinds.get(kind, frozenset()) | _scratch_names(each)
        self._parts += [_Part(kind, "", _snapshots(kind, outside), names) for kind, names in kinds.items()]

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process makes its own, of what it is sent."""
        self.restore()
        return UnsavedState, self._made_of

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """As it was at the beginning and at the end. Raises Refused at the end where something else than scratch
        changed inside."""
        self.restore()
        try:
            yield
        except BaseException:
            self.restore()
            raise
        if changed := self.restore():
            raise _refusal(changed)

    def restore(self) -> list[tuple[_Part, str]]:
        """Puts back what changed, and returns it without what is declared as scratch."""
        found = []
        for part in self._parts:
            for place in part.changed():
                part.restore(place)
                if not part.may_change(place[1]):
                    found.append((part, place[1]))
        return found


@dataclass(frozen=True)
class _Part:
    """The module, a submodule of it, the settings of a local callback, or a class of these."""

    owner: Any
    path: str
    """In the module; empty for the module itself."""
    values: dict[Place, Snapshot]
    scratch: frozenset[str]
    """Names that may change."""
    is_scratch: bool = False
    """Whether all of it may change."""

    def changed(self) -> list[Place]:
        """What is new, is gone, or has another value."""
        now = _values(self.owner)
        changed = [at for at, value in now.items() if at not in self.values or not self.values[at].equals(value)]
        return changed + [at for at in self.values if at not in now]

    def restore(self, place: Place) -> None:
        registry, name = place
        if isinstance(self.owner, type):
            if place in self.values:
                setattr(self.owner, name, self.values[place].restored())
            else:
                delattr(self.owner, name)
            return
        held = vars(self.owner) if registry == _ATTRIBUTES else vars(self.owner)[registry]
        if place in self.values:
            held[name] = self.values[place].restored()
        else:
            del held[name]
            if registry == _BUFFERS:
                self.owner._non_persistent_buffers_set.discard(name)

    def may_change(self, name: str) -> bool:
        """Whether it is declared as scratch, or follows from other state."""
        kind = _kind_of(self.owner)
        return self.is_scratch or name in self.scratch or isinstance(getattr(kind, name, None), cached_property)

    def shown(self, name: str) -> str:
        """The attribute with its class. A name that was made in the visit and is in no code could hold data."""
        kind = _kind_of(self.owner)
        known = any(name == of for _, of in self.values) or name in _names_in_code(kind)
        shown = f"{kind.__name__}.{name}" if known else f"an attribute that a visit adds to {kind.__name__}"
        return f"{shown} ({self.path})" if self.path else shown


def _refusal(changed: Sequence[tuple[_Part, str]]) -> Refused:
    names = list(dict.fromkeys(part.shown(name) for part, name in changed))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    every = (f"{part.path or _kind_of(part.owner).__name__}: {name}" for part, name in changed)
    return Refused(
        f"the visit changed {', '.join(names[:_SHOWN])}{more}, which {'are' if len(names) > 1 else 'is'} in no "
        "state_dict() and would be lost when the run is resumed: register what must last as a persistent buffer, and "
        'name what need not last in a class attribute, scratch = ("name",), which is reset after each visit',
        details=f"changed: {', '.join(every)}",
    )


def _values(owner: Any) -> dict[Place, Any]:
    """What is compared; of registered tensors that are saved, only that they are there."""
    own = vars(owner)
    if isinstance(owner, type):
        return {(_ATTRIBUTES, name): value for name, value in own.items() if _is_data(name, value)}
    if not isinstance(owner, nn.Module):
        return {(_ATTRIBUTES, name): value for name, value in own.items()}
    found = {(_ATTRIBUTES, name): value for name, value in own.items() if name not in _FRAMEWORK}
    for registry in (_PARAMETERS, _BUFFERS, _MODULES):
        found |= {(registry, name): value for name, value in own[registry].items()}
    return found


def _is_data(name: str, value: Any) -> bool:
    """Whether an attribute of a class may be state: it is no method, no property and none of Python's own."""
    return not name.startswith("__") and isinstance(value, (*SCALARS, *CONTAINERS, Tensor, np.ndarray))


def _kind_of(owner: Any) -> type:
    return owner if isinstance(owner, type) else type(owner)


def _snapshots(owner: Any, outside: frozenset[int]) -> dict[Place, Snapshot]:
    saved = {(_BUFFERS, name) for name in _persistent(owner)} if isinstance(owner, nn.Module) else set[Place]()
    return {
        place: Registered(value) if place[0] == _PARAMETERS or place in saved else snapshot(value, outside)
        for place, value in _values(owner).items()
    }


def _persistent(part: nn.Module) -> list[str]:
    return [name for name in part._buffers if name not in part._non_persistent_buffers_set]


def _scratch_names(owner: Any) -> frozenset[str]:
    """Declared names, and attributes that torch's hooks compute from parameters (weight norm, pruning)."""
    kind = type(owner)
    names = getattr(kind, "scratch", ())
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f'{kind.__name__}.scratch must be a tuple of names, such as ("cache",)')
    hooks = owner._forward_pre_hooks.values() if isinstance(owner, nn.Module) else ()
    computed = {getattr(hook, "name", None) or getattr(hook, "_tensor_name", None) for hook in hooks}
    return frozenset(names) | {name for name in computed if isinstance(name, str)}


def _scratch_modules(part: nn.Module) -> Iterator[nn.Module]:
    """All below the submodules that `part` declares as scratch."""
    for name in _scratch_names(part) & part._modules.keys():
        if (child := part._modules[name]) is not None:
            yield from child.modules()


def _names_in_code(kind: type) -> frozenset[str]:
    """Names that the methods of a class use."""
    functions = (inspect.unwrap(f) for of in kind.__mro__ for f in vars(of).values() if callable(f))
    codes = [f.__code__ for f in functions if hasattr(f, "__code__")]
    names = set[str]()
    while codes:
        code = codes.pop()
        names |= {*code.co_names}
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return frozenset(names)
