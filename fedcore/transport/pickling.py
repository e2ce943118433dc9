"""How things travel between the processes of one run: as pickles, with what pickle itself leaves behind.

Only for a program and the worker processes it has started itself, on one machine (`fedcore.transport.workers`). What
comes from a site, a server or a file is never unpickled: see `fedcore.runs.checkpoint`.
"""

from __future__ import annotations

import importlib
import io
import marshal
import mmap
import pickle
import sys
from types import CellType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pack(thing: Any) -> bytes:
    """`thing` for another process; tensors and arrays are copied.

    Some travel otherwise than pickle would have it: a function without a name to import it by, which it refuses
    (`optimizer=lambda p: SGD(p, lr=0.1)`), as its code; a read-only map of a file, which it would copy, as the place
    it maps; a tensor as its numbers alone, which takes small ones a tenth of the time.

    Raises:
        Exception: Something in it cannot be pickled; of which kind depends on the thing.
    """
    buffer = io.BytesIO()
    _Packer(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(thing)
    return buffer.getvalue()


def unpack(data: bytes) -> Any:
    """The inverse of `pack`; the modules in which functions and classes were defined must be importable.

    Raises:
        Exception: A class, a module or a mapped file is not found here; of which kind depends on the thing.
    """
    return pickle.loads(data)  # noqa: S301 - made by `pack`, in the process that started this one or was started


class _Packer(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, FunctionType) and not _has_a_name(thing):
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
            code = marshal.dumps(thing.__code__)  # the same Python reads it
            return _function, (code, thing.__module__, thing.__defaults__, thing.__kwdefaults__, cells)
        if isinstance(thing, np.memmap) and _maps_its_file(thing):
            order = "C" if thing.flags.c_contiguous else "F"
            return np.memmap, (thing.filename, thing.dtype, "r", thing.offset, thing.shape, order)
        if type(thing) is Tensor and _plain(thing):
            return _tensor, (_numbers(thing), thing.dtype, tuple(thing.shape), thing.stride())
        return NotImplemented


def _has_a_name(function: FunctionType) -> bool:
    """Whether an import finds it, so that its name is enough."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _maps_its_file(array: np.memmap) -> bool:
    """Whether its offset can be trusted, which a slice has from the whole; and whether it can be opened again."""
    return isinstance(array.base, mmap.mmap) and array.mode == "r" and array.filename is not None


def _plain(tensor: Tensor) -> bool:
    """Whether its numbers, in the order in which they lie in memory, are all there is to it."""
    extent = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    on_cpu = tensor.device.type == "cpu" and tensor.layout == torch.strided
    return on_cpu and not tensor.requires_grad and 0 < tensor.numel() == extent and not tensor.is_conj()


def _numbers(tensor: Tensor) -> np.ndarray:
    numbers: np.ndarray = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()
    return numbers


def _tensor(numbers: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """With its layout in memory, on which the choice of kernels hangs, and in memory aligned as torch's is."""
    return torch.from_numpy(numbers).clone().view(dtype).as_strided(shape, stride)


def _function(
    code: bytes, module: str, defaults: tuple[Any, ...] | None, keywords: dict[str, Any] | None, cells: list[Any]
) -> FunctionType:
    names = vars(importlib.import_module(module))
    made = FunctionType(marshal.loads(code), names, None, defaults, tuple(CellType(c) for c in cells))  # noqa: S302
    made.__kwdefaults__ = keywords
    return made
