"""Features on the wire: fp32, fp16, or int8 with one scale a row."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fedcore.messages.int8 import from_int8, to_int8

Wire = Literal["fp32", "fp16", "int8"]


def bounded(features: Float[Tensor, "n d"], norm: float = 1.0) -> Float[Tensor, "n d"]:
    """Scales rows longer than `norm` down to it, so that no image weighs more than another."""
    length = features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return features * (norm / length).clamp_max(1.0)


def encode(features: Float[Tensor, "n d"], wire: Wire) -> tuple[Shaped[Tensor, "n d"], Float[Tensor, "m"]]:
    """The rows to send and their scales (none but for int8, whose rows keep a cosine above 0.9999)."""
    if wire == "int8":
        return to_int8(features)
    return features.to({"fp32": torch.float32, "fp16": torch.float16}[wire]), torch.zeros(0)


def decode(rows: Shaped[Tensor, "n d"], scale: Float[Tensor, "m"]) -> Float[Tensor, "n d"]:
    """The features of `encode`'s answer, to the wire's precision."""
    return from_int8(rows, scale) if rows.dtype == torch.int8 else rows.float()
