"""The momentum encoder: an exponential moving average (EMA) of a trained network, which gets no gradient.

He et al. 2020, arXiv 1911.05722. BYOL calls it the target network, DINO the teacher.
"""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedcore.models.base import Encoder

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@runtime_checkable
class MomentumMethod(Protocol):
    """A module with an encoder and a head, and a momentum copy of each."""

    encoder: Encoder
    head: nn.Module
    momentum_encoder: Encoder
    momentum_head: nn.Module
    momentum: float


def momentum_copy(module: ModuleT) -> ModuleT:
    """A copy without gradients."""
    copied = copy.deepcopy(module)
    deactivate_requires_grad(copied)
    return copied


def query_features(method: MomentumMethod, view: Float[Tensor, "n c *space"]) -> Float[Tensor, "n dim"]:
    """Features of the trained network, of unit length."""
    return normalize(method.head(method.encoder(view)).float(), dim=1)


@torch.no_grad()
def key_features(method: MomentumMethod, view: Float[Tensor, "n c *space"]) -> Float[Tensor, "n dim"]:
    """Updates the momentum copies by one step, then returns their features, of unit length."""
    update_momentum(method.encoder, method.momentum_encoder, method.momentum)
    update_momentum(method.head, method.momentum_head, method.momentum)
    return normalize(method.momentum_head(method.momentum_encoder(view)).float(), dim=1)
