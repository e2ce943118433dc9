"""MoCo v2 with a feature bank (queue) of negatives that sites can share.

He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from lightly.models.modules.heads import MoCoProjectionHead
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedssl.bank.feature_bank import FeatureBank, site_id
from fedssl.methods.base import Method, OptimizerFactory
from fedssl.methods.momentum_encoder import key_features, momentum_copy, query_features
from fedssl.methods.two_views import two_views


class MoCo(Method):
    """Contrasts queries of the encoder with keys of the momentum encoder and the features of two feature banks.

    `bank` holds the site's own keys. An exchange (`fedssl.bank.vectors`, `fedssl.bank.statistics`) fills `remote_bank`
    at the start of a visit; without one it is empty. The momentum encoder is sent and averaged with the encoder, so
    that features of different sites come from nearly the same network.

    Keys use the batch norm statistics of their own batch. The paper shuffles batches between GPUs for them (sec. 3.3),
    so that queries cannot find their key by its batch; a site has one device, so there is nothing to shuffle.
    """

    share = ("encoder.", "head.", "momentum_encoder.", "momentum_head.")
    scratch = ("key_origin",)

    def __init__(
        self, encoder: Encoder, views: Views = Views(),
        optimizer: OptimizerFactory = lambda p: SGD(p, lr=0.06, momentum=0.9, weight_decay=5e-4),
        temperature: float = 0.2, momentum: float = 0.99, bank_size: int = 4096, remote_bank_size: int = 4096,
        hidden_dim: int = 256, projection_dim: int = 128,
    ):  # fmt: skip
        """
        Args:
            encoder: (n, c, *space) to (n, width), with an attribute `width`.
            views: Random transforms of an image; two of them.
            optimizer: Builds the optimizer of a visit.
            temperature: tau.
            momentum: m of the momentum encoder; the paper's 0.999 is for visits of thousands of steps.
            bank_size: Capacity of the feature bank (memory bank, queue) of the site's own keys.
            remote_bank_size: Capacity of the feature bank that the exchange fills with features of other sites.
            hidden_dim: Width of the projection head's hidden layer.
            projection_dim: Width of a projection, and so of the features in the banks.
        """
        super().__init__(encoder, views, optimizer)
        self.head = MoCoProjectionHead(encoder.width, hidden_dim, projection_dim)
        self.momentum_encoder, self.momentum_head = momentum_copy(encoder), momentum_copy(self.head)
        self.bank, self.remote_bank = (
            FeatureBank(bank_size, projection_dim),
            FeatureBank(remote_bank_size, projection_dim),
        )
        self.temperature, self.momentum = temperature, momentum
        self.key_origin = (0, 0)

    def on_visit_start(self, site: str, turn: Round) -> None:
        """Stores the site and the round, with which new keys are pushed to the bank."""
        self.key_origin = (site_id(site), turn.index)

    def loss(self, views: list[Float[Tensor, "n c *space"]]) -> Float[Tensor, ""]:
        a, b = two_views(views, min_images=1)
        query, key = query_features(self, a), key_features(self, b)
        negatives = torch.cat([self.bank.entries(), self.remote_bank.entries()])
        # In bf16, cosines divided by tau would have errors of several hundredths.
        with torch.autocast(query.device.type, enabled=False):
            loss = info_nce(query, key, negatives, self.temperature)
        self.bank.push(key, *self.key_origin)
        return loss


def info_nce(
    query: Float[Tensor, "n d"],
    key: Float[Tensor, "n d"],
    negatives: Float[Tensor, "k d"],
    temperature: float,
) -> Float[Tensor, ""]:
    """-log softmax of q.k+ among q.k+ and all q.k- (eq. 1 of the paper); all rows have unit length.

    While the bank is empty (the first step of a first visit) the keys of the other images are the negatives: our
    reading, since the paper starts from random vectors.
    """
    positive = (query * key).sum(1, keepdim=True)
    if len(negatives):
        logits = torch.cat([positive, query @ negatives.T], dim=1)
        target = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    else:
        logits, target = query @ key.T, torch.arange(len(query), device=query.device)
    return cross_entropy(logits / temperature, target)
