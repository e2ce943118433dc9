"""MoCo v2 with a bank of negatives that sites can share.

He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297.
"""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from lightly.models.modules.heads import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.models.base import Encoder
from fedcore.site.site import Round
from fedssl.bank.bank import FeatureBank, site_number
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.pair import pair

Network = TypeVar("Network", bound=nn.Module)


class MoCo(Method):
    """Queries of the encoder against keys of its slow copy and the features in two banks.

    `bank` holds the site's own keys. `remote` is filled by an exchange (`fedssl.bank.vectors`,
    `fedssl.bank.statistics`) at the start of a visit and is empty without one. The momentum encoder travels with
    the encoder, so that features of different sites are made by nearly the same network.

    Keys are made with the batch norm of their own batch. The paper shuffles batches between GPUs for them (sec. 3.3),
    so that queries cannot find their key by its batch; on the one device of a site there is nothing to shuffle between.
    """

    share = ("encoder.", "head.", "momentum_encoder.", "momentum_head.")

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        temperature: float = 0.2, momentum: float = 0.99, bank: int = 4096, remote: int = 4096,
        hidden: int = 256, dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image.
            optimizer: Builds the optimizer of a visit.
            temperature: tau.
            momentum: m of the slow encoder; the paper's 0.999 is for visits of thousands of steps.
            bank: Capacity of the site's own bank.
            remote: Capacity for features that come from elsewhere.
            hidden: Width of the projection head's hidden layer.
            dim: Width of a feature in the banks.
        """
        super().__init__(encoder, views, optimizer)
        self.head = MoCoProjectionHead(encoder.width, hidden, dim)
        self.momentum_encoder, self.momentum_head = slow_copy(encoder), slow_copy(self.head)
        self.bank, self.remote = FeatureBank(bank, dim), FeatureBank(remote, dim)
        self.temperature, self.momentum = temperature, momentum
        self.stamp = (0, 0)

    def on_visit_start(self, site: str, turn: Round) -> None:
        """New entries of the bank are marked with this site and round."""
        self.stamp = (site_number(site), turn.index)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        a, b = pair(views, least=1)
        query, key = queries(self, a), keys(self, b)
        negatives = torch.cat([self.bank.entries(), self.remote.entries()])
        # Cosines over tau in bf16 would be off by several hundredths.
        with torch.autocast(query.device.type, enabled=False):
            loss = info_nce(query, key, negatives, self.temperature)
        self.bank.push(key, *self.stamp)
        return loss


@runtime_checkable
class Followed(Protocol):
    """An encoder and its head, each with a slow copy."""

    encoder: Encoder
    head: nn.Module
    momentum_encoder: Encoder
    momentum_head: nn.Module
    momentum: float


def slow_copy(module: Network) -> Network:
    """A copy that no gradient reaches."""
    copied = copy.deepcopy(module)
    deactivate_requires_grad(copied)
    return copied


def queries(method: Followed, view: Float[Tensor, "n c *space"]) -> Float[Tensor, "n dim"]:
    """What is trained: features of unit length."""
    return normalize(method.head(method.encoder(view)).float(), dim=1)


@torch.no_grad()
def keys(method: Followed, view: Float[Tensor, "n c *space"]) -> Float[Tensor, "n dim"]:
    """What it is held against: features of the slow copies, which follow a step first."""
    update_momentum(method.encoder, method.momentum_encoder, method.momentum)
    update_momentum(method.head, method.momentum_head, method.momentum)
    return normalize(method.momentum_head(method.momentum_encoder(view)).float(), dim=1)


def info_nce(
    query: Float[Tensor, "n d"],
    key: Float[Tensor, "n d"],
    negatives: Float[Tensor, "k d"],
    temperature: float,
) -> Float[Tensor, ""]:
    """-log softmax of q.k+ among q.k+ and all q.k- (eq. 1 of the paper); all rows have unit length.

    While the bank is empty (the first step of a first visit) the keys of the other images stand in
    for it: our reading, since the paper starts from random vectors.
    """
    positive = (query * key).sum(1, keepdim=True)
    if len(negatives):
        logits = torch.cat([positive, query @ negatives.T], dim=1)
        target = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    else:
        logits, target = query @ key.T, torch.arange(len(query), device=query.device)
    return cross_entropy(logits / temperature, target)
