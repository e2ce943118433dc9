"""Floats as int8 with one scale a row: a quarter of the bytes, and nowhere off by more than half a step."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8
from torch import Tensor


def to_int8(rows: Float[Tensor, "n *rest"]) -> tuple[Int8[Tensor, "n *rest"], Float[Tensor, " n"]]:
    """Levels in [-127, 127] and each row's step, the 127th part of its greatest number."""
    step = rows.abs().flatten(1).amax(1).clamp_min(1e-12) / 127
    return (rows / _per_row(step, rows)).round().to(torch.int8), step.float()


def from_int8(levels: Int8[Tensor, "n *rest"], step: Float[Tensor, " n"]) -> Float[Tensor, "n *rest"]:
    """What `to_int8` was given, to half a step."""
    return levels.float() * _per_row(step, levels)


def _per_row(step: Tensor, rows: Tensor) -> Tensor:
    return step.view(-1, *[1] * (rows.dim() - 1))
