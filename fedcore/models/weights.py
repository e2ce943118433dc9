"""Weights on disk: safetensors and their checksum, and the module that a description beside them builds.

The description may be wrong, by chance or by intent, and ask for terabytes. The weights are there and say how large the
module is, so it is first built without memory, on torch's meta device, and held against them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fedcore.errors import InputError
from fedcore.files.checksums import require_sums, write_sums
from fedcore.files.writing import write_atomically
from fedcore.messages.message import Tensors

Made = TypeVar("Made")


def save_weights(file: Path, module: nn.Module, targets: tuple[str, ...] = ()) -> None:
    """Writes a module's tensors, then the checksums of that file and of those `beside` it, which must be there."""
    write_atomically(file, safetensors.torch.save(apart(module.state_dict())))
    write_sums(file.parent, [file.name, *targets])


def apart(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors as a safetensors file takes them; those that share memory (tied weights) as copies."""
    seen: set[int] = set()
    found = {}
    for name, t in tensors.items():
        whole = t.detach().cpu().contiguous()
        place = whole.untyped_storage().data_ptr()
        found[name] = whole.clone() if place in seen else whole
        seen.add(place)
    return found


def read_weights(file: Path, advice: str, targets: tuple[str, ...] = ()) -> Tensors:
    """What `save_weights` wrote.

    Raises:
        InputError: It is missing, or it or what lies `beside` it is not what was written; `advice` ends the text.
    """
    require_sums(file.parent, [file.name, *targets], advice)
    try:
        tensors: Tensors = safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{file} is no safetensors file; {advice}") from e
    return tensors


def built_for(tensors: Mapping[str, Tensor], build: Callable[[], Made], network: Callable[[Made], nn.Module]) -> Made:
    """What `build` makes, with these weights, once its network is known to have their names and shapes.

    Raises:
        ValueError: It has others, or cannot be built; the text says why.
    """
    try:
        with torch.device("meta"), _no_more_than(len(tensors)):
            planned = network(build()).state_dict()
    except InputError:
        raise
    except Exception as e:  # what constructors raise of wrong values is theirs: any kind
        raise ValueError(f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else 'no reason given'}") from e
    if wrong := differences(planned, tensors):
        raise ValueError(f"another architecture ({len(wrong)} tensors differ, e.g. {wrong[0]})")
    made = build()
    network(made).load_state_dict(tensors)
    return made


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Tensors that are missing, unknown or of another shape, in words."""
    words = []
    for name in sorted(wanted.keys() | found.keys()):
        shapes = [tuple(side[name].shape) if name in side else "missing" for side in (found, wanted)]
        if shapes[0] != shapes[1]:
            words.append(f"{name}: {shapes[0]} there, {shapes[1]} here")
    return words


@contextmanager
def _no_more_than(tensors: int) -> Iterator[None]:
    """A network of millions of layers takes no memory for its tensors here, but time: it is stopped on the way.

    Some layers replace a parameter by others (weight norm), so there may be more on the way than at the end.
    """
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > 4 * tensors + 64:
            raise ValueError(f"more than {count - 1} parameters, where the weights have {tensors} tensors")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()
