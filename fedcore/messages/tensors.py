"""Tensors by name, as files and bytes hold them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

Tensors = dict[str, Tensor]


def for_safetensors(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors in the form that safetensors accepts: on the CPU, contiguous, and copied where two share memory."""
    seen: set[int] = set()
    found = {}
    for name, t in tensors.items():
        whole = t.detach().cpu().contiguous()
        place = whole.untyped_storage().data_ptr()
        found[name] = whole.clone() if place in seen else whole
        seen.add(place)
    return found
