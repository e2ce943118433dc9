"""Whether two processes have built the same module."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def checksum_of(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and numbers of a module's state; equal bits have equal sums."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
