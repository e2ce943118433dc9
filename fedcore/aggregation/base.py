"""Aggregation rules: they combine the contributions of a round into one set of tensors at the server.

Rules apply to everything that travels, buffers included: the running mean of a batch norm is averaged, and its integer
step counter stays an integer. Results have the dtypes that the sites sent.

A site may send only some of the tensors. Each tensor is combined over the sites that sent it; a tensor that no site
sent stays as it is at the server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.tensors import Tensors


@runtime_checkable
class Aggregator(Protocol):
    """Invariant to the order of the sites; with one site the result is what that site sent.

    `current` are the server's tensors, from which the sites started in this round.
    """

    def combine(self, contributions: Iterable[Contribution[Weights]], current: Tensors) -> Tensors: ...


def require_shape(site: str, name: str, sent: Tensor, like: Tensor) -> None:
    """Raises InputError where shapes differ; torch would broadcast a smaller tensor and give a wrong mean."""
    if sent.shape != like.shape:
        raise InputError(
            f"site {site!r} sent {name} of shape {tuple(sent.shape)}, others and the server have {tuple(like.shape)}; "
            "all sites must train the same architecture"
        )


def accumulator_dtype(t: Tensor) -> torch.dtype:
    """float32 or wider for floats; float64 for integers, which it represents exactly up to 2^53."""
    return torch.promote_types(t.dtype, torch.float32) if t.is_floating_point() else torch.float64


def to_dtype(t: Tensor, dtype: torch.dtype) -> Tensor:
    """In `dtype`; rounded to the nearest where that is an integer type."""
    return t.to(dtype) if dtype.is_floating_point else t.round().to(dtype)
