"""What the buffers of a module reveal, where they travel with its weights.

A parameter is a weight. So are the running statistics of a norm. Every other buffer could be anything (a bank of
features, a centre of them), so a module that lets one travel declares what it reveals::

    class Scale(nn.Module):
        reveals = {"mean": Reveals.STATISTICS, "square": Reveals.STATISTICS}

Names are those below the declaring module; `*` stands for any characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedcore.errors import InputError
from fedcore.messages.reveals import Levels, Reveals

_OF_NORMS = ("running_mean", "running_var", "num_batches_tracked")


def levels_of(module: nn.Module, travels: Callable[[str], bool]) -> Levels:
    """Names of the buffers that travel and reveal more than WEIGHTS, with their levels.

    Args:
        module: What is trained.
        travels: Whether the tensor of this name in its `state_dict()` leaves a site.

    Raises:
        InputError: A buffer travels of which no module declares what it reveals.
    """
    levels: dict[str, Reveals] = {}
    saved, declared = module.state_dict().keys(), dict(_declared(module))
    for name in [name for name in _buffers(module) if name in saved and travels(name)]:
        level = next((level for pattern, level in declared.items() if fnmatchcase(name, pattern)), None)
        if level is None:
            raise InputError(
                f"the buffer {name!r} of {type(module).__name__} would be sent as weights, but is neither a parameter "
                "nor a running statistic of a norm; remove it from `share`, or declare in its module what it reveals, "
                f"such as reveals = {{{name.rpartition('.')[2]!r}: Reveals.STATISTICS}}"
            )
        levels[name] = level
    return {name: level for name, level in levels.items() if level > Reveals.WEIGHTS}


def _buffers(module: nn.Module) -> Iterator[str]:
    """All but those of norms."""
    for prefix, part in module.named_modules():
        known = _OF_NORMS if isinstance(part, _NormBase) else ()
        yield from (_under(prefix, name) for name, _ in part.named_buffers(recurse=False) if name not in known)


def _declared(module: nn.Module) -> Iterator[tuple[str, Reveals]]:
    for prefix, part in module.named_modules():
        for name, level in getattr(part, "reveals", {}).items():
            yield _under(prefix, name), Reveals(level)


def _under(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
