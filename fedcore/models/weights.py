"""Weights on disk: a safetensors file with its checksum, and modules built from a description to load it.

The description may be wrong, by accident or on purpose, and describe a network of terabytes. So the module is first
built without memory, on torch's meta device, and its names and shapes are compared with those of the weights.
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
from fedcore.messages.tensors import Tensors, for_safetensors

Made = TypeVar("Made")


def save_weights(file: Path, module: nn.Module, other_files: tuple[str, ...] = ()) -> None:
    """Writes a module's tensors, then the checksums of this file and of `other_files`, existing files of its folder."""
    write_atomically(file, safetensors.torch.save(for_safetensors(module.state_dict())))
    write_sums(file.parent, [file.name, *other_files])


def read_weights(file: Path, advice: str, other_files: tuple[str, ...] = ()) -> Tensors:
    """The tensors that `save_weights` wrote.

    Raises:
        InputError: The file is missing, or a checksum of it or of `other_files` differs; the text ends with `advice`.
    """
    require_sums(file.parent, [file.name, *other_files], advice)
    try:
        tensors: Tensors = safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{file} is not a safetensors file; {advice}") from e
    return tensors


def build_with_weights(
    tensors: Mapping[str, Tensor], build: Callable[[], Made], network: Callable[[Made], nn.Module]
) -> Made:
    """The result of `build`, with these weights in its network; it is built in memory only if names and shapes agree.

    Raises:
        ValueError: Names or shapes differ, or `build` fails; the text gives the reason.
    """
    try:
        with torch.device("meta"), _max_parameters(4 * len(tensors) + 64, len(tensors)):
            planned = network(build()).state_dict()
    except InputError:
        raise
    except Exception as e:  # constructors raise errors of any kind for wrong values
        raise ValueError(f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else 'no reason given'}") from e
    if wrong := differences(planned, tensors):
        raise ValueError(f"another architecture ({len(wrong)} tensors differ, e.g. {wrong[0]})")
    made = build()
    network(made).load_state_dict(tensors)
    return made


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """A line for each tensor that is missing, unknown or of another shape."""
    lines = []
    for name in sorted(wanted.keys() | found.keys()):
        there, here = (tuple(side[name].shape) if name in side else "missing" for side in (found, wanted))
        if there != here:
            lines.append(f"{name}: {there} there, {here} here")
    return lines


@contextmanager
def _max_parameters(limit: int, tensors: int) -> Iterator[None]:
    """Stops the construction of a network of millions of layers: on the meta device it takes no memory, but time.

    The limit is above the number of tensors, because some layers replace a parameter by others (weight norm).
    """
    count = 0

    def check(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise ValueError(f"more than {limit} parameters, where the weights have {tensors} tensors")

    handle = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()
