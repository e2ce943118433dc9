"""How features are encoded to be sent: fp32, fp16, or int8 with one scale per row."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fedcore.messages.int8 import from_int8, to_int8

Encoding = Literal["fp32", "fp16", "int8"]


def clip_norms(features: Float[Tensor, "n d"], max_norm: float = 1.0) -> Float[Tensor, "n d"]:
    """Scales rows longer than `max_norm` down to it, so that no image has a larger weight than another."""
    length = features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return features * (max_norm / length).clamp_max(1.0)


def encode(features: Float[Tensor, "n d"], encoding: Encoding) -> tuple[Shaped[Tensor, "n d"], Float[Tensor, "m"]]:
    """The encoded rows and their scales (empty except for int8, which keeps the cosine of each row above 0.9999)."""
    if encoding == "int8":
        return to_int8(features)
    return features.to({"fp32": torch.float32, "fp16": torch.float16}[encoding]), torch.zeros(0)


def decode(rows: Shaped[Tensor, "n d"], scale: Float[Tensor, "m"]) -> Float[Tensor, "n d"]:
    """The inverse of `encode`, to the precision of the encoding."""
    return from_int8(rows, scale) if rows.dtype == torch.int8 else rows.float()
